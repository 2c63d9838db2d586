"""SEG writing, reading and checking on files: what `clinode tools seg-*` does."""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import Any, get_args

import nibabel
import numpy as np
from nibabel.filebasedimages import ImageFileError
from numpy.typing import NDArray

from dicom_bridge.classify import scan_study
from dicom_bridge.convert.frames import MAX_VOXELS, VOLUME_CLASSES, read_dataset
from dicom_bridge.convert.series import save_nifti, write_atomically
from dicom_bridge.convert.source import SourceSeries
from dicom_bridge.errors import DataRefused, SegRefused
from dicom_bridge.geometry import FloatArray
from dicom_bridge.seg.check import check_seg
from dicom_bridge.seg.codes import labels_toml
from dicom_bridge.seg.model import (
    AlgorithmType,
    Coverage,
    LesionForm,
    SegContent,
    SegForm,
    SegmentSpec,
    SegRequest,
    SegSegment,
    SegWritten,
)
from dicom_bridge.seg.read import read_seg, read_seg_alone
from dicom_bridge.seg.write import write_seg
from dicom_bridge.stamping import software_version


def random_uid() -> str:
    """A new UID from a random UUID (PS3.5 annex B.2)."""
    return f"2.25.{uuid.uuid4().int}"


def files_of_series(folder: Path) -> tuple[Path, ...]:
    """The files of the one image series in a folder.

    Raises:
        DataRefused: no image series, or several.
    """
    scan = scan_study(folder)
    images = [
        series
        for series in scan.series
        if read_dataset(series.files[0], pixels=False).SOPClassUID in VOLUME_CLASSES
    ]
    if len(images) != 1:
        raise DataRefused(f"expected one image series in the folder, got {len(images)}")
    return images[0].files


def series_of_folder(folder: Path) -> SourceSeries:
    """The one image series in a folder; its slices may be unevenly apart.

    Raises:
        DataRefused: no image series, several, or not one volume.
    """
    return SourceSeries.from_files(files_of_series(folder), even=False)


def algorithm_type(text: str) -> AlgorithmType:
    """A SegmentAlgorithmType from text in any case.

    Raises:
        SegRefused: another text.
    """
    known: tuple[AlgorithmType, ...] = get_args(AlgorithmType)
    for kind in known:
        if kind == text.upper():
            return kind
    raise SegRefused(f"expected one of {', '.join(known)}")


def load_mask(path: Path) -> tuple[NDArray[np.uint8], FloatArray]:
    """A label image from NIfTI.

    Returns:
        (X, Y, Z) uint8 labels and the affine to RAS mm.

    Raises:
        DataRefused: unreadable, not 3-D, or values that are no whole numbers from 0 to 255.
    """
    try:
        image: Any = nibabel.load(path)
        shape = tuple(int(size) for size in image.shape)
        if len(shape) == 4 and shape[3] == 1:
            shape = shape[:3]
        if len(shape) != 3 or int(np.prod(shape)) > MAX_VOXELS:
            raise DataRefused(f"expected a 3-D mask, got {len(image.shape)} dimensions")
        values = np.asarray(image.dataobj).reshape(shape)
        affine = np.asarray(image.affine, dtype=np.float64)
    except (ImageFileError, OSError, EOFError, ValueError, TypeError) as error:
        raise DataRefused(f"the mask cannot be read as NIfTI ({type(error).__name__})") from None
    if values.dtype.kind not in "iuf" or not np.all(np.isfinite(values)):
        raise DataRefused("the mask must hold finite numbers")
    labels = values.astype(np.float64)
    if np.any(labels != np.rint(labels)) or labels.min() < 0 or labels.max() > 255:
        raise DataRefused("a mask's values must be whole numbers from 0 to 255")
    return values.astype(np.uint8), affine


@dataclass(frozen=True, slots=True)
class WriteOptions:
    """What `write_seg_files` may be told.

    Attributes:
        segments: meaning of the label values; empty names value 1 `Lesion`, others `Label N`.
        made: how the mask was made; None keeps what `segments` say, and SEMIAUTOMATIC without them.
        algorithm: name and version for segments that name no algorithm.
        series_number: None takes the source's + 1000.
        series_description: SeriesDescription.
        creator: ContentCreatorName.
        form: see `SegRequest`.
        lesions: see `SegRequest`.
        coverage: see `SegRequest`; a mask cut out of the series' own grid is taken.
        new_uid: where new UIDs come from.
        written_at: None takes the time now.
    """

    segments: Sequence[SegmentSpec] = ()
    made: AlgorithmType | None = None
    algorithm: tuple[str, str] = ("clinode seg-write", "")
    series_number: int | None = None
    series_description: str = "RESEARCH Segmentation"
    creator: str = "CLINODE^RESEARCH"
    form: SegForm = "binary"
    lesions: LesionForm = "together"
    coverage: Coverage = "crop"
    new_uid: Callable[[], str] = field(default=random_uid)
    written_at: datetime | None = None


def default_segments(labels: NDArray[np.uint8]) -> tuple[SegmentSpec, ...]:
    """One segment per label value that occurs, as a lesion from a corrected mask file."""
    return tuple(
        SegmentSpec(
            number=int(value),
            label="Lesion" if value == 1 else f"Label {value}",
            algorithm_type="SEMIAUTOMATIC",
        )
        for value in np.unique(labels)
        if value
    )


def _completed(spec: SegmentSpec, options: WriteOptions) -> SegmentSpec:
    """A segment with its way of making, and an algorithm where it names none."""
    made = options.made or spec.algorithm_type
    if made == "MANUAL":
        return replace(spec, algorithm_type=made, algorithm_name="", algorithm_version="")
    name, version = options.algorithm
    return replace(
        spec,
        algorithm_type=made,
        algorithm_name=spec.algorithm_name or name,
        algorithm_version=spec.algorithm_version or version or software_version(),
    )


def seg_request(
    series_folder: Path, mask: Path, out: Path, options: WriteOptions | None = None
) -> SegRequest:
    """What is asked of `write_seg` for a NIfTI mask and the series in a folder.

    Raises:
        DataRefused: the series or the mask cannot be used.
    """
    options = options or WriteOptions()
    labels, affine = load_mask(mask)
    segments = tuple(options.segments) or default_segments(labels)
    return SegRequest(
        source=series_of_folder(series_folder),
        mask=labels,
        affine=affine,
        segments=tuple(_completed(spec, options) for spec in segments),
        out=out,
        sop_instance_uid=options.new_uid(),
        series_instance_uid=options.new_uid(),
        series_number=options.series_number,
        series_description=options.series_description,
        creator=options.creator,
        written_at=options.written_at,
        form=options.form,
        lesions=options.lesions,
        coverage=options.coverage,
    )


def write_seg_files(
    series_folder: Path, mask: Path, out: Path, options: WriteOptions | None = None
) -> SegWritten:
    """Write a NIfTI mask as a SEG of the series in a folder.

    Raises:
        DataRefused: the series or the mask cannot be used (`NoFinding` where it is empty).
    """
    return write_seg(seg_request(series_folder, mask, out, options))


def read_seg_files(seg: Path, out: Path, series_folder: Path | None = None) -> list[Path]:
    """Write every segment of a SEG as `<number>.nii.gz`, and `segments.json` beside them.

    Where segments do not overlap, `labels.nii.gz` holds them all by number, and `labels.toml` what
    they mean: `write_seg_files` makes the same SEG of the two.

    Args:
        seg: the SEG.
        out: made where absent.
        series_folder: the source series; None leaves the masks on the slices that have frames.

    Returns:
        The segments' NIfTI files, uint8 0/1 on the series' grid, or on the grid that the SEG's
        frames span.

    Raises:
        SegRefused: no readable SEG.
        DataRefused: no usable series in the folder.
    """
    if series_folder is None:
        content = read_seg_alone(seg)
    else:
        source = series_of_folder(series_folder)
        if not source.even:
            raise DataRefused("the series is unevenly spaced: one NIfTI grid cannot hold it")
        content = read_seg(seg, source)
    out.mkdir(parents=True, exist_ok=True)
    files = []
    for segment in content.segments:
        path = out / f"{segment.number}.nii.gz"
        save_nifti(path, segment.mask, content.affine)
        files.append(path)
    listing = [_listed(segment) for segment in content.segments]
    document = {"format": 1, "segmentation_type": content.segmentation_type, "segments": listing}
    text = json.dumps(document, indent=2, ensure_ascii=False) + "\n"
    write_atomically(out / "segments.json", text.encode())
    labels = _in_one(content)
    if labels is not None:
        save_nifti(out / "labels.nii.gz", labels, content.affine)
        specs = [_spec(segment) for segment in content.segments]
        write_atomically(out / "labels.toml", labels_toml(specs).encode())
    return files


def _listed(segment: SegSegment) -> dict[str, object]:
    kind = segment.type_code
    return {
        "SegmentNumber": segment.number,
        "SegmentLabel": segment.label,
        "SegmentAlgorithmType": segment.algorithm_type,
        "SegmentAlgorithmName": segment.algorithm_name,
        "SegmentedPropertyType": None
        if kind is None
        else {"value": kind.value, "scheme": kind.scheme, "meaning": kind.meaning},
        "TrackingID": segment.tracking_id,
        "TrackingUID": segment.tracking_uid,
        "voxels": int(segment.mask.sum()),
        "file": f"{segment.number}.nii.gz",
    }


def _in_one(content: SegContent) -> NDArray[np.uint8] | None:
    """All segments by number, None where they overlap or a number does not fit into a byte."""
    labels = np.zeros(content.segments[0].mask.shape, np.uint8)
    for segment in content.segments:
        inside = segment.mask > 0
        if segment.number > np.iinfo(np.uint8).max or np.any(labels[inside]):
            return None
        labels[inside] = segment.number
    return labels


def _spec(segment: SegSegment) -> SegmentSpec:
    plain = SegmentSpec(segment.number, segment.label or f"Label {segment.number}")
    known = segment.algorithm_type in get_args(AlgorithmType)
    made = algorithm_type(segment.algorithm_type) if known else plain.algorithm_type
    return replace(
        plain,
        category=segment.category or plain.category,
        type=segment.type_code or plain.type,
        algorithm_type=made,
        algorithm_name=segment.algorithm_name,
        algorithm_version=segment.algorithm_version,
        region=segment.region,
        colour=segment.colour or plain.colour,
        tracking_id=segment.tracking_id or None,
        tracking_uid=segment.tracking_uid or None,
    )


def check_seg_files(series_folder: Path, seg: Path) -> list[str]:
    """Findings on a SEG against the series in a folder, in words; empty where all is well.

    Raises:
        DataRefused: the folder holds no usable series.
    """
    try:
        return check_seg(series_of_folder(series_folder), seg)
    except SegRefused as error:
        return [str(error)]
