"""Writing a DICOM SEG that opens in existing viewers (PS3.3 A.51, BINARY, explicit VR LE)."""

from __future__ import annotations

import importlib.metadata
import io
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import structlog
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.uid import UID, ExplicitVRLittleEndian

from dicom_bridge.convert.libraries import configure_reading
from dicom_bridge.convert.series import write_atomically
from dicom_bridge.convert.source import PATIENT_KEYWORDS, STUDY_KEYWORDS, SourceSeries
from dicom_bridge.errors import SegRefused
from dicom_bridge.geometry import covers, resample_labels
from dicom_bridge.seg.lesions import derived_uid
from dicom_bridge.seg.model import (
    RESEARCH,
    Code,
    NoFinding,
    SegmentSpec,
    SegRequest,
    SegWritten,
)
from dicom_bridge.seg.read import read_seg
from dicom_bridge.seg.template import source_datasets

if TYPE_CHECKING:
    from highdicom.seg import Segmentation, SegmentDescription
    from highdicom.sr import CodedConcept

SERIES_NUMBER_STEP = 1000
ARTIFICIAL_INTELLIGENCE = Code("123110", "DCM", "Artificial Intelligence")
log = structlog.get_logger(__name__)


def software_version() -> str:
    """The installed version of clinode, "0" where it is not installed."""
    try:
        return importlib.metadata.version("clinode")
    except importlib.metadata.PackageNotFoundError:
        return "0"


def write_seg(request: SegRequest) -> SegWritten:
    """Write a mask as a SEG of its source series and prove it by reading it back.

    Label values without a voxel are left out and the others numbered 1 to n in ascending order
    (an empty segment hangs some viewers). A mask on another grid is brought to the series' grid by
    nearest neighbour.

    Args:
        request: see `SegRequest`.

    Returns:
        What was written.

    Raises:
        NoFinding: the mask has no voxel above 0.
        SegRefused: wrong request, a mask that does not cover the series or vanishes on its grid, or
            a file that does not read back to the mask.
    """
    configure_reading()
    _check_request(request)
    labels = _on_source_grid(request)
    present = [spec for spec in request.segments if np.any(labels == spec.number)]
    present.sort(key=lambda spec: spec.number)
    table = np.zeros(256, np.uint8)
    for number, spec in enumerate(present, start=1):
        table[spec.number] = number
    numbered = table[labels]
    specs = [replace(spec, number=number) for number, spec in enumerate(present, start=1)]
    dataset = _segmentation(request, numbered, specs)
    _finish(dataset, request)
    stream = io.BytesIO()
    dataset.save_as(stream, enforce_file_format=True)
    part = request.out.with_name(f".{request.out.name}.unproved")
    write_atomically(part, stream.getvalue())
    try:
        voxels = _proved(request, numbered, part)
        part.replace(request.out)
    finally:
        part.unlink(missing_ok=True)
    log.info("segmentation written", segments=len(specs), frames=int(dataset.NumberOfFrames))
    return SegWritten(
        path=request.out,
        segments=voxels,
        values={number: spec.number for number, spec in enumerate(present, start=1)},
        frames=int(dataset.NumberOfFrames),
        sop_instance_uid=request.sop_instance_uid,
        series_instance_uid=request.series_instance_uid,
        series_number=int(dataset.SeriesNumber),
    )


def _check_request(request: SegRequest) -> None:
    source = request.source
    for name, uid in (
        ("SOPInstanceUID", request.sop_instance_uid),
        ("SeriesInstanceUID", request.series_instance_uid),
    ):
        if not UID(uid).is_valid:
            raise SegRefused(f"the new {name} is not a valid UID (PS3.5 section 9.1)")
    if request.series_instance_uid == source.SeriesInstanceUID:
        raise SegRefused("a SEG needs a series of its own, not the source's")
    if not source.FrameOfReferenceUID:
        raise SegRefused("the source series has no FrameOfReferenceUID: a SEG cannot refer to it")
    if request.mask.ndim != 3 or request.mask.dtype not in (np.uint8, np.bool_):
        raise SegRefused(
            f"expected a 3-D uint8 mask, got {request.mask.ndim}-D {request.mask.dtype}"
        )
    if abs(float(np.linalg.det(request.affine[:3, :3]))) < 1e-9:
        raise SegRefused("the mask's affine cannot be inverted")
    if request.series_number is not None and not 1 <= request.series_number <= 2**31 - 1:
        raise SegRefused("SeriesNumber must be between 1 and 2147483647")
    values = {int(value) for value in np.unique(request.mask)} - {0}
    if not values:
        raise NoFinding("no finding: the mask is empty, no SEG is written")
    numbers = [spec.number for spec in request.segments]
    if len(set(numbers)) != len(numbers) or not values <= set(numbers):
        raise SegRefused(
            f"label values without a meaning in the mask: {sorted(values - set(numbers))}"
            if not values <= set(numbers)
            else "two segments carry the same number"
        )
    for spec in request.segments:
        _check_segment(spec)


def _check_segment(spec: SegmentSpec) -> None:
    if not 1 <= spec.number <= 255:
        raise SegRefused("segment numbers go from 1 to 255")
    if not spec.label or len(spec.label) > 64:
        raise SegRefused("a segment's label needs 1 to 64 characters")
    if spec.algorithm_type not in ("AUTOMATIC", "SEMIAUTOMATIC", "MANUAL"):
        raise SegRefused("a segment's algorithm type is AUTOMATIC, SEMIAUTOMATIC or MANUAL")
    named = bool(spec.algorithm_name) and bool(spec.algorithm_version)
    if spec.algorithm_type != "MANUAL" and not named:
        raise SegRefused("a segment made by an algorithm needs the algorithm's name and version")
    if len(spec.algorithm_name) > 64 or len(spec.algorithm_version) > 64:
        raise SegRefused("an algorithm's name and version hold 64 characters at most")
    if (spec.tracking_id is None) != (spec.tracking_uid is None):
        raise SegRefused("TrackingID and TrackingUID go together")


def _on_source_grid(request: SegRequest) -> NDArray[np.uint8]:
    geometry = request.source.geometry
    affine = np.asarray(request.affine, dtype=np.float64)
    if not covers(request.mask.shape, affine, geometry):
        raise SegRefused(
            "the mask does not cover the series: bring it to a grid that holds every slice"
        )
    labels = resample_labels(request.mask.astype(np.uint8), affine, geometry)
    if not np.any(labels):
        raise SegRefused("the mask vanishes on the series' grid: its structures are too small")
    return labels


def _coded(code: Code) -> CodedConcept:
    from highdicom.sr import CodedConcept

    return CodedConcept(value=code.value, scheme_designator=code.scheme, meaning=code.meaning)


def _description(spec: SegmentSpec) -> SegmentDescription:
    from highdicom import AlgorithmIdentificationSequence
    from highdicom.color import CIELabColor
    from highdicom.seg import SegmentDescription

    algorithm = None
    if spec.algorithm_type != "MANUAL":
        algorithm = AlgorithmIdentificationSequence(
            name=spec.algorithm_name,
            family=_coded(ARTIFICIAL_INTELLIGENCE),
            version=spec.algorithm_version,
        )
    return SegmentDescription(
        segment_number=spec.number,
        segment_label=spec.label,
        segmented_property_category=_coded(spec.category),
        segmented_property_type=_coded(spec.type),
        algorithm_type=spec.algorithm_type,
        algorithm_identification=algorithm,
        tracking_uid=spec.tracking_uid,
        tracking_id=spec.tracking_id,
        anatomic_regions=None if spec.region is None else [_coded(spec.region)],
        display_color=CIELabColor.from_rgb(*spec.colour),
    )


def _planes(source: SourceSeries, labels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """(n, rows, columns) label planes in the order of `source_datasets`' slices or frames."""
    planes = np.ascontiguousarray(labels.transpose(2, 1, 0))
    if not source.multi_frame:
        return planes
    numbers = [frame.FrameNumber for frame in source.frames]
    by_frame = np.zeros((max(numbers), *planes.shape[1:]), np.uint8)
    by_frame[np.asarray(numbers) - 1] = planes
    return by_frame


def _segmentation(
    request: SegRequest, labels: NDArray[np.uint8], specs: Sequence[SegmentSpec]
) -> Segmentation:
    """The SEG by highdicom; frames in slice order, empty ones left out."""
    from highdicom.seg import Segmentation

    source = request.source
    when = request.written_at or datetime.now(UTC)
    automatic = any(spec.algorithm_type == "AUTOMATIC" for spec in specs)
    description = request.series_description
    if automatic and not description.upper().startswith(RESEARCH):
        description = f"{RESEARCH} {description}"
    number = request.series_number
    if number is None:
        number = max(source.SeriesNumber, 0) + SERIES_NUMBER_STEP
    try:
        return Segmentation(
            source_images=source_datasets(source),
            pixel_array=_planes(source, labels),
            segmentation_type="BINARY",
            segment_descriptions=[_description(spec) for spec in specs],
            series_instance_uid=request.series_instance_uid,
            series_number=number,
            sop_instance_uid=request.sop_instance_uid,
            instance_number=1,
            manufacturer=request.manufacturer,
            manufacturer_model_name=request.manufacturer,
            software_versions=request.software_version or software_version(),
            device_serial_number="1",
            transfer_syntax_uid=ExplicitVRLittleEndian,
            omit_empty_frames=True,
            content_label=request.content_label,
            content_description=request.content_description,
            series_description=description[:64],
            content_date=when.date(),
            content_time=when.time().replace(microsecond=0),
        )
    except (ValueError, TypeError, AttributeError, KeyError) as error:
        raise SegRefused(f"the SEG cannot be written ({type(error).__name__}: {error})") from None


def _finish(dataset: Dataset, request: SegRequest) -> None:
    """Put the original identity and the exact position texts of the source in."""
    source = request.source.with_patient(request.patient_overrides)
    values = {**source.patient, **source.study}
    required = {"PatientName", "PatientID", "PatientBirthDate", "PatientSex"}
    required |= {"StudyID", "StudyDate", "StudyTime", "AccessionNumber", "ReferringPhysicianName"}
    dataset.SpecificCharacterSet = "ISO_IR 192"
    dataset.ContentCreatorName = request.creator
    for keyword in (*PATIENT_KEYWORDS, *STUDY_KEYWORDS):
        if keyword in values or keyword in required:
            setattr(dataset, keyword, values.get(keyword, ""))
    when = request.written_at or datetime.now(UTC)
    dataset.InstanceCreationDate = when.strftime("%Y%m%d")
    dataset.InstanceCreationTime = when.strftime("%H%M%S")
    dataset.SeriesDate = dataset.ContentDate
    dataset.SeriesTime = dataset.ContentTime
    if "BodyPartExamined" in source.series:
        dataset.BodyPartExamined = source.series["BodyPartExamined"]
    organization = derived_uid(request.sop_instance_uid, "dimension organization")
    for item in (*dataset.DimensionOrganizationSequence, *dataset.DimensionIndexSequence):
        item.DimensionOrganizationUID = organization
    for item in dataset.get("ContributingEquipmentSequence") or []:
        item.ContributionDateTime = when.strftime("%Y%m%d%H%M%S")
    _exact_geometry(dataset, source)


def _exact_geometry(dataset: Dataset, source: SourceSeries) -> None:
    """Write positions, orientation and spacing in the very texts of the source."""
    positions = {
        (frame.SOPInstanceUID, frame.FrameNumber): frame.ImagePositionPatient
        for frame in source.frames
    }
    for item in dataset.PerFrameFunctionalGroupsSequence:
        image = item.DerivationImageSequence[0].SourceImageSequence[0]
        key = (str(image.ReferencedSOPInstanceUID), int(image.get("ReferencedFrameNumber") or 0))
        item.PlanePositionSequence[0].ImagePositionPatient = list(positions[key])
    shared = dataset.SharedFunctionalGroupsSequence[0]
    orientation = shared.PlaneOrientationSequence[0]
    orientation.ImageOrientationPatient = list(source.ImageOrientationPatient)
    shared.PixelMeasuresSequence[0].PixelSpacing = list(source.PixelSpacing)


def _proved(request: SegRequest, labels: NDArray[np.uint8], path: Path) -> dict[int, int]:
    """Read the file back and compare every voxel; voxels per segment number."""
    content = read_seg(path, request.source)
    back = np.zeros_like(labels)
    for segment in content.segments:
        back[segment.mask > 0] = segment.number
    if not np.array_equal(back, labels):
        raise SegRefused("the SEG does not read back to the mask: it is not kept")
    return {segment.number: int(segment.mask.sum()) for segment in content.segments}
