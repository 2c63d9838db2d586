"""``demo-report.html``: one self-contained page with what the demonstration found.

No script, no link to anywhere (see `appliance.reports.page`); pictures are PNG in base64.
"""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from pathlib import Path

from appliance.demo.outcome import Hospital, Outcome
from appliance.reports.charts import Series, line_chart, stacked_bars
from appliance.reports.page import Html, page, tag


def write_report(outcome: Outcome, path: Path) -> None:
    """Write the page.

    Args:
        outcome: what to show.
        path: the ``.html`` file; replaced whole.
    """
    partial = path.with_suffix(".part")
    partial.write_text(render_report(outcome), encoding="utf-8")
    partial.replace(path)


def render_report(outcome: Outcome) -> str:
    """The page as HTML text; every value is escaped."""
    lead = (
        f"{len(outcome.hospitals)} hospitals with a PACS and a node each, one coordinator, "
        f"{len(outcome.rounds)} rounds; {outcome.started} (UTC), {outcome.seconds / 60:.1f} "
        f"minutes, clinode {outcome.version}. All studies here are synthetic unless a line says "
        "real; no identifier is shown."
    )
    sections = [
        _verdict(outcome),
        _table(outcome),
        _pictures(outcome.hospitals),
        _dice(outcome),
        _times(outcome),
        _studies(outcome.hospitals),
        _provenance(outcome),
    ]
    title = "clinode demonstration"
    content = Html("\n".join(filter(None, sections)))
    return page(title, tag("h1", title), tag("p", lead, class_="lead"), content)


def _verdict(outcome: Outcome) -> str:
    if outcome.problems:
        items = "".join(f"<li>{escape(problem)}</li>" for problem in outcome.problems)
        return (
            '<section class="verdict bad"><h2>Not all of it came true</h2>'
            f"<ul>{items}</ul></section>"
        )
    found = sum(h.segs_found for h in outcome.hospitals)
    text = (
        "Studies were fetched from each PACS, stripped of identity, converted, checked and "
        f"trained on without leaving their hospital; {found} segmentation objects were found in "
        "the PACS under the original studies by a fresh query."
    )
    return (
        f'<section class="verdict pass"><h2>All of it came true</h2><p>{escape(text)}</p></section>'
    )


def _row(cells: Sequence[str], *, head: bool = False, text: frozenset[int] = frozenset()) -> str:
    kind = "th" if head else "td"
    parts = (
        f"<{kind}{'' if number in text else ' class=n'}>{escape(cell)}</{kind}>"
        for number, cell in enumerate(cells)
    )
    return f"<tr>{''.join(parts)}</tr>"


COLUMNS = (
    "hospital",
    "scanner",
    "PACS",
    "offered",
    "fetched",
    "converted",
    "passed QC",
    "quarantined",
    "trained",
    "Dice before",
    "Dice after",
    "SEGs in PACS",
)
TEXT_COLUMNS = frozenset({0, 1, 2})


def _cells(h: Hospital) -> tuple[str, ...]:
    """A hospital's cells in the order of ``COLUMNS``."""
    return (
        h.name,
        h.scanner,
        h.pacs,
        str(h.offered),
        str(h.fetched),
        str(h.converted),
        str(h.passed_qc),
        str(sum(n for _, n in h.quarantined)),
        str(h.trained),
        h.dice_before.words() if h.dice_before else "–",
        h.dice_after.words() if h.dice_after else "–",
        f"{h.segs_found} of {h.segs_expected}",
    )


def _table(outcome: Outcome) -> str:
    head = _row(COLUMNS, head=True, text=TEXT_COLUMNS)
    rows = [_row(_cells(h), text=TEXT_COLUMNS) for h in outcome.hospitals]
    reasons = "".join(
        f"<li>{escape(h.name)}: {count} × {escape(reason)}</li>"
        for h in outcome.hospitals
        for reason, count in h.quarantined
    )
    why = f"<h3>Quarantined, and why</h3><ul>{reasons}</ul>" if reasons else ""
    note = (
        '<p class="small">Dice: mean ± SD over the site\'s held-out cases, which no round has '
        "trained on, with the first and the final global model.</p>"
    )
    return (
        "<section><h2>From the PACS and back to the PACS</h2>"
        f'<div class="wide"><table>{head}{"".join(rows)}</table></div>{note}{why}</section>'
    )


def _pictures(hospitals: Sequence[Hospital]) -> str:
    figures = []
    for h in hospitals:
        if h.picture is None:
            continue
        caption = (
            f"<b>{escape(h.name)}</b>, {escape(h.scanner)}. {escape(h.picture.caption)} "
            f"Expert {h.picture.expert_ml:.1f} ml, model {h.picture.model_ml:.1f} ml, "
            f"Dice {h.picture.dice:.2f}."
        )
        figures.append(
            f'<figure><img alt="FLAIR slice with two contours, {escape(h.name)}" '
            f'src="data:image/png;base64,{h.picture.png_base64}">'
            f"<figcaption>{caption}</figcaption></figure>"
        )
    if not figures:
        return ""
    key = (
        '<p class="small"><span class="key expert"></span>expert &nbsp; '
        '<span class="key model"></span>model; both contours and the slice were read back from '
        "the hospital's PACS.</p>"
    )
    return (
        "<section><h2>What the radiologist gets</h2>"
        f'{key}<div class="pictures">{"".join(figures)}</div></section>'
    )


def _dice(outcome: Outcome) -> str:
    sites = [h.name for h in outcome.hospitals]
    series = []
    for site in sites:
        points = [
            (float(r.number), s.dice)
            for r in outcome.rounds
            for s in r.sites
            if s.site == site and s.dice is not None
        ]
        if points:
            series.append(Series(site, tuple(points)))
    if not series:
        return ""
    last = float(max(r.number for r in outcome.rounds))
    chart = line_chart(
        series, x_label="round", y_label="validation Dice", ranges=((0.0, last), (0.0, 1.0))
    )
    return (
        f"<section><h2>Dice per round and site</h2>{chart}"
        '<p class="small">Global model on each site\'s validation cases.</p></section>'
    )


def _times(outcome: Outcome) -> str:
    stages = list(dict.fromkeys(s for h in outcome.hospitals for s, _ in h.stage_seconds))
    bars = [
        (h.name, tuple(dict(h.stage_seconds).get(stage, 0.0) for stage in stages))
        for h in outcome.hospitals
    ]
    chart = stacked_bars(stages, bars, unit="s")
    rounds = ""
    if outcome.rounds:
        kinds = ("train", "wait", "transfer", "aggregate")
        totals = []
        for h in outcome.hospitals:
            mine = [(r, s) for r in outcome.rounds for s in r.sites if s.site == h.name]
            totals.append(
                (
                    h.name,
                    (
                        sum(s.train_s for _, s in mine),
                        sum(s.wait_s for _, s in mine),
                        sum(s.transfer_s for _, s in mine),
                        sum(r.aggregate_s for r, _ in mine),
                    ),
                )
            )
        rounds = "<h3>Rounds, seconds over all rounds</h3>" + stacked_bars(kinds, totals, unit="s")
    phases = ", ".join(f"{name} {seconds:.0f} s" for name, seconds in outcome.phases)
    memory = (
        f" At most {outcome.peak_memory_bytes / 2**30:.1f} GiB of memory over all processes."
        if outcome.peak_memory_bytes
        else ""
    )
    return (
        "<section><h2>Time</h2><h3>Pipeline stages, seconds summed over the studies</h3>"
        f"{chart}{rounds}"
        f'<p class="small">Phases of the demonstration: {escape(phases)}.{memory}</p></section>'
    )


def _studies(hospitals: Sequence[Hospital]) -> str:
    text = frozenset({0, 1, 2, 3, 5})
    head = _row(("hospital", "study", "source", "outcome", "ml", "proof"), head=True, text=text)
    rows = [
        _row(
            (
                h.name,
                s.key,
                s.source,
                s.outcome,
                f"{s.volume_ml:.2f}" if s.volume_ml else "",
                s.proof,
            ),
            text=text,
        )
        for h in hospitals
        for s in h.unlabelled
    ]
    return (
        "<section><h2>Unlabelled studies</h2>"
        f'<div class="wide"><table>{head}{"".join(rows)}</table></div></section>'
    )


def _provenance(outcome: Outcome) -> str:
    items = [
        f"<li>{escape(h.name)}: plan {escape(h.approval)}; results {escape(h.release)}.</li>"
        for h in outcome.hospitals
    ]
    items += [f"<li>{escape(note)}</li>" for note in outcome.notes]
    return (
        "<section><h2>Who agreed to what</h2>"
        f"<p>Plan <b>{escape(outcome.plan_name)}</b> <code>{escape(outcome.plan_hash)}</code><br>"
        f"Model <code>{escape(outcome.model_id)}</code></p><ul>{''.join(items)}</ul></section>"
    )
