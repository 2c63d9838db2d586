"""The service's parts: one thread each, started again when it fails, with a state to show."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass

import structlog

from federation.clock import Clock, stamp, utc_now

_log = structlog.get_logger(__name__)

RESTART_S = 5.0


@dataclass(frozen=True, slots=True)
class PartState:
    """A part at one moment: running, waiting, stopped or failed."""

    name: str
    state: str
    detail: str
    since: str


class Part:
    """One thread that runs until the service stops; a failure is shown and it starts again.

    Args:
        name: the part's name.
        target: does the work until the event is set.
        stop: set when the service stops.
        clock: UTC time.
        restart_s: wait after a failure.
    """

    def __init__(
        self,
        name: str,
        target: Callable[[threading.Event], None],
        stop: threading.Event,
        *,
        clock: Clock = utc_now,
        restart_s: float = RESTART_S,
    ) -> None:
        self.name = name
        self._target = target
        self._stop = stop
        self._clock = clock
        self._restart_s = restart_s
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._mutex = threading.Lock()
        self._shown = PartState(name, "stopped", "", stamp(clock()))

    def start(self) -> None:
        """Start the thread."""
        self.show("running")
        self._thread.start()

    def join(self, timeout: float) -> bool:
        """Wait for the thread's end; False where it still runs."""
        if self._thread.ident is not None:
            self._thread.join(timeout)
        return not self._thread.is_alive()

    def show(self, state: str, detail: str = "") -> None:
        """Set what the operator sees."""
        with self._mutex:
            if (state, detail) != (self._shown.state, self._shown.detail):
                self._shown = PartState(self.name, state, detail, stamp(self._clock()))

    @property
    def shown(self) -> PartState:
        """What the operator sees."""
        with self._mutex:
            return self._shown

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                self._target(self._stop)
                break
            except Exception as error:  # edge: one part's failure must not end the service
                words = f"{type(error).__name__}; starts again in {self._restart_s:g} s"
                self.show("failed", words)
                _log.error("part_failed", part=self.name, cause=type(error).__name__)
                _log.debug("part_failed_at", part=self.name, exc_info=True)
                self._stop.wait(self._restart_s)
                if not self._stop.is_set():
                    self.show("running", f"started again after {type(error).__name__}")
        self.show("stopped")
