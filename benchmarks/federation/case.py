"""What is measured: a number of megabytes at a number of sites, and where a contender works."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, TypeVar

import psutil

from benchmarks.federation.measured import tree

T = TypeVar("T")
LIMIT_S = 1200.0
REPOSITORY = Path(__file__).resolve().parents[2]
CACHE = REPOSITORY / "build" / "bench"
"""The peers' environments; git ignores it."""


@dataclass(frozen=True, slots=True)
class Case:
    """One cell of the table.

    Attributes:
        megabytes: size of the model, 10^6 bytes.
        sites: how many take part.
        rounds: how many are counted.
        warmup: how many go before, uncounted.
    """

    megabytes: int
    sites: int = 3
    rounds: int = 5
    warmup: int = 1

    @property
    def name(self) -> str:
        """As the tables call it."""
        return f"{self.megabytes} MB, {self.sites} sites"

    @property
    def site_names(self) -> list[str]:
        """The sites' names, in order."""
        return [f"site-{number:02d}" for number in range(1, self.sites + 1)]

    @property
    def total(self) -> int:
        """Rounds to run: one more begins, so that the last counted one has an end."""
        return self.warmup + self.rounds + 1


class ContenderFailed(Exception):
    """A contender did not come through; the words go into the table."""


@dataclass
class Processes:
    """Processes of one contender, ended together."""

    folder: Path
    started: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    def start(
        self,
        name: str,
        command: Sequence[str | Path],
        *,
        env: Mapping[str, str] | None = None,
        cwd: Path = REPOSITORY,
    ) -> subprocess.Popen[bytes]:
        """Start a process whose output goes to a log of its name."""
        log: IO[bytes]
        with (self.folder / f"{name}.log").open("ab") as log:
            process = subprocess.Popen(
                [str(part) for part in command],
                cwd=cwd,
                env={**os.environ, **(env or {})},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self.started[name] = process
        return process

    def log(self, name: str) -> str:
        """What a process has said."""
        path = self.folder / f"{name}.log"
        return path.read_text(errors="replace") if path.exists() else ""

    def wait_for(
        self,
        condition: Callable[[], T | None],
        what: str,
        seconds: float = LIMIT_S,
        *,
        every: float = 0.2,
    ) -> T:
        """The condition's first true value; fails where a process ends or time runs out."""
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            if found := condition():
                return found
            ended = [name for name, process in self.started.items() if process.poll() is not None]
            if ended:
                last = (self.log(ended[0]).strip().splitlines() or ["no output"])[-1]
                raise ContenderFailed(f"{ended[0]} ended while waiting for {what}: {last[:200]}")
            time.sleep(every)
        raise ContenderFailed(f"no {what} within {seconds:.0f} s")

    def close(self) -> None:
        """End every process and all below it."""
        everything = [part for process in self.started.values() for part in tree(process.pid)]
        for end in ("terminate", "kill"):
            for part in everything:
                with contextlib.suppress(psutil.NoSuchProcess):
                    getattr(part, end)()
            _, everything = psutil.wait_procs(everything, 15)
        for process in self.started.values():
            process.wait()


@contextlib.contextmanager
def processes(folder: Path) -> Iterator[Processes]:
    """Processes that end with the block."""
    folder.mkdir(parents=True, exist_ok=True)
    made = Processes(folder)
    try:
        yield made
    finally:
        made.close()


def free_port() -> int:
    """A port that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def read_starts(path: Path) -> list[float]:
    """Wall-clock moments that a contender wrote, one line per round that began."""
    if not path.exists():
        return []
    return [float(line) for line in path.read_text().splitlines() if line]
