"""Whether a mask can be a label of an image: values, geometry, what it holds.

Geometry never decides which series a mask belongs to (two patients can share a grid); it only
shows that something cannot be right.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

import numpy as np
from numpy.typing import NDArray

from appliance.errors import ImageRefused
from appliance.labels.regions import LabelMap, relabel
from appliance.labels.resampling import Carried

WHOLE = 1e-3
"""How far a stored value may lie from a whole number (masks are often stored as float)."""
OUTSIDE_SHARE = 1e-3
"""More than this share of the labelled voxels outside the image refuses a mask."""
VOLUME_CHANGE = 0.25
"""A volume that changes by more than this share through resampling is told."""


def whole_values(data: NDArray[np.generic]) -> LabelMap:
    """A mask's values as label values.

    Args:
        data: (X, Y, Z) as stored, any number type.

    Returns:
        uint8 of the same shape.

    Raises:
        ImageRefused: values that are no whole numbers, negative, or above 255.
    """
    values = np.asarray(data)
    if values.dtype.kind == "f":
        rounded = np.rint(values)
        if values.size and float(np.max(np.abs(values - rounded))) > WHOLE:
            raise ImageRefused("the mask holds values that are no whole numbers: no label map")
        values = rounded
    if values.size and (values.min() < 0 or values.max() > 255):
        raise ImageRefused("the mask holds values below 0 or above 255: no label map")
    return np.asarray(values, dtype=np.uint8)


def site_values(
    values: LabelMap, table: Mapping[int, int] | None, known: Collection[int]
) -> LabelMap:
    """A mask's values as the site's label values.

    Args:
        values: (X, Y, Z) label values of the mask.
        table: the mask's value to the site's (0 leaves it out); None takes them as they are.
        known: the site's label values.

    Raises:
        ImageRefused: a value that is not mapped, or is mapped to one that the site does not know.
    """
    present = {int(v) for v in np.unique(values)} - {0}
    mapping = dict(table) if table is not None else {value: value for value in known}
    strange = sorted(set(mapping.values()) - set(known) - {0})
    if strange:
        raise ImageRefused(
            f"values are mapped to {_list(strange)}, which [labels] codes does not have"
        )
    unmapped = sorted(present - set(mapping))
    if unmapped:
        raise ImageRefused(f"the mask holds values that are not mapped: {_list(unmapped)}")
    return relabel(values, mapping)


def check_carried(carried: Carried, *, where: str) -> tuple[str, ...]:
    """See that a label came onto the image's grid whole; gives what is worth telling.

    Args:
        carried: the label on the grid.
        where: what the grid is, for the message.

    Raises:
        ImageRefused: voxels outside the image.
    """
    if carried.outside > OUTSIDE_SHARE:
        share = f"{carried.outside:.0%}" if carried.outside >= 0.01 else "part"
        raise ImageRefused(f"{share} of the labelled voxels lie outside {where}")
    if abs(carried.change - 1) > VOLUME_CHANGE:
        return (f"the volume changed by {carried.change - 1:+.0%} through resampling",)
    return ()


def _list(values: Collection[int]) -> str:
    shown = sorted(values)
    more = f" and {len(shown) - 8} more" if len(shown) > 8 else ""
    return ", ".join(str(value) for value in shown[:8]) + more
