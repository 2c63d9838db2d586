"""One series to one verified NIfTI image."""

from __future__ import annotations

import gzip
import os
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import structlog
from numpy.typing import NDArray

from dicom_bridge.convert.engines import (
    Engine,
    EngineRefused,
    EngineVolume,
    with_dcm2niix,
    with_dicom2nifti,
)
from dicom_bridge.convert.frames import Frame, frames_of, volume_datasets
from dicom_bridge.convert.pixels import frame_pixels, rescaled_volume
from dicom_bridge.convert.source import SourceSeries, source_series
from dicom_bridge.convert.stack import MINIMUM_SLICES, Stack, stack_frames
from dicom_bridge.errors import DataRefused
from dicom_bridge.geometry import FloatArray, VolumeGeometry, align_to_grid

GZIP_LEVEL = 3

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True, eq=False)
class Converted:
    """A series as a verified image.

    Attributes:
        image: NIfTI file on the series' own grid (column, row, slice), sform = qform, code 1.
        engine: converter that made the values.
        engine_version: its version.
        source: the series' original headers (identifying).
        geometry: grid and instance of each slice.
        engine_notes: why an earlier engine was passed over, in words.
    """

    image: Path
    engine: Engine
    engine_version: str
    source: SourceSeries
    geometry: VolumeGeometry
    engine_notes: tuple[str, ...]


def _same_pixels(first: Frame, second: Frame) -> bool:
    return bool(np.array_equal(frame_pixels(first), frame_pixels(second)))


def verified(
    made: EngineVolume, expected: NDArray[np.generic], geometry: VolumeGeometry
) -> NDArray[np.generic]:
    """Check a converter's volume against the instances, on the series' own grid.

    Args:
        made: the converter's volume.
        expected: (I, J, K) rescaled pixels, decoded without the converter.
        geometry: grid from ImagePositionPatient, ImageOrientationPatient and PixelSpacing.

    Returns:
        (I, J, K) values, axes reordered to the series' own grid.

    Raises:
        EngineRefused: another position (above 0.01 mm at any corner), size, or value, or values
            that are not finite.
    """
    data = made.data[..., 0] if made.data.ndim == 4 and made.data.shape[3] == 1 else made.data
    if data.ndim != 3 or data.dtype.fields is not None:
        raise EngineRefused(f"{made.engine} made no single volume")
    turned = align_to_grid(data, made.affine, geometry)
    if turned is None:
        raise EngineRefused(
            f"{made.engine} placed the volume elsewhere than the slice positions say (0.01 mm)"
        )
    if not np.all(np.isfinite(turned)):
        raise EngineRefused(f"{made.engine} made values that are not finite")
    whole = expected.dtype.kind == "i"
    allowed = 0.0 if whole else 1e-5 * max(1.0, float(np.max(np.abs(expected))))
    for k in range(geometry.shape[2]):
        difference = turned[:, :, k].astype(expected.dtype) - expected[:, :, k]
        if whole and turned.dtype.kind == "f" and np.any(turned[:, :, k] % 1):
            raise EngineRefused(f"{made.engine} changed the values of slice {k + 1}")
        if float(np.max(np.abs(difference))) > allowed:
            raise EngineRefused(f"{made.engine} changed the values of slice {k + 1}")
    return turned


def _engine_volume(
    stack: Stack, expected: NDArray[np.generic], work: Path
) -> tuple[EngineVolume, NDArray[np.generic], tuple[str, ...]]:
    """The first engine's volume that passes every check, with notes on those that did not."""
    notes: list[str] = []

    def _dcm2niix_in_folder(wanted: Stack) -> EngineVolume:
        work.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix="dcm2niix-", dir=work) as folder:
            made = with_dcm2niix(wanted, Path(folder))
            return EngineVolume(np.array(made.data), made.affine, made.engine, made.version)

    engines: tuple[Callable[[Stack], EngineVolume], ...] = (with_dicom2nifti, _dcm2niix_in_folder)
    for engine in engines:
        try:
            made = engine(stack)
            return made, verified(made, expected, stack.geometry), tuple(notes)
        except EngineRefused as refusal:
            notes.append(str(refusal))
    raise DataRefused(f"no converter made a correct volume: {'; '.join(notes)}")


def stored_type(values: NDArray[np.generic]) -> NDArray[np.generic]:
    """The values as int16 where they are whole and fit, else as float32."""
    low, high = float(np.min(values)), float(np.max(values))
    whole = values.dtype.kind in "iu" or bool(np.all(values == np.rint(values.astype(np.float64))))
    if whole and low >= -32768 and high <= 32767:
        return values.astype(np.int16)
    return values.astype(np.float32)


def save_nifti(path: Path, values: NDArray[np.generic], affine: FloatArray) -> None:
    """Write a NIfTI-1 file with sform = qform, code 1, mm, no free text; renamed into place.

    Args:
        path: `.nii` or `.nii.gz`; the same input gives the same bytes.
        values: (I, J, K).
        affine: (4, 4) RAS mm.
    """
    nifti: Any = nibabel.Nifti1Image
    image = nifti(values, affine)
    image.set_sform(affine, code=1)
    image.set_qform(affine, code=1)
    image.header.set_xyzt_units("mm")
    image.header["descrip"] = b""
    content = image.to_bytes()
    if path.suffix == ".gz":
        content = gzip.compress(content, compresslevel=GZIP_LEVEL, mtime=0)
    write_atomically(path, content)


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file under a temporary name, flush it to disk and rename it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.part")
    with part.open("wb") as stream:
        stream.write(content)
        stream.flush()
        os.fsync(stream.fileno())
    part.replace(path)


def convert_series(files: Sequence[Path], out: Path, *, work: Path) -> Converted:
    """Convert one series and verify the result against its instances.

    Args:
        files: the series' files in any order, as received (classic or enhanced multi-frame).
        out: the NIfTI file to write (`.nii` or `.nii.gz`).
        work: folder on the identified side for copies that dcm2niix reads; emptied again.

    Returns:
        The image with all that a result for this series needs later.

    Raises:
        DataRefused: unreadable or truncated instances, mixed acquisition, missing slice, uneven
            distance, gantry tilt, or no converter made a correct volume.
    """
    pairs = volume_datasets(files, pixels=True)
    frames = [frame for dataset, path in pairs for frame in frames_of(dataset, path)]
    stack = stack_frames(frames, alike=_same_pixels, minimum=MINIMUM_SLICES)
    expected = rescaled_volume(stack)
    if float(np.min(expected)) == float(np.max(expected)):
        raise DataRefused("the image is blank: every voxel has the same value")
    made, values, notes = _engine_volume(stack, expected, work)
    save_nifti(out, stored_type(values), stack.affine)
    log.info(
        "series converted",
        engine=made.engine,
        slices=len(stack.frames),
        instances=len(pairs),
        passed_over=list(notes),
    )
    return Converted(
        image=out,
        engine=made.engine,
        engine_version=made.version,
        source=source_series(stack),
        geometry=stack.geometry,
        engine_notes=notes,
    )
