"""What every step of the engine needs: the stored facts of a run, its plan, its end, its times."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Final

import structlog

from federation.audit_chain import AuditChain
from federation.canonical import JSON
from federation.clock import Clock, parse_stamp, stamp
from federation.coordinator.objects import ObjectStore
from federation.coordinator.quorum import Part
from federation.coordinator.records import RunRecords
from federation.coordinator.schema import RoundRow, RunRow, TaskRow
from federation.coordinator.states import RoundState, RunState, TaskState
from federation.coordinator.store import Change, Store
from federation.coordinator.tasks import newest_per_site, offer_body, task_for
from federation.plan import SignedPlan

Initialiser = Callable[[SignedPlan, Path, Path], None]
"""Writes a plan's initial weights: (plan, file to write, work folder)."""

ACTIVE: Final = (
    RunState.SUBMITTED,
    RunState.OFFERED,
    RunState.QUEUED,
    RunState.RUNNING,
    RunState.PUBLISHING,
)
RECALLED: Final = "the run was paused: the task is asked for again when it goes on"
"""Words of a task that ended because its run was paused."""
_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class EngineParts:
    """What the engine works with.

    Attributes:
        store: the state.
        objects: plans, models and updates.
        records: the runs' folders for people and TensorBoard.
        audit: the log.
        initialiser: makes initial weights.
        clock: wall clock.
        work: a folder for files in the making.
        patience_s: how long a run with quorum waits for undecided sites before it starts.
        slots: how many runs may be active at a time.
    """

    store: Store
    objects: ObjectStore
    records: RunRecords
    audit: AuditChain
    initialiser: Initialiser
    clock: Clock
    work: Path
    patience_s: float
    slots: int = 1


def parts_of(store: Store, run: RunRow) -> list[Part]:
    """Every site's part in a run, as the decisions on rounds need it."""
    offers = [
        task
        for task in store.tasks(run.run_id, kind="offer")
        if task.body.get("plan_hash", run.plan_hash) == run.plan_hash
    ]
    answers = {task.site: task for task in newest_per_site(offers)}
    found = []
    for row in store.run_sites(run.run_id):
        answer = answers.get(row.site)
        refused = answer is not None and answer.state in (TaskState.REFUSED, TaskState.FAILED)
        approved = row.plan_hash == run.plan_hash
        words = row.words or (answer.words if answer is not None and refused else "")
        found.append(Part(row.site, row.state, approved=approved, refused=refused, words=words))
    return found


def reasons(parts: Sequence[Part]) -> str:
    """Why sites do not take part, in brackets; empty where no words are known."""
    told = "; ".join(f"{part.site}: {part.words}" for part in parts if part.words)
    return f" ({told})" if told else ""


class Overtaken(Exception):
    """Somebody stopped, paused or changed the run while a step was being taken: look again."""


class Steps:
    """Base of the engine's parts.

    Args:
        parts: what it works with.
    """

    def __init__(self, parts: EngineParts) -> None:
        self._parts = parts
        self._store = parts.store
        self._plans: dict[str, SignedPlan] = {}

    def plan(self, run: RunRow) -> SignedPlan:
        """The run's plan in force, parsed once."""
        if run.plan_hash not in self._plans:
            self._plans[run.plan_hash] = SignedPlan.from_json(run.signed_plan)
        return self._plans[run.plan_hash]

    @contextmanager
    def _change(self, run: RunRow) -> Iterator[Change]:
        """A transaction of a step that was decided on ``run`` as it was read.

        Raises:
            Overtaken: the run is in another state, or under another plan, by now.
        """
        with self._store.change() as change:
            sql = "SELECT state, plan_hash FROM runs WHERE run_id = ?"
            row = change.execute(sql, (run.run_id,)).fetchone()
            if (row["state"], row["plan_hash"]) != (run.state.value, run.plan_hash):
                raise Overtaken
            yield change

    def fail(self, run: RunRow, words: str) -> bool:
        """End a run in words; its tasks are free at once."""
        with self._change(run) as change:
            change.expire(self._open(run.run_id), f"the run failed: {words}"[:300])
            change.run(run.run_id, RunState.FAILED, words=words)
        self._audit(run, "run.failed", {"words": words})
        _log.error("run_failed", run=run.run_id, words=words)
        return True

    def say(self, run: RunRow, words: str) -> bool:
        """Tell why a run stands still; gives whether that is new."""
        if run.words == words:
            return False
        with self._change(run) as change:
            change.set("runs", {"run_id": run.run_id}, {"words": words})
        return True

    def add_offers(self, change: Change, run: RunRow, sites: Sequence[str]) -> None:
        """Offer the plan in force to sites; older offers that they have not answered end."""
        name = self._parts.objects.put_bytes(run.signed_plan)
        body = offer_body(name, len(run.signed_plan)) | {"plan_hash": run.plan_hash}
        offered = self._store.tasks(run.run_id, kind="offer")
        for site in sites:
            mine = [task for task in offered if task.site == site]
            change.expire(mine, "the plan is offered anew")
            attempt = max((task.attempt for task in mine), default=0) + 1
            change.add_task(task_for(run, 0, site, "offer", body, attempt))

    def _audit(self, run: RunRow, action: str, detail: dict[str, JSON] | None = None) -> None:
        self._parts.audit.append("system", action, run.run_id, detail)

    def _open(self, run_id: str) -> list[TaskRow]:
        return self._store.tasks(run_id, states=(TaskState.OPEN, TaskState.TAKEN))

    def _able(self, run: RunRow) -> list[str]:
        """Sites that may be given work under the plan in force."""
        return [part.site for part in parts_of(self._store, run) if part.able]

    def _late(self, at: RoundRow) -> bool:
        return parse_stamp(at.deadline) <= self._parts.clock()

    def _deadline(self, run: RunRow) -> str:
        seconds = self.plan(run).plan.strategy.round_deadline_s
        return stamp(self._parts.clock() + timedelta(seconds=seconds))

    def _seconds_since(self, moment: str | None) -> float:
        if moment is None:
            return 0.0
        return (self._parts.clock() - parse_stamp(moment)).total_seconds()

    def refresh_deadlines(self, run: RunRow) -> None:
        """The coordinator's own absence, or a pause, is not held against the sites."""
        opened = [at for at in self._store.rounds(run.run_id) if at.state is not RoundState.CLOSED]
        if run.state is RunState.RUNNING and opened:
            with self._store.change() as change:
                for at in opened:
                    key = {"run_id": run.run_id, "number": at.number}
                    change.set("rounds", key, {"deadline": self._deadline(run)})
