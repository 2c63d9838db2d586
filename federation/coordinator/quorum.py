"""When a round goes on: pure decisions on what the sites have done so far."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

from federation.coordinator.states import TASK_ENDS, PartState, TaskState

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
        mandatory: state of the newest task of each mandatory site; EXPIRED where it has none.
        able: sites that may be asked now.
        undecided: sites that may become able: their custodian has not answered.
    """

    states: Sequence[TaskState]
    minimum: int
    attempt: int
    late: bool
    mandatory: Mapping[str, TaskState] = field(default_factory=dict)
    able: int | None = None
    undecided: int = 0


def training_verdict(facts: RoundFacts) -> Verdict:
    """Whether to wait for more updates, to average, to ask again or to give up.

    >>> training_verdict(RoundFacts((TaskState.DONE, TaskState.TAKEN), 1, 1, late=True)).value
    'go on'
    >>> training_verdict(RoundFacts((TaskState.DONE, TaskState.TAKEN), 2, 1, late=True)).value
    'extend'
    """
    done = sum(state is TaskState.DONE for state in facts.states)
    expected = sum(state not in TASK_ENDS for state in facts.states)
    unmet = [state for state in facts.mandatory.values() if state is not TaskState.DONE]
    if expected and not facts.late:
        return Verdict.WAIT
    if done >= max(1, facts.minimum) and not unmet:
        return Verdict.GO_ON
    hopeless = bool(unmet) and all(state in TASK_ENDS for state in unmet)
    if expected and not hopeless:
        return Verdict.EXTEND
    if facts.able is not None and facts.able < facts.minimum <= facts.able + facts.undecided:
        # Asking again cannot help before further custodians have answered.
        return Verdict.EXTEND if facts.late else Verdict.WAIT
    return Verdict.RETRY if facts.attempt < MAX_ATTEMPTS else Verdict.FAIL


def extension_words(facts: RoundFacts) -> str:
    """Why a round waits on after its deadline.

    >>> extension_words(RoundFacts((), 2, 1, True, {"site-a": TaskState.TAKEN}))
    'the deadline passed: waiting on for the mandatory site site-a'
    """
    unmet = sorted(n for n, state in facts.mandatory.items() if state is not TaskState.DONE)
    if unmet:
        sites = "site" if len(unmet) == 1 else "sites"
        return f"the deadline passed: waiting on for the mandatory {sites} {', '.join(unmet)}"
    return "the deadline passed without quorum: waiting on for sites that have not answered"


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


@dataclass(frozen=True, slots=True)
class Part:
    """A site's part in a run, as far as rounds depend on it.

    Attributes:
        site: its name.
        state: its part.
        approved: whether it has approved the plan that is in force.
        refused: whether its custodian refused the plan that is in force.
        words: why it does not take part.
    """

    site: str
    state: PartState
    approved: bool = True
    refused: bool = False
    words: str = ""

    @property
    def able(self) -> bool:
        """Whether it may be given work."""
        return self.state is PartState.JOINED and self.approved

    @property
    def undecided(self) -> bool:
        """Whether it may become able by its custodian's word."""
        if self.state is PartState.JOINED:
            return not self.approved and not self.refused
        return self.state is PartState.INVITED


def lost_mandatory(mandatory: Sequence[str], parts: Sequence[Part]) -> str:
    """Words on the first mandatory site that does not come (any more); empty for none.

    >>> lost_mandatory(("site-a",), (Part("site-a", PartState.LEFT, words="revoked"),))
    'the mandatory site site-a left: revoked'
    """
    found = {part.site: part for part in parts}
    for name in mandatory:
        part = found.get(name)
        if part is None:
            return f"the mandatory site {name} was not invited"
        if not part.able and not part.undecided:
            done = "left" if part.state is PartState.LEFT else "refused the plan"
            return f"the mandatory site {name} {done}" + (f": {part.words}" if part.words else "")
    return ""


def opening_verdict(
    parts: Sequence[Part], minimum: int, mandatory: Sequence[str], *, patience_over: bool
) -> Verdict:
    """Whether the next round opens.

    Sites that approved an earlier plan and have not answered the amended one hold the round for
    the coordinator's patience; sites that were invited and take no part yet do not.

    Args:
        parts: every site's part.
        minimum: the plan's quorum.
        mandatory: sites without which no round opens.
        patience_over: whether the amendment has been out for long enough.
    """
    able = [part.site for part in parts if part.able]
    undecided = sum(part.undecided for part in parts)
    if len(able) + undecided < minimum or lost_mandatory(mandatory, parts):
        return Verdict.FAIL
    if len(able) < minimum or any(name not in able for name in mandatory):
        return Verdict.WAIT
    waiting = any(part.undecided and part.state is PartState.JOINED for part in parts)
    return Verdict.WAIT if waiting and not patience_over else Verdict.GO_ON


@dataclass(frozen=True, slots=True)
class BufferFacts:
    """What decides about a model in the making in asynchronous training.

    Attributes:
        buffered: updates that wait to be folded.
        size: the plan's ``buffer_size``.
        working: sites that have a training task.
        able: sites that may be given one.
        undecided: sites that may become able.
        late: whether the deadline has passed.
    """

    buffered: int
    size: int
    working: int
    able: int
    undecided: int
    late: bool


def buffer_verdict(facts: BufferFacts) -> Verdict:
    """Whether the buffer is folded, waited for, or can never fill.

    >>> buffer_verdict(BufferFacts(2, 2, 1, 0, 0, late=False)).value
    'go on'
    >>> buffer_verdict(BufferFacts(1, 2, 0, 0, 0, late=False)).value
    'fail'
    """
    if facts.buffered >= facts.size:
        return Verdict.GO_ON
    if not facts.working and not facts.able and not facts.undecided:
        return Verdict.FAIL
    return Verdict.EXTEND if facts.late and not facts.able else Verdict.WAIT


def staleness_weight(cases: int, cap: int, staleness: int, power: float) -> float:
    """The weight of an update: capped training cases times ``(1 + staleness) ** -power``.

    The discount is FedBuff's (Nguyen et al., AISTATS 2022, arXiv 2106.06639, section 3.2).

    Args:
        cases: distinct training cases that were used.
        cap: the plan's ``weight_cap``.
        staleness: models made since the one that the update started from.
        power: the plan's ``staleness_power``.

    >>> staleness_weight(8, 10, 3, 0.5)
    4.0
    """
    weight = float(min(cases, cap))
    return weight if staleness == 0 else weight * (1.0 + staleness) ** -power
