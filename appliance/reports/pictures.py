"""Cuts as pictures: grey tiles with letters, outlines on transparent layers, encoded small.

The same input gives the same bytes: grey tiles become WebP (about a tenth of PNG for noise), layers
become PNG with a palette of a few colours.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from scipy import ndimage

from appliance.imaging.volume import Array
from appliance.reports.planes import Bools, Cut, Floats

Bytes2D = NDArray[np.uint8]
Colour = tuple[int, int, int]

GAP = 3
"""Black pixels between tiles."""
QUALITY = 60
BRAIN_COLOUR: Colour = (86, 180, 233)
EDGE_COLOUR: Colour = (240, 228, 66)
LABEL_COLOURS: tuple[Colour, ...] = (
    (230, 159, 0),
    (204, 121, 167),
    (0, 200, 140),
    (240, 228, 66),
    (213, 94, 0),
    (86, 180, 233),
)
"""After Okabe and Ito, told apart with colour blindness; by order of the label values."""
SAMPLE = 400_000
"""About so many voxels are looked at for the grey window."""


@dataclass(frozen=True, slots=True)
class Window:
    """Grey values that become black and white."""

    low: float
    high: float

    def bytes(self, values: Floats) -> Bytes2D:
        """Values 0 (low and below) to 255 (high and above)."""
        share = (values - self.low) / (self.high - self.low)
        return np.asarray(np.clip(share, 0.0, 1.0) * 255.0 + 0.5, dtype=np.uint8)


def window_of(data: Array, brain: Bools | None) -> Window:
    """Black at the 1st percentile, white a little above the brain's 99.5th (the head's 95th).

    Args:
        data: the image.
        brain: its mask; where None, voxels above the mean stand in for tissue. A constant image
            gets a window of width 1 above its value.
    """
    step = max(1, round((data.size / SAMPLE) ** (1 / 3)))
    values = data[::step, ::step, ::step].astype(np.float32)
    low = float(np.percentile(values, 1.0))
    inner = values > values.mean() if brain is None else brain[::step, ::step, ::step]
    tissue, bright = values[inner], 99.5 if brain is not None else 95.0  # fat is brighter
    if tissue.size == 0:
        return Window(low, low + 1.0)
    high = low + 1.08 * (float(np.percentile(tissue, bright)) - low)
    return Window(low, high) if high - low > 1e-6 * max(1.0, abs(low)) else Window(low, low + 1.0)


def outline(mask: Bools) -> Bools:
    """The pixels of a mask that touch its outside; one pixel wide, within the mask."""
    inner = ndimage.binary_erosion(mask, border_value=1)
    return np.asarray(mask & ~inner)


def edges(values: Floats, *, where: Bools | None = None, share: float = 0.2) -> Bools:
    """Edges of a picture: where its Laplacian changes sign and its gradient is among the steepest.

    The picture is smoothed by 1.2 pixels before (Marr and Hildreth 1980).

    Args:
        values: (height, width).
        where: pixels that are looked at; all where None or empty.
        share: share of these pixels whose gradient counts as steep.

    Returns:
        True on edges; nothing on a constant picture.
    """
    smooth = ndimage.gaussian_filter(values.astype(np.float32), 1.2)
    slope = np.hypot(ndimage.sobel(smooth, 0), ndimage.sobel(smooth, 1))
    seen = where if where is not None and where.any() else np.ones(values.shape, dtype=bool)
    limit = max(float(np.quantile(slope[seen], 1.0 - share)), 1e-6)
    positive = ndimage.laplace(smooth) > 0
    crossing = np.zeros(values.shape, dtype=bool)
    crossing[:-1] |= positive[:-1] != positive[1:]
    crossing[:, :-1] |= positive[:, :-1] != positive[:, 1:]
    return np.asarray(crossing & (slope > limit) & seen)


def checkerboard(first: Bytes2D, second: Bytes2D, field: int = 32) -> Bytes2D:
    """Fields of two pictures of one size by turns; the field at the upper left is of the first."""
    rows, columns = np.indices(first.shape) // field
    return np.where((rows + columns) % 2 == 0, first, second)


@dataclass(frozen=True, slots=True)
class Sheet:
    """How tiles lie on a picture.

    Attributes:
        places: column and row of the upper left pixel of each tile.
        size: width and height of the whole picture.
    """

    places: tuple[tuple[int, int], ...]
    size: tuple[int, int]


def arrange(cuts: Sequence[Cut], width: int) -> Sheet:
    """Tiles in rows that are at most `width` pixels wide (a single tile may be wider)."""
    places: list[tuple[int, int]] = []
    x = y = tall = widest = 0
    for cut in cuts:
        if x and x + cut.size[0] > width:
            x, y, tall = 0, y + tall + GAP, 0
        places.append((x, y))
        x += cut.size[0] + GAP
        tall = max(tall, cut.size[1])
        widest = max(widest, x - GAP)
    return Sheet(tuple(places), (max(1, widest), max(1, y + tall)))


def compose(sheet: Sheet, tiles: Sequence[Bytes2D]) -> Bytes2D:
    """The tiles at their places on black (or on 0, for layers)."""
    canvas = np.zeros((sheet.size[1], sheet.size[0]), dtype=np.uint8)
    for (x, y), tile in zip(sheet.places, tiles, strict=True):
        canvas[y : y + tile.shape[0], x : x + tile.shape[1]] = tile
    return canvas


@cache
def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)


def lettered(picture: Bytes2D, sheet: Sheet, cuts: Sequence[Cut], words: Sequence[str]) -> Bytes2D:
    """Write the patient's sides at the left and right of each tile, and words below.

    Tiles of at least 200 pixels also get the letters at top and bottom.

    Args:
        picture: the composed tiles.
        sheet: where they lie.
        cuts: their cuts.
        words: a few characters for the lower left corner of each tile, or empty texts.
    """
    image = Image.fromarray(picture)
    draw = ImageDraw.Draw(image)
    for (x, y), cut, text in zip(sheet.places, cuts, words, strict=True):
        width, height = cut.size
        font = _font(14 if min(width, height) >= 200 else 11)
        left, right, top, bottom = cut.letters
        middle = y + height / 2
        marks: list[tuple[float, float, str, str]] = [
            (x + 3, middle, left, "lm"),
            (x + width - 3, middle, right, "rm"),
        ]
        if min(width, height) >= 200:
            centre = x + width / 2
            marks += [(centre, y + 3, top, "mt"), (centre, y + height - 3, bottom, "mb")]
        if text:
            marks.append((x + 4, y + height - 3, text, "lb"))
        for px, py, letter, anchor in marks:
            draw.text(
                (px, py),
                letter,
                fill=255,
                font=font,
                anchor=anchor if hasattr(font, "getmetrics") else None,
                stroke_width=1,
                stroke_fill=0,
            )
    return np.asarray(image)


def grey_webp(picture: Bytes2D, quality: int = QUALITY) -> bytes:
    """A grey picture as WebP."""
    stream = io.BytesIO()
    Image.fromarray(picture).convert("RGB").save(stream, "WEBP", quality=quality, method=2)
    return stream.getvalue()


def layer_png(numbers: Bytes2D, colours: Sequence[Colour]) -> bytes:
    """A transparent picture in a few colours.

    Args:
        numbers: (height, width), 0 transparent, n the n-th colour.
        colours: red, green, blue, 0 to 255.
    """
    image = Image.fromarray(numbers)
    image.putpalette([0, 0, 0, *(part for colour in colours for part in colour)])
    stream = io.BytesIO()
    image.save(stream, "PNG", optimize=True, transparency=0)
    return stream.getvalue()
