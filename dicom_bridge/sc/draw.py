"""Pictures of slices: windowed pixels, contours on them, and text in strips above and below."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from scipy import ndimage

from dicom_bridge.sc.model import Window

LEAST_WIDTH = 384  # narrower slices are enlarged by a whole factor, so that the text fits
FONT_SIZES = (16, 14, 12, 10)
MARGIN = 3
WARNING = (255, 220, 0)
PLAIN = (220, 220, 220)
Colour = tuple[int, int, int]
Font = ImageFont.FreeTypeFont | ImageFont.ImageFont


def default_window(pixels: NDArray[np.generic]) -> Window:
    """A window from the values above 0: their 1st to 99.5th percentile."""
    values = np.asarray(pixels, dtype=np.float64)
    bright = values[values > 0]
    low, high = np.percentile(bright if bright.size else values, [1, 99.5])
    return Window(center=float(low + high) / 2, width=max(float(high - low), 1.0))


def windowed(plane: NDArray[np.generic], window: Window) -> NDArray[np.uint8]:
    """Grey levels of a plane by the linear function of PS3.3 C.11.2.1.2.1.

    Args:
        plane: (I, J) values.
        window: in the values' own unit.

    Returns:
        (I, J) 0 to 255.
    """
    width = max(window.width, 1.0 + 1e-9)
    share = (np.asarray(plane, dtype=np.float64) - (window.center - 0.5)) / (width - 1) + 0.5
    return np.asarray(np.rint(np.clip(share, 0, 1) * 255), dtype=np.uint8)


def outline(region: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """The pixels of a region that touch its outside or the picture's edge."""
    inner = ndimage.binary_erosion(region, structure=np.ones((3, 3), bool), border_value=0)
    return np.asarray(region & ~inner, dtype=np.bool_)


def picture(
    plane: NDArray[np.uint8],
    labels: NDArray[np.uint8],
    colours: Mapping[int, Colour],
    words: tuple[str, Sequence[str]],
) -> NDArray[np.uint8]:
    """One picture.

    Args:
        plane: (I, J) grey levels.
        labels: (I, J) label values, 0 background.
        colours: of each label value.
        words: the banner above the slice, and the lines below it.

    Returns:
        (rows, columns, 3) sRGB; the slice stands between two black strips of text.
    """
    factor = max(1, -(-LEAST_WIDTH // plane.shape[0]))
    grey = _enlarged(plane, factor)
    image = np.repeat(grey[..., None], 3, axis=2)
    marks = _enlarged(labels, factor)
    for value, colour in sorted(colours.items()):
        region = marks == value
        if np.any(region):
            image[outline(region)] = colour
    banner, lines = words
    width = image.shape[1]
    above = strip((banner,), width, WARNING)
    below = strip(tuple(lines), width, PLAIN)
    return np.ascontiguousarray(np.concatenate([above, image, below], axis=0))


def _enlarged(plane: NDArray[np.uint8], factor: int) -> NDArray[np.uint8]:
    """(rows, columns) of an (I, J) plane, every pixel repeated."""
    return np.repeat(np.repeat(plane.T, factor, axis=0), factor, axis=1)


@lru_cache(maxsize=64)
def strip(lines: tuple[str, ...], width: int, colour: Colour) -> NDArray[np.uint8]:
    """(rows, width, 3) black strip with lines of text; lines that are too long are broken."""
    if not lines:
        return np.zeros((0, width, 3), np.uint8)
    font, broken = _fitted(lines, width - 2 * MARGIN)
    height = max(int(font.getbbox(line or "x")[3]) for line in broken) + MARGIN
    image = Image.new("RGB", (width, height * len(broken) + MARGIN))
    draw = ImageDraw.Draw(image)
    for number, line in enumerate(broken):
        draw.text((MARGIN, number * height), line, fill=colour, font=font)
    return np.asarray(image, dtype=np.uint8)


def _fitted(lines: Sequence[str], width: int) -> tuple[Font, list[str]]:
    """The largest letters in which every line fits, else small ones and broken lines."""
    for size in FONT_SIZES:
        font = ImageFont.load_default(size=size)
        if all(font.getlength(line) <= width for line in lines):
            return font, list(lines)
    font = ImageFont.load_default(size=FONT_SIZES[-1])
    return font, [part for line in lines for part in _broken(line, font, width)]


def _broken(line: str, font: Font, width: int) -> list[str]:
    """A line as parts that fit, broken between words where there are any."""
    parts = [""]
    for word in line.split(" "):
        longer = f"{parts[-1]} {word}".strip()
        if font.getlength(longer) <= width:
            parts[-1] = longer
            continue
        while font.getlength(word) > width:
            fits = max(n for n in range(1, len(word)) if font.getlength(word[:n]) <= width)
            parts.append(word[:fits])
            word = word[fits:]
        parts.append(word)
    return [part for part in parts if part]
