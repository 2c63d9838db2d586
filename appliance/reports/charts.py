"""Two small charts as SVG text: lines over rounds, stacked bars of seconds.

Colours are Okabe and Ito's (distinguishable with colour blindness); every mark has a title.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape

COLOURS = (
    "#0072b2",
    "#e69f00",
    "#009e73",
    "#cc79a7",
    "#56b4e9",
    "#d55e00",
    "#b0a400",
    "#7a7a7a",
    "#3b3b8f",
)


@dataclass(frozen=True, slots=True)
class Series:
    """A named line: points (x, y) with x increasing."""

    name: str
    points: tuple[tuple[float, float], ...]


def nice_step(span: float, marks: int = 5) -> float:
    """A step of 1, 2 or 5 times a power of ten that cuts ``span`` into about ``marks`` parts.

    >>> nice_step(97.0)
    20.0
    >>> nice_step(0.0)
    1.0
    """
    if span <= 0:
        return 1.0
    raw = span / marks
    power = 10.0 ** math.floor(math.log10(raw))
    return next(f * power for f in (1.0, 2.0, 5.0, 10.0) if f * power >= raw)


def line_chart(
    series: Sequence[Series],
    *,
    x_label: str,
    y_label: str,
    ranges: tuple[tuple[float, float], tuple[float, float]],
) -> str:
    """Lines with points, axes with labels and a legend.

    Args:
        series: at least one line with at least one point.
        x_label: name of the horizontal axis.
        y_label: name of the vertical axis.
        ranges: lowest and highest value of the horizontal and of the vertical axis.
    """
    width, height, left, right, top, bottom = 1040, 320, 56, 170, 16, 44
    (x_low, x_high), (y_low, y_high) = ranges

    def _place(x: float, y: float) -> tuple[float, float]:
        return (
            left + (x - x_low) / (x_high - x_low) * (width - left - right),
            top + (y_high - y) / (y_high - y_low) * (height - top - bottom),
        )

    parts = [f"<svg viewBox='0 0 {width} {height}' role='img'>"]
    for tick in range(6):
        value = y_low + (y_high - y_low) * tick / 5
        x0, y0 = _place(x_low, value)
        x1, _ = _place(x_high, value)
        parts.append(
            f"<line x1='{x0:.1f}' x2='{x1:.1f}' y1='{y0:.1f}' y2='{y0:.1f}' class='grid'/>"
            f"<text x='{x0 - 8:.1f}' y='{y0 + 4:.1f}' text-anchor='end'>"
            f"{value:.1f}</text>"
        )
    step = max(1.0, nice_step(x_high - x_low, 8))
    tick_x = math.ceil(x_low / step) * step
    while tick_x <= x_high:
        x0, y0 = _place(tick_x, y_low)
        parts.append(f"<text x='{x0:.1f}' y='{y0 + 18:.1f}' text-anchor='middle'>{tick_x:g}</text>")
        tick_x += step
    middle = (left + width - right) / 2
    parts.append(
        f"<text x='{middle:.0f}' y='{height - 8}' text-anchor='middle'>"
        f"{escape(x_label)}</text>"
        f"<text transform='translate(14 {height / 2:.0f}) rotate(-90)' text-anchor='middle' "
        f">{escape(y_label)}</text>"
    )
    for number, line in enumerate(series):
        parts.append(_line(line, COLOURS[number % len(COLOURS)], _place))
        y = top + 10 + 20 * number
        parts.append(_legend(width - right + 16, y, COLOURS[number % len(COLOURS)], line.name))
    return "".join((*parts, "</svg>"))


def _line(line: Series, colour: str, place: Callable[[float, float], tuple[float, float]]) -> str:
    points = [place(x, y) for x, y in line.points]
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    dots = "".join(
        f"<circle cx='{px:.1f}' cy='{py:.1f}' r='3.5' fill='{colour}'>"
        f"<title>{escape(line.name)} {x:g}: {y:.3f}</title></circle>"
        for (px, py), (x, y) in zip(points, line.points, strict=True)
    )
    return f"<polyline points='{path}' fill='none' stroke='{colour}' stroke-width='2'/>{dots}"


def _legend(x: float, y: float, colour: str, text: str) -> str:
    return (
        f"<rect x='{x}' y='{y - 6}' width='12' height='12' rx='2' fill='{colour}'/>"
        f"<text x='{x + 18}' y='{y + 4}'>{escape(text)}</text>"
    )


def stacked_bars(
    kinds: Sequence[str], bars: Sequence[tuple[str, Sequence[float]]], *, unit: str
) -> str:
    """Horizontal bars of stacked parts with a legend and the sum at the end.

    Args:
        kinds: the names of the parts, in stacking order.
        bars: name of each bar and its parts, one per kind, none negative.
        unit: written behind the sums.
    """
    left, right, row = 130, 80, 30
    per_row = 6
    legend_rows = -(-len(kinds) // per_row)
    width, top = 1040, 8 + 20 * legend_rows
    height = top + row * len(bars) + 8
    longest = max((sum(parts) for _, parts in bars), default=0.0) or 1.0
    scale = (width - left - right) / longest
    out = [f"<svg viewBox='0 0 {width} {height}' role='img'>"]
    for number, kind in enumerate(kinds):
        at = (left + (number % per_row) * 145, 12 + 20 * (number // per_row))
        out.append(_legend(*at, COLOURS[number % len(COLOURS)], kind))
    for index, (name, parts) in enumerate(bars):
        y = top + row * index + 4
        out.append(f"<text x='{left - 8}' y='{y + 15}' text-anchor='end'>{escape(name)}</text>")
        x = float(left)
        for number, value in enumerate(parts):
            length = value * scale
            out.append(
                f"<rect x='{x:.1f}' y='{y}' width='{length:.1f}' height='20' "
                f"fill='{COLOURS[number % len(COLOURS)]}'><title>{escape(kinds[number])}: "
                f"{value:.1f} {escape(unit)}</title></rect>"
            )
            x += length
        out.append(f"<text x='{x + 6:.1f}' y='{y + 15}'>{sum(parts):.0f} {escape(unit)}</text>")
    return "".join((*out, "</svg>"))
