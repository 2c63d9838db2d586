"""One series to verified NIfTI images."""

from __future__ import annotations

import gzip
import io
import os
import tempfile
from collections.abc import Sequence
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
from dicom_bridge.convert.frames import frames_of, volume_datasets
from dicom_bridge.convert.mosaic import image_frames
from dicom_bridge.convert.pixels import RGB, Pixels, rescaled_image
from dicom_bridge.convert.plausible import check_rescale, check_size, check_values
from dicom_bridge.convert.source import SourceSeries, source_series
from dicom_bridge.convert.split import Run, echo_time, split_runs
from dicom_bridge.convert.stack import MINIMUM_SLICES, stack_frames
from dicom_bridge.errors import DataRefused
from dicom_bridge.geometry import FloatArray, VolumeGeometry, align_to_grid

MAX_ONE_BY_ONE = 64
GZIP_LEVEL = 1  # 3.5 % larger files than level 3 for half its time

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


@dataclass(frozen=True, slots=True, eq=False)
class ConvertedImage:
    """One of the images that a series holds, 3-D or 4-D.

    Attributes:
        image: NIfTI file as in `Converted`; several volumes run along its fourth axis.
        engine: converter that made the values.
        engine_version: its version.
        engine_notes: why an earlier engine was passed over, in words.
        affine: (4, 4) index to RAS mm.
        shape: voxels along I, J, K, and volumes where there are several.
        echo: 1-based where the series holds several echoes, else 0.
        echo_time: of that echo, ms; 0 where it is not stated.
        by: what tells the volumes apart, in words; "" for a single one.
        first: a file of the image, for its header.
    """

    image: Path
    engine: Engine
    engine_version: str
    engine_notes: tuple[str, ...]
    affine: FloatArray
    shape: tuple[int, ...]
    echo: int
    echo_time: float
    by: str
    first: Path


def verified(
    made: EngineVolume, expected: NDArray[np.generic], geometry: VolumeGeometry
) -> NDArray[np.generic]:
    """Check a converter's image against the instances, on the series' own grid.

    Args:
        made: the converter's image.
        expected: (I, J, K) or (I, J, K, T) rescaled pixels, decoded without the converter.
        geometry: grid from ImagePositionPatient, ImageOrientationPatient and PixelSpacing.

    Returns:
        The expected values, which are the converter's with its axes reordered.

    Raises:
        EngineRefused: another position (above 0.01 mm at any corner), size, or value, or values
            that are not finite.
    """
    volumes = expected[..., None] if expected.ndim == 3 else expected
    data = _like(made, expected.dtype)
    data = data[..., None] if data.ndim == 3 else data
    if data.ndim != 4 or data.shape[3] != volumes.shape[3]:
        wanted = (
            "single volume" if volumes.shape[3] == 1 else f"image of {volumes.shape[3]} volumes"
        )
        raise EngineRefused(f"{made.engine} made no {wanted}")
    for t in range(volumes.shape[3]):
        turned = align_to_grid(data[..., t], made.affine, geometry)
        if turned is None:
            raise EngineRefused(
                f"{made.engine} placed the volume elsewhere than the slice positions say (0.01 mm)"
            )
        _same_values(made, turned, volumes[..., t])
    return expected


def _like(made: EngineVolume, wanted: np.dtype) -> NDArray[np.generic]:
    """The converter's values, colours as three bytes where colours are expected."""
    if wanted == RGB and made.data.dtype.fields is not None:
        colours = np.empty(made.data.shape, RGB)
        given: Any = made.data
        for name in RGB.names or ():
            colours[name] = given[name]
        return colours
    if wanted == RGB or made.data.dtype.fields is not None:
        raise EngineRefused(f"{made.engine} made no single volume of this kind of pixels")
    return made.data


def _same_values(
    made: EngineVolume, turned: NDArray[np.generic], expected: NDArray[np.generic]
) -> None:
    """Refuse values that are not finite or not the expected ones, slice by slice."""
    if turned.dtype.kind == "f" and not np.all(np.isfinite(turned)):
        raise EngineRefused(f"{made.engine} made values that are not finite")
    exact = expected.dtype.kind != "f"
    allowed = 0.0 if exact else 1e-5 * max(1.0, float(np.max(np.abs(expected))))
    for k in range(expected.shape[2]):
        one: Any = turned[:, :, k]
        other = expected[:, :, k]
        same = np.array_equal(one, other) if exact else np.max(np.abs(one - other)) <= allowed
        if not same:
            raise EngineRefused(f"{made.engine} changed the values of slice {k + 1}")


def _made_by(
    run: Run, expected: NDArray[np.generic], pixels: Pixels, work: Path
) -> tuple[EngineVolume, tuple[str, ...]]:
    """An engine's image that passes every check, all volumes in one or volume by volume."""
    try:
        return _engine_volume(run, expected, pixels, work)
    except DataRefused:
        if not 1 < len(run.volumes) <= MAX_ONE_BY_ONE:
            raise
        made = [
            _engine_volume(Run((stack,)), expected[..., [t]], pixels, work)
            for t, stack in enumerate(run.volumes)
        ]
        engines = " and ".join(sorted({one.engine for one, _ in made}))
        return made[-1][0], (f"volumes were converted one by one, by {engines}", *made[-1][1])


def _engine_volume(
    run: Run, expected: NDArray[np.generic], pixels: Pixels, work: Path
) -> tuple[EngineVolume, tuple[str, ...]]:
    """The first engine's image that passes every check, with notes on those that did not."""
    notes: list[str] = []

    def _dcm2niix_in_folder() -> list[EngineVolume]:
        work.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix="dcm2niix-", dir=work) as folder:
            return with_dcm2niix(run, Path(folder))

    def _dicom2nifti() -> list[EngineVolume]:
        return with_dicom2nifti(run, pixels)

    for engine in (_dicom2nifti, _dcm2niix_in_folder):
        refusals: list[str] = []
        try:
            for made in engine():
                try:
                    verified(made, expected, run.volumes[0].geometry)
                    return made, tuple(notes)
                except EngineRefused as refusal:
                    refusals.append(str(refusal))
        except EngineRefused as refusal:
            refusals.append(str(refusal))
        notes += refusals
    raise DataRefused(f"no converter made a correct volume: {'; '.join(notes)}")


def stored_type(values: NDArray[np.generic]) -> NDArray[np.generic]:
    """The values as int16 where they are whole and fit, else as float32; colours as they are."""
    if values.dtype == RGB or values.dtype == np.int16:
        return values
    low, high = float(np.min(values)), float(np.max(values))
    whole = values.dtype.kind in "iu" or bool(np.all(values == np.rint(values)))
    if whole and low >= -32768 and high <= 32767:
        if values.dtype == np.uint16:
            return values.view(np.int16)
        return values.astype(np.int16)
    if whole and max(-low, high) > 2**24:
        return values.astype(np.float64)
    return values.astype(np.float32)


def save_nifti(path: Path, values: NDArray[np.generic], affine: FloatArray) -> None:
    """Write a NIfTI-1 file with sform = qform, code 1, mm, no free text; renamed into place.

    Args:
        path: `.nii` or `.nii.gz`; the same input gives the same bytes.
        values: (I, J, K) or (I, J, K, T).
        affine: (4, 4) RAS mm.
    """
    nifti: Any = nibabel.Nifti1Image
    image = nifti(values, affine)
    image.set_sform(affine, code=1)
    image.set_qform(affine, code=1)
    image.header.set_xyzt_units("mm")
    image.header["descrip"] = b""
    image.header["vox_offset"] = 352
    image.header.set_slope_inter(1, 0)
    head = image.header.binaryblock + b"\0\0\0\0"
    body = np.asarray(values, dtype=values.dtype.newbyteorder("<"), order="F").T.data.cast("B")
    if path.suffix != ".gz":
        write_atomically(path, head, body)
        return
    packed = io.BytesIO()
    with gzip.GzipFile(fileobj=packed, mode="wb", compresslevel=GZIP_LEVEL, mtime=0) as stream:
        stream.write(head)
        stream.write(body)
    write_atomically(path, packed.getbuffer())


def write_atomically(path: Path, *content: bytes | memoryview) -> None:
    """Write a file under a temporary name, flush it to disk and rename it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.part")
    with part.open("wb") as stream:
        for piece in content:
            stream.write(piece)
        stream.flush()
        os.fsync(stream.fileno())
    part.replace(path)


def convert_series(files: Sequence[Path], out: Path, *, work: Path) -> Converted:
    """Convert one series that holds one volume, and verify the result against its instances.

    Args:
        files: the series' files in any order, as received (classic or enhanced multi-frame).
        out: the NIfTI file to write (`.nii` or `.nii.gz`).
        work: folder on the identified side for copies that dcm2niix reads; emptied again.

    Returns:
        The image with all that a result for this series needs later.

    Raises:
        DataRefused: unreadable or truncated instances, mixed acquisition, missing slice, uneven
            distance, gantry tilt, implausible values, or no converter made a correct volume.
    """
    pairs = volume_datasets(files, pixels=True)
    frames = [frame for dataset, path in pairs for frame in frames_of(dataset, path)]
    check_size(frames)
    pixels = Pixels(work)
    stack = stack_frames(
        frames,
        alike=lambda one, other: pixels.digest(one) == pixels.digest(other),
        minimum=MINIMUM_SLICES,
    )
    made, notes = _converted(Run((stack,)), pixels, out, work)
    return Converted(
        image=out,
        engine=made.engine,
        engine_version=made.version,
        source=source_series(stack),
        geometry=stack.geometry,
        engine_notes=notes,
    )


def convert_images(files: Sequence[Path], stem: Path, *, work: Path) -> list[ConvertedImage]:
    """Convert all images of one series: 3-D, 4-D, or one per echo; each verified.

    Unlike `convert_series` this takes mosaics, colour maps, and files whose UIDs were removed.

    Args:
        files: the series' files in any order.
        stem: where to write, without ending: ``STEM.nii.gz``, or ``STEM_echo-N.nii.gz``.
        work: as in `convert_series`.

    Raises:
        DataRefused: as in `convert_series`; then no image is written.
    """
    pairs = volume_datasets(files, pixels=True, pictures=True, named=False)
    frames = [frame for dataset, path in pairs for frame in image_frames(dataset, path)]
    check_size(frames)
    pixels = Pixels(work)
    made: list[ConvertedImage] = []
    try:
        for run in split_runs(frames, content=pixels.digest, minimum=MINIMUM_SLICES):
            ending = f"_echo-{run.echo}" if run.echo else ""
            out = stem.with_name(f"{stem.name}{ending}.nii.gz")
            engine, notes = _converted(run, pixels, out, work)
            stack = run.volumes[0]
            shape = (*stack.geometry.shape, len(run.volumes))
            made.append(
                ConvertedImage(
                    image=out,
                    engine=engine.engine,
                    engine_version=engine.version,
                    engine_notes=notes,
                    affine=stack.affine,
                    shape=shape if len(run.volumes) > 1 else shape[:3],
                    echo=run.echo,
                    echo_time=echo_time(stack.frames[0]),
                    by=run.by,
                    first=stack.frames[0].path,
                )
            )
    except DataRefused:
        for image in made:
            image.image.unlink(missing_ok=True)
        raise
    return made


def _converted(
    run: Run, pixels: Pixels, out: Path, work: Path
) -> tuple[EngineVolume, tuple[str, ...]]:
    """Convert, verify and write one image."""
    check_rescale(run.frames)
    expected = rescaled_image([*run.volumes], pixels)
    check_values(expected, run)
    made, notes = _made_by(run, expected, pixels, work)
    values = stored_type(expected)
    save_nifti(out, values[..., 0] if values.shape[3] == 1 else values, run.volumes[0].affine)
    log.info(
        "series converted",
        engine=made.engine,
        slices=len(run.volumes[0].frames),
        volumes=len(run.volumes),
        passed_over=list(notes),
    )
    return made, notes
