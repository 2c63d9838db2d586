"""The site's agent: asks for tasks, does them, reports them, and survives being killed anywhere."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final

import structlog

from federation.canonical import JSON
from federation.clock import Clock, stamp, utc_now
from federation.enrolment.renewal import Renewal
from federation.errors import (
    CoordinatorUnreachable,
    EnrolmentRefused,
    FederationError,
    IdentityRefused,
    RequestRefused,
    TransferFailed,
    VersionRefused,
)
from federation.node.connection import POLL_S, CoordinatorConnection
from federation.node.journal import Entry, Journal
from federation.node.site_port import SitePort
from federation.node.states import Step
from federation.node.work import OnDemandTrainer, RunFiles, TrainerFactory, Worker, failure
from federation.where import where
from federation.wire import federation_pb2 as pb

DEFERRED_POLL_S: Final = 2.0
"""How often a task that waits for a person is looked at again."""
KEPT_OBJECTS: Final = 3
"""Fetched objects kept per run: the model evaluated is the next round's start."""

Observer = Callable[[str], None]
"""Called with ``step:<step>:entering`` before and ``...:entered`` after a journal entry."""
_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class AgentStatus:
    """What the agent is doing, for the control API.

    Attributes:
        connected: whether the last call was answered.
        activity: ``waiting``, or a task's kind.
        run_id: the task's run, or "".
        round: the task's round.
        deferred: tasks that wait for a person.
        last_contact: UTC ISO 8601, or "".
        words: why the agent ended, or "".
    """

    connected: bool = False
    activity: str = "starting"
    run_id: str = ""
    round: int = 0
    deferred: int = 0
    last_contact: str = ""
    words: str = ""


def _unseen(point: str) -> None:
    """Nobody looks."""
    del point


@dataclass(frozen=True, slots=True)
class AgentOptions:
    """What a caller may replace.

    Attributes:
        clock: wall clock.
        observer: sees every step.
        trainers: makes the trainer of a run.
        deferred_poll_s: how often a task that waits for a person is looked at again.
        renewal: renews the site's certificate between two tasks; None never does.
    """

    clock: Clock = utc_now
    observer: Observer = _unseen
    trainers: TrainerFactory = OnDemandTrainer
    deferred_poll_s: float = DEFERRED_POLL_S
    renewal: Renewal | None = None


class SiteAgent:
    """Does one task after the other until told to stop.

    Args:
        connection: to the coordinator.
        site: the site's port.
        options: edges and times.
    """

    def __init__(
        self,
        connection: CoordinatorConnection,
        site: SitePort,
        options: AgentOptions | None = None,
    ) -> None:
        chosen = options or AgentOptions()
        self._connection = connection
        self._site = site
        self._clock = chosen.clock
        self._observer = chosen.observer
        self._worker = Worker(site, chosen.trainers)
        self._deferred_poll_s = chosen.deferred_poll_s
        self._renewal = chosen.renewal
        self._deferred: dict[str, Entry] = {}
        self._status = AgentStatus()
        self._stop = threading.Event()

    @property
    def certificate_ends(self) -> str:
        """End of the certificate in use, UTC ISO 8601."""
        return self._connection.identity.certificate_ends

    @property
    def status(self) -> AgentStatus:
        """What the agent is doing now."""
        return self._status

    def run(self, stop: threading.Event) -> None:
        """Work until ``stop`` is set; the connection is closed at the end.

        Raises:
            IdentityRefused: the coordinator does not accept this site (revoked, ...).
            VersionRefused: no common protocol version.
        """
        self._stop = stop
        self._connection.stop = stop
        ended = threading.Event()
        watch = threading.Thread(
            target=self._end_on, args=(stop, ended), name="agent-stop", daemon=True
        )
        watch.start()
        try:
            self._greet()
            while not stop.is_set():
                self._renew()
                self._look_again()
                self._next()
        except CoordinatorUnreachable:
            if not stop.is_set():
                raise
        except (IdentityRefused, VersionRefused) as error:
            self._status = replace(self._status, connected=False, words=str(error))
            self._site.record("federation.refused", {"words": str(error)})
            raise
        finally:
            ended.set()
            self._worker.close()
            self._connection.close()

    def _end_on(self, stop: threading.Event, ended: threading.Event) -> None:
        """Break off what the agent waits for once ``stop`` is set."""
        while not ended.is_set():
            if stop.wait(0.5):
                self._worker.close()
                self._connection.close()
                return

    def _greet(self) -> None:
        reply = self._connection.handshake()
        self._touch(activity="waiting")
        detail: dict[str, JSON] = {
            "protocol": reply.protocol_version,
            "coordinator": reply.software_version,
            "project": reply.project,
            "certificate_ends": reply.certificate_ends,
        }
        self._site.record("federation.connected", detail)

    def _renew(self) -> None:
        """Renew the certificate when its time has come; a failure waits for the next try."""
        renewal, present = self._renewal, self._connection.identity
        if renewal is None or not renewal.due(present):
            return
        try:
            renewed = renewal.renew(present, self._connection.renew)
        except (RequestRefused, EnrolmentRefused, OSError) as error:
            _log.warning("certificate_not_renewed", cause=type(error).__name__)
            self._site.record("certificate.not_renewed", {"words": str(error)})
            return
        self._connection.use(renewed)
        self._greet()
        detail: dict[str, JSON] = {"serial": renewed.serial, "ends": renewed.certificate_ends}
        self._site.record("certificate.renewed", detail)

    def _next(self) -> None:
        wait = self._deferred_poll_s if self._deferred else POLL_S
        reply = self._connection.poll(tuple(self._deferred), wait)
        self._touch(activity="waiting", run_id="", round=0)
        for task_id in reply.ended_task_ids:
            self._deferred.pop(task_id, None)
        if reply.HasField("task"):
            self._do(reply.task)

    def _look_again(self) -> None:
        for entry in list(self._deferred.values()):
            if not self._stop.is_set():
                self._go_on(entry)

    def _do(self, task: pb.Task) -> None:
        self._touch(
            activity=pb.TaskKind.Name(task.kind).removeprefix("TASK_KIND_").lower(),
            run_id=task.run_id,
            round=task.round,
        )
        entry = self._journal(task).read(task.task_id)
        if entry is None:
            entry = self._keep(Entry(task, Step.RECEIVED))
        self._go_on(entry)

    def _go_on(self, entry: Entry) -> None:
        """Take a task from its last step to its end, or to where it waits for a person."""
        if entry.step is Step.RECEIVED:
            entry = self._fetch(entry)
        if entry.step is Step.FETCHED:
            worked = self._work(entry)
            if worked is None:
                return
            entry = worked
        self._deferred.pop(entry.task.task_id, None)
        if entry.step in (Step.WORKED, Step.SENT):
            entry = self._send(entry)
            self._report(entry)
        elif entry.step is Step.REPORTED:
            self._report_again(entry)

    def _fetch(self, entry: Entry) -> Entry:
        task, files = entry.task, self._files(entry.task)
        times = pb.TaskTimes()
        try:
            for payload in task.payloads:
                moved = self._connection.download(task.task_id, payload, files.object(payload))
                times.download_seconds += moved.seconds
                times.downloaded_bytes += moved.bytes
        except (RequestRefused, TransferFailed) as error:
            return self._keep(replace(entry.at(Step.WORKED), report=failure(task, str(error))))
        return self._keep(replace(entry.at(Step.FETCHED), times=times))

    def _work(self, entry: Entry) -> Entry | None:
        task = entry.task
        try:
            report = self._worker.do(task, self._files(task))
        except FederationError as error:
            report = failure(task, str(error))
        except Exception as error:  # edge: only the class name of a foreign error may travel
            _log.error("task_failed", cause=type(error).__name__, where=where(error))
            report = failure(task, f"the site could not do it ({type(error).__name__})")
        if self._stop.is_set():
            # What ended the work may be the stop itself: nothing is kept, it is done again.
            return None
        if report is None:
            if task.task_id not in self._deferred:
                self._site.record("task.waits", {"task": task.task_id})
            self._deferred[task.task_id] = entry
            return None
        if entry.times is not None:
            report.times.download_seconds = entry.times.download_seconds
            report.times.downloaded_bytes = entry.times.downloaded_bytes
        return self._keep(replace(entry.at(Step.WORKED), report=report))

    def _send(self, entry: Entry) -> Entry:
        """Send the result's objects; those that have arrived move nothing."""
        report, task = entry.report or pb.TaskReport(), entry.task
        try:
            for payload in report.payloads:
                source = self._files(task).out / f"{task.task_id}.safetensors"
                moved = self._connection.upload(task.task_id, payload, source)
                report.times.upload_seconds += moved.seconds
                report.times.uploaded_bytes += moved.bytes
        except (RequestRefused, TransferFailed, FileNotFoundError) as error:
            words = "the update is gone" if isinstance(error, FileNotFoundError) else str(error)
            report = failure(task, words)
        if entry.step is Step.SENT:
            return replace(entry, report=report)
        return self._keep(replace(entry.at(Step.SENT), report=report))

    def _report(self, entry: Entry) -> None:
        task, report = entry.task, entry.report or pb.TaskReport()
        try:
            reply = self._connection.report(report)
            accepted, words = reply.accepted, reply.words
        except RequestRefused as error:
            accepted, words = False, str(error)
        self._keep(entry.at(Step.REPORTED))
        self._touch()
        detail: dict[str, JSON] = {
            "task": task.task_id,
            "outcome": pb.Outcome.Name(report.outcome).removeprefix("OUTCOME_").lower(),
            "accepted": accepted,
            "words": words or report.words,
            "cases": report.cases,
            "seconds": round(report.times.work_seconds, 3),
            "sent_bytes": report.times.uploaded_bytes,
        }
        self._site.record("task.reported", detail)
        self._tidy(task)

    def _report_again(self, entry: Entry) -> None:
        """The coordinator asks for a task that it has had reported: its state was set back."""
        try:
            self._connection.report(entry.report or failure(entry.task, "already reported"))
        except RequestRefused as error:
            self._connection.report(failure(entry.task, f"reported before: {error}"))

    def _tidy(self, task: pb.Task) -> None:
        files = self._files(task)
        (files.out / f"{task.task_id}.safetensors").unlink(missing_ok=True)
        kept = sorted(files.objects.glob("*"), key=lambda path: path.stat().st_mtime, reverse=True)
        if task.kind in (pb.TASK_KIND_TRAIN, pb.TASK_KIND_EVALUATE):
            for path in kept[KEPT_OBJECTS:]:
                path.unlink(missing_ok=True)
            self._journal(task).forget_before(task.round)

    def _keep(self, entry: Entry) -> Entry:
        self._observer(f"step:{entry.step}:entering")
        self._journal(entry.task).write(entry)
        self._observer(f"step:{entry.step}:entered")
        return entry

    def _files(self, task: pb.Task) -> RunFiles:
        return RunFiles(self._site.run_folder(task.run_id))

    def _journal(self, task: pb.Task) -> Journal:
        return Journal(self._files(task).journal)

    def _touch(self, **fields: str | int) -> None:
        self._status = replace(
            self._status,
            connected=True,
            last_contact=stamp(self._clock()),
            deferred=len(self._deferred),
            **fields,  # type: ignore[arg-type]
        )
