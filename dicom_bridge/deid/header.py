"""What the top level of an encoded data set says about the whole object."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from dicom_bridge.deid import codec
from dicom_bridge.deid.codec import Element
from dicom_bridge.deid.identifiers import DATE_TAGS
from dicom_bridge.deid.masks import Region
from dicom_bridge.deid.pixels import ImageFacts
from dicom_bridge.errors import DataRefused

SOP_CLASS, SOP_INSTANCE, STUDY, SERIES = 0x00080016, 0x00080018, 0x0020000D, 0x0020000E
PATIENT_ID, ISSUER, PIXEL_DATA, ROWS = 0x00100020, 0x00100021, 0x7FE00010, 0x00280010
FLOAT_PIXELS = (0x7FE00008, 0x7FE00009)
_REGIONS, _PADDING = 0x00186011, 0x00280120
_CORNERS = (0x00186018, 0x0018601A, 0x0018601C, 0x0018601E)


class Reader(NamedTuple):
    """Values of the top level.

    Attributes:
        body: the encoded data set.
        elements: its elements by tag.
    """

    body: bytes
    elements: Mapping[int, Element]

    def raw_text(self, tag: int) -> str:
        """The value as text, stripped; bytes outside UTF-8 by Latin-1."""
        element = self.elements.get(tag)
        if element is None:
            return ""
        raw = self.body[element.start : element.end]
        try:
            return raw.decode("utf-8").strip(" \0")
        except UnicodeDecodeError:
            return raw.decode("latin-1").strip(" \0")

    def text(self, tag: int) -> str:
        """The value as plain text in upper case, stripped."""
        return self.raw_text(tag).upper()

    def dates(self) -> frozenset[str]:
        """Birth date and dates of study, series and image, as YYYYMMDD."""
        found = (self.raw_text(tag)[:8] for tag in DATE_TAGS if tag in self.elements)
        return frozenset(day for day in found if len(day) == 8 and day.isdigit())

    def number(self, tag: int, default: int = 0) -> int:
        """A US value, or an IS value; the default where absent."""
        element = self.elements.get(tag)
        if element is None or element.end == element.start:
            return default
        raw = self.body[element.start : element.end]
        if element.vr == b"IS":
            return int(raw.strip(b" \0"))
        return int.from_bytes(raw[:2], "little")

    def regions(self) -> list[Region]:
        """The calibrated regions of (0018,6011) as (x, y, width, height) (PS3.3 C.8.5.5.1.2).

        Raises:
            DataRefused: a region has no corners.
        """
        element = self.elements.get(_REGIONS)
        if element is None or element.end == element.start:
            return []
        found: list[Region] = []
        for item in codec.items(self.body, element, 0):
            if not all(tag in item and item[tag].end - item[tag].start == 4 for tag in _CORNERS):
                raise DataRefused("a calibrated region of the image has no corners")
            left, top, right, bottom = (
                int.from_bytes(self.body[item[tag].start : item[tag].end], "little")
                for tag in _CORNERS
            )
            found.append((left, top, right - left + 1, bottom - top + 1))
        return found


def image_facts(reader: Reader) -> ImageFacts:
    """What decides about the pixels of an object."""
    return ImageFacts(
        sop_class=reader.text(SOP_CLASS),
        modality=reader.text(0x00080060),
        image_type=tuple(part.strip() for part in reader.text(0x00080008).split("\\")),
        burned_in=reader.text(0x00280301),
        conversion=reader.text(0x00080064),
        has_pixels=PIXEL_DATA in reader.elements,
        rows=reader.number(ROWS),
        columns=reader.number(0x00280011),
        samples=reader.number(0x00280002, 1),
        frames=max(1, reader.number(0x00280008, 1)),
        allocated=_allocated(reader),
        stored=reader.number(0x00280101),
        high=reader.number(0x00280102),
        signed=reader.number(0x00280103) == 1,
        photometric=reader.text(0x00280004),
        padding=reader.number(_PADDING) if _PADDING in reader.elements else None,
        planar=reader.number(0x00280006),
        floating=any(tag in reader.elements for tag in FLOAT_PIXELS),
        manufacturer=reader.text(0x00080070),
        model=reader.text(0x00081090),
        station=reader.text(0x00081010),
    )


def _allocated(reader: Reader) -> int:
    if FLOAT_PIXELS[0] in reader.elements:
        return 32
    return 64 if FLOAT_PIXELS[1] in reader.elements else reader.number(0x00280100)
