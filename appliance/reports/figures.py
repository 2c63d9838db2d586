"""Numbers as small SVG drawings: a figure against the site, strips of all studies.

Shapes say what colours say: a dot is fine, a diamond asks for a person, a cross is refused; dashed
lines are bounds for review, solid ones for refusal.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from appliance.reports.charts import nice_step
from appliance.reports.metrics import Distribution, Row, figure_words
from appliance.reports.page import Html, tag

STRIP = (260, 22)
SWARM = (520, 40)
MOST_DOTS = 4000
FAR = 8.0
"""Half-ranges beyond the middle half of the studies at which a strip is cut off."""


def strip(row: Row, spread: Distribution | None) -> Html:
    """A value on a line with the site's distribution and the bounds; empty where there is neither.

    The wide pale bar holds 90 % of the site's studies, the darker one the middle half, the tick is
    the median.
    """
    if row.value is None or (spread is None and row.review is None and row.fail is None):
        return Html("")
    known = [v for v in (row.value, row.review, row.fail) if v is not None]
    if spread is not None:
        known += [spread.low, spread.high]
    scale = Scale.over(known, STRIP[0], 8)
    middle = STRIP[1] / 2
    parts: list[Html] = []
    if spread is not None:
        low, high = scale(spread.low), scale(spread.high)
        first, third = scale(spread.first), scale(spread.third)
        parts += [
            _bar(low, high, middle - 3, 6, "range"),
            _bar(first, third, middle - 5, 10, "box"),
            _line(scale(spread.median), 3.0, STRIP[1] - 3.0, "mid"),
        ]
    for bound, kind in ((row.review, "review"), (row.fail, "fail")):
        if bound is not None:
            parts.append(_line(scale(bound), 0.0, float(STRIP[1]), f"limit {kind}"))
    parts.append(_mark(scale(row.value), middle, row.verdict))
    return svg(STRIP, strip_words(row, spread), *parts)


def strip_words(row: Row, spread: Distribution | None) -> str:
    """What a strip shows, in words."""
    words = [f"value {figure_words(row.value)}"]
    if row.review is not None:
        words.append(f"review beyond {figure_words(row.review)}")
    if row.fail is not None:
        words.append(f"fail beyond {figure_words(row.fail)}")
    if spread is not None:
        words.append(
            f"the site's {spread.count} studies: median {figure_words(spread.median)}, 90 % within"
            f" {figure_words(spread.low)} to {figure_words(spread.high)}"
        )
    return "; ".join(words)


@dataclass(frozen=True, slots=True)
class Dot:
    """One study on a strip.

    Attributes:
        value: the figure.
        verdict: ``review``, ``fail``, ``unusual`` or empty for an ordinary study.
        words: what it is, shown on pointing at it.
        link: address of its report, or empty.
    """

    value: float
    verdict: str = ""
    words: str = ""
    link: str = ""


def swarm(dots: Sequence[Dot], limits: tuple[float | None, float | None], title: str) -> Html:
    """All studies on one line; those that stand out are marked and lead to their reports.

    Values far beyond the others are drawn at the edge, so that one broken study does not hide the
    rest.

    Args:
        dots: the studies; at most `MOST_DOTS` ordinary ones are drawn.
        limits: bounds for review and for refusal, or None.
        title: what is shown, in words.
    """
    values = sorted(dot.value for dot in dots)
    if not values:
        return Html("")
    scale = Scale.over([*_usual(values), *_near(limits, values)], SWARM[0], 10)
    base = 14.0
    plain = [dot for dot in dots if not dot.verdict][:MOST_DOTS]
    path = "".join(
        f"M{scale(dot.value):.1f} {base + _jitter(n):.1f}h0" for n, dot in enumerate(plain)
    )
    parts = [axis(scale, SWARM[1] - 14, SWARM[1])]
    for bound, kind in zip(limits, ("review", "fail"), strict=True):
        if bound is not None and scale.low <= bound <= scale.high:
            parts.append(_line(scale(bound), 0.0, SWARM[1] - 14.0, f"limit {kind}"))
    if path:
        parts.append(tag("path", d=path, class_="cloud", stroke_width=5))
    for number, dot in enumerate(d for d in dots if d.verdict):
        mark = _mark(scale(dot.value), base + _jitter(number), dot.verdict, dot.words)
        parts.append(tag("a", mark, href=dot.link) if dot.link else mark)
    return svg(SWARM, title, *parts)


def swatch(colour: tuple[int, int, int]) -> Html:
    """A small square of a colour for a legend."""
    red, green, blue = colour
    square = tag("rect", width=14, height=14, rx=3, fill=f"#{red:02x}{green:02x}{blue:02x}")
    drawing = tag("svg", square, viewBox="0 0 14 14", aria_hidden="true")
    return tag("span", drawing, class_="swatch")


@dataclass(frozen=True, slots=True)
class Scale:
    """Values to pixels; values beyond either end are drawn at the end.

    Attributes:
        low: value at the left end.
        high: value at the right end.
        width: of the drawing in pixels.
        margin: pixels left free on both sides.
    """

    low: float
    high: float
    width: float
    margin: float

    @classmethod
    def over(cls, values: Sequence[float], width: float, margin: float) -> Scale:
        """A scale that shows all values with a little room."""
        low, high = min(values), max(values)
        more = 0.06 * (high - low) or 0.1 * abs(high) or 1.0
        return cls(low - more, high + more, width, margin)

    def __call__(self, value: float) -> float:
        """The pixel of a value."""
        share = (value - self.low) / (self.high - self.low)
        return self.margin + min(1.0, max(0.0, share)) * (self.width - 2 * self.margin)


def _usual(values: Sequence[float]) -> tuple[float, float]:
    """The range that is drawn: all values, cut `FAR` half-ranges beyond the middle half."""
    first, third = values[len(values) // 4], values[(3 * (len(values) - 1) + 3) // 4]
    reach = FAR * (third - first) / 2 or abs(first) or 1.0
    return max(values[0], first - reach), min(values[-1], third + reach)


def _near(limits: tuple[float | None, float | None], values: Sequence[float]) -> list[float]:
    """The bounds that are not far away from the values; all where the values are equal."""
    low, high = _usual(values)
    reach = 1.5 * (high - low) or math.inf
    return [b for b in limits if b is not None and low - reach <= b <= high + reach]


def _jitter(number: int) -> float:
    """A fixed vertical offset between -8 and 8 by the golden ratio, so that dots do not hide."""
    return 16.0 * ((number * 0.6180339887) % 1.0) - 8.0


def svg(size: tuple[int, int], words: str, *parts: Html) -> Html:
    """A drawing of a size in pixels, described in words for who cannot see it."""
    return tag("svg", *parts, viewBox=f"0 0 {size[0]} {size[1]}", role="img", aria_label=words)


def _bar(low: float, high: float, y: float, height: float, kind: str) -> Html:
    width = max(1.0, high - low)
    return tag("rect", x=_px(low), y=_px(y), width=_px(width), height=_px(height), class_=kind)


def _line(x: float, top: float, bottom: float, kind: str) -> Html:
    return tag("line", x1=_px(x), x2=_px(x), y1=_px(top), y2=_px(bottom), class_=kind)


def _mark(x: float, y: float, verdict: str, words: str = "") -> Html:
    title = (tag("title", words),) if words else ()
    if verdict == "review":
        shape = f"M{x:.1f} {y - 6:.1f}l6 6l-6 6l-6 -6z"
        return tag("path", *title, d=shape, class_="dot review")
    if verdict == "fail":
        arm = "l4 4l4 -4l2.5 2.5l-4 4l4 4l-2.5 2.5l-4 -4l-4 4l-2.5 -2.5l4 -4l-4 -4z"
        return tag("path", *title, d=f"M{x - 4:.1f} {y - 6.5:.1f}{arm}", class_="dot fail")
    radius = 4.5 if verdict != "unusual" else 5.0
    kind = "dot" if verdict != "unusual" else "dot unusual"
    return tag("circle", *title, cx=_px(x), cy=_px(y), r=radius, class_=kind)


def axis(scale: Scale, y: float, bottom: float) -> Html:
    """A horizontal axis with a few round values."""
    line = tag("line", x1=0, x2=_px(scale.width), y1=_px(y), y2=_px(y), class_="grid")
    step = nice_step(scale.high - scale.low, 5)
    value = math.ceil(scale.low / step) * step
    ticks: list[Html] = []
    while value <= scale.high and len(ticks) < 12:
        anchor = "middle" if 20 < scale(value) < scale.width - 20 else "end"
        anchor = "start" if scale(value) <= 20 else anchor
        text = figure_words(float(value) + 0.0)
        ticks.append(tag("text", text, x=_px(scale(value)), y=_px(bottom - 2), text_anchor=anchor))
        value += step
    return Html("".join((line, *ticks)))


def _px(value: float) -> str:
    return f"{value:.1f}"
