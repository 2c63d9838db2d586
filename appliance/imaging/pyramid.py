"""Coarser images for registration, the head in them, and sample points inside it."""

from __future__ import annotations

import numpy as np
from scipy import ndimage

from appliance.errors import ImageRefused
from appliance.imaging.information import Samples, trilinear
from appliance.imaging.volume import Array, Mask, Volume, apply_affine, inverse


def pooled(volume: Volume, step_mm: float) -> Volume:
    """Means of blocks of whole voxels, the number that brings each axis nearest to `step_mm`.

    Axes that are coarser already stay as they are. Averaging is low-pass and sub-sampling in one
    pass over the data.

    Args:
        volume: The image, any type.
        step_mm: Voxel edge wanted, mm.

    Returns:
        float32 image, C order, at least 2 voxels along each axis.

    Raises:
        ImageRefused: an axis has fewer than 2 voxels.
    """
    if min(volume.shape) < 2:
        raise ImageRefused(f"an image of at least 2 voxels an axis is needed, not {volume.shape}")
    ratio = np.maximum(1, np.rint(step_mm / np.array(volume.spacing))).astype(int)
    blocks = [max(1, min(int(r), n // 2)) for r, n in zip(ratio, volume.shape, strict=True)]
    data = volume.data
    for axis, block in enumerate(blocks):
        data = _block_sums(data, axis, block)
    affine = volume.affine.copy()
    affine[:3, :3] = volume.affine[:3, :3] * np.array(blocks)
    affine[:3, 3] = apply_affine(volume.affine, (np.array(blocks) - 1) / 2)
    scale = np.float32(1.0 / np.prod(blocks))
    return Volume(np.ascontiguousarray(data, dtype=np.float32) * scale, affine)


def _block_sums(data: Array, axis: int, block: int) -> Array:
    """Sums over blocks of voxels along one axis, float32; an incomplete last block is left out."""
    if block == 1:
        return data
    count = data.shape[axis] // block * block
    places: list[slice] = [slice(None)] * 3
    places[axis] = slice(0, count, block)
    total = data[tuple(places)].astype(np.float32)
    for first in range(1, block):
        places[axis] = slice(first, count, block)
        total += data[tuple(places)]
    return total


def head_mask(volume: Volume) -> Mask:
    """The head: above 0.15 of the bright intensity, largest piece, filled.

    Raises:
        ImageRefused: the image is constant.
    """
    low = float(np.percentile(volume.data, 0.5))
    data = volume.data - low
    bright = data[data > data.mean()]
    if bright.size == 0:
        raise ImageRefused("the image is constant: there is nothing to register")
    pieces, count = ndimage.label(data > 0.15 * float(np.percentile(bright, 75)))
    if count == 0:
        return np.ones(volume.shape, dtype=bool)
    sizes = np.bincount(pieces.ravel())[1:]
    return np.asarray(ndimage.binary_fill_holes(pieces == int(sizes.argmax()) + 1), dtype=bool)


def core_mask(volume: Volume, head: Mask, depth_mm: float) -> Mask:
    """What lies at least `depth_mm` under the head's surface: brain rather than skin and fat.

    Skin moves and fat is displaced by chemical shift, differently in each sequence. The image's
    own border is no surface. Falls back to the head where less than a tenth of it would be left.
    """
    padded = np.pad(head, 1, mode="edge")
    depth = ndimage.distance_transform_edt(padded, sampling=volume.spacing)[1:-1, 1:-1, 1:-1]
    core = np.asarray(depth > depth_mm, dtype=bool)
    return core if 10 * int(core.sum()) > int(head.sum()) else head


def draw_samples(image: Volume, region: Volume, count: int, rng: np.random.Generator) -> Samples:
    """Sample points at random places of a region, off the grid.

    Places between voxels spread the blur of interpolation evenly over both images; on the grid,
    motions that lay one grid on the other would look better than they are.

    Args:
        image: Read at the points, linear.
        region: Non-zero where points may lie; its own grid in the same world.
        count: Points drawn.
        rng: Random stream.

    Returns:
        Points about the centre of the region.
    """
    voxels = np.flatnonzero(region.data)
    picks = np.sort(rng.integers(0, voxels.size, count))
    index = np.stack(np.unravel_index(voxels[picks], region.shape), axis=1)
    points = apply_affine(region.affine, index + rng.uniform(-0.5, 0.5, index.shape))
    place = apply_affine(inverse(image.affine), points)
    place = np.clip(place, 0, np.array(image.shape) - 1.0)
    values, _ = trilinear(np.asarray(image.data, np.float32), place.T.astype(np.float32))
    return Samples(points, values, points.mean(axis=0))
