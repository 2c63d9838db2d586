"""Writing a DICOM SEG that opens in existing viewers (PS3.3 A.51, BINARY, explicit VR LE)."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import structlog

from dicom_bridge.convert.libraries import configure_reading
from dicom_bridge.convert.series import write_atomically
from dicom_bridge.errors import SegRefused
from dicom_bridge.seg.build import build_seg
from dicom_bridge.seg.grid import on_source_grid
from dicom_bridge.seg.model import NoFinding, SegmentSpec, SegRequest, SegWritten
from dicom_bridge.seg.read import read_labels
from dicom_bridge.seg.segments import Numbered, labels_without_meaning, numbered
from dicom_bridge.stamping import time_of, wrong_uid

log = structlog.get_logger(__name__)


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
    source = request.source
    labels = on_source_grid(request.mask.astype(np.uint8), request.affine, source, request.coverage)
    segments = numbered(request, labels, source.geometry.affine)
    dataset = build_seg(request, segments, time_of(request.written_at))
    stream = io.BytesIO()
    dataset.save_as(stream, enforce_file_format=True)
    part = request.out.with_name(f".{request.out.name}.unproved")
    write_atomically(part, stream.getvalue())
    try:
        voxels = _proved(request, segments, part)
        part.replace(request.out)
    finally:
        part.unlink(missing_ok=True)
    log.info(
        "segmentation written", segments=len(segments.specs), frames=int(dataset.NumberOfFrames)
    )
    return SegWritten(
        path=request.out,
        segments=voxels,
        values=segments.values,
        frames=int(dataset.NumberOfFrames),
        sop_instance_uid=request.sop_instance_uid,
        series_instance_uid=request.series_instance_uid,
        series_number=int(dataset.SeriesNumber),
        sop_class_uid=str(dataset.SOPClassUID),
        findings=segments.findings,
    )


def _check_request(request: SegRequest) -> None:
    source = request.source
    for name, uid in (
        ("SOPInstanceUID", request.sop_instance_uid),
        ("SeriesInstanceUID", request.series_instance_uid),
    ):
        if wrong := wrong_uid(uid, source):
            raise SegRefused(f"the new {name} {wrong}")
    if not source.FrameOfReferenceUID:
        raise SegRefused("the source series has no FrameOfReferenceUID: a SEG cannot refer to it")
    if request.mask.ndim != 3 or request.mask.dtype not in (np.uint8, np.bool_):
        raise SegRefused(
            f"expected a 3-D uint8 mask, got {request.mask.ndim}-D {request.mask.dtype}"
        )
    if request.series_number is not None and not 1 <= request.series_number <= 2**31 - 1:
        raise SegRefused("SeriesNumber must be between 1 and 2147483647")
    values = {int(value) for value in np.unique(request.mask)} - {0}
    if not values:
        raise NoFinding("no finding: the mask is empty, no SEG is written")
    _check_segments(request.segments, values)


def _check_segments(segments: Sequence[SegmentSpec], values: set[int]) -> None:
    numbers = [spec.number for spec in segments]
    if unknown := labels_without_meaning(values, segments):
        raise SegRefused(f"label values without a meaning in the mask: {unknown}")
    if len(set(numbers)) != len(numbers):
        raise SegRefused("two segments carry the same number")
    for spec in segments:
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


def _proved(request: SegRequest, segments: Numbered, path: Path) -> dict[int, int]:
    """Read the file back and compare every voxel; voxels per segment number."""
    back = read_labels(path, request.source)
    if not np.array_equal(back, segments.mask):
        raise SegRefused("the SEG does not read back to the mask: it is not kept")
    counts = np.bincount(back[back > 0], minlength=len(segments.specs) + 1)
    return {spec.number: int(counts[spec.number]) for spec in segments.specs}
