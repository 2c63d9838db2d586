"""Bringing a label mask from any grid onto the slices of a source series, by nearest neighbour."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from dicom_bridge.convert.source import SourceSeries
from dicom_bridge.errors import SegRefused
from dicom_bridge.geometry import (
    FloatArray,
    align_to_grid,
    covers,
    resample_labels,
    signed_permutation,
)
from dicom_bridge.seg.model import Coverage

ON_LATTICE_VOXELS = 0.01


def on_source_grid(
    mask: NDArray[np.uint8], affine: FloatArray, source: SourceSeries, coverage: Coverage = "whole"
) -> NDArray[np.uint8]:
    """A label mask on the series' own grid.

    Args:
        mask: (X, Y, Z) label values.
        affine: (4, 4) the mask's index to RAS mm.
        source: the series; its slices may be unevenly apart.
        coverage: how much of the series the mask must cover (see `SegRequest.coverage`).

    Returns:
        (I, J, K) labels on (column, row, slice). A mask whose grid differs by axis order or by
        cropping only comes back voxel for voxel.

    Raises:
        SegRefused: the mask does not cover the series, has labels outside it, or vanishes.
    """
    affine = np.asarray(affine, dtype=np.float64)
    if abs(float(np.linalg.det(affine[:3, :3]))) < 1e-9:
        raise SegRefused("the mask's affine cannot be inverted")
    if not _covers_all(mask.shape, affine, source):
        allowed = coverage == "part" or (coverage == "crop" and on_lattice(affine, source))
        if not allowed:
            raise SegRefused(
                "the mask does not cover the series: bring it to a grid that holds every slice"
            )
        if _labels_outside(mask, affine, source):
            raise SegRefused("the mask has labels outside the series: it belongs to another one")
    labels = _sampled(mask, affine, source)
    if not np.any(labels):
        raise SegRefused("the mask vanishes on the series' grid: its structures are too small")
    return labels


def on_lattice(affine: FloatArray, source: SourceSeries) -> bool:
    """Whether a grid's voxel centres are voxel centres of an even series' grid, extended."""
    if not source.even:
        return False
    change = np.linalg.inv(source.geometry.affine) @ affine
    if signed_permutation(change[:3, :3]) is None:
        return False
    offset = change[:3, 3]
    return bool(np.max(np.abs(offset - np.rint(offset))) <= ON_LATTICE_VOXELS)


def _covers_all(shape: tuple[int, ...], affine: FloatArray, source: SourceSeries) -> bool:
    if source.even:
        return covers(shape, affine, source.geometry)
    upper = np.asarray(shape, dtype=np.float64) - 0.5
    for k in (0, len(source.frames) - 1):
        plane = np.linalg.inv(affine) @ source.slice_affine(k)
        corners = np.array(
            [[i, j, 0, 1] for i in (0, source.Columns - 1) for j in (0, source.Rows - 1)]
        )
        index = (corners @ plane.T)[:, :3]
        if np.any(index < -0.501) or np.any(index > upper + 1e-3):
            return False
    return True


def _labels_outside(mask: NDArray[np.uint8], affine: FloatArray, source: SourceSeries) -> bool:
    """Whether a label's voxel centre lies more than half a voxel outside the series' box."""
    places = np.argwhere(mask)
    if places.size == 0:
        return False
    change = np.linalg.inv(source.geometry.affine) @ affine
    index = (np.c_[places, np.ones(len(places))] @ change.T)[:, :3]
    upper = np.asarray(source.geometry.shape, dtype=np.float64) - 0.5
    return bool(np.any(index < -0.51) or np.any(index > upper + 0.01))


def _sampled(
    mask: NDArray[np.uint8], affine: FloatArray, source: SourceSeries
) -> NDArray[np.uint8]:
    if source.even:
        same = align_to_grid(mask, affine, source.geometry)
        if same is not None:
            return np.ascontiguousarray(same, dtype=np.uint8)
    # one voxel of background around it: outside the mask is background, not its edge's label
    padded = np.pad(mask, 1)
    shifted = affine.copy()
    shifted[:3, 3] -= affine[:3, :3] @ np.ones(3)
    if source.even:
        return resample_labels(padded, shifted, source.geometry)
    planes = [_plane(padded, shifted, source, k) for k in range(len(source.frames))]
    return np.stack(planes, axis=2)


def _plane(
    mask: NDArray[np.uint8], affine: FloatArray, source: SourceSeries, k: int
) -> NDArray[np.uint8]:
    """(I, J) labels of one slice, from the mask's voxel nearest to each pixel's centre."""
    change = np.linalg.inv(affine) @ source.slice_affine(k)
    i, j = np.meshgrid(np.arange(source.Columns), np.arange(source.Rows), indexing="ij")
    index = np.stack([i, j, np.zeros_like(i), np.ones_like(i)], axis=-1) @ change.T
    whole = np.rint(index[..., :3]).astype(np.int64)
    limit = np.asarray(mask.shape) - 1
    near = np.clip(whole, 0, limit)
    values: NDArray[np.uint8] = mask[near[..., 0], near[..., 1], near[..., 2]]
    return values
