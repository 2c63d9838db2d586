"""The same screens as lines of text, for screen readers, logs and pipes."""

from __future__ import annotations

from collections.abc import Iterator

from tui import viewmodel
from tui.marks import literal
from tui.snapshot import Snapshot


def plain_lines(snapshot: Snapshot, now: float) -> Iterator[str]:
    """Every screen, one after the other."""
    yield literal(viewmodel.header_words(snapshot, now)).plain
    if snapshot.taken is None:
        return
    if warned := viewmodel.banner_words(snapshot):
        yield literal(warned).plain
    for title, lines in viewmodel.overview(snapshot).items():
        yield ""
        yield title
        for line in lines:
            yield literal(f"  {line.name}: {line.value}").plain
    yield ""
    yield "Waiting for a person"
    for line in viewmodel.open_items(snapshot):
        yield literal(f"  {line.name}: {line.value}").plain
    yield ""
    yield "Studies"
    for study in snapshot.studies:
        yield literal("  " + "  ".join(filter(None, viewmodel.study_cells(study)))).plain
    yield ""
    yield "Approvals"
    for item in viewmodel.approvals(snapshot):
        yield literal(f"  {item.kind} {item.name}: {item.state}, {item.words}").plain
