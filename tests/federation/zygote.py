"""A process that has imported everything and forks a fresh one per command: lives start at once.

``python -m tests.federation.zygote`` reads ``{"target": ..., "args": [...]}`` lines, forks, and
answers ``{"pid": ...}`` at the start and ``{"status": ...}`` at the end of each life.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import traceback
from contextlib import suppress
from typing import IO

from tests.federation import processes
from tests.tools import REPOSITORY


def main() -> None:
    """Serve until the input ends."""
    for line in sys.stdin:
        command = json.loads(line)
        pid = os.fork()
        if pid == 0:
            code = 1
            try:
                getattr(processes, command["target"])(*command["args"])
                code = 0
            except BaseException:  # edge: the fork ends here, and the test wants to know why
                traceback.print_exc()
            finally:
                sys.stderr.flush()
                os._exit(code)
        _say({"pid": pid})
        _, status = os.waitpid(pid, 0)
        _say({"status": os.waitstatus_to_exitcode(status)})


def _say(answer: dict[str, int]) -> None:
    sys.stdout.write(json.dumps(answer) + "\n")
    sys.stdout.flush()


class Reviver:
    """Starts a target of :mod:`tests.federation.processes` again each time it is killed.

    Args:
        target: the function's name.
        args: its arguments.
    """

    def __init__(self, target: str, args: tuple[str, ...]) -> None:
        self._zygote = subprocess.Popen(
            [sys.executable, "-m", "tests.federation.zygote"],
            cwd=REPOSITORY,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._command = json.dumps({"target": target, "args": args}) + "\n"
        self._over = threading.Event()
        self._lock = threading.Lock()
        self._pid = 0
        self.lives = 0
        self.other_ends: list[int] = []
        """Statuses of lives that ended otherwise than by SIGKILL: after one, nothing is revived."""
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _pipe(self, pipe: IO[str] | None) -> IO[str]:
        assert pipe is not None
        return pipe

    def _run(self) -> None:
        said = self._pipe(self._zygote.stdout)
        while True:
            with self._lock:
                if self._over.is_set():
                    return
                self._pipe(self._zygote.stdin).write(self._command)
                self._pipe(self._zygote.stdin).flush()
                self._pid = int(json.loads(said.readline())["pid"])
                self.lives += 1
            status = int(json.loads(said.readline())["status"])
            self._pid = 0
            if status != -signal.SIGKILL and not self._over.is_set():
                self.other_ends.append(status)
                return

    def close(self) -> None:
        """End the last life and the zygote."""
        with self._lock:
            self._over.set()
            if self._pid:
                with suppress(ProcessLookupError):  # it has just died by itself
                    os.kill(self._pid, signal.SIGKILL)
        self._thread.join(20)
        self._pipe(self._zygote.stdin).close()
        self._zygote.wait(20)
        self._pipe(self._zygote.stdout).close()


if __name__ == "__main__":
    main()
