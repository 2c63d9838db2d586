"""What the data scientist may do with runs and sites; each act is in the audit log."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from federation.amendment import change_words, check_amendment
from federation.audit_chain import AuditChain, entries_from
from federation.canonical import JSON
from federation.coordinator.engine import ACTIVE, Engine
from federation.coordinator.objects import has_room
from federation.coordinator.records import RunRecords
from federation.coordinator.registry import ACTOR_OPERATOR, Registry
from federation.coordinator.schema import RunRow
from federation.coordinator.states import RUN_ENDS, TASK_ENDS, PartState, RunState
from federation.coordinator.steps import RECALLED, parts_of
from federation.coordinator.store import Store
from federation.coordinator.turns import may_start
from federation.coordinator.views import event_view, run_detail, run_view, site_view, waiting
from federation.enrolment.token import EnrolmentToken
from federation.errors import RunRefused
from federation.plan import Plan, SignedPlan, parse_plan, sign
from federation.signing import PlanSigner

RECALLABLE: Final = ("train", "evaluate", "fingerprint")
"""Kinds of tasks that a pause may recall: what a person at a site decides on stays with them."""
LONGEST_WATCH_S: Final = 20.0
MOST_EVENTS: Final = 500
DISK_FULL: Final = "the coordinator's disk is full: make room; the run goes on by itself"


class Runs:
    """Submit, look at and steer runs; add and revoke sites.

    Args:
        store: the state.
        registry: the sites.
        engine: told when a run resumes.
        records: the runs' folders.
        key: signs plans.
        audit: the log.
    """

    def __init__(
        self,
        store: Store,
        registry: Registry,
        engine: Engine,
        records: RunRecords,
        key: PlanSigner,
        audit: AuditChain,
    ) -> None:
        self.store = store
        self.registry = registry
        self.audit = audit
        self._engine = engine
        self._records = records
        self._key = key

    def submit(self, plan: Plan, sites: Sequence[str] = ()) -> str:
        """Sign a plan and offer it to ``sites`` (all enrolled ones where empty); gives the run id.

        Raises:
            RunRefused: another project's plan, unknown sites, or fewer than the plan's quorum.
        """
        project = self.registry.project.name
        if plan.project != project:
            raise RunRefused(
                f"the plan is for project {plan.project}, this coordinator serves {project}"
            )
        enrolled = [site.name for site in self.store.sites() if site.state == "enrolled"]
        invited = sorted(set(sites)) or enrolled
        unknown = [name for name in invited if name not in enrolled]
        if unknown:
            raise RunRefused(f"not enrolled: {', '.join(unknown)}")
        if len(invited) < plan.strategy.minimum_sites:
            raise RunRefused(
                f"{len(invited)} sites, the plan asks for at least {plan.strategy.minimum_sites}"
            )
        absent = [name for name in plan.strategy.mandatory_sites if name not in invited]
        if absent:
            raise RunRefused(
                f"mandatory but not invited: {', '.join(absent)}; invite them or change the plan"
            )
        if plan.amends is not None:
            raise RunRefused("the plan amends another one: use `clinode run amend` for that")
        signed = sign(plan, self._key)
        with self.store.change() as change:
            number = change.next_run_number()
            run = RunRow(
                run_id=f"r{number:04d}-{signed.hash[:8]}",
                number=number,
                name=plan.name,
                state=RunState.SUBMITTED,
                plan_hash=signed.hash,
                signed_plan=signed.to_json(),
                words="",
                resume_state=None,
                quorum_at=None,
                model_id=None,
                created_at=change.now,
                changed_at=change.now,
                ended_at=None,
                queue_order=number,
            )
            change.add_run(run, invited)
        self._records.submitted(run)
        detail = {"plan": signed.hash, "sites": invited, "signer": signed.signer_fingerprint}
        self.audit.append(ACTOR_OPERATOR, "run.submitted", run.run_id, detail)
        return run.run_id

    def all(self) -> list[dict[str, Any]]:
        """Every run in one line."""
        return [self._line(run.run_id) for run in self.store.runs()]

    def show(self, run_id: str) -> dict[str, Any]:
        """Everything about a run."""
        view = run_detail(self.store, self.store.run(run_id), self._engine.slots)
        if view["state"] not in RUN_ENDS and not has_room(self._records.folder(view["run_id"])):
            # Nothing can be written down now, so it is looked at when somebody asks.
            view["attention"] = DISK_FULL
        return view

    def _line(self, run_id: str) -> dict[str, Any]:
        return run_view(self.store, self.store.run(run_id), self._engine.slots)

    def pause(self, run_id: str, reason: str = "", *, recall: bool = False) -> dict[str, Any]:
        """Hand no further tasks of a run out.

        Args:
            run_id: the run.
            reason: goes into the audit log.
            recall: end the tasks that are out, so that the sites stop working at them; they are
                asked for again when the run goes on. Otherwise their reports are taken.

        Raises:
            RunRefused: its state forbids it.
        """
        run = self.store.run(run_id)
        with self.store.change() as change:
            fields = {"resume_state": run.state.value, "words": reason[:200] or "paused"}
            change.run(run.run_id, RunState.PAUSED, **fields)
            if recall:
                tasks = [t for t in self.store.tasks(run.run_id) if t.kind in RECALLABLE]
                change.expire(tasks, RECALLED)
        detail: dict[str, JSON] = {"reason": reason[:200], "recalled": recall}
        self.audit.append(ACTOR_OPERATOR, "run.paused", run.run_id, detail)
        return self._line(run.run_id)

    def resume(self, run_id: str) -> dict[str, Any]:
        """Go on with a paused run.

        Raises:
            RunRefused: it is not paused.
        """
        run = self.store.run(run_id)
        if run.state is not RunState.PAUSED or run.resume_state is None:
            raise RunRefused(f"run {run.run_id} is {run.state}, not paused")
        with self.store.change() as change:
            state = RunState(run.resume_state)
            if state is RunState.RUNNING and not may_start(
                run.run_id, waiting(self.store), self._engine.slots
            ):
                state = RunState.QUEUED
            change.run(run.run_id, state, resume_state=None, words="")
            self._engine.ask_again(change, run)
        self._engine.resumed(run)
        self.audit.append(ACTOR_OPERATOR, "run.resumed", run.run_id)
        return self._line(run.run_id)

    def stop(self, run_id: str, reason: str = "") -> dict[str, Any]:
        """End a run for good; models of closed rounds stay.

        A run that is publishing has its model: it becomes finished, without the sites that have
        not inferred yet.

        Raises:
            RunRefused: it is over already.
        """
        run = self.store.run(run_id)
        end = RunState.FINISHED if run.state is RunState.PUBLISHING else RunState.STOPPED
        with self.store.change() as change:
            change.run(run.run_id, end, words=reason[:200] or "stopped")
            tasks = [t for t in self.store.tasks(run.run_id) if t.state not in TASK_ENDS]
            change.expire(tasks, "the run was stopped")
        self.audit.append(ACTOR_OPERATOR, "run.stopped", run.run_id, {"reason": reason[:200]})
        return self._line(run.run_id)

    def invite(self, run_id: str, site: str) -> dict[str, Any]:
        """Invite a site to a run under way: it joins at the next round once it has approved.

        Raises:
            RunRefused: the run is over, the site is not enrolled, takes part or is asked already.
        """
        run = self.store.run(run_id)
        row = self.store.site(site)
        if row is None or row.state != "enrolled":
            raise RunRefused(f"not enrolled: {site}")
        if run.state in RUN_ENDS or run.state is RunState.PUBLISHING:
            raise RunRefused(f"run {run.run_id} is {run.state}: nobody can join it any more")
        with self.store.change() as change:
            part = next((p for p in parts_of(self.store, run) if p.site == site), None)
            if part is not None and part.undecided:
                raise RunRefused(f"{site} is invited already; its custodian has not decided yet")
            if part is not None and part.able:
                raise RunRefused(f"{site} takes part in run {run.run_id} already")
            if part is not None and part.state is PartState.JOINED:
                self._engine.add_offers(change, run, [site])
            else:
                self._engine.invite(change, run, site)
        self.audit.append(ACTOR_OPERATOR, "run.invited", run.run_id, {"site": site})
        return self._line(run.run_id)

    def amend(
        self, run_id: str, *, learning_rate: float | None = None, rounds: int | None = None
    ) -> dict[str, Any]:
        """Change the learning rate or the number of rounds of a run under way.

        The amended plan is signed now, offered to the sites before the next round, and in force
        from that round on: sites that have not approved it get no work.

        Raises:
            RunRefused: the run's state forbids it, or nothing would be trained under it.
            PlanRefused: a value is out of its range.
        """
        run = self.store.run(run_id)
        before = SignedPlan.from_json(run.signed_plan)
        document = before.plan.model_dump(mode="json") | {"amends": before.hash}
        if learning_rate is not None:
            document["optimiser"]["learning_rate"] = learning_rate
        if rounds is not None:
            document["training"]["rounds"] = rounds
        signed = sign(parse_plan(document), self._key)
        found = check_amendment(before, signed)
        if not found:
            raise RunRefused("nothing changes: give a learning rate or a number of rounds")
        words = change_words(found)
        with self.store.change() as change:
            run = self.store.run(run.run_id)
            paused = run.state is RunState.PAUSED and run.resume_state in ("running", "queued")
            begun = max((at.number for at in self.store.rounds(run.run_id)), default=0)
            if run.state is not RunState.RUNNING and not paused:
                raise RunRefused(
                    f"run {run.run_id} is {run.state}: only a run that trains can be amended"
                )
            plans = self.store.plans(run.run_id)
            if plans[-1].offered_at is None:
                raise RunRefused(f"an amendment waits already for round {begun} to end")
            if signed.plan.training.rounds <= begun:
                raise RunRefused(
                    f"round {begun} has begun, and nothing would be trained after it: "
                    f"give at least {begun + 1} rounds"
                )
            fields = {"plan_hash": signed.hash, "signed_plan": signed.to_json(), "changes": words}
            change.add_plan(run.run_id, len(plans), **fields)
        detail: dict[str, JSON] = {"plan": signed.hash, "amends": before.hash, "changes": words}
        self.audit.append(ACTOR_OPERATOR, "run.amended", run.run_id, detail)
        return self._line(run.run_id)

    def first(self, run_id: str) -> dict[str, Any]:
        """Put a run before all others in the queue.

        Raises:
            RunRefused: it is over or runs already.
        """
        run = self.store.run(run_id)
        if run.state not in (RunState.SUBMITTED, RunState.OFFERED, RunState.QUEUED):
            raise RunRefused(f"run {run.run_id} is {run.state}: it does not wait for its turn")
        with self.store.change() as change:
            order = min(other.queue_order for other in self.store.runs()) - 1
            change.set("runs", {"run_id": run.run_id}, {"queue_order": order})
        self.audit.append(ACTOR_OPERATOR, "run.moved_first", run.run_id)
        return self._line(run.run_id)

    def watch(self, run_id: str, offset: int, wait_s: float) -> dict[str, Any]:
        """What happened to a run since ``offset``; waits for something new.

        Args:
            run_id: the run.
            offset: where the audit log was read to; 0 begins with the run.
            wait_s: seconds to wait at most.

        Returns:
            ``events`` (at, actor, action, subject, words), ``offset`` and the run's line.
        """
        run = self.store.run(run_id)
        until = time.monotonic() + min(max(wait_s, 0.0), LONGEST_WATCH_S)
        while True:
            seen = self.store.signal.version
            line = self._line(run.run_id)
            events, offset = self._events(run.run_id, offset)
            left = until - time.monotonic()
            if events or left <= 0 or RunState(line["state"]) in RUN_ENDS:
                return {"format": 1, "events": events, "offset": offset, "run": line}
            self.store.signal.wait(seen, min(left, 1.0))

    def _events(self, run_id: str, offset: int) -> tuple[list[dict[str, Any]], int]:
        events: list[dict[str, Any]] = []
        for entry, after in entries_from(self.audit.path, offset):
            offset = after
            if entry.object == run_id or entry.object.startswith(f"{run_id}."):
                events.append(event_view(entry))
            if len(events) >= MOST_EVENTS:
                break
        return events, offset

    def export(self, run_id: str, folder: Path) -> dict[str, Any]:
        """Copy the finished model to a folder."""
        run = self.store.run(run_id)
        exported = self._records.export(run, folder)
        self.audit.append(
            ACTOR_OPERATOR, "model.exported", run.run_id, {"model": exported["model_id"]}
        )
        return dict(exported)

    def sites(self) -> list[dict[str, Any]]:
        """Every site."""
        return [site_view(site) for site in self.store.sites()]

    def add_site(self, name: str, valid_hours: float = 0.0) -> EnrolmentToken:
        """Invite a site."""
        return self.registry.add(name, valid_hours)

    def revoke_site(self, name: str, reason: str = "") -> dict[str, Any]:
        """Bar a site now: its open tasks end, rounds go on without it."""
        self.registry.revoke(name, reason)
        with self.store.change() as change:
            for run in self.store.runs():
                if run.state in RUN_ENDS:
                    continue
                tasks = [t for t in self.store.tasks(run.run_id) if t.site == name]
                change.expire(tasks, "the site was revoked")
                for part in self.store.run_sites(run.run_id):
                    if part.site == name and part.state is not PartState.LEFT:
                        change.part(run.run_id, name, PartState.LEFT, words="revoked")
        row = self.store.site(name)
        return site_view(row) if row else {}

    def status(self) -> dict[str, Any]:
        """The coordinator at a glance."""
        sites = self.store.sites()
        return {
            "format": 1,
            "project": self.registry.project.name,
            "enrolment_address": self.registry.project.enrolment_address,
            "federation_address": self.registry.project.federation_address,
            "time": self.store.now(),
            "sites": {
                state: sum(site.state == state for site in sites)
                for state in ("invited", "enrolled", "revoked")
            },
            "active_runs": [
                self._line(run.run_id) for run in self.store.runs((*ACTIVE, RunState.PAUSED))
            ],
            "runs": len(self.store.runs()),
            "warnings": [notice.document() for notice in self.registry.notices()],
        }
