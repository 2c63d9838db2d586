"""The scenarios of `benchmarks/resilience.py` as tests: nothing lost, the same model at the end."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from federation.coordinator.states import kill_points
from tests.federation.resilience import (
    clocks,
    disks,
    kills,
    line,
    messages,
    network,
    sites,
    trainers,
    volume,
)
from tests.federation.resilience.outcome import Outcome
from tests.federation.resilience.stage import Stage, stage


@pytest.fixture(scope="module")
def scene() -> Iterator[Stage]:
    with stage() as made:
        yield made


def _fine(outcomes: list[Outcome], *, recovery_s: float = 60.0, retrained: int = 0) -> None:
    assert outcomes
    found = [
        problem
        for outcome in outcomes
        for problem in outcome.problems(recovery_s=recovery_s, retrained=retrained)
    ]
    assert not found, "\n".join(found)


def test_every_state_can_be_reached_by_a_scenario() -> None:
    """The tables of what leads to a state name states that exist."""
    known = {point.rpartition(":")[0] for point in kill_points()}
    assert {*kills.STEERED, *kills.SPOILED, *kills.NAMED, *kills.ENDS} <= known


def test_every_call_is_lost_or_said_not_to_be_made() -> None:
    """A new call of the protocol is lost too, unless it is named as one that no run makes."""
    lost = {method for method, _, _ in messages.cases(("cut",))}
    known = {method.name for method in messages.METHODS}
    assert known >= messages.NOT_IN_A_RUN
    assert lost == known - messages.NOT_IN_A_RUN


@pytest.mark.integration
def test_second_run_of_a_plan_survives_a_kill(scene: Stage) -> None:
    """Its updates have the names of the first run's, which are dropped at the restart."""
    _fine(kills.coordinator_kills(scene, ["task:refused:entered"]))


@pytest.mark.integration
def test_lost_acknowledgement_costs_one_message(scene: Stage) -> None:
    _fine(messages.lost_messages(scene, [("ReportTask", "reply", "cut")]))


@pytest.mark.long
def test_every_message_lost_once(scene: Stage) -> None:
    silent = [("ReportTask", "reply", "swallow"), ("PollTask", "reply", "swallow")]
    _fine(messages.lost_messages(scene, [*messages.cases(("cut",)), *silent]), recovery_s=100)


@pytest.mark.long
def test_link_goes_down_in_mid_transfer(scene: Stage) -> None:
    """On real links where namespaces are permitted, else through the relay (it says which)."""
    print(network.why_not() or "real links")  # noqa: T201 - which of the two it was
    _fine(line.cut_lines(scene))


@pytest.mark.long
def test_power_cut(scene: Stage) -> None:
    """A training that was under way is done again: once per site, no more."""
    _fine(kills.power_cut(scene), retrained=2)


@pytest.mark.long
def test_full_disks(scene: Stage) -> None:
    """A training is repeated only where its result could not be written."""
    if reason := volume.why_not(scene.folder):
        pytest.skip(reason)
    coordinator, node = disks.full_disks(scene)
    _fine([coordinator])
    _fine([node], retrained=1)
    assert coordinator.told_s is not None
    assert coordinator.told_s < 5


@pytest.mark.long
def test_wrong_clocks(scene: Stage) -> None:
    if reason := clocks.why_not():
        pytest.skip(reason)
    outcomes = clocks.wrong_clocks(scene)
    _fine(outcomes)
    assert all("clock" in one.words for one in outcomes if one.name.startswith("clock of the node"))


@pytest.mark.long
def test_sick_answers_are_named_within_seconds(scene: Stage) -> None:
    outcomes = sites.sick_updates(scene)
    _fine(outcomes)
    assert all(one.told_s is not None and one.told_s < 10 for one in outcomes)


@pytest.mark.long
def test_site_that_never_answers(scene: Stage) -> None:
    _fine(sites.silent_site(scene))


@pytest.mark.long
def test_pretenders_change_nothing(scene: Stage) -> None:
    _fine(sites.pretenders(scene))


@pytest.mark.long
@pytest.mark.timeout(600)
def test_trainer_killed_at_every_step(scene: Stage) -> None:
    _fine(trainers.trainer_kills(scene), recovery_s=120, retrained=1)
