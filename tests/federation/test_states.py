"""State tables and the decisions on rounds: pure, whole, and without dead ends."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path

import pytest

from federation.coordinator.quorum import (
    JoinFacts,
    RoundFacts,
    Verdict,
    join_verdict,
    training_verdict,
)
from federation.coordinator.states import (
    ROUND_TABLE,
    RUN_ENDS,
    RUN_TABLE,
    TASK_ENDS,
    TASK_TABLE,
    RoundState,
    RunState,
    TaskState,
)
from federation.coordinator.store import Store
from federation.coordinator.tasks import splits_due
from federation.errors import RunRefused
from federation.node.states import STEP_TABLE, Step


@pytest.mark.parametrize(
    ("table", "states", "first"),
    [
        (RUN_TABLE, RunState, RunState.SUBMITTED),
        (ROUND_TABLE, RoundState, RoundState.TRAINING),
        (TASK_TABLE, TaskState, TaskState.OPEN),
        (STEP_TABLE, Step, Step.RECEIVED),
    ],
)
def test_every_state_is_reached_and_leads_to_an_end(
    table: Mapping[StrEnum, frozenset[StrEnum]], states: type[StrEnum], first: StrEnum
) -> None:
    assert set(table) == set(states)
    reached, front = {first}, {first}
    while front:
        front = {after for state in front for after in table[state]} - reached
        reached |= front
    assert reached == set(states)
    ends = {state for state, after in table.items() if not after}
    assert ends
    leads = set(ends)
    for _ in table:
        leads |= {state for state, after in table.items() if after & leads}
    assert leads == set(states)


HEADLESS = (
    "federation.coordinator.process",
    "federation.coordinator.control_client",
    "federation.node.agent",
    "federation.node.site_port",
    "federation.enrolment",
    "federation.audit_chain",
)


def test_headless_modules_load_no_torch() -> None:
    code = f"import sys, {', '.join(HEADLESS)}; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_tables_load_nothing_heavy() -> None:
    code = (
        # What the interpreter itself has loaded (coverage measures subprocesses) is not theirs.
        "import sys; before = set(sys.modules)\n"
        "import federation.coordinator.states, federation.node.states\n"
        "new = set(sys.modules) - before\n"
        "print([m for m in ('socket','grpc','torch','textual') if m in new])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_store_refuses_what_the_table_does_not_allow(tmp_path: Path) -> None:
    store = Store(tmp_path / "state.sqlite")
    with store.change() as change:
        change.execute(
            "INSERT INTO runs (run_id, number, name, state, plan_hash, signed_plan, created_at,"
            " changed_at) VALUES ('r1', 1, 'n', 'finished', 'h', x'00', '', '')"
        )
    with (
        pytest.raises(RunRefused, match=r"finished cannot become running.*it is over"),
        store.change() as change,
    ):
        change.run("r1", RunState.RUNNING)
    assert store.run("r1").state is RunState.FINISHED
    for prefix, words in (("", "no runs"), ("x", "0 runs")):
        with pytest.raises(RunRefused, match=words):
            store.run(prefix)
    store.close()


D, T, W, R, F = (
    TaskState.DONE,
    TaskState.TAKEN,
    TaskState.OPEN,
    TaskState.REFUSED,
    TaskState.FAILED,
)


@pytest.mark.parametrize(
    ("states", "minimum", "attempt", "late", "expected"),
    [
        ((D, D, T), 2, 1, False, Verdict.WAIT),
        ((D, D, T), 2, 1, True, Verdict.GO_ON),
        ((D, D, D), 2, 1, False, Verdict.GO_ON),
        ((D, R, F), 2, 1, False, Verdict.RETRY),
        ((D, R, F), 2, 3, False, Verdict.FAIL),
        ((D, W, F), 2, 1, True, Verdict.EXTEND),
        ((D, R), 1, 1, False, Verdict.GO_ON),
        ((), 1, 1, False, Verdict.RETRY),
        ((), 1, 3, True, Verdict.FAIL),
    ],
)
def test_training_verdicts(
    states: tuple[TaskState, ...], minimum: int, attempt: int, late: bool, expected: Verdict
) -> None:
    assert training_verdict(RoundFacts(states, minimum, attempt, late)) is expected


@pytest.mark.parametrize(
    ("joined", "undecided", "patience_over", "expected"),
    [
        (0, 3, False, Verdict.WAIT),
        (2, 1, False, Verdict.WAIT),
        (2, 1, True, Verdict.GO_ON),
        (2, 0, False, Verdict.GO_ON),
        (1, 0, True, Verdict.FAIL),
    ],
)
def test_join_verdicts(joined: int, undecided: int, patience_over: bool, expected: Verdict) -> None:
    assert join_verdict(JoinFacts(joined, undecided, 2, patience_over)) is expected


def test_test_cases_are_read_only_before_and_after() -> None:
    due = [splits_due(number, 3, 10) for number in range(11)]
    assert [n for n, splits in enumerate(due) if "test" in splits] == [0, 10]
    assert [n for n, splits in enumerate(due) if "validation" in splits] == [0, 3, 6, 9, 10]


def test_ends_are_what_nothing_follows() -> None:
    assert {RunState.FINISHED, RunState.STOPPED, RunState.FAILED} == RUN_ENDS
    assert {D, R, F, TaskState.EXPIRED} == TASK_ENDS
