"""Text burned into pixels, in a five by seven dot font."""

from __future__ import annotations

import unicodedata

import numpy as np
from numpy.typing import NDArray

GLYPHS = {
    "A": "0E11111F111111", "B": "1E11111E11111E", "C": "0E11101010110E", "D": "1C12111111121C",
    "E": "1F10101E10101F", "F": "1F10101E101010", "G": "0E11101711110F", "H": "1111111F111111",
    "I": "0E04040404040E", "J": "0702020202120C", "K": "11121418141211", "L": "1010101010101F",
    "M": "111B1515111111", "N": "11111915131111", "O": "0E11111111110E", "P": "1E11111E101010",
    "Q": "0E11111115120D", "R": "1E11111E141211", "S": "0F10100E01011E", "T": "1F040404040404",
    "U": "1111111111110E", "V": "11111111110A04", "W": "1111111515150A", "X": "11110A040A1111",
    "Y": "1111110A040404", "Z": "1F01020408101F", "-": "0000001F000000", " ": "00000000000000",
    "0": "0E11131519110E", "1": "040C040404040E", "2": "0E11010204081F", "3": "1F02040201110E",
    "4": "02060A121F0202", "5": "1F101E0101110E", "6": "0608101E11110E", "7": "1F010204080808",
    "8": "0E11110E11110E", "9": "0E11110F01020C",
}  # fmt: skip
"""Seven rows of five dots each, two hexadecimal digits a row."""


def draw_text(text: str) -> NDArray[np.bool_]:
    """Dots of a text, axes (column, row), capitals only; unknown characters are blank.

    >>> draw_text("I").shape
    (6, 7)
    """
    plain = unicodedata.normalize("NFKD", text.upper())
    letters = [GLYPHS.get(c, GLYPHS[" "]) for c in plain if not unicodedata.combining(c)]
    out = np.zeros((6 * len(letters), 7), dtype=bool)
    for place, code in enumerate(letters):
        for row in range(7):
            dots = int(code[2 * row : 2 * row + 2], 16)
            for column in range(5):
                out[6 * place + column, row] = bool(dots >> (4 - column) & 1)
    return out


def burn_text(stored: NDArray[np.int16], text: str, value: int) -> None:
    """Write a text into the upper left corner of every slice, in place.

    Args:
        stored: Axes (columns, rows, slices).
        text: What to write.
        value: Stored value of the letters.
    """
    dots = draw_text(text)
    scale = max(1, stored.shape[0] // (dots.shape[0] + 8))
    dots = np.kron(dots, np.ones((scale, scale), dtype=bool))
    width = min(dots.shape[0], stored.shape[0] - 4)
    part = stored[4 : 4 + width, 4 : 4 + dots.shape[1]]
    part[dots[:width]] = np.clip(value, 1, 32767)
