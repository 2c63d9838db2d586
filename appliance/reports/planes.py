"""Flat cuts through volumes, laid out as a radiologist expects them.

Every cut is taken from the array whose axes run closest to right, anterior, superior (`to_ras`), so
that nothing is interpolated on the image's own grid and obliquity is not hidden. Radiological
convention: in axial and coronal cuts the patient's right is on the left of the picture; in sagittal
cuts the front is on the left. Pixels are square on the screen: a slice of 5 mm is drawn as thick as
it is.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

from appliance.imaging.volume import Affine, Array, Volume, apply_affine, inverse, nib

View = Literal["axial", "coronal", "sagittal"]
Floats = NDArray[np.float32]
Bools = NDArray[np.bool_]

Box = tuple[tuple[int, int], tuple[int, int], tuple[int, int]]

VIEWS: tuple[View, ...] = ("axial", "coronal", "sagittal")
_AXES: dict[View, tuple[int, int, int]] = {
    "axial": (2, 0, 1),
    "coronal": (1, 0, 2),
    "sagittal": (0, 1, 2),
}
"""View to (axis across the cut, axis along its columns, axis along its rows) of the RAS array."""
_SIDES = ("R", "A", "S")
_OPPOSITE = {"R": "L", "A": "P", "S": "I"}
THICK = 1.6
APART_MM = 6.0
MOST_PIXELS = 1600
"""Longest edge of one cut on the screen."""


@dataclass(frozen=True, slots=True)
class Cut:
    """One cut: where it lies in the RAS array and how large it is drawn.

    Attributes:
        view: axial, coronal or sagittal (the nearest for oblique images).
        index: position along the axis across the cut.
        columns: first and last voxel (half-open) along the axis that runs across the picture.
        rows: the same along the axis that runs down the picture.
        size: width and height on the screen in pixels.
    """

    view: View
    index: int
    columns: tuple[int, int]
    rows: tuple[int, int]
    size: tuple[int, int]

    @property
    def letters(self) -> tuple[str, str, str, str]:
        """The patient's side at the picture's left, right, top and bottom edge.

        Examples:
            >>> Cut("axial", 0, (0, 1), (0, 1), (1, 1)).letters
            ('R', 'L', 'A', 'P')
            >>> Cut("sagittal", 0, (0, 1), (0, 1), (1, 1)).letters
            ('A', 'P', 'S', 'I')
        """
        _, across, down = _AXES[self.view]
        left, top = _SIDES[across], _SIDES[down]
        return left, _OPPOSITE[left], top, _OPPOSITE[top]


@dataclass(frozen=True, slots=True, eq=False)
class Scene:
    """A volume ready for cutting.

    Attributes:
        volume: the image with axes closest to right, anterior, superior.
        brain: its brain mask on the same grid, or None.
        brain_box: the mask's extent along each axis (half-open), or None.
    """

    volume: Volume
    brain: Bools | None
    brain_box: Box | None = None

    @classmethod
    def of(cls, volume: Volume, brain: Volume | None = None) -> Scene:
        """The scene of an image; a mask on another grid than the image's is left out."""
        inside = None
        if brain is not None and brain.shape == volume.shape:
            inside = facing(brain.with_data(brain.data > 0)).data
        box = None if inside is None else extent(inside)
        return cls(facing(volume), inside if box else None, box)

    @property
    def view(self) -> View:
        """The view of thick slices (longest voxel edge `THICK` times the shortest), else axial."""
        spacing = self.volume.spacing
        if max(spacing) < THICK * min(spacing):
            return "axial"
        return {0: "sagittal", 1: "coronal", 2: "axial"}[int(np.argmax(spacing))]  # type: ignore[return-value]

    @property
    def middle(self) -> tuple[int, int, int]:
        """The voxel in the middle of the brain, or of the image where there is no mask."""
        x, y, z = ((low + high) // 2 for low, high in self.box(0.0))
        return x, y, z

    def box(self, margin_mm: float) -> Box:
        """The brain's extent along each axis (half-open) with a margin; else the whole image."""
        shape, spacing = self.volume.shape, self.volume.spacing
        if self.brain_box is None:
            return (0, shape[0]), (0, shape[1]), (0, shape[2])
        x, y, z = (
            (max(0, low - round(margin_mm / step)), min(count, high + round(margin_mm / step)))
            for (low, high), count, step in zip(self.brain_box, shape, spacing, strict=True)
        )
        return x, y, z

    def cut(
        self,
        view: View,
        index: int,
        *,
        box: Box | None = None,
        mm_per_pixel: float | None = None,
        fit: tuple[int, int] | None = None,
    ) -> Cut:
        """A cut of a given scale, or the largest that fits into `fit` (width, height) pixels.

        Args:
            view: which plane.
            index: position along the axis across it.
            box: part of the array to show; the whole where None.
            mm_per_pixel: scale on the screen.
            fit: used where no scale is given; (320, 320) by default.
        """
        _, across, down = _AXES[view]
        part = box or tuple((0, n) for n in self.volume.shape)
        columns, rows = part[across], part[down]
        spacing = self.volume.spacing
        width = (columns[1] - columns[0]) * spacing[across]
        height = (rows[1] - rows[0]) * spacing[down]
        room = fit or (320, 320)
        scale = mm_per_pixel or max(width / room[0], height / room[1])
        size = (_pixels(width / scale), _pixels(height / scale))
        return Cut(view, index, columns, rows, size)

    def grey(self, cut: Cut) -> Floats:
        """Values of the image on a cut, (height, width), smoothed where it is drawn smaller."""
        return _resized(_oriented(self.volume.data, cut), cut.size, Image.Resampling.BICUBIC)

    def mask(self, cut: Cut, mask: Array, value: int = 1) -> Bools:
        """Where an array in RAS order has a value on a cut, (height, width)."""
        part = (_oriented(mask, cut) == value).astype(np.float32)
        share = _resized(part, cut.size, Image.Resampling.BILINEAR)
        return np.asarray(share >= 0.5)

    def points(self, cut: Cut) -> NDArray[np.float64]:
        """RAS mm of every pixel's centre of a cut, (height, width, 3)."""
        across_cut, across, down = _AXES[cut.view]
        width, height = cut.size
        columns = _centres(cut.columns, width)
        rows = _centres(cut.rows, height)
        index = np.empty((height, width, 3))
        index[..., across_cut] = cut.index
        index[..., across] = columns[None, :]
        index[..., down] = rows[:, None]
        return apply_affine(self.volume.affine, index)


def extent(mask: Bools) -> Box | None:
    """First and last voxel (half-open) of a mask along each axis; None of an empty one."""
    found = []
    for axis in range(3):
        hit = np.flatnonzero(mask.any(axis=tuple(a for a in range(3) if a != axis)))
        if hit.size == 0:
            return None
        found.append((int(hit[0]), int(hit[-1]) + 1))
    x, y, z = found
    return x, y, z


def facing(volume: Volume) -> Volume:
    """The volume with axes closest to right, anterior, superior; a view, nothing is copied."""
    codes = nib.io_orientation(volume.affine)
    data: Array = nib.apply_orientation(volume.data, codes)
    turn = nib.orientations.inv_ornt_aff(codes, volume.shape)
    return Volume(data, np.asarray(volume.affine @ turn, dtype=np.float64))


def slice_count(scene: Scene, view: View) -> int:
    """Number of slices across a view."""
    return scene.volume.shape[_AXES[view][0]]


def spread(low: int, high: int, count: int) -> list[int]:
    """At most `count` different positions, evenly over ``low`` to ``high`` (half-open).

    Examples:
        >>> spread(0, 40, 4)
        [5, 15, 25, 35]
        >>> spread(3, 5, 9)
        [3, 4]
    """
    span = high - low
    if span <= count:
        return list(range(low, high))
    return [low + int((n + 0.5) * span / count) for n in range(count)]


def mosaic_cuts(scene: Scene, *, width: int, tile: int, rows: int) -> list[Cut]:
    """Cuts of the image's own slices through the brain, cropped to it, that fill whole rows.

    Args:
        scene: the image.
        width: of a row in pixels.
        tile: longest edge of a cut in pixels.
        rows: number of rows.
    """
    view = scene.view
    box = scene.box(12.0)
    low, high = scene.box(0.0)[_AXES[view][0]]
    edge = scene.cut(view, low, box=box, fit=(tile, tile)).size[0]
    count = rows * max(1, width // edge)
    return [scene.cut(view, n, box=box, fit=(tile, tile)) for n in spread(low, high, count)]


def label_cuts(scene: Scene, label: Bools, *, count: int, tile: int) -> list[Cut]:
    """Cuts of slices with many labelled voxels, `APART_MM` or more apart, in order.

    Empty for an empty label.
    """
    view = scene.view
    axis = _AXES[view][0]
    area = label.sum(axis=tuple(a for a in range(3) if a != axis))
    step = scene.volume.spacing[axis]
    chosen: list[int] = []
    for n in np.argsort(-area, kind="stable"):
        near = any(abs(int(n) - other) * step < APART_MM for other in chosen)
        if area[n] == 0 or len(chosen) == count:
            break
        if not near:
            chosen.append(int(n))
    box = scene.box(12.0)
    return [scene.cut(view, n, box=box, fit=(tile, tile)) for n in sorted(chosen)]


def three_planes(scene: Scene, *, height: int, width: int) -> list[Cut]:
    """The axial, coronal and sagittal cut through the middle, whole field of view, one scale.

    Args:
        scene: the image.
        height: of the tallest of them in pixels, at most.
        width: of all three together, at most.
    """
    edges = [n * s for n, s in zip(scene.volume.shape, scene.volume.spacing, strict=True)]
    tallest = max(edges[1], edges[2])
    total = 2 * edges[0] + edges[1]
    scale = max(tallest / height, total / width)
    middle = scene.middle
    return [scene.cut(v, middle[_AXES[v][0]], mm_per_pixel=scale) for v in VIEWS]


def sampled(volume: Volume, points: NDArray[np.float64], matrix: Affine | None) -> Floats:
    """Values of another image at points, linear, 0 outside.

    Args:
        volume: the image to read.
        points: RAS mm (height, width, 3) in the fixed image's world.
        matrix: 4 x 4, fixed points to the volume's points; None is the identity.
    """
    to_index = inverse(volume.affine) @ (np.eye(4) if matrix is None else matrix)
    index = apply_affine(np.asarray(to_index, dtype=np.float64), points)
    low = np.floor(index.reshape(-1, 3).min(axis=0)).astype(int) - 1
    high = np.ceil(index.reshape(-1, 3).max(axis=0)).astype(int) + 2
    low = np.clip(low, 0, np.array(volume.shape) - 1)
    high = np.clip(high, low + 1, volume.shape)
    part = np.asarray(
        volume.data[low[0] : high[0], low[1] : high[1], low[2] : high[2]], dtype=np.float32
    )
    where = np.moveaxis(index - low, -1, 0)
    found: Floats = ndimage.map_coordinates(part, where, order=1, mode="constant", cval=0.0)
    return found


def is_oblique(volume: Volume, degrees: float = 3.0) -> bool:
    """Whether an axis of the image deviates from the patient's axes by more than an angle."""
    unit = volume.affine[:3, :3] / np.array(volume.spacing)
    best = np.abs(unit).max(axis=0)
    return bool(np.degrees(np.arccos(np.clip(best, 0, 1))).max() > degrees)


def axis_codes(volume: Volume) -> str:
    """The patient's directions along the stored axes, such as ``LPS``."""
    return "".join(nib.aff2axcodes(volume.affine))


def _oriented(data: Array, cut: Cut) -> Floats:
    """The part of a RAS array that a cut shows, as rows and columns of a picture."""
    axis, across, down = _AXES[cut.view]
    picks: list[slice | int] = [0, 0, 0]
    picks[axis] = cut.index
    picks[across] = slice(*cut.columns)
    picks[down] = slice(*cut.rows)
    part = np.asarray(data[tuple(picks)], dtype=np.float32)
    return np.ascontiguousarray(part.T[::-1, ::-1])


def _resized(part: Floats, size: tuple[int, int], how: Image.Resampling) -> Floats:
    if part.shape == (size[1], size[0]):
        return part
    image = Image.fromarray(part)
    return np.asarray(image.resize(size, how), dtype=np.float32)


def _centres(part: tuple[int, int], count: int) -> NDArray[np.float64]:
    """Voxel coordinates of pixel centres, from the high end of an axis to its low end."""
    low, high = part
    step = (high - low) / count
    centres: NDArray[np.float64] = high - 0.5 - (np.arange(count, dtype=np.float64) + 0.5) * step
    return centres


def _pixels(length: float) -> int:
    return int(np.clip(round(length), 2, MOST_PIXELS))
