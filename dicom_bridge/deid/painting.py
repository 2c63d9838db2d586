"""Blanking of stored pixel values: native of any depth, and compressed ones after decoding.

PS3.15 E.3.1 asks that the stored values change, not that something is drawn over them. What was
compressed is written uncompressed: no decoder of the receiving side can then differ from ours.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom.pixels.decoders.base import get_decoder
from pydicom.uid import UID

from dicom_bridge.deid.masks import Area
from dicom_bridge.deid.pixels import ImageFacts
from dicom_bridge.errors import DataRefused

LARGEST_DECODED = 1024**3
SUBSAMPLED = frozenset({"YBR_FULL_422", "YBR_PARTIAL_422"})
# Transfer syntaxes that lose, and the method of (0028,2114) (PS3.3 C.7.6.1.1.5.1).
LOSSY = {
    "1.2.840.10008.1.2.4.50": "ISO_10918_1",
    "1.2.840.10008.1.2.4.51": "ISO_10918_1",
    "1.2.840.10008.1.2.4.81": "ISO_14495_1",
}


@dataclass(frozen=True, slots=True)
class Painted:
    """Pixels after blanking.

    Attributes:
        stored: native pixel data, exactly as long as ``facts`` say.
        facts: the form of the pixels now.
        decoded: they were compressed before.
    """

    stored: bytes
    facts: ImageFacts
    decoded: bool


def paint_native(stored: memoryview, facts: ImageFacts, area: Area) -> Painted:
    """Blank an area in all frames of native pixel data.

    Args:
        stored: exactly the native bytes.
        facts: their form.
        area: pixels to blank, axes (row, column).

    Raises:
        DataRefused: this form of pixels is not supported.
    """
    if facts.allocated == 1:
        return Painted(_paint_bits(stored, facts, area), facts, decoded=False)
    if facts.photometric in SUBSAMPLED:
        return Painted(_paint_subsampled(stored, facts, area), facts, decoded=False)
    pixels = np.frombuffer(stored, dtype=_kind(facts)).copy()
    frame = (facts.rows, facts.columns)
    if facts.samples == 1:
        pixels.reshape(facts.frames, *frame)[:, area] = _blank(pixels, facts)
    elif facts.planar:
        planes = pixels.reshape(facts.frames, facts.samples, *frame)
        for sample, value in enumerate(_blank_colour(facts)):
            planes[:, sample][:, area] = value
    else:
        pixels.reshape(facts.frames, *frame, facts.samples)[:, area] = _blank_colour(facts)
    return Painted(pixels.tobytes(), facts, decoded=False)


def paint_compressed(encapsulated: bytes, syntax: str, facts: ImageFacts, area: Area) -> Painted:
    """Decode all frames, blank an area, and give native pixel data (colour by pixel).

    Args:
        encapsulated: the fragments as they lie in Pixel Data, the offset table first.
        syntax: their transfer syntax.
        facts: the form that the header says.
        area: pixels to blank.

    Raises:
        DataRefused: the pixels cannot be decoded, are too large, or have another form than the
            header says.
    """
    if facts.expected > LARGEST_DECODED:
        raise DataRefused(f"the decoded pixels would have more than {LARGEST_DECODED} bytes")
    try:
        frames, photometric = _decode(encapsulated, syntax, facts)
    except Exception as error:  # edge: decoders raise whatever they like
        message = f"the compressed pixels cannot be decoded ({type(error).__name__})"
        raise DataRefused(f"{message}: they cannot be masked") from None
    form = (facts.frames, facts.rows, facts.columns)
    colours = () if facts.samples == 1 else (facts.samples,)
    if frames.shape != form + colours or frames.dtype.itemsize * 8 != facts.allocated:
        raise DataRefused("the compressed pixels have another form than the header says")
    now = replace(facts, photometric=photometric, planar=0)
    native = np.ascontiguousarray(frames.astype(_kind(now), copy=False))
    return replace(paint_native(memoryview(native.tobytes()), now, area), decoded=True)


def _decode(encapsulated: bytes, syntax: str, facts: ImageFacts) -> tuple[NDArray[Any], str]:
    """All frames, axes (frame, row, column[, sample]), and how they are to be read."""
    options: dict[str, Any] = {
        "rows": facts.rows,
        "columns": facts.columns,
        "number_of_frames": facts.frames,
        "samples_per_pixel": facts.samples,
        "photometric_interpretation": facts.photometric,
        "pixel_representation": int(facts.signed),
        "bits_allocated": facts.allocated,
        "bits_stored": facts.stored,
        "pixel_keyword": "PixelData",
    }
    if facts.samples > 1:
        options["planar_configuration"] = facts.planar
    decoder = get_decoder(UID(syntax))
    decoded, form = decoder.as_array(encapsulated, raw=False, **options)
    frames = np.asarray(decoded)
    return (frames[np.newaxis] if facts.frames == 1 else frames), str(
        form["photometric_interpretation"]
    )


def _kind(facts: ImageFacts) -> np.dtype[Any]:
    if facts.allocated not in (8, 16, 32, 64):
        raise DataRefused(f"pixels of {facts.allocated} bits cannot be masked")
    letter = "f" if facts.floating else ("i" if facts.signed else "u")
    return np.dtype(f"<{letter}{facts.allocated // 8}")


def _blank(pixels: NDArray[Any], facts: ImageFacts) -> int | float:
    """The value that is shown black, or the frame's lowest where values have a sign."""
    if facts.floating:
        return float(np.nanmin(pixels))
    if facts.photometric == "MONOCHROME1":
        return int((1 << (facts.stored - 1 if facts.signed else facts.stored)) - 1)
    return int(pixels.min()) if facts.signed else 0


def _blank_colour(facts: ImageFacts) -> tuple[int, ...]:
    if facts.samples != 3:
        raise DataRefused(f"images of {facts.samples} samples per pixel cannot be masked")
    middle = 1 << (facts.allocated - 1)
    return (0, middle, middle) if facts.photometric.startswith("YBR") else (0, 0, 0)


def _paint_bits(stored: memoryview, facts: ImageFacts, area: Area) -> bytes:
    """Single bits, the first pixel in the lowest bit (PS3.5 8.1.1)."""
    count = facts.frames * facts.rows * facts.columns
    bits = np.unpackbits(np.frombuffer(stored, dtype=np.uint8), bitorder="little")[:count]
    black = 1 if facts.photometric == "MONOCHROME1" else 0
    bits.reshape(facts.frames, facts.rows, facts.columns)[:, area] = black
    return np.packbits(bits, bitorder="little").tobytes()


def _paint_subsampled(stored: memoryview, facts: ImageFacts, area: Area) -> bytes:
    """Native YBR_FULL_422: per two pixels Y, Y, CB, CR (PS3.3 C.7.6.3.1.2)."""
    if facts.allocated != 8 or facts.columns % 2:
        raise DataRefused("subsampled colours of this form cannot be masked")
    pixels = np.frombuffer(stored, dtype=np.uint8).copy()
    quads = pixels.reshape(facts.frames, facts.rows, facts.columns // 2, 4)
    for place in (0, 1):
        quads[..., place][:, area[:, place::2]] = 0
    either = area[:, 0::2] | area[:, 1::2]
    quads[..., 2:][:, either] = 128
    return pixels.tobytes()
