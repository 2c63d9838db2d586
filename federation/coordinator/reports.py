"""What becomes of a site's report: checked, recorded once, answered in words."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import structlog

from federation.audit_chain import AuditChain
from federation.coordinator.objects import ObjectStore, is_name
from federation.coordinator.schema import TaskRow
from federation.coordinator.states import RUN_ENDS, TASK_ENDS, PartState, RoundState, TaskState
from federation.coordinator.store import Change, Store
from federation.coordinator.update_check import UpdateFacts, check_update, check_weight
from federation.encoding import decode
from federation.errors import FingerprintRefused, RequestRefused, TransferFailed, UpdateRefused
from federation.fingerprint import Fingerprint
from federation.plan import Plan, SignedPlan
from federation.update_spec import UpdateSpec
from federation.wire import federation_pb2 as pb
from federation.wire.kinds import update_kind

MAX_WORDS: Final = 300
MAX_METRICS: Final = 256
_NOT_HERE: Final = "the update is not here whole: send it (again)"
_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Ending:
    """How a task ends.

    Attributes:
        state: DONE, REFUSED or FAILED.
        words: why, or "".
        report: what is kept of the report.
    """

    state: TaskState
    words: str
    report: Mapping[str, Any]


def plain_words(text: str) -> str:
    """A site's words as they may be shown: printable, one line, bounded."""
    shown = "".join(c if c.isprintable() else " " for c in text)
    return " ".join(shown.split())[:MAX_WORDS]


class Reports:
    """Takes reports of tasks.

    Args:
        store: the coordinator's state.
        objects: where the updates lie.
        audit: the coordinator's log.
        norm_ratio: see :func:`federation.coordinator.update_check.check_update`.
    """

    def __init__(
        self, store: Store, objects: ObjectStore, audit: AuditChain, norm_ratio: float
    ) -> None:
        self._store = store
        self._objects = objects
        self._audit = audit
        self._norm_ratio = norm_ratio

    def take(self, site: str, report: pb.TaskReport) -> tuple[bool, str]:
        """Record a report.

        Returns:
            Whether it counts, and words: why not.

        Raises:
            RequestRefused: the task is not this site's, or was never given out.
            TransferFailed: the update that it names is not here: it is to be sent (again).
        """
        task = self._store.task(report.task_id)
        if task is None or task.site != site:
            raise RequestRefused("there is no such task of this site")
        if task.state in TASK_ENDS:
            answer = _again(task, report)
            if not answer[0]:
                self._discard(_named(report))
            return answer
        if task.state is TaskState.OPEN:
            raise RequestRefused("the task has not been given to this site yet: ask for it first")
        ending = self._judge(task, report)
        with self._store.change() as change:
            row = change.execute("SELECT state FROM tasks WHERE task_id = ?", (task.task_id,))
            if TaskState(row.fetchone()["state"]) in TASK_ENDS:
                self._discard({*_named(report), str(ending.report.get("update", ""))})
                return False, "the task ended while the report was being checked"
            change.task(task.task_id, ending.state, words=ending.words, report=dict(ending.report))
            if task.kind == "offer":
                _join(change, task, ending)
            elif task.kind == "train" and ending.state is TaskState.DONE:
                if not self._objects.has(ending.report["update"]):
                    raise TransferFailed(_NOT_HERE)
                change.add_update(task)
        if ending.state is TaskState.REFUSED:
            self._discard(_named(report))
        _log.info("task_ended", task=task.task_id, state=ending.state.value)
        detail = {"kind": task.kind, "state": ending.state.value, "words": ending.words}
        self._audit.append(site, "task.reported", task.task_id, detail)
        return ending.state is TaskState.DONE, ending.words

    def _discard(self, names: Iterable[str]) -> None:
        """Drop the objects of a report that does not count, unless something else needs them."""
        with self._store.still():
            kept = self._store.needed_objects()
            for name in names:
                # A report may name anything: what tasks hand out (plans, manifests) stays.
                if is_name(name) and name not in kept and not self._store.hands_out(name):
                    self._objects.drop(name)

    def held_up(self, site: str, task_id: str, words: str) -> None:
        """Keep what a task waits for at its site; empty words: it goes on."""
        said = plain_words(words)
        task = self._store.task(task_id)
        if task is None or task.site != site or said == task.words:
            return
        with self._store.change(quiet=True) as change:
            change.execute(
                "UPDATE tasks SET words = ? WHERE task_id = ? AND state = ?",
                (said, task_id, TaskState.TAKEN.value),
            )

    def leave(self, site: str, run_id: str, words: str) -> str:
        """A site takes no further part in a run; asked again it changes nothing.

        Returns:
            What follows from it, in words for the site.

        Raises:
            RequestRefused: the site was not invited to such a run.
        """
        said = plain_words(words) or "no reason was given"
        with self._store.change() as change:
            sql = "SELECT state FROM run_sites WHERE run_id = ? AND site = ?"
            row = change.execute(sql, (run_id, site)).fetchone()
            if row is None:
                raise RequestRefused("this site was not invited to such a run")
            if self._store.run(run_id).state in RUN_ENDS:
                return "the run is over already"
            if row["state"] == PartState.LEFT:
                return "the site has left already"
            mine = [task for task in self._store.tasks(run_id) if task.site == site]
            change.expire(mine, f"the site left the run: {said}")
            fields = {"words": said, "decided_at": change.now}
            change.part(run_id, site, PartState.LEFT, **fields)
        self._audit.append(site, "run.left", run_id, {"words": said})
        _log.info("site_left", run=run_id, site=site)
        return "the run goes on without this site as far as its plan allows"

    def _judge(self, task: TaskRow, report: pb.TaskReport) -> Ending:
        kept: dict[str, Any] = {"times": _times(report.times)}
        if report.outcome != pb.OUTCOME_DONE:
            refused = report.outcome == pb.OUTCOME_REFUSED
            state = TaskState.REFUSED if refused else TaskState.FAILED
            return Ending(state, plain_words(report.words) or "no reason was given", kept)
        try:
            if task.kind == "offer":
                kept |= self._summary(task, report)
            elif task.kind == "train":
                kept |= self._update(task, report)
            elif task.kind == "evaluate":
                kept["metrics"] = _metrics(report)
            elif task.kind == "fingerprint":
                kept["fingerprint"] = _fingerprint(report)
            elif task.kind == "publish":
                kept["counts"] = _counts(report.counts)
        except UpdateRefused as error:
            return Ending(TaskState.REFUSED, str(error), kept)
        return Ending(TaskState.DONE, self._kept_words(task), kept)

    def _kept_words(self, task: TaskRow) -> str:
        """What a site is told whose update counts for a later round than it was asked in."""
        if task.kind != "train" or self._next_model(task) == task.round:
            return ""
        plan = SignedPlan.from_json(self._store.run(task.run_id).signed_plan).plan
        if plan.strategy.asynchronous:
            return ""
        return f"round {task.round} had closed: the update is kept for the next one"

    def _next_model(self, task: TaskRow) -> int:
        """The round whose model an update that comes now goes into."""
        newest = self._store.rounds(task.run_id)[-1]
        return newest.number + (newest.state is not RoundState.TRAINING)

    def _check_fresh(self, task: TaskRow, plan: Plan, name: str) -> None:
        """Refuse an update that is too stale, and one that the site has sent before.

        Raises:
            UpdateRefused: in words.
        """
        behind = self._next_model(task) - task.round
        if behind > plan.strategy.maximum_staleness:
            raise UpdateRefused(
                f"the update started {behind} models ago, the plan takes at most "
                f"{plan.strategy.maximum_staleness}"
            )
        for other in self._store.tasks(task.run_id, kind="train"):
            sent = (other.report or {}).get("encoded") or (other.report or {}).get("update")
            if other.site == task.site and other.round != task.round and sent == name:
                raise UpdateRefused(
                    f"this very update came for round {other.round} already: it counts once"
                )

    def _summary(self, task: TaskRow, report: pb.TaskReport) -> dict[str, Any]:
        plan = SignedPlan.from_json(self._store.run(task.run_id).signed_plan).plan
        needed = plan.privacy.minimum_training_cases
        summary = report.summary
        if summary.training < needed:
            raise UpdateRefused(
                f"{summary.training} training cases, the plan asks for at least {needed}"
            )
        names = ("training", "validation", "test", "unlabelled")
        return {
            "summary": {
                **{name: int(getattr(summary, name)) for name in names},
                "dataset_hash": plain_words(summary.dataset_hash)[:64],
            }
        }

    def _update(self, task: TaskRow, report: pb.TaskReport) -> dict[str, Any]:
        """Check an update and give what is kept of it."""
        if len(report.payloads) != 1 or report.payloads[0].kind != pb.PAYLOAD_KIND_UPDATE:
            raise UpdateRefused("the report does not name exactly one update")
        payload = report.payloads[0]
        plan = SignedPlan.from_json(self._store.run(task.run_id).signed_plan).plan
        if (payload.update_kind, payload.encoding) != (update_kind(plan.update), plan.update.label):
            raise UpdateRefused("the update is of another kind than the plan asks for")
        joined = {row.site: row for row in self._store.run_sites(task.run_id)}
        available = int(joined[task.site].summary.get("training", 0))
        check_weight(report.cases, available)
        self._check_fresh(task, plan, payload.sha256)
        if not self._objects.has(payload.sha256):
            raise TransferFailed(_NOT_HERE)
        model = next(p for p in task.body["payloads"] if p["kind"] == pb.PAYLOAD_KIND_WEIGHTS)
        names, facts = self._checked(payload.sha256, model["sha256"], plan.update)
        return {
            **names,
            "size": payload.size,
            "cases": report.cases,
            "patches": report.patches,
            "loss": report.loss if math.isfinite(report.loss) else None,
            "norm": facts.norm,
            "global_norm": facts.global_norm,
        }

    def _checked(
        self, name: str, model: str, spec: UpdateSpec
    ) -> tuple[dict[str, str], UpdateFacts]:
        """Check an update that is here; decode it first where it came encoded.

        The decoded weights become an object, which the report names; the object that came stays
        until the round closes, so that a report which comes again finds it.

        Returns:
            What the report keeps of the objects, and what was found.
        """
        came, reference = self._objects.path(name), self._objects.path(model)
        if spec.plain:
            facts = check_update(came, reference, norm_ratio=self._norm_ratio)
            return {"update": name}, facts
        # Unpacked and decoded it is as large as the model at most, each.
        with self._objects.scratch(2 * reference.stat().st_size) as decoded:
            decode(came, reference, decoded, spec)
            facts = check_update(decoded, reference, norm_ratio=self._norm_ratio)
            plain, _ = self._objects.adopt(decoded)
        return {"update": plain, "encoded": name, "encoding": spec.label}, facts


def _named(report: pb.TaskReport) -> set[str]:
    return {payload.sha256 for payload in report.payloads}


def _again(task: TaskRow, report: pb.TaskReport) -> tuple[bool, str]:
    """What a site is told that reports a task which is over: nothing changes any more."""
    if task.state is TaskState.EXPIRED:
        return False, f"too late: {task.words or 'the round went on without it'}"
    if task.state is not TaskState.DONE:
        return False, task.words
    if task.kind == "train" and report.outcome == pb.OUTCOME_DONE:
        kept = task.report or {}
        named = report.payloads[0].sha256 if report.payloads else ""
        if named != (kept.get("encoded") or kept.get("update")) or report.cases != kept["cases"]:
            return False, "another update was taken for this task already: this one changes nothing"
    return True, task.words


def _join(change: Change, task: TaskRow, ending: Ending) -> None:
    """A custodian's answer: a site joins, refuses, or approves (or refuses) an amended plan."""
    sql = "SELECT state FROM run_sites WHERE run_id = ? AND site = ?"
    row = change.execute(sql, (task.run_id, task.site)).fetchone()
    part = PartState(row["state"])
    fields: dict[str, object] = {"words": ending.words, "decided_at": change.now}
    if ending.state is TaskState.DONE:
        fields["summary"] = json.dumps(ending.report["summary"])
        now = change.execute("SELECT plan_hash FROM runs WHERE run_id = ?", (task.run_id,))
        fields["plan_hash"] = task.body.get("plan_hash") or now.fetchone()["plan_hash"]
        change.part(task.run_id, task.site, PartState.JOINED, **fields)
    elif part is PartState.INVITED:
        change.part(task.run_id, task.site, PartState.REJECTED, **fields)


def _times(times: pb.TaskTimes) -> dict[str, float]:
    def _bounded(value: float) -> float:
        return value if math.isfinite(value) and value >= 0 else 0.0

    return {
        "work_s": _bounded(times.work_seconds),
        "download_s": _bounded(times.download_seconds),
        "upload_s": _bounded(times.upload_seconds),
        "downloaded_bytes": int(times.downloaded_bytes),
        "uploaded_bytes": int(times.uploaded_bytes),
    }


def _metrics(report: pb.TaskReport) -> list[dict[str, Any]]:
    if len(report.metrics) > MAX_METRICS:
        raise UpdateRefused(f"{len(report.metrics)} metrics; at most {MAX_METRICS} are taken")
    found = []
    for entry in report.metrics:
        if not (math.isfinite(entry.mean) and math.isfinite(entry.sd)):
            raise UpdateRefused(f"metric {plain_words(entry.metric)[:40]} is not a finite number")
        found.append(
            {
                "split": plain_words(entry.split)[:20],
                "metric": plain_words(entry.metric)[:40],
                "cases": int(entry.cases),
                "mean": entry.mean,
                "sd": entry.sd,
            }
        )
    return found


def _fingerprint(report: pb.TaskReport) -> dict[str, Any]:
    found = Fingerprint.from_json(report.fingerprint)
    if found.sites != 1:
        raise FingerprintRefused(f"a site's fingerprint is of one site, this one of {found.sites}")
    return found.model_dump(mode="json")


def _counts(counts: pb.PublishCounts) -> dict[str, int]:
    names = ("studies", "segmented", "no_finding", "skipped", "failed", "held", "sent")
    return {name: int(getattr(counts, name)) for name in names}
