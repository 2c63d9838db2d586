"""Masks and label values on another grid, each lesion with its volume kept."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage, spatial

from appliance.errors import ImageRefused
from appliance.imaging.grid import Grid, coarsening, crop_grid, grid_of, resample, same_grid
from appliance.imaging.volume import Volume, apply_affine, inverse

EVERY_NEIGHBOUR = np.ones((3, 3, 3), dtype=bool)
FAINT = 0.02
"""Shares below this part of what one voxel of the mask can give are the interpolation's ringing."""
SAME_MM = 1e-4
"""Grids whose voxels lie this near to each other are one lattice: what single precision leaves."""
ALIKE = 0.02
"""Shares that differ by less count as equal: the voxel nearer to the piece's centre goes first."""


@dataclass(frozen=True, slots=True, eq=False)
class _Shares:
    """Voxels of the target grid that hold a part of a mask.

    Attributes:
        places: (N,) flat indices on the target grid.
        shares: (N,) float32, 0 to 1.
        owners: (N,) the piece that each belongs to, from 1.
        distances: (N,) mm to the piece's centre.
        sizes: (pieces + 1,) the voxels of the target grid that each piece's own voxels fill, as far
            as they lie on it; at least 1 for a piece that reaches it.
    """

    places: NDArray[np.int64]
    shares: NDArray[np.float32]
    owners: NDArray[np.int64]
    distances: NDArray[np.float64]
    sizes: NDArray[np.int64]


def resample_labels(label: Volume, grid: Grid) -> NDArray[np.uint8]:
    """Label values on another grid, each connected piece with its volume kept.

    What counts is each voxel's share of the labels (cubic B-spline of the 0/1 mask, low-passed
    first where the grid is coarser). Each piece (26 neighbours) gets as many voxels as have its
    volume, at least one, and those with the largest shares: a threshold of one half would lose
    lesions thinner than half a voxel and shrink all small ones. Where several values meet, the
    largest share decides which it is; a piece that would vanish so keeps its own voxels.

    Args:
        label: Label values 0 to 255 on any grid.
        grid: Where the result stands.

    Returns:
        uint8 (X, Y, Z); on the label's own lattice exactly its values.

    Raises:
        ImageRefused: values outside 0 to 255, or fractions.
    """
    values = as_labels(label.data)
    present = np.flatnonzero(np.bincount(values.ravel(), minlength=256)[1:]) + 1
    if same_grid(grid_of(label), grid, SAME_MM):
        return values.copy()
    result = np.zeros(grid.shape, dtype=np.uint8)
    if present.size == 0:
        return result
    flat = result.reshape(-1)
    found = {int(v): _shares(Volume(values == v, label.affine), grid) for v in present}
    if present.size == 1:
        value = int(present[0])
        flat[_kept(found[value])[0]] = value
        return result
    chosen, _ = _kept(_shares(Volume(values > 0, label.affine), grid))
    best = np.zeros(flat.size, dtype=np.float32)
    wanted = np.zeros(flat.size, dtype=bool)
    wanted[chosen] = True
    for value, shares in found.items():
        wins = wanted[shares.places] & (shares.shares > best[shares.places])
        flat[shares.places[wins]] = value
        best[shares.places[wins]] = shares.shares[wins]
    for value, shares in found.items():
        places, owners = _kept(shares)
        there = np.zeros(shares.sizes.size, dtype=bool)
        there[owners[flat[places] == value]] = True
        flat[places[~there[owners]]] = value
    return result


def as_labels(values: NDArray[np.integer] | NDArray[np.floating]) -> NDArray[np.uint8]:
    """Label values as uint8.

    Raises:
        ImageRefused: values outside 0 to 255, or fractions.
    """
    if values.dtype == np.uint8:
        return np.asarray(values, dtype=np.uint8)
    if values.size and (values.min() < 0 or values.max() > 255):
        raise ImageRefused("label values must lie between 0 and 255")
    labels = values.astype(np.uint8)
    if not np.array_equal(labels, values):
        raise ImageRefused("label values must be whole numbers")
    return labels


def _shares(mask: Volume, grid: Grid) -> _Shares:
    """The mask's share of each voxel of the grid, only about the mask."""
    index = inverse(mask.affine) @ grid.affine
    wide = int(np.ceil(2 * float(coarsening(index).max()))) + 4
    near, box = crop_grid(grid_of(mask), np.asarray(mask.data, dtype=bool), wide)
    inside = np.asarray(mask.data[box], dtype=bool)
    part, first = _target_part(near, grid)
    pieces, count = ndimage.label(inside, EVERY_NEIGHBOUR)
    voxels = np.argwhere(inside)
    piece_of = pieces[inside]
    there = apply_affine(inverse(grid.affine) @ near.affine, voxels)
    on_grid = np.all((there >= -0.5) & (there < np.array(grid.shape) - 0.5), axis=1)
    sizes = np.bincount(piece_of[on_grid], minlength=count + 1)
    ratio = abs(float(np.linalg.det(near.affine[:3, :3]) / np.linalg.det(grid.affine[:3, :3])))
    wanted = np.maximum(np.floor(sizes * ratio + 0.5).astype(np.int64), sizes > 0)
    if part is None:
        nothing = np.zeros(0, dtype=np.int64)
        far = np.zeros(0, dtype=np.float64)
        return _Shares(nothing, nothing.astype(np.float32), nothing, far, wanted)
    grey = Volume(inside.astype(np.float32), near.affine)
    share = resample(grey, part, interpolation="cubic").data
    places = np.argwhere(share >= FAINT * min(1.0, ratio))
    shares = share[tuple(places.T)]
    owners = np.ones(len(places), dtype=np.int64)
    world, found = apply_affine(near.affine, voxels), apply_affine(part.affine, places)
    if count > 1 and len(places):
        _, nearest = spatial.cKDTree(world).query(found)
        owners = piece_of[nearest].astype(np.int64)
    counts = np.maximum(np.bincount(piece_of, minlength=count + 1), 1)
    sums = [np.bincount(piece_of, weights=world[:, a], minlength=count + 1) for a in range(3)]
    centres = np.stack(sums, axis=1) / counts[:, None]
    distances = np.linalg.norm(found - centres[owners], axis=1)
    flat = np.ravel_multi_index(tuple((places + first).T), grid.shape)
    return _Shares(np.asarray(flat, dtype=np.int64), shares, owners, distances, wanted)


def _target_part(near: Grid, grid: Grid) -> tuple[Grid | None, NDArray[np.int64]]:
    """The part of a grid that another one can reach, and where it begins; None for none."""
    ends = np.array(np.meshgrid(*[(-0.5, n - 0.5) for n in near.shape])).reshape(3, -1).T
    reach = apply_affine(inverse(grid.affine) @ near.affine, ends)
    first = np.maximum(0, np.floor(reach.min(axis=0)).astype(np.int64))
    last = np.minimum(np.array(grid.shape), np.ceil(reach.max(axis=0)).astype(np.int64) + 1)
    if np.any(last <= first):
        return None, first
    affine = grid.affine.copy()
    affine[:3, 3] = apply_affine(grid.affine, first)
    x, y, z = (last - first).tolist()
    return Grid((int(x), int(y), int(z)), affine), first


def _kept(found: _Shares) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The places that the pieces keep, and whose each is."""
    steps = np.round(found.shares / ALIKE)
    order = np.lexsort((found.places, np.round(found.distances, 3), -steps, found.owners))
    owners = found.owners[order]
    starts = np.searchsorted(owners, np.arange(found.sizes.size + 1))
    rank = np.arange(len(order)) - starts[owners]
    kept = rank < found.sizes[owners]
    return found.places[order][kept], owners[kept]
