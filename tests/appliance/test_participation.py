"""The word on runs; amendments inside and outside what was approved; ended approvals."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from appliance.errors import NotAllowed, NotFound
from appliance.governance import AMENDMENTS, Governance
from appliance.participation import Participation
from appliance.pipeline.states import Event
from appliance.settings import GovernanceSection
from appliance.store import LEFT, Decision, Member, NewStudy, NodeState
from federation.amendment import AmendmentLimits
from federation.audit_chain import AuditChain, read_entries
from federation.node.site_port import Stand
from federation.plan import SignedPlan, ms_lesion_demo_plan, parse_plan, sign

KEY = Ed25519PrivateKey.generate()
BASE = sign(ms_lesion_demo_plan(12), KEY)
RUN = "run-0123"


def amended(base: SignedPlan, rate: float, rounds: int) -> SignedPlan:
    """An amendment of a plan."""
    document = base.plan.model_dump(mode="json")
    document["optimiser"]["learning_rate"] = rate
    document["training"]["rounds"] = rounds
    return sign(parse_plan({**document, "amends": base.hash}), KEY)


@dataclass
class Site:
    """A node's decisions over a real state, at a time of the test's."""

    folder: Path
    limits: AmendmentLimits | None = None
    policy: dict[str, object] = field(default_factory=dict)
    now: datetime = datetime(2026, 11, 21, tzinfo=UTC)
    looks: int = 0

    def __post_init__(self) -> None:
        self.state = NodeState(self.folder / "state.sqlite", clock=lambda: self.now)
        self.audit = AuditChain(self.folder / "audit.jsonl")
        section = GovernanceSection.model_validate(self.policy)
        self.governance = Governance(self.state, self.audit, section, amendments=self.limits)
        self.participation = Participation(self.state, self.audit, self._look)

    def _look(self) -> None:
        self.looks += 1

    def with_data(self) -> Site:
        """Two studies in an approved data set, and the base plan approved for it."""
        members = []
        for number in (1, 2):
            key = f"st{number:012x}"
            self.state.studies.add(NewStudy(key, f"p{number}", f"a{number}", "s", "main"))
            case = f"sub-a{number}_ses-s"
            members.append(Member(key, case, "train", True, ("FLAIR",), "0" * 64))
        self.state.datasets.create("ms")
        splits = {"p1": "train", "p2": "train"}
        self.state.datasets.freeze("ms", members, content_hash="1" * 64, splits=splits)
        self.governance.approve_dataset("ms", actor="anna")
        self.governance.offer_plan(BASE)
        self.governance.approve_plan(BASE.hash, actor="anna")
        return self

    def close(self) -> None:
        self.audit.close()
        self.state.close()

    def actions(self) -> list[tuple[str, str]]:
        return [(entry.actor, entry.action) for entry in read_entries(self.audit.path)]


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    made = Site(tmp_path)
    yield made
    made.close()


def test_a_left_run_stays_left_after_a_restart(site: Site) -> None:
    assert site.participation.standing(RUN, BASE.hash).stand is Stand.TAKING_PART
    with pytest.raises(NotFound):
        site.participation.leave("run-9999", actor="anna")
    site.participation.leave(RUN, actor="anna", reason="ethics vote ended")
    assert site.looks == 1
    site.participation.leave(RUN, actor="ben", reason="again")
    site.close()
    site.__post_init__()
    standing = site.participation.standing(RUN, BASE.hash)
    assert (standing.stand, standing.words) == (
        Stand.LEFT,
        "the custodian left this run: ethics vote ended",
    )
    assert [p.run_id for p in site.participation.partings()] == [RUN]
    site.participation.parted(RUN, "it goes on without you")
    assert site.participation.partings() == []
    row = site.state.runs.get(site.state.runs.resolve("run-"))
    assert (row.state, row.decided_by, row.answer) == (LEFT, "anna", "it goes on without you")
    assert site.actions() == [("anna", "run.left"), ("node", "run.leaving-told")]


def test_a_halted_node_stays_halted_until_resumed(site: Site) -> None:
    with pytest.raises(NotAllowed, match="nothing is halted"):
        site.participation.resume(actor="anna")
    first = site.participation.halt(actor="anna", reason="audit visit")
    assert site.participation.halt(actor="ben") == first
    site.close()
    site.__post_init__()
    standing = site.participation.standing(RUN, BASE.hash)
    assert (standing.stand, standing.words) == (
        Stand.HALTED,
        "the custodian has halted this site: audit visit",
    )
    site.participation.resume(actor="anna")
    assert site.participation.standing(RUN, BASE.hash).stand is Stand.TAKING_PART
    assert [action for _, action in site.actions()] == ["runs.halted", "runs.resumed"]


def test_withdrawn_members_are_counted_and_never_fewer(site: Site) -> None:
    site.with_data()
    assert site.participation.standing(RUN, BASE.hash).withdrawn == 0
    site.state.studies.apply("st000000000001", Event.WITHDRAW, reason="asked")
    assert site.participation.standing(RUN, BASE.hash).withdrawn == 1
    site.state.studies.withdraw_patient("p2", reason="asked")
    assert site.participation.standing(RUN, BASE.hash).withdrawn == 2


def test_an_approval_ends_and_can_be_given_again(tmp_path: Path) -> None:
    site = Site(tmp_path, policy={"approval_days": 30}).with_data()
    later = amended(BASE, 3e-3, 12)
    site.governance.offer_plan(later)
    site.governance.approve_plan(later.hash, actor=AMENDMENTS)
    site.now += timedelta(days=29)
    rows = [site.state.plans.get(plan.hash) for plan in (BASE, later)]
    assert not any(site.governance.approval_ended(row) for row in rows)
    site.now += timedelta(days=2)
    assert all(site.governance.approval_ended(row) for row in rows)
    site.governance.approve_plan(BASE.hash, actor="anna")
    assert not site.governance.approval_ended(site.state.plans.get(BASE.hash))
    site.close()


LIMITS = AmendmentLimits(2.0, 20)


@pytest.mark.parametrize(
    ("limits", "rate", "rounds", "state"),
    [
        (None, 6e-3, 11, Decision.PENDING),
        (LIMITS, 12e-3, 20, Decision.APPROVED),
        (LIMITS, 13e-3, 12, Decision.PENDING),
        (LIMITS, 6e-3, 21, Decision.PENDING),
    ],
)
def test_what_lies_inside_is_taken_without_asking(
    tmp_path: Path, limits: AmendmentLimits | None, rate: float, rounds: int, state: Decision
) -> None:
    site = Site(tmp_path, limits).with_data()
    row = site.governance.offer_plan(amended(BASE, rate, rounds))
    assert row.state is state
    if state is Decision.APPROVED:
        assert (row.decided_by, row.dataset) == (AMENDMENTS, "ms")
        assert "rounds 12 -> 20 (+8)" in row.reason
    site.close()


def test_small_steps_do_not_add_up(tmp_path: Path) -> None:
    site = Site(tmp_path, LIMITS).with_data()
    first = amended(BASE, 10e-3, 12)
    assert site.governance.offer_plan(first).state is Decision.APPROVED
    second = amended(first, 18e-3, 12)
    assert site.governance.offer_plan(second).state is Decision.PENDING
    site.governance.approve_plan(second.hash, actor="anna")
    assert site.governance.offer_plan(amended(second, 30e-3, 12)).state is Decision.APPROVED
    site.close()


def test_an_amendment_keeps_the_data_set_and_needs_it_approved(tmp_path: Path) -> None:
    site = Site(tmp_path, LIMITS).with_data()
    site.state.datasets.create("newer")
    site.state.datasets.freeze("newer", [], content_hash="2" * 64, splits={})
    site.governance.approve_dataset("newer", actor="anna")
    asked = amended(BASE, 30e-3, 12)
    site.governance.offer_plan(asked)
    assert site.governance.approve_plan(asked.hash, actor="anna").dataset == "ms"
    site.governance.revoke_dataset("ms", actor="anna")
    assert site.governance.offer_plan(amended(BASE, 7e-3, 12)).state is Decision.PENDING
    site.close()
