"""SIGKILL of the real trainer process at every step of its jobs, in a run over real images."""

from __future__ import annotations

from collections.abc import Sequence

from federation.plan import Plan
from federation.trainer.states import kill_points
from tests.federation.learning.tiny import tiny_folder, tiny_plan
from tests.federation.resilience.outcome import Outcome
from tests.federation.resilience.rig import Rig, RigOptions
from tests.federation.resilience.stage import Stage, shared_out
from tests.waiting import wait_for

JOBS = ("train", "evaluate")
"""Kinds of jobs that a site's trainer does in a run of rounds."""
SITES = {"site-a": 3, "site-b": 3}


def trainer_plan(rounds: int) -> Plan:
    """A plan that a CPU trains in seconds."""
    return tiny_plan(
        {
            "training": {"rounds": rounds, "steps_per_round": 2},
            "strategy": {"minimum_sites": 2, "round_deadline_s": 300},
            "evaluation": {"every": 1},
        }
    )


def trainer_points() -> tuple[str, ...]:
    """Every step of every kind of job that a run asks for, from the table."""
    return tuple(point for kind in JOBS for point in kill_points(kind))


def trainer_kills(stage: Stage, points: Sequence[str] = ()) -> list[Outcome]:
    """One run with a round per point: the trainer dies there, and the model is as if it had not.

    The final model is compared byte for byte with that of the same run undisturbed.
    """
    wanted = tuple(points) or trainer_points()
    return shared_out(wanted, lambda number, share: _share(stage, number, share), lanes=2)


def _share(stage: Stage, number: int, wanted: Sequence[str]) -> list[Outcome]:
    plan = trainer_plan(len(wanted) + 1)
    with stage.rig(f"trainer-{number}", RigOptions(sites=SITES, trainer="real")) as rig:
        _images(rig)
        calm = rig.submit("undisturbed", plan)
        assert rig.finished(calm, 600)["state"] == "finished", rig.view(calm)["words"]
        rig.arm("site-a", wanted[0])
        run_id = rig.submit("killed", plan)
        outcomes = [_kill(rig, point, wanted[at + 1 : at + 2]) for at, point in enumerate(wanted)]
        view = rig.finished(run_id, 600)
        same = rig.model(run_id) == rig.model(calm)
        return [
            Outcome(
                name=f"trainer killed: {point}",
                fault=f"SIGKILL of the trainer process at {point}",
                finished=view["state"] == "finished",
                retrained=again,
                resent=0,
                recovery_s=recovery,
                identical=same,
                incident="2" if point.startswith("train:worked") else "",
                user="nothing but a longer round; the node's log says `trainer_died`",
            )
            for point, again, recovery in outcomes
        ]


def _images(rig: Rig) -> None:
    """Give every site prepared images of its own."""
    for number, site in enumerate(rig.options.sites):
        folder = rig.folder / site / "prepared"
        tiny_folder(folder, trainer_plan(1), seed=number, training=rig.options.sites[site])


def _kill(rig: Rig, point: str, following: Sequence[str]) -> tuple[str, int, float]:
    """Wait for one death and the step after it; gives the point, what was repeated, seconds."""
    killed = wait_for(
        lambda: rig.moment("site-a", f"killed {point}"), what=f"a kill at {point}", seconds=120
    )
    recovery = wait_for(
        lambda: _next_job_step(rig, killed), what=f"the trainer after {point}", seconds=120
    )
    if following:
        rig.arm("site-a", following[0])
    return point, _begun_before(rig, killed) if point.startswith("train") else 0, recovery


def _begun_before(rig: Rig, killed: float) -> int:
    """1 where the job that died had begun to train: that much is done again."""
    begun = 0
    for at, point in rig.trace("site-a"):
        if at >= killed:
            break
        if point == "train:answered:entered":
            begun = 0
        elif point == "train:worked:entering":
            begun = 1
    return begun


def _next_job_step(rig: Rig, killed: float) -> float | None:
    """Seconds until the restarted trainer did something in a job."""
    times = [
        at
        for at, point in rig.trace("site-a")
        if at > killed and point.startswith(tuple(f"{kind}:" for kind in JOBS))
    ]
    return times[0] - killed if times else None
