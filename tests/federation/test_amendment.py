"""Amended plans: what may change, who signed, what a site takes by itself."""

from __future__ import annotations

from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from federation.amendment import (
    AmendmentLimits,
    Change,
    change_words,
    changes,
    check_amendment,
    inside,
)
from federation.errors import PlanRefused
from federation.plan import Plan, SignedPlan, ms_lesion_demo_plan, parse_plan, sign

KEY = Ed25519PrivateKey.generate()
BEFORE = sign(ms_lesion_demo_plan(12), KEY)


def amended(
    *,
    rate: float = 6e-3,
    rounds: int = 12,
    base: SignedPlan = BEFORE,
    key: Ed25519PrivateKey = KEY,
    **more: Any,  # noqa: ANN401
) -> SignedPlan:
    """The plan with another learning rate and number of rounds; ``more`` replaces whole fields."""
    document = base.plan.model_dump(mode="json") | more
    document["optimiser"] = document["optimiser"] | {"learning_rate": rate}
    document["training"] = document["training"] | {"rounds": rounds}
    document["amends"] = more.get("amends", base.hash)
    return sign(parse_plan(document), key)


def test_learning_rate_and_rounds_may_change() -> None:
    found = check_amendment(BEFORE, amended(rate=3e-3, rounds=20))
    assert change_words(found) == "learning rate 0.006 -> 0.003 (x 0.5); rounds 12 -> 20 (+8)"
    assert check_amendment(BEFORE, amended()) == ()
    assert "nothing" in change_words(())


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"seed": 7}, "changes seed"),
        ({"sends": ["update"]}, "changes sends"),
        ({"name": "another"}, "changes name"),
        ({"amends": "ab" * 32}, "does not name the plan"),
        ({"key": Ed25519PrivateKey.generate()}, "another key"),
    ],
)
def test_nothing_else_may_change(changed: dict[str, Any], words: str) -> None:
    with pytest.raises(PlanRefused, match=words):
        check_amendment(BEFORE, amended(**changed))


def test_every_other_field_is_guarded() -> None:
    plan = BEFORE.plan
    training = plan.training.model_copy(update={"steps_per_round": 41})
    strategy = plan.strategy.model_copy(update={"minimum_sites": 1})
    for update in ({"training": training}, {"strategy": strategy}):
        document = plan.model_copy(update=update).model_dump(mode="json")
        other = sign(parse_plan({**document, "amends": BEFORE.hash}), KEY)
        with pytest.raises(PlanRefused, match="learning rate and rounds only"):
            check_amendment(BEFORE, other)


LIMITS = AmendmentLimits(2.0, 20)


@given(st.floats(1e-4, 0.1), st.integers(1, 60))
def test_inside_means_both_limits(rate: float, rounds: int) -> None:
    plan = _plan(rate, rounds)
    assert not inside(BEFORE.plan, plan, None)
    assert inside(BEFORE.plan, plan, LIMITS) == (rate <= 12e-3 * (1 + 1e-9) and rounds <= 20)


def test_fewer_rounds_than_approved_are_inside_any_limit() -> None:
    assert inside(BEFORE.plan, _plan(6e-3, 12), AmendmentLimits(1.0, 1))
    assert not inside(BEFORE.plan, _plan(6e-3, 13), AmendmentLimits(1.0, 1))


def test_changes_name_fields_and_shorten_long_values() -> None:
    other = BEFORE.plan.model_copy(update={"name": "x" * 60})
    (change,) = changes(BEFORE.plan, other)
    assert change.field == "name"
    assert len(change.words) < 80
    assert Change("update.encoding", None, "int8").words == "encoding None -> int8"


def _plan(rate: float, rounds: int) -> Plan:
    return amended(rate=rate, rounds=rounds).plan
