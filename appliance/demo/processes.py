"""The demonstration's own operating-system processes: start, watch, stop."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from appliance.errors import ApplianceError

STOP_SECONDS = 20.0
MOST_RESTARTS = 3


class ProcessDied(ApplianceError):
    """A process of the demonstration ended before its time."""


def clinode(*arguments: str) -> list[str]:
    """The argument list that runs the command line with this interpreter."""
    return [sys.executable, "-m", "appliance.cli", *arguments]


DIE_WITH_PARENT = (
    "import ctypes, os, sys; ctypes.CDLL(None).prctl(1, 15); os.execvp(sys.argv[1], sys.argv[1:])"
)
"""A program that asks for SIGTERM at its parent's death (prctl(2), PR_SET_PDEATHSIG) and becomes
another one. Not a ``preexec_fn``: that would fork with gRPC's threads, and its poller can abort the
child before it has become the new program (grpc/grpc#43055); without one Python uses vfork(2).
"""


@dataclass(slots=True)
class Process:
    """One running process with its log file.

    Attributes:
        name: in words.
        log: gets what it prints.
        popen: the process.
        command: how it was started.
        restarts: how often it was started again after a SIGKILL.
    """

    name: str
    log: Path
    popen: subprocess.Popen[bytes]
    command: tuple[str, ...] = ()
    restarts: int = 0

    def check(self) -> None:
        """Raise where the process has ended.

        Raises:
            ProcessDied: with the exit status and the last line of the log.
        """
        status = self.popen.poll()
        if status is not None:
            raise ProcessDied(
                f"{self.name} ended with status {status}; its log {self.log} ends with: "
                f"{last_line(self.log)}"
            )

    def revive(self) -> None:
        """Start the process again where something killed it outright, as a service manager does.

        Only after SIGKILL: a process that ends by itself has a defect, which `check` reports.
        """
        killed = self.popen.poll() == -signal.SIGKILL
        if killed and self.command and self.restarts < MOST_RESTARTS:
            self.popen = _spawn(self.command, self.log)
            self.restarts += 1

    def stop(self) -> int:
        """SIGTERM, then SIGKILL after a while; returns the exit status."""
        if self.popen.poll() is None:
            self.popen.terminate()
            try:
                self.popen.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                self.popen.kill()
                self.popen.wait()
        return self.popen.returncode


def last_line(log: Path, longest: int = 300) -> str:
    """The last line of a log that is not empty, cut to ``longest`` characters."""
    try:
        lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return "(no log)"
    return next((line for line in reversed(lines) if line.strip()), "(empty)")[-longest:]


def start(name: str, command: Sequence[str], log: Path) -> Process:
    """Start a process whose output goes to ``log`` and which dies with this one."""
    log.parent.mkdir(parents=True, exist_ok=True)
    return Process(name, log, _spawn(command, log), tuple(command))


def _spawn(command: Sequence[str], log: Path) -> subprocess.Popen[bytes]:
    with log.open("ab") as stream:
        return subprocess.Popen(
            [sys.executable, "-S", "-c", DIE_WITH_PARENT, *command],
            stdin=subprocess.DEVNULL,
            stdout=stream,
            stderr=subprocess.STDOUT,
        )


def run(command: Sequence[str], *, timeout_s: float = 120.0) -> str:
    """Run a command to its end and return what it printed.

    Raises:
        ProcessDied: it failed; the text is its own sentence.
    """
    try:
        done = subprocess.run(
            list(command),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise ProcessDied(f"`{' '.join(command[2:6])}` did not end in {timeout_s:g} s") from None
    if done.returncode != 0:
        words = done.stderr.strip().splitlines()[-1:] or ["no reason was given"]
        raise ProcessDied(f"`clinode {' '.join(command[3:])}` failed: {words[0]}")
    return done.stdout


@dataclass(slots=True)
class MemoryWatch:
    """Samples the memory of this process and all below it; keeps the highest sum.

    Shared pages count once per process only where the kernel gives the proportional set size.
    """

    every_s: float = 2.0
    peak_bytes: int = 0
    _stop: threading.Event = field(default_factory=threading.Event)
    _thread: threading.Thread | None = None

    def start(self) -> None:
        """Begin to sample in a thread."""
        self._thread = threading.Thread(target=self._run, name="memory", daemon=True)
        self._thread.start()

    def stop(self) -> int:
        """Stop and return the highest sum in bytes."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join()
        return self.peak_bytes

    def _run(self) -> None:
        while not self._stop.wait(self.every_s):
            self.peak_bytes = max(self.peak_bytes, tree_bytes(psutil.Process()))


def tree_bytes(root: psutil.Process) -> int:
    """Proportional set size of a process and all its descendants, in bytes."""
    total = 0
    for process in (root, *root.children(recursive=True)):
        try:
            total += int(process.memory_full_info().pss)
        except (psutil.NoSuchProcess, psutil.AccessDenied, AttributeError):
            continue
    return total
