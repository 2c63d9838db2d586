"""Pixels: whether text may be burned in, and cleaning of what hides in the stored bytes."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from dicom_bridge.errors import DataRefused
from dicom_bridge.sop_classes import LABELMAP_STORAGE, SEGMENTATION_STORAGE

SECONDARY_CAPTURE = frozenset(
    f"1.2.840.10008.5.1.4.1.1.7{suffix}" for suffix in ("", ".1", ".2", ".3", ".4")
)
ULTRASOUND = frozenset(
    f"1.2.840.10008.5.1.4.1.1.{suffix}" for suffix in ("3", "3.1", "6", "6.1", "6.2")
)
REPORTS = "1.2.840.10008.5.1.4.1.1.88."  # structured reports: no pixels
NO_TEXT = frozenset({SEGMENTATION_STORAGE, LABELMAP_STORAGE})
ENCODINGS = {
    "1.2.840.10008.1.2.4.50": "jpeg",
    "1.2.840.10008.1.2.4.51": "jpeg",
    "1.2.840.10008.1.2.4.57": "jpeg",
    "1.2.840.10008.1.2.4.70": "jpeg",
    "1.2.840.10008.1.2.4.80": "jpeg",
    "1.2.840.10008.1.2.4.81": "jpeg",
    "1.2.840.10008.1.2.4.90": "j2k",
    "1.2.840.10008.1.2.4.91": "j2k",
    "1.2.840.10008.1.2.4.201": "j2k",
    "1.2.840.10008.1.2.4.202": "j2k",
    "1.2.840.10008.1.2.4.203": "j2k",
    "1.2.840.10008.1.2.5": "rle",
}
SCREEN_WORDS = ("SCREEN", "PASTED", "SCANNED", "REPORT", "TEXT", "DOSE", "PRINT", "CAPTURE")
COMPUTED_WORDS = frozenset(
    (
        *("ADC", "FA", "TRACEW", "TRACE", "DIFFUSION", "PERFUSION", "MPR", "MIP", "MINIP", "MNIP"),
        *("REFORMATTED", "RESAMPLED", "SUBTRACTION", "PROJECTION", "AVERAGE", "MEAN", "COMBINED"),
        *("COMPOSED", "DIS2D", "DIS3D", "NORM", "T1", "T2", "MAP", "MOCO", "SUM", "DIXON"),
        *("WATER", "FAT", "MFSPLIT", "FILTERED", "PROPELLER", "RESPONSE", "MOSAIC", "PHASE"),
        *("MAGNITUDE", "REAL", "BVALUE", "CALC", "AXIAL", "LOCALIZER"),
    )
)
JFIF = 16
_SEGMENT = struct.Struct(">H")


@dataclass(frozen=True, slots=True)
class ImageFacts:
    """What of a header tells about its pixels. Text is stripped and in upper case.

    Attributes:
        sop_class: SOPClassUID.
        modality: Modality.
        image_type: the values of ImageType.
        burned_in: BurnedInAnnotation, empty where absent.
        conversion: ConversionType, empty where absent.
        has_pixels: there is pixel data.
        rows: Rows. columns: Columns. samples: SamplesPerPixel. frames: NumberOfFrames.
        allocated: BitsAllocated. stored: BitsStored. high: HighBit.
        signed: PixelRepresentation is 1.
        photometric: PhotometricInterpretation.
        padding: PixelPaddingValue as stored bits, None where absent.
        planar: PlanarConfiguration: 0 colour by pixel, 1 by plane.
        floating: Float or Double Float Pixel Data.
        manufacturer: Manufacturer. model: ManufacturerModelName. station: StationName.
    """

    sop_class: str
    modality: str
    image_type: tuple[str, ...]
    burned_in: str
    conversion: str
    has_pixels: bool
    rows: int = 0
    columns: int = 0
    samples: int = 1
    frames: int = 1
    allocated: int = 0
    stored: int = 0
    high: int = 0
    signed: bool = False
    photometric: str = ""
    padding: int | None = None
    planar: int = 0
    floating: bool = False
    manufacturer: str = ""
    model: str = ""
    station: str = ""

    @property
    def carries_text(self) -> bool:
        """Whether images of this kind carry text as a rule: captures, screens, ultrasound."""
        return (
            self.sop_class in SECONDARY_CAPTURE
            or self.sop_class in ULTRASOUND
            or self.modality == "US"
            or bool(self.conversion)
        )

    @property
    def expected(self) -> int:
        """Bytes of native pixel data (PS3.5 8.1.1), without padding."""
        samples = 2 if self.photometric == "YBR_FULL_422" else self.samples
        return (self.rows * self.columns * samples * self.frames * self.allocated + 7) // 8


def burned_in_reason(
    facts: ImageFacts, *, trust_annotation_no: bool = False, trust_text_detection: bool = False
) -> str | None:
    """Why text may be burned into these pixels, by the header alone; None where nothing says so.

    Rules in this order: the header says YES; objects that are pictures of screens or paper; kinds
    of images that carry text as a rule; derived images that no known computation made.

    Args:
        facts: what the header says.
        trust_annotation_no: captures and ultrasound may pass where BurnedInAnnotation is NO.
        trust_text_detection: they may pass where the header says nothing.
    """
    if facts.sop_class.startswith(REPORTS):
        return None
    if facts.burned_in == "YES":
        return "burned-in annotation: the header says that text is in the pixels"
    trusted = (trust_annotation_no and facts.burned_in == "NO") or trust_text_detection
    if facts.sop_class in SECONDARY_CAPTURE and not trusted:
        return "secondary capture: text may be burned into the pixels"
    if (facts.sop_class in ULTRASOUND or facts.modality == "US") and not trusted:
        return "ultrasound: text is usually burned into the pixels"
    if facts.conversion and not trusted:
        return "captured or digitised image: text may be burned into the pixels"
    for part in facts.image_type:
        if any(word in part for word in SCREEN_WORDS):
            return "screen capture or report page: text may be burned into the pixels"
    if facts.sop_class in NO_TEXT or facts.burned_in == "NO":
        return None
    if facts.image_type[:2] == ("DERIVED", "SECONDARY") and not trust_text_detection:
        words = {w for part in facts.image_type[2:] for w in part.replace(" ", "_").split("_")}
        if not words & COMPUTED_WORDS:
            return "derived secondary image of unknown making: text may be burned into the pixels"
    return None


def native_pixels(stored: memoryview, facts: ImageFacts) -> bytes | memoryview:
    """Native pixel data of exactly the right length with unused bits cleared.

    Overlays and other data can hide in bits above BitsStored and after the last pixel. Bits above
    are set to zero, or to the sign for signed pixels; values equal to PixelPaddingValue stay.

    Raises:
        DataRefused: there are fewer pixels than the header says, or HighBit is unusual.
    """
    expected = facts.expected
    if len(stored) < expected or expected == 0:
        raise DataRefused(
            f"pixel data is truncated: {expected} bytes expected, {len(stored)} present"
        )
    stored = stored[:expected]
    if facts.allocated in (8, 16, 32) and facts.stored < facts.allocated:
        if facts.high != facts.stored - 1:
            raise DataRefused("HighBit is not BitsStored - 1: such pixels cannot be cleaned")
        return _pad(_clear_unused(stored, facts))
    return _pad(stored)


def _pad(stored: bytes | memoryview) -> bytes | memoryview:
    return stored if len(stored) % 2 == 0 else bytes(stored) + b"\0"


def _clear_unused(stored: memoryview, facts: ImageFacts) -> bytes | memoryview:
    kind = np.dtype(f"<i{facts.allocated // 8}" if facts.signed else f"<u{facts.allocated // 8}")
    pixels = np.frombuffer(stored, dtype=kind)
    limit = 1 << (facts.stored - 1 if facts.signed else facts.stored)
    low = -limit if facts.signed else 0
    if int(pixels.max()) < limit and int(pixels.min()) >= low:
        return stored
    shift = kind.type(facts.allocated - facts.stored)
    cleared = (pixels << shift) >> shift
    if facts.padding is not None:
        cleared = np.where(pixels == np.array(facts.padding).astype(kind), pixels, cleared)
    return bytes(cleared.astype(kind).tobytes())


def clean_fragments(body: bytes, spans: Sequence[tuple[int, int]], encoding: str) -> list[bytes]:
    """Fragments of encapsulated pixel data without comments; lengths and offsets stay.

    Args:
        body: all bytes of the data set.
        spans: start and end of each fragment, the offset table first.
        encoding: ``jpeg`` (also JPEG-LS), ``j2k`` (also HTJ2K) or ``rle``.

    Returns:
        The fragments in the same order, the offset table unchanged.

    Raises:
        DataRefused: a fragment does not begin as its encoding does and continues no other.
    """
    cleaned = [body[spans[0][0] : spans[0][1]]] if spans else []
    begun = False
    for start, end in spans[1:]:
        fragment = bytearray(body[start:end])
        if encoding == "jpeg" and fragment[:2] == b"\xff\xd8":
            _blank_jpeg(fragment)
            begun = True
        elif encoding == "j2k" and fragment[:2] == b"\xff\x4f":
            _blank_j2k(fragment)
            begun = True
        elif encoding != "rle" and not begun:
            raise DataRefused("compressed pixel data does not begin as its transfer syntax says")
        cleaned.append(bytes(fragment))
    return cleaned


def _blank_jpeg(fragment: bytearray) -> None:
    """Overwrite comment and application segments up to the scan, and what follows the end."""
    position = 2
    while position + 4 <= len(fragment) and fragment[position] == 0xFF:
        marker = fragment[position + 1]
        (length,) = _SEGMENT.unpack_from(fragment, position + 2)
        if position + 2 + length > len(fragment):
            raise DataRefused("a segment of the compressed pixel data is truncated")
        if marker == 0xFE or (0xE1 <= marker <= 0xEF and marker not in (0xEE, 0xE8)):
            fragment[position + 4 : position + 2 + length] = bytes(length - 2)
        if marker == 0xE0 and length > JFIF:
            fragment[position + 2 + JFIF : position + 2 + length] = bytes(length - JFIF)
        if marker == 0xDA:
            break
        position += 2 + length
    _blank_tail(fragment)


def _blank_j2k(fragment: bytearray) -> None:
    """Overwrite comment segments of the main header and of every tile part."""
    position = 2
    tile_end = len(fragment)
    while position + 4 <= len(fragment) and fragment[position] == 0xFF:
        marker = fragment[position + 1]
        if marker == 0x93:
            position = tile_end
            continue
        if marker == 0xD9:
            break
        (length,) = _SEGMENT.unpack_from(fragment, position + 2)
        if position + 2 + length > len(fragment):
            raise DataRefused("a segment of the compressed pixel data is truncated")
        if marker == 0x64:
            fragment[position + 6 : position + 2 + length] = bytes(length - 4)
        if marker == 0x90:
            size = int.from_bytes(fragment[position + 6 : position + 10], "big")
            tile_end = position + size if size else len(fragment)
        position += 2 + length
    _blank_tail(fragment)


def _blank_tail(fragment: bytearray) -> None:
    end = fragment.rfind(b"\xff\xd9")
    if end >= 0:
        fragment[end + 2 :] = bytes(len(fragment) - end - 2)
