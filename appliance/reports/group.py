"""The report of a data set: what stands out on top, where studies were lost, all figures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from appliance.reports.figures import Dot, swarm
from appliance.reports.metrics import (
    GLYPHS,
    OUTLYING,
    UNITS,
    Quality,
    Row,
    figure_words,
    is_compared,
    metric_words,
    quantile,
    robust_scores,
)
from appliance.reports.page import Html, bullets, join, page, pairs, section, table, tag

ON_TOP = 25
"""Most studies in the table on top; the others follow, folded away."""
MOST_CASES = 5000
HEADLINE = 8
"""Most figures in the table of all studies."""
MOST_REASONS = 6


@dataclass(frozen=True, slots=True)
class Case:
    """One study of a data set.

    Attributes:
        name: its pseudonymous name.
        quality: figures, decision, reasons.
        link: relative address of its report, or empty.
        part: train, test, infer, or empty.
        labelled: whether it has an expert's label.
    """

    name: str
    quality: Quality
    link: str = ""
    part: str = ""
    labelled: bool = False


@dataclass(frozen=True, slots=True)
class GroupContent:
    """What a data set's report shows.

    Attributes:
        title: the data set's name.
        cases: its studies.
        facts: name and value, such as state and content hash.
        funnel: how many studies got how far, in order.
        excluded: reasons why studies are not in, with their number.
        limit: robust z beyond which a study is unusual; 0 takes 3.5.
        note: one sentence under the title.
    """

    title: str
    cases: tuple[Case, ...]
    facts: tuple[tuple[str, str], ...] = ()
    funnel: tuple[tuple[str, int], ...] = ()
    excluded: tuple[tuple[str, int], ...] = ()
    limit: float = OUTLYING
    note: str = ""


@dataclass(frozen=True, slots=True)
class _Figure:
    """One figure over all studies."""

    row: Row
    values: tuple[tuple[int, float], ...]
    verdicts: tuple[str, ...]
    scores: tuple[float | None, ...]

    def marked(self, limit: float) -> list[tuple[int, float, float]]:
        """Case number, value and score of the studies far off in the bad direction."""
        return [
            (number, value, score)
            for (number, value), score in zip(self.values, self.scores, strict=True)
            if score is not None and _far(score, self.row.direction, limit)
        ]


@dataclass(slots=True)
class _Standing:
    """Why a study is looked at first."""

    verdict: str = ""
    worst: float = 0.0
    words: list[str] = field(default_factory=list)

    @property
    def order(self) -> tuple[int, float]:
        """Its place in the report: failures first, then what lies farthest out."""
        return ({"fail": 0, "review": 1}.get(self.verdict, 2), -self.worst)


def render_group(content: GroupContent) -> str:
    """The report as one HTML document; all text is escaped.

    Args:
        content: what to show; of more than `MOST_CASES` studies the first are shown.
    """
    cases = content.cases[:MOST_CASES]
    limit = content.limit or OUTLYING
    figures = _gather(cases)
    standing = _standing(cases, figures, limit)
    parts = [
        tag("h1", f"Data set {content.title}"),
        tag("p", content.note, class_="lead") if content.note else Html(""),
        _summary(content, standing),
        _first(cases, standing, limit),
        _way(content),
        _strips(cases, figures, limit),
        _everything(cases, figures),
    ]
    return page(f"Data set {content.title}", *filter(None, parts))


def _gather(cases: Sequence[Case]) -> list[_Figure]:
    rows: dict[str, Row] = {}
    found: dict[str, list[tuple[int, float, str]]] = {}
    for number, case in enumerate(cases):
        for row in case.quality.rows:
            rows.setdefault(row.name, row)
            if row.value is not None:
                stopped = row.verdict if row.verdict in ("review", "fail") else ""
                found.setdefault(row.name, []).append((number, row.value, stopped))
    return [_figure(rows[name], values) for name, values in found.items()]


def _figure(row: Row, found: Sequence[tuple[int, float, str]]) -> _Figure:
    """Figures that are not compared (see `METRICS`) have no scores."""
    values = [value for _, value, _ in found]
    scores = robust_scores(values) if is_compared(row.name) else [None] * len(values)
    return _Figure(
        row,
        tuple((number, value) for number, value, _ in found),
        tuple(verdict for _, _, verdict in found),
        tuple(scores),
    )


def _standing(
    cases: Sequence[Case], figures: Sequence[_Figure], limit: float
) -> dict[int, _Standing]:
    found: dict[int, _Standing] = {}
    for number, case in enumerate(cases):
        decision = case.quality.decision
        if decision in ("review", "fail"):
            reasons = case.quality.reasons[:MOST_REASONS]
            found[number] = _Standing(decision, words=list(reasons))
    for figure in figures:
        for number, value, score in figure.marked(limit):
            entry = found.setdefault(number, _Standing())
            entry.worst = max(entry.worst, abs(score))
            if len(entry.words) < MOST_REASONS:
                image, words, _ = metric_words(figure.row.name)
                entry.words.append(f"{image}: {words} {figure_words(value)} (z {score:+.1f})")
    return found


def _summary(content: GroupContent, standing: dict[int, _Standing]) -> Html:
    total = len(content.cases)
    counts = {
        verdict: sum(s.verdict == verdict for s in standing.values())
        for verdict in ("fail", "review", "")
    }
    kind = "fail" if counts["fail"] else "review" if standing else "pass"
    if not total:
        sentence = "No study is in it."
        kind = ""
    elif standing:
        sentence = (
            f"{len(standing)} of {total} studies stand out: look at these first. "
            f"{counts['fail']} failed the check, {counts['review']} asked for a person, "
            f"{counts['']} unusual among the others."
        )
    else:
        sentence = f"None of {total} studies stands out."
    heading = tag("h2", tag("span", GLYPHS[kind], class_=kind), f" {total} studies")
    both = tag(
        "div",
        tag("div", heading, tag("p", sentence)),
        tag("div", pairs(content.facts)),
        class_="split",
    )
    return tag("section", both, class_=f"verdict {kind}".strip())


def _first(cases: Sequence[Case], standing: dict[int, _Standing], limit: float) -> Html:
    if not standing:
        return Html("")
    ordered = sorted(standing, key=lambda n: (*standing[n].order, cases[n].name))
    rows = [_standing_row(cases[n], standing[n]) for n in ordered]
    head = ("study", "decision", "part", "why")
    words = f"Unusual: robust z beyond {limit:g} in the bad direction, among these studies."
    parts = [tag("p", words, class_="small"), table(head, rows[:ON_TOP], text=4)]
    if len(rows) > ON_TOP:
        more = tag("summary", f"{len(rows) - ON_TOP} more")
        parts.append(tag("details", more, table(head, rows[ON_TOP:], text=4)))
    return section("Look at these first", *parts)


def _standing_row(case: Case, entry: _Standing) -> tuple[str, ...]:
    words = entry.verdict or "unusual"
    glyph = GLYPHS[entry.verdict] if entry.verdict else "○"
    badge = tag("span", f"{glyph} {words}", class_=f"badge {words}")
    return (_name(case), badge, case.part, bullets(entry.words))


def _name(case: Case) -> str:
    return tag("a", case.name, href=case.link) if case.link else case.name


def _way(content: GroupContent) -> Html:
    if not content.funnel and not content.excluded:
        return Html("")
    parts = []
    if content.funnel:
        parts.append(_funnel(content.funnel))
    if content.excluded:
        rows = [
            (reason, str(count))
            for reason, count in sorted(content.excluded, key=lambda item: (-item[1], item[0]))
        ]
        parts.append(
            tag("div", tag("h3", "Not in, and why"), table(("reason", "studies"), rows, text=1))
        )
    return section("From the PACS to this data set", tag("div", *parts, class_="pair"))


def _funnel(steps: Sequence[tuple[str, int]]) -> Html:
    most = max((count for _, count in steps), default=0) or 1
    rows = []
    for words, count in steps:
        length = round(200 * count / most, 1)
        bar = tag("rect", x=0, y=3, width=length, height=14, rx=2, class_="bar")
        drawing = tag("svg", bar, viewBox="0 0 200 20", aria_hidden="true")
        rows.append((words, tag("span", drawing, class_="funnel"), str(count)))
    return tag("div", tag("h3", "Studies"), table(("step", "", "studies"), rows, text=2))


def _strips(cases: Sequence[Case], figures: Sequence[_Figure], limit: float) -> Html:
    if not figures:
        return Html("")
    judged = [f for f in figures if f.row.judged or f.marked(limit)]
    rest = [f for f in figures if f not in judged]
    words = (
        "Each dot is a study; ◆ review, ✖ fail, a larger dot of another colour is unusual, and all "
        "three lead to the study's report. Dashed: bound for review; solid: bound for refusal. "
        "Values far beyond the others are drawn at the edge."
    )
    parts = [tag("p", words, class_="small")]
    if judged:
        parts.append(_strip_table(cases, judged, limit))
    if rest:
        more = tag("summary", f"{len(rest)} further figures that nothing is decided by")
        folded = tag("details", more, _strip_table(cases, rest, limit), class_="screen")
        parts.append(folded)
    return section("All figures", *parts)


def _strip_table(cases: Sequence[Case], figures: Sequence[_Figure], limit: float) -> Html:
    rows = []
    for figure in figures:
        image, words, formula = metric_words(figure.row.name)
        unit = UNITS.get(figure.row.unit, figure.row.unit)
        ordered = sorted(value for _, value in figure.values)
        middle = f"{figure_words(quantile(ordered, 0.5))} {unit}".strip()
        title = f"{image}: {words}, {len(ordered)} studies, median {middle}"
        drawing = swarm(_dots(cases, figure, limit), (figure.row.review, figure.row.fail), title)
        rows.append(
            tag(
                "tr",
                tag("th", words, scope="row", title=f"{figure.row.name}: {formula}".rstrip(": ")),
                tag("td", image),
                tag("td", drawing, class_="swarm"),
                tag("td", middle, class_="n"),
                tag("td", str(len(ordered)), class_="n"),
            )
        )
    head = [
        tag("th", name, scope="col", class_="n" if name in ("median", "studies") else None)
        for name in ("figure", "image", "all studies", "median", "studies")
    ]
    whole = tag("table", tag("thead", tag("tr", *head)), tag("tbody", *rows))
    return tag("div", whole, class_="wide")


def _dots(cases: Sequence[Case], figure: _Figure, limit: float) -> list[Dot]:
    unusual = {number for number, _, _ in figure.marked(limit)}
    dots = []
    for (number, value), verdict in zip(figure.values, figure.verdicts, strict=True):
        if not verdict and number in unusual:
            verdict = "unusual"
        words = f"{cases[number].name}: {figure_words(value)}" if verdict else ""
        dots.append(Dot(value, verdict, words, cases[number].link if verdict else ""))
    return dots


def _everything(cases: Sequence[Case], figures: Sequence[_Figure]) -> Html:
    if not cases:
        return Html("")
    chosen = [f.row for f in figures if f.row.judged][:HEADLINE]
    titles = [" ".join(metric_words(row.name)[:2]) for row in chosen]
    rows = []
    for case in sorted(cases, key=lambda case: case.name):
        values = {row.name: row.value for row in case.quality.rows}
        decision = case.quality.decision
        rows.append(
            (
                _name(case),
                tag("span", f"{GLYPHS[decision]} {decision}".strip(), class_=f"badge {decision}"),
                case.part,
                "yes" if case.labelled else "no",
                *(figure_words(values.get(row.name)) for row in chosen),
            )
        )
    head = ("study", "decision", "part", "label", *titles)
    summary = tag("summary", f"All {len(cases)} studies")
    folded = tag("details", summary, table(head, rows, text=4), class_="screen")
    return section("Studies", join([folded]))


def _far(score: float, direction: str, limit: float) -> bool:
    if direction == "higher":
        return score < -limit
    return score > limit if direction == "lower" else abs(score) > limit
