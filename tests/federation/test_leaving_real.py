"""A real trainer process in the middle of a round, and the custodian's word."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest
import structlog

from federation.coordinator.control_client import CoordinatorClient
from federation.learning.networks import initial_weights
from federation.node.agent import AgentOptions, SiteAgent
from federation.node.connection import CoordinatorConnection, RetryPolicy
from federation.node.work import OnDemandTrainer
from federation.plan import Plan, SignedPlan
from federation.trainer import TrainerResources
from tests.federation.doubles import FakeSite, Federation
from tests.federation.learning.tiny import tiny_folder, tiny_plan
from tests.waiting import wait_for

pytestmark = [pytest.mark.integration, pytest.mark.timeout(300)]

PATIENCE = 150.0
"""Seconds in which a trainer must begin even on a machine that does much else."""
STOPPED_WITHIN = 5.0
"""Seconds from the word to the end of the process."""


def endless_plan() -> Plan:
    """A plan of which no machine finishes a round within a test."""
    return tiny_plan(
        {
            "training": {"steps_per_round": 10_000, "rounds": 1},
            "strategy": {"minimum_sites": 1, "round_deadline_s": 3600},
            "privacy": {"minimum_training_cases": 1},
            "evaluation": {"every": 1},
            "sends": ["update"],
        }
    )


@dataclass
class RealSite(FakeSite):
    """A site with prepared cases."""

    def prepare(self, plan_hash: str) -> Path:
        folder = self.folder / "prepared-1"
        if not folder.exists():
            tiny_folder(folder, endless_plan())
        return folder


def weights(plan: SignedPlan, out: Path, work: Path) -> None:
    """The plan's initial weights, made in this process."""
    initial_weights(plan.plan, out)


def test_the_process_ends_within_seconds_of_the_word(tmp_path: Path, runtime: None) -> None:
    federation = Federation(tmp_path, initialiser=weights)
    trainers: list[OnDemandTrainer] = []

    def make(folder: Path, resources: TrainerResources) -> OnDemandTrainer:
        trainers.append(OnDemandTrainer(folder, resources))
        return trainers[-1]

    try:
        (tmp_path / "site-a").mkdir()
        site = RealSite("site-a", tmp_path / "site-a", cases=3)
        retry = RetryPolicy(first_s=0.05, longest_s=0.2)
        connection = CoordinatorConnection(federation.enrolled("site-a"), retry=retry)
        agent = SiteAgent(connection, site, AgentOptions(trainers=make))
        federation.run_agent(agent)
        with CoordinatorClient(federation.home) as control:
            run_id = str(control.submit(endless_plan())["run_id"])
            wait_for(lambda: any(t.progress() for t in trainers), what="steps", seconds=PATIENCE)
            process = psutil.Process(trainers[-1].pid)
            word = time.monotonic()
            site.left[run_id] = "ethics vote ended"
            process.wait(STOPPED_WITHIN)
            stopped = time.monotonic() - word
            view = wait_for(
                lambda: v if (v := control.run(run_id))["state"] == "failed" else None,
                what="the run's end",
                seconds=30,
            )
            told = time.monotonic() - word
        figures = {"trainer_stopped_s": round(stopped, 2), "coordinator_told_s": round(told, 2)}
        structlog.get_logger(__name__).info("word_took_effect", **figures)
        assert "ethics vote ended" in str(view)
        assert all(trainer.pid is None for trainer in trainers)
        assert not list((site.folder / "runs" / run_id / "agent" / "out").iterdir())
        assert run_id in wait_for(lambda: site.told, what="the word of leaving")
    finally:
        federation.close()
