"""The inside of the trainer process: jobs from the inbox, results into the outbox."""

import json
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import IO, Any, Final

import structlog
import torch
from torch import nn

from federation.errors import FederationError, PreparedDataRefused, TrainerFailed
from federation.learning.evaluation import evaluate_case
from federation.learning.inference import predict
from federation.learning.networks import build_network, initial_weights, load_weights, save_weights
from federation.learning.prepared import (
    PredictedMask,
    PreparedFolder,
    write_atomically,
    write_mask,
)
from federation.learning.state import load_state, newest_before, save_state
from federation.learning.training import train_round
from federation.plan import Plan
from federation.trainer.jobs import (
    MAX_JOB_BYTES,
    CaseScores,
    EvaluateJob,
    EvaluateResult,
    InferJob,
    InferResult,
    InitialiseJob,
    InitialiseResult,
    Job,
    Result,
    TrainJob,
    TrainResult,
    file_sha256,
    parse_job,
    result_document,
)
from federation.trainer.states import JobStep
from federation.trainer.words import cause_of

POISONED: Final = 3
"""Exit status after an error from which a process cannot recover, such as a failed CUDA kernel."""
PROGRESS_SECONDS: Final = 0.5
"""Least time between two writings of the progress file."""

Observer = Callable[[str], None]
"""Called with ``<kind>:<step>:entering`` before a step of a job and ``...:entered`` after it."""

_log = structlog.get_logger(__name__)


def unseen(point: str) -> None:
    """Nobody looks."""
    del point


class Server:
    """Does the jobs of one trainer folder.

    Args:
        folder: The trainer's folder with ``inbox``, ``outbox`` and ``state``.
        threads: CPU threads for tensor work.
        device: Torch device.
        clock: Seconds, monotonic.
        observer: Sees every step.
    """

    def __init__(
        self,
        folder: Path,
        *,
        threads: int = 1,
        device: str = "cpu",
        clock: Callable[[], float] = time.monotonic,
        observer: Observer = unseen,
    ) -> None:
        self._folder = folder
        self._observer = observer
        self._kind = ""
        self._device = torch.device(device)
        self._clock = clock
        self._progress_at = float("-inf")
        self._prepared: tuple[Path, str, PreparedFolder] | None = None
        torch.set_num_threads(threads)
        torch.use_deterministic_algorithms(True, warn_only=True)
        for name in ("inbox", "outbox", "state"):
            (folder / name).mkdir(parents=True, exist_ok=True)

    def serve(self, calls: IO[bytes], answers: IO[bytes]) -> None:
        """Work until ``calls`` ends; write a line to ``answers`` after each job."""
        for _ in calls:
            for name in self.pending():
                whole = self.do(name)
                answers.write(name.encode() + b"\n")
                answers.flush()
                if not whole:
                    raise SystemExit(POISONED)

    def pending(self) -> list[str]:
        """Names of jobs without a result, by number."""
        names = sorted(path.name for path in (self._folder / "inbox").glob("[0-9]*.json"))
        return [name for name in names if not (self._folder / "outbox" / name).exists()]

    def do(self, name: str) -> bool:
        """Do one job and write its result or its error; False where no further job can be done."""
        whole = True
        answer: dict[str, Any] = {"ok": False, "key": None}
        try:
            envelope = self._envelope(name)
            answer["key"] = envelope.get("key")
            self._kind = str(envelope["job"].get("kind"))
            with self._step(JobStep.TAKEN):
                job = parse_job(envelope["job"])
            answer["result"] = result_document(self._perform(job, envelope["job"]))
            answer["ok"] = True
        except FederationError as error:
            answer["error"] = str(error)
        except Exception as error:  # edge: a job must end with an answer, whatever torch raises
            _log.exception("job_failed")
            cause = cause_of(type(error).__name__, str(error))
            answer["error"] = cause.words
            whole = not cause.poisoned
        with self._step(JobStep.ANSWERED):
            write_atomically(self._folder / "outbox" / name, json.dumps(answer).encode())
        return whole

    @contextmanager
    def _step(self, step: JobStep) -> Iterator[None]:
        """A step of the present job, seen before and after."""
        self._observer(f"{self._kind}:{step}:entering")
        yield
        self._observer(f"{self._kind}:{step}:entered")

    def _envelope(self, name: str) -> dict[str, Any]:
        path = self._folder / "inbox" / name
        if path.stat().st_size > MAX_JOB_BYTES:
            raise TrainerFailed("the job file is too large")
        envelope = json.loads(path.read_bytes())
        if not isinstance(envelope, dict) or not isinstance(envelope.get("job"), dict):
            raise TrainerFailed("the job file does not hold a job")
        return envelope

    def _perform(self, job: Job, document: Mapping[str, Any]) -> Result:
        begin = self._clock()
        self._progress_at = float("-inf")
        if isinstance(job, InitialiseJob):
            with self._step(JobStep.WRITTEN):
                return InitialiseResult(job.out, initial_weights(job.plan, job.out))
        with self._step(JobStep.OPENED):
            if file_sha256(job.weights) != document.get("weights_sha256"):
                raise TrainerFailed("the weights file has changed since the job was given")
            folder = self._open(job.prepared, str(document.get("manifest_sha256")))
            _check_inputs(job.plan, folder)
            network = build_network(job.plan)
            load_weights(network, job.weights)
            network.to(self._device)
        if isinstance(job, TrainJob):
            return self._train(job, folder, network, begin)
        if isinstance(job, EvaluateJob):
            return self._evaluate(job, folder, network, begin)
        return self._infer(job, folder, network, begin)

    def _train(
        self, job: TrainJob, folder: PreparedFolder, network: nn.Module, begin: float
    ) -> TrainResult:
        states = self._folder / "state"
        earlier = newest_before(states, job.step)
        total_loss = 0.0

        def on_step(done: int, steps: int, loss: float) -> None:
            """Report the mean loss so far."""
            nonlocal total_loss
            total_loss += loss
            self._report(job.round, done, steps, total_loss / done)

        with self._step(JobStep.WORKED):
            outcome = train_round(
                network,
                job.plan,
                folder,
                job.round,
                state=load_state(earlier) if earlier is not None else None,
                on_step=on_step,
            )
        with self._step(JobStep.WRITTEN):
            sha256 = save_weights(network, job.out)
        with self._step(JobStep.KEPT):
            save_state(states, replace(outcome.state, round=job.step))
        return TrainResult(
            update=job.out,
            sha256=sha256,
            size=job.out.stat().st_size,
            cases=outcome.cases,
            patches=outcome.patches,
            steps=outcome.steps,
            loss=outcome.loss,
            learning_rate=outcome.learning_rate,
            seconds=self._clock() - begin,
        )

    def _evaluate(
        self, job: EvaluateJob, folder: PreparedFolder, network: nn.Module, begin: float
    ) -> EvaluateResult:
        entries = [e for e in folder.manifest.of_split(job.split) if e.labelled]
        scores: list[CaseScores] = []
        with self._step(JobStep.WORKED):
            for number, entry in enumerate(entries, start=1):
                scores.append(evaluate_case(network, folder.case(entry), job.plan))
                self._report(None, number, len(entries), None, kind="evaluate")
        return EvaluateResult(job.split, tuple(scores), self._clock() - begin)

    def _infer(
        self, job: InferJob, folder: PreparedFolder, network: nn.Module, begin: float
    ) -> InferResult:
        job.out.mkdir(parents=True, exist_ok=True)
        masks: dict[str, Path] = {}
        with self._step(JobStep.WORKED):
            for number, name in enumerate(job.cases, start=1):
                case = folder.case(folder.manifest.entry(name))
                masks[name] = job.out / f"{name}.safetensors"
                predicted = PredictedMask(predict(network, case, job.plan), case.affine)
                write_mask(masks[name], predicted)
                self._report(None, number, len(job.cases), None, kind="infer")
        return InferResult(masks, self._clock() - begin)

    def _open(self, path: Path, manifest_sha256: str) -> PreparedFolder:
        """The prepared folder, kept open (with its cached cases) while its manifest is the same."""
        if self._prepared is None or self._prepared[:2] != (path, manifest_sha256):
            self._prepared = (path, manifest_sha256, PreparedFolder(path))
        return self._prepared[2]

    def _report(
        self,
        round_number: int | None,
        done: int,
        total: int,
        loss: float | None,
        *,
        kind: str = "train",
    ) -> None:
        now = self._clock()
        if done < total and now - self._progress_at < PROGRESS_SECONDS:
            return
        self._progress_at = now
        progress = {"kind": kind, "round": round_number, "done": done, "total": total}
        path = self._folder / "progress.json"
        partial = path.with_suffix(".part")
        partial.write_text(json.dumps({**progress, "loss": loss}))
        partial.replace(path)


def _check_inputs(plan: Plan, folder: PreparedFolder) -> None:
    wanted = tuple(entry.modality for entry in plan.inputs)
    channels = folder.manifest.channels
    if folder.manifest.preparation != plan.preparation:
        raise PreparedDataRefused("the prepared folder follows another plan's preparation")
    if channels and channels != wanted:
        raise PreparedDataRefused(
            f"the prepared folder has the channels {', '.join(channels)},"
            f" the plan wants {', '.join(wanted)}"
        )
