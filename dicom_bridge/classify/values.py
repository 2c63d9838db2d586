"""Attribute values as plain numbers, sets of words and searchable text."""

from __future__ import annotations

import re
from collections.abc import Iterable

import numpy as np

MAX_NAME = 256  # characters of a name that are looked at: four times what the standard allows


def number(value: object) -> float | None:
    """The first finite number in an attribute's value.

    Examples:
        >>> number("2200.5"), number(None), number(["90", "12"])
        (2200.5, None, 90.0)
    """
    if isinstance(value, Iterable) and not isinstance(value, str | bytes):
        values = list(value)
        return number(values[0]) if values else None
    try:
        found = float(str(value))
    except ValueError:
        return None
    return found if np.isfinite(found) else None


def texts(value: object) -> frozenset[str]:
    """The upper-case values of a multi-valued text attribute."""
    if value is None:
        return frozenset()
    if isinstance(value, str):
        value = value.split("\\")
    if not isinstance(value, Iterable):
        return frozenset()
    return frozenset(str(item).strip().upper() for item in value if str(item).strip())


def word_text(*names: object) -> str:
    """Free text as lower-case words with single blanks, padded, so that words can be searched.

    Examples:
        >>> word_text("T2_tirm-DarkFluid", None)
        ' t2 tirm dark fluid '
    """
    joined = " ".join(str(name)[:MAX_NAME] for name in names if name)
    joined = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", joined).replace("+", " plus ")
    return f" {' '.join(re.findall(r'[a-z0-9*]+', joined.lower()))} "
