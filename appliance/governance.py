"""Who may do what with data, plans and models: decisions, each with its audit entry.

Nothing happens without a person unless ``[governance]`` in the settings says so, and then the
audit log names the policy as the actor.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta

import structlog

from appliance.errors import NotAllowed
from appliance.settings import GovernanceSection
from appliance.store import (
    DatasetRow,
    DatasetState,
    Decision,
    ModelRow,
    NodeState,
    PlanRow,
)
from federation.amendment import AmendmentLimits, change_words, changes, inside
from federation.audit_chain import AuditChain
from federation.clock import parse_stamp
from federation.errors import FederationError
from federation.manifest import ModelManifest
from federation.plan import Plan, SignedPlan

POLICY = "policy"
"""Actor of what the settings decide without a person."""

AMENDMENTS = "amendments"
"""Actor of amended plans that lie inside ``[federation] amendments``."""
ANY_SIGNER = "any"
LONGEST_CHAIN = 1000
"""Amendments of one plan that are followed back."""

log = structlog.get_logger(__name__)


def plan_of(row: PlanRow) -> Plan:
    """The plan of a stored row."""
    return SignedPlan.from_json(row.document.encode()).plan


class Governance:
    """Plans, models and data sets: offered, decided, and written down.

    Args:
        state: the node's state.
        audit: the node's audit log.
        policy: what may happen without a person.
        on_change: called after each decision, so that a waiting part looks again.
        amendments: what of a run under way may change without a person; None asks always.
    """

    def __init__(
        self,
        state: NodeState,
        audit: AuditChain,
        policy: GovernanceSection,
        on_change: Callable[[], None] = lambda: None,
        amendments: AmendmentLimits | None = None,
    ) -> None:
        self._amendments = amendments
        self._state = state
        self._audit = audit
        self._policy = policy
        self._on_change = on_change

    def offer_plan(self, signed: SignedPlan) -> PlanRow:
        """Keep an offered plan (its signature is verified by construction) and apply the policy.

        A known plan changes nothing but gets the policy's look again.
        """
        new = self._state.plans.offer(
            signed.hash,
            name=signed.plan.name,
            signer=signed.signer_fingerprint,
            document=signed.to_json().decode("utf-8"),
        )
        if new:
            self._audit.append(
                "coordinator", "plan.offered", signed.hash, {"signer": signed.signer_fingerprint}
            )
            log.info("plan offered", plan=signed.hash[:12], name=signed.plan.name)
        self.apply_policy()
        return self._state.plans.get(signed.hash)

    def approve_plan(self, plan_hash: str, *, actor: str, reason: str = "") -> PlanRow:
        """Approve a plan for the newest approved data set.

        Raises:
            NotFound: no such plan.
            NotAllowed: no data set is approved, or the plan was decided before.
        """
        present = self._state.plans.get(plan_hash)
        if present.state is Decision.APPROVED and not self.approval_ended(present):
            return present
        dataset = self._dataset_for(present)
        if dataset is None:
            raise NotAllowed(
                "a plan needs an approved data set: `clinode dataset create`, `freeze` and "
                "`approve` one first"
            )
        row = self._state.plans.decide(
            plan_hash, Decision.APPROVED, actor=actor, reason=reason, dataset=dataset.name
        )
        detail = {"dataset": dataset.name, "reason": reason}
        amended = self.amended(row)
        if amended is not None:
            detail["amends"] = amended.hash
        self._note(actor, "plan.approved", plan_hash, detail)
        return row

    def amended(self, row: PlanRow) -> PlanRow | None:
        """The plan that a plan takes the place of in a run under way, or None."""
        try:
            before = plan_of(row).amends
        except FederationError:
            return None  # the stored document was changed: it amends nothing
        return None if before is None else self._state.plans.find(before)

    def approved_by_word(self, row: PlanRow) -> PlanRow:
        """The plan of an amendment's line whose approval was no mere amendment."""
        for _ in range(LONGEST_CHAIN):
            before = self.amended(row)
            if row.decided_by != AMENDMENTS or before is None:
                return row
            row = before
        return row

    def approval_ended(self, row: PlanRow) -> bool:
        """Whether an approval has stood for longer than the settings let it stand."""
        days = self._policy.approval_days
        decided = self.approved_by_word(row).decided_at
        if days is None or row.state is not Decision.APPROVED or not decided:
            return False
        return self._state.clock() - parse_stamp(decided) > timedelta(days=days)

    def _dataset_for(self, row: PlanRow) -> DatasetRow | None:
        """The newest approved data set; of an amendment that of the plan that it amends."""
        before = self.amended(row)
        if before is None or before.dataset is None:
            return self.approved_dataset()
        found = self._state.datasets.get(before.dataset)
        return found if found.state is DatasetState.APPROVED else None

    def _take_amendment(self, row: PlanRow) -> None:
        """Approve an amended plan that lies inside what the site takes without asking."""
        before = self.amended(row)
        if before is None or before.state is not Decision.APPROVED or self.approval_ended(before):
            return
        reference = plan_of(self.approved_by_word(before))
        if not inside(reference, plan_of(row), self._amendments):
            return
        if self._dataset_for(row) is not None:
            words = change_words(changes(plan_of(before), plan_of(row)))
            self.approve_plan(row.hash, actor=AMENDMENTS, reason=words)

    def reject_plan(self, plan_hash: str, *, actor: str, reason: str) -> PlanRow:
        """Reject a plan; the reason travels to the coordinator.

        Raises:
            NotFound: no such plan.
            NotAllowed: no reason is given.
        """
        if not reason.strip():
            raise NotAllowed("say why with --reason: the data scientist reads it")
        row = self._state.plans.decide(plan_hash, Decision.REJECTED, actor=actor, reason=reason)
        self._note(actor, "plan.rejected", plan_hash, {"reason": reason})
        return row

    def offer_model(self, manifest: ModelManifest, weights: str) -> ModelRow:
        """Keep a finished model and apply the policy.

        Args:
            manifest: its identity.
            weights: path of the weights relative to the research folder.
        """
        new = self._state.models.offer(
            manifest.id,
            plan_hash=manifest.plan_hash,
            round_number=manifest.round,
            manifest=manifest.to_json().decode("utf-8"),
            weights=weights,
        )
        if new:
            self._audit.append(
                "coordinator", "model.offered", manifest.id, {"plan": manifest.plan_hash}
            )
        self.apply_policy()
        return self._state.models.get(manifest.id)

    def accept_model(self, model_id: str, *, actor: str, reason: str = "") -> ModelRow:
        """Let a model segment this hospital's own studies.

        Raises:
            NotFound: no such model.
        """
        row = self._state.models.decide(model_id, Decision.APPROVED, actor=actor, reason=reason)
        self._note(actor, "model.accepted", model_id, {"reason": reason})
        return row

    def reject_model(self, model_id: str, *, actor: str, reason: str) -> ModelRow:
        """Keep a model away from this hospital's studies.

        Raises:
            NotFound: no such model.
            NotAllowed: no reason is given.
        """
        if not reason.strip():
            raise NotAllowed("say why with --reason")
        row = self._state.models.decide(model_id, Decision.REJECTED, actor=actor, reason=reason)
        self._note(actor, "model.rejected", model_id, {"reason": reason})
        return row

    def approve_dataset(self, name: str, *, actor: str, reason: str = "") -> DatasetRow:
        """Let approved plans use a frozen data set.

        Raises:
            NotFound: no such data set.
            NotAllowed: it is not frozen, or was revoked.
        """
        row = self._state.datasets.decide(name, DatasetState.APPROVED, actor=actor)
        self._note(actor, "dataset.approved", name, {"hash": row.hash, "reason": reason})
        self.apply_policy()
        return row

    def revoke_dataset(self, name: str, *, actor: str, reason: str = "") -> DatasetRow:
        """Forbid every later use of a data set.

        Raises:
            NotFound: no such data set.
        """
        row = self._state.datasets.decide(name, DatasetState.REVOKED, actor=actor)
        self._note(actor, "dataset.revoked", name, {"reason": reason})
        return row

    def approved_dataset(self) -> DatasetRow | None:
        """The data set approved last, or None."""
        approved = [d for d in self._state.datasets.select() if d.state is DatasetState.APPROVED]
        return max(approved, key=lambda d: d.decided_at or "", default=None)

    def apply_policy(self) -> None:
        """Decide what the settings let the node decide alone: pending plans and models."""
        for plan in self._state.plans.select():
            if plan.state is Decision.PENDING and self._trusted(plan.signer):
                if self._dataset_for(plan) is None:
                    continue
                self.approve_plan(plan.hash, actor=POLICY, reason=self.approval_words())
            elif plan.state is Decision.PENDING:
                self._take_amendment(plan)
        if self._policy.auto_accept_models:
            for model in self._state.models.select():
                plan_row = self._state.plans.find(model.plan_hash)
                approved = plan_row is not None and plan_row.state is Decision.APPROVED
                if model.state is Decision.PENDING and approved:
                    self.accept_model(
                        model.id, actor=POLICY, reason="governance.auto_accept_models is on"
                    )

    def approval_words(self) -> str:
        """The plan policy in words, for the audit log and the operator."""
        signers = self._policy.auto_approve_plans
        if not signers:
            return "every plan waits for a person"
        if ANY_SIGNER in signers:
            return "governance.auto_approve_plans accepts every signer"
        return f"governance.auto_approve_plans lists {len(signers)} signer(s)"

    def _trusted(self, signer: str) -> bool:
        allowed = self._policy.auto_approve_plans
        return ANY_SIGNER in allowed or signer in allowed

    def _note(self, actor: str, action: str, subject: str, detail: dict[str, str]) -> None:
        self._audit.append(actor, action, subject, dict(detail))
        log.info(action, subject=subject[:12], actor_kind="policy" if actor == POLICY else "person")
        self._on_change()
