"""Sampling grids: orientation, resampling between grids, isotropic and cropped grids."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from appliance.errors import ImageRefused
from appliance.imaging.volume import (
    MAX_VOXELS,
    Affine,
    Array,
    Mask,
    Volume,
    apply_affine,
    inverse,
    nib,
    spacing_of,
)

Interpolation = Literal["linear", "nearest"]


@dataclass(frozen=True, slots=True, eq=False)
class Grid:
    """Where voxels lie: shape (X, Y, Z) and the voxel-to-RAS affine in mm."""

    shape: tuple[int, int, int]
    affine: Affine

    @property
    def spacing(self) -> tuple[float, float, float]:
        """Voxel size in mm."""
        return spacing_of(self.affine)


def grid_of(volume: Volume) -> Grid:
    """The grid that a volume stands on."""
    return Grid(volume.shape, volume.affine)


def same_grid(first: Grid, second: Grid, tolerance_mm: float = 1e-3) -> bool:
    """Whether two grids put every voxel at the same place within a tolerance in mm."""
    if first.shape != second.shape:
        return False
    corners = _corners(first.shape)
    gap = apply_affine(first.affine, corners) - apply_affine(second.affine, corners)
    return bool(np.abs(gap).max() <= tolerance_mm)


def to_ras(volume: Volume) -> Volume:
    """Permute and flip axes so that they run closest to right, anterior, superior.

    No value is interpolated; every voxel stays where it was in the world.
    """
    codes = nib.io_orientation(volume.affine)
    data = nib.apply_orientation(volume.data, codes)
    affine = volume.affine @ nib.orientations.inv_ornt_aff(codes, volume.shape)
    return Volume(np.ascontiguousarray(data), affine)


def from_ras(volume: Volume, like: Grid) -> Volume:
    """Undo `to_ras`: bring an image on the reoriented grid back to the axes of `like`.

    Raises:
        ImageRefused: the image does not stand on the reoriented grid of `like`.
    """
    codes = nib.io_orientation(like.affine)
    back = nib.orientations.ornt_transform(nib.orientations.axcodes2ornt("RAS"), codes)
    data = nib.apply_orientation(volume.data, back)
    affine = volume.affine @ nib.orientations.inv_ornt_aff(back, volume.shape)
    result = Volume(np.ascontiguousarray(data), affine)
    if not same_grid(grid_of(result), like):
        raise ImageRefused("the image does not stand on the reoriented grid it should return from")
    return Volume(result.data, like.affine)


def isotropic_ras_grid(source: Grid, spacing_mm: tuple[float, float, float]) -> Grid:
    """An axis-aligned RAS grid with this voxel size that covers all of `source`.

    Voxel centres are placed symmetrically about the centre of the source's bounding box.

    Raises:
        ImageRefused: a spacing that is not positive, or a grid beyond the size limit.
    """
    if min(spacing_mm) <= 0:
        raise ImageRefused(f"voxel sizes must be above 0 mm, got {spacing_mm}")
    edges = _corners(source.shape, half=True)
    world = apply_affine(source.affine, edges)
    low, high = world.min(axis=0), world.max(axis=0)
    step = np.asarray(spacing_mm, dtype=np.float64)
    count = np.maximum(1, np.ceil((high - low) / step - 1e-6)).astype(int)
    if int(np.prod(count)) > MAX_VOXELS:
        raise ImageRefused(f"a grid of {count.tolist()} voxels is beyond the size limit")
    affine = np.diag([*step, 1.0])
    affine[:3, 3] = (low + high) / 2 - (count - 1) / 2 * step
    return Grid((int(count[0]), int(count[1]), int(count[2])), affine)


def crop_grid(grid: Grid, mask: Mask, margin: int = 0) -> tuple[Grid, tuple[slice, slice, slice]]:
    """The smallest part of a grid that holds a mask, plus a margin in voxels.

    Args:
        grid: Where the mask stands.
        mask: (X, Y, Z), true inside. An empty mask keeps the whole grid.
        margin: Voxels added on every side, clipped at the border.

    Returns:
        The part's grid and the slices that cut it out.
    """
    if mask.shape != grid.shape:
        raise ValueError(f"mask shape {mask.shape} is not the grid's shape {grid.shape}")
    if not mask.any():
        box = tuple(slice(0, n) for n in grid.shape)
    else:
        box = tuple(
            slice(max(0, part.start - margin), min(n, part.stop + margin))
            for part, n in zip(
                ndimage.find_objects(mask.astype(np.uint8))[0], grid.shape, strict=True
            )
        )
    x, y, z = box
    affine = grid.affine.copy()
    affine[:3, 3] = apply_affine(grid.affine, np.array([x.start, y.start, z.start]))
    shape = (x.stop - x.start, y.stop - y.start, z.stop - z.start)
    return Grid(shape, affine), (x, y, z)


def resample(
    volume: Volume,
    grid: Grid,
    matrix: Affine | None = None,
    interpolation: Interpolation = "linear",
    fill: float = 0.0,
) -> Volume:
    """Read a volume at the voxels of another grid.

    Args:
        volume: The image to read.
        grid: Where the result stands.
        matrix: 4 x 4, maps RAS points of the grid's world (fixed) to the volume's world (moving);
            identity when left out.
        interpolation: "linear" (float32 result; low-passed first along axes that get coarser, so
            that noise is averaged rather than aliased) or "nearest" (keeps the type).
        fill: Value outside the volume.

    Returns:
        The image on `grid`.
    """
    to_moving = np.eye(4) if matrix is None else np.asarray(matrix, dtype=np.float64)
    index = inverse(volume.affine) @ to_moving @ grid.affine
    if interpolation == "nearest":
        data = _nearest(volume.data, index, grid.shape, fill)
        return Volume(data, grid.affine)
    smooth = low_pass(np.asarray(volume.data, dtype=np.float32), _coarsening(index))
    data = np.empty(grid.shape, dtype=np.float32)
    ndimage.affine_transform(
        smooth, index[:3, :3], index[:3, 3], grid.shape, data, 1, "constant", fill, False
    )
    return Volume(data, grid.affine)


def low_pass(data: NDArray[np.float32], ratio: NDArray[np.float64]) -> NDArray[np.float32]:
    """Gaussian low-pass before sampling more coarsely.

    Args:
        data: (X, Y, Z).
        ratio: Output voxel size over input voxel size per axis; 1 and below smooth nothing.

    Returns:
        The image, smoothed with standard deviation 0.42 * sqrt(ratio^2 - 1) voxels, the Gaussian
        whose width adds up in quadrature to the coarser voxel's.
    """
    sigma = 0.42 * np.sqrt(np.maximum(ratio**2 - 1.0, 0.0))
    sigma[sigma < 0.2] = 0.0
    if not sigma.any():
        return data
    return ndimage.gaussian_filter(data, sigma.tolist(), mode="nearest", truncate=3.0)  # type: ignore[no-any-return]


def _coarsening(index: Affine) -> NDArray[np.float64]:
    """Input voxels stepped over per output voxel, along each input axis."""
    return np.asarray(np.abs(index[:3, :3]).max(axis=1), dtype=np.float64)


def _nearest(data: Array, index: Affine, shape: tuple[int, int, int], fill: float) -> Array:
    """Nearest-neighbour reading; ties go to the higher index, outside is `fill`."""
    if _separable(index):
        return _nearest_separable(data, index, shape, fill)
    result = np.full(shape, fill, dtype=data.dtype)
    ndimage.affine_transform(
        data, index[:3, :3], index[:3, 3], shape, result, 0, "grid-constant", fill, False
    )
    return result


def _separable(index: Affine) -> bool:
    """Whether each input axis depends on the same-numbered output axis alone."""
    linear = index[:3, :3]
    return bool(np.abs(linear - np.diag(np.diag(linear))).max() < 1e-7)


def _nearest_separable(
    data: Array, index: Affine, shape: tuple[int, int, int], fill: float
) -> Array:
    picks, inside = [], []
    for axis in range(3):
        place = index[axis, axis] * np.arange(shape[axis]) + index[axis, 3]
        pick = np.floor(place + 0.5 + 1e-6).astype(np.int64)
        inside.append((pick >= 0) & (pick < data.shape[axis]))
        picks.append(np.clip(pick, 0, data.shape[axis] - 1))
    result = data[np.ix_(*picks)]
    result[~(inside[0][:, None, None] & inside[1][:, None] & inside[2])] = fill
    return result


def _corners(shape: tuple[int, int, int], *, half: bool = False) -> NDArray[np.float64]:
    """The eight corner voxels' indices, or the outer edges half a voxel beyond them."""
    edge = 0.5 if half else 0.0
    ends = [(-edge, n - 1 + edge) for n in shape]
    return np.array(list(itertools.product(*ends)), dtype=np.float64)
