"""SEG writing, reading and checking on files: what `clinode tools seg-*` does."""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

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
from dicom_bridge.seg.model import SegmentSpec, SegRequest, SegWritten
from dicom_bridge.seg.read import read_seg_alone
from dicom_bridge.seg.write import write_seg
from dicom_bridge.stamping import software_version


def random_uid() -> str:
    """A new UID from a random UUID (PS3.5 annex B.2)."""
    return f"2.25.{uuid.uuid4().int}"


def series_of_folder(folder: Path) -> SourceSeries:
    """The one image series in a folder.

    Raises:
        DataRefused: no image series, several, or not one regular volume.
    """
    scan = scan_study(folder)
    images = [
        series
        for series in scan.series
        if read_dataset(series.files[0], pixels=False).SOPClassUID in VOLUME_CLASSES
    ]
    if len(images) != 1:
        raise DataRefused(f"expected one image series in the folder, got {len(images)}")
    return SourceSeries.from_files(images[0].files)


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
        series_number: None takes the source's + 1000.
        series_description: SeriesDescription.
        creator: ContentCreatorName.
        new_uid: where new UIDs come from.
        written_at: None takes the time now.
    """

    segments: Sequence[SegmentSpec] = ()
    series_number: int | None = None
    series_description: str = "RESEARCH Segmentation"
    creator: str = "CLINODE^RESEARCH"
    new_uid: Callable[[], str] = field(default=random_uid)
    written_at: datetime | None = None


def default_segments(labels: NDArray[np.uint8]) -> tuple[SegmentSpec, ...]:
    """One segment per label value that occurs, as a lesion from a corrected mask file."""
    return tuple(
        SegmentSpec(
            number=int(value),
            label="Lesion" if value == 1 else f"Label {value}",
            algorithm_type="SEMIAUTOMATIC",
            algorithm_name="clinode seg-write",
            algorithm_version=software_version(),
        )
        for value in np.unique(labels)
        if value
    )


def write_seg_files(
    series_folder: Path, mask: Path, out: Path, options: WriteOptions | None = None
) -> SegWritten:
    """Write a NIfTI mask as a SEG of the series in a folder.

    Raises:
        DataRefused: the series or the mask cannot be used (`NoFinding` where it is empty).
    """
    options = options or WriteOptions()
    labels, affine = load_mask(mask)
    request = SegRequest(
        source=series_of_folder(series_folder),
        mask=labels,
        affine=affine,
        segments=tuple(options.segments) or default_segments(labels),
        out=out,
        sop_instance_uid=options.new_uid(),
        series_instance_uid=options.new_uid(),
        series_number=options.series_number,
        series_description=options.series_description,
        creator=options.creator,
        written_at=options.written_at,
    )
    return write_seg(request)


def read_seg_files(seg: Path, out: Path) -> list[Path]:
    """Write every segment of a SEG as `<number>.nii.gz`, and `segments.json` beside them.

    Args:
        seg: the SEG.
        out: made where absent.

    Returns:
        The NIfTI files, uint8 0/1 on the grid that the SEG's frames span.

    Raises:
        SegRefused: no readable SEG.
    """
    content = read_seg_alone(seg)
    out.mkdir(parents=True, exist_ok=True)
    files, listing = [], []
    for segment in content.segments:
        path = out / f"{segment.number}.nii.gz"
        save_nifti(path, segment.mask, content.affine)
        files.append(path)
        kind = segment.type_code
        listing.append(
            {
                "SegmentNumber": segment.number,
                "SegmentLabel": segment.label,
                "SegmentAlgorithmType": segment.algorithm_type,
                "SegmentedPropertyType": None
                if kind is None
                else {"value": kind.value, "scheme": kind.scheme, "meaning": kind.meaning},
                "voxels": int(segment.mask.sum()),
                "file": path.name,
            }
        )
    document = {"format": 1, "segmentation_type": content.segmentation_type, "segments": listing}
    text = json.dumps(document, indent=2, ensure_ascii=False) + "\n"
    write_atomically(out / "segments.json", text.encode())
    return files


def check_seg_files(series_folder: Path, seg: Path) -> list[str]:
    """Findings on a SEG against the series in a folder, in words; empty where all is well.

    Raises:
        DataRefused: the folder holds no usable series.
    """
    try:
        return check_seg(series_of_folder(series_folder), seg)
    except SegRefused as error:
        return [str(error)]
