"""Which run's turn it is: pure decisions on the queue."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from federation.coordinator.states import RunState


@dataclass(frozen=True, slots=True)
class Waiting:
    """A run as the queue sees it.

    Attributes:
        run_id: its id.
        state: its state.
        order: its place; lower comes first, the oldest run has the lowest unless moved.
    """

    run_id: str
    state: RunState
    order: int


def queue(runs: Sequence[Waiting]) -> list[Waiting]:
    """The queued runs, next first."""
    return sorted(
        (run for run in runs if run.state is RunState.QUEUED),
        key=lambda run: (run.order, run.run_id),
    )


def active(runs: Sequence[Waiting]) -> list[Waiting]:
    """The runs that keep the sites busy, in the queue's order."""
    return sorted(
        (run for run in runs if run.state is RunState.RUNNING),
        key=lambda run: (run.order, run.run_id),
    )


def may_start(run_id: str, runs: Sequence[Waiting], slots: int) -> bool:
    """Whether a run starts now: a slot is free and nobody stands before it.

    Args:
        run_id: a run that has its quorum; it may be in the queue already.
        runs: every run.
        slots: how many runs may be active at a time.

    >>> first = Waiting("a", RunState.RUNNING, 1)
    >>> may_start("b", (first, Waiting("b", RunState.QUEUED, 2)), 1)
    False
    >>> may_start("b", (first, Waiting("b", RunState.QUEUED, 2)), 2)
    True
    """
    me = next(run for run in runs if run.run_id == run_id)
    before = [run for run in queue(runs) if (run.order, run.run_id) < (me.order, me.run_id)]
    return len(active(runs)) + len(before) < slots


def position(run_id: str, runs: Sequence[Waiting]) -> int:
    """A queued run's place, from 1; 0 where it is not queued."""
    return next((n for n, run in enumerate(queue(runs), 1) if run.run_id == run_id), 0)


def queue_words(run_id: str, runs: Sequence[Waiting], slots: int) -> str:
    """Why a queued run waits; empty where it is not queued.

    >>> queue_words("b", (Waiting("a", RunState.RUNNING, 1), Waiting("b", RunState.QUEUED, 2)), 1)
    'number 1 in the queue: 1 run may be active at a time, active: a'
    """
    place = position(run_id, runs)
    if not place:
        return ""
    names = ", ".join(run.run_id for run in active(runs)) or "none"
    many = "1 run" if slots == 1 else f"{slots} runs"
    return f"number {place} in the queue: {many} may be active at a time, active: {names}"
