"""The round engine: looks at the state, takes the next step of each run, and looks again.

Every step is made of work that may be repeated (its files are named by content or overwritten
whole) and one transaction. So the engine can be killed anywhere and goes on from what is stored.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Final

import structlog

from federation.audit_chain import AuditChain
from federation.canonical import JSON
from federation.clock import Clock, parse_stamp, stamp
from federation.coordinator.aggregation import new_global_model, weighted_updates
from federation.coordinator.objects import ObjectStore
from federation.coordinator.publication import published_manifest
from federation.coordinator.quorum import (
    JoinFacts,
    RoundFacts,
    Verdict,
    join_verdict,
    training_verdict,
)
from federation.coordinator.records import RunRecords
from federation.coordinator.schema import RoundRow, RunRow, TaskRow
from federation.coordinator.states import TASK_ENDS, RoundState, RunState, TaskState
from federation.coordinator.store import Change, Store
from federation.coordinator.tasks import (
    evaluate_body,
    fingerprint_body,
    newest_per_site,
    offer_body,
    publish_body,
    splits_due,
    task_for,
    train_body,
    update_objects,
    with_weights,
)
from federation.errors import FederationError
from federation.manifest import manifest_for
from federation.plan import SignedPlan
from federation.where import where

Initialiser = Callable[[SignedPlan, Path, Path], None]
"""Writes a plan's initial weights: (plan, file to write, work folder)."""

ACTIVE: Final = (
    RunState.SUBMITTED,
    RunState.OFFERED,
    RunState.RUNNING,
    RunState.PUBLISHING,
)
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
    """

    store: Store
    objects: ObjectStore
    records: RunRecords
    audit: AuditChain
    initialiser: Initialiser
    clock: Clock
    work: Path
    patience_s: float


class Engine:
    """Advances all runs, in a thread of its own or step by step.

    Args:
        parts: what it works with.
    """

    def __init__(self, parts: EngineParts) -> None:
        self._parts = parts
        self._store = parts.store
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._plans: dict[str, SignedPlan] = {}
        self._extended: set[tuple[str, int]] = set()

    def start(self) -> None:
        """Give open rounds their full time again, then run until :meth:`stop`."""
        self._parts.work.mkdir(parents=True, exist_ok=True)
        for run in self._store.runs():
            self._refresh_deadline(run)
            self._parts.records.restore(run)
            for row in self._store.rounds(run.run_id):
                if row.state is RoundState.CLOSED:
                    self._forget_updates(run, row.number)
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End the thread; the step under way is finished first."""
        self._stop.set()
        self._store.signal.notify()
        if self._thread is not None:
            self._thread.join()

    def _run(self) -> None:
        while not self._stop.is_set():
            seen = self._store.signal.version
            try:
                moved = self.tick()
            except Exception as error:  # edge: whatever happens, the engine goes on
                _log.error("engine_failed", cause=type(error).__name__, where=where(error))
                self._stop.wait(2.0)
                continue
            if not moved:
                self._store.signal.wait(seen, 1.0)

    def tick(self) -> bool:
        """One look at every active run; whether any moved."""
        moved = False
        for run in self._store.runs(ACTIVE):
            try:
                moved |= self._advance(run)
            except FederationError as error:
                self._fail(run, str(error))
                moved = True
            except Exception as error:  # edge: one run's trouble must not stop the others
                self._stumbled(run, error)
        return moved

    def _stumbled(self, run: RunRow, error: Exception) -> None:
        """A step failed for a reason that may pass (a full disk, a busy file): say so, try on."""
        words = f"a step failed ({type(error).__name__}) and is tried again"
        _log.error("step_failed", run=run.run_id, cause=type(error).__name__, where=where(error))
        if run.words != words:
            with self._store.change(quiet=True) as change:
                change.set("runs", {"run_id": run.run_id}, {"words": words})
            self._parts.audit.append("system", "run.stumbled", run.run_id, {"words": words})

    def plan(self, run: RunRow) -> SignedPlan:
        """The run's plan, parsed once."""
        if run.run_id not in self._plans:
            self._plans[run.run_id] = SignedPlan.from_json(run.signed_plan)
        return self._plans[run.run_id]

    def _advance(self, run: RunRow) -> bool:
        steps = {
            RunState.SUBMITTED: self._initialise,
            RunState.OFFERED: self._await_sites,
            RunState.RUNNING: self._advance_round,
            RunState.PUBLISHING: self._await_publication,
        }
        return steps[run.state](run)

    def _fail(self, run: RunRow, words: str) -> None:
        with self._store.change() as change:
            change.expire(self._open(run.run_id), "the run failed")
            change.run(run.run_id, RunState.FAILED, words=words)
        self._parts.audit.append("system", "run.failed", run.run_id, {"words": words})
        _log.error("run_failed", run=run.run_id, words=words)

    def _open(self, run_id: str) -> list[TaskRow]:
        return [task for task in self._store.tasks(run_id) if task.state not in TASK_ENDS]

    def _joined(self, run_id: str) -> list[str]:
        return [row.site for row in self._store.run_sites(run_id) if row.state == "joined"]

    # -- from submission to the first round

    def _initialise(self, run: RunRow) -> bool:
        signed = self.plan(run)
        out = self._parts.work / f"{run.run_id}-initial.safetensors"
        self._parts.initialiser(signed, out, self._parts.work / f"{run.run_id}-initialise")
        sha256, size = self._parts.objects.adopt(out)
        offer = offer_body(self._parts.objects.put_bytes(run.signed_plan), len(run.signed_plan))
        manifest = manifest_for(signed.plan, 0, (sha256, size), ())
        with self._store.change() as change:
            change.add_round(
                run.run_id,
                0,
                RoundState.AGGREGATING,
                deadline=self._deadline(run),
                weights_sha256=sha256,
                weights_size=size,
                model_id=manifest.id,
            )
            for row in self._store.run_sites(run.run_id):
                change.add_task(task_for(run, 0, row.site, "offer", offer))
            change.run(run.run_id, RunState.OFFERED)
        self._parts.audit.append("system", "run.offered", run.run_id, {"model": manifest.id})
        return True

    def _await_sites(self, run: RunRow) -> bool:
        plan = self.plan(run).plan
        rows = self._store.run_sites(run.run_id)
        joined = sum(row.state == "joined" for row in rows)
        undecided = sum(row.state == "invited" for row in rows)
        minimum = plan.strategy.minimum_sites
        if joined >= minimum and run.quorum_at is None:
            with self._store.change() as change:
                change.set("runs", {"run_id": run.run_id}, {"quorum_at": change.now})
            return True
        waited = self._seconds_since(run.quorum_at)
        facts = JoinFacts(joined, undecided, minimum, waited >= self._parts.patience_s)
        verdict = join_verdict(facts)
        if verdict is Verdict.FAIL:
            reasons = "; ".join(f"{r.site}: {r.words}" for r in rows if r.words)
            self._fail(run, f"{joined} sites joined, the plan needs {minimum} ({reasons})")
            return True
        if verdict is not Verdict.GO_ON:
            return False
        first = self._store.rounds(run.run_id)[0]
        with self._store.change() as change:
            change.run(run.run_id, RunState.RUNNING)
            self._evaluate(change, run, first, ("validation", "test"))
            self._ask_fingerprints(change, run)
        self._parts.audit.append("system", "run.started", run.run_id, {"sites": joined})
        return True

    # -- rounds

    def _advance_round(self, run: RunRow) -> bool:
        current = self._store.rounds(run.run_id)[-1]
        if current.state is RoundState.TRAINING:
            return self._await_updates(run, current)
        if current.state is RoundState.AGGREGATING:
            return self._aggregate(run, current)
        if current.state is RoundState.EVALUATING:
            return self._await_scores(run, current)
        if current.number < self.plan(run).plan.training.rounds:
            return self._open_round(run, current)
        return self._publish(run, current)

    def _open_round(self, run: RunRow, before: RoundRow) -> bool:
        number = before.number + 1
        body = train_body(before, self.plan(run).plan.update)
        with self._store.change() as change:
            change.add_round(run.run_id, number, RoundState.TRAINING, deadline=self._deadline(run))
            self._ask_fingerprints(change, run)
            for site in self._joined(run.run_id):
                change.add_task(task_for(run, number, site, "train", body))
        return True

    def _ask_fingerprints(self, change: Change, run: RunRow) -> None:
        """Ask every joined site once, those that joined late too; no round waits for it."""
        if "fingerprint" in self.plan(run).plan.sends:
            for site in self._joined(run.run_id):
                change.add_task(task_for(run, 0, site, "fingerprint", fingerprint_body()))

    def _await_updates(self, run: RunRow, current: RoundRow) -> bool:
        plan = self.plan(run).plan
        newest = newest_per_site(self._store.tasks(run.run_id, current.number, "train"))
        facts = RoundFacts(
            states=[task.state for task in newest],
            minimum=plan.strategy.minimum_sites,
            attempt=current.attempt,
            late=parse_stamp(current.deadline) <= self._parts.clock(),
        )
        verdict = training_verdict(facts)
        if verdict is Verdict.GO_ON:
            with self._store.change() as change:
                change.expire(newest, "the round went on without this site")
                change.round(current, RoundState.AGGREGATING, trained_at=change.now)
            return True
        if verdict is Verdict.EXTEND:
            return self._extend(run, current)
        if verdict is Verdict.RETRY:
            return self._retry(run, current, newest)
        if verdict is Verdict.FAIL:
            words = "; ".join(f"{t.site}: {t.words}" for t in newest if t.words)
            usable = sum(task.state is TaskState.DONE for task in newest)
            self._fail(
                run,
                f"round {current.number}: {usable} usable updates after {current.attempt} tries, "
                f"the plan needs {plan.strategy.minimum_sites} ({words})",
            )
            return True
        return False

    def _extend(self, run: RunRow, current: RoundRow) -> bool:
        words = "the deadline passed without quorum: waiting on for sites that have not answered"
        with self._store.change() as change:
            key = {"run_id": run.run_id, "number": current.number}
            change.set("rounds", key, {"deadline": self._deadline(run), "words": words})
        if (run.run_id, current.number) not in self._extended:
            self._extended.add((run.run_id, current.number))
            detail: dict[str, JSON] = {"round": current.number, "words": words}
            self._parts.audit.append("system", "round.extended", run.run_id, detail)
        return True

    def _retry(self, run: RunRow, current: RoundRow, newest: Sequence[TaskRow]) -> bool:
        body = train_body(self._store.rounds(run.run_id)[-2], self.plan(run).plan.update)
        attempt = current.attempt + 1
        done = {task.site for task in newest if task.state is TaskState.DONE}
        with self._store.change() as change:
            key = {"run_id": run.run_id, "number": current.number}
            fields = {"attempt": attempt, "deadline": self._deadline(run)}
            change.set("rounds", key, fields)
            for site in self._joined(run.run_id):
                if site not in done:
                    task = task_for(run, current.number, site, "train", body, attempt)
                    change.add_task(task)
        detail = {"round": current.number, "attempt": attempt}
        self._parts.audit.append("system", "round.retried", run.run_id, detail)
        return True

    def _aggregate(self, run: RunRow, current: RoundRow) -> bool:
        plan = self.plan(run).plan
        rounds = self._store.rounds(run.run_id)
        tasks = newest_per_site(self._store.tasks(run.run_id, current.number, "train"))
        updates = weighted_updates(tasks, self._parts.objects, plan.strategy.weight_cap)
        started = time.monotonic()
        out = self._parts.work / f"{run.run_id}-{current.number:05d}.safetensors"
        sha256, size = new_global_model(updates, out, self._parts.objects)
        seconds = time.monotonic() - started
        parents = (str(rounds[-2].model_id),)
        manifest = manifest_for(plan, current.number, (sha256, size), parents)
        fields: dict[str, object] = {
            "weights_sha256": sha256,
            "weights_size": size,
            "model_id": manifest.id,
            "aggregate_s": seconds,
        }
        splits = splits_due(current.number, plan.evaluation.every, plan.training.rounds)
        with self._store.change() as change:
            change.set("rounds", {"run_id": run.run_id, "number": current.number}, fields)
            if splits:
                fresh = with_weights(current, sha256, size)
                self._evaluate(change, run, fresh, splits)
            else:
                change.round(current, RoundState.CLOSED)
        detail: dict[str, JSON] = {
            "round": current.number,
            "weights": {update.site: update.weight for update in updates},
            "model": manifest.id,
        }
        self._parts.audit.append("system", "round.aggregated", run.run_id, detail)
        if not splits:
            self._closed(run, current)
        return True

    def _evaluate(
        self, change: Change, run: RunRow, current: RoundRow, splits: Sequence[str]
    ) -> None:
        body = evaluate_body(current, splits)
        for site in self._joined(run.run_id):
            change.add_task(task_for(run, current.number, site, "evaluate", body))
        change.round(current, RoundState.EVALUATING, deadline=self._deadline(run))

    def _await_scores(self, run: RunRow, current: RoundRow) -> bool:
        tasks = self._store.tasks(run.run_id, current.number, "evaluate")
        late = parse_stamp(current.deadline) <= self._parts.clock()
        if not late and any(task.state not in TASK_ENDS for task in tasks):
            return False
        with self._store.change() as change:
            missing = change.expire(tasks, "the evaluation's deadline passed")
            words = f"{missing} sites did not evaluate in time" if missing else current.words
            change.round(current, RoundState.CLOSED, words=words)
        self._closed(run, current)
        return True

    def _closed(self, run: RunRow, current: RoundRow) -> None:
        """Write what people read, then forget the updates: the sum holds them."""
        self._parts.records.round_closed(run, current.number)
        self._forget_updates(run, current.number)

    def _forget_updates(self, run: RunRow, number: int) -> None:
        """Drop a round's updates but those that are a model too or that another round waits for.

        One plan run twice gives the same updates, byte for byte and so by name.
        """
        kept = self._store.model_hashes() | self._awaited_updates()
        for task in self._store.tasks(run.run_id, number, "train"):
            for update in update_objects(task) - kept:
                self._parts.objects.drop(update)

    def _awaited_updates(self) -> set[str]:
        """Updates in rounds that are not closed."""
        return {
            name
            for run in self._store.runs((*ACTIVE, RunState.PAUSED))
            for at in self._store.rounds(run.run_id)[-1:]
            if at.state is not RoundState.CLOSED
            for task in self._store.tasks(run.run_id, at.number, "train")
            for name in update_objects(task)
        }

    # -- the finished model

    def _publish(self, run: RunRow, last: RoundRow) -> bool:
        before = self._store.rounds(run.run_id)[-2]
        manifest = published_manifest(self._parts.objects, self.plan(run).plan, last, before)
        raw = manifest.to_json()
        body = publish_body(self._parts.objects.put_bytes(raw), len(raw), last)
        self._parts.records.model_made(run, manifest)
        with self._store.change() as change:
            for site in self._joined(run.run_id):
                change.add_task(task_for(run, last.number, site, "publish", body))
            change.run(run.run_id, RunState.PUBLISHING, model_id=manifest.id)
        self._parts.audit.append("system", "model.published", run.run_id, {"model": manifest.id})
        return True

    def _await_publication(self, run: RunRow) -> bool:
        tasks = self._store.tasks(run.run_id, kind="publish")
        if any(task.state not in TASK_ENDS for task in tasks):
            return False
        with self._store.change() as change:
            change.expire(self._open(run.run_id), "the run finished without it")
            change.run(run.run_id, RunState.FINISHED)
        self._parts.audit.append("system", "run.finished", run.run_id)
        return True

    # -- time

    def _deadline(self, run: RunRow) -> str:
        seconds = self.plan(run).plan.strategy.round_deadline_s
        return stamp(self._parts.clock() + timedelta(seconds=seconds))

    def _seconds_since(self, moment: str | None) -> float:
        if moment is None:
            return 0.0
        return (self._parts.clock() - parse_stamp(moment)).total_seconds()

    def _refresh_deadline(self, run: RunRow) -> None:
        """The coordinator's own absence is not held against the sites."""
        rounds = self._store.rounds(run.run_id)
        if run.state is RunState.RUNNING and rounds and rounds[-1].state is not RoundState.CLOSED:
            with self._store.change() as change:
                key = {"run_id": run.run_id, "number": rounds[-1].number}
                change.set("rounds", key, {"deadline": self._deadline(run)})

    def resumed(self, run: RunRow) -> None:
        """A paused run goes on: its open round gets its full time again."""
        self._refresh_deadline(self._store.run(run.run_id))
