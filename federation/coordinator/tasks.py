"""Tasks as they are stored, and as messages."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Final, cast

from federation.coordinator.schema import RoundRow, RunRow, TaskRow
from federation.coordinator.states import TaskState
from federation.update_spec import UpdateSpec
from federation.wire import federation_pb2 as pb
from federation.wire.kinds import update_kind
from federation.wire.versions import MESSAGE_FORMAT

KINDS: Final[Mapping[str, int]] = {
    "offer": pb.TASK_KIND_OFFER,
    "train": pb.TASK_KIND_TRAIN,
    "evaluate": pb.TASK_KIND_EVALUATE,
    "fingerprint": pb.TASK_KIND_FINGERPRINT,
    "publish": pb.TASK_KIND_PUBLISH,
    "key-exchange": pb.TASK_KIND_KEY_EXCHANGE,
}
"""Stored name of a task kind to the protocol's number."""


def _payload(kind: int, name: str, sha256: str, size: int) -> dict[str, Any]:
    return {"kind": kind, "name": name, "sha256": sha256, "size": size}


def _weights(at: RoundRow) -> dict[str, Any]:
    return _payload(
        pb.PAYLOAD_KIND_WEIGHTS,
        f"global-{at.number:05d}.safetensors",
        str(at.weights_sha256),
        int(at.weights_size or 0),
    )


def offer_body(sha256: str, size: int) -> dict[str, Any]:
    """The body of an offer of a signed plan."""
    return {"payloads": [_payload(pb.PAYLOAD_KIND_PLAN, "plan.json", sha256, size)]}


def train_body(before: RoundRow, update: UpdateSpec) -> dict[str, Any]:
    """The body of a training task that starts from the model of round ``before``."""
    return {"payloads": [_weights(before)], "update_kind": int(update_kind(update))}


def evaluate_body(at: RoundRow, splits: Sequence[str]) -> dict[str, Any]:
    """The body of an evaluation of the model of round ``at``."""
    return {"payloads": [_weights(at)], "splits": list(splits)}


def fingerprint_body() -> dict[str, Any]:
    """The body of the question for a data set's fingerprint: the plan says it all."""
    return {"payloads": []}


def publish_body(manifest_sha256: str, manifest_size: int, last: RoundRow) -> dict[str, Any]:
    """The body of the publication of the final model."""
    manifest = _payload(pb.PAYLOAD_KIND_MANIFEST, "manifest.json", manifest_sha256, manifest_size)
    return {"payloads": [manifest, _weights(last)]}


def task_for(
    run: RunRow, number: int, site: str, kind: str, body: Mapping[str, Any], attempt: int = 1
) -> TaskRow:
    """A new open task; its id follows from what it is, so making it twice makes one.

    The store sets the time of its creation.
    """
    return TaskRow(
        task_id=f"{run.run_id}.{number:05d}.{kind}.{site}.{attempt}",
        run_id=run.run_id,
        round=number,
        site=site,
        kind=kind,
        attempt=attempt,
        state=TaskState.OPEN,
        body={"plan_hash": run.plan_hash, **body},
        report=None,
        words="",
        created_at="",
        taken_at=None,
        ended_at=None,
    )


def newest_per_site(tasks: Sequence[TaskRow]) -> list[TaskRow]:
    """Of several attempts the newest of each site, ordered by site."""
    newest: dict[str, TaskRow] = {}
    for task in tasks:
        if task.site not in newest or task.attempt > newest[task.site].attempt:
            newest[task.site] = task
    return [newest[site] for site in sorted(newest)]


def splits_due(number: int, every: int, rounds: int) -> tuple[str, ...]:
    """On what the model of a round is evaluated: test cases only before and after all training.

    >>> splits_due(0, 8, 24), splits_due(8, 8, 24), splits_due(9, 8, 24), splits_due(24, 8, 24)
    (('validation', 'test'), ('validation',), (), ('validation', 'test'))
    """
    if number in (0, rounds):
        return ("validation", "test")
    return ("validation",) if number % every == 0 else ()


def with_weights(at: RoundRow, sha256: str, size: int) -> RoundRow:
    """The round as it is once its model exists."""
    return replace(at, weights_sha256=sha256, weights_size=size)


def task_message(task: TaskRow, plan_hash: str, seconds_left: float) -> pb.Task:
    """A stored task as it travels."""
    return pb.Task(
        format=MESSAGE_FORMAT,
        task_id=task.task_id,
        run_id=task.run_id,
        kind=cast("pb.TaskKind.ValueType", KINDS[task.kind]),
        round=task.round,
        plan_hash=task.body.get("plan_hash", plan_hash),
        payloads=[pb.Payload(**payload) for payload in task.body["payloads"]],
        splits=task.body.get("splits", ()),
        seconds_left=seconds_left,
        update_kind=task.body.get("update_kind", pb.UPDATE_KIND_UNSPECIFIED),
        attempt=task.attempt,
        turn=task.body.get("turn", 0),
    )
