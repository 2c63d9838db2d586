"""The tables of the federation benchmark, as Markdown."""

from __future__ import annotations

import datetime as dt
import os
import platform
from collections.abc import Mapping
from pathlib import Path

from benchmarks.federation.case import Case
from benchmarks.federation.measured import Figures
from benchmarks.table import markdown

Results = dict[tuple[Case, str], Figures]
PEERS = ("NVFLARE", "NVFLARE tuned", "Flower")
DURABLE, CLINODE = "durable floor", "clinode"
BEGIN, END = "<!-- measured: begin -->\n", "<!-- measured: end -->\n"
FLOOR_TARGET, PEER_TARGET, MEMORY_MB = 1.4, 3.0, 300


def _ratio(above: Figures | None, below: Figures | None) -> str:
    if above is None or below is None or not above.seconds or not below.seconds:
        return "-"
    return f"{above.median_s / below.median_s:.2f}"


def _contender(results: Results, case: Case, name: str) -> list[str]:
    found, floor = results[case, name], results.get((case, DURABLE))
    ours = results.get((case, CLINODE))
    if not found.seconds:
        return [case.name, name, f"failed: {' '.join(found.words.split())[:120]}", *["-"] * 6]
    return [
        case.name,
        name,
        f"{found.median_s:.2f} ({min(found.seconds):.2f} to {max(found.seconds):.2f})",
        _ratio(found, floor),
        _ratio(found, ours),
        f"{found.server_cpu_s:.2f}",
        f"{found.client_cpu_s:.2f}",
        f"{found.server_peak / 1e6:.0f}",
        f"{found.client_peak / 1e6:.0f}",
    ]


def table(results: Results) -> str:
    """Every contender in every case."""
    headings = [
        "model, sites",
        "contender",
        "s per round: median (range)",
        "/ durable floor",
        "/ clinode",
        "server cpu s",
        "clients cpu s",
        "server MB",
        "client MB",
    ]
    return markdown(headings, [_contender(results, case, name) for case, name in results])


def _verdict(case: Case, results: Results) -> list[str] | None:
    ours, floor = results.get((case, CLINODE)), results.get((case, DURABLE))
    if ours is None or not ours.seconds:
        return None
    peers = [results[case, name] for name in PEERS if (case, name) in results]
    fastest = min((p for p in peers if p.seconds), key=lambda p: p.median_s, default=None)
    limit = 2 * case.megabytes + MEMORY_MB
    cells = [case.name]
    if floor is not None and floor.seconds:
        times = ours.median_s / floor.median_s
        cells.append(f"{times:.2f} ({'met' if times <= FLOOR_TARGET else 'missed'})")
    else:
        cells.append("-")
    if fastest is not None:
        times = fastest.median_s / ours.median_s
        cells.append(f"{times:.1f} ({'met' if times >= PEER_TARGET else 'missed'})")
    else:
        cells.append("-")
    peak = ours.server_peak / 1e6
    cells.append(f"{peak:.0f} of {limit} ({'met' if peak <= limit else 'missed'})")
    return cells


def verdicts(results: Results) -> str:
    """The targets, and whether this run reached them."""
    headings = [
        "model, sites",
        f"clinode / durable floor (at most {FLOOR_TARGET})",
        f"fastest peer / clinode (at least {PEER_TARGET:.0f})",
        "coordinator MB",
    ]
    found = [_verdict(case, results) for case in dict.fromkeys(case for case, _ in results)]
    rows = [row for row in found if row is not None]
    return markdown(headings, rows) if rows else ""


def crowd_table(crowd: Mapping[int, Figures]) -> str:
    """Memory of the coordinator by number of sites."""
    rows = [
        [str(sites), f"{f.server_peak / 1e6:.0f}", f"{f.client_peak / 1e6:.0f}"]
        if f.seconds
        else [str(sites), f"failed: {' '.join(f.words.split())[:120]}", "-"]
        for sites, f in crowd.items()
    ]
    return markdown(["sites", "coordinator MB", "node MB"], rows)


def _machine() -> str:
    load = ", ".join(f"{value:.1f}" for value in os.getloadavg())
    day = dt.datetime.now(dt.UTC).date().isoformat()
    return (
        f"{day}, {os.cpu_count()} cores ({platform.machine()}), Python "
        f"{platform.python_version()}, load at the end {load}."
    )


def document(results: Results, crowd: Mapping[int, Figures], repeats: tuple[int, int]) -> str:
    """Everything that a run measured."""
    head = (
        f"Measured {_machine()} Contenders in turn, {repeats[0]} repetitions "
        f"(peers {repeats[1]}); memory is anonymous "
        "resident memory of the whole process tree at its highest, 10^6 bytes.\n"
    )
    parts = [head, table(results), verdicts(results)]
    if crowd:
        parts.append("Memory with more sites, smallest model:\n")
        parts.append(crowd_table(crowd))
    return "\n".join(part for part in parts if part)


def put(path: Path, text: str) -> None:
    """Replace the marked part of a document."""
    before, _, rest = path.read_text(encoding="utf-8").partition(BEGIN)
    _, _, after = rest.partition(END)
    path.write_text(before + BEGIN + "\n" + text + "\n" + END + after, encoding="utf-8")
