"""One label of several raters': the newest, the majority's, or STAPLE's (Warfield et al., 2004).

Degenerate cases, defined once:

| case | what counts |
|---|---|
| one rater | that label |
| two raters, ``staple`` | ``majority``: performance cannot be estimated from two |
| a tie of votes | the newest rater's value where it is tied; else background; else the lowest |
| all labels empty | empty |
| STAPLE does not settle, or gives nothing where a majority drew | ``majority`` |
"""

from __future__ import annotations

import importlib
import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from appliance.labels.regions import LabelMap

Rule = Literal["newest", "majority", "staple"]
FEWEST_FOR_STAPLE = 3
MARGIN = 2
"""Voxels around everything that any rater drew: the background that STAPLE sees."""
ITERATIONS = 100


@dataclass(frozen=True, slots=True, eq=False)
class Agreement:
    """How far raters agree.

    Attributes:
        mean: mean Dice coefficient over all pairs, of whatever is labelled; 1 for one rater.
        least: the smallest of them.
        values: label value to mean Dice over the pairs of which at least one holds it.
    """

    mean: float
    least: float
    values: dict[int, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, eq=False)
class Consensus:
    """A label that was made of several.

    Attributes:
        values: (X, Y, Z) uint8.
        rule: the rule that was applied, which may be another than the one asked for.
        raters: number of labels.
        agreement: how far they agree.
    """

    values: LabelMap
    rule: Rule
    raters: int
    agreement: Agreement


def consensus(labels: Sequence[LabelMap], rule: Rule) -> Consensus:
    """One label of several.

    Args:
        labels: (X, Y, Z) label values of each rater on one grid, the oldest first.
        rule: how they become one.

    Raises:
        ValueError: no label, or labels of different shapes.
    """
    if not labels or len({label.shape for label in labels}) != 1:
        raise ValueError("consensus needs labels of one shape")
    applied: Rule = rule
    if len(labels) == 1 or rule == "newest":
        values, applied = np.asarray(labels[-1], dtype=np.uint8), "newest"
    elif rule == "staple" and len(labels) >= FEWEST_FOR_STAPLE:
        found = staple(labels)
        values = majority(labels) if found is None else found
        applied = "majority" if found is None else "staple"
    else:
        values, applied = majority(labels), "majority"
    return Consensus(values, applied, len(labels), agreement(labels))


def majority(labels: Sequence[LabelMap]) -> LabelMap:
    """The value that most raters gave, background included; see the module for ties.

    Args:
        labels: (X, Y, Z) label values of each rater, the oldest first.
    """
    newest = np.asarray(labels[-1], dtype=np.uint8)
    box = _box(labels, 0)
    result = np.zeros(newest.shape, dtype=np.uint8)
    if box is None:
        return result
    parts = [np.asarray(label[box], dtype=np.uint8) for label in labels]
    values = sorted({0, *(int(v) for part in parts for v in np.unique(part))})
    votes = np.stack([sum((part == v).astype(np.uint8) for part in parts) for v in values])
    most = votes.max(axis=0)
    won = votes == most
    chosen = np.asarray(np.array(values, dtype=np.uint8)[np.argmax(won, axis=0)])
    own = parts[-1]
    for place, value in enumerate(values):
        chosen[(own == value) & won[place]] = value
    result[box] = chosen
    return result


def staple(labels: Sequence[LabelMap]) -> LabelMap | None:
    """Simultaneous truth and performance level estimation of three or more raters.

    SimpleITK's MultiLabelSTAPLE (Rohlfing et al. 2003 for several values), inside the box around
    everything that was drawn and `MARGIN` voxels: over a whole head nearly every voxel is
    background for everybody, and each rater's specificity would be 1. Undecided voxels go to the
    majority.

    Args:
        labels: (X, Y, Z) label values of each rater, the oldest first.

    Returns:
        The label, or None where the estimate does not settle or collapses to nothing.
    """
    result = np.zeros(labels[0].shape, dtype=np.uint8)
    box = _box(labels, MARGIN)
    if box is None:
        return result
    sitk: Any = importlib.import_module("SimpleITK")
    parts = [np.ascontiguousarray(label[box], dtype=np.uint8) for label in labels]
    voted = majority(parts)
    undecided = int(max(part.max() for part in parts)) + 1
    if undecided > 255:
        return None
    filter_ = sitk.MultiLabelSTAPLEImageFilter()
    filter_.SetLabelForUndecidedPixels(undecided)
    filter_.SetMaximumNumberOfIterations(ITERATIONS)
    try:
        made = filter_.Execute([sitk.GetImageFromArray(part) for part in parts])
    except RuntimeError:
        return None
    found: LabelMap = np.asarray(sitk.GetArrayFromImage(made), dtype=np.uint8)
    found = np.where(found == undecided, voted, found).astype(np.uint8)
    if voted.any() and not found.any():
        return None
    result[box] = found
    return result


def agreement(labels: Sequence[LabelMap]) -> Agreement:
    """Dice coefficients between raters; two empty labels agree wholly."""
    box = _box(labels, 0)
    if len(labels) < 2 or box is None:
        return Agreement(1.0, 1.0)
    parts = [np.asarray(label[box]) for label in labels]
    pairs = list(itertools.combinations(parts, 2))
    whole = [dice(a > 0, b > 0) for a, b in pairs]
    each: dict[int, float] = {}
    for value in sorted({int(v) for part in parts for v in np.unique(part)} - {0}):
        scores = [
            dice(a == value, b == value) for a, b in pairs if np.any((a == value) | (b == value))
        ]
        each[value] = float(np.mean(scores))
    return Agreement(float(np.mean(whole)), float(min(whole)), each)


def dice(a: NDArray[np.bool_], b: NDArray[np.bool_]) -> float:
    """Dice coefficient of two masks; 1 where both are empty.

    Examples:
        >>> dice(np.array([True, True]), np.array([True, False]))
        0.6666666666666666
    """
    sizes = int(np.count_nonzero(a)) + int(np.count_nonzero(b))
    return 1.0 if sizes == 0 else 2.0 * int(np.count_nonzero(a & b)) / sizes


def _box(labels: Sequence[LabelMap], margin: int) -> tuple[slice, ...] | None:
    """The box around everything drawn, or None."""
    drawn = np.zeros(labels[0].shape, dtype=np.uint8)
    for label in labels:
        drawn |= (label != 0).astype(np.uint8)
    found = ndimage.find_objects(drawn)
    if not found or found[0] is None:
        return None
    sizes: tuple[int, ...] = drawn.shape
    return tuple(
        slice(max(0, part.start - margin), min(size, part.stop + margin))
        for part, size in zip(found[0], sizes, strict=True)
    )
