"""clinode's processes of the benchmark: the real coordinator and the real agent of a site.

Only the trainer is a stand-in: it adds a constant to every weight and writes the update, which is
what the peers' stand-ins do in memory.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import structlog

from benchmarks.federation.model import step_of, write_safetensors
from federation.canonical import JSON
from federation.coordinator.process import run_coordinator
from federation.enrolment import enrol
from federation.node.agent import AgentOptions, SiteAgent
from federation.node.connection import CoordinatorConnection
from federation.plan import SignedPlan
from federation.tensorfile import open_tensors
from federation.trainer import (
    CaseScores,
    EvaluateJob,
    EvaluateResult,
    Trainer,
    TrainerResources,
    TrainJob,
    TrainResult,
)
from tests.federation.doubles import FakeSite

BLOCK = 1 << 20
CASES = 10


class StandIn(Trainer):
    """Writes ``model + step`` block by block instead of training."""

    site = ""

    def start(self) -> None:
        """Nothing to start."""

    def close(self) -> None:
        """Nothing to stop."""

    def train(self, job: TrainJob) -> TrainResult:
        """One round's update."""
        begun = time.monotonic()
        model = open_tensors(job.weights)
        first = len(model.header)
        values = np.memmap(job.weights, "<f4", "r", first, ((model.size - first) // 4,))
        step = np.float32(step_of(self.site, job.round))
        held = np.empty(BLOCK, np.float32)
        with job.out.open("wb", buffering=0) as stream:
            stream.write(model.header)
            for at in range(0, values.size, BLOCK):
                part = values[at : at + BLOCK]
                np.add(part, step, out=held[: part.size])
                stream.write(held[: part.size].data.cast("B"))
        return TrainResult(
            update=job.out,
            sha256="",
            size=model.size,
            cases=CASES,
            patches=40,
            steps=20,
            loss=0.5,
            learning_rate=1e-3,
            seconds=time.monotonic() - begun,
        )

    def evaluate(self, job: EvaluateJob) -> EvaluateResult:
        """Only before the first round."""
        scores = CaseScores("case", {"dice": 0.5}, 1.0, 1.0)
        return EvaluateResult(job.split, (scores,), 0.0)


class Site(FakeSite):
    """A site with the stand-in for its trainer, that keeps no records."""

    def trainer(self, folder: Path, resources: TrainerResources) -> Trainer:
        """The agent's trainer factory."""
        made = StandIn(folder, resources)
        made.site = self.name
        return made

    def record(self, action: str, detail: Mapping[str, JSON]) -> None:
        """Nobody reads it."""


def _quiet() -> None:
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(30))


def coordinator(home: str, megabytes: str) -> None:
    """The coordinator; its initial model is the benchmark's."""

    def initialiser(plan: SignedPlan, out: Path, work: Path) -> None:
        del plan, work
        write_safetensors(int(megabytes), out)

    run_coordinator(Path(home), initialiser=initialiser)


def agent(folder: str, name: str) -> None:
    """One site's agent: enrols with the token that lies in its folder, then works."""
    token = (Path(folder) / "token").read_text()
    identity = enrol(token, Path(folder) / "keys", name)
    (Path(folder) / "enrolled").touch()
    site = Site(name, Path(folder), cases=CASES)
    connection = CoordinatorConnection(identity)
    SiteAgent(connection, site, AgentOptions(trainers=site.trainer)).run(threading.Event())


def main() -> None:
    """``coordinator HOME MEGABYTES`` or ``agent FOLDER NAME``."""
    _quiet()
    {"coordinator": coordinator, "agent": agent}[sys.argv[1]](*sys.argv[2:])


if __name__ == "__main__":
    main()
