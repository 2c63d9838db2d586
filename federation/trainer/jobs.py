"""Jobs and results of the trainer process, and their JSON form.

A job is one file ``inbox/NNNNNN.json``, its result ``outbox/NNNNNN.json``. Both sides read them
with this module; it loads no torch. A job is self-contained: the plan travels inside it, files are
named by absolute path. Two jobs are the same job when their JSON is the same, which includes the
hash of the weights and of the prepared folder's manifest.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from federation.errors import TrainerFailed
from federation.learning.prepared import MANIFEST_NAME, Split
from federation.plan import Plan, parse_plan

JOB_FORMAT: Final = 1
MAX_JOB_BYTES: Final = 64 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class TrainerResources:
    """What a trainer process may use.

    Attributes:
        threads: CPU threads for tensor work.
        device: ``cpu``, ``cuda`` or ``cuda:N``.
    """

    threads: int = 1
    device: str = "cpu"


@dataclass(frozen=True, slots=True)
class TrainJob:
    """Train one round at this site.

    Attributes:
        plan: The approved plan.
        prepared: Folder of prepared cases.
        weights: Global model, safetensors.
        round: Round number, 0 .. plan.training.rounds - 1.
        out: Where the update (the model's new weights) is written.
        turn: The how-manieth training of this site in this run, from 1, where a site may train
            several times for one model; its optimiser and random state follow it. None: they
            follow the round.
    """

    plan: Plan
    prepared: Path
    weights: Path
    round: int
    out: Path
    turn: int | None = None

    @property
    def step(self) -> int:
        """The number under which the site's state is kept."""
        return self.round if self.turn is None else self.turn


@dataclass(frozen=True, slots=True)
class EvaluateJob:
    """Score a model on the labelled cases of one split."""

    plan: Plan
    prepared: Path
    weights: Path
    split: Split


@dataclass(frozen=True, slots=True)
class InferJob:
    """Segment cases; ``out`` is the folder that gets one mask file per case."""

    plan: Plan
    prepared: Path
    weights: Path
    cases: tuple[str, ...]
    out: Path


@dataclass(frozen=True, slots=True)
class InitialiseJob:
    """Write the plan's initial weights to ``out``."""

    plan: Plan
    out: Path


Job = TrainJob | EvaluateJob | InferJob | InitialiseJob


@dataclass(frozen=True, slots=True)
class TrainResult:
    """What a round of training gave.

    Attributes:
        update: The file with the new weights.
        sha256: Its hash, hexadecimal.
        size: Its bytes.
        cases: Distinct training cases that patches were drawn from: the site's weight.
        patches: Patches drawn.
        steps: Optimiser steps.
        loss: Mean loss over the round's steps.
        learning_rate: Learning rate of the last step.
        seconds: Wall time of the job in the trainer.
    """

    update: Path
    sha256: str
    size: int
    cases: int
    patches: int
    steps: int
    loss: float
    learning_rate: float
    seconds: float


@dataclass(frozen=True, slots=True)
class CaseScores:
    """The plan's metrics of one case (pseudonym), and its volumes in ml."""

    case: str
    scores: Mapping[str, float]
    reference_ml: float
    predicted_ml: float


@dataclass(frozen=True, slots=True)
class EvaluateResult:
    """Scores of every case of a split, sorted by case."""

    split: Split
    cases: tuple[CaseScores, ...]
    seconds: float

    def mean(self) -> dict[str, float]:
        """Mean of each metric over the cases; empty without cases."""
        names = self.cases[0].scores if self.cases else ()
        return {
            name: sum(case.scores[name] for case in self.cases) / len(self.cases) for name in names
        }

    def deviation(self) -> dict[str, float]:
        """SD (n - 1) of each metric over the cases; 0 for one case, empty without cases."""
        means = self.mean()
        if len(self.cases) < 2:
            return dict.fromkeys(means, 0.0)
        return {
            name: (
                sum((case.scores[name] - mean) ** 2 for case in self.cases) / (len(self.cases) - 1)
            )
            ** 0.5
            for name, mean in means.items()
        }


@dataclass(frozen=True, slots=True)
class InferResult:
    """One mask file per case (see :func:`federation.learning.prepared.read_mask`)."""

    masks: Mapping[str, Path]
    seconds: float


@dataclass(frozen=True, slots=True)
class InitialiseResult:
    """The initial weights' file and hash."""

    weights: Path
    sha256: str


Result = TrainResult | EvaluateResult | InferResult | InitialiseResult


def file_sha256(path: Path) -> str:
    """SHA-256 of a file in hexadecimal, read in pieces."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def job_document(job: Job) -> dict[str, Any]:
    """A job's JSON document, with the hashes of the files that it reads.

    Raises:
        TrainerFailed: when the weights or the prepared folder cannot be read.
    """
    document: dict[str, Any] = {
        "format": JOB_FORMAT,
        "kind": _KIND_OF[type(job)],
        "plan": job.plan.model_dump(mode="json"),
    }
    if not isinstance(job, InitialiseJob):
        document["prepared"] = str(job.prepared.absolute())
        document["weights"] = str(job.weights.absolute())
        try:
            document["weights_sha256"] = file_sha256(job.weights)
            document["manifest_sha256"] = file_sha256(job.prepared / MANIFEST_NAME)
        except OSError as error:
            raise TrainerFailed(
                f"the weights or the prepared folder cannot be read ({error.strerror})"
            ) from error
    if isinstance(job, TrainJob):
        document["round"] = job.round
        if job.turn is not None:
            document["turn"] = job.turn
    if isinstance(job, EvaluateJob):
        document["split"] = job.split.value
    else:
        document["out"] = str(job.out.absolute())
    if isinstance(job, InferJob):
        document["cases"] = list(job.cases)
    return document


def parse_job(document: Mapping[str, Any]) -> Job:
    """The job of a document.

    Raises:
        TrainerFailed: when the document is of another format or lacks a field.
        PlanRefused: when its plan breaks a rule.
    """
    try:
        if document["format"] != JOB_FORMAT:
            raise TrainerFailed("the job has an unknown format version")
        plan, kind = parse_plan(document["plan"]), document["kind"]
        if kind == "initialise":
            return InitialiseJob(plan, Path(document["out"]))
        prepared, weights = Path(document["prepared"]), Path(document["weights"])
        if kind == "train":
            out, turn = Path(document["out"]), document.get("turn")
            return TrainJob(plan, prepared, weights, document["round"], out, turn)
        if kind == "evaluate":
            return EvaluateJob(plan, prepared, weights, Split(document["split"]))
        if kind == "infer":
            return InferJob(
                plan, prepared, weights, tuple(document["cases"]), Path(document["out"])
            )
    except (KeyError, TypeError, ValueError) as error:
        raise TrainerFailed(f"the job lacks a field or has a wrong one ({error})") from error
    raise TrainerFailed("the job is of an unknown kind")


def result_document(result: Result) -> dict[str, Any]:
    """A result's JSON document."""
    if isinstance(result, TrainResult):
        return {name: _plain(getattr(result, name)) for name in TrainResult.__slots__}
    if isinstance(result, EvaluateResult):
        cases = [
            {
                "case": case.case,
                "scores": dict(case.scores),
                "reference_ml": case.reference_ml,
                "predicted_ml": case.predicted_ml,
            }
            for case in result.cases
        ]
        return {"split": result.split.value, "cases": cases, "seconds": result.seconds}
    if isinstance(result, InferResult):
        masks = {case: str(path) for case, path in result.masks.items()}
        return {"masks": masks, "seconds": result.seconds}
    return {"weights": str(result.weights), "sha256": result.sha256}


def parse_result(job: Job, document: Mapping[str, Any]) -> Result:
    """The result of a job from its document.

    Raises:
        TrainerFailed: when the document lacks a field.
    """
    try:
        if isinstance(job, TrainJob):
            fields = {name: document[name] for name in TrainResult.__slots__}
            return TrainResult(**{**fields, "update": Path(document["update"])})
        if isinstance(job, EvaluateJob):
            cases = tuple(CaseScores(**case) for case in document["cases"])
            return EvaluateResult(Split(document["split"]), cases, document["seconds"])
        if isinstance(job, InferJob):
            masks = {case: Path(path) for case, path in document["masks"].items()}
            return InferResult(masks, document["seconds"])
        return InitialiseResult(Path(document["weights"]), document["sha256"])
    except (KeyError, TypeError, ValueError) as error:
        raise TrainerFailed("the trainer's result lacks a field") from error


def outputs_intact(result: Result) -> bool:
    """Whether the files that a stored result names are still there and unchanged."""
    try:
        if isinstance(result, TrainResult):
            return file_sha256(result.update) == result.sha256
        if isinstance(result, InitialiseResult):
            return file_sha256(result.weights) == result.sha256
        if isinstance(result, InferResult):
            return all(path.is_file() for path in result.masks.values())
    except OSError:
        return False
    return True


def job_key(document: Mapping[str, Any]) -> str:
    """Identity of a job: SHA-256 of its document with sorted keys."""
    return hashlib.sha256(json.dumps(document, sort_keys=True).encode()).hexdigest()


def _plain(value: object) -> object:
    return str(value) if isinstance(value, Path) else value


_KIND_OF: Final[Mapping[type, str]] = {
    TrainJob: "train",
    EvaluateJob: "evaluate",
    InferJob: "infer",
    InitialiseJob: "initialise",
}
