"""Progress of the demonstration on standard error: bars on a terminal, lines elsewhere."""

from __future__ import annotations

import sys
import time
from types import TracebackType

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
)

LINE_EVERY_S = 15.0


class Bar:
    """One bar."""

    def __init__(self, owner: DemoProgress, task: TaskID, name: str, total: int) -> None:
        self._owner = owner
        self._task = task
        self._name = name
        self._total = total
        self._done = 0

    def advance(self) -> None:
        """One step further."""
        self.update(self._done + 1)

    def update(self, done: int, words: str = "") -> None:
        """Show ``done`` of the total, and a few words."""
        self._done = min(done, self._total)
        self._owner.show(self._task, self._name, (self._done, self._total), words)


class DemoProgress:
    """Shows phases and bars; to be used as a context manager."""

    def __init__(self, console: Console | None = None) -> None:
        self._console = console or Console(file=sys.stderr, highlight=False)
        self._live = self._console.is_terminal
        self._begun = time.monotonic()
        self._last_line = 0.0
        self._progress = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.fields[words]}", markup=False),
            console=self._console,
            disable=not self._live,
        )

    def __enter__(self) -> DemoProgress:
        self._progress.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._progress.stop()

    def phase(self, name: str) -> None:
        """A new phase begins."""
        self.say(f"== {name}")

    def say(self, text: str) -> None:
        """Write one line."""
        seconds = time.monotonic() - self._begun
        self._console.print(f"{seconds:6.1f} s  {text}", markup=False)

    def bar(self, name: str, total: int) -> Bar:
        """A new bar."""
        return Bar(self, self._progress.add_task(name, total=total, words=""), name, total)

    def show(self, task: TaskID, name: str, done: tuple[int, int], words: str) -> None:
        """Draw a bar, or now and then a line where there is no terminal."""
        self._progress.update(task, completed=done[0], words=words)
        if self._live:
            return
        now = time.monotonic()
        if done[0] >= done[1] or now - self._last_line >= LINE_EVERY_S:
            if now - self._last_line < 1.0:
                return
            self._last_line = now
            self.say(f"{name}: {done[0]} of {done[1]} {words}".rstrip())
