"""Results on files: a mask becomes a SEG, and where asked for a report and pictures."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from dicom_bridge.convert.source import SourceSeries
from dicom_bridge.errors import SegRefused
from dicom_bridge.sc import CaptureRequest, CaptureWritten, write_captures
from dicom_bridge.sc.source import source_pixels
from dicom_bridge.seg import NoFinding, SegRequest, SegWritten, write_seg
from dicom_bridge.seg.codes import labels_of, load_labels
from dicom_bridge.seg.files import WriteOptions, files_of_series, random_uid, seg_request
from dicom_bridge.seg.model import SegmentSpec
from dicom_bridge.sr import Algorithm, ReportRequest, ReportWritten, SegReference, write_report
from dicom_bridge.stamping import software_version


@dataclass(frozen=True, slots=True)
class ObjectPaths:
    """Where the objects go.

    Attributes:
        seg: the segmentation.
        report: the measurement report; None writes none.
        captures: folder for pictures; None makes none.
    """

    seg: Path
    report: Path | None = None
    captures: Path | None = None


@dataclass(frozen=True, slots=True)
class ObjectsWritten:
    """What was written; `seg` is None where nothing was found."""

    seg: SegWritten | None
    report: ReportWritten | None = None
    captures: CaptureWritten | None = None


def labels_from(scheme: str | None, file: Path | None) -> tuple[SegmentSpec, ...]:
    """The meaning of label values: a known set, a file, or none at all.

    Raises:
        SegRefused: both are given, or what is given cannot be used.
    """
    if scheme is not None and file is not None:
        raise SegRefused("give either a known set of codes or a labels file, not both")
    if file is not None:
        return load_labels(file)
    return () if scheme is None else labels_of(scheme)


def write_objects(
    series: Path, mask: Path, paths: ObjectPaths, options: WriteOptions
) -> ObjectsWritten:
    """Write a mask as a SEG of a series, with a report and pictures where asked for.

    Args:
        series: folder of the source series.
        mask: NIfTI labels.
        paths: where the objects go.
        options: how the SEG is written.

    Raises:
        NoFinding: the mask is empty and no report was asked for.
        DataRefused: series, mask or labels cannot be used.
    """
    request = seg_request(series, mask, paths.seg, options)
    try:
        seg = write_seg(request)
    except NoFinding:
        if paths.report is None:
            raise
        return ObjectsWritten(None, write_report(_report(request, None, paths.report)))
    report = None
    if paths.report is not None:
        report = write_report(_report(request, seg, paths.report))
    captures = None
    if paths.captures is not None:
        captures = write_captures(_captures(request, series, paths.captures))
    return ObjectsWritten(seg, report, captures)


def _report(request: SegRequest, seg: SegWritten | None, out: Path) -> ReportRequest:
    named = next((spec for spec in request.segments if spec.algorithm_name), None)
    algorithm = Algorithm("clinode seg-write", software_version())
    if named is not None:
        algorithm = Algorithm(named.algorithm_name, named.algorithm_version)
    return ReportRequest(
        source=request.source,
        seg=None if seg is None else SegReference.of(seg),
        findings=() if seg is None else seg.findings,
        algorithm=algorithm,
        out=out,
        sop_instance_uid=random_uid(),
        series_instance_uid=random_uid(),
        looked_for=tuple(spec.label for spec in request.segments),
        written_at=request.written_at,
    )


def _captures(request: SegRequest, series: Path, out: Path) -> CaptureRequest:
    files = files_of_series(series)
    pixels, window = source_pixels(files)
    return CaptureRequest(
        source=SourceSeries.from_files(files, even=False),
        pixels=pixels,
        mask=request.mask,
        affine=request.affine,
        segments=request.segments,
        out=out,
        series_instance_uid=random_uid(),
        coverage=request.coverage,
        window=window,
        written_at=request.written_at,
    )
