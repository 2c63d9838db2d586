"""Label maps and regions: overlapping or nested regions to one map of values, and back.

A label map gives each voxel one value; tumour studies speak of regions that contain each other:
BraTS draws necrosis, oedema and enhancing tumour and scores the enhancing tumour (ET), the tumour
core (TC: necrosis and ET) and the whole tumour (WT: all three; Menze et al., IEEE TMI 2015).
Prostate studies draw transition and peripheral zone and train on the whole gland. Both are the
same bookkeeping: a region is a set of values.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from appliance.errors import ImageRefused

LabelMap = NDArray[np.uint8]
Mask = NDArray[np.bool_]

BRATS = {"ET": frozenset({4}), "TC": frozenset({1, 4}), "WT": frozenset({1, 2, 4})}
"""BraTS 2012 to 2022: 1 necrosis, 2 oedema, 4 enhancing (from 2023 on enhancing is 3)."""
BRATS_2023 = {"ET": frozenset({3}), "TC": frozenset({1, 3}), "WT": frozenset({1, 2, 3})}
"""As `BRATS`, with enhancing tumour 3."""


def combine(
    masks: Iterable[tuple[int, NDArray[np.generic]]],
    shape: Sequence[int],
    precedence: Sequence[int] = (),
) -> LabelMap:
    """One label map of masks that may overlap.

    Where masks overlap the value that stands first in `precedence` wins, then, of the values that
    it does not name, the smaller structure (so that a nested region keeps its inner ones), then
    the lower value. Masks of the same value are united first.

    Args:
        masks: value and (X, Y, Z) mask, non-zero inside.
        shape: (X, Y, Z).
        precedence: values, the strongest first.

    Returns:
        (X, Y, Z) uint8, 0 where no mask is.

    Examples:
        >>> core, whole = np.array([[[0, 1, 0]]]), np.array([[[1, 1, 1]]])
        >>> combine([(2, whole), (1, core)], (1, 1, 3)).tolist()
        [[[2, 1, 2]]]
    """
    united: dict[int, Mask] = {}
    for value, mask in masks:
        found = united.setdefault(int(value), np.zeros(tuple(shape), dtype=np.bool_))
        found |= np.asarray(mask) != 0
    rank = {value: place for place, value in enumerate(precedence)}
    sizes = {value: int(np.count_nonzero(mask)) for value, mask in united.items()}

    def strength(value: int) -> tuple[int, int, int]:
        return (rank.get(value, len(rank)), sizes[value], value)

    result = np.zeros(tuple(shape), dtype=np.uint8)
    for value in sorted(united, key=strength, reverse=True):
        result[united[value]] = value
    return result


def relabel(values: NDArray[np.generic], table: Mapping[int, int]) -> LabelMap:
    """Other values for a label map's.

    Args:
        values: (X, Y, Z) whole numbers, 0 to 255.
        table: value to new value; a value that is not named becomes background.

    Examples:
        >>> relabel(np.array([[[0, 1, 4, 2]]]), {1: 1, 4: 1}).tolist()
        [[[0, 1, 1, 0]]]
    """
    look_up = np.zeros(256, dtype=np.uint8)
    for value, new in table.items():
        look_up[value] = new
    look_up[0] = 0
    return np.asarray(look_up[np.asarray(values).astype(np.uint8)], dtype=np.uint8)


def regions_of(
    values: NDArray[np.generic], definitions: Mapping[str, Collection[int]]
) -> dict[str, Mask]:
    """The regions of a label map.

    Args:
        values: (X, Y, Z) label values.
        definitions: region to the values that it consists of, such as `BRATS`.
    """
    return {
        name: np.isin(np.asarray(values), np.array(sorted(parts), dtype=np.int64))
        for name, parts in definitions.items()
    }


def map_of_regions(
    regions: Mapping[str, NDArray[np.generic]], definitions: Mapping[str, Collection[int]]
) -> LabelMap:
    """The label map whose regions these are: the other way of `regions_of`.

    Each value lies where exactly the regions are that its definition names: with `BRATS`, oedema
    is in the whole tumour and outside the core.

    Args:
        regions: region to (X, Y, Z) mask.
        definitions: region to the values that it consists of.

    Raises:
        ImageRefused: a voxel lies in regions that no value lies in (an enhancing voxel outside the
            whole tumour), or two values lie in the same regions.
    """
    names = sorted(definitions)
    masks = [np.asarray(regions[name]) != 0 for name in names]
    keys: dict[int, int] = {}
    for value in sorted({v for parts in definitions.values() for v in parts}):
        key = sum(1 << n for n, name in enumerate(names) if value in definitions[name])
        if key in keys:
            raise ImageRefused(f"values {keys[key]} and {value} lie in the same regions")
        keys[key] = value
    pattern = np.zeros(masks[0].shape, dtype=np.uint16)
    for n, mask in enumerate(masks):
        pattern |= mask.astype(np.uint16) << np.uint16(n)
    result = np.zeros(pattern.shape, dtype=np.uint8)
    for key, value in keys.items():
        result[pattern == key] = value
    odd = int(np.count_nonzero((pattern != 0) & (result == 0)))
    if odd:
        raise ImageRefused(f"{odd} voxels lie in regions that do not contain each other as defined")
    return result


def innermost(regions: Mapping[int, Collection[int]]) -> dict[int, int]:
    """Which region each value of a label map becomes where regions are nested.

    Args:
        regions: new value of each region to the present values that it consists of.

    Returns:
        Present value to the new value of the smallest region (fewest values) that holds it; of
        two as small, the lower new value.

    Examples:
        >>> innermost({1: {1, 2, 4}, 2: {1, 4}, 3: {4}})
        {1: 2, 2: 1, 4: 3}
    """
    found: dict[int, int] = {}
    for new in sorted(regions, key=lambda n: (-len(regions[n]), -n)):
        for value in regions[new]:
            found[value] = new
    return dict(sorted(found.items()))
