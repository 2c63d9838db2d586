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

Interpolation = Literal["linear", "cubic", "nearest"]

RESAMPLE_VERSION = 2
"""Rises with every change of what `resample` gives; keys what is kept of it."""

INSIDE = 1e-6
"""A place this many voxels short of a border belongs to the voxel beyond it."""


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
    _check_spacing(spacing_mm)
    edges = _corners(source.shape, half=True)
    world = apply_affine(source.affine, edges)
    low, high = world.min(axis=0), world.max(axis=0)
    step = np.asarray(spacing_mm, dtype=np.float64)
    count = np.maximum(1, np.ceil((high - low) / step - 1e-6)).astype(int)
    _check_count(count)
    affine = np.diag([*step, 1.0])
    affine[:3, 3] = (low + high) / 2 - (count - 1) / 2 * step
    return Grid((int(count[0]), int(count[1]), int(count[2])), affine)


def aligned_ras_grid(source: Grid, spacing_mm: tuple[float, float, float]) -> Grid:
    """A grid along the source's own axes, ordered and flipped to lie nearest to R, A, S.

    Where the source has this voxel size already, the result is its own lattice: nothing is
    interpolated. Otherwise voxel centres are placed symmetrically about the source's centre.

    Raises:
        ImageRefused: a spacing that is not positive, or a grid beyond the size limit.
    """
    _check_spacing(spacing_mm)
    codes = nib.io_orientation(source.affine)
    affine = source.affine @ nib.orientations.inv_ornt_aff(codes, source.shape)
    shape = np.array([source.shape[int(axis)] for axis in np.argsort(codes[:, 0])])
    own = np.array(spacing_of(affine))
    step = np.asarray(spacing_mm, dtype=np.float64)
    same = np.abs(shape * (own - step)) < 1e-2 * own
    count = np.where(same, shape, np.maximum(1, np.ceil(shape * own / step - 1e-6))).astype(int)
    _check_count(count)
    result = affine.copy()
    result[:3, :3] = affine[:3, :3] * (np.where(same, own, step) / own)
    centre = apply_affine(affine, (shape - 1) / 2)
    result[:3, 3] = centre - result[:3, :3] @ ((count - 1) / 2)
    return Grid((int(count[0]), int(count[1]), int(count[2])), result)


def sized_grid(grid: Grid, size: tuple[int, int, int]) -> Grid:
    """A grid of another size about the same centre: cropped where longer, padded where shorter.

    Voxels keep their places: where the difference is odd, the upper side loses or gains one more.
    """
    gone = np.array(grid.shape) - np.array(size)
    first = np.where(gone >= 0, gone // 2, -(-gone // 2))
    affine = grid.affine.copy()
    affine[:3, 3] = apply_affine(grid.affine, first)
    return Grid(size, affine)


def crop_grid(
    grid: Grid, mask: Mask, margin: int | tuple[int, int, int] = 0
) -> tuple[Grid, tuple[slice, slice, slice]]:
    """The smallest part of a grid that holds a mask, plus a margin in voxels.

    Args:
        grid: Where the mask stands.
        mask: (X, Y, Z), true inside. An empty mask keeps the whole grid.
        margin: Voxels added on every side, or per axis, clipped at the border.

    Returns:
        The part's grid and the slices that cut it out.
    """
    if mask.shape != grid.shape:
        raise ValueError(f"mask shape {mask.shape} is not the grid's shape {grid.shape}")
    widths = (margin,) * 3 if isinstance(margin, int) else margin
    if not mask.any():
        box = tuple(slice(0, n) for n in grid.shape)
    else:
        box = tuple(
            slice(max(0, part.start - width), min(n, part.stop + width))
            for part, n, width in zip(
                ndimage.find_objects(mask.astype(np.uint8))[0], grid.shape, widths, strict=True
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

    A voxel fills its whole cell: places up to half a voxel beyond the outermost centres belong to
    the image and get its border values.

    Args:
        volume: The image to read.
        grid: Where the result stands.
        matrix: 4 x 4, maps RAS points of the grid's world (fixed) to the volume's world (moving);
            identity when left out.
        interpolation: "linear" or "cubic" (float32 result; low-passed first along axes that get
            coarser, so that detail is averaged rather than aliased; cubic is the B-spline of order
            3, clipped to the range of the image) or "nearest" (keeps the type).
        fill: Value outside the volume.

    Returns:
        The image on `grid`.
    """
    index = _index_map(volume.affine, grid, matrix)
    source, index = _axes_first(volume.data, index)
    if interpolation == "nearest":
        return Volume(_nearest(source, index, grid.shape, fill), grid.affine)
    smooth = low_pass(np.asarray(source, dtype=np.float32), coarsening(index))
    if interpolation == "cubic":
        data = _sampled(_spline(smooth), index, grid.shape, 3, "mirror")
        np.clip(data, smooth.min(), smooth.max(), out=data)
    else:
        data = _sampled(smooth, index, grid.shape, 1, "nearest")
    inside = _inside(index, smooth.shape, grid.shape)
    if inside is not None:
        data[~inside] = fill
    return Volume(data, grid.affine)


def covered(volume: Grid, grid: Grid, matrix: Affine | None = None) -> Mask:
    """Which voxels of a grid have their centre inside an image, outer half voxels included.

    Args:
        volume: Where the image stands.
        grid: Whose voxels are asked for.
        matrix: As in `resample`.

    Returns:
        bool (X, Y, Z) on `grid`.
    """
    inside = _inside(_index_map(volume.affine, grid, matrix), volume.shape, grid.shape)
    return np.ones(grid.shape, dtype=bool) if inside is None else inside


def low_pass(data: NDArray[np.float32], ratio: NDArray[np.float64]) -> NDArray[np.float32]:
    """Gaussian low-pass before sampling more coarsely.

    Source: Cardoso et al., MICCAI 2015 (LNCS 9350:661): the point-spread functions of a fine and a
    coarse voxel, taken as Gaussians with the voxel size as full width at half maximum, differ by a
    Gaussian whose variance is the difference of theirs.

    Args:
        data: (X, Y, Z).
        ratio: Output voxel size over input voxel size per axis; 1 and below smooth nothing.

    Returns:
        The image, smoothed with standard deviation 0.42 * sqrt(ratio^2 - 1) voxels.
    """
    sigma = 0.42 * np.sqrt(np.maximum(ratio**2 - 1.0, 0.0))
    sigma[sigma < 0.2] = 0.0
    if not sigma.any():
        return data
    return ndimage.gaussian_filter(data, sigma.tolist(), mode="nearest", truncate=3.0)  # type: ignore[no-any-return]


def coarsening(index: Affine) -> NDArray[np.float64]:
    """Input voxels that one output voxel spans along each input axis.

    Args:
        index: 4 x 4, output voxel index to input voxel index.

    Returns:
        Row norms of the linear part: exact for axes that run along each other and for output
        voxels of equal edges in any direction.
    """
    return np.asarray(np.sqrt((index[:3, :3] ** 2).sum(axis=1)), dtype=np.float64)


def _index_map(affine: Affine, grid: Grid, matrix: Affine | None) -> Affine:
    """Voxel index on a grid to voxel index in an image."""
    to_moving = np.eye(4) if matrix is None else np.asarray(matrix, dtype=np.float64)
    return np.asarray(inverse(affine) @ to_moving @ grid.affine, dtype=np.float64)


def _axes_first(data: Array, index: Affine) -> tuple[Array, Affine]:
    """A view whose axes run in the order of the output's, where each runs along one of them."""
    order = np.abs(index[:3, :3]).argmax(axis=0)
    if sorted(order.tolist()) != [0, 1, 2]:
        return data, index
    return data.transpose(order), index[[*order, 3]]


def _sampled(
    data: NDArray[np.float32],
    index: Affine,
    shape: tuple[int, int, int],
    order: int,
    border: Literal["nearest", "mirror"],
) -> NDArray[np.float32]:
    """Spline reading without prefilter; places outside get border values."""
    result = np.empty(shape, dtype=np.float32)
    linear = np.diag(index[:3, :3]) if _separable(index) else index[:3, :3]
    ndimage.affine_transform(data, linear, index[:3, 3], shape, result, order, border, 0.0, False)
    return result


def _spline(data: NDArray[np.float32]) -> NDArray[np.float32]:
    """Coefficients of the cubic B-spline through the voxels."""
    return np.asarray(ndimage.spline_filter(data, 3, np.float32, "mirror"), dtype=np.float32)


def _inside(index: Affine, source: tuple[int, ...], shape: tuple[int, int, int]) -> Mask | None:
    """Output voxels whose place lies in the input; None where all do."""
    corners = apply_affine(index, _corners(shape))
    upper = np.array(source) - 0.5 - INSIDE
    if bool(np.all(corners >= -0.5 - INSIDE) and np.all(corners < upper)):
        return None
    steps = [np.arange(n, dtype=np.float64) for n in shape]
    result = np.ones(shape, dtype=bool)
    for axis in range(3):
        row = index[axis]
        plane = row[1] * steps[1][:, None] + row[2] * steps[2] + row[3]
        for x, slab in enumerate(result):
            place = plane + row[0] * x
            slab &= (place >= -0.5 - INSIDE) & (place < upper[axis])
    return result


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
        pick = np.floor(place + 0.5 + INSIDE).astype(np.int64)
        inside.append((pick >= 0) & (pick < data.shape[axis]))
        picks.append(np.clip(pick, 0, data.shape[axis] - 1))
    result = data[np.ix_(*picks)]
    result[~(inside[0][:, None, None] & inside[1][:, None] & inside[2])] = fill
    return result


def _check_spacing(spacing_mm: tuple[float, float, float]) -> None:
    if min(spacing_mm) <= 0:
        raise ImageRefused(f"voxel sizes must be above 0 mm, got {spacing_mm}")


def _check_count(count: NDArray[np.int_]) -> None:
    if int(np.prod(count, dtype=np.int64)) > MAX_VOXELS:
        raise ImageRefused(f"a grid of {count.tolist()} voxels is beyond the size limit")


def _corners(shape: tuple[int, int, int], *, half: bool = False) -> NDArray[np.float64]:
    """The eight corner voxels' indices, or the outer edges half a voxel beyond them."""
    edge = 0.5 if half else 0.0
    ends = [(-edge, n - 1 + edge) for n in shape]
    return np.array(list(itertools.product(*ends)), dtype=np.float64)
