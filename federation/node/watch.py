"""Whether a task may go on: asked before, during and after its work, so that a word takes effect.

While a task is being worked on a thread looks at the site several times a second. Once the
custodian left the run, halted the node or took an approval back, or a patient of the data was
withdrawn, it ends the work (the trainer's process), again and again until the work has ended.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from types import TracebackType
from typing import Final, Self

import structlog

from federation.node.site_port import Decision, SitePort, Stand
from federation.wire import federation_pb2 as pb

LOOK_S: Final = 0.5
"""Longest time between two looks at the site while a task is worked on."""
END_AGAIN_S: Final = 0.2
"""How often work that must end is ended again, until it has ended."""
DATA_KINDS: Final = frozenset(
    {pb.TASK_KIND_TRAIN, pb.TASK_KIND_EVALUATE, pb.TASK_KIND_FINGERPRINT, pb.TASK_KIND_PUBLISH}
)
"""Kinds of tasks that read patients' data and need an approved plan."""
_log = structlog.get_logger(__name__)


class Ground(StrEnum):
    """Why a task may not go on."""

    LEFT = "left"
    HALTED = "halted"
    NOT_APPROVED = "not approved"
    RECALLED = "recalled"


@dataclass(frozen=True, slots=True)
class Objection:
    """Why a task may not go on, in words that travel."""

    ground: Ground
    words: str

    def waits(self, task: pb.Task) -> bool:
        """Whether the task waits for the custodian's word; otherwise it is refused at once.

        A halted node refuses a round's first request, so that the others go on without it. A
        repeated one says that the round cannot: it waits, and so does the run.
        """
        if self.ground is not Ground.HALTED:
            return False
        return task.kind in (pb.TASK_KIND_OFFER, pb.TASK_KIND_PUBLISH) or task.attempt > 1


@dataclass(frozen=True, slots=True)
class Look:
    """What one look at the site gave."""

    objection: Objection | None
    withdrawn: int


def look_at(site: SitePort, task: pb.Task) -> Look:
    """Ask the site whether a task may go on now."""
    standing = site.standing(task.run_id, task.plan_hash)
    if standing.stand is not Stand.TAKING_PART:
        ground = Ground.LEFT if standing.stand is Stand.LEFT else Ground.HALTED
        return Look(Objection(ground, standing.words or str(ground)), standing.withdrawn)
    if task.kind in DATA_KINDS:
        decision = site.decision(task.plan_hash)
        if decision.decision is Decision.REJECTED:
            words = decision.reason or "the custodian's approval of this plan does not stand"
            return Look(Objection(Ground.NOT_APPROVED, words), standing.withdrawn)
    return Look(None, standing.withdrawn)


class Guard:
    """Watches one piece of work on a task.

    Args:
        look: looks at the site.
        end_work: ends the work; may be called at any time and repeatedly.
        news: set by whoever changed something: the next look comes at once.
        every_s: longest time between two looks.

    Attributes:
        began: what the look before the work gave.
        objection: why the work had to end, or None.
        data_changed: whether members of the data were withdrawn since the work began.
    """

    def __init__(
        self,
        look: Callable[[], Look],
        end_work: Callable[[], None],
        news: threading.Event,
        every_s: float = LOOK_S,
    ) -> None:
        self._look = look
        self._end_work = end_work
        self._news = news
        self._every_s = every_s
        self._over = threading.Event()
        self.began = look()
        self.objection = self.began.objection
        self.data_changed = False
        self._thread = threading.Thread(target=self._run, name="task-guard", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._over.set()
        self._news.set()
        self._thread.join()
        if kind is None:
            self._see()

    def _see(self) -> bool:
        """Look once more; whether the work has to end."""
        now = self._look()
        self.objection = self.objection or now.objection
        self.data_changed |= now.withdrawn != self.began.withdrawn
        return self.objection is not None or self.data_changed

    def _run(self) -> None:
        ending = False
        while not self._over.is_set():
            try:
                ending = ending or self._see()
                if ending:
                    self._end_work()
            except Exception as error:  # edge: the guard must not die while work goes on
                _log.warning("guard_look_failed", cause=type(error).__name__)
            self._news.wait(END_AGAIN_S if ending else self._every_s)
            self._news.clear()
