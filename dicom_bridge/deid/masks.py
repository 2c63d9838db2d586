"""Masks over burned-in text: which pixels of which devices are blanked (Clean Pixel Data, 113101).

A mask belongs to a device (manufacturer, model, station, SOP class; compared with the original
header in memory) and to one size of image. A device that has masks but none of this size is a
device that changed its screen layout: refused, never guessed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dicom_bridge.deid.pixels import ImageFacts
from dicom_bridge.errors import DataRefused, SettingsRefused

Region = tuple[int, int, int, int]
Area = NDArray[np.bool_]
MOST_REGIONS = 1000
_KEYS = frozenset(
    {"manufacturer", "model", "station", "sop_class", "rows", "columns", "regions", "rule"}
)


class MaskRule(StrEnum):
    """Where a mask blanks.

    ``REGIONS``: the rectangles of the mask. ``OUTSIDE_REGIONS``: everything outside the rectangles
    that the object's own Sequence of Ultrasound Regions (0018,6011) calibrates (PS3.3 C.8.5.5).
    """

    REGIONS = "regions"
    OUTSIDE_REGIONS = "outside-regions"


@dataclass(frozen=True, slots=True)
class Mask:
    """One mask of a profile.

    Attributes:
        regions: rectangles as (x, y, width, height) in pixels from the top left one.
        rule: what the rectangles mean, or that the object's own regions stay.
        manufacturer: Manufacturer; empty for any. model: ManufacturerModelName. station:
            StationName. sop_class: SOPClassUID. At least one is given; case does not count.
        rows: Rows of the images. columns: Columns. Both 0 for any size, with OUTSIDE_REGIONS only.

    Raises:
        SettingsRefused: the mask names no device or no size, or a rectangle lies outside.
    """

    regions: tuple[Region, ...] = ()
    rule: MaskRule = MaskRule.REGIONS
    manufacturer: str = ""
    model: str = ""
    station: str = ""
    sop_class: str = ""
    rows: int = 0
    columns: int = 0

    def __post_init__(self) -> None:
        if not any((self.manufacturer, self.model, self.station, self.sop_class)):
            raise SettingsRefused("a mask names no device: give manufacturer, model or station")
        if self.rule is MaskRule.OUTSIDE_REGIONS:
            if self.regions:
                raise SettingsRefused(
                    "a mask with the rule outside-regions has no regions of its own"
                )
            return
        if self.rows < 1 or self.columns < 1:
            raise SettingsRefused("a mask needs rows and columns of the images that it fits")
        if not 1 <= len(self.regions) <= MOST_REGIONS:
            message = f"a mask needs 1 to {MOST_REGIONS} regions [x, y, width, height]"
            raise SettingsRefused(f"{message}, got {len(self.regions)}")
        for region in self.regions:
            if not _inside(region, self.rows, self.columns):
                size = f"{self.rows} rows and {self.columns} columns"
                raise SettingsRefused(f"the region {list(region)} of a mask is not inside {size}")

    @classmethod
    def from_table(cls, table: Mapping[str, Any]) -> Mask:
        """A mask from one ``[[pixels.mask]]`` of a profile.

        Raises:
            SettingsRefused: a key is unknown or its value of another kind.
        """
        unknown = sorted(set(table) - _KEYS)
        if unknown:
            raise SettingsRefused(f"a mask has unknown keys: {', '.join(unknown)}")
        texts = {k: table.get(k, "") for k in ("manufacturer", "model", "station", "sop_class")}
        sizes = {k: table.get(k, 0) for k in ("rows", "columns")}
        if not all(isinstance(v, str) for v in texts.values()):
            raise SettingsRefused("manufacturer, model, station and sop_class of a mask are texts")
        if not all(isinstance(v, int) and not isinstance(v, bool) for v in sizes.values()):
            raise SettingsRefused("rows and columns of a mask are whole numbers")
        rule = table.get("rule", "regions")
        if rule not in list(MaskRule):
            raise SettingsRefused(f"the rule of a mask is one of {', '.join(MaskRule)}")
        return cls(
            regions=_regions(table.get("regions", [])), rule=MaskRule(rule), **texts, **sizes
        )

    def is_for(self, facts: ImageFacts) -> bool:
        """Whether the object comes from the device of this mask."""
        pairs = (
            (self.manufacturer, facts.manufacturer),
            (self.model, facts.model),
            (self.station, facts.station),
            (self.sop_class, facts.sop_class),
        )
        return all(not wanted or wanted.strip().upper() == seen for wanted, seen in pairs)

    def has_size(self, facts: ImageFacts) -> bool:
        """Whether the object has the size of this mask."""
        if not self.rows and not self.columns:
            return True
        return (self.rows, self.columns) == (facts.rows, facts.columns)

    def to_json(self) -> dict[str, Any]:
        """Everything that decides, for the profile's hash."""
        return {
            "regions": [list(region) for region in self.regions],
            "rule": str(self.rule),
            "device": [self.manufacturer, self.model, self.station, self.sop_class],
            "size": [self.rows, self.columns],
        }


def blank_area(
    masks: Iterable[Mask], facts: ImageFacts, calibrated: Callable[[], Sequence[Region]]
) -> Area | None:
    """The pixels to blank in every frame, axes (row, column); None where no mask is for the device.

    Args:
        masks: the profile's masks.
        facts: the object's device and size.
        calibrated: gives the regions of (0018,6011) as (x, y, width, height).

    Raises:
        DataRefused: there are masks for the device, but none fits this image.
    """
    chosen = [mask for mask in masks if mask.is_for(facts)]
    if not chosen:
        return None
    size = f"{facts.rows} x {facts.columns}"
    fitting = [mask for mask in chosen if mask.has_size(facts)]
    if not fitting:
        raise DataRefused(f"the masks for this device do not fit an image of {size} pixels")
    area = np.zeros((facts.rows, facts.columns), dtype=np.bool_)
    for mask in fitting:
        if mask.rule is MaskRule.REGIONS:
            _fill(area, mask.regions)
            continue
        regions = calibrated()
        if not regions:
            raise DataRefused("the mask keeps calibrated regions, but the object names none")
        if not all(_inside(region, facts.rows, facts.columns) for region in regions):
            raise DataRefused(f"a calibrated region lies outside the image of {size} pixels")
        inside = np.zeros_like(area)
        _fill(inside, regions)
        area |= ~inside
    return area


def _fill(area: Area, regions: Iterable[Region]) -> None:
    for x, y, width, height in regions:
        area[y : y + height, x : x + width] = True


def _inside(region: Region, rows: int, columns: int) -> bool:
    x, y, width, height = region
    return (
        min(x, y) >= 0 and min(width, height) >= 1 and x + width <= columns and y + height <= rows
    )


def _regions(value: object) -> tuple[Region, ...]:
    message = "the regions of a mask are lists of four whole numbers [x, y, width, height]"
    if not isinstance(value, list):
        raise SettingsRefused(message)
    found: list[Region] = []
    for entry in value:
        numbers = isinstance(entry, list) and all(type(number) is int for number in entry)
        if not numbers or len(entry) != 4:
            raise SettingsRefused(message)
        found.append((entry[0], entry[1], entry[2], entry[3]))
    return tuple(found)
