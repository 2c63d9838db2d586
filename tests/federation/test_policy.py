"""Round policy as pure decisions: mandatory sites, opening, buffer, queue, plans, deltas."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from federation.coordinator.migrations import MIGRATIONS
from federation.coordinator.quorum import (
    BufferFacts,
    Part,
    RoundFacts,
    Verdict,
    buffer_verdict,
    extension_words,
    lost_mandatory,
    opening_verdict,
    staleness_weight,
    training_verdict,
)
from federation.coordinator.schema import STORE_FORMAT
from federation.coordinator.states import PART_TABLE, PartState, RunState, TaskState
from federation.coordinator.store import Store
from federation.coordinator.turns import Waiting, may_start, position, queue, queue_words
from federation.errors import PlanRefused, RunRefused, StoreDamaged, UpdateRefused
from federation.plan import Plan, canonical_json, parse_plan, plan_hash
from federation.strategies.deltas import DeltaUpdate, fold_deltas
from federation.strategies.fedavg import WeightedUpdate, fedavg
from tests.federation.doubles import initial_tensors, small_plan, trained

D, T, R, X = TaskState.DONE, TaskState.TAKEN, TaskState.REFUSED, TaskState.EXPIRED
FIRST_FORMAT = Path(__file__).with_name("state-format-1.sql")


def plan_with(**strategy: Any) -> Plan:  # noqa: ANN401
    """The small plan with another strategy, checked as a document is."""
    document = small_plan(2).model_dump(mode="json")
    document["strategy"] |= strategy
    return parse_plan(document)


# -- the plan


def test_new_keys_at_their_defaults_leave_the_canonical_form_as_it_was() -> None:
    plan = small_plan(2)
    spelled_out = plan_with(
        mandatory_sites=[],
        late_updates="drop",
        mode="synchronous",
        buffer_size=2,
        staleness_power=0.5,
        maximum_staleness=20,
    )
    assert canonical_json(spelled_out) == canonical_json(plan)
    assert b"mandatory" not in canonical_json(plan)
    assert b"amends" not in canonical_json(plan)
    mandatory = plan_with(mandatory_sites=["site-a"])
    assert b'"mandatory_sites":["site-a"]' in canonical_json(mandatory)
    assert plan_hash(mandatory) != plan_hash(plan)
    assert parse_plan(canonical_json(mandatory)) == mandatory


@pytest.mark.parametrize(
    ("strategy", "words"),
    [
        ({"mandatory_sites": ["site-a", "site-a"]}, "stands there twice"),
        ({"mandatory_sites": ["Site A"]}, "mandatory_sites"),
        ({"mode": "asynchronous", "mandatory_sites": ["site-a"]}, "no model waits for one site"),
        ({"mode": "asynchronous", "late_updates": "keep"}, "every update is kept"),
        ({"buffer_size": 3}, "buffer_size is for mode asynchronous"),
        ({"maximum_staleness": 3}, "maximum_staleness is for mode asynchronous or late_updates"),
        ({"staleness_power": 11.0}, "staleness_power"),
    ],
)
def test_strategies_that_contradict_themselves_are_refused(
    strategy: dict[str, Any], words: str
) -> None:
    with pytest.raises(PlanRefused, match=words):
        plan_with(**strategy)


# -- decisions


@pytest.mark.parametrize(
    ("states", "mandatory", "late", "attempt", "expected"),
    [
        ((D, D, T), {"c": T}, False, 1, Verdict.WAIT),
        ((D, D, T), {"c": T}, True, 1, Verdict.EXTEND),
        ((D, D, T), {"a": D}, True, 1, Verdict.GO_ON),
        ((D, D, D), {"c": D}, False, 1, Verdict.GO_ON),
        ((D, D, R), {"c": R}, False, 1, Verdict.RETRY),
        ((D, D, R), {"c": R}, False, 3, Verdict.FAIL),
        ((D, D, R, T), {"c": R}, False, 1, Verdict.WAIT),
        ((D, D, R, T), {"c": R}, True, 1, Verdict.RETRY),
        ((D, D), {"c": X}, False, 1, Verdict.RETRY),
    ],
)
def test_no_round_closes_without_its_mandatory_sites(
    states: tuple[TaskState, ...],
    mandatory: dict[str, TaskState],
    late: bool,
    attempt: int,
    expected: Verdict,
) -> None:
    facts = RoundFacts(states, 2, attempt, late, mandatory)
    assert training_verdict(facts) is expected
    words = extension_words(facts)
    assert ("mandatory" in words) is any(state is not D for state in mandatory.values())


def test_asking_again_waits_for_custodians_who_have_not_answered() -> None:
    facts = RoundFacts((D, R), 2, 3, late=False, able=1, undecided=1)
    assert training_verdict(facts) is Verdict.WAIT
    able = RoundFacts((D, R), 2, 3, late=False, able=2, undecided=1)
    assert training_verdict(able) is Verdict.FAIL


JOINED, INVITED, LEFT = PartState.JOINED, PartState.INVITED, PartState.LEFT
OLD = Part("c", JOINED, approved=False)
REFUSED = Part("c", JOINED, approved=False, refused=True, words="too fast")
A, B = Part("a", JOINED), Part("b", JOINED)


@pytest.mark.parametrize(
    ("parts", "mandatory", "over", "expected"),
    [
        ((A, B, OLD), (), False, Verdict.WAIT),
        ((A, B, OLD), (), True, Verdict.GO_ON),
        ((A, B, OLD), ("c",), True, Verdict.WAIT),
        ((A, B, REFUSED), (), False, Verdict.GO_ON),
        ((A, B, REFUSED), ("c",), False, Verdict.FAIL),
        ((A, OLD), (), True, Verdict.WAIT),
        ((A, REFUSED), (), True, Verdict.FAIL),
        ((A, B, Part("c", INVITED)), (), False, Verdict.GO_ON),
        ((A, Part("b", LEFT, words="revoked")), (), False, Verdict.FAIL),
        ((A, Part("b", INVITED)), (), True, Verdict.WAIT),
    ],
)
def test_rounds_open_with_a_quorum_that_approved_the_plan_in_force(
    parts: tuple[Part, ...], mandatory: tuple[str, ...], over: bool, expected: Verdict
) -> None:
    assert opening_verdict(parts, 2, mandatory, patience_over=over) is expected


def test_a_lost_mandatory_site_is_named_with_its_words() -> None:
    assert lost_mandatory((), (REFUSED,)) == ""
    assert lost_mandatory(("a",), (A,)) == ""
    assert lost_mandatory(("c",), (REFUSED,)) == "the mandatory site c refused the plan: too fast"
    assert lost_mandatory(("d",), (A,)) == "the mandatory site d was not invited"


@pytest.mark.parametrize(
    ("facts", "expected"),
    [
        (BufferFacts(1, 2, 1, 1, 0, late=False), Verdict.WAIT),
        (BufferFacts(2, 2, 0, 0, 0, late=False), Verdict.GO_ON),
        (BufferFacts(1, 2, 1, 0, 0, late=True), Verdict.EXTEND),
        (BufferFacts(1, 2, 0, 1, 0, late=True), Verdict.WAIT),
        (BufferFacts(1, 2, 0, 0, 1, late=False), Verdict.WAIT),
        (BufferFacts(1, 2, 0, 0, 0, late=False), Verdict.FAIL),
    ],
)
def test_the_buffer_is_folded_waited_for_or_given_up(facts: BufferFacts, expected: Verdict) -> None:
    assert buffer_verdict(facts) is expected


def test_staleness_discounts_as_in_the_paper() -> None:
    assert staleness_weight(9, 5, 0, 0.5) == 5.0
    assert staleness_weight(9, 10, 3, 0.5) == 4.5
    assert staleness_weight(9, 10, 3, 0.0) == 9.0


def test_the_oldest_run_is_next_unless_one_was_moved() -> None:
    runs = (
        Waiting("r1", RunState.RUNNING, 1),
        Waiting("r2", RunState.QUEUED, 2),
        Waiting("r3", RunState.QUEUED, 0),
        Waiting("r4", RunState.OFFERED, 4),
    )
    assert [run.run_id for run in queue(runs)] == ["r3", "r2"]
    assert [position(run.run_id, runs) for run in runs] == [0, 2, 1, 0]
    assert not may_start("r3", runs, 1)
    assert may_start("r3", runs, 2)
    assert not may_start("r2", runs, 2)
    assert not may_start("r4", runs, 3), "who has waited longer comes first"
    assert may_start("r4", runs, 4)
    assert queue_words("r2", runs, 2).startswith("number 2 in the queue: 2 runs may be active")
    assert queue_words("r1", runs, 2) == ""


def test_who_left_or_refused_comes_back_by_invitation_only() -> None:
    for state in (PartState.LEFT, PartState.REJECTED):
        assert PartState.JOINED not in PART_TABLE[state]
        assert PartState.INVITED in PART_TABLE[state]


# -- deltas


def _files(folder: Path, sites: dict[str, int]) -> tuple[Path, dict[str, Path]]:
    base = initial_tensors()
    save_file(base, folder / "base")
    found = {}
    for number, site in enumerate(sites):
        found[site] = folder / site
        save_file(trained(site, number, base), found[site])
    return folder / "base", found


def test_deltas_from_the_present_model_are_the_weighted_mean(tmp_path: Path) -> None:
    sites = {"b": 2, "a": 5}
    base, files = _files(tmp_path, sites)
    deltas = [
        DeltaUpdate(site, number, float(cases), files[site], base)
        for number, (site, cases) in enumerate(sites.items())
    ]
    fold_deltas(base, deltas, tmp_path / "folded")
    fold_deltas(base, deltas[::-1], tmp_path / "again")
    assert (tmp_path / "folded").read_bytes() == (tmp_path / "again").read_bytes()
    plain = [WeightedUpdate(site, float(cases), files[site]) for site, cases in sites.items()]
    fedavg(plain, tmp_path / "mean")
    folded, mean = load_file(tmp_path / "folded"), load_file(tmp_path / "mean")
    for name, value in mean.items():
        np.testing.assert_allclose(folded[name], value, rtol=1e-6, atol=1e-6)


def test_a_late_update_counts_as_the_difference_to_where_it_started(tmp_path: Path) -> None:
    reference = {"w": np.array([1.0, 1.0], np.float32), "n": np.array(3, np.int64)}
    base = {"w": np.array([10.0, 20.0], np.float32), "n": np.array(7, np.int64)}
    late = {"w": np.array([2.0, 0.0], np.float32), "n": np.array(4, np.int64)}
    fresh = {"w": np.array([11.0, 21.0], np.float32), "n": np.array(8, np.int64)}
    for name, tensors in (("r", reference), ("b", base), ("l", late), ("f", fresh)):
        save_file(tensors, tmp_path / name)
    updates = [
        DeltaUpdate("a", 1, 1.0, tmp_path / "l", tmp_path / "r"),
        DeltaUpdate("b", 2, 3.0, tmp_path / "f", tmp_path / "b"),
    ]
    fold_deltas(tmp_path / "b", updates, tmp_path / "out")
    out = load_file(tmp_path / "out")
    np.testing.assert_array_equal(out["w"], np.array([11.0, 20.5], np.float32))
    assert out["n"] == 8
    with pytest.raises(UpdateRefused, match="twice"):
        fold_deltas(tmp_path / "b", [updates[0], updates[0]], tmp_path / "out")
    with pytest.raises(UpdateRefused, match="no update"):
        fold_deltas(tmp_path / "b", [], tmp_path / "out")


# -- the tables' earlier form


def test_a_state_of_the_first_format_opens_and_is_brought_to_the_present_one(
    tmp_path: Path,
) -> None:
    path = tmp_path / "state.sqlite"
    before = sqlite3.connect(path)
    before.executescript(FIRST_FORMAT.read_text())
    before.commit()
    before.close()
    for _ in range(2):
        store = Store(path)
        run = store.run("r0001")
        assert (run.state, run.queue_order) == (RunState.RUNNING, 1)
        assert [part.plan_hash for part in store.run_sites(run.run_id)] == ["h1", "h1", None]
        assert [plan.plan_hash for plan in store.plans(run.run_id)] == ["h1"]
        assert {at.plan_hash for at in store.rounds(run.run_id)} == {"h1"}
        updates = [
            (u.sequence, u.site, u.started_from, u.folded_in, u.weight)
            for u in store.updates(run.run_id)
        ]
        assert updates == [
            (1, "site-a", 0, 1, 5.0),
            (2, "site-b", 0, 1, 3.0),
            (3, "site-a", 1, None, None),
        ]
        assert store.awaited_updates() == {"u3"}
        assert store.update_objects(run.run_id) == {"u1", "u2", "u3"}
        store.close()
    found = sqlite3.connect(path).execute("SELECT value FROM meta WHERE key = 'format'")
    assert found.fetchone() == (str(STORE_FORMAT),)
    assert set(MIGRATIONS) == set(range(1, STORE_FORMAT))


def test_a_migration_that_fails_leaves_the_earlier_form(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "state.sqlite"
    before = sqlite3.connect(path)
    before.executescript(FIRST_FORMAT.read_text())
    before.close()
    broken = {1: (MIGRATIONS[1][0], "UPDATE nowhere SET x = 1")}
    monkeypatch.setattr("federation.coordinator.store.MIGRATIONS", broken)
    with pytest.raises(sqlite3.OperationalError, match="nowhere"):
        Store(path)
    monkeypatch.undo()
    Store(path).close()


def test_a_state_of_a_later_format_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "state.sqlite"
    Store(path).close()
    connection = sqlite3.connect(path)
    connection.execute("UPDATE meta SET value = '99' WHERE key = 'format'")
    connection.commit()
    connection.close()
    with pytest.raises(StoreDamaged, match="format 99"):
        Store(path)


def test_a_part_moves_along_its_table_only(tmp_path: Path) -> None:
    store = Store(tmp_path / "state.sqlite")
    with store.change() as change:
        change.execute(
            "INSERT INTO runs (run_id, number, name, state, plan_hash, signed_plan, created_at,"
            " changed_at) VALUES ('r1', 1, 'n', 'running', 'h', x'00', '', '')"
        )
        change.insert("sites", {"name": "a", "state": "enrolled", "added_at": ""})
        change.invite("r1", "a")
        change.part("r1", "a", PartState.LEFT, words="closed")
    with (
        pytest.raises(RunRefused, match="site's part that is left cannot become joined"),
        store.change() as change,
    ):
        change.part("r1", "a", PartState.JOINED)
    with store.change() as change:
        change.invite("r1", "a")
    assert store.run_sites("r1")[0].state is PartState.INVITED
    assert store.run_sites("r1")[0].words == ""
    store.close()
