"""State tables of runs, rounds and tasks: what may follow what, and nothing else.

The round engine moves only along these arrows, the store refuses any other, the kill tests and the
documentation are generated from them. This module imports no socket, grpc, torch or textual.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Final


class RunState(StrEnum):
    """A run's life."""

    SUBMITTED = "submitted"
    """Kept; the initial weights are not made yet."""
    OFFERED = "offered"
    """Initial weights exist; the sites' custodians decide."""
    QUEUED = "queued"
    """It has its quorum and waits for its turn: other runs keep the sites busy."""
    RUNNING = "running"
    """Rounds are going on."""
    PUBLISHING = "publishing"
    """The final model exists; the sites infer with it."""
    FINISHED = "finished"
    PAUSED = "paused"
    STOPPED = "stopped"
    FAILED = "failed"


class RoundState(StrEnum):
    """A round's life. Round 0 trains nothing: it evaluates the initial model."""

    TRAINING = "training"
    """Training tasks are out, updates come in."""
    AGGREGATING = "aggregating"
    """The set of updates is fixed and being folded into the new global model."""
    EVALUATING = "evaluating"
    """The new global model is being evaluated at the sites."""
    CLOSED = "closed"


class PartState(StrEnum):
    """A site's part in a run."""

    INVITED = "invited"
    """The plan is on its way to the custodian, or waits for a decision there."""
    JOINED = "joined"
    REJECTED = "rejected"
    LEFT = "left"
    """The site left, or was revoked; a fresh invitation brings it back."""


class TaskState(StrEnum):
    """A task's life at one site."""

    OPEN = "open"
    TAKEN = "taken"
    """The site has it; asked again it gets it again."""
    DONE = "done"
    REFUSED = "refused"
    """The site refused, or the coordinator refused the site's update."""
    FAILED = "failed"
    EXPIRED = "expired"
    """The round went on without it."""


RUN_TABLE: Final[Mapping[RunState, frozenset[RunState]]] = {
    RunState.SUBMITTED: frozenset({RunState.OFFERED, RunState.STOPPED, RunState.FAILED}),
    RunState.OFFERED: frozenset(
        {
            RunState.QUEUED,
            RunState.RUNNING,
            RunState.PAUSED,
            RunState.STOPPED,
            RunState.FAILED,
        }
    ),
    RunState.QUEUED: frozenset(
        {RunState.RUNNING, RunState.PAUSED, RunState.STOPPED, RunState.FAILED}
    ),
    RunState.RUNNING: frozenset(
        {RunState.PUBLISHING, RunState.PAUSED, RunState.STOPPED, RunState.FAILED}
    ),
    RunState.PUBLISHING: frozenset({RunState.FINISHED}),
    RunState.PAUSED: frozenset(
        {RunState.OFFERED, RunState.QUEUED, RunState.RUNNING, RunState.STOPPED}
    ),
    RunState.FINISHED: frozenset(),
    RunState.STOPPED: frozenset(),
    RunState.FAILED: frozenset(),
}
"""What may follow each run state."""

ROUND_TABLE: Final[Mapping[RoundState, frozenset[RoundState]]] = {
    RoundState.TRAINING: frozenset({RoundState.AGGREGATING}),
    RoundState.AGGREGATING: frozenset({RoundState.EVALUATING, RoundState.CLOSED}),
    RoundState.EVALUATING: frozenset({RoundState.CLOSED}),
    RoundState.CLOSED: frozenset(),
}
"""What may follow each round state."""

TASK_TABLE: Final[Mapping[TaskState, frozenset[TaskState]]] = {
    TaskState.OPEN: frozenset({TaskState.TAKEN, TaskState.EXPIRED}),
    TaskState.TAKEN: frozenset(
        {TaskState.DONE, TaskState.REFUSED, TaskState.FAILED, TaskState.EXPIRED}
    ),
    TaskState.DONE: frozenset(),
    TaskState.REFUSED: frozenset(),
    TaskState.FAILED: frozenset(),
    TaskState.EXPIRED: frozenset(),
}
"""What may follow each task state."""

PART_TABLE: Final[Mapping[PartState, frozenset[PartState]]] = {
    PartState.INVITED: frozenset({PartState.JOINED, PartState.REJECTED, PartState.LEFT}),
    PartState.JOINED: frozenset({PartState.JOINED, PartState.LEFT}),
    PartState.REJECTED: frozenset({PartState.INVITED, PartState.LEFT}),
    PartState.LEFT: frozenset({PartState.INVITED}),
}
"""What may follow each state of a site's part in a run; it ends with the run."""

RUN_ENDS: Final = frozenset(state for state, after in RUN_TABLE.items() if not after)
"""Run states that nothing follows."""
TASK_ENDS: Final = frozenset(state for state, after in TASK_TABLE.items() if not after)
"""Task states that nothing follows."""


def kill_points() -> tuple[str, ...]:
    """Every point at which the coordinator's observer is called, from the tables alone.

    ``<kind>:<state>:entering`` comes before the transaction that enters the state,
    ``<kind>:<state>:entered`` after it.

    >>> "round:aggregating:entered" in kill_points()
    True
    """
    kinds: tuple[tuple[str, type[StrEnum]], ...] = (
        ("run", RunState),
        ("round", RoundState),
        ("task", TaskState),
    )
    return tuple(
        f"{kind}:{state}:{moment}"
        for kind, states in kinds
        for state in states
        for moment in ("entering", "entered")
    )
