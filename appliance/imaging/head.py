"""A head image made small and of comparable brightness, as the atlas is laid over it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from appliance.errors import ImageRefused
from appliance.imaging.grid import (
    Grid,
    coarsening,
    crop_grid,
    grid_of,
    isotropic_ras_grid,
    low_pass,
    resample,
)
from appliance.imaging.itk import itk_threads, sitk
from appliance.imaging.volume import Affine, Array, Mask, Volume, apply_affine, inverse

Triple = tuple[int, int, int]

TONES_MM = 4.0
"""Voxel size at which air's and bright tissue's intensities are read."""

SLAB_VOXELS = 4_000_000
"""A field is read at about this many voxels at a time."""


@dataclass(frozen=True, slots=True)
class Tones:
    """What 0 and 1 mean in a head image.

    Attributes:
        air: Stored value of the background.
        bright: How much brighter than that bright tissue is.
    """

    air: float
    bright: float


def shrunk(volume: Volume, step_mm: float) -> Volume:
    """The image in blocks of voxels averaged, none longer than `step_mm`.

    Args:
        volume: Any image.
        step_mm: Longest edge of a block in mm; an axis whose voxels are longer stays as it is.

    Returns:
        float32 on a grid with the same axes, or the very image where nothing is to be averaged. A
        last block of fewer voxels counts as a whole one.
    """
    factors = [max(1, int(step_mm / step + 1e-6)) for step in volume.spacing]
    if max(factors) == 1:
        return volume
    data: Array = volume.data
    for axis in (2, 1, 0):  # the innermost first: what follows is then small
        data = _averaged(data, axis, factors[axis])
    affine = volume.affine.copy()
    affine[:3, :3] *= np.array(factors)
    affine[:3, 3] = apply_affine(volume.affine, (np.array(factors) - 1) / 2)
    return Volume(data, affine)


def _averaged(data: Array, axis: int, factor: int) -> Array:
    """Means of `factor` voxels in a row along an axis, float32."""
    if factor == 1:
        return data
    rows = np.moveaxis(data, axis, 0)
    total = np.zeros((-(-len(rows) // factor), *rows.shape[1:]), dtype=np.float32)
    for first in range(factor):
        part = rows[first::factor]
        total[: len(part)] += part
    total[:-1] /= factor
    total[-1] /= len(rows) - (len(total) - 1) * factor
    return np.moveaxis(total, 0, axis)


def tones_of(volume: Volume) -> Tones:
    """What is air and what is bright in a head image.

    Raises:
        ImageRefused: the image is constant.
    """
    air = float(np.percentile(volume.data[:: max(1, volume.shape[0] // 64)], 0.5))
    grid = isotropic_ras_grid(grid_of(volume), (TONES_MM, TONES_MM, TONES_MM))
    data = resample(volume, grid, fill=air).data - air
    bright = data[data > data.mean()]
    if bright.size < 100 or float(bright.max()) <= 0:
        raise ImageRefused("the image is constant or nearly so: there is no head in it")
    return Tones(air, float(np.percentile(bright, 90)))


def head_image(volume: Volume, grid: Grid, tones: Tones) -> Volume:
    """The image on a grid, background about 0, bright tissue about 1 (at most 1.5), float32."""
    coarse = resample(volume, grid, fill=tones.air)
    return coarse.with_data(np.clip((coarse.data - tones.air) / tones.bright, 0.0, 1.5))


def head_mask(head: Volume) -> Mask:
    """Largest bright piece of a `head_image`, closed and filled.

    Raises:
        ImageRefused: nothing in the image is bright.
    """
    pieces, count = ndimage.label(head.data > 0.15)
    if count == 0:
        raise ImageRefused("no head was found in the image")
    sizes = np.bincount(pieces.ravel())[1:]
    largest = pieces == int(sizes.argmax()) + 1
    closed = ndimage.binary_closing(np.pad(largest, 3), iterations=3)[3:-3, 3:-3, 3:-3]
    return np.asarray(ndimage.binary_fill_holes(closed), dtype=bool)


def above(field: Volume, grid: Grid, level: float, *, threads: int = 1) -> Mask:
    """Where a smooth field is above a level, at the voxels of another (mostly finer) grid.

    Read slab by slab and only where the field is above the level at all, so that memory stays that
    of the mask.

    Args:
        field: float32; outside of it counts as below the level.
        grid: Where the answer is wanted, in the same RAS world.
        level: Threshold.
        threads: Threads of ITK's interpolation.

    Returns:
        (X, Y, Z), true where the linearly interpolated field is above `level`.
    """
    result = np.zeros(grid.shape, dtype=bool)
    high = field.data > level
    if not high.any():
        return result
    index = inverse(field.affine) @ grid.affine
    data = low_pass(np.asarray(field.data, dtype=np.float32), coarsening(index))
    part, _ = crop_grid(grid_of(field), high, 2)
    box = _box_in(grid, part)
    low = np.array([edge.start for edge in box])
    size = np.array([edge.stop for edge in box]) - low
    if size.min() <= 0:
        return result
    thick = max(1, SLAB_VOXELS // int(size[1] * size[2]))
    with itk_threads(threads):
        read = _reader(data, index, min(float(data.min()), level - 1.0))
        for first in range(box[0].start, box[0].stop, thick):
            last = min(first + thick, box[0].stop)
            slab = read(
                (first, int(low[1]), int(low[2])), (last - first, int(size[1]), int(size[2]))
            )
            result[first:last, box[1], box[2]] = slab > level
    return result


def _reader(
    data: NDArray[np.float32], index: Affine, fill: float
) -> Callable[[Triple, Triple], NDArray[np.float32]]:
    """Linear interpolation of boxes of a grid, by ITK, in voxel indices throughout.

    ITK takes the last array axis first, so the map's rows and columns are reversed.

    Args:
        data: (X, Y, Z), what is read.
        index: 4 x 4, the grid's indices to the data's.
        fill: Value outside the data.

    Returns:
        A function of a box's first voxel and its size.
    """
    turn = sitk.AffineTransform(3)
    turn.SetMatrix(index[:3, :3][::-1, ::-1].ravel().tolist())
    turn.SetTranslation(index[:3, 3][::-1].tolist())
    resampler = sitk.ResampleImageFilter()
    resampler.SetTransform(turn)
    resampler.SetInterpolator(sitk.sitkLinear)
    resampler.SetDefaultPixelValue(fill)
    image = sitk.GetImageFromArray(np.ascontiguousarray(data))

    def read(first: Triple, size: Triple) -> NDArray[np.float32]:
        resampler.SetOutputOrigin([float(value) for value in reversed(first)])
        resampler.SetSize(list(reversed(size)))
        return np.asarray(sitk.GetArrayViewFromImage(resampler.Execute(image)))

    return read


def _box_in(grid: Grid, part: Grid) -> tuple[slice, slice, slice]:
    """The voxels of a grid that may lie in another grid's box."""
    ends = np.array(part.shape) - 1
    corners = np.array(np.meshgrid(*([0, end] for end in ends))).reshape(3, -1).T
    index = apply_affine(inverse(grid.affine) @ part.affine, corners.astype(np.float64))
    first = np.floor(index.min(axis=0)).astype(int)
    last = np.ceil(index.max(axis=0)).astype(int) + 1
    x, y, z = (
        slice(max(0, int(a)), max(0, min(int(b), n)))
        for a, b, n in zip(first, last, grid.shape, strict=True)
    )
    return x, y, z
