"""Skull, scalp, neck and face around a brain, drawn in MNI coordinates (RAS, mm)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from appliance.demo.phantom.tissue import Tissue

Floats = NDArray[np.float32]
Mask = NDArray[np.bool_]
Triple = tuple[float, float, float]


@dataclass(frozen=True, slots=True, eq=False)
class FaceShapes:
    """Coordinates of the head's voxels and the shapes that are drawn with them.

    Attributes:
        x: MNI x of the voxels along the first axis (left to right).
        y: MNI y along the second axis (back to front).
        z: MNI z along the third axis (bottom to top).
        distance: Distance to the brain's hull in mm, negative inside, axes (X, Y, Z).
    """

    x: Floats
    y: Floats
    z: Floats
    distance: Floats

    def window(self, centre: Triple, reach: Triple) -> tuple[slice, slice, slice]:
        """Slices of the box `centre` plus and minus `reach`."""
        out = []
        for axis, middle, half in zip((self.x, self.y, self.z), centre, reach, strict=True):
            first, last = np.searchsorted(axis, (middle - half, middle + half))
            out.append(slice(int(first), int(last) + 1))
        return out[0], out[1], out[2]

    def grid(self, box: tuple[slice, slice, slice]) -> tuple[Floats, Floats, Floats]:
        """Coordinates within a box, ready for broadcasting."""
        x, y, z = np.meshgrid(
            self.x[box[0]], self.y[box[1]], self.z[box[2]], indexing="ij", sparse=True
        )
        return x, y, z

    def ellipsoid(
        self, centre: Triple, axes: Triple, power: float = 2.0
    ) -> tuple[tuple[slice, slice, slice], Mask]:
        """A (super-)ellipsoid: its box and the voxels within that box."""
        box = self.window(centre, axes)
        x, y, z = self.grid(box)
        inside = (
            np.abs((x - centre[0]) / axes[0]) ** power
            + np.abs((y - centre[1]) / axes[1]) ** power
            + np.abs((z - centre[2]) / axes[2]) ** power
        ) <= 1.0
        return box, inside


def draw_head(shapes: FaceShapes) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Everything but the brain itself.

    Args:
        shapes: Coordinates and the distance to the brain.

    Returns:
        Tissue values and the face mask (0 or 1), uint8, axes (X, Y, Z).
    """
    flesh = _outline(shapes)
    tissue = np.zeros(shapes.distance.shape, dtype=np.uint8)
    tissue[flesh] = Tissue.MUSCLE
    _skin_and_fat(tissue, flesh)
    _cranium(shapes, tissue, flesh)
    _neck(shapes, tissue)
    _jaw(shapes, tissue)
    _airways(shapes, tissue)
    for side in (-1.0, 1.0):
        _orbit(shapes, tissue, side)
    tissue[(shapes.distance < 2.0) & (tissue != Tissue.CORD)] = Tissue.FLUID
    return tissue, _face_region(shapes, tissue)


def _paint(tissue: NDArray[np.uint8], part: tuple[tuple[slice, ...], Mask], kind: Tissue) -> None:
    """Give the voxels of a shape a tissue."""
    box, inside = part
    tissue[box][inside] = kind


def _outline(shapes: FaceShapes) -> Mask:
    """All voxels within the skin."""
    x, y, z = np.meshgrid(shapes.x, shapes.y, shapes.z, indexing="ij", sparse=True)
    flesh = shapes.distance < 13.5 + 2.0 * np.clip(-y / 90.0, 0, 1)
    solid: tuple[tuple[Triple, Triple, float], ...] = (
        ((0, 34, -62), (66, 56, 52), 2.6),  # cheeks and upper jaw
        ((0, 36, -98), (53, 50, 36), 2.4),  # lower jaw
        ((0, 68, -112), (22, 22, 17), 2.0),  # chin
        ((0, 76, -86), (27, 19, 10), 2.0),  # lips
        ((-31, 64, -38), (21, 21, 17), 2.0),  # lids
        ((31, 64, -38), (21, 21, 17), 2.0),
        ((0, 74, -14), (52, 15, 12), 2.4),  # brows
        ((-77, -22, -44), (9, 17, 27), 2.0),  # ears
        ((77, -22, -44), (9, 17, 27), 2.0),
    )
    for centre, axes, power in solid:
        box, inside = shapes.ellipsoid(centre, axes, power)
        flesh[box] |= inside
    flesh |= ((x / 56) ** 2 + ((y + 20) / 60) ** 2 <= 1) & (z < -58)
    down = np.clip((-26.0 - z) / 42.0, 0.0, 1.0)
    below = np.clip((-68.0 - z) / 10.0, 0.0, 1.0)
    reach = 86.0 + 25.0 * down * (1.0 - below)
    width = (6.0 + 11.0 * down**1.5) * np.sqrt(np.clip((reach + 2 - y) / 26.0, 0.05, 1.0))
    flesh |= (y > 60) & (y < reach) & (np.abs(x) < width) & (z < -26) & (z > -78)
    return np.asarray(flesh, dtype=np.bool_)


def _erode(mask: Mask, times: int) -> Mask:
    """Erosion by a cross, by shifting (quicker than a general filter)."""
    out = mask.copy()
    for _ in range(times):
        inner = out.copy()
        for axis in range(3):
            low = [slice(None)] * 3
            high = [slice(None)] * 3
            low[axis], high[axis] = slice(0, -1), slice(1, None)
            inner[tuple(low)] &= out[tuple(high)]
            inner[tuple(high)] &= out[tuple(low)]
        out = inner
    return out


def _skin_and_fat(tissue: NDArray[np.uint8], flesh: Mask) -> None:
    """Two layers below the surface."""
    skin = _erode(flesh, 1)
    fat = _erode(skin, 3)
    tissue[flesh & ~fat] = Tissue.FAT
    tissue[flesh & ~skin] = Tissue.SKIN


def _cranium(shapes: FaceShapes, tissue: NDArray[np.uint8], flesh: Mask) -> None:
    """Skull: two tables with marrow between; thicker bone at the base."""
    distance = shapes.distance
    z = shapes.z[None, None, :]
    outer = 8.5 + 2.5 * np.clip((-20.0 - z) / 40.0, 0.0, 1.0)
    skull = flesh & (distance >= 1.5) & (distance < outer)
    tissue[skull] = Tissue.BONE
    tissue[skull & (distance > 3.5) & (distance < outer - 2.0)] = Tissue.MARROW
    for side in (-1.0, 1.0):
        _paint(tissue, shapes.ellipsoid((58 * side, -30, -46), (14, 20, 18)), Tissue.BONE)
        _paint(tissue, shapes.ellipsoid((60 * side, -34, -52), (8, 12, 11)), Tissue.AIR)


def _neck(shapes: FaceShapes, tissue: NDArray[np.uint8]) -> None:
    """Vertebrae with discs, spinal canal and cord below the skull."""
    box = shapes.window((0, -30, -116), (26, 40, 50))
    x, y, z = shapes.grid(box)
    part = tissue[box]
    low = z < -70
    body = ((x / 13) ** 2 + ((y + 20) / 11) ** 2 <= 1) & (z < -80)
    part[body] = Tissue.MARROW
    part[body & (np.mod(z, 20.0) < 4.5)] = Tissue.MUSCLE
    shell = ((x / 14.5) ** 2 + ((y + 20) / 12.5) ** 2 <= 1) & ~body & (z < -80)
    part[shell] = Tissue.BONE
    middle = -44.0 + 6.0 * np.clip((-72.0 - z) / 60.0, 0.0, 1.0)
    ring = (x / 15) ** 2 + ((y - middle) / 13) ** 2 <= 1
    canal = (x / 11) ** 2 + ((y - middle) / 9) ** 2 <= 1
    cord = (x / 6.5) ** 2 + ((y - middle) / 5.5) ** 2 <= 1
    part[ring & ~canal & low] = Tissue.BONE
    part[canal & low] = Tissue.FLUID
    part[cord & low] = Tissue.CORD


def _jaw(shapes: FaceShapes, tissue: NDArray[np.uint8]) -> None:
    """Lower jaw, teeth, palate and tongue."""
    box = shapes.window((0, 30, -104), (60, 62, 32))
    x, y, z = shapes.grid(box)
    part = tissue[box]
    radius = np.sqrt((x / 45) ** 2 + ((y - 24) / 50) ** 2)
    front = y > 0
    arch = front & (z < -99) & (z > -122)
    part[arch & (radius < 0.98) & (radius > 0.80)] = Tissue.BONE
    part[arch & (radius < 0.94) & (radius > 0.84) & (z > -119)] = Tissue.MARROW
    teeth = (y > 18) & (z < -82) & (z > -99)
    part[teeth & (radius < 0.92) & (radius > 0.76)] = Tissue.BONE
    _paint(tissue, shapes.ellipsoid((0, 34, -98), (24, 32, 15)), Tissue.MUSCLE)
    for side in (-1.0, 1.0):
        _paint(tissue, shapes.ellipsoid((46 * side, 18, -86), (6, 14, 26)), Tissue.BONE)
        _paint(tissue, shapes.ellipsoid((46 * side, 18, -86), (3, 10, 22)), Tissue.MARROW)
        _paint(tissue, shapes.ellipsoid((58 * side, 52, -68), (9, 14, 16)), Tissue.FAT)


def _airways(shapes: FaceShapes, tissue: NDArray[np.uint8]) -> None:
    """Nose, sinuses and throat."""
    box = shapes.window((0, 50, -58), (15, 44, 20))
    x, y, z = shapes.grid(box)
    part = tissue[box]
    stripes = np.mod(np.abs(x) + 0.25 * z, 6.0) < 2.6
    cavity = (np.abs(x) < 12) & (y > 14) & (y < 84) & (z < -42) & (z > -76)
    part[cavity] = Tissue.MUCOSA
    part[cavity & stripes & (np.abs(x) > 1.5)] = Tissue.AIR
    for side in (-1.0, 1.0):
        _paint(tissue, shapes.ellipsoid((33 * side, 52, -62), (17, 18, 14), 2.4), Tissue.MUCOSA)
        _paint(tissue, shapes.ellipsoid((33 * side, 52, -62), (15.5, 16.5, 12.5), 2.4), Tissue.AIR)
        _paint(tissue, shapes.ellipsoid((10 * side, 82, -8), (9, 4.5, 9)), Tissue.AIR)
        _paint(tissue, shapes.ellipsoid((6 * side, 98, -72), (3.5, 10, 5)), Tissue.AIR)
    _paint(tissue, shapes.ellipsoid((0, 22, -38), (15, 13, 9)), Tissue.AIR)
    _paint(tissue, shapes.ellipsoid((0, 2, -84), (10, 6, 26)), Tissue.AIR)
    _paint(tissue, shapes.ellipsoid((0, 4, -128), (8, 7, 22)), Tissue.AIR)


def _orbit(shapes: FaceShapes, tissue: NDArray[np.uint8], side: float) -> None:
    """One orbit: bony wall, fat, muscles, optic nerve and eye."""
    wall = shapes.ellipsoid((31 * side, 54, -37), (21, 27, 19))
    behind = wall[1] & (shapes.y[wall[0][1]][None, :, None] < 72)
    _paint(tissue, (wall[0], behind), Tissue.BONE)
    _paint(tissue, shapes.ellipsoid((31 * side, 56, -37), (18.5, 26, 16.5)), Tissue.FAT)
    for t in np.linspace(0.0, 1.0, 40):
        centre = (side * (31 - 20 * t), 54 - 32 * t, -37 + 8 * t)
        _paint(tissue, shapes.ellipsoid(centre, (2.6, 2.6, 2.6)), Tissue.CORD)
        for dx, dz in ((12.0, 0.0), (-12.0, 0.0), (0.0, 11.0), (0.0, -11.0)):
            spread = np.sin(np.pi * (0.35 + 0.6 * t))
            edge = (side * (31 - 19 * t) + dx * spread, 62 - 36 * t, -37 + 7 * t + dz * spread)
            _paint(tissue, shapes.ellipsoid(edge, (2.2, 3.0, 2.2)), Tissue.MUSCLE)
    _paint(tissue, shapes.ellipsoid((31 * side, 66, -37), (13.2, 13.2, 13.2)), Tissue.MUSCLE)
    _paint(tissue, shapes.ellipsoid((31 * side, 66, -37), (12, 12, 12)), Tissue.VITREOUS)
    _paint(tissue, shapes.ellipsoid((31 * side, 75, -37), (4.6, 2.4, 4.6)), Tissue.LENS)


def _face_region(shapes: FaceShapes, tissue: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The parts that identify: skin to bone in front, from the brows to the chin.

    At least 8 mm away from the brain, so that removing it cannot touch brain.
    """
    x, y, z = np.meshgrid(shapes.x, shapes.y, shapes.z, indexing="ij", sparse=True)
    front = (y > 56.0 + 0.012 * x**2 * 0.5) & (z < -14.0) & (z > -132.0) & (np.abs(x) < 54)
    region = front & (shapes.distance > 8.0) & (tissue != Tissue.AIR)
    return np.asarray(region, dtype=np.uint8)
