"""Images as arrays with their place in the world, and their NIfTI files."""

from __future__ import annotations

import importlib
import math
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from appliance.errors import ImageRefused

nib: Any = importlib.import_module("nibabel")
"""nibabel, whose functions carry no type annotations."""

Nifti = Any

Array = NDArray[Any]
Affine = NDArray[np.float64]
Mask = NDArray[np.bool_]

MAX_VOXELS = 600_000_000
"""Largest image that is loaded (a 0.25 mm isotropic head has about 530 million voxels)."""

NIFTI_SUFFIXES = (".nii", ".nii.gz")


@dataclass(frozen=True, slots=True, eq=False)
class Volume:
    """A three-dimensional image.

    Attributes:
        data: Voxel values, axes (X, Y, Z) in the order of the affine's columns.
        affine: 4 x 4, voxel index to RAS world coordinates in mm, float64.
    """

    data: Array
    affine: Affine

    def __post_init__(self) -> None:
        if self.data.ndim != 3:
            raise ImageRefused(
                f"a three-dimensional image is needed, this one has {self.data.ndim}"
            )
        if self.affine.shape != (4, 4) or not np.all(np.isfinite(self.affine)):
            raise ImageRefused("the image's orientation matrix is not a finite 4 x 4 matrix")
        if abs(float(np.linalg.det(self.affine[:3, :3]))) < 1e-9:
            raise ImageRefused("the image's orientation matrix is singular: voxels have no volume")

    @property
    def shape(self) -> tuple[int, int, int]:
        """Voxels along X, Y and Z."""
        x, y, z = self.data.shape
        return (int(x), int(y), int(z))

    @property
    def spacing(self) -> tuple[float, float, float]:
        """Voxel size along X, Y and Z in mm."""
        return spacing_of(self.affine)

    @property
    def voxel_ml(self) -> float:
        """Volume of one voxel in ml."""
        return abs(float(np.linalg.det(self.affine[:3, :3]))) / 1000.0

    def with_data(self, data: Array) -> Volume:
        """Another image on the same grid.

        Raises:
            ValueError: the shapes differ.
        """
        if data.shape != self.data.shape:
            raise ValueError(f"shape {data.shape} is not the grid's shape {self.data.shape}")
        return Volume(data, self.affine)


def spacing_of(affine: Affine) -> tuple[float, float, float]:
    """Voxel size in mm along the three array axes of an affine (column norms)."""
    x, y, z = np.sqrt((affine[:3, :3] ** 2).sum(axis=0))
    return (float(x), float(y), float(z))


def inverse(matrix: Affine) -> Affine:
    """The inverse of a 4 x 4 matrix, float64."""
    return np.asarray(np.linalg.inv(matrix), dtype=np.float64)


def apply_affine(matrix: Affine, points: Array) -> NDArray[np.float64]:
    """Map points (..., 3) through a 4 x 4 matrix."""
    turned = np.einsum("...j,ij->...i", points, matrix[:3, :3])  # einsum: no BLAS threads
    return np.asarray(turned + matrix[:3, 3], dtype=np.float64)


def load_volume(path: Path) -> Volume:
    """Read a NIfTI-1/2 image (`.nii`, `.nii.gz`) as float32 or its own integer type.

    A trailing axis of length one is dropped. The size is checked before voxels are read.

    Raises:
        ImageRefused: not NIfTI, not three-dimensional, too large, truncated, or not finite.
    """
    if not str(path).endswith(NIFTI_SUFFIXES):
        raise ImageRefused("an image file ending in .nii or .nii.gz is needed")
    if not path.is_file():
        raise ImageRefused("the image file does not exist")
    try:
        image = nib.load(path)
        shape = tuple(int(n) for n in image.shape)
        if any(n < 1 for n in shape) or math.prod(shape) > MAX_VOXELS:
            raise ImageRefused(
                f"the image has shape {shape}: 1 to {MAX_VOXELS} voxels are accepted"
            )
        data = _voxels(image)
    except ImageRefused:
        raise
    except (nib.filebasedimages.ImageFileError, OSError, EOFError, ValueError) as error:
        raise ImageRefused(f"the image cannot be read as NIfTI ({type(error).__name__})") from error
    while data.ndim > 3 and data.shape[-1] == 1:
        data = data[..., 0]
    if data.dtype.kind == "f" and not bool(np.isfinite(data).all()):
        raise ImageRefused("the image holds values that are not numbers (NaN or infinite)")
    return Volume(data, np.asarray(image.affine, dtype=np.float64))


def _voxels(image: Nifti) -> Array:
    """Voxel values: stored integers where there is no scaling, float32 otherwise."""
    slope, inter = image.header.get_slope_inter()
    unscaled = slope in (None, 1.0) and inter in (None, 0.0)
    kind = image.get_data_dtype()
    if kind.kind not in "iufb":
        raise ImageRefused(f"voxels of type {kind} are not grey values")
    if unscaled and kind.kind in "iub" and kind.itemsize <= 4:
        return np.asarray(image.dataobj)
    return np.asarray(image.dataobj, dtype=np.float32)


def save_volume(volume: Volume, path: Path) -> None:
    """Write a NIfTI-1 image atomically (temporary file in the same folder, then rename).

    sform and qform carry the affine with code 1 (scanner), units are mm, float64 becomes float32,
    bool becomes uint8, int64 becomes int32.
    """
    data = volume.data
    kinds = {np.dtype(np.float64): np.float32, np.dtype(bool): np.uint8}
    kinds |= {np.dtype(np.int64): np.int32, np.dtype(np.uint64): np.uint32}
    data = np.ascontiguousarray(data, dtype=kinds.get(data.dtype, data.dtype))
    image = nib.Nifti1Image(data, volume.affine)
    image.header.set_xyzt_units("mm", "sec")
    image.set_sform(volume.affine, code=1)
    image.set_qform(volume.affine, code=1)
    path.parent.mkdir(parents=True, exist_ok=True)
    suffix = ".nii.gz" if path.name.endswith(".gz") else ".nii"
    handle, name = tempfile.mkstemp(suffix=suffix, prefix=".part-", dir=path.parent)
    os.close(handle)
    try:
        nib.save(image, name)
        Path(name).chmod(0o644)
        Path(name).replace(path)
    finally:
        Path(name).unlink(missing_ok=True)
