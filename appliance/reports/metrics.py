"""Figures of quality as a report shows them: value, bounds, the site's own distribution, words."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from appliance.quality_table import IMAGES, METRICS, default_bounds, split_name

OUTLYING = 3.5
"""Robust z beyond which a value counts as unusual (Iglewicz and Hoaglin 1993)."""
LEAST_FOR_SPREAD = 5
"""Fewest studies whose distribution is shown: fewer would show single studies."""
DECISIONS = ("pass", "review", "fail")
GLYPHS = {"pass": "●", "review": "◆", "fail": "✖", "": "–"}
"""A sign beside each decision, so that colour is not needed."""
MOST_METRICS = 1000
MOST_TEXT = 400


@dataclass(frozen=True, slots=True)
class Distribution:
    """Where the site's studies lie in one figure.

    Attributes:
        count: number of studies.
        low: 5th percentile.
        first: lower quartile.
        median: as the name says.
        third: upper quartile.
        high: 95th percentile.
    """

    count: int
    low: float
    first: float
    median: float
    third: float
    high: float

    @classmethod
    def of(cls, values: Iterable[float]) -> Distribution | None:
        """The distribution of finite values; None of fewer than `LEAST_FOR_SPREAD`.

        Examples:
            >>> Distribution.of(range(5)).median
            2.0
            >>> Distribution.of([1.0]) is None
            True
        """
        found = sorted(float(v) for v in values if math.isfinite(v))
        if len(found) < LEAST_FOR_SPREAD:
            return None
        shares = (0.05, 0.25, 0.5, 0.75, 0.95)
        return cls(len(found), *(quantile(found, share) for share in shares))


def quantile(ordered: Sequence[float], share: float) -> float:
    """A quantile of sorted values, linear between neighbours (NumPy's default).

    Examples:
        >>> quantile([0.0, 10.0], 0.25)
        2.5
    """
    place = share * (len(ordered) - 1)
    below = math.floor(place)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (ordered[above] - ordered[below]) * (place - below)


def robust_scores(values: Sequence[float]) -> list[float | None]:
    """Robust z of each value: 0.6745 (x - median) / MAD (Iglewicz and Hoaglin 1993).

    Args:
        values: finite values.

    Returns:
        None for all where there are fewer than `LEAST_FOR_SPREAD`, or where more than half are
        equal (the MAD is 0).

    Examples:
        >>> robust_scores([1.0, 2.0, 3.0, 4.0, 5.0])[4]
        1.349
        >>> robust_scores([1.0, 2.0])
        [None, None]
    """
    ordered = sorted(values)
    if len(ordered) < LEAST_FOR_SPREAD:
        return [None] * len(values)
    median = quantile(ordered, 0.5)
    spread = quantile(sorted(abs(v - median) for v in ordered), 0.5)
    if spread <= 0:
        return [None] * len(values)
    return [0.6745 * (v - median) / spread for v in values]


@dataclass(frozen=True, slots=True)
class Row:
    """One figure of one study.

    Attributes:
        name: as the quality check names it.
        value: None where it could not be measured.
        unit: as the quality check says.
        direction: ``higher``, ``lower`` or ``none``: which way is better.
        review: bound beyond which a person should look, or None.
        fail: bound beyond which the study is refused, or None.
        decision: ``pass``, ``review`` or ``fail`` for this figure, or empty.
        score: robust z against the site, or None.
    """

    name: str
    value: float | None
    unit: str = ""
    direction: str = "none"
    review: float | None = None
    fail: float | None = None
    decision: str = ""
    score: float | None = None

    @property
    def judged(self) -> bool:
        """Whether something was compared with a bound."""
        return self.review is not None or self.fail is not None or bool(self.decision)

    @property
    def verdict(self) -> str:
        """The check's own decision, else what the bounds say; empty where nothing is judged."""
        if self.decision or self.value is None:
            return self.decision
        if not self.judged:
            return ""
        for bound, words in ((self.fail, "fail"), (self.review, "review")):
            if bound is not None and _worse(self.value, bound, self.direction):
                return words
        return "pass"


def _worse(value: float, bound: float, direction: str) -> bool:
    return value > bound if direction == "lower" else value < bound


@dataclass(frozen=True, slots=True)
class Quality:
    """A study's quality report.

    Attributes:
        decision: ``pass``, ``review``, ``fail`` or empty where it was not checked.
        reasons: findings in words, worst first.
        rows: every figure.
        released: a person let the study go on in spite of the findings.
    """

    decision: str = ""
    reasons: tuple[str, ...] = ()
    rows: tuple[Row, ...] = ()
    released: bool = False

    def values(self) -> dict[str, float]:
        """The measured figures by name."""
        return {row.name: row.value for row in self.rows if row.value is not None}


def read_quality(document: Mapping[str, Any]) -> Quality:
    """The content of a ``qc.json``; what is absent or of another type is left out.

    Args:
        document: decoded JSON: ``decision``, ``reasons``, ``released`` and ``metrics`` with
            ``name``, ``value``, ``unit``, ``direction`` and, where the check gives them,
            ``threshold`` (review, fail), ``verdict`` and ``z``. Older reports bring no threshold:
            the table's defaults stand in.
    """
    found = document.get("metrics")
    rows = [
        _row(metric)
        for metric in (found if isinstance(found, list) else [])[:MOST_METRICS]
        if isinstance(metric, Mapping) and isinstance(metric.get("name"), str)
    ]
    decision = document.get("decision")
    reasons = document.get("reasons")
    return Quality(
        decision if decision in DECISIONS else "",
        tuple(_text(r) for r in reasons if isinstance(r, str)) if isinstance(reasons, list) else (),
        tuple(rows),
        document.get("released") is True,
    )


def _row(metric: Mapping[str, Any]) -> Row:
    name = _text(metric["name"])
    pair = metric["threshold"] if "threshold" in metric else table_bounds(name)
    if not isinstance(pair, Sequence) or isinstance(pair, str) or len(pair) != 2:
        pair = (None, None)
    verdict, direction = metric.get("verdict"), metric.get("direction")
    return Row(
        name=name,
        value=_number(metric.get("value")),
        unit=_text(metric.get("unit") or ""),
        direction=direction if direction in ("higher", "lower") else "none",
        review=_number(pair[0]),
        fail=_number(pair[1]),
        decision=verdict if verdict in DECISIONS else "",
        score=_number(metric.get("z")),
    )


def _number(value: object) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if math.isfinite(value) else None


def _text(value: object) -> str:
    return str(value)[:MOST_TEXT]


def figure_words(value: float | None) -> str:
    """A value with four significant digits.

    Examples:
        >>> figure_words(1234.5678), figure_words(0.00012351), figure_words(None)
        ('1235', '0.0001235', 'not measured')
        >>> figure_words(123456789.0)
        '1.235e+08'
    """
    if value is None:
        return "not measured"
    if value != 0 and not 1e-5 <= abs(value) < 1e6:
        return f"{value:.3e}"
    digits = max(0, 3 - math.floor(math.log10(abs(value)))) if value else 0
    text = f"{value:.{digits}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


UNITS = {"1": "", "ratio": "", "share": ""}
"""Units that are not written."""


def metric_words(name: str) -> tuple[str, str, str]:
    """The image a figure belongs to, what it is, and how it is computed; tolerant to new names.

    Examples:
        >>> metric_words("flair_snr")[:2]
        ('FLAIR', 'signal-to-noise ratio of brain tissue')
        >>> metric_words("t1w_my_figure")
        ('T1', 'my figure', '')
        >>> metric_words("my_figure")
        ('other', 'my figure', '')
    """
    try:
        prefix, rest = split_name(name)
    except KeyError:
        prefix, _, rest = name.partition("_")
        image = IMAGES.get(prefix) if rest else None
        return image or "other", (rest if image else name).replace("_", " "), ""
    info = METRICS[rest]
    formula = f"{info.formula} ({info.source})"
    if info.subject == "image":
        return IMAGES[prefix], info.words, formula
    if info.subject == "label":
        return "label", info.words, formula
    return f"{IMAGES[prefix]} on the reference", info.words, formula


def is_compared(name: str) -> bool:
    """Whether a figure is compared between studies; a name that is not in the table is.

    Examples:
        >>> is_compared("flair_snr"), is_compared("flair_spacing_x"), is_compared("my_figure")
        (True, False, True)
    """
    try:
        return METRICS[split_name(name)[1]].site
    except KeyError:
        return True


def table_bounds(name: str) -> tuple[float | None, float | None]:
    """The default bounds of a figure; none for a name that is not in the table."""
    try:
        return default_bounds(name) or (None, None)
    except KeyError:
        return (None, None)


@dataclass(frozen=True, slots=True)
class SiteFigures:
    """The site's distributions, by figure.

    Attributes:
        spreads: by name.
        studies: number of studies they stem from.
        limit: a robust z beyond this is called unusual.
    """

    spreads: Mapping[str, Distribution] = field(default_factory=dict)
    studies: int = 0
    limit: float = OUTLYING

    @classmethod
    def of(
        cls, values: Mapping[str, Sequence[float]], studies: int, limit: float = OUTLYING
    ) -> SiteFigures:
        """The distributions.

        Args:
            values: by figure, one of each study that has it.
            studies: number of studies.
            limit: see above; 0 takes `OUTLYING`.
        """
        spreads = {name: Distribution.of(found) for name, found in values.items()}
        known = {name: spread for name, spread in spreads.items() if spread is not None}
        return cls(known, studies, limit or OUTLYING)
