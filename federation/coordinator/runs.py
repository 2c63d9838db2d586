"""What the data scientist may do with runs and sites; each act is in the audit log."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from federation.audit_chain import AuditChain
from federation.coordinator.engine import ACTIVE, Engine
from federation.coordinator.records import RunRecords
from federation.coordinator.registry import ACTOR_OPERATOR, Registry
from federation.coordinator.schema import RunRow
from federation.coordinator.states import RUN_ENDS, TASK_ENDS, RunState
from federation.coordinator.store import Store
from federation.coordinator.views import run_detail, run_view, site_view
from federation.enrolment.token import EnrolmentToken
from federation.errors import RunRefused
from federation.plan import Plan, sign
from federation.signing import PlanSigner


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
            )
            change.add_run(run, invited)
        self._records.submitted(run)
        detail = {"plan": signed.hash, "sites": invited, "signer": signed.signer_fingerprint}
        self.audit.append(ACTOR_OPERATOR, "run.submitted", run.run_id, detail)
        return run.run_id

    def all(self) -> list[dict[str, Any]]:
        """Every run in one line."""
        return [run_view(self.store, run) for run in self.store.runs()]

    def show(self, run_id: str) -> dict[str, Any]:
        """Everything about a run."""
        return run_detail(self.store, self.store.run(run_id))

    def pause(self, run_id: str, reason: str = "") -> dict[str, Any]:
        """Hand no further tasks of a run out; reports of given ones are taken.

        Raises:
            RunRefused: its state forbids it.
        """
        run = self.store.run(run_id)
        with self.store.change() as change:
            fields = {"resume_state": run.state.value, "words": reason[:200] or "paused"}
            change.run(run.run_id, RunState.PAUSED, **fields)
        self.audit.append(ACTOR_OPERATOR, "run.paused", run.run_id, {"reason": reason[:200]})
        return run_view(self.store, self.store.run(run.run_id))

    def resume(self, run_id: str) -> dict[str, Any]:
        """Go on with a paused run.

        Raises:
            RunRefused: it is not paused.
        """
        run = self.store.run(run_id)
        if run.state is not RunState.PAUSED or run.resume_state is None:
            raise RunRefused(f"run {run.run_id} is {run.state}, not paused")
        with self.store.change() as change:
            change.run(run.run_id, RunState(run.resume_state), resume_state=None, words="")
        self._engine.resumed(run)
        self.audit.append(ACTOR_OPERATOR, "run.resumed", run.run_id)
        return run_view(self.store, self.store.run(run.run_id))

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
        return run_view(self.store, self.store.run(run.run_id))

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
                change.execute(
                    "UPDATE run_sites SET state = 'left', words = 'revoked'"
                    " WHERE run_id = ? AND site = ?",
                    (run.run_id, name),
                )
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
                run_view(self.store, run) for run in self.store.runs((*ACTIVE, RunState.PAUSED))
            ],
            "runs": len(self.store.runs()),
            "warnings": [notice.document() for notice in self.registry.notices()],
        }
