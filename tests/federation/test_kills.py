"""SIGKILL at every point of the state tables: everything completes and nothing counts twice.

The points are generated from the tables, so a state that no test reaches fails here.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors.numpy import load_file

from federation.audit_chain import read_entries, verify
from federation.coordinator.control_client import CoordinatorClient
from federation.coordinator.states import kill_points
from federation.errors import CoordinatorUnreachable, RunRefused
from federation.node.site_port import PlanDecision
from federation.node.states import kill_points as agent_kill_points
from federation.plan import Plan
from tests.federation.doubles import FakeSite, Federation, small_plan
from tests.federation.test_rounds import centralised, final_weights, same
from tests.federation.zygote import Reviver
from tests.waiting import wait_for

STOPPED = ("stopped-1", "stopped-2", "stopped-3")
KINDS = ("offer", "train", "evaluate", "publish")


def _insist(act: Callable[[], Any], done: Callable[[], bool]) -> None:
    """Ask a coordinator that keeps dying until it has done it."""

    def asked() -> bool:
        try:
            if done():
                return True
            act()
        except (CoordinatorUnreachable, RunRefused):
            return False
        return False

    wait_for(asked, what="the coordinator to do as told", seconds=120)


def _answered(ask: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """What a coordinator answers that may still be dying of its last transitions."""

    def asked() -> dict[str, Any]:
        try:
            return ask()
        except CoordinatorUnreachable:
            return {}

    return wait_for(asked, what="an answer", seconds=60)


def _names(control: CoordinatorClient) -> set[str]:
    """The runs that there are; a coordinator that is away raises: submitting again makes two."""
    return {run["name"] for run in control.runs()}


def _states(control: CoordinatorClient) -> dict[str, str]:
    try:
        return {run["name"]: run["state"] for run in control.runs()}
    except CoordinatorUnreachable:
        return {}


@pytest.mark.integration
@pytest.mark.timeout(300)
def test_coordinator_killed_at_every_state(tmp_path: Path, runtime: None) -> None:
    made = Federation(tmp_path, settings={"patience_s": 3600.0})
    sites: list[FakeSite] = []
    for name, spoil in (("site-a", {}), ("site-b", {}), ("site-c", {1: "fail", 2: "nan"})):
        site = made.site(name, spoil=spoil)
        made.start(site)
        sites.append(site)
    sites[0].answer = PlanDecision.pending()
    made.coordinator.stop()
    markers = tmp_path / "markers"
    markers.mkdir()
    life = Reviver("coordinator", (str(made.home), str(markers)))
    plans = {
        name: small_plan(1 if name == "second" else 3).model_copy(update={"name": name})
        for name in ("main", "second", *STOPPED, "impossible")
    }
    try:
        with CoordinatorClient(made.home, timeout_s=5) as control:
            _scenario(control, plans, sites[0])
            views = _answered(
                lambda: {run["name"]: control.run(run["run_id"]) for run in control.runs()}
            )
            chain = _answered(control.verify_audit)
        missing = sorted(
            point for point in kill_points() if not (markers / point.replace(":", "_")).exists()
        )
        assert not missing, f"states that were never entered: {missing}"
        assert not life.other_ends
        assert life.lives == len(kill_points()) + 1
    finally:
        life.close()
        _close_agents(made)
    assert chain["ok"], chain["words"]
    assert {name: view["state"] for name, view in views.items()} == {
        "main": "finished",
        "second": "finished",
        "impossible": "failed",
        **dict.fromkeys(STOPPED, "stopped"),
    }
    _nothing_twice(made, sites, views)


def _close_agents(made: Federation) -> None:
    for stop, _ in made._stops:
        stop.set()
    for _, thread in made._stops:
        thread.join(20)


def _scenario(control: CoordinatorClient, plans: dict[str, Plan], hesitant: FakeSite) -> None:
    """One finished run with a pause, a refused and a failed task; some stopped; one impossible.

    A second one has its quorum at the same time as the first and waits for its turn.

    ``hesitant`` has not decided: until it does, runs stay offered, where they are paused and
    stopped. Several are stopped because of the transitions that one transaction makes only one
    can be the place of a kill after it.
    """
    for name, plan in plans.items():
        _insist(lambda plan=plan: control.submit(plan), lambda name=name: name in _names(control))

    def run_id(name: str) -> str:
        return next(str(run["run_id"]) for run in control.runs() if run["name"] == name)

    for name in plans:
        wait_for(
            lambda name=name: _states(control).get(name, "submitted") != "submitted",
            what=f"{name} to be offered",
            seconds=120,
        )
    for name in STOPPED:
        _insist(
            lambda name=name: control.stop(run_id(name)),
            lambda name=name: _states(control).get(name) == "stopped",
        )
    _insist(lambda: control.pause(run_id("main")), lambda: _states(control).get("main") == "paused")
    _insist(
        lambda: control.resume(run_id("main")), lambda: _states(control).get("main") == "offered"
    )
    hesitant.answer = PlanDecision.approved()
    for name, end in (
        ("main", "finished"),
        ("second", "finished"),
        ("impossible", "failed"),
    ):
        wait_for(
            lambda name=name, end=end: _states(control).get(name) == end,
            what=f"{name} to be {end}",
            seconds=120,
        )


def _nothing_twice(
    made: Federation, sites: list[FakeSite], views: dict[str, dict[str, Any]]
) -> None:
    view = views["main"]
    rounds = {at["round"]: at for at in view["rounds_done"]}
    assert sorted(rounds) == [0, 1, 2, 3]
    for number in (1, 2, 3):
        states = {row["site"]: row["state"] for row in rounds[number]["sites"]}
        spoiled = {1: "failed", 2: "refused"}.get(number, "done")
        assert states == {"site-a": "done", "site-b": "done", "site-c": spoiled}
        assert len(rounds[number]["sites"]) == 3
    model = centralised({"site-a": 3, "site-b": 3}, 2)
    same(load_file(made.home / "runs" / view["run_id"] / "rounds" / "00002.safetensors"), model)
    for site in sites:
        assert site.published == [view["model_id"], views["second"]["model_id"]]
    assert not list((made.home / "objects" / "incoming").rglob("*.part"))
    audit = made.home / "audit.jsonl"
    assert verify(audit).ok
    finished = [e for e in read_entries(audit) if e.action == "run.finished"]
    assert len(finished) <= 2


@pytest.mark.integration
@pytest.mark.timeout(300)
def test_agent_killed_at_every_step(tmp_path: Path, runtime: None) -> None:
    made = Federation(tmp_path)
    markers = tmp_path / "markers"
    markers.mkdir()
    made.enrolled("site-a")
    steady = made.site("site-b", cases=4)
    made.start(steady)
    victim = made.site("site-a")
    life = Reviver("agent", (str(victim.folder), "site-a", str(markers)))
    points = [
        f"{kind}-{point}".replace(":", "_") for kind in KINDS for point in agent_kill_points()
    ]
    try:
        with CoordinatorClient(made.home) as control:
            run_id = control.submit(small_plan(3))["run_id"]
            wait_for(
                lambda: control.run(run_id)["state"] == "finished", what="the run", seconds=200
            )
            view = control.run(run_id)
            # Killed between its report and the journal entry, the agent is not given the task
            # again: the point after that entry is reached in the next run only.
            second = control.submit(small_plan(1).model_copy(update={"name": "second"}))["run_id"]
            wait_for(
                lambda: control.run(second)["state"] == "finished", what="run two", seconds=100
            )
        # The coordinator is done with the last report before the agent's journal is.
        wait_for(
            lambda: all((markers / point).exists() for point in points),
            what="every step of every kind to be reached",
            seconds=20,
        )
        assert not life.other_ends
        assert life.lives >= len(points)
    finally:
        life.close()
        made.close()
    same(final_weights(made, view), centralised({"site-a": 3, "site-b": 4}, 3))
    for at in view["rounds_done"][1:]:
        assert [row["attempt"] for row in at["sites"]] == [1, 1]
        assert [row["state"] for row in at["sites"]] == ["done", "done"]
    trainings = (victim.folder / "trainings.log").read_text().split()
    # Killed between the training and its journal entry a round is repeated, once; no other is
    # (the third "1" is the second run's).
    assert sorted(trainings) == ["1", "1", "1", "2", "3"]
    steady_rounds = (steady.folder / "trainings.log").read_text().split()
    assert steady_rounds == ["1", "2", "3", "1"]
