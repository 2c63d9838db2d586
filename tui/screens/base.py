"""What all screens share: the header line with the data's age, and the refresh."""

from __future__ import annotations

import time

from textual.app import ComposeResult
from textual.screen import Screen
from textual.widgets import Footer, Static

from tui import viewmodel
from tui.marks import literal
from tui.snapshot import Snapshot


class NodeScreen(Screen[None]):
    """A screen with a header line, a body and a footer."""

    def compose(self) -> ComposeResult:
        """Header, a banner where something ends soon, body, footer."""
        yield Static(id="header")
        yield Static(id="banner")
        yield from self.body()
        yield Footer(show_command_palette=False)

    def body(self) -> ComposeResult:
        """The screen's own widgets."""
        raise NotImplementedError

    def show(self, snapshot: Snapshot) -> None:
        """Draw a snapshot."""
        raise NotImplementedError

    def on_mount(self) -> None:
        """Draw what is known already."""
        self.refresh_from(self.app.snapshot)  # type: ignore[attr-defined]

    def on_screen_resume(self) -> None:
        """Draw again when the screen comes back."""
        self.refresh_from(self.app.snapshot)  # type: ignore[attr-defined]

    def refresh_from(self, snapshot: Snapshot) -> None:
        """Header and body from a snapshot; the body keeps its last data when the node is away."""
        if not self.is_mounted:
            return
        now = time.monotonic()
        words = viewmodel.header_words(snapshot, now)
        if snapshot.problem and snapshot.taken is not None:
            words = f"{viewmodel.age_words(snapshot, now)}: {snapshot.problem}"
        header = self.query_one("#header", Static)
        header.update(literal(words))
        header.set_class(viewmodel.is_stale(snapshot, now), "stale")
        warned = viewmodel.banner_words(snapshot)
        for banner in self.query("#banner").results(Static):
            banner.update(literal(warned))
            banner.set_class(not warned, "hidden")
        if snapshot.taken is not None:
            self.show(snapshot)
