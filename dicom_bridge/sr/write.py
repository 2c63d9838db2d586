"""Writing a TID 1500 measurement report (PS3.16 annex A, Comprehensive 3D SR)."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

import structlog
from pydicom.dataset import Dataset

from dicom_bridge.convert.libraries import configure_reading
from dicom_bridge.convert.series import write_atomically
from dicom_bridge.errors import ReportRefused
from dicom_bridge.seg.template import source_datasets
from dicom_bridge.sr.content import notes, report_content, reported_lesions
from dicom_bridge.sr.model import ReportRequest, ReportWritten, SegReference
from dicom_bridge.sr.read import read_report
from dicom_bridge.stamping import (
    research_description,
    software_version,
    stamp_identity,
    stamp_times,
    time_of,
    wrong_uid,
)

COMPREHENSIVE_3D_SR = "1.2.840.10008.5.1.4.1.1.88.34"
SERIES_NUMBER_STEP = 1001
TOLERANCE_ML = 1e-5
log = structlog.get_logger(__name__)


def write_report(request: ReportRequest) -> ReportWritten:
    """Write a measurement report and prove it by reading it back.

    One group per label holds count and total volume, one per lesion its volume and centre; both
    name the SEG's segment and carry tracking ids. Without findings the report says so. Comments
    hold the disclaimer and every sentence of `notes`.

    Args:
        request: see `ReportRequest`.

    Returns:
        What was written.

    Raises:
        ReportRefused: a wrong request, or a file that does not read back.
    """
    configure_reading()
    _check_request(request)
    dataset = _document(request, time_of(request.written_at))
    stream = io.BytesIO()
    dataset.save_as(stream, enforce_file_format=True)
    part = request.out.with_name(f".{request.out.name}.unproved")
    write_atomically(part, stream.getvalue())
    try:
        _prove(request, part)
        part.replace(request.out)
    finally:
        part.unlink(missing_ok=True)
    lesions = sum(len(finding.lesions) for finding in request.findings)
    log.info("report written", labels=len(request.findings), lesions=lesions)
    return ReportWritten(
        path=request.out,
        lesions=lesions,
        reported=min(lesions, request.most_lesions),
        volume_ml=sum(finding.volume_ml for finding in request.findings),
        sop_class_uid=str(dataset.SOPClassUID),
        sop_instance_uid=request.sop_instance_uid,
        series_instance_uid=request.series_instance_uid,
        series_number=int(dataset.SeriesNumber),
    )


def _check_request(request: ReportRequest) -> None:
    for name, uid in (
        ("SOPInstanceUID", request.sop_instance_uid),
        ("SeriesInstanceUID", request.series_instance_uid),
    ):
        if wrong := wrong_uid(uid, request.source):
            raise ReportRefused(f"the new {name} {wrong}")
    if request.seg is not None and request.seg.series_instance_uid == request.series_instance_uid:
        raise ReportRefused("a report needs a series of its own, not the segmentation's")
    if request.seg is not None and not request.findings:
        raise ReportRefused("a report without findings has no segmentation")
    if not request.disclaimer.strip():
        raise ReportRefused("a report needs the wording that it is not for diagnosis")
    if request.most_lesions < 0:
        raise ReportRefused("the number of lesions to list must not be below 0")
    algorithm = request.algorithm
    if not all(1 <= len(text) <= 64 for text in (algorithm.name, algorithm.version)):
        raise ReportRefused("an algorithm's name and version need 1 to 64 characters")
    quality = request.quality
    if quality is not None and not (0 <= quality.mean <= 1 and quality.cases >= 1):
        raise ReportRefused("a known quality needs a mean from 0 to 1 over at least one case")
    if any(not finding.lesions for finding in request.findings):
        raise ReportRefused("a finding without a lesion is none: leave it out")
    if request.findings and not request.source.FrameOfReferenceUID:
        raise ReportRefused("the source series has no FrameOfReferenceUID: places mean nothing")


def _evidence(request: ReportRequest) -> list[Dataset]:
    """Header-only data sets of everything the report rests on."""
    found = source_datasets(request.source)
    if request.seg is not None:
        found.append(_reference(request, request.seg))
    return found


def _reference(request: ReportRequest, seg: SegReference) -> Dataset:
    item = Dataset()
    item.SOPClassUID, item.SOPInstanceUID = seg.sop_class_uid, seg.sop_instance_uid
    item.SeriesInstanceUID = seg.series_instance_uid
    item.StudyInstanceUID = request.source.StudyInstanceUID
    return item


def _predecessors(request: ReportRequest) -> Sequence[Dataset] | None:
    if request.predecessor is None:
        return None
    sop, series = request.predecessor
    return [_reference(request, SegReference(COMPREHENSIVE_3D_SR, sop, series))]


def _document(request: ReportRequest, when: datetime) -> Dataset:
    from highdicom.sr import Comprehensive3DSR

    version = request.software_version or software_version()
    number = request.series_number
    if number is None:
        number = max(request.source.SeriesNumber, 0) + SERIES_NUMBER_STEP
    try:
        dataset: Dataset = Comprehensive3DSR(
            evidence=_evidence(request),
            content=report_content(request, version)[0],
            series_instance_uid=request.series_instance_uid,
            series_number=number,
            sop_instance_uid=request.sop_instance_uid,
            instance_number=1,
            manufacturer=request.manufacturer,
            is_complete=True,
            is_final=False,
            is_verified=False,
            previous_versions=_predecessors(request),
            manufacturer_model_name=request.manufacturer,
            software_versions=version,
            device_serial_number="1",
            series_description=research_description(request.series_description),
        )
    except (ValueError, TypeError, AttributeError, KeyError) as error:
        raise ReportRefused(
            f"the report cannot be written ({type(error).__name__}: {error})"
        ) from None
    stamp_identity(dataset, request.source.with_patient(request.patient_overrides))
    stamp_times(dataset, when)
    return dataset


def _prove(request: ReportRequest, path: Path) -> None:
    """Read the file back and compare counts, volumes, segments and sentences."""
    content = read_report(path)
    by_uid = {group.tracking_uid: group for group in content.groups}
    listed = reported_lesions(request)
    expected = len(request.findings) + len(listed) if request.findings else 1
    whole = len(by_uid) == len(content.groups) == expected
    for finding in request.findings:
        group = by_uid.get(finding.tracking_uid)
        whole &= group is not None and group.count == len(finding.lesions)
        whole &= group is not None and _close(group.volume_ml, finding.volume_ml)
        for lesion, segment in zip(finding.lesions, finding.segments, strict=True):
            if lesion.tracking_uid in listed:
                one = by_uid.get(lesion.tracking_uid)
                named = segment if request.seg is not None else 0
                whole &= one is not None and one.segment == named
                whole &= one is not None and _close(one.volume_ml, lesion.volume_ml)
    if not whole or set(content.notes) != set(notes(request)):
        raise ReportRefused("the report does not read back to what was found: it is not kept")


def _close(first: float | None, second: float) -> bool:
    return first is not None and math.isclose(first, second, abs_tol=TOLERANCE_ML)
