"""The round engine: looks at the state, takes the next step of each run, and looks again.

Every step is made of work that may be repeated (its files are named by content or overwritten
whole) and one transaction. So the engine can be killed anywhere and goes on from what is stored.
"""

from __future__ import annotations

import threading
from collections.abc import Collection

import structlog

from federation.coordinator.asynchronous import BufferedRounds
from federation.coordinator.publication import published_manifest
from federation.coordinator.quorum import JoinFacts, Verdict, join_verdict, lost_mandatory
from federation.coordinator.rounds import Rounds
from federation.coordinator.schema import RunRow
from federation.coordinator.states import TASK_ENDS, RoundState, RunState, TaskState
from federation.coordinator.steps import ACTIVE as ACTIVE
from federation.coordinator.steps import RECALLED, Overtaken, Steps, parts_of, reasons
from federation.coordinator.steps import EngineParts as EngineParts
from federation.coordinator.steps import Initialiser as Initialiser
from federation.coordinator.store import Change
from federation.coordinator.tasks import newest_per_site, publish_body, task_for
from federation.coordinator.turns import may_start
from federation.coordinator.views import waiting
from federation.errors import FederationError
from federation.manifest import manifest_for
from federation.where import where

_log = structlog.get_logger(__name__)


class Engine(Steps):
    """Advances all runs, in a thread of its own or step by step.

    Args:
        parts: what it works with.
    """

    def __init__(self, parts: EngineParts) -> None:
        super().__init__(parts)
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._synchronous = Rounds(parts)
        self._asynchronous = BufferedRounds(parts)
        self._active: set[str] = set()

    @property
    def slots(self) -> int:
        """How many runs may be active at a time."""
        return self._parts.slots

    def sweep(self) -> int:
        """Drop objects that nothing names; gives their number. Before anything is served.

        A site that sent an update whole and was never heard of again left one, and so did a kill
        between an object's arrival and its record. While a site trains nothing is dropped: it may
        have sent the object of its next report.
        """
        if self._store.trains():
            return 0
        needed, objects = self._store.needed_objects(), self._parts.objects
        left = [n for n in objects.names() if n not in needed and not self._store.hands_out(n)]
        for name in left:
            objects.drop(name)
        return len(left)

    def start(self) -> None:
        """Give open rounds their full time again, then run until :meth:`stop`."""
        self._parts.work.mkdir(parents=True, exist_ok=True)
        for run in self._store.runs():
            self.refresh_deadlines(run)
            self._parts.records.restore(run)
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
        active = self._store.runs(ACTIVE)
        self._part_with(self._active - {run.run_id for run in active})
        self._active = {run.run_id for run in active}
        for run in active:
            try:
                moved |= self._attempt(run)
            except Overtaken:
                moved = True
            except Exception as error:  # edge: one run's trouble must not stop the others
                self._stumbled(run, error)
        return moved

    def _part_with(self, ended: Collection[str]) -> None:
        """Drop what runs leave that are over, however they ended."""
        for run_id in ended:
            self._synchronous.forget_updates(self._store.run(run_id))
        if ended:
            self._parts.objects.spares.clear()

    def _attempt(self, run: RunRow) -> bool:
        try:
            return self._advance(run)
        except FederationError as error:
            return self.fail(run, str(error))

    def _stumbled(self, run: RunRow, error: Exception) -> None:
        """A step failed for a reason that may pass (a full disk, a busy file): say so, try on."""
        words = f"a step failed ({type(error).__name__}) and is tried again"
        _log.error("step_failed", run=run.run_id, cause=type(error).__name__, where=where(error))
        if run.words != words:
            with self._store.change(quiet=True) as change:
                change.set("runs", {"run_id": run.run_id}, {"words": words})
            self._audit(run, "run.stumbled", {"words": words})

    def _advance(self, run: RunRow) -> bool:
        steps = {
            RunState.SUBMITTED: self._initialise,
            RunState.OFFERED: self._await_sites,
            RunState.QUEUED: self._take_turn,
            RunState.RUNNING: self._advance_rounds,
            RunState.PUBLISHING: self._await_publication,
        }
        return steps[run.state](run)

    def _rounds(self, run: RunRow) -> Rounds:
        asynchronous = self.plan(run).plan.strategy.asynchronous
        return self._asynchronous if asynchronous else self._synchronous

    # -- from submission to the first round

    def _initialise(self, run: RunRow) -> bool:
        signed = self.plan(run)
        out = self._parts.work / f"{run.run_id}-initial.safetensors"
        self._parts.initialiser(signed, out, self._parts.work / f"{run.run_id}-initialise")
        sha256, size = self._parts.objects.adopt(out)
        manifest = manifest_for(signed.plan, 0, (sha256, size), ())
        with self._change(run) as change:
            change.add_round(
                run.run_id,
                0,
                RoundState.AGGREGATING,
                deadline=self._deadline(run),
                weights_sha256=sha256,
                weights_size=size,
                model_id=manifest.id,
                plan_hash=run.plan_hash,
            )
            self.add_offers(change, run, [r.site for r in self._store.run_sites(run.run_id)])
            change.run(run.run_id, RunState.OFFERED)
        self._audit(run, "run.offered", {"model": manifest.id})
        return True

    def _await_sites(self, run: RunRow) -> bool:
        strategy = self.plan(run).plan.strategy
        parts = parts_of(self._store, run)
        lost = lost_mandatory(strategy.mandatory_sites, parts)
        if lost:
            return self.fail(run, lost)
        joined = sum(part.able for part in parts)
        undecided = sum(part.undecided for part in parts)
        minimum = strategy.minimum_sites
        if joined >= minimum and run.quorum_at is None:
            with self._change(run) as change:
                change.set("runs", {"run_id": run.run_id}, {"quorum_at": change.now})
            return True
        waited = self._seconds_since(run.quorum_at)
        facts = JoinFacts(joined, undecided, minimum, waited >= self._parts.patience_s)
        verdict = join_verdict(facts)
        if verdict is Verdict.FAIL:
            words = f"{joined} sites joined, the plan needs {minimum}{reasons(parts)}"
            return self.fail(run, words)
        able = {part.site for part in parts if part.able}
        if verdict is not Verdict.GO_ON or not able.issuperset(strategy.mandatory_sites):
            return False
        return self._take_turn(run)

    def _take_turn(self, run: RunRow) -> bool:
        """Start a run that has its quorum, or go on with one, where it is its turn."""
        mandatory = self.plan(run).plan.strategy.mandatory_sites
        lost = lost_mandatory(mandatory, parts_of(self._store, run))
        if lost:
            return self.fail(run, lost)
        with self._change(run) as change:
            starts = may_start(run.run_id, waiting(self._store), self._parts.slots)
            if not starts and run.state is RunState.QUEUED:
                return False
            first = self._store.rounds(run.run_id)[0]
            fresh = first.state is RoundState.AGGREGATING
            change.run(run.run_id, RunState.RUNNING if starts else RunState.QUEUED, words="")
            if starts and fresh:
                rounds = self._rounds(run)
                rounds.evaluate(change, run, first, ("validation", "test"))
                rounds.ask_fingerprints(change, run)
        if not starts:
            self._audit(run, "run.queued")
            return True
        self._audit(
            run, "run.started" if fresh else "run.continued", {"sites": len(self._able(run))}
        )
        self.refresh_deadlines(self._store.run(run.run_id))
        return True

    def _advance_rounds(self, run: RunRow) -> bool:
        rounds = self._rounds(run)
        if rounds.done(run):
            return self._publish(run)
        return rounds.advance(run)

    # -- steering

    def invite(self, change: Change, run: RunRow, site: str) -> None:
        """Offer the plan in force to a site that takes no part yet, or left, or refused."""
        change.invite(run.run_id, site)
        if run.state is not RunState.SUBMITTED:
            self.add_offers(change, run, [site])

    def offer_again(self, change: Change, run: RunRow, site: str) -> None:
        """Offer an amended plan again to a site that takes part and refused it."""
        self.add_offers(change, run, [site])

    def ask_again(self, change: Change, run: RunRow) -> None:
        """Make the tasks anew that a pause recalled."""
        able = set(self._able(run))
        opened = {
            at.number
            for at in self._store.rounds(run.run_id)
            if at.state in (RoundState.TRAINING, RoundState.EVALUATING)
        }
        for kind in ("train", "evaluate", "fingerprint"):
            for number in sorted(opened | {0}):
                for task in newest_per_site(self._store.tasks(run.run_id, number, kind)):
                    recalled = task.state is TaskState.EXPIRED and task.words == RECALLED
                    if recalled and task.site in able and (number in opened or kind[0] == "f"):
                        change.add_task(
                            task_for(run, number, task.site, kind, task.body, task.attempt + 1)
                        )

    def resumed(self, run: RunRow) -> None:
        """A paused run goes on: its open round gets its full time again."""
        self.refresh_deadlines(self._store.run(run.run_id))

    # -- the finished model

    def _publish(self, run: RunRow) -> bool:
        before, last = self._store.rounds(run.run_id)[-2:]
        manifest = published_manifest(self._parts.objects, self.plan(run).plan, last, before)
        raw = manifest.to_json()
        body = publish_body(self._parts.objects.put_bytes(raw), len(raw), last)
        self._parts.records.model_made(run, manifest)
        with self._change(run) as change:
            if self._store.plans(run.run_id)[-1].offered_at is None:
                # An amendment came meanwhile: there are further rounds.
                return True
            training = self._store.tasks(run.run_id, kind="train")
            change.expire(training, "the run's last round is closed")
            for site in self._able(run):
                change.add_task(task_for(run, last.number, site, "publish", body))
            change.run(run.run_id, RunState.PUBLISHING, model_id=manifest.id)
        self._audit(run, "model.published", {"model": manifest.id})
        return True

    def _await_publication(self, run: RunRow) -> bool:
        tasks = self._store.tasks(run.run_id, kind="publish")
        if any(task.state not in TASK_ENDS for task in tasks):
            return False
        with self._change(run) as change:
            change.expire(self._open(run.run_id), "the run finished without it")
            change.run(run.run_id, RunState.FINISHED)
        self._audit(run, "run.finished")
        return True
