"""From the frames of a series to one regular stack of slices, or the reason in words why not."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from dicom_bridge.convert.frames import VARIATIONS, Frame, attribute
from dicom_bridge.errors import DataRefused
from dicom_bridge.geometry import (
    ORIENTATION_TOLERANCE,
    FloatArray,
    VolumeGeometry,
    grid_affine,
    slice_normal,
)

SAME_POSITION_MM = 0.01
GAP_SHARE = 0.01  # a slice distance may differ from the median by 1 %
MINIMUM_SLICES = 4


@dataclass(frozen=True, slots=True, eq=False)
class Stack:
    """Frames in spatial order on a regular grid.

    Attributes:
        frames: along the normal of ImageOrientationPatient.
        affine: (4, 4) index (column, row, slice) to RAS mm.
        slice_distance: mm between slice centres; the slice thickness where there is one slice.
    """

    frames: tuple[Frame, ...]
    affine: FloatArray
    slice_distance: float

    @property
    def geometry(self) -> VolumeGeometry:
        """The grid with the instance of each slice."""
        rows, columns = self.frames[0].size
        return VolumeGeometry(
            affine=self.affine,
            shape=(columns, rows, len(self.frames)),
            sop_instance_uids=tuple(
                str(attribute(frame.dataset, "SOPInstanceUID") or "") for frame in self.frames
            ),
            frame_numbers=tuple(
                0 if frame.index is None else frame.index + 1 for frame in self.frames
            ),
        )


def floats(values: Sequence[str]) -> FloatArray:
    """Texts of decimal strings as numbers."""
    return np.asarray([float(value) for value in values], dtype=np.float64)


def check_alike(frames: Sequence[Frame]) -> None:
    """Refuse slices of different size, pixel spacing or orientation.

    Raises:
        DataRefused: with what differs.
    """
    sizes = {frame.size for frame in frames}
    if len(sizes) > 1:
        raise DataRefused(f"mixed acquisition: slices of {len(sizes)} different sizes in a series")
    turns = np.array([floats(frame.orientation) for frame in frames])
    if np.max(np.abs(turns - turns[0])) > ORIENTATION_TOLERANCE:
        groups = {tuple(np.round(turn, 2)) for turn in turns}
        raise DataRefused(
            f"mixed acquisition: slices of {max(2, len(groups))} different orientations in one "
            "series (localiser or several stacks)"
        )
    spacings = np.array([floats(frame.spacing) for frame in frames])
    if np.any(spacings <= 0):
        raise DataRefused("PixelSpacing must be above zero")
    if np.max(np.abs(spacings - spacings[0])) > 1e-3:
        raise DataRefused("mixed acquisition: slices of different pixel spacing in one series")


def drop_repeats(
    frames: Sequence[Frame], heights: FloatArray, alike: Callable[[Frame, Frame], bool]
) -> list[int]:
    """Indices of the frames to keep, in spatial order: one per position.

    Args:
        frames: in any order.
        heights: (n,) mm along the normal.
        alike: whether two frames hold the same pixels (a slice that was sent twice).

    Raises:
        DataRefused: several different images at one position, with what differs among them.
    """
    kept: list[int] = []
    clashes: list[tuple[int, int]] = []
    for index in (int(i) for i in np.argsort(heights, kind="stable")):
        if not kept or heights[index] - heights[kept[-1]] > SAME_POSITION_MM:
            kept.append(index)
        elif not alike(frames[kept[-1]], frames[index]):
            clashes.append((kept[-1], index))
    if clashes:
        pairs = [[frames[first], frames[second]] for first, second in clashes]
        doubled = {first for first, _ in clashes}
        if len(doubled) <= len(kept) // 2 and not _differing(pairs):
            place = kept.index(clashes[0][0]) + 1
            raise DataRefused(duplicate_words(place, len(kept)))
        raise DataRefused(mixed_words(frames, pairs, positions=len(kept)))
    return kept


def duplicate_words(place: int, positions: int) -> str:
    """Why a slice that is there twice with different pixels is refused."""
    return (
        f"duplicate slice: position {place} of {positions} holds several different images, and "
        "nothing says which is right"
    )


def _differing(places: Sequence[Sequence[Frame]]) -> list[str]:
    """What differs among images that share a position, in words."""
    return [
        words
        for number, (_, words) in enumerate(VARIATIONS)
        if any(len({frame.variation[number] for frame in place}) > 1 for place in places)
    ]


def mixed_words(
    frames: Sequence[Frame], places: Sequence[Sequence[Frame]], *, positions: int = 0
) -> str:
    """Why several images at one position are refused.

    Args:
        frames: of the series.
        places: images that share a position, position by position.
        positions: how many there are; 0 where `places` holds them all.
    """
    differing = _differing(places)
    reason = f"that differ in their {', '.join(differing)}" if differing else "without any label"
    return (
        f"mixed acquisition: {len(frames)} images at {positions or len(places)} slice positions "
        f"{reason}; one series must hold one volume"
    )


def check_even(heights: FloatArray) -> float:
    """The slice distance of a regular stack.

    Args:
        heights: (n,) ascending mm along the normal, n at least 2.

    Returns:
        Mean distance in mm.

    Raises:
        DataRefused: a slice is missing, or distances vary by more than 1 %.
    """
    steps = np.diff(heights)
    median = float(np.median(steps))
    allowed = max(GAP_SHARE * median, SAME_POSITION_MM)
    wrong = np.flatnonzero(np.abs(steps - median) > allowed)
    if wrong.size:
        first = int(wrong[0])
        many = steps[wrong] / median
        if np.all(np.abs(many - np.rint(many)) < 0.1) and np.all(many > 1.5):
            lost = int(np.sum(np.rint(many) - 1))
            raise DataRefused(
                f"missing slice: {lost} of {len(heights) + lost} slices are not there; the first "
                f"gap is {steps[first]:.2f} mm between slices {first + 1} and {first + 2} instead "
                f"of {median:.2f} mm"
            )
        raise DataRefused(
            f"uneven slice distance: {steps.min():.2f} to {steps.max():.2f} mm in one series"
        )
    return float((heights[-1] - heights[0]) / (len(heights) - 1))


def check_upright(positions: FloatArray, normal: FloatArray) -> None:
    """Refuse stacks that lean (gantry tilt) or whose slices shift sideways.

    Args:
        positions: (n, 3) LPS mm in spatial order.
        normal: (3,) unit.

    Raises:
        DataRefused: a sideways step above 1 % of the median slice distance (0.01 mm at least).
    """
    moves = np.diff(positions, axis=0)
    along = moves @ normal
    sideways = np.linalg.norm(moves - np.outer(along, normal), axis=1)
    worst = int(np.argmax(sideways))
    if sideways[worst] > max(GAP_SHARE * float(np.median(along)), SAME_POSITION_MM):
        angle = float(np.degrees(np.arctan2(sideways[worst], along[worst])))
        raise DataRefused(
            f"slices are not stacked along their normal (gantry tilt of {angle:.1f} degrees)"
        )


def stack_frames(
    frames: Sequence[Frame],
    *,
    alike: Callable[[Frame, Frame], bool],
    minimum: int = 1,
    even: bool = True,
) -> Stack:
    """Order a series' frames in space and check that they form one regular volume.

    Args:
        frames: in any order.
        alike: whether two frames at the same position hold the same pixels.
        minimum: fewest slices that make a volume.
        even: whether uneven distances are refused; else the mean distance stands for them.

    Returns:
        The stack.

    Raises:
        DataRefused: mixed acquisition, missing slice, uneven distance, gantry tilt, too few slices.
    """
    check_alike(frames)
    orientation = floats(frames[0].orientation)
    normal = slice_normal(orientation)
    positions = np.array([floats(frame.position) for frame in frames])
    heights = positions @ normal
    order = drop_repeats(frames, heights, alike)
    if len(order) < minimum:
        raise DataRefused(
            f"too few slices: {len(order)} of the at least {minimum} that a volume needs"
        )
    chosen = tuple(frames[index] for index in order)
    if len(order) == 1:
        distance = float(chosen[0].thickness or 1.0)
        step = normal * distance
    else:
        along = heights[order]
        mean = float((along[-1] - along[0]) / (len(along) - 1))
        check_upright(positions[order], normal)
        distance = check_even(along) if even else mean
        step = (positions[order[-1]] - positions[order[0]]) / (len(order) - 1)
    spacing = floats(chosen[0].spacing)
    affine = grid_affine(positions[order[0]], orientation, spacing, step)
    return Stack(frames=chosen, affine=affine, slice_distance=distance)
