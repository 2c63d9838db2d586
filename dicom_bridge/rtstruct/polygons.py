"""Polygons to pixels: a pixel belongs to a region where its centre lies inside.

Coordinates are (column, row) indices: whole numbers are pixel centres, as ImagePositionPatient
gives the centre of the first pixel (PS3.3 C.7.6.2.1.1). A centre exactly on an edge belongs to one
side only, so that two regions that share an edge share no pixel.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dicom_bridge.geometry import FloatArray
from dicom_bridge.rtstruct.model import StructuresRefused

Plane = NDArray[np.bool_]

MAX_CROSSINGS = 10_000_000
MAX_CONTOURS_PER_PLANE = 5_000
NESTED = 0.9
"""A contour of which this share lies inside others is nested in them."""
APART = 0.1
"""A contour of which at most this share lies inside others is apart from them."""
CROSSED = "contours of one region cross each other: their areas were added"
REPEATED = "a contour is there twice: taken once"


@dataclass(frozen=True, slots=True, eq=False)
class Patch:
    """A filled polygon inside its box.

    Attributes:
        mask: (columns, rows) of the box.
        place: first column and row of the box.
    """

    mask: Plane
    place: tuple[int, int]

    def of(self, plane: Plane) -> Plane:
        """The same box of a whole plane, as a view."""
        (i, j), (columns, rows) = self.place, self.mask.shape
        return plane[i : i + columns, j : j + rows]


def fill(points: FloatArray, shape: tuple[int, int]) -> Patch:
    """The pixels whose centres lie inside a closed polygon (even-odd rule).

    Even-odd makes an inner contour that is reached by a channel of no width (the keyhole technique
    of PS3.3 C.8.8.6.3) a hole: the channel's two edges cancel.

    Args:
        points: (n, 2) column and row of the corners; the last is joined to the first.
        shape: columns and rows of the image.

    Raises:
        StructuresRefused: edges that cross more rows in all than the limit.
    """
    columns, rows = shape
    low = np.clip(np.floor(points.min(axis=0)).astype(np.int64), 0, [columns, rows])
    high = np.clip(np.ceil(points.max(axis=0)).astype(np.int64) + 1, 0, [columns, rows])
    width, height = (int(n) for n in np.maximum(high - low, 0))
    place = (int(low[0]), int(low[1]))
    if not width or not height:
        return Patch(np.zeros((width, height), dtype=np.bool_), place)
    start = points - low
    end = np.roll(start, -1, axis=0)
    column, row = _crossings(start, end, height)
    toggles = np.bincount(
        row * (width + 1) + np.clip(column, 0, width), minlength=height * (width + 1)
    )
    odd = np.cumsum(toggles.reshape(height, width + 1)[:, :width], axis=1) % 2
    return Patch(np.ascontiguousarray(odd.T == 1), place)


def _crossings(
    start: FloatArray, end: FloatArray, height: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """First column at or right of where an edge crosses a row's centre line, and the row."""
    top, bottom = np.minimum(start[:, 1], end[:, 1]), np.maximum(start[:, 1], end[:, 1])
    first = np.clip(np.ceil(top), 0, height).astype(np.int64)
    last = np.clip(np.ceil(bottom), 0, height).astype(np.int64)  # rows first <= row < last
    counts = last - first
    total = int(counts.sum())
    if total > MAX_CROSSINGS:
        raise StructuresRefused("a contour's edges run to and fro beyond all measure: not read")
    edge = np.repeat(np.arange(len(counts)), counts)
    row = np.arange(total) - np.repeat(np.cumsum(counts) - counts, counts) + first[edge]
    with np.errstate(divide="ignore", invalid="ignore"):
        slope = (end[:, 0] - start[:, 0]) / (end[:, 1] - start[:, 1])
    x = start[edge, 0] + (row - start[edge, 1]) * slope[edge]
    return np.ceil(np.clip(x, -1, 1e9)).astype(np.int64), row


def region(
    contours: Sequence[FloatArray], shape: tuple[int, int], *, xor: bool
) -> tuple[Plane, tuple[str, ...]]:
    """The pixels of all contours of a region that lie in one plane.

    Args:
        contours: (n, 2) column and row of each contour's corners.
        shape: columns and rows of the image.
        xor: the contours are CLOSEDPLANAR_XOR: a pixel belongs where an odd number covers it.
            Otherwise (CLOSED_PLANAR) a contour inside the region is a hole, one inside a hole is an
            island and so on, as practice has it; contours that cross are added, where an
            exclusive or would leave a hole where two readings overlap.

    Returns:
        (columns, rows) of the region, and what was decided, in words.

    Raises:
        StructuresRefused: too many contours in one plane, or see `fill`.
    """
    if len(contours) > MAX_CONTOURS_PER_PLANE:
        raise StructuresRefused(f"more than {MAX_CONTOURS_PER_PLANE} contours in one plane")
    plane = np.zeros(shape, dtype=np.bool_)
    patches = [fill(points, shape) for points in contours]
    if xor:
        for patch in patches:
            patch.of(plane)[...] ^= patch.mask
        return plane, ()
    footprint = np.zeros(shape, dtype=np.bool_)
    notes: set[str] = set()
    seen: set[tuple[tuple[int, int], bytes]] = set()
    order = sorted(range(len(patches)), key=lambda n: (-_area(contours[n]), n))
    for patch in (patches[n] for n in order):
        pixels = int(patch.mask.sum())
        if not pixels:
            continue
        key = (patch.place, patch.mask.tobytes())
        if key in seen:
            notes.add(REPEATED)
            continue
        seen.add(key)
        if note := _add(patch, pixels, plane, footprint):
            notes.add(note)
    return plane, tuple(sorted(notes))


def _add(patch: Patch, pixels: int, plane: Plane, footprint: Plane) -> str:
    """Take the next smaller contour: part of the region, hole or island."""
    here, before = patch.of(plane), patch.of(footprint)
    covered = float(np.count_nonzero(before & patch.mask)) / pixels
    filled = float(np.count_nonzero(here & patch.mask)) / pixels
    before |= patch.mask
    if covered < NESTED:
        here |= patch.mask
        return CROSSED if covered > APART else ""
    if filled <= APART:
        here |= patch.mask
        return ""
    here &= ~patch.mask
    return CROSSED if filled < NESTED else ""


def _area(points: FloatArray) -> float:
    """A polygon's area in pixels (shoelace formula)."""
    x, y = points[:, 0] - points[0, 0], points[:, 1] - points[0, 1]
    return abs(float(x @ np.roll(y, -1) - y @ np.roll(x, -1))) / 2
