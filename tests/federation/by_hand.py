"""A site whose every message the test sends itself: it decides what comes when."""

from __future__ import annotations

from pathlib import Path

from safetensors.numpy import load_file, save_file

from federation.node.connection import CoordinatorConnection, RetryPolicy
from federation.node.transfer import payload_of
from federation.wire import federation_pb2 as pb
from tests.federation.doubles import Federation, trained
from tests.waiting import wait_for


class HandSite:
    """A site driven by the test through the real listener.

    Args:
        federation: what it belongs to.
        name: its name.
        cases: its training cases.
    """

    def __init__(self, federation: Federation, name: str, cases: int = 3) -> None:
        self.name = name
        self.cases = cases
        self.folder = federation.folder / f"{name}-by-hand"
        self.folder.mkdir()
        self.connection = CoordinatorConnection(
            federation.enrolled(name), retry=RetryPolicy(first_s=0.05, longest_s=0.2)
        )
        self._federation = federation
        self._sent = pb.TaskReport()

    def close(self) -> None:
        """End the connection."""
        self.connection.close()

    def poll(self, deferred: tuple[str, ...] = ()) -> pb.Task | None:
        """The task that is given now, or None."""
        reply = self.connection.poll(deferred, 0.0)
        return reply.task if reply.HasField("task") else None

    def task(self, kind: str, number: int | None = None) -> pb.Task:
        """The next task of a kind (and round); evaluations and publications are done on the way."""
        wanted = getattr(pb, f"TASK_KIND_{kind.upper()}")

        def found() -> pb.Task | None:
            task = self.poll()
            if task is None:
                return None
            if task.kind == wanted and number in (None, task.round):
                return task
            self._pass(task)
            return None

        return wait_for(found, what=f"{kind} for {self.name}", seconds=30)

    def idle(self) -> None:
        """Evaluate or publish where that is asked for; training and offers wait."""
        task = self.poll()
        if task is not None:
            self._pass(task)

    def _pass(self, task: pb.Task) -> None:
        if task.kind in (pb.TASK_KIND_EVALUATE, pb.TASK_KIND_PUBLISH):
            self.done(task)

    def done(self, task: pb.Task) -> pb.ReportReply:
        """Report a task as done that brings nothing."""
        return self.end(task, pb.OUTCOME_DONE)

    def end(self, task: pb.Task, outcome: pb.Outcome.ValueType, words: str = "") -> pb.ReportReply:
        """Report a task without objects."""
        report = pb.TaskReport(format=1, task_id=task.task_id, outcome=outcome, words=words)
        return self.connection.report(report)

    def join(self, task: pb.Task | None = None) -> pb.ReportReply:
        """Approve the plan that is offered."""
        offer = task or self.task("offer")
        report = pb.TaskReport(format=1, task_id=offer.task_id, outcome=pb.OUTCOME_DONE)
        report.summary.training = self.cases
        return self.connection.report(report)

    def train(self, task: pb.Task) -> pb.ReportReply:
        """Train as the numbers of :mod:`doubles` do, send and report the update."""
        weights = next(p for p in task.payloads if p.kind == pb.PAYLOAD_KIND_WEIGHTS)
        model = load_file(self._federation.coordinator.objects.path(weights.sha256))
        step = (task.turn or task.round) - 1
        out = self.folder / f"{task.task_id}.safetensors"
        save_file(trained(self.name, step, model), out)
        return self.send(task, out)

    def send(self, task: pb.Task, out: Path) -> pb.ReportReply:
        """Send a file as a task's update and report it."""
        payload = payload_of(pb.PAYLOAD_KIND_UPDATE, "update.safetensors", out)
        payload.update_kind = pb.UPDATE_KIND_PLAIN
        self.connection.upload(task.task_id, payload, out)
        report = pb.TaskReport(
            format=1, task_id=task.task_id, outcome=pb.OUTCOME_DONE, cases=self.cases
        )
        report.payloads.append(payload)
        self._sent = report
        return self.connection.report(report)

    def again(self) -> pb.ReportReply:
        """Report the last training once more, as after a lost acknowledgement."""
        return self.connection.report(self._sent)
