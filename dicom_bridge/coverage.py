"""What share of each voxel of one grid a structure covers that was drawn on another grid.

Nearest-neighbour reading keeps or drops a thin structure by chance where voxels get larger. Here a
voxel of the wanted grid is sampled at as many inner points as it spans voxels of the structure's
own grid (8 per axis at most), each read by linear interpolation. Taking every voxel that is half
covered would shrink what is small: lesions of multiple sclerosis lose a sixth of their volume from
1 to 3 mm slices. So each connected piece gets as many voxels as have its volume, those with the
largest shares. On grids that differ by axis order or by whole voxels only, the structure comes back
voxel for voxel.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from dicom_bridge.geometry import FloatArray

MOST_SAMPLES = 8
"""Inner points per axis of a voxel."""
FAINT = 0.02
"""Smaller shares are no part of a piece."""
CORNERS = np.ones((3, 3, 3), dtype=np.bool_)


def coverage(
    mask: NDArray[np.generic], index: FloatArray, shape: Sequence[int]
) -> NDArray[np.float32]:
    """The share of each wanted voxel that a structure covers.

    Args:
        mask: (X, Y, Z) share of each voxel of its own grid, 0 to 1; boolean for a plain mask.
        index: (4, 4) wanted voxel index to the mask's voxel index.
        shape: (I, J, K) of the wanted grid.

    Returns:
        (I, J, K) share, 0 to 1; nothing lies outside the mask's grid.
    """
    index = np.asarray(index, dtype=np.float64)
    result = np.zeros(tuple(shape), dtype=np.float32)
    found = ndimage.find_objects((mask != 0).astype(np.uint8))
    if not found or found[0] is None:
        return result
    part = found[0]
    low = np.array([s.start for s in part], dtype=np.float64)
    high = np.array([s.stop - 1 for s in part], dtype=np.float64)
    box = _box(low - 1, high + 1, index, shape)
    if any(s.stop <= s.start for s in box):
        return result
    piece = np.asarray(mask[part], dtype=np.float32)
    total = np.zeros(tuple(s.stop - s.start for s in box), dtype=np.float32)
    offsets = list(_inner_points(index))
    start = np.array([s.start for s in box], dtype=np.float64)
    for point in offsets:
        shift = index[:3, :3] @ (start + point) + index[:3, 3] - low
        total += ndimage.affine_transform(
            piece, index[:3, :3], shift, total.shape, np.float32, 1, "grid-constant", 0.0, False
        )
    result[box] = total / np.float32(len(offsets))
    return result


def whole_voxels(share: NDArray[np.float32]) -> NDArray[np.bool_]:
    """The voxels of a structure of which only shares are known.

    Args:
        share: (I, J, K) share of each voxel, 0 to 1.

    Returns:
        (I, J, K): of each connected piece (26 neighbours) the voxels with the largest shares, as
        many as have the piece's volume and one at least; of equal shares the first in the array.
    """
    pieces, count = ndimage.label(share >= FAINT, structure=CORNERS)
    result = np.zeros(share.shape, dtype=np.bool_)
    if not count:
        return result
    places = np.flatnonzero(pieces)
    owners, shares = pieces.ravel()[places], share.ravel()[places]
    wanted = np.bincount(owners, weights=shares, minlength=count + 1)
    wanted = np.maximum(np.floor(wanted + 0.5), 1).astype(np.int64)
    order = np.lexsort((places, -np.round(shares, 5), owners))
    owners = owners[order]
    rank = np.arange(len(order)) - np.searchsorted(owners, np.arange(count + 1))[owners]
    result.ravel()[places[order][rank < wanted[owners]]] = True
    return result


def share_outside(mask: NDArray[np.generic], index: FloatArray, shape: Sequence[int]) -> float:
    """The share of a structure that lies outside a grid.

    A voxel is outside where its centre lies beyond the grid's border by more than half of itself.

    Args:
        mask: (X, Y, Z), non-zero inside.
        index: (4, 4) grid voxel index to the mask's voxel index.
        shape: (I, J, K) of the grid.

    Returns:
        0 to 1; 0 for an empty mask.
    """
    places = np.argwhere(mask)
    if places.size == 0:
        return 0.0
    back = np.linalg.inv(np.asarray(index, dtype=np.float64))
    found = places @ back[:3, :3].T + back[:3, 3]
    margin = 0.5 + 0.5 * np.abs(back[:3, :3]).max(axis=1) + 1e-3
    upper = np.asarray(tuple(shape), dtype=np.float64) - 1 + margin
    return float(np.mean(np.any((found < -margin) | (found > upper), axis=1)))


def _box(
    low: FloatArray, high: FloatArray, index: FloatArray, shape: Sequence[int]
) -> tuple[slice, slice, slice]:
    """The part of the wanted grid that the mask's box can reach."""
    back = np.linalg.inv(index)
    corners = np.array(list(itertools.product(*zip(low, high, strict=True))))
    found = corners @ back[:3, :3].T + back[:3, 3]
    first = np.maximum(np.floor(found.min(axis=0)) - 1, 0).astype(int)
    last = np.minimum(np.ceil(found.max(axis=0)) + 2, np.asarray(tuple(shape))).astype(int)
    x, y, z = (slice(int(a), int(b)) for a, b in zip(first, last, strict=True))
    return x, y, z


def _inner_points(index: FloatArray) -> itertools.product[tuple[float, ...]]:
    """Evenly spread points of a wanted voxel, relative to its centre, in voxels."""
    steps = np.abs(index[:3, :3]).max(axis=0)
    counts = np.clip(np.ceil(steps - 1e-3), 1, MOST_SAMPLES).astype(int)
    axes = [[(i + 0.5) / n - 0.5 for i in range(n)] for n in counts.tolist()]
    return itertools.product(*axes)
