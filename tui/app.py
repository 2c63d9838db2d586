"""The node operator's terminal: a client of the control API; closing it stops nothing."""

from __future__ import annotations

import sys
import threading
import time
from pathlib import Path

from textual.app import App
from textual.binding import Binding
from textual.message import Message

from tui.marks import ascii_only
from tui.plain import plain_lines
from tui.screens.approvals import ApprovalsScreen
from tui.screens.base import NodeScreen
from tui.screens.overview import OverviewScreen
from tui.screens.studies import StudiesScreen
from tui.snapshot import ControlSource, NodeSource, Snapshot

EVERY_S = 1.0
SMALLEST = (60, 20)


class Looked(Message):
    """A new snapshot; an older one that still waits is dropped."""

    def __init__(self, snapshot: Snapshot) -> None:
        super().__init__()
        self.snapshot = snapshot

    def can_replace(self, message: Message) -> bool:
        """Only the newest counts."""
        return isinstance(message, Looked)


class ClinodeApp(App[None]):
    """Overview, Studies, Approvals."""

    CSS_PATH = "clinode.tcss"
    TITLE = "clinode"
    ENABLE_COMMAND_PALETTE = False
    BINDINGS = [
        Binding("1", "go('overview')", "Overview"),
        Binding("2", "go('studies')", "Studies"),
        Binding("3", "go('approvals')", "Approvals"),
        Binding("q", "quit", "Quit"),
    ]

    def __init__(
        self, source: NodeSource, *, read_only: bool = False, plain_marks: bool = False
    ) -> None:
        """Prepare the application.

        Args:
            source: where snapshots come from and actions go.
            read_only: offer no actions.
            plain_marks: ASCII shapes only.
        """
        super().__init__()
        self.source = source
        self.read_only = read_only
        self.plain_marks = plain_marks
        self.snapshot = Snapshot()
        self._ended = threading.Event()
        self._again = threading.Event()

    def on_mount(self) -> None:
        """Install the screens and start to look."""
        self.install_screen(OverviewScreen(), "overview")
        self.install_screen(StudiesScreen(), "studies")
        self.install_screen(ApprovalsScreen(), "approvals")
        self.push_screen("overview")
        self.run_worker(self._watch, thread=True, name="watch", exit_on_error=False)
        self.set_interval(EVERY_S, self._tick)

    def on_unmount(self) -> None:
        """Let the watching thread end."""
        self._ended.set()
        self._again.set()

    def _watch(self) -> None:
        """Look again and again; runs in a thread that polls for the end."""
        latest = Snapshot()
        while not self._ended.is_set():
            latest = self.source.look(latest, time.monotonic())
            self.post_message(Looked(latest))
            self._again.wait(EVERY_S)
            self._again.clear()

    def look_now(self) -> None:
        """Do not wait for the next look."""
        self._again.set()

    def on_looked(self, message: Looked) -> None:
        """Keep and draw."""
        self.snapshot = message.snapshot
        self._tick()

    def _tick(self) -> None:
        """Draw the age of the data even when nothing new comes."""
        for screen in self.screen_stack:
            if isinstance(screen, NodeScreen):
                screen.refresh_from(self.snapshot)

    def action_go(self, name: str) -> None:
        """Switch to a screen."""
        if isinstance(self.screen, NodeScreen):
            self.switch_screen(name)


def run(home: Path, *, plain: bool = False, read_only: bool = False) -> int:
    """Open the terminal UI on a node's home.

    Args:
        home: the node's home folder.
        plain: print the screens as text and leave.
        read_only: offer no actions.

    Returns:
        The exit code: 1 where ``plain`` found no running node.
    """
    source = ControlSource(home)
    if plain:
        now = time.monotonic()
        snapshot = source.look(Snapshot(), now)
        sys.stdout.write("".join(f"{line}\n" for line in plain_lines(snapshot, now)))
        return 0 if snapshot.taken is not None else 1
    ClinodeApp(source, read_only=read_only, plain_marks=ascii_only()).run()
    return 0
