"""Finding lines of text in pixels, untrained: rows of small shapes of one extreme value.

Text that a machine burned in stands at, or close to, the brightest value of the frame (in
projection radiographs also the darkest), as several separate shapes of like height on one base
line, close to each other, and far in value from what surrounds them. Anatomy fulfils this rarely.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydicom import dcmread
from pydicom.pixels.utils import pixel_array
from scipy import ndimage

from dicom_bridge.deid.pixels import ImageFacts
from dicom_bridge.errors import DataRefused

PROJECTION = frozenset(
    f"1.2.840.10008.5.1.4.1.1.{suffix}"
    for suffix in ("1", "1.1", "1.1.1", "1.2", "1.2.1", "1.3", "1.3.1", "12.1", "12.2")
)
LETTERS = 6
LEAST_PIXELS = 40
LOWEST, HIGHEST = 5, 80
NEAR = 0.03
SEPARATION = 0.25
MOST_SHAPES = 4000
MOST_FRAMES = 32


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
    stored: bytes | memoryview | None, encoded: Sequence[bytes | memoryview], facts: ImageFacts
) -> bool:
    """Whether a line of text stands in any frame that was looked at (all up to 32, else a choice).

    Args:
        stored: native pixel data, None for compressed.
        encoded: the whole de-identified file, for decoding compressed pixels.
        facts: form of the pixels.

    Raises:
        DataRefused: compressed pixels cannot be decoded, so that text cannot be ruled out.
    """
    chosen = np.unique(np.linspace(0, facts.frames - 1, min(facts.frames, MOST_FRAMES)).astype(int))
    dark = facts.sop_class in PROJECTION
    if stored is None:
        return any(has_text(_decoded(encoded, int(i)), dark=dark) for i in chosen)
    if facts.allocated not in (8, 16) or facts.photometric == "YBR_FULL_422":
        return False
    kind = np.dtype(f"<i{facts.allocated // 8}" if facts.signed else f"<u{facts.allocated // 8}")
    size = facts.rows * facts.columns * facts.samples
    pixels = np.frombuffer(stored, dtype=kind, count=size * facts.frames)
    for index in chosen:
        frame = pixels[index * size : (index + 1) * size]
        if facts.samples > 1:
            frame = frame.reshape(facts.rows, facts.columns, facts.samples).max(axis=2)
        if has_text(frame.reshape(facts.rows, facts.columns), dark=dark):
            return True
    return False


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
            if run >= LETTERS:
                return True
    return False


def _decoded(encoded: Sequence[bytes | memoryview], index: int) -> NDArray[Any]:
    try:
        dataset = dcmread(io.BytesIO(b"".join(encoded)))
        frame: NDArray[Any] = np.asarray(pixel_array(dataset, index=index, raw=True))
    except Exception as error:  # edge: decoders raise whatever they like
        message = f"the compressed pixels cannot be decoded ({type(error).__name__})"
        raise DataRefused(f"{message}: text in them cannot be ruled out") from None
    return frame.max(axis=2) if frame.ndim == 3 else frame
