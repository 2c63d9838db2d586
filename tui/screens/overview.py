"""1 Overview: services, studies, federation, what waits for a person, what happened."""

from __future__ import annotations

from rich.text import Text
from textual.app import ComposeResult
from textual.containers import Horizontal, Vertical
from textual.widgets import Static

from tui import viewmodel
from tui.marks import literal, shape
from tui.screens.base import NodeScreen
from tui.snapshot import Snapshot

PANELS = ("Services", "Studies", "Federation")
EVENTS = 4
WIDEST_NAME = 20


class OverviewScreen(NodeScreen):
    """The first screen."""

    def body(self) -> ComposeResult:
        """Three panels over two lists."""
        with Vertical(id="body"):
            with Horizontal(id="panels"):
                with Vertical(classes="column"):
                    yield Static(id="panel-services", classes="panel")
                    yield Static(id="panel-federation", classes="panel")
                yield Static(id="panel-studies", classes="panel narrow")
            yield Static(id="open", classes="panel")
            yield Static(id="events", classes="panel")

    def show(self, snapshot: Snapshot) -> None:
        """Draw all panels."""
        plain = self.app.plain_marks  # type: ignore[attr-defined]
        for title, lines in viewmodel.overview(snapshot).items():
            panel = self.query_one(f"#panel-{title.lower()}", Static)
            panel.border_title = title
            panel.update(lines_text(lines, plain=plain))
        waiting = self.query_one("#open", Static)
        waiting.border_title = "Waiting for a person"
        items = viewmodel.open_items(snapshot)
        waiting.update(lines_text(items, plain=plain) if items else Text("nothing"))
        events = self.query_one("#events", Static)
        events.border_title = "Audit log, newest first"
        events.update(literal("\n".join(viewmodel.recent_events(snapshot, EVENTS))))


def lines_text(lines: tuple[viewmodel.Line, ...], *, plain: bool) -> Text:
    """Lines with aligned names and marked states; a long name only widens its own line."""
    width = min(max((len(line.name) for line in lines), default=0), WIDEST_NAME)
    text = Text(no_wrap=True, overflow="ellipsis")
    for number, line in enumerate(lines):
        if number:
            text.append("\n")
        text.append_text(literal(f"{line.name:<{width}}  ", "dim"))
        if line.state:
            text.append_text(shape(line.state, plain=plain))
            text.append(" ")
        text.append_text(literal(line.value))
    return text
