"""A small plan, a site without images and a trainer without torch, for speed in protocol tests.

Real training is covered by the trainer's own tests and by the system tests.
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file

from federation.canonical import JSON
from federation.coordinator.process import Coordinator, CoordinatorOptions, init_coordinator
from federation.coordinator.settings import CoordinatorSettings
from federation.enrolment.client import SiteIdentity, enrol
from federation.fingerprint import CaseFigures, Rules, make_fingerprint
from federation.manifest import ModelManifest
from federation.node.agent import AgentOptions, SiteAgent
from federation.node.connection import CoordinatorConnection, RetryPolicy
from federation.node.site_port import (
    DataSummary,
    Parting,
    PlanDecision,
    PublishCounts,
    Stand,
    Standing,
)
from federation.plan import Plan, PrivacySpec, SignedPlan, ms_lesion_demo_plan
from federation.trainer import (
    CaseScores,
    EvaluateJob,
    EvaluateResult,
    InferJob,
    InferResult,
    InitialiseJob,
    InitialiseResult,
    Trainer,
    TrainerResources,
    TrainJob,
    TrainResult,
)
from tests.tools import free_port

PROJECT = "ms-lesions"


def small_plan(rounds: int = 2, *, minimum_sites: int = 2, deadline_s: int = 120) -> Plan:
    """The demo's plan with fewer rounds."""
    plan = ms_lesion_demo_plan(rounds)
    strategy = plan.strategy.model_copy(
        update={"minimum_sites": minimum_sites, "round_deadline_s": deadline_s}
    )
    evaluation = plan.evaluation.model_copy(update={"every": 1})
    privacy = PrivacySpec(minimum_training_cases=1)
    return plan.model_copy(
        update={"strategy": strategy, "evaluation": evaluation, "privacy": privacy}
    )


def initial_tensors(elements: int = 1000) -> dict[str, NDArray[Any]]:
    """A model: weights, a bias, a scalar and a counter."""
    random = np.random.default_rng(7)
    return {
        "conv.weight": random.normal(size=(elements // 10, 10)).astype(np.float32),
        "conv.bias": random.normal(size=10).astype(np.float32),
        "scale": np.array(1.5, np.float32),
        "norm.num_batches_tracked": np.array(3, np.int64),
    }


def numpy_initialiser(plan: SignedPlan, out: Path, work: Path) -> None:
    """Write :func:`initial_tensors` (the coordinator's initialiser without a trainer)."""
    save_file(initial_tensors(), out)


def step_of(site: str, number: int) -> float:
    """What one round of a site's "training" adds to every weight."""
    return int(hashlib.sha256(site.encode()).hexdigest()[:4], 16) / 65536 + number / 10


def trained(site: str, number: int, tensors: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    """A site's update of ``tensors`` in round ``number`` (from 0)."""
    step = np.float32(step_of(site, number))
    return {
        name: np.asarray(value + (step if value.dtype.kind == "f" else 1), value.dtype)
        for name, value in tensors.items()
    }


class NumpyTrainer(Trainer):
    """Adds a constant per site and round; scores are numbers made of the weights' mean."""

    def __init__(self, folder: Path, resources: TrainerResources) -> None:
        super().__init__(folder, resources)
        self.site = "?"
        self.cases = 1
        self.spoil: str = ""
        self.calls = 0

    def start(self) -> None:
        return

    def close(self) -> None:
        return

    def train(self, job: TrainJob) -> TrainResult:
        self.calls += 1
        if self.spoil == "fail":
            raise RuntimeError("planted failure")
        tensors = trained(self.site, job.round, load_file(job.weights))
        if self.spoil == "nan":
            tensors["conv.bias"][2] = np.nan
        elif self.spoil == "shape":
            tensors["conv.bias"] = tensors["conv.bias"][:5].copy()
        elif self.spoil == "dtype":
            tensors["conv.bias"] = tensors["conv.bias"].astype(np.float64)
        elif self.spoil == "norm":
            tensors["conv.bias"] = tensors["conv.bias"] + np.float32(1e9)
        elif self.spoil == "missing":
            del tensors["conv.bias"]
        save_file(tensors, job.out)
        raw = job.out.read_bytes()
        cases = {"weight-0": 0, "weight-huge": 10**9}.get(self.spoil, self.cases)
        return TrainResult(
            update=job.out,
            sha256=hashlib.sha256(raw).hexdigest(),
            size=len(raw),
            cases=cases,
            patches=40,
            steps=20,
            loss=0.5,
            learning_rate=1e-3,
            seconds=0.01,
        )

    def evaluate(self, job: EvaluateJob) -> EvaluateResult:
        mean = float(np.mean(load_file(job.weights)["conv.weight"]))
        cases = tuple(
            CaseScores(f"sub-{i}_ses-a", {"dice": 0.1 * i + mean / 100}, 1.0, 1.0)
            for i in range(1, 4)
        )
        return EvaluateResult(job.split, cases, 0.01)

    def infer(self, job: InferJob) -> InferResult:
        return InferResult({}, 0.0)

    def initialise(self, job: InitialiseJob) -> InitialiseResult:
        raise NotImplementedError


@dataclass
class FakeSite:
    """A site that keeps everything in one folder and decides at once."""

    name: str
    folder: Path
    cases: int = 3
    answer: PlanDecision = field(default_factory=PlanDecision.approved)
    accepts: bool = True
    spoil: dict[int, str] = field(default_factory=dict)
    records: list[tuple[str, dict[str, JSON]]] = field(default_factory=list)
    published: list[str] = field(default_factory=list)
    stand: Standing = field(default_factory=Standing)
    left: dict[str, str] = field(default_factory=dict)
    told: dict[str, str] = field(default_factory=dict)
    answers: dict[str, PlanDecision] = field(default_factory=dict)
    before_training: Callable[[int], object] = lambda _round: None

    def offer(self, plan: SignedPlan) -> None:
        (self.folder / "offered").mkdir(parents=True, exist_ok=True)
        (self.folder / "offered" / plan.hash).write_bytes(plan.to_json())

    def decision(self, plan_hash: str) -> PlanDecision:
        return self.answers.get(plan_hash, self.answer)

    def standing(self, run_id: str, plan_hash: str) -> Standing:
        if run_id in self.left:
            return Standing(Stand.LEFT, f"the site left: {self.left[run_id]}")
        return self.stand

    def partings(self) -> Sequence[Parting]:
        return [Parting(r, words) for r, words in self.left.items() if r not in self.told]

    def parted(self, run_id: str, words: str) -> None:
        self.told[run_id] = words

    def summary(self, plan_hash: str) -> DataSummary:
        return DataSummary(self.cases, 1, 2, 1, "d" * 64)

    def fingerprint(self, plan_hash: str) -> bytes:
        spacing = 1.0 + len(self.name) / 10
        cases = [
            CaseFigures(f"p{n}", "FLAIR", (spacing, 1.0, 3.0), (160, 200, 48))
            for n in range(self.cases)
        ]
        return make_fingerprint(cases, Rules(minimum_patients=2)).to_json()

    def prepare(self, plan_hash: str) -> Path:
        folder = self.folder / "prepared-0"
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def run_folder(self, run_id: str) -> Path:
        return self.folder / "runs" / run_id

    def resources(self) -> TrainerResources:
        return TrainerResources()

    def model_offered(self, manifest: ModelManifest, weights: Path) -> None:
        (self.folder / "models").mkdir(parents=True, exist_ok=True)
        (self.folder / "models" / manifest.id).write_bytes(weights.read_bytes())

    def publish(
        self, manifest: ModelManifest, weights: Path, trainer: Trainer
    ) -> PublishCounts | None:
        if not self.accepts:
            return None
        self.published.append(manifest.id)
        return PublishCounts(studies=2, segmented=1, no_finding=1)

    def record(self, action: str, detail: Mapping[str, JSON]) -> None:
        self.records.append((action, dict(detail)))
        with (self.folder / "records.jsonl").open("a") as stream:
            stream.write(json.dumps([action, dict(detail)]) + "\n")

    def trainer(self, folder: Path, resources: TrainerResources) -> Trainer:
        """The agent's trainer factory."""
        site = self

        class Planned(NumpyTrainer):
            def train(self, job: TrainJob) -> TrainResult:
                site.before_training(job.round + 1)
                self.spoil = site.spoil.get(job.round + 1, "")
                with (site.folder / "trainings.log").open("a") as stream:
                    stream.write(f"{job.round + 1}\n")
                return super().train(job)

        trainer = Planned(folder, resources)
        trainer.site, trainer.cases = self.name, self.cases
        return trainer


def make_home(folder: Path, **settings: Any) -> Path:  # noqa: ANN401
    """A coordinator's home on free ports."""
    fields: dict[str, Any] = {
        "project": PROJECT,
        "enrolment_port": free_port(),
        "federation_port": free_port(),
        "patience_s": 1.0,
        **settings,
    }
    init_coordinator(folder, CoordinatorSettings(**fields))
    return folder


class Federation:
    """A coordinator in this process, with sites that join it."""

    def __init__(self, folder: Path, **options: Any) -> None:  # noqa: ANN401
        self.folder = folder
        self.home = make_home(folder / "coordinator", **options.pop("settings", {}))
        self._options = CoordinatorOptions(**{"initialiser": numpy_initialiser, **options})
        self.coordinator = Coordinator(self.home, self._options)
        self.coordinator.start()
        self._stops: list[tuple[threading.Event, threading.Thread]] = []

    def enrolled(self, name: str) -> SiteIdentity:
        """Enrol a site through the real listener."""
        token = self.coordinator.registry.add(name)
        return enrol(token, self.folder / name / "keys", name)

    def site(self, name: str, **fields: Any) -> FakeSite:  # noqa: ANN401
        """A site's double in a folder of its own."""
        folder = self.folder / name
        folder.mkdir(exist_ok=True)
        return FakeSite(name, folder, **fields)

    def start(self, site: FakeSite, identity: SiteIdentity | None = None) -> SiteAgent:
        """Run a site's agent in a thread."""
        identity = identity or self.enrolled(site.name)
        connection = CoordinatorConnection(identity, retry=RetryPolicy(first_s=0.05, longest_s=0.2))
        agent = SiteAgent(
            connection, site, AgentOptions(trainers=site.trainer, deferred_poll_s=0.2)
        )
        self.run_agent(agent)
        return agent

    def run_agent(self, agent: SiteAgent) -> None:
        """Run an agent in a thread until the federation is closed."""
        stop = threading.Event()
        thread = threading.Thread(target=agent.run, args=(stop,), daemon=True)
        thread.start()
        self._stops.append((stop, thread))

    def restart(self) -> None:
        """Stop the coordinator and start another on its home."""
        self.coordinator.stop()
        self.coordinator = Coordinator(self.home, self._options)
        self.coordinator.start()

    def close(self) -> None:
        """Stop agents and coordinator."""
        for stop, _ in self._stops:
            stop.set()
        for _, thread in self._stops:
            thread.join(20)
        self.coordinator.stop()
