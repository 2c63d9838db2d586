"""A SEG that refers to a series but stands on another grid, brought onto the series' slices.

Viewers write such segmentations when somebody drew on a reformatted or interpolated view, or on a
part of the image. Both grids lie in the series' frame of reference, so that no registration is
needed; what share of each voxel a segment covers decides, and each piece keeps its volume
(`dicom_bridge.coverage`).
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset

from dicom_bridge.convert.frames import attribute
from dicom_bridge.convert.source import SourceSeries
from dicom_bridge.coverage import coverage, share_outside, whole_voxels
from dicom_bridge.errors import SegRefused
from dicom_bridge.geometry import FloatArray
from dicom_bridge.seg.model import SegContent
from dicom_bridge.seg.read import content_of, shares_on_own_grid

OUTSIDE_SHARE = 1e-3
"""More than this share of a segment outside its series refuses it."""


def resampled(dataset: Dataset, source: SourceSeries) -> SegContent:
    """All segments on the series' own grid.

    Args:
        dataset: a SEG with pixel data that refers to the series.
        source: the series; its slices may be unevenly apart.

    Returns:
        The content, marked as resampled.

    Raises:
        SegRefused: another frame of reference, voxels outside the series, or a grid of the SEG's
            own that is none.
    """
    frame = str(attribute(dataset, "FrameOfReferenceUID") or "")
    if frame and source.FrameOfReferenceUID and frame != source.FrameOfReferenceUID:
        raise SegRefused("the SEG stands on another grid and in another frame of reference")
    shares, own = shares_on_own_grid(dataset)
    masks: dict[int, NDArray[np.uint8]] = {}
    for number, share in shares.items():
        masks[number] = onto_series(share.astype(np.float32) / np.float32(255), own.affine, source)
    content = content_of(dataset, masks, source.geometry.affine, source.SeriesInstanceUID)
    return replace(content, resampled=True)


def onto_series(
    share: NDArray[np.float32], affine: FloatArray, source: SourceSeries
) -> NDArray[np.uint8]:
    """One structure on the slices of a series.

    Args:
        share: (X, Y, Z) share of each voxel of its own grid, 0 to 1.
        affine: (4, 4) its index to RAS mm.
        source: the series.

    Returns:
        (I, J, K) uint8 0/1, each connected piece with its volume.

    Raises:
        SegRefused: part of the structure lies outside the series.
    """
    inverse = np.linalg.inv(affine)
    geometry = source.geometry
    outside = share_outside(share >= 0.5, inverse @ geometry.affine, geometry.shape)
    if outside > OUTSIDE_SHARE:
        raise SegRefused(f"{outside:.0%} of a segment lie outside its series")
    if source.even:
        found = coverage(share, inverse @ geometry.affine, geometry.shape)
        return whole_voxels(found).astype(np.uint8)
    planes = []
    thickness = _thickness(source)
    for k, high in enumerate(thickness):
        plane = source.slice_affine(k)
        plane[:3, 2] *= high
        planes.append(coverage(share, inverse @ plane, (*geometry.shape[:2], 1))[:, :, 0])
    return whole_voxels(np.stack(planes, axis=2)).astype(np.uint8)


def _thickness(source: SourceSeries) -> list[float]:
    """How much of the way to its neighbours each slice of an uneven series stands for, mm."""
    heights = source.positions() @ source.normal()
    steps = np.diff(heights)
    around = np.r_[steps[:1], (steps[:-1] + steps[1:]) / 2, steps[-1:]]
    return [float(value) for value in np.abs(around)]
