"""The state table: restated independently, and every transition that it does not allow."""

from __future__ import annotations

import itertools

import pytest

from appliance.pipeline.states import (
    ARROWS,
    WAY,
    Event,
    Point,
    Stage,
    State,
    TransitionRefused,
    after_event,
    after_stage,
    arrow_from,
    arrow_of,
    kill_points,
    reached,
)

WAY_OF_DESIGN = (
    "found requested received classified deidentified converted defaced registered checked ready"
)


def test_the_way_is_the_designs() -> None:
    assert [str(state) for state in WAY] == WAY_OF_DESIGN.split()


def test_every_state_of_the_way_has_one_arrow_onwards_and_the_end_none() -> None:
    for state in WAY[:-1]:
        assert sum(arrow.source is state for arrow in ARROWS) == 1
    assert arrow_from(State.READY) is None
    assert set(State) == {*WAY, State.QUARANTINED, State.FAILED, State.WITHDRAWN}


def test_every_arrow_has_every_kill_point() -> None:
    points = kill_points()
    assert len(points) == len(set(points)) == len(Stage) * len(Point)


@pytest.mark.parametrize(("state", "stage"), list(itertools.product(State, Stage)))
def test_a_stage_starts_from_its_own_state_only(state: State, stage: Stage) -> None:
    if arrow_of(stage).source is state:
        assert after_stage(state, stage) is arrow_of(stage).target
    else:
        with pytest.raises(TransitionRefused):
            after_stage(state, stage)


def allowed(state: State, event: Event, stage: Stage | None) -> State | None:
    """The table in other words."""
    if state is State.WITHDRAWN:
        return None
    stopped = state in (State.QUARANTINED, State.FAILED)
    match event:
        case Event.WITHDRAW:
            return State.WITHDRAWN
        case Event.REOPEN if stopped or state is State.READY:
            return State.FOUND
        case Event.RETRY if stopped and stage is not None:
            return arrow_of(stage).source
        case Event.RELEASE if state is State.QUARANTINED and stage is Stage.CHECK:
            return State.REGISTERED
        case Event.REFUSE | Event.FAIL if stage is not None:
            target = State.QUARANTINED if event is Event.REFUSE else State.FAILED
            return target if state in (arrow_of(stage).source, State.FAILED) else None
    return None


@pytest.mark.parametrize(
    ("state", "event", "stage"), list(itertools.product(State, Event, (*Stage, None)))
)
def test_events(state: State, event: Event, stage: Stage | None) -> None:
    expected = allowed(state, event, stage)
    if expected is None:
        with pytest.raises(TransitionRefused):
            after_event(state, event, stage)
    else:
        assert after_event(state, event, stage) is expected


def test_reached_counts_a_stopped_study_up_to_its_stage() -> None:
    assert reached(State.QUARANTINED, State.REGISTERED, stage=Stage.CHECK)
    assert not reached(State.QUARANTINED, State.CHECKED, stage=Stage.CHECK)
    assert not reached(State.WITHDRAWN, State.FOUND)
