"""Finding lines of text in pixels, untrained: rows of small shapes that stand out.

Text that a machine burned in stands as several separate shapes of like height on one base line,
close to each other, and far in value from what surrounds them. Anatomy fulfils this rarely. In
slices of CT, MR and PET only the brightest values are looked at, which is fast; in all other kinds
of images thin shapes of any value, brighter or darker than their surroundings, upright or turned by
a quarter, since those kinds often carry text.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.pixels.utils import pixel_array
from scipy import ndimage

from dicom_bridge.deid.painting import SUBSAMPLED
from dicom_bridge.deid.pixels import ImageFacts
from dicom_bridge.errors import DataRefused

_STORAGE = "1.2.840.10008.5.1.4.1.1."
SLICES = frozenset(
    _STORAGE + suffix
    for suffix in (
        *("2", "2.1", "2.2", "4", "4.1", "4.3", "4.4", "128", "128.1", "130"),
        *("30", "481.2"),
    )
)
LETTERS, MOST_LETTERS = 6, 12
SHAPES_PER_LETTER = 60  # texture lines up by chance: the more shapes, the longer a line must be
LEAST_PIXELS = 40
LOWEST, HIGHEST = 5, 80
NEAR = 0.03
SEPARATION = 0.25
MOST_SHAPES = 4000
MOST_FRAMES = 32
STROKE = 9
STEPS = (0.5, 0.3, 0.18)
FAINTEST = 8
CLARITY = 3.4  # shapes of a top-hat: nearly all of their step above what surrounds them
LARGE = 1024


class _Shape(NamedTuple):
    top: int
    bottom: int
    left: int
    right: int

    @property
    def height(self) -> int:
        """Rows that the shape covers."""
        return self.bottom - self.top


def frames_have_text(
    stored: bytes | memoryview | None,
    encoded: Sequence[bytes | memoryview],
    facts: ImageFacts,
    *,
    every: bool = False,
) -> bool:
    """Whether a line of text stands in any frame that was looked at.

    Args:
        stored: native pixel data, None for compressed.
        encoded: the whole de-identified file, for decoding compressed pixels.
        facts: form of the pixels.
        every: look at all frames; otherwise at all up to 32, else at a choice of 32.

    Raises:
        DataRefused: the pixels cannot be decoded or read, so that text cannot be ruled out.
    """
    number = facts.frames if every else min(facts.frames, MOST_FRAMES)
    chosen = np.unique(np.linspace(0, facts.frames - 1, number).astype(int))
    thorough = facts.sop_class not in SLICES
    frames = _decoded(encoded, chosen) if stored is None else _native(stored, facts, chosen)
    if frames is None:
        if thorough and not facts.floating:
            raise DataRefused("pixels of this form cannot be looked at: text cannot be ruled out")
        return False
    look = has_any_text if thorough else has_text
    return any(look(plane) for frame in frames for plane in _planes(frame, facts))


def _planes(frame: NDArray[Any], facts: ImageFacts) -> Iterator[NDArray[Any]]:
    """The planes to look at: luminance, or the brightest and the darkest of the colours."""
    if frame.ndim == 2:
        yield frame
    elif facts.photometric.startswith("YBR_FULL") or facts.photometric == "YBR_PARTIAL_422":
        yield frame[..., 0]
    else:
        yield frame.max(axis=2)
        yield frame.min(axis=2)


def has_any_text(frame: NDArray[Any]) -> bool:
    """Whether a line of letters stands in a frame: any value, upright or turned by a quarter.

    Thin shapes are what a closing or an opening of the frame removes (top-hat): what is left is
    text and texture whatever lies behind it.

    Args:
        frame: axes (row, column), stored values.
    """
    views = [frame, frame[::2, ::2]] if min(frame.shape) >= LARGE else [frame]
    return any(
        has_text(view, dark=True) or _has_thin_text(view)
        for part in views
        for view in (part, np.rot90(part))
    )


def _has_thin_text(frame: NDArray[Any]) -> bool:
    values = frame.astype(np.int32)
    span = int(values.max()) - int(values.min())
    if span < 2 * FAINTEST:
        return False
    opened = ndimage.maximum_filter(ndimage.minimum_filter(values, STROKE), STROKE)
    closed = ndimage.minimum_filter(ndimage.maximum_filter(values, STROKE), STROKE)
    return any(
        _line_in(hat, hat >= max(FAINTEST, step * span), int(CLARITY * step * span))
        for hat in (values - opened, closed - values)
        for step in STEPS
    )


def has_text(frame: NDArray[Any], *, dark: bool = False) -> bool:
    """Whether a line of at least six letters stands in a frame.

    Args:
        frame: axes (row, column), stored values.
        dark: look for the darkest value too, as in radiographs.
    """
    high, low = int(frame.max()), int(frame.min())
    if high - low < 16:
        return False
    margin = int((high - low) * NEAR)
    if _line_in(frame, frame >= high - margin, high - low):
        return True
    return dark and _line_in(frame, frame <= low + margin, high - low)


def _line_in(frame: NDArray[Any], mask: NDArray[np.bool_], span: int) -> bool:
    count = int(np.count_nonzero(mask))
    if not LEAST_PIXELS <= count <= mask.size // 2:
        return False
    labels, number = ndimage.label(mask, structure=np.ones((3, 3), dtype=int))
    if not LETTERS <= number <= MOST_SHAPES:
        return False
    shapes = []
    for index, place in enumerate(ndimage.find_objects(labels), 1):
        rows, columns = place
        shape = _Shape(rows.start, rows.stop, columns.start, columns.stop)
        width = shape.right - shape.left
        if LOWEST <= shape.height <= HIGHEST and width <= 1.6 * shape.height:
            inside = labels[place] == index
            if inside.mean() > 0.12 and _stands_out(frame, shape, labels, index, span):
                shapes.append(shape)
    return _has_line(shapes)


def _stands_out(
    frame: NDArray[Any], shape: _Shape, labels: NDArray[Any], index: int, span: int
) -> bool:
    """Whether the surroundings of a shape are far from it in value."""
    top, left = max(0, shape.top - 2), max(0, shape.left - 2)
    area = (slice(top, shape.bottom + 2), slice(left, shape.right + 2))
    around = frame[area][labels[area] == 0]
    if around.size == 0:
        return False
    own = frame[area][labels[area] == index]
    difference = np.abs(np.median(own.astype(np.float64)) - np.median(around.astype(np.float64)))
    return bool(difference > SEPARATION * span)


def _has_line(shapes: list[_Shape]) -> bool:
    """Whether enough shapes stand on one base line, alike in height and close together."""
    needed = min(MOST_LETTERS, LETTERS + len(shapes) // SHAPES_PER_LETTER)
    for first in shapes:
        slack = max(1.0, 0.2 * first.height)
        row = sorted(
            (
                s
                for s in shapes
                if abs(s.bottom - first.bottom) <= slack
                and 0.7 * first.height <= s.height <= 1.4 * first.height
            ),
            key=lambda s: s.left,
        )
        run = 1
        for before, after in pairwise(row):
            near = after.left - before.right <= 2 * first.height
            run = run + 1 if near and after.left >= before.left else 1
            if run >= needed:
                return True
    return False


def _native(
    stored: bytes | memoryview, facts: ImageFacts, chosen: NDArray[Any]
) -> Iterator[NDArray[Any]] | None:
    """Frames of native pixel data, axes (row, column[, sample]); None for unread forms."""
    shape = (facts.rows, facts.columns)
    if facts.allocated == 1 and facts.samples == 1:
        bits = np.unpackbits(np.frombuffer(stored, dtype=np.uint8), bitorder="little")
        size = facts.rows * facts.columns
        return (bits[i * size : (i + 1) * size].reshape(shape) * np.uint8(255) for i in chosen)
    if facts.allocated not in (8, 16, 32) or facts.floating:
        return None
    kind = np.dtype(f"<i{facts.allocated // 8}" if facts.signed else f"<u{facts.allocated // 8}")
    if facts.photometric in SUBSAMPLED:
        if facts.allocated != 8 or facts.columns % 2:
            return None
        pairs = np.frombuffer(stored, dtype=np.uint8, count=facts.expected)
        quads = pairs.reshape(facts.frames, facts.rows, facts.columns // 2, 4)
        return (quads[i, :, :, :2].reshape(shape) for i in chosen)
    count = facts.frames * facts.rows * facts.columns * facts.samples
    pixels = np.frombuffer(stored, dtype=kind, count=count)
    frames: NDArray[Any]
    if facts.samples == 1:
        frames = pixels.reshape(facts.frames, *shape)
    elif facts.planar:
        frames = pixels.reshape(facts.frames, facts.samples, *shape).transpose(0, 2, 3, 1)
    else:
        frames = pixels.reshape(facts.frames, *shape, facts.samples)
    return (frames[i] for i in chosen)


def _decoded(encoded: Sequence[bytes | memoryview], chosen: NDArray[Any]) -> Iterator[NDArray[Any]]:
    try:
        dataset = dcmread(io.BytesIO(b"".join(encoded)))
    except Exception as error:  # edge: a reader of its own may raise whatever it likes
        raise _unreadable(error) from None
    return (_frame(dataset, int(index)) for index in chosen)


def _frame(dataset: Dataset, index: int) -> NDArray[Any]:
    try:
        return np.asarray(pixel_array(dataset, index=index, raw=True))
    except Exception as error:  # edge: decoders raise whatever they like
        raise _unreadable(error) from None


def _unreadable(error: Exception) -> DataRefused:
    message = f"the compressed pixels cannot be decoded ({type(error).__name__})"
    return DataRefused(f"{message}: text in them cannot be ruled out")
