"""SIGKILL of the coordinator all through an asynchronous, amended run: the record holds."""

from __future__ import annotations

import threading
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from federation.coordinator.control_client import CoordinatorClient
from federation.coordinator.states import kill_points
from federation.errors import CoordinatorUnreachable, RunRefused
from tests.federation.doubles import Federation, small_plan, trained
from tests.federation.test_kills import _answered, _close_agents, _insist, _names, _states
from tests.federation.test_policy import plan_with
from tests.federation.zygote import Reviver
from tests.waiting import wait_for

NAMES = ("site-a", "site-b", "site-c")
HELD = 4  # training for this round waits until the amendment is in: the run must not be over first


@pytest.mark.long
@pytest.mark.timeout(300)
def test_asynchronous_run_whose_coordinator_keeps_dying(tmp_path: Path, runtime: None) -> None:
    made = Federation(tmp_path)
    sites = [made.site(name, cases=number + 2) for number, name in enumerate(NAMES)]
    amended = threading.Event()
    for site in sites:
        site.before_training = lambda number: number < HELD or amended.wait(120)
        made.start(site)
    made.coordinator.stop()
    markers = tmp_path / "markers"
    markers.mkdir()
    plan = small_plan(6).model_copy(
        update={"strategy": plan_with(mode="asynchronous", buffer_size=2).strategy}
    )
    life = Reviver("coordinator", (str(made.home), str(markers)))
    try:
        with CoordinatorClient(made.home, timeout_s=5) as control:
            _insist(lambda: control.submit(plan), lambda: plan.name in _names(control))
            run_id = wait_for(lambda: _first(control), what="the run's name", seconds=60)
            _insist(
                lambda: control.amend(run_id, rounds=8),
                lambda: life.other_ends or len(control.run(run_id)["plans"]) > 1,
            )
            amended.set()
            wait_for(
                lambda: life.other_ends or _states(control).get(plan.name) == "finished",
                what="the run",
                seconds=200,
            )
            assert not life.other_ends
            view = _answered(lambda: control.run(run_id))
            chain = _answered(control.verify_audit)
        reached = {path.name for path in markers.iterdir()}
        expected = {p.replace(":", "_") for p in kill_points() if p.startswith("round")}
        assert reached >= expected
    finally:
        amended.set()
        life.close()
        _close_agents(made)
    assert chain["ok"], chain["words"]
    folded = Counter(u["folded_in"] for u in view["updates"] if u["folded_in"] is not None)
    assert folded == dict.fromkeys(range(1, 9), 2)
    assert view["plans"][1]["from_round"] is not None
    for number in range(1, 9):
        _as_recorded(made.home / "runs" / run_id / "rounds", view, number)


def _first(control: CoordinatorClient) -> str:
    try:
        return str(control.runs()[0]["run_id"])
    except (CoordinatorUnreachable, RunRefused, IndexError):
        return ""


def _as_recorded(folder: Path, view: dict[str, Any], number: int) -> None:
    """A round's model is what the recorded updates, computed anew, make of the one before."""
    models = {n: load_file(folder / f"{n:05d}.safetensors") for n in range(number + 1)}
    chosen = [u for u in view["updates"] if u["folded_in"] == number]
    total = sum(u["weight"] for u in chosen)
    exact = models[number - 1]["conv.weight"].astype(np.float64)
    for update in chosen:
        start, cases = update["started_from"], NAMES.index(update["site"]) + 2
        assert update["staleness"] == number - 1 - start
        assert update["weight"] == pytest.approx(cases * (1 + update["staleness"]) ** -0.5)
        base = models[start]
        step = trained(update["site"], start, base)["conv.weight"].astype(np.float64)
        exact += update["weight"] / total * (step - base["conv.weight"].astype(np.float64))
    np.testing.assert_allclose(models[number]["conv.weight"], exact, rtol=1e-5, atol=1e-5)
