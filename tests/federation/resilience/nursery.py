"""Starts lives: one process that has imported everything forks each of them, so they start at once.

``python -m tests.federation.resilience.nursery`` reads one JSON line per life, ``{"id", "target",
"config", "namespace", "environment", "log"}``, and answers ``{"id", "pid"}`` at its start and
``{"id", "status"}`` at its end. It starts no thread and makes no call itself. A life with an
environment of its own (a preloaded library) is a fresh interpreter.
"""

from __future__ import annotations

import ctypes
import json
import os
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO, Any

from tests.federation.resilience import lives
from tests.tools import REPOSITORY
from tests.waiting import wait_for

CLONE_NEWNET = 0x40000000
NAMESPACES = Path("/run/netns")


def main() -> None:
    """Serve until the input ends; lives that are left are killed."""
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    signal.set_wakeup_fd(writer)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    alive: dict[int, int] = {}
    pending = b""
    while True:
        ready, _, _ = select.select([0, reader], [], [])
        if reader in ready:
            os.read(reader, 4096)
            _reap(alive)
        if 0 not in ready:
            continue
        received = os.read(0, 1 << 16)
        if not received:
            break
        *lines, pending = (pending + received).split(b"\n")
        for line in lines:
            order = json.loads(line)
            pid = os.fork()
            if pid == 0:
                _live(order)
            alive[pid] = order["id"]
            _say({"id": order["id"], "pid": pid})
    for pid in alive:
        os.kill(pid, signal.SIGKILL)


def _reap(alive: dict[int, int]) -> None:
    while alive:
        pid, status = os.waitpid(-1, os.WNOHANG)
        if pid == 0:
            return
        _say({"id": alive.pop(pid), "status": os.waitstatus_to_exitcode(status)})


def _say(answer: Mapping[str, int]) -> None:
    os.write(1, json.dumps(answer).encode() + b"\n")


def _live(order: Mapping[str, Any]) -> None:
    """The child: its own log, namespace and environment, then its target; never returns."""
    code = 1
    try:
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        _own_streams(order["log"])
        if order["namespace"]:
            _enter(order["namespace"])
        if order["environment"]:
            command = [sys.executable, "-m", lives.__name__, order["target"]]
            os.execve(
                sys.executable,
                [*command, json.dumps(order["config"])],
                {**os.environ, **order["environment"]},
            )
        lives.TARGETS[order["target"]](order["config"])
        code = 0
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(code)


def _own_streams(log: str) -> None:
    sink = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.dup2(sink, 1)
    os.dup2(sink, 2)


def _enter(namespace: str) -> None:
    """setns(2) into a named network namespace."""
    handle = os.open(NAMESPACES / namespace, os.O_RDONLY)
    if ctypes.CDLL(None, use_errno=True).setns(handle, CLONE_NEWNET) != 0:
        raise OSError(ctypes.get_errno(), "setns")
    os.close(handle)


class Life:
    """One process: alive until ``status`` is set (negative: the signal that ended it)."""

    def __init__(self) -> None:
        self.pid = 0
        self.status: int | None = None
        self.ended_at = 0.0
        self.over = threading.Event()
        self.whenever: Callable[[Life], None] = lambda _: None

    def kill(self, number: int = signal.SIGKILL) -> None:
        """Send a signal, if it is still there."""
        if self.status is None and self.pid:
            os.kill(self.pid, number)


class Nursery:
    """The client's side; one for many lives."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", __name__],
            cwd=REPOSITORY,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        self._lives: dict[int, Life] = {}
        self._guard = threading.Lock()
        self._thread = threading.Thread(target=self._listen, daemon=True)
        self._thread.start()

    def start(
        self,
        target: str,
        config: Mapping[str, Any],
        log: Path,
        *,
        namespace: str = "",
        environment: Mapping[str, str] | None = None,
        whenever: Callable[[Life], None] | None = None,
    ) -> Life:
        """Start a life.

        Args:
            target: a key of :data:`lives.TARGETS`.
            config: what it gets.
            log: its standard output and error are appended here.
            namespace: a named network namespace to live in.
            environment: variables of its own.
            whenever: called at its end, in the listener's thread.
        """
        life = Life()
        life.whenever = whenever or life.whenever
        with self._guard:
            number = len(self._lives) + 1
            self._lives[number] = life
            order = {
                "id": number,
                "target": target,
                "config": dict(config),
                "namespace": namespace,
                "environment": dict(environment or {}),
                "log": str(log),
            }
            _open(self._process.stdin).write(json.dumps(order).encode() + b"\n")
            _open(self._process.stdin).flush()
        return life

    def _listen(self) -> None:
        for line in _open(self._process.stdout):
            said = json.loads(line)
            with self._guard:
                life = self._lives[said["id"]]
            if "pid" in said:
                life.pid = said["pid"]
                continue
            life.ended_at = time.monotonic()
            life.status = said["status"]
            life.over.set()
            life.whenever(life)

    def close(self) -> None:
        """End what still lives, and the nursery."""
        _open(self._process.stdin).close()
        self._process.wait(30)
        self._thread.join(10)
        _open(self._process.stdout).close()


class Supervised:
    """A life that is started again whenever it ends, as a service manager does.

    Args:
        start: starts one life; gets the callback for its end.
        pause_s: between an end and the next start.
    """

    def __init__(
        self, start: Callable[[Callable[[Life], None]], Life], pause_s: float = 0.05
    ) -> None:
        self._start = start
        self._pause_s = pause_s
        self._over = threading.Event()
        self.ends: list[tuple[float, int]] = []
        self._guard = threading.Lock()
        self.life = start(self._ended)

    @property
    def own_ends(self) -> list[int]:
        """Exit statuses of lives that ended by themselves, not by SIGKILL."""
        return [status for _, status in self.ends if status != -signal.SIGKILL]

    def _ended(self, life: Life) -> None:
        self.ends.append((life.ended_at, life.status or 0))
        if not self._over.is_set():
            threading.Thread(target=self._again, daemon=True).start()

    def _again(self) -> None:
        if not self._over.wait(self._pause_s):
            with self._guard:
                if not self._over.is_set():
                    self.life = self._start(self._ended)

    def hold(self) -> None:
        """Kill it and leave it dead until :meth:`release`."""
        with self._guard:
            self._over.set()
        self._dead()

    def release(self) -> None:
        """Start it again."""
        self._over.clear()
        self.life = self._start(self._ended)

    def close(self) -> None:
        """End it for good."""
        self.hold()

    def _dead(self) -> None:
        wait_for(lambda: self.life.pid, what="the life's start")
        self.life.kill()
        self.life.over.wait(20)


def _open(pipe: IO[bytes] | None) -> IO[bytes]:
    assert pipe is not None
    return pipe


if __name__ == "__main__":
    main()
