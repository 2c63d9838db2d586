"""The table of a result's states: what may follow what."""

from __future__ import annotations

import pytest

from appliance.pipeline.states import TransitionRefused
from appliance.result_states import (
    IN_PACS,
    OPEN,
    TABLE,
    UNSENT,
    Instant,
    ResultState,
    Verb,
    after,
    allowed,
    kill_points,
)

S = ResultState
WAY = (
    (Verb.VALIDATE, S.VALIDATED),
    (Verb.HOLD, S.HELD),
    (Verb.RELEASE, S.RELEASED),
    (Verb.START, S.SENDING),
    (Verb.FINISH, S.SENT),
    (Verb.CONFIRM, S.STORED),
    (Verb.COMMIT, S.COMMITTED),
)


def test_the_way_from_made_to_committed() -> None:
    state = S.MADE
    for verb, target in WAY:
        state = after(state, verb)
        assert state is target


def test_nothing_is_sent_that_nobody_released() -> None:
    assert allowed(Verb.START) == {S.RELEASED, S.FAILED}
    for state in (S.MADE, S.VALIDATED, S.HELD, S.REFUSED, S.NO_FINDING, S.WITHDRAWN):
        with pytest.raises(TransitionRefused, match=state.value):
            after(state, Verb.START)


def test_nothing_is_released_that_was_not_validated() -> None:
    assert allowed(Verb.RELEASE).isdisjoint({S.MADE, S.REFUSED})
    assert after(S.REFUSED, Verb.RECHECK) is S.MADE


def test_only_what_the_pacs_listed_or_took_is_committed() -> None:
    assert allowed(Verb.COMMIT) == {S.SENT, S.STORED}


def test_a_withdrawn_result_stays_withdrawn() -> None:
    for verb in Verb:
        if verb is not Verb.WITHDRAW:
            assert S.WITHDRAWN not in TABLE[verb], verb


def test_every_state_can_be_reached_and_every_verb_is_in_the_table() -> None:
    assert set(TABLE) == set(Verb)
    reached = {target for arrows in TABLE.values() for target in arrows.values()}
    assert reached | {S.MADE} == set(S)
    assert not IN_PACS & UNSENT
    assert UNSENT | IN_PACS | {S.SENDING} >= OPEN


def test_every_instant_is_a_kill_point() -> None:
    assert kill_points() == tuple(Instant)
    assert len(kill_points()) == 16
