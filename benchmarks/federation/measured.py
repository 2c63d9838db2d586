"""CPU seconds and anonymous memory of process trees, sampled from outside."""

from __future__ import annotations

import bisect
import contextlib
import itertools
import statistics
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

EVERY_S = 0.1


def anonymous_bytes(pid: int) -> int:
    """Anonymous resident memory of one process (``Anonymous`` of smaps_rollup, proc(5))."""
    try:
        text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    except OSError:
        return 0
    for line in text.splitlines():
        if line.startswith("Anonymous:"):
            return int(line.split()[1]) * 1024
    return 0


def tree(pid: int) -> list[psutil.Process]:
    """A process and all below it; empty where it is gone."""
    try:
        root = psutil.Process(pid)
        return [root, *root.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


@dataclass(frozen=True, slots=True)
class Sample:
    """One look at a tree: wall clock, CPU seconds so far, anonymous bytes now."""

    at: float
    cpu_s: float
    anonymous: int


def look(pid: int) -> Sample:
    """Sample one tree; CPU counts children that have ended and were waited for."""
    cpu, anonymous = 0.0, 0
    for process in tree(pid):
        with contextlib.suppress(psutil.Error):
            times = process.cpu_times()
            cpu += times.user + times.system + times.children_user + times.children_system
            anonymous += anonymous_bytes(process.pid)
    return Sample(time.time(), cpu, anonymous)


class Watch:
    """Samples process trees until closed.

    Args:
        roots: role to the root processes of it (``server``, and one entry per client).
    """

    def __init__(self, roots: Mapping[str, int]) -> None:
        self._roots = dict(roots)
        self.samples: dict[str, list[Sample]] = {name: [] for name in roots}
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="watch", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop sampling."""
        self._over.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._over.is_set():
            for name, pid in self._roots.items():
                self.samples[name].append(look(pid))
            self._over.wait(EVERY_S)

    def cpu_between(self, name: str, start: float, stop: float) -> float:
        """CPU seconds of a tree between two wall-clock moments, interpolated."""
        return self._cpu_at(name, stop) - self._cpu_at(name, start)

    def peak(self, name: str) -> int:
        """Most anonymous bytes seen in a tree."""
        return max((sample.anonymous for sample in self.samples[name]), default=0)

    def _cpu_at(self, name: str, moment: float) -> float:
        samples = self.samples[name]
        place = bisect.bisect_left([sample.at for sample in samples], moment)
        if place == 0 or place == len(samples):
            return samples[min(place, len(samples) - 1)].cpu_s if samples else 0.0
        before, after = samples[place - 1], samples[place]
        share = (moment - before.at) / (after.at - before.at)
        return before.cpu_s + share * (after.cpu_s - before.cpu_s)


@dataclass(frozen=True, slots=True)
class Figures:
    """What one contender took in one case, over all its repetitions.

    Attributes:
        seconds: of each counted round.
        server_cpu_s: CPU seconds of the server per round.
        client_cpu_s: CPU seconds of all clients together per round.
        server_peak: anonymous bytes of the server at most.
        client_peak: anonymous bytes of the largest client at most.
        words: why there are no figures, or "".
    """

    seconds: tuple[float, ...] = ()
    server_cpu_s: float = 0.0
    client_cpu_s: float = 0.0
    server_peak: int = 0
    client_peak: int = 0
    words: str = ""

    @property
    def median_s(self) -> float:
        """The median round."""
        return statistics.median(self.seconds)


def figures(watch: Watch, starts: Sequence[float], server: str = "server") -> Figures:
    """Figures of the rounds that began at ``starts``; the last one only ends the one before."""
    rounds = len(starts) - 1
    clients = [name for name in watch.samples if name != server]
    first, last = starts[0], starts[-1]
    return Figures(
        seconds=tuple(after - before for before, after in itertools.pairwise(starts)),
        server_cpu_s=watch.cpu_between(server, first, last) / rounds,
        client_cpu_s=sum(watch.cpu_between(name, first, last) for name in clients) / rounds,
        server_peak=watch.peak(server),
        client_peak=max((watch.peak(name) for name in clients), default=0),
    )


def joined(parts: Sequence[Figures]) -> Figures:
    """Repetitions of one case as one: all rounds, mean CPU, highest peaks."""
    good = [part for part in parts if part.seconds]
    if not good:
        return parts[0] if parts else Figures(words="not run")
    return Figures(
        seconds=tuple(second for part in good for second in part.seconds),
        server_cpu_s=statistics.fmean(part.server_cpu_s for part in good),
        client_cpu_s=statistics.fmean(part.client_cpu_s for part in good),
        server_peak=max(part.server_peak for part in good),
        client_peak=max(part.client_peak for part in good),
        words="; ".join(part.words for part in parts if part.words),
    )
