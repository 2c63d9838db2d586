"""What a site does for each kind of task; everything here may be done again after a kill."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

from federation.amendment import check_amendment
from federation.canonical import write_atomically
from federation.encoding import Feedback, encode
from federation.errors import PlanRefused, SiteFailed, SiteRefused, TrainerLost
from federation.fingerprint import Fingerprint
from federation.learning.prepared import Split
from federation.manifest import ModelManifest
from federation.node.owed import Owed
from federation.node.site_port import EVALUATED, Decision, SitePort
from federation.node.transfer import payload_of
from federation.plan import SignedPlan
from federation.trainer import (
    EvaluateJob,
    EvaluateResult,
    InferJob,
    InferResult,
    Trainer,
    TrainerResources,
    TrainJob,
    TrainResult,
)
from federation.trainer.words import scrubbed
from federation.update_spec import UpdateSpec
from federation.wire import federation_pb2 as pb
from federation.wire.kinds import update_kind
from federation.wire.versions import MESSAGE_FORMAT

TrainerFactory = Callable[[Path, TrainerResources], Trainer]


class OnDemandTrainer(Trainer):
    """A trainer whose process starts with its first job; once closed it never starts again."""

    _over = False

    def start(self) -> None:
        """See :meth:`Trainer.start`.

        Raises:
            TrainerLost: it was closed.
        """
        with self._life:
            if self._over:
                raise TrainerLost("the trainer was closed while a job was waiting")
            super().start()

    def close(self) -> None:
        """Stop the process for good."""
        with self._life:
            self._over = True
            super().close()

    def train(self, job: TrainJob) -> TrainResult:
        """See :meth:`Trainer.train`."""
        self.start()
        return super().train(job)

    def evaluate(self, job: EvaluateJob) -> EvaluateResult:
        """See :meth:`Trainer.evaluate`."""
        self.start()
        return super().evaluate(job)

    def infer(self, job: InferJob) -> InferResult:
        """See :meth:`Trainer.infer`."""
        self.start()
        return super().infer(job)


class RunFiles:
    """The agent's files of one run, below the site's folder of it.

    Args:
        folder: the run's folder in the research zone.
    """

    def __init__(self, folder: Path) -> None:
        self.journal = folder / "agent" / "tasks"
        self.objects = folder / "agent" / "objects"
        self.out = folder / "agent" / "out"
        self.plans = folder / "agent" / "plans"
        self._first_plan = folder / "agent" / "plan.json"
        self.trainer = folder / "trainer"
        self.owed = Owed(folder / "agent" / "owed")
        for made in (self.objects, self.out, self.plans):
            made.mkdir(parents=True, exist_ok=True)

    def keep_plan(self, signed: SignedPlan) -> None:
        """Remember a plan that was offered for this run."""
        write_atomically(self.plans / f"{signed.hash}.json", signed.to_json())

    def plan(self, plan_hash: str) -> SignedPlan | None:
        """A plan that was offered for this run; None where it was not."""
        for path in (self.plans / f"{plan_hash}.json", self._first_plan):
            if path.exists():
                signed = SignedPlan.from_json(path.read_bytes())
                if signed.hash == plan_hash:
                    return signed
        return None

    def object(self, payload: pb.Payload) -> Path:
        """Where a fetched object lies."""
        return self.objects / payload.sha256

    def update(self, task_id: str) -> Path:
        """A task's update as it is sent."""
        return self.out / f"{task_id}.safetensors"

    def trained(self, task_id: str) -> Path:
        """The weights that an encoded update was made of."""
        return self.out / f"{task_id}.trained.safetensors"


def refusal(task: pb.Task, words: str) -> pb.TaskReport:
    """The report of a task that this site will not do."""
    return pb.TaskReport(
        format=MESSAGE_FORMAT,
        task_id=task.task_id,
        outcome=pb.OUTCOME_REFUSED,
        words=scrubbed(words),
    )


def failure(task: pb.Task, words: str) -> pb.TaskReport:
    """The report of a task that this site could not do."""
    return pb.TaskReport(
        format=MESSAGE_FORMAT,
        task_id=task.task_id,
        outcome=pb.OUTCOME_FAILED,
        words=scrubbed(words),
    )


def _done(task: pb.Task) -> pb.TaskReport:
    return pb.TaskReport(format=MESSAGE_FORMAT, task_id=task.task_id, outcome=pb.OUTCOME_DONE)


class Worker:
    """Does tasks with the site's data and a trainer.

    Args:
        site: the site.
        factory: makes the trainer of a run.
    """

    def __init__(self, site: SitePort, factory: TrainerFactory = OnDemandTrainer) -> None:
        self._site = site
        self._factory = factory
        self._trainer: Trainer | None = None
        self._trainer_run = ""

    def do(self, task: pb.Task, files: RunFiles) -> pb.TaskReport | None:
        """Do a task; None where it waits for a person.

        Raises:
            FederationError: it could not be done; the words may travel.
        """
        kinds: Mapping[int, Callable[[pb.Task, RunFiles], pb.TaskReport | None]] = {
            pb.TASK_KIND_OFFER: self._offer,
            pb.TASK_KIND_TRAIN: self._train,
            pb.TASK_KIND_EVALUATE: self._evaluate,
            pb.TASK_KIND_FINGERPRINT: self._fingerprint,
            pb.TASK_KIND_PUBLISH: self._publish,
        }
        if task.kind not in kinds:
            return refusal(task, f"this version does no tasks of kind {task.kind}")
        return kinds[task.kind](task, files)

    def close(self) -> None:
        """Stop the trainer; a job under way ends with ``TrainerLost``."""
        trainer, self._trainer, self._trainer_run = self._trainer, None, ""
        if trainer is not None:
            trainer.close()

    def _offer(self, task: pb.Task, files: RunFiles) -> pb.TaskReport | None:
        payload = _one(task, pb.PAYLOAD_KIND_PLAN)
        signed = SignedPlan.from_json(files.object(payload).read_bytes())
        if signed.hash != task.plan_hash:
            return refusal(task, "the plan that came is not the plan that was announced")
        try:
            self._check_amendment(signed, files)
        except PlanRefused as error:
            return refusal(task, str(error))
        files.keep_plan(signed)
        self._site.offer(signed)
        decision = self._site.decision(signed.hash)
        if decision.decision is Decision.PENDING:
            return None
        if decision.decision is Decision.REJECTED:
            return refusal(task, decision.reason or "the custodian rejected the plan")
        self._site.prepare(signed.hash)
        summary = self._site.summary(signed.hash)
        report = _done(task)
        report.summary.training = summary.training
        report.summary.validation = summary.validation
        report.summary.test = summary.test
        report.summary.unlabelled = summary.unlabelled
        if "fingerprint" in signed.plan.sends:
            report.summary.dataset_hash = summary.dataset_hash
        return report

    def _check_amendment(self, signed: SignedPlan, files: RunFiles) -> None:
        """Refuse an amended plan that changes more than it may, or a plan not approved here.

        Raises:
            PlanRefused: saying what does not fit.
        """
        if signed.plan.amends is None:
            return
        before = files.plan(signed.plan.amends)
        if before is None:
            raise PlanRefused("it amends a plan that was never offered to this site in this run")
        check_amendment(before, signed)
        if self._site.decision(before.hash).decision is not Decision.APPROVED:
            raise PlanRefused("the plan that it amends is not approved at this site")

    def _train(self, task: pb.Task, files: RunFiles) -> pb.TaskReport | None:
        signed = self._approved(task, files)
        if "update" not in signed.plan.sends:
            return refusal(task, "the approved plan does not list updates among what it sends")
        spec = signed.plan.update
        if task.update_kind != update_kind(spec):
            return refusal(task, "the task asks for another kind of update than the approved plan")
        weights = files.object(_one(task, pb.PAYLOAD_KIND_WEIGHTS))
        out = files.update(task.task_id) if spec.plain else files.trained(task.task_id)
        result = self._trainer_for(task.run_id, files).train(
            TrainJob(
                plan=signed.plan,
                prepared=self._site.prepare(signed.hash),
                weights=weights,
                round=task.round - 1,
                out=out,
                turn=task.turn or None,
            )
        )
        report = _done(task)
        report.payloads.append(_sent(task, files, spec, weights))
        report.cases, report.patches = result.cases, result.patches
        if "metrics" in signed.plan.sends:
            report.loss = result.loss
        report.times.work_seconds = result.seconds
        return report

    def _evaluate(self, task: pb.Task, files: RunFiles) -> pb.TaskReport | None:
        signed = self._approved(task, files)
        if "metrics" not in signed.plan.sends:
            return refusal(task, "the approved plan does not list metrics among what it sends")
        payload = _one(task, pb.PAYLOAD_KIND_WEIGHTS)
        weights = files.object(payload)
        prepared = self._site.prepare(signed.hash)
        trainer = self._trainer_for(task.run_id, files)
        report = _done(task)
        for name in task.splits:
            job = EvaluateJob(signed.plan, prepared, weights, Split(name))
            result = trainer.evaluate(job)
            self._keep(payload.sha256, result)
            report.times.work_seconds += result.seconds
            report.metrics.extend(_summaries(result, signed.plan.evaluation.metrics))
        return report

    def _fingerprint(self, task: pb.Task, files: RunFiles) -> pb.TaskReport | None:
        signed = self._approved(task, files)
        if "fingerprint" not in signed.plan.sends:
            return refusal(task, "the approved plan does not list fingerprints among what it sends")
        started = time.monotonic()
        report = _done(task)
        report.fingerprint = Fingerprint.from_json(self._site.fingerprint(signed.hash)).to_json()
        report.times.work_seconds = time.monotonic() - started
        return report

    def _keep(self, weights_sha256: str, result: EvaluateResult) -> None:
        """Let the site remember how well these weights did on its own cases."""
        mean, deviation = result.mean().get("dice"), result.deviation().get("dice")
        if mean is None or deviation is None or not result.cases:
            return
        self._site.record(
            EVALUATED,
            {
                "weights": weights_sha256,
                "split": result.split.value,
                "cases": len(result.cases),
                "mean": round(mean, 4),
                "sd": round(deviation, 4),
            },
        )

    def _publish(self, task: pb.Task, files: RunFiles) -> pb.TaskReport | None:
        payload = _one(task, pb.PAYLOAD_KIND_WEIGHTS)
        raw = files.object(_one(task, pb.PAYLOAD_KIND_MANIFEST)).read_bytes()
        manifest = ModelManifest.from_json(raw)
        if manifest.weights_name != payload.sha256 or manifest.plan_hash != task.plan_hash:
            return refusal(task, "the model's manifest does not belong to its weights and plan")
        weights = files.object(payload)
        self._site.model_offered(manifest, weights)
        started = time.monotonic()
        trainer = self._trainer_for(task.run_id, files)
        counts = self._site.publish(manifest, weights, trainer)
        if counts is None:
            self.close()
            return None
        report = _done(task)
        for name in _COUNTS:
            setattr(report.counts, name, getattr(counts, name))
        report.times.work_seconds = time.monotonic() - started
        self.close()
        return report

    def _approved(self, task: pb.Task, files: RunFiles) -> SignedPlan:
        """The run's plan, if the custodian's approval still stands.

        Raises:
            SiteFailed: the plan is not here.
            SiteRefused: it is not approved (yet, or any more).
        """
        signed = files.plan(task.plan_hash)
        if signed is None:
            raise SiteFailed("the plan that the task names was never offered to this site")
        decision = self._site.decision(signed.hash).decision
        if decision is Decision.PENDING:
            raise SiteRefused("the plan waits for this site's custodian")
        if decision is not Decision.APPROVED:
            raise SiteRefused("the custodian's approval of this plan does not stand")
        return signed

    def _trainer_for(self, run_id: str, files: RunFiles) -> Trainer:
        if self._trainer is None or self._trainer_run != run_id:
            self.close()
            self._trainer = self._factory(files.trainer, self._site.resources())
            self._trainer_run = run_id
        return self._trainer


_COUNTS: Final = ("studies", "segmented", "no_finding", "skipped", "failed", "held", "sent")


def turn_of(task: pb.Task) -> int:
    """The how-manieth training of this site in its run a training task is, from 1."""
    return task.turn or task.round


def _sent(task: pb.Task, files: RunFiles, spec: UpdateSpec, weights: Path) -> pb.Payload:
    """The update as it travels, made of what the trainer has written.

    Raises:
        UpdateRefused: the trainer's weights are not of the model.
    """
    update, name = files.update(task.task_id), "update.safetensors"
    if not spec.plain:
        feedback = None
        if spec.feedback:
            owed = files.owed
            feedback = Feedback(owed.before(turn_of(task)), owed.open(task.task_id))
        encode(files.trained(task.task_id), weights, update, spec, feedback)
        if spec.compression == "zstd":
            name += ".zst"
    payload = payload_of(pb.PAYLOAD_KIND_UPDATE, name, update)
    payload.update_kind, payload.encoding = update_kind(spec), spec.label
    return payload


def _one(task: pb.Task, kind: pb.PayloadKind.ValueType) -> pb.Payload:
    found = [payload for payload in task.payloads if payload.kind == kind]
    if len(found) != 1:
        raise SiteFailed(f"the task names {len(found)} objects where it needs one")
    return found[0]


def _summaries(result: EvaluateResult, wanted: tuple[str, ...]) -> list[pb.MetricSummary]:
    """Mean and SD of each metric: no case's own score leaves the site."""
    means, deviations = result.mean(), result.deviation()
    return [
        pb.MetricSummary(
            split=result.split.value,
            metric=name,
            cases=len(result.cases),
            mean=means[name],
            sd=deviations[name],
        )
        for name in wanted
        if name in means
    ]
