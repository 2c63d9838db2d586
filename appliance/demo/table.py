"""The demonstration's final table for a terminal."""

from __future__ import annotations

import statistics
from collections.abc import Iterator

from rich.console import Console
from rich.table import Table
from rich.text import Text

from appliance.demo.outcome import Hospital, Outcome, Round


def print_outcome(outcome: Outcome, console: Console) -> None:
    """Print the table per hospital, times, notes and problems."""
    console.print(hospital_table(outcome))
    for hospital in outcome.hospitals:
        for line in hospital_lines(hospital):
            console.print(Text(line))
    console.print()
    console.print(stage_table(outcome))
    if outcome.rounds:
        console.print()
        console.print(round_table(outcome.rounds))
    console.print()
    phases = ", ".join(f"{name} {seconds:.0f} s" for name, seconds in outcome.phases)
    console.print(Text(f"Time: {outcome.seconds:.0f} s in all ({phases})."))
    if outcome.peak_memory_bytes:
        gib = outcome.peak_memory_bytes / 2**30
        console.print(Text(f"Memory: {gib:.1f} GiB at most, over all processes."))
    for note in outcome.notes:
        console.print(Text(f"Note: {note}"))
    for problem in outcome.problems:
        console.print(Text(f"PROBLEM: {problem}", style="bold red"))


def hospital_table(outcome: Outcome) -> Table:
    """Offered, fetched, converted, passed, quarantined, trained, Dice, SEGs: one row each."""
    table = Table(title="From the PACS and back to the PACS", title_justify="left")
    for name in ("hospital", "scanner", "PACS"):
        table.add_column(name)
    for name in (
        "offered",
        "fetched",
        "converted",
        "passed QC",
        "quarantined",
        "trained",
        "Dice before",
        "Dice after",
        "SEGs in PACS",
    ):
        table.add_column(name, justify="right")
    for h in outcome.hospitals:
        cells = (
            h.name,
            h.scanner,
            h.pacs,
            str(h.offered),
            str(h.fetched),
            str(h.converted),
            str(h.passed_qc),
            str(sum(count for _, count in h.quarantined)),
            str(h.trained),
            h.dice_before.words() if h.dice_before else "-",
            h.dice_after.words() if h.dice_after else "-",
            f"{h.segs_found} of {h.segs_expected}",
        )
        table.add_row(*(Text(cell) for cell in cells))
    return table


def hospital_lines(hospital: Hospital) -> Iterator[str]:
    """Why studies were quarantined and what became of the unlabelled ones."""
    for reason, count in hospital.quarantined:
        yield f"{hospital.name}: {count} quarantined: {reason}"
    for study in hospital.unlabelled:
        proof = f" ({study.proof})" if study.proof else ""
        yield f"{hospital.name}: unlabelled {study.source} study: {study.outcome}{proof}"
    yield f"{hospital.name}: plan {hospital.approval}; results {hospital.release}"


def stage_table(outcome: Outcome) -> Table:
    """Seconds per pipeline stage and hospital, summed over the studies."""
    stages = list(dict.fromkeys(s for h in outcome.hospitals for s, _ in h.stage_seconds))
    table = Table(title="Seconds per stage, summed over studies", title_justify="left")
    table.add_column("hospital")
    for stage in stages:
        table.add_column(stage, justify="right")
    for hospital in outcome.hospitals:
        seconds = dict(hospital.stage_seconds)
        cells = (f"{seconds[s]:.1f}" if s in seconds else "-" for s in stages)
        table.add_row(Text(hospital.name), *(Text(cell) for cell in cells))
    return table


def round_table(rounds: tuple[Round, ...]) -> Table:
    """Seconds per round: train (slowest site), wait and transfer (mean), aggregate, Dice."""
    sites = list(dict.fromkeys(s.site for r in rounds for s in r.sites))
    table = Table(title="Rounds (seconds; validation Dice)", title_justify="left")
    for name in ("round", "train", "wait", "transfer", "aggregate"):
        table.add_column(name, justify="right")
    for site in sites:
        table.add_column(f"Dice {site}", justify="right")
    for r in rounds:
        dice = {s.site: s.dice for s in r.sites}
        if not r.sites:
            continue
        cells = [
            str(r.number),
            f"{max(s.train_s for s in r.sites):.1f}",
            f"{statistics.fmean(s.wait_s for s in r.sites):.1f}",
            f"{statistics.fmean(s.transfer_s for s in r.sites):.2f}",
            f"{r.aggregate_s:.2f}",
            *(f"{dice[s]:.2f}" if dice.get(s) is not None else "" for s in sites),
        ]
        table.add_row(*(Text(cell) for cell in cells))
    return table
