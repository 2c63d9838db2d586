"""Decisions on plans, models and data sets, with their audit entries."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from appliance.errors import NotAllowed
from appliance.governance import POLICY, Governance
from appliance.settings import GovernanceSection
from appliance.store import DatasetState, Decision, Member, NewStudy, NodeState
from federation.audit_chain import AuditChain, read_entries, verify
from federation.manifest import manifest_for
from federation.plan import SignedPlan, ms_lesion_demo_plan, sign


@pytest.fixture
def state(tmp_path: Path) -> Iterator[NodeState]:
    state = NodeState(tmp_path / "state.sqlite")
    yield state
    state.close()


@pytest.fixture
def audit(tmp_path: Path) -> Iterator[AuditChain]:
    chain = AuditChain(tmp_path / "audit.jsonl")
    yield chain
    chain.close()


@pytest.fixture
def signed() -> SignedPlan:
    return sign(ms_lesion_demo_plan(2), Ed25519PrivateKey.generate())


def frozen_dataset(state: NodeState, name: str = "ms") -> None:
    state.studies.add(NewStudy("st0123456789ab", "p1", "abc", "def", "main"))
    state.datasets.create(name)
    member = Member("st0123456789ab", "sub-abc_ses-def", "train", True, ("FLAIR",), "0" * 64)
    state.datasets.freeze(name, [member], content_hash="1" * 64, splits={"p1": "train"})


def governed(state: NodeState, audit: AuditChain, **policy: object) -> Governance:
    return Governance(state, audit, GovernanceSection.model_validate(policy))


def test_without_policy_a_plan_waits_for_a_person(
    state: NodeState, audit: AuditChain, signed: SignedPlan
) -> None:
    governance = governed(state, audit)
    frozen_dataset(state)
    governance.approve_dataset("ms", actor="anna")
    assert governance.offer_plan(signed).state is Decision.PENDING
    approved = governance.approve_plan(signed.hash, actor="anna")
    assert (approved.state, approved.dataset) == (Decision.APPROVED, "ms")
    actions = [(e.actor, e.action) for e in read_entries(audit.path)]
    assert ("anna", "plan.approved") in actions
    assert verify(audit.path).ok


def test_plan_needs_an_approved_dataset(
    state: NodeState, audit: AuditChain, signed: SignedPlan
) -> None:
    governance = governed(state, audit)
    governance.offer_plan(signed)
    with pytest.raises(NotAllowed, match="approved data set"):
        governance.approve_plan(signed.hash, actor="anna")
    assert state.plans.get(signed.hash).state is Decision.PENDING


@pytest.mark.parametrize("dataset_first", [True, False])
def test_policy_approves_whatever_comes_first(
    state: NodeState, audit: AuditChain, signed: SignedPlan, dataset_first: bool
) -> None:
    governance = governed(state, audit, auto_approve_plans=["any"])
    frozen_dataset(state)
    steps = [
        lambda: governance.approve_dataset("ms", actor="anna"),
        lambda: governance.offer_plan(signed),
    ]
    for step in steps if dataset_first else reversed(steps):
        step()
    row = state.plans.get(signed.hash)
    assert (row.state, row.decided_by) == (Decision.APPROVED, POLICY)


def test_policy_with_signers_refuses_a_stranger(
    state: NodeState, audit: AuditChain, signed: SignedPlan
) -> None:
    other = sign(ms_lesion_demo_plan(3), Ed25519PrivateKey.generate())
    governance = governed(state, audit, auto_approve_plans=[signed.signer_fingerprint])
    frozen_dataset(state)
    governance.approve_dataset("ms", actor="anna")
    assert governance.offer_plan(signed).state is Decision.APPROVED
    assert governance.offer_plan(other).state is Decision.PENDING


def test_rejection_needs_a_reason(state: NodeState, audit: AuditChain, signed: SignedPlan) -> None:
    governance = governed(state, audit)
    governance.offer_plan(signed)
    with pytest.raises(NotAllowed, match="--reason"):
        governance.reject_plan(signed.hash, actor="anna", reason=" ")
    row = governance.reject_plan(signed.hash, actor="anna", reason="too many rounds")
    assert (row.state, row.reason) == (Decision.REJECTED, "too many rounds")


def test_offering_again_changes_nothing(
    state: NodeState, audit: AuditChain, signed: SignedPlan
) -> None:
    governance = governed(state, audit)
    governance.offer_plan(signed)
    governance.reject_plan(signed.hash, actor="anna", reason="no")
    assert governance.offer_plan(signed).state is Decision.REJECTED
    offered = [e for e in read_entries(audit.path) if e.action == "plan.offered"]
    assert len(offered) == 1


def test_models_of_plans_not_approved_here_stay_offered(
    state: NodeState, audit: AuditChain, signed: SignedPlan
) -> None:
    governance = governed(state, audit, auto_accept_models=True, auto_approve_plans=["any"])
    manifest = manifest_for(signed.plan, 2, ("ab" * 32, 10), ())
    assert governance.offer_model(manifest, "models/x").state is Decision.PENDING
    frozen_dataset(state)
    governance.offer_plan(signed)
    governance.approve_dataset("ms", actor="anna")
    assert state.models.get(manifest.id).state is Decision.APPROVED


def test_revoked_dataset_is_not_used_again(
    state: NodeState, audit: AuditChain, signed: SignedPlan
) -> None:
    governance = governed(state, audit)
    frozen_dataset(state)
    governance.approve_dataset("ms", actor="anna")
    assert governance.revoke_dataset("ms", actor="anna").state is DatasetState.REVOKED
    assert governance.approved_dataset() is None
