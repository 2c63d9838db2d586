"""SIGKILL of the coordinator and of a node at every step that their state tables have.

`tests/federation/test_kills.py` proves with one run each that every point is survived; here each
point gets a run of its own, so that what was repeated and how long it took belong to it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial

from federation.coordinator.states import kill_points
from federation.node.states import kill_points as agent_kill_points
from tests.federation.resilience.outcome import Outcome
from tests.federation.resilience.rig import Rig, RigOptions
from tests.federation.resilience.stage import Stage, Undisturbed, measured, shared_out, undisturbed
from tests.waiting import wait_for

KINDS = ("offer", "train", "evaluate", "publish")
"""Kinds of tasks in an ordinary run."""
ROUNDS = 2


def _pause(rig: Rig, run_id: str) -> None:
    """Pause a run, and go on once it is."""
    rig.insist(
        lambda: rig.control.pause(run_id),
        lambda: rig.control.run(run_id)["state"] == "paused",
        "the pause",
    )
    rig.insist(
        lambda: rig.control.resume(run_id),
        lambda: rig.control.run(run_id)["state"] != "paused",
        "the resumption",
    )


def _stop(rig: Rig, run_id: str) -> None:
    """Stop a run for good."""
    rig.insist(
        lambda: rig.control.stop(run_id),
        lambda: rig.control.run(run_id)["state"] == "stopped",
        "the stop",
    )


def _nothing(rig: Rig, run_id: str) -> None:
    """The state comes by itself."""
    del rig, run_id


STEERED: Mapping[str, Callable[[Rig, str], None]] = {
    "run:paused": _pause,
    "run:stopped": _stop,
    "task:expired": _stop,
}
"""States that somebody's command leads to."""
SPOILED = {"task:refused": "nan", "task:failed": "fail"}
"""States that a site's sick update leads to."""
NAMED = {"run:failed": "impossible"}
"""States that a plan which cannot be initialised leads to."""
AHEAD = frozenset({"run:queued"})
"""States that a run is in while another one is played."""
ENDS = {"run:stopped": "stopped", "task:expired": "stopped", "run:failed": "failed"}
"""How such runs end; every other run finishes."""


def coordinator_kills(stage: Stage, points: Sequence[str] = ()) -> list[Outcome]:
    """SIGKILL of the coordinator at points of its tables, one run each.

    Args:
        stage: where.
        points: default is every point of the tables.
    """
    sites = {"site-a": 3, "site-b": 4, "site-c": 5}

    def _share(number: int, share: Sequence[str]) -> list[Outcome]:
        with stage.rig(f"coordinator-{number}", RigOptions(sites=sites)) as rig:
            calm = undisturbed(rig, rounds=ROUNDS)
            rig.script("site-c", {1: {"spoil": "fail"}})
            without = undisturbed(rig, "without-site-c", rounds=ROUNDS)
            rig.script("site-c", {})
            due = {point: without if _state(point) in SPOILED else calm for point in share}
            return [
                _tried(point, partial(_coordinator_kill, rig, point, due[point])) for point in share
            ]

    return shared_out(points or kill_points(), _share)


def _tried(point: str, play: Callable[[], Outcome]) -> Outcome:
    """The outcome, or a row that says what was waited for in vain: the others are still played."""
    try:
        return play()
    except AssertionError as error:
        name = f"killed: {point}"
        return Outcome(name, f"SIGKILL at {point}", False, 0, 0, None, None, words=str(error))


def _state(point: str) -> str:
    return point.rpartition(":")[0]


def _coordinator_kill(rig: Rig, point: str, calm: Undisturbed) -> Outcome:
    state = _state(point)
    name = f"{NAMED.get(state, 'killed')}-{point.replace(':', '-')}"
    spoiled = {1: {"spoil": SPOILED[state]}} if state in SPOILED else {}
    steer = STEERED.get(state, _nothing)
    rig.script("site-c", {1: {"seconds": 0.5}} if steer is not _nothing else spoiled)
    before, began = rig.carried(), rig.trace("coordinator")[-1][0]
    if state in AHEAD:
        rig.submit(f"ahead-of-{name}", rounds=ROUNDS)
        before += calm.carried
    rig.arm("coordinator", point)
    run_id = rig.submit(name, rounds=ROUNDS)
    if steer is not _nothing:
        wait_for(lambda: rig.view(run_id).get("round") == 1, what="round 1", seconds=30)
    steer(rig, run_id)
    view = rig.finished(run_id)
    killed = wait_for(
        lambda: rig.moment("coordinator", f"killed {point}", began),
        what=f"a kill at {point}",
        seconds=20,
    )
    title = f"coordinator killed: {point}"
    recovery = _recovery(rig, "coordinator", killed)
    fault = f"SIGKILL at {point}"
    if state in ENDS:
        return Outcome(
            name=title,
            fault=fault,
            finished=view["state"] == ENDS[state],
            retrained=max(0, rig.trainings(name) - calm.trainings),
            resent=0,
            recovery_s=recovery,
            identical=None,
        )
    return measured(rig, run_id, calm, before, name=title, fault=fault, recovery_s=recovery)


def _recovery(rig: Rig, who: str, killed: float) -> float:
    """Seconds from the kill to the process's next step; with none due, until it serves again."""
    ready = wait_for(lambda: rig.moment(who, "life begins", killed), what="another life")
    if who == "coordinator":
        ready = wait_for(lambda: rig.moment(who, "life ready", killed), what="it to listen")
    step = rig.progress([who], killed)
    return step if step is not None else ready - killed


def node_points() -> tuple[str, ...]:
    """Every step of every kind of task, from the table."""
    return tuple(f"{kind}-{point}" for kind in KINDS for point in agent_kill_points())


def node_kills(stage: Stage, points: Sequence[str] = ()) -> list[Outcome]:
    """SIGKILL of a site's agent at every step of every kind of task, one run each."""

    def _share(number: int, share: Sequence[str]) -> list[Outcome]:
        with stage.rig(f"node-{number}") as rig:
            calm = undisturbed(rig, rounds=ROUNDS)
            return [_tried(point, partial(_node_kill, rig, point, calm)) for point in share]

    return shared_out(points or node_points(), _share)


def _node_kill(rig: Rig, point: str, calm: Undisturbed) -> Outcome:
    name = f"killed-{point.replace(':', '-')}"
    before, began = rig.carried(), rig.trace("site-a")[-1][0]
    rig.arm("site-a", point)
    run_id = rig.submit(name, rounds=ROUNDS)
    rig.finished(run_id)
    killed = wait_for(
        lambda: rig.moment("site-a", f"killed {point}", began), what=f"a kill at {point}"
    )
    if rig.progress(["site-a"], killed) is None:
        # The run's last report had arrived: the agent's next step is the next run's.
        rig.finished(rig.submit(f"after-{name}", rounds=1))
    return measured(
        rig,
        run_id,
        calm,
        before,
        name=f"node killed: {point}",
        fault=f"SIGKILL at {point}",
        recovery_s=_recovery(rig, "site-a", killed),
    )


def power_cut(stage: Stage) -> list[Outcome]:
    """Coordinator and all nodes are killed at once in mid-round and started again later."""
    with stage.rig("power-cut") as rig:
        calm = undisturbed(rig, rounds=ROUNDS)
        rig.script("site-a", {1: {"seconds": 1.0}})
        before = rig.carried()
        run_id = rig.submit("power-cut", rounds=ROUNDS)
        wait_for(lambda: rig.trainings("power-cut") >= 2, what="training")
        wait_for(lambda: rig.moment("site-b", "train-step:worked:entered"), what="site-b's work")
        everybody = [rig.coordinator, *rig.agents.values()]
        for process in everybody:
            process.hold()
        for process in everybody:
            process.release()
        back = rig.coordinator.life
        wait_for(lambda: back.pid, what="the coordinator's start")
        started = rig.trace("coordinator")[-1][0]
        rig.finished(run_id)
        return [
            measured(
                rig,
                run_id,
                calm,
                before,
                name="coordinator and every node killed at once, mid-training",
                fault="SIGKILL of all processes while a site trains",
                recovery_s=rig.progress(["coordinator", *rig.agents], started),
                incident="3, 7",
                user="`run show` gives no answer until the coordinator is back, then the same "
                "round",
            )
        ]
