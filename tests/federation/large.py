"""Processes of the memory tests: a real coordinator, a real node, models of any size.

Only the trainer is a stand-in; like the initial model's writer it goes block by block, so that the
memory seen is the federation's. ``python -m tests.federation.large coordinator HOME BYTES`` or
``node FOLDER NAME``.
"""

from __future__ import annotations

import json
import struct
import sys
import threading
from pathlib import Path

import numpy as np
import structlog

from federation.coordinator.process import run_coordinator
from federation.enrolment import load_identity
from federation.manifest import ModelManifest
from federation.node.agent import AgentOptions, SiteAgent
from federation.node.connection import CoordinatorConnection, RetryPolicy
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
from tests.federation.doubles import FakeSite, NumpyTrainer

BLOCK = 1 << 20
LAYERS = 8


def write_model(size: int, path: Path) -> None:
    """A model of ``size`` bytes in a few tensors, no two blocks of it equal."""
    count = size // 4 // LAYERS
    layout = {
        f"layer-{n}.weight": {
            "dtype": "F32",
            "shape": [count],
            "data_offsets": [4 * count * n, 4 * count * (n + 1)],
        }
        for n in range(LAYERS)
    }
    raw = json.dumps(layout, separators=(",", ":")).encode()
    raw += b" " * (-len(raw) % 8)
    values = np.random.default_rng(3).standard_normal(BLOCK, dtype=np.float32)
    with path.open("wb") as stream:
        stream.write(struct.pack("<Q", len(raw)) + raw)
        for at in range(0, count * LAYERS, BLOCK):
            part = values[: min(BLOCK, count * LAYERS - at)] + np.float32(at / BLOCK / 1000)
            stream.write(part.data)


class BlockTrainer(NumpyTrainer):
    """Adds a constant to every weight."""

    def train(self, job: TrainJob) -> TrainResult:
        model = open_tensors(job.weights)
        first = len(model.header)
        values = np.memmap(job.weights, "<f4", "r", first, ((model.size - first) // 4,))
        with job.out.open("wb", buffering=0) as stream:
            stream.write(model.header)
            for at in range(0, values.size, BLOCK):
                stream.write((values[at : at + BLOCK] + np.float32(0.5)).data)
        return TrainResult(job.out, "", model.size, self.cases, 40, 20, 0.5, 1e-3, 0.01)

    def evaluate(self, job: EvaluateJob) -> EvaluateResult:
        """Scores that need no look at the weights."""
        case = CaseScores("case", {"dice": 0.5}, 1.0, 1.0)
        return EvaluateResult(job.split, (case,), 0.0)


class LargeSite(FakeSite):
    """A site that links models instead of reading them."""

    def trainer(self, folder: Path, resources: TrainerResources) -> Trainer:
        made = BlockTrainer(folder, resources)
        made.site, made.cases = self.name, self.cases
        return made

    def model_offered(self, manifest: ModelManifest, weights: Path) -> None:
        (self.folder / "models").mkdir(parents=True, exist_ok=True)
        kept = self.folder / "models" / manifest.id
        kept.unlink(missing_ok=True)
        kept.hardlink_to(weights)


def coordinator(home: str, size: str) -> None:
    """Serve until SIGTERM."""

    def initialiser(plan: SignedPlan, out: Path, work: Path) -> None:
        del plan, work
        write_model(int(size), out)

    run_coordinator(Path(home), initialiser=initialiser)


def node(folder: str, name: str) -> None:
    """Work until killed."""
    site = LargeSite(name, Path(folder))
    connection = CoordinatorConnection(
        load_identity(Path(folder) / "keys"), retry=RetryPolicy(first_s=0.1, longest_s=1.0)
    )
    SiteAgent(connection, site, AgentOptions(trainers=site.trainer)).run(threading.Event())


if __name__ == "__main__":
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(50))
    {"coordinator": coordinator, "node": node}[sys.argv[1]](*sys.argv[2:])
