"""When a round goes on: pure decisions on what the sites have done so far."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from federation.coordinator.states import TASK_ENDS, TaskState

MAX_ATTEMPTS: Final = 3
"""How often a round's training is asked for again where too few updates were usable."""


class Verdict(StrEnum):
    """What a round does next."""

    WAIT = "wait"
    GO_ON = "go on"
    EXTEND = "extend"
    """The deadline passed without quorum while sites are still expected: wait on."""
    RETRY = "retry"
    """Nobody is expected any more and the quorum is missing: ask again."""
    FAIL = "fail"


@dataclass(frozen=True, slots=True)
class RoundFacts:
    """What decides about a round in training.

    Attributes:
        states: state of each site's newest task of this round.
        minimum: the plan's quorum.
        attempt: how often training was asked for, from 1.
        late: whether the deadline has passed.
    """

    states: Sequence[TaskState]
    minimum: int
    attempt: int
    late: bool


def training_verdict(facts: RoundFacts) -> Verdict:
    """Whether to wait for more updates, to average, to ask again or to give up.

    >>> training_verdict(RoundFacts((TaskState.DONE, TaskState.TAKEN), 1, 1, late=True)).value
    'go on'
    >>> training_verdict(RoundFacts((TaskState.DONE, TaskState.TAKEN), 2, 1, late=True)).value
    'extend'
    """
    done = sum(state is TaskState.DONE for state in facts.states)
    expected = sum(state not in TASK_ENDS for state in facts.states)
    if expected and not facts.late:
        return Verdict.WAIT
    if done >= max(1, facts.minimum):
        return Verdict.GO_ON
    if expected:
        return Verdict.EXTEND
    return Verdict.RETRY if facts.attempt < MAX_ATTEMPTS else Verdict.FAIL


@dataclass(frozen=True, slots=True)
class JoinFacts:
    """What decides whether an offered run starts.

    Attributes:
        joined: sites that approved.
        undecided: sites that have not answered.
        minimum: the plan's quorum.
        patience_over: whether the quorum has stood long enough to start without the undecided.
    """

    joined: int
    undecided: int
    minimum: int
    patience_over: bool


def join_verdict(facts: JoinFacts) -> Verdict:
    """Whether an offered run waits, starts or fails.

    >>> join_verdict(JoinFacts(joined=2, undecided=0, minimum=2, patience_over=False)).value
    'go on'
    """
    if facts.joined + facts.undecided < facts.minimum:
        return Verdict.FAIL
    if facts.joined < facts.minimum:
        return Verdict.WAIT
    return Verdict.GO_ON if facts.patience_over or not facts.undecided else Verdict.WAIT
