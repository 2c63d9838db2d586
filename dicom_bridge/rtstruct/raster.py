"""Contours to voxels on the grid of the series that they were drawn on.

A voxel belongs to a region where its centre lies inside. In a slice that is the polygons' even-odd
rule (`dicom_bridge.rtstruct.polygons`). Across slices each plane of contours stands for the slab
half-way to its neighbours: contours finer than the slices are read at the slices' centres, contours
on every second slice fill the one between them, and a plane that is missing from a regular row
stays missing. The slab ends half of the region's usual distance beyond its first and last plane.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dicom_bridge.convert.source import SourceSeries
from dicom_bridge.geometry import LPS_TO_RAS, FloatArray
from dicom_bridge.rtstruct.model import Contour, Filled, StructuresRefused
from dicom_bridge.rtstruct.polygons import region

CLOSED = frozenset({"CLOSED_PLANAR", "CLOSEDPLANAR_XOR"})
XOR = "CLOSEDPLANAR_XOR"
FLAT_SHARE = 0.1
"""How far, in slice distances, the points of one contour may lie from one plane."""
SAME_PLANE_SHARE, SAME_PLANE_MM = 0.05, 0.1
"""Contours closer than this share of a slice distance, and than this, lie in one plane."""
REGULAR = 1.5
"""Planes further apart than this times the usual distance have a gap between them."""
BORDER_VOXELS = 1.01
"""How far beyond the outermost pixel centres a corner may lie."""
MAX_PATH_PIXELS = 20_000_000
"""Length of all contours of a region together; a body outline over 300 slices has 600 000."""


@dataclass(frozen=True, slots=True, eq=False)
class _Level:
    """The contours of one plane: height along the normal, mm, and the half-slab around it."""

    height: float
    contours: tuple[Contour, ...]
    below: float = 0.0
    above: float = 0.0


def fill_region(
    contours: Sequence[Contour], source: SourceSeries
) -> tuple[NDArray[np.uint8], Filled]:
    """The voxels of one region.

    Args:
        contours: the region's contours.
        source: the series that they were drawn on; its slices may be unevenly apart.

    Returns:
        (I, J, K) uint8 0/1 on the series' own grid (column, row, slice), and what happened.

    Raises:
        StructuresRefused: no closed contour, contours that do not lie in the slices' planes or
            outside the series, or contours of both ways of making holes.
    """
    notes: list[str] = []
    usable = [c for c in contours if c.kind in CLOSED and len(c.points) >= 3]
    if len(usable) < len(contours):
        notes.append(f"{len(contours) - len(usable)} contours enclose no area: left out")
    if not usable:
        raise StructuresRefused("the region has no closed contour in a plane")
    kinds = {contour.kind for contour in usable}
    if len(kinds) > 1:
        raise StructuresRefused("the region mixes CLOSED_PLANAR and CLOSEDPLANAR_XOR contours")
    pixel = min(float(text) for text in source.PixelSpacing)
    if sum(_length(contour.points) for contour in usable) > MAX_PATH_PIXELS * pixel:
        raise StructuresRefused("the region's contours run to and fro beyond all measure: not read")
    mask = np.zeros((source.Columns, source.Rows, len(source.frames)), dtype=np.uint8)
    heights = source.positions() @ source.normal()
    levels = _levels(usable, source, heights)
    for k, level in _slices(levels, heights):
        flat = [_in_slice(contour.points, source, k) for contour in level.contours]
        plane, words = region(flat, (source.Columns, source.Rows), xor=kinds == {XOR})
        mask[:, :, k] = plane
        notes += words
    if len(levels) > 1 and _gaps(levels):
        notes.append("the region's planes have gaps: nothing was filled in there")
    filled = Filled(
        voxels=int(np.count_nonzero(mask)),
        slices=int(np.count_nonzero(mask.any(axis=(0, 1)))),
        notes=tuple(dict.fromkeys(notes)),
    )
    return mask, filled


def _levels(contours: Sequence[Contour], source: SourceSeries, heights: FloatArray) -> list[_Level]:
    """The contours plane by plane, from the lowest, each with its slab."""
    distance = _distance(heights, source)
    normal = source.normal()
    placed: list[tuple[float, Contour]] = []
    for contour in contours:
        along = contour.points @ normal
        if float(along.max() - along.min()) > 2 * FLAT_SHARE * distance:
            raise StructuresRefused(
                "a contour does not lie in a plane of the series' slices: it was drawn on another "
                "orientation"
            )
        placed.append((float(along.mean()), contour))
    placed.sort(key=lambda pair: pair[0])
    groups: list[list[tuple[float, Contour]]] = []
    close = min(SAME_PLANE_SHARE * distance, SAME_PLANE_MM)
    for pair in placed:
        if groups and pair[0] - groups[-1][0][0] <= close:
            groups[-1].append(pair)
        else:
            groups.append([pair])
    middles = [float(np.mean([height for height, _ in group])) for group in groups]
    low, high = float(heights.min()), float(heights.max())
    if middles[0] < low - 0.51 * distance or middles[-1] > high + 0.51 * distance:
        raise StructuresRefused("the region has contours outside the series: above or below it")
    steps = np.diff(middles)
    usual = float(np.median(steps)) if len(steps) else distance
    halves = [float(step) / 2 if step <= REGULAR * usual else usual / 2 for step in steps]
    below, above = [usual / 2, *halves], [*halves, usual / 2]
    return [
        _Level(middle, tuple(contour for _, contour in group), below[n], above[n])
        for n, (middle, group) in enumerate(zip(middles, groups, strict=True))
    ]


def _slices(levels: Sequence[_Level], heights: FloatArray) -> list[tuple[int, _Level]]:
    """Slices whose centre lies in a plane's slab; its lower border belongs to it."""
    found = []
    for k, height in enumerate(heights.tolist()):
        for level in levels:
            tolerance = 1e-3 * (level.below + level.above)
            if (
                level.height - level.below - tolerance
                <= height
                < level.height + level.above - tolerance
            ):
                found.append((k, level))
                break
    return found


def _length(points: FloatArray) -> float:
    """Length of a closed contour, mm."""
    return float(np.linalg.norm(points - np.roll(points, 1, axis=0), axis=1).sum())


def _gaps(levels: Sequence[_Level]) -> bool:
    steps = np.diff([level.height for level in levels])
    return bool(np.any(steps > REGULAR * float(np.median(steps))))


def _distance(heights: FloatArray, source: SourceSeries) -> float:
    if len(heights) > 1:
        return float(np.median(np.abs(np.diff(heights))))
    return source.SpacingBetweenSlices or 1.0


def _in_slice(points: FloatArray, source: SourceSeries, k: int) -> FloatArray:
    """(n, 2) column and row of points in a slice.

    Raises:
        StructuresRefused: a point outside the image.
    """
    index = np.linalg.inv(LPS_TO_RAS @ source.slice_affine(k))
    flat = np.asarray(points @ index[:3, :3].T + index[:3, 3], dtype=np.float64)[:, :2]
    upper = np.array([source.Columns - 1, source.Rows - 1]) + BORDER_VOXELS
    if np.any(flat < -BORDER_VOXELS) or np.any(flat > upper):
        raise StructuresRefused("the region has contours outside the series' images")
    return flat
