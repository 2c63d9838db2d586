"""Which images of a series belong to one volume: echoes, time points, b-values.

Nothing is guessed: images that share a position are told apart by what their headers say, or by an
instance numbering that runs volume by volume or position by position; else they are refused.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass

import numpy as np

from dicom_bridge.convert.frames import VARIATIONS, Frame, whole
from dicom_bridge.convert.stack import (
    SAME_POSITION_MM,
    Stack,
    check_alike,
    duplicate_words,
    floats,
    mixed_words,
    stack_frames,
)
from dicom_bridge.errors import DataRefused
from dicom_bridge.geometry import slice_normal

ECHO, IMAGE_TYPE, B_VALUE, TIME_POINT, ACQUISITION = range(len(VARIATIONS))
Content = Callable[[Frame], Hashable]


@dataclass(frozen=True, slots=True, eq=False)
class Run:
    """Volumes on one grid that make one image: one volume is 3-D, several are 4-D.

    Attributes:
        volumes: in the order of acquisition.
        echo: 1-based, where the series holds several echoes; 0 where it holds one.
        by: what tells the volumes apart, in words; "" for a single one.
    """

    volumes: tuple[Stack, ...]
    echo: int = 0
    by: str = ""

    @property
    def frames(self) -> list[Frame]:
        """All slices, volume by volume, in spatial order."""
        return [frame for stack in self.volumes for frame in stack.frames]


def split_runs(frames: Sequence[Frame], *, content: Content, minimum: int) -> list[Run]:
    """Sort a series' frames into images, one per echo.

    Args:
        frames: in any order, of one series.
        content: what is equal for two frames that hold the same pixels; asked only where several
            share a position.
        minimum: fewest slices that make a volume.

    Returns:
        One run per echo, shortest echo first.

    Raises:
        DataRefused: not one or several regular volumes, or nothing tells which image belongs to
            which.
    """
    check_alike(frames)
    places = _without_copies(positions_of(frames), content)
    if max(len(place) for place in places) == 1:
        return [Run((_stack([place[0] for place in places], minimum),))]
    if len(places) < minimum:
        raise DataRefused(
            f"too few slices: {len(frames)} images at {len(places)} of the at least {minimum} "
            "slice positions that a volume needs"
        )
    if len({frame.variation[IMAGE_TYPE] for frame in frames}) > 1:
        raise DataRefused(mixed_words(frames, places))
    echoes = sorted({echo_time(frame) for place in places for frame in place})
    if len(echoes) == 1:
        return [_run(places, minimum, echo=0)]
    runs = []
    for number, echo in enumerate(echoes, start=1):
        chosen = [[frame for frame in place if echo_time(frame) == echo] for place in places]
        if not all(chosen):
            raise DataRefused(
                f"mixed acquisition: echo {number} of {len(echoes)} is not there at every position"
            )
        runs.append(_run(chosen, minimum, echo=number))
    return runs


def _stack(frames: Sequence[Frame], minimum: int) -> Stack:
    return stack_frames(frames, alike=lambda _one, _other: False, minimum=minimum)


def positions_of(frames: Sequence[Frame]) -> list[list[Frame]]:
    """Frames grouped by slice position (0.01 mm along the normal), in spatial order."""
    normal = slice_normal(floats(frames[0].orientation))
    heights = np.array([floats(frame.position) for frame in frames]) @ normal
    groups: list[list[Frame]] = []
    last = -np.inf
    for index in (int(i) for i in np.argsort(heights, kind="stable")):
        if heights[index] - last > SAME_POSITION_MM:
            groups.append([])
            last = heights[index]
        groups[-1].append(frames[index])
    return groups


def _without_copies(places: list[list[Frame]], content: Content) -> list[list[Frame]]:
    """The positions' frames, each that repeats another in header and pixels only once.

    Volumes of a time series may share a slice (all background): where only the full list has
    equally many images everywhere, it stays.
    """
    if max(len(place) for place in places) == 1:
        return places
    single = [_distinct(place, content) if len(place) > 1 else place for place in places]
    uneven = len({len(place) for place in single}) > 1
    return places if uneven and len({len(place) for place in places}) == 1 else single


def _distinct(place: Sequence[Frame], content: Content) -> list[Frame]:
    kept: dict[Hashable, Frame] = {}
    for frame in place:
        labels = tuple(frame.variation[label] for label in (ECHO, B_VALUE, TIME_POINT))
        kept.setdefault((labels, content(frame)), frame)
    return list(kept.values())


def echo_time(frame: Frame) -> float:
    """A frame's echo time, ms, 0 where it is not stated."""
    try:
        return round(float(frame.variation[ECHO]), 3)
    except ValueError:
        return 0.0


def _order(frame: Frame) -> tuple[float, tuple[int, ...], int, int]:
    """Time point, dimension indices, instance number, frame: the order of volumes at a position.

    The last dimension index counts first, which is dcm2niix' order too.
    """
    try:
        time = float(frame.variation[TIME_POINT])
    except ValueError:
        time = 0.0
    return time, frame.rank, whole(frame.dataset, "InstanceNumber", 0), frame.index or 0


def _run(places: Sequence[Sequence[Frame]], minimum: int, *, echo: int) -> Run:
    """The volumes of one echo."""
    every = [frame for place in places for frame in place]
    counts = [len(place) for place in places]
    if len(set(counts)) > 1:
        usual = int(np.median(counts))
        odd = next(number for number, count in enumerate(counts) if count != usual)
        if usual == 1:
            raise DataRefused(duplicate_words(odd + 1, len(places)))
        raise DataRefused(
            f"missing slice: {counts[odd]} of {usual} images at position {odd + 1} of {len(places)}"
        )
    ordered = [sorted(place, key=_order) for place in places]
    volumes = [[place[number] for place in ordered] for number in range(counts[0])]
    by = _told_apart(volumes)
    if not by:
        if counts[0] > 1 and not _numbered_in_turn(every, len(places), counts[0]):
            raise DataRefused(mixed_words(every, places))
        by = "instance number" if counts[0] > 1 else ""
    stacks = tuple(_stack(volume, minimum) for volume in volumes)
    return Run(stacks, echo=echo, by=by)


def _told_apart(volumes: Sequence[Sequence[Frame]]) -> str:
    """What a label that is one per volume and another in each says; "" where there is none."""
    for label in (TIME_POINT, B_VALUE):
        values = [{frame.variation[label] for frame in volume} for volume in volumes]
        if any(len(value) > 1 for value in values):
            raise DataRefused(
                f"mixed acquisition: {VARIATIONS[label][1]} change from slice to slice"
            )
    apart = []
    for label in (TIME_POINT, B_VALUE, ACQUISITION):
        values = [{frame.variation[label] for frame in volume} for volume in volumes]
        if all(len(value) == 1 for value in values) and len(set().union(*values)) > 1:
            apart.append(VARIATIONS[label][1])
    owners = [{id(frame.dataset) for frame in volume} for volume in volumes]
    if all(len(owner) == 1 for owner in owners) and len(set().union(*owners)) == len(volumes) > 1:
        apart.append("instances")
    return ", ".join(apart)


def _numbered_in_turn(frames: Sequence[Frame], positions: int, volumes: int) -> bool:
    """Whether numbers run through all positions again and again, or stay at each in turn."""
    numbers = [_order(frame) for frame in frames]
    if len(set(numbers)) != len(numbers):
        return False
    place = np.repeat(np.arange(positions), volumes)
    turn = place[sorted(range(len(frames)), key=lambda index: numbers[index])]
    by_volume = turn.reshape(volumes, positions)
    by_position = turn.reshape(positions, volumes)
    return bool(
        np.all(np.sort(by_volume, axis=1) == np.arange(positions))
        or np.all(by_position == by_position[:, :1])
    )
