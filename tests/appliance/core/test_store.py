"""The node's state: claims, transitions, recovery, ownership, decisions, counters."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from appliance.errors import NotAllowed, NotFound
from appliance.pipeline.states import ARROWS, Event, Stage, State
from appliance.result_states import Verb
from appliance.store import (
    DatasetState,
    Decision,
    Member,
    NewStudy,
    NodeState,
    Outcome,
    ResultObject,
    ResultRow,
    ResultState,
    StoreBusy,
    StoreInvalid,
)
from appliance.store.schema import TABLES
from tests.appliance.core.values import Clock


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def state(tmp_path: Path, clock: Clock) -> Iterator[NodeState]:
    node = NodeState(tmp_path / "state.sqlite", clock=clock)
    yield node
    node.close()


def study(number: int, patient: int = 0) -> NewStudy:
    return NewStudy(f"st{number:012x}", f"pt{patient}", f"p{patient}", f"s{number}", "main")


def bring(state: NodeState, key: str, target: State) -> None:
    """Move a study along until it is in `target`."""
    for arrow in ARROWS:
        if state.studies.get(key).state is target:
            return
        claim = state.studies.claim_study(key, arrow.stage)
        assert claim is not None
        assert state.studies.finish(claim, Outcome(inputs=("FLAIR",)), seconds=2.0)


def test_a_study_walks_the_whole_way(state: NodeState) -> None:
    assert state.studies.add(study(1))
    assert not state.studies.add(study(1))
    bring(state, study(1).study_key, State.READY)
    runs = state.studies.runs(study(1).study_key)
    assert [run.stage for run in runs] == [arrow.stage for arrow in ARROWS]
    assert {run.outcome for run in runs} == {"done"}
    assert [timing.seconds_total for timing in state.stage_timings()] == [2.0] * len(ARROWS)
    assert state.settled()


def test_a_claimed_study_is_not_claimed_again(state: NodeState) -> None:
    state.studies.add(study(1))
    assert state.studies.claim((Stage.REQUEST,)) is not None
    assert state.studies.claim((Stage.REQUEST,)) is None
    assert not state.settled()


def test_the_furthest_study_goes_first(state: NodeState) -> None:
    state.studies.add(study(1))
    state.studies.add(study(2))
    bring(state, study(2).study_key, State.CONVERTED)
    claim = state.studies.claim(tuple(Stage))
    assert claim is not None
    assert claim.stage is Stage.DEFACE


def test_a_failed_stage_waits_and_counts_its_attempts(state: NodeState, clock: Clock) -> None:
    state.studies.add(study(1))
    for attempt in (1, 2, 3):
        claim = state.studies.claim((Stage.REQUEST,))
        assert claim is not None
        assert claim.attempt == attempt
        later = clock.now + timedelta(seconds=10)
        state.studies.stop(claim, Event.FAIL, "no answer", not_before=later)
        assert state.studies.claim((Stage.REQUEST,)) is None
        assert state.studies.next_due() == later
        clock.now = later
    row = state.studies.get(study(1).study_key)
    assert (row.state, row.stage, row.attempt) == (State.FAILED, Stage.REQUEST, 3)
    claim = state.studies.claim((Stage.REQUEST,))
    assert claim is not None
    state.studies.finish(claim, Outcome(), seconds=0.1)
    assert state.studies.get(study(1).study_key).attempt == 0


def test_a_withdrawn_study_ignores_the_stage_that_was_running(state: NodeState) -> None:
    state.studies.add(study(1))
    claim = state.studies.claim((Stage.REQUEST,))
    assert claim is not None
    state.studies.apply(study(1).study_key, Event.WITHDRAW, reason="asked for")
    assert not state.studies.finish(claim, Outcome(), seconds=0.1)
    assert not state.studies.stop(claim, Event.REFUSE, "x")
    assert state.studies.get(study(1).study_key).state is State.WITHDRAWN
    with pytest.raises(NotAllowed):
        state.studies.apply(study(1).study_key, Event.RETRY)


def test_release_after_the_quality_check(state: NodeState) -> None:
    state.studies.add(study(1))
    key = study(1).study_key
    bring(state, key, State.REGISTERED)
    claim = state.studies.claim((Stage.CHECK,))
    assert claim is not None
    state.studies.stop(claim, Event.REFUSE, "motion")
    assert state.funnel().quarantine_reasons == {"motion": 1}
    row = state.studies.apply(key, Event.RELEASE)
    assert (row.state, row.qc_released) == (State.REGISTERED, True)


def test_recovery_gives_up_claims_of_a_dead_process(tmp_path: Path) -> None:
    first = NodeState(tmp_path / "state.sqlite")
    first.studies.add(study(1))
    assert first.studies.claim((Stage.REQUEST,)) is not None
    first.close()
    second = NodeState(tmp_path / "state.sqlite")
    assert [row.study_key for row in second.studies.recover()] == [study(1).study_key]
    assert second.studies.claim((Stage.REQUEST,)) is not None
    outcomes = [run.outcome for run in second.studies.runs(study(1).study_key)]
    assert outcomes == ["interrupted", "running"]
    second.close()


def test_one_owner(tmp_path: Path, state: NodeState) -> None:
    with pytest.raises(StoreBusy):
        NodeState(tmp_path / "state.sqlite")


def test_foreign_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "state.sqlite"
    path.write_bytes(b"no database at all, but long enough to be looked at" * 20)
    with pytest.raises(StoreInvalid, match="damaged"):
        NodeState(path)
    path.unlink()
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA user_version = 99")
    connection.close()
    with pytest.raises(StoreInvalid, match="99"):
        NodeState(path)


def test_instances_are_idempotent_and_conflicts_are_seen(state: NodeState) -> None:
    state.studies.add(study(1))
    key = study(1).study_key
    assert state.instances.record(key, "i1", "a" * 64)
    assert state.instances.record(key, "i1", "a" * 64)
    assert state.studies.get(key).received == 1
    assert not state.instances.record(key, "i1", "b" * 64)
    assert state.instances.conflicts(key) == 1
    state.instances.record(key, "i2", "c" * 64)
    assert state.instances.keys(key) == {"i1", "i2"}
    state.instances.forget(key, ["i1"])
    assert state.studies.get(key).received == 1
    state.instances.forget(key)
    assert state.instances.keys(key) == set()


def test_keys_resolve_by_their_beginning(state: NodeState) -> None:
    state.studies.add(study(0x100000000000))
    state.studies.add(study(0x200000000000))
    assert state.studies.resolve("st10") == "st100000000000"
    for wrong in ("st", "zzzz"):
        with pytest.raises(NotFound):
            state.studies.resolve(wrong)
    state.studies.add(study(0x100000000001))
    with pytest.raises(NotFound, match="several"):
        state.studies.resolve("st10")


def test_datasets_freeze_once(state: NodeState) -> None:
    state.studies.add(study(1))
    state.datasets.create("first")
    with pytest.raises(NotAllowed):
        state.datasets.create("first")
    with pytest.raises(NotAllowed):
        state.datasets.decide("first", DatasetState.APPROVED, actor="me")
    member = Member(study(1).study_key, "sub-p_ses-s", "train", True, ("FLAIR",), "c" * 64)
    row = state.datasets.freeze("first", [member], content_hash="h", splits={"pt0": "train"})
    assert (row.cases, row.training, row.test, row.unlabelled) == (1, 1, 0, 0)
    assert state.datasets.members("first") == [member]
    with pytest.raises(NotAllowed):
        state.datasets.freeze("first", [], content_hash="h", splits={})
    state.datasets.create("second")
    state.datasets.freeze("second", [], content_hash="h", splits={"pt0": "test"})
    assert state.datasets.splits() == {"pt0": "train"}, "a place is given once"


def test_plans_need_an_approved_dataset(state: NodeState) -> None:
    assert state.plans.offer("a" * 64, name="n", signer="s", document="{}")
    assert not state.plans.offer("a" * 64, name="n", signer="s", document="{}")
    with pytest.raises(NotAllowed):
        state.plans.decide("a" * 64, Decision.APPROVED, actor="me", dataset="none")
    assert state.plans.decide("a" * 64, Decision.REJECTED, actor="me", reason="no").reason == "no"
    with pytest.raises(NotFound):
        state.plans.get("b" * 64)


def result(key: str = "r1") -> ResultRow:
    return ResultRow(
        key=key,
        study_key=study(1).study_key,
        model_id="m",
        state=ResultState.HELD,
        reason="",
        destination="",
        volume_ml=1.5,
        lesions=2,
        attempt=0,
        not_before=None,
        created_at="2026-03-01T12:00:00.000000Z",
        updated_at="2026-03-01T12:00:00.000000Z",
        sent_at=None,
        decided_by="",
    )


def test_results_move_only_from_allowed_states(state: NodeState) -> None:
    state.studies.add(study(1))
    assert state.results.add(result())
    assert not state.results.add(result())
    with pytest.raises(NotAllowed):
        state.results.step("r1", Verb.FINISH)
    with pytest.raises(NotAllowed):
        state.results.step("r1", Verb.RELEASE, only=[ResultState.FAILED])
    changes = {"destination": "main"}
    row = state.results.step("r1", Verb.RELEASE, changes)
    assert (row.state, row.destination) == (ResultState.RELEASED, "main")
    assert [r.key for r in state.results.due(state.clock())] == ["r1"]
    assert [event.state for event in state.results.events("r1")] == ["held", "released"]


def test_a_result_keeps_its_objects_and_its_commitment(state: NodeState) -> None:
    state.studies.add(study(1))
    seg = ResultObject("r1", "seg", "seg.dcm", "k1", "0" * 64, 10)
    report = ResultObject("r1", "sr", "sr.dcm", "k2", "0" * 64, 5)
    assert state.results.add(result(), [report, seg])
    state.results.mark_objects("r1", ["sr.dcm"], "failed", "no room")
    forms = [(o.form, o.state, o.reason) for o in state.results.objects("r1")]
    assert forms == [("seg", "made", ""), ("sr", "failed", "no room")]
    assert state.results.object_keys(study(1).study_key) == {"k1", "k2"}
    assert state.results.commitment("t1") is None
    state.results.plan_commitment("r1", "t1", state.clock())
    state.results.mark_commitment("t1", "answered")
    state.results.mark_commitment("t1", "pending", unless="answered")
    (kept,) = state.results.commitments("r1")
    assert (kept.state, state.results.get("r1").rounds) == ("answered", 1)


def test_activity_and_trained_cases(state: NodeState) -> None:
    state.activity.record("round.trained", {"round": 1})
    state.activity.record("other", {})
    assert [entry.action for entry in state.activity.select()] == ["other", "round.trained"]
    assert state.activity.select(action="round.trained")[0].detail == {"round": 1}
    state.activity.trained("run", ["sub-a_ses-1", "sub-a_ses-1"])
    assert state.activity.trained_cases() == {"sub-a_ses-1"}


def test_withdrawn_patients_stay_withdrawn(state: NodeState) -> None:
    state.studies.add(study(1, patient=7))
    state.studies.add(study(2, patient=7))
    state.studies.add(study(3, patient=8))
    assert len(state.studies.withdraw_patient("pt7", reason="asked")) == 2
    state.studies.add(study(4, patient=7))
    assert state.studies.get(study(4).study_key).state is State.WITHDRAWN
    assert state.funnel().offered == 1


@settings(
    deadline=None, max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(steps=st.lists(st.sampled_from(["claim", "finish", "fail", "refuse", "retry", "recover"])))
def test_no_order_of_events_loses_or_doubles_a_study(tmp_path: Path, steps: list[str]) -> None:
    folder = tmp_path / str(abs(hash(tuple(steps))))
    folder.mkdir(exist_ok=True)
    node = NodeState(folder / "state.sqlite")
    try:
        node.studies.add(study(1))
        key, claim = study(1).study_key, None
        for step in steps:
            row = node.studies.get(key)
            if step == "claim":
                claim = node.studies.claim(tuple(Stage)) or claim
            elif step == "recover":
                node.studies.recover()
            elif step == "retry" and row.state in (State.QUARANTINED, State.FAILED):
                node.studies.apply(key, Event.RETRY)
            elif claim is not None and step in ("finish", "fail", "refuse"):
                held = node.studies.holds(claim)
                if step == "finish":
                    assert node.studies.finish(claim, Outcome(), seconds=0.0) == held
                else:
                    event = Event.FAIL if step == "fail" else Event.REFUSE
                    assert node.studies.stop(claim, event, "x") == held
            assert node.studies.count() == 1
            running = [r for r in node.studies.runs(key) if r.outcome == "running"]
            assert len(running) == (1 if node.studies.get(key).claim else 0)
    finally:
        node.close()


def test_a_file_of_the_first_version_is_brought_up(tmp_path: Path) -> None:
    path = tmp_path / "state.sqlite"
    with sqlite3.connect(path) as connection:
        connection.executescript(f"{TABLES} PRAGMA user_version = 1;")
        connection.execute(
            "INSERT INTO studies (study_key, patient_key, subject, session, pacs, state, found_at,"
            " updated_at) VALUES ('st000000000001','pt0','p0','s1','main','ready','t','t')"
        )
    connection.close()
    for _ in range(2):
        node = NodeState(path)
        row = node.studies.get(study(1).study_key)
        node.close()
        assert (row.version, row.case) == (1, "sub-p0_ses-s1")


def test_a_ready_study_is_reopened_as_a_new_version(state: NodeState) -> None:
    state.studies.add(study(1))
    key = study(1).study_key
    bring(state, key, State.READY)
    state.studies.note_late(key, 2)
    row = state.studies.apply(key, Event.REOPEN)
    assert (row.state, row.version, row.late) == (State.FOUND, 2, 0)
    assert (row.case, row.version_key) == ("sub-p0_ses-s1v2", f"{key}v2")
    assert [version.case for version in row.versions()] == ["sub-p0_ses-s1", "sub-p0_ses-s1v2"]
    claim = state.studies.claim_study(key, Stage.REQUEST)
    assert claim is not None
    state.studies.stop(claim, Event.REFUSE, "x")
    assert state.studies.apply(key, Event.REOPEN).version == 2, "version 2 was never ready"
