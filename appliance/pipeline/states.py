"""The states of a study and what moves it on: a pure table, no I/O.

```
found --request--> requested --receive--> received --classify--> classified --deidentify-->
deidentified --convert--> converted --deface--> defaced --register--> registered --check-->
checked --publish--> ready

any stage --refuse--> quarantined          (needs a person: retry, release or withdraw)
any stage --fail----> failed               (repeated with back-off; after the last attempt refuse)
any state --withdraw-> withdrawn           (final)
ready, quarantined, failed --reopen--> found   (fetched once more, e.g. late slices)
```

`request` and `receive` talk to the PACS and are done by the intake; the others are functions on
files that the runner's worker processes execute.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class State(StrEnum):
    """Where a study is."""

    FOUND = "found"
    REQUESTED = "requested"
    RECEIVED = "received"
    CLASSIFIED = "classified"
    DEIDENTIFIED = "deidentified"
    CONVERTED = "converted"
    DEFACED = "defaced"
    REGISTERED = "registered"
    CHECKED = "checked"
    READY = "ready"
    QUARANTINED = "quarantined"
    FAILED = "failed"
    WITHDRAWN = "withdrawn"


class Stage(StrEnum):
    """What moves a study one state on."""

    REQUEST = "request"
    RECEIVE = "receive"
    CLASSIFY = "classify"
    DEIDENTIFY = "deidentify"
    CONVERT = "convert"
    DEFACE = "deface"
    REGISTER = "register"
    CHECK = "check"
    PUBLISH = "publish"


class Event(StrEnum):
    """What may happen to a study besides finishing a stage."""

    REFUSE = "refuse"
    FAIL = "fail"
    RETRY = "retry"
    RELEASE = "release"
    REOPEN = "reopen"
    WITHDRAW = "withdraw"


class Point(StrEnum):
    """The instants of one stage at which a process may die (see `StageEvent`)."""

    CLAIMED = "claimed"
    WRITTEN = "written"
    RENAMED = "renamed"
    COMMITTED = "committed"


@dataclass(frozen=True, slots=True)
class Arrow:
    """One stage: from which state to which, and whether a worker process does it."""

    stage: Stage
    source: State
    target: State
    worker: bool


ARROWS: tuple[Arrow, ...] = (
    Arrow(Stage.REQUEST, State.FOUND, State.REQUESTED, worker=False),
    Arrow(Stage.RECEIVE, State.REQUESTED, State.RECEIVED, worker=False),
    Arrow(Stage.CLASSIFY, State.RECEIVED, State.CLASSIFIED, worker=True),
    Arrow(Stage.DEIDENTIFY, State.CLASSIFIED, State.DEIDENTIFIED, worker=True),
    Arrow(Stage.CONVERT, State.DEIDENTIFIED, State.CONVERTED, worker=True),
    Arrow(Stage.DEFACE, State.CONVERTED, State.DEFACED, worker=True),
    Arrow(Stage.REGISTER, State.DEFACED, State.REGISTERED, worker=True),
    Arrow(Stage.CHECK, State.REGISTERED, State.CHECKED, worker=True),
    Arrow(Stage.PUBLISH, State.CHECKED, State.READY, worker=True),
)

WAY: tuple[State, ...] = (ARROWS[0].source, *(arrow.target for arrow in ARROWS))
"""The states in order, from `found` to `ready`."""

FINAL = frozenset({State.WITHDRAWN})
STOPPED = frozenset({State.QUARANTINED, State.FAILED})

_BY_SOURCE = {arrow.source: arrow for arrow in ARROWS}
_BY_STAGE = {arrow.stage: arrow for arrow in ARROWS}


class TransitionRefused(ValueError):
    """The table has no such transition."""


def arrow_from(state: State) -> Arrow | None:
    """The stage that comes next for a study in this state, or None where none does."""
    return _BY_SOURCE.get(state)


def arrow_of(stage: Stage) -> Arrow:
    """The table's line of a stage."""
    return _BY_STAGE[stage]


def reached(state: State, milestone: State, *, stage: Stage | None = None) -> bool:
    """Whether a study in `state` has passed `milestone`.

    Args:
        state: the study's state.
        milestone: a state of `WAY`.
        stage: for a quarantined, failed or withdrawn study the stage it stopped at.

    Examples:
        >>> reached(State.CONVERTED, State.RECEIVED)
        True
        >>> reached(State.FAILED, State.CONVERTED, stage=Stage.CONVERT)
        False
    """
    if state not in WAY:
        if stage is None:
            return False
        state = arrow_of(stage).source
    return WAY.index(state) >= WAY.index(milestone)


def after_stage(state: State, stage: Stage) -> State:
    """The state after a stage has finished.

    Raises:
        TransitionRefused: the stage does not start from this state.
    """
    arrow = arrow_of(stage)
    if arrow.source is not state:
        raise TransitionRefused(f"stage {stage} starts from {arrow.source}, not from {state}")
    return arrow.target


def after_event(state: State, event: Event, stage: Stage | None) -> State:
    """The state after an event.

    Args:
        state: the study's state; for `refuse` and `fail` the source of the stage.
        event: what happened.
        stage: the stage that was refused or failed, now or before.

    Raises:
        TransitionRefused: the event cannot happen in this state.
    """
    if state in FINAL:
        raise TransitionRefused(f"a {state} study stays so")
    if event is Event.WITHDRAW:
        return State.WITHDRAWN
    if event is Event.REOPEN and state in {State.READY, *STOPPED}:
        return State.FOUND
    if event in (Event.REFUSE, Event.FAIL) and _may_stop(state, stage):
        return State.QUARANTINED if event is Event.REFUSE else State.FAILED
    if event is Event.RETRY and state in STOPPED and stage is not None:
        return arrow_of(stage).source
    if event is Event.RELEASE and state is State.QUARANTINED and stage is Stage.CHECK:
        return arrow_of(stage).source
    raise TransitionRefused(f"{event} is not possible for a study that is {state}")


def _may_stop(state: State, stage: Stage | None) -> bool:
    if stage is None:
        return False
    return state is arrow_of(stage).source or state is State.FAILED


@dataclass(frozen=True, slots=True)
class StageEvent:
    """Told to the runner's observer, so that tests can stop the process at this instant.

    Attributes:
        study_key: the study.
        stage: the stage being done.
        point: claimed (transaction done), written (the temporary folder is complete), renamed
            (it has its final name), committed (the study has moved on).
    """

    study_key: str
    stage: Stage
    point: Point


def kill_points() -> tuple[tuple[Stage, Point], ...]:
    """Every instant of every stage, for tests that kill the process there."""
    return tuple((arrow.stage, point) for arrow in ARROWS for point in Point)
