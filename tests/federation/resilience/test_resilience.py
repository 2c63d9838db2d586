"""The scenarios of `benchmarks/resilience.py` as tests: nothing lost, the same model at the end."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from federation.coordinator.states import kill_points
from tests.federation.resilience import kills, messages
from tests.federation.resilience.outcome import Outcome
from tests.federation.resilience.stage import Stage, stage


@pytest.fixture(scope="module")
def scene() -> Iterator[Stage]:
    with stage() as made:
        yield made


def _fine(outcomes: list[Outcome], **limits: float) -> None:
    found = [p for outcome in outcomes for p in outcome.problems(**limits)]  # type: ignore[arg-type]
    assert not found, "\n".join(found)


@pytest.mark.integration
def test_second_run_of_a_plan_survives_a_kill(scene: Stage) -> None:
    """Its updates have the names of the first run's, which are dropped at the restart."""
    _fine(kills.coordinator_kills(scene, ["task:refused:entered"]))


@pytest.mark.integration
def test_lost_acknowledgement_costs_one_message(scene: Stage) -> None:
    _fine(messages.lost_messages(scene, [("ReportTask", "reply", "cut")]))


def test_every_state_can_be_reached_by_a_scenario() -> None:
    """A new state must come by itself or be led to by one of these tables."""
    known = {point.rpartition(":")[0] for point in kill_points()}
    assert {*kills.STEERED, *kills.SPOILED, *kills.NAMED, *kills.ENDS} <= known
