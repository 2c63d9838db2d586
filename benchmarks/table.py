"""Timing in turn and printing with ratios."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

RUNS = 5


@dataclass(frozen=True, slots=True)
class Row:
    """Seconds of one contender over all runs; the first row is what the others are held against."""

    name: str
    seconds: tuple[float, ...]
    note: str = ""

    @property
    def median(self) -> float:
        """The median run."""
        return statistics.median(self.seconds)


def in_turn(contenders: Mapping[str, Callable[[], str | None]], runs: int = RUNS) -> list[Row]:
    """Time the contenders A, B, A, B, ... after one run of each that is not counted."""
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    notes: dict[str, str] = {}
    for number in range(runs + 1):
        for name, work in contenders.items():
            begun = time.perf_counter()
            notes[name] = work() or ""
            if number:
                seconds[name].append(time.perf_counter() - begun)
    return [Row(name, tuple(values), notes[name]) for name, values in seconds.items()]


def print_rows(title: str, rows: Sequence[Row]) -> None:
    """Print medians with their range and the ratio to the first row."""
    print(f"\n{title}")
    width = max(len(row.name) for row in rows)
    for row in rows:
        ratio = row.median / rows[0].median
        low, high = min(row.seconds), max(row.seconds)
        print(
            f"  {row.name:<{width}}  {row.median * 1000:9.1f} ms  ({low * 1000:.1f} to "
            f"{high * 1000:.1f})  {ratio:6.2f} x  {row.note}"
        )


def markdown(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table; columns are as wide as their widest cell."""
    widths = [max(len(cell) for cell in column) for column in zip(headings, *rows, strict=True)]
    lines = [
        "| " + " | ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)) + " |"
        for line in (headings, *rows)
    ]
    rule = "|" + "|".join("-" * (width + 2) for width in widths) + "|"
    return "\n".join([lines[0], rule, *lines[1:]]) + "\n"
