"""The site's agent: asks for tasks, does them, reports them, and survives being killed anywhere."""

from __future__ import annotations

import errno
import itertools
import os
import shutil
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Final

import structlog

from federation.canonical import JSON
from federation.clock import Clock, stamp, utc_now
from federation.enrolment.renewal import Renewal
from federation.errors import (
    CoordinatorUnreachable,
    FederationError,
    IdentityRefused,
    RequestRefused,
    SiteRefused,
    TransferFailed,
    VersionRefused,
    disk_is_full,
)
from federation.node.connection import POLL_S, CoordinatorConnection
from federation.node.greeting import Greeting
from federation.node.journal import Entry, Journal
from federation.node.site_port import SitePort
from federation.node.standing import RECALLED, Standing
from federation.node.states import Step
from federation.node.status import AgentStatus
from federation.node.watch import DATA_KINDS, LOOK_S, Ground, Guard, Look, Objection, look_at
from federation.node.work import (
    OnDemandTrainer,
    RunFiles,
    TrainerFactory,
    Worker,
    failure,
    refusal,
    turn_of,
)
from federation.trainer.words import scrubbed
from federation.where import where
from federation.wire import federation_pb2 as pb

DEFERRED_POLL_S: Final = 2.0
"""How often a task that waits for a person is looked at again."""
KEPT_OBJECTS: Final = 2
"""Fetched objects kept per run: the model evaluated is the next round's start."""
ROOM_LOOK_S: Final = 2.0
"""How often a task that waits for room on the disk is tried again."""
SPARE_BYTES: Final = 1 << 20
"""Free space beyond a task's files that a task needs: journal, state, log."""
ROOM_PATIENCE_S: Final = 60.0
"""How long a task waits for room before it is reported as failed."""
REPORTS: Final = 5
"""How often a result is sent and reported whose bytes the coordinator says it does not have."""
PARTING_LOOK_S: Final = 1.0
"""How often the agent looks for runs whose leaving the coordinator has to be told."""
PARTING_PATIENCE_S: Final = 10.0
"""How long the word of leaving waits for the report of the task under way."""
DISK_FULL: Final = "the node's disk is full: make room; the node goes on by itself"
NO_ROOM: Final = "the disk of this site's node is full"
"""The same for the coordinator."""

Observer = Callable[[str], None]
"""Called with ``step:<step>:entering`` before and ``...:entered`` after a journal entry."""
_log = structlog.get_logger(__name__)


def gives_way(task: pb.Task) -> bool:
    """Whether a task that cannot be done now is better reported than kept waiting.

    Others go on without a round's first request. A repeated one says that the round cannot; a
    failed offer or publication would end the site's part in the run.
    """
    return task.attempt <= 1 and task.kind not in (pb.TASK_KIND_OFFER, pb.TASK_KIND_PUBLISH)


def _unseen(point: str) -> None:
    """Nobody looks."""
    del point


def _nothing() -> None:
    """Nothing has to be done before a journal entry."""


@dataclass(frozen=True, slots=True)
class AgentOptions:
    """What a caller may replace.

    Attributes:
        clock: wall clock.
        observer: sees every step.
        trainers: makes the trainer of a run.
        deferred_poll_s: how often a task that waits for a person is looked at again.
        renewal: renews the site's certificate between two tasks; None never does.
        look_s: longest time between two looks at the site while a task is worked on.
        room_patience_s: how long a task waits for room on the disk before it is reported as failed.
    """

    clock: Clock = utc_now
    observer: Observer = _unseen
    trainers: TrainerFactory = OnDemandTrainer
    deferred_poll_s: float = DEFERRED_POLL_S
    renewal: Renewal | None = None
    look_s: float = LOOK_S
    room_patience_s: float = ROOM_PATIENCE_S


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
        self._greeting = Greeting(connection, site, chosen.renewal, chosen.clock)
        self._options = chosen
        self._news = threading.Event()
        self._letters = threading.Event()
        self._under_way = ""
        self._deferred: dict[str, Entry] = {}
        self._status = AgentStatus()
        self._stop = threading.Event()

    @property
    def certificate_ends(self) -> str:
        """End of the certificate in use, UTC ISO 8601."""
        return self._connection.identity.certificate_ends

    @property
    def status(self) -> AgentStatus:
        """What the agent is doing now, and what it waits for."""
        away, status = self._connection.away, self._status
        status = replace(status, clock_words=self._greeting.clock_words)
        if not away:
            return status
        words = f"{away}; asked again by itself, last answer {status.last_contact or 'none'}"
        return replace(status, connected=False, waits=words)

    def wake(self) -> None:
        """Look now: a decision was taken, a run was left, a patient was withdrawn."""
        self._news.set()
        self._letters.set()

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
        letters = threading.Thread(
            target=self._tell_partings, args=(ended,), name="agent-partings", daemon=True
        )
        try:
            self._greet()
            letters.start()
            while not stop.is_set():
                self._greeting.keep_up()
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
            self._letters.set()
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
        self._greeting.greet()
        self._touch(activity="waiting", waits=self._idle_words())

    def _tell_partings(self, ended: threading.Event) -> None:
        """Tell the coordinator which runs the custodian left; runs in a thread of its own."""
        while not (self._stop.is_set() or ended.is_set()):
            try:
                for parting in self._site.partings():
                    self._await_report(parting.run_id, ended)
                    reply = self._connection.leave(parting.run_id, scrubbed(parting.words))
                    self._site.parted(parting.run_id, reply.words)
            except RequestRefused as error:
                self._site.parted(parting.run_id, str(error))
            except FederationError as error:
                _log.info("parting_not_told", cause=type(error).__name__)
            except Exception as error:  # edge: the thread must not die while the agent lives
                _log.warning("parting_failed", cause=type(error).__name__, where=where(error))
            self._letters.wait(PARTING_LOOK_S)
            self._letters.clear()

    def _await_report(self, run_id: str, ended: threading.Event) -> None:
        """Let the task under way report its refusal first: it says more than this word."""
        until = time.monotonic() + PARTING_PATIENCE_S
        while self._under_way == run_id and time.monotonic() < until and not ended.is_set():
            ended.wait(0.05)

    def _next(self) -> None:
        wait = self._deferred_poll_s if self._deferred else POLL_S
        reply = self._connection.poll(tuple(self._deferred), wait)
        self._touch(activity="waiting", run_id="", round=0, waits=self._idle_words())
        for task_id in reply.ended_task_ids:
            self._deferred.pop(task_id, None)
        if reply.HasField("task"):
            self._do(reply.task)

    def _idle_words(self) -> str:
        count = len(self._deferred)
        if not count:
            return "the coordinator's next task"
        return f"a person's decision on {count} task{'s' if count > 1 else ''}"

    def _look_again(self) -> None:
        for entry in list(self._deferred.values()):
            if not self._stop.is_set():
                self._with_room(entry)

    def _do(self, task: pb.Task) -> None:
        self._touch(
            activity=pb.TaskKind.Name(task.kind).removeprefix("TASK_KIND_").lower(),
            run_id=task.run_id,
            round=task.round,
            waits="",
        )
        if task.kind == pb.TASK_KIND_TRAIN:
            self._settle_earlier(task)
        self._with_room(Entry(task, Step.RECEIVED))

    def _settle_earlier(self, task: pb.Task) -> None:
        """Ask what became of updates whose report a kill cut off: the next one builds on it."""
        owed = self._files(task).owed
        for task_id in owed.unsettled():
            if task_id != task.task_id:
                entry = self._journal(task).read(task_id)
                if entry is not None and entry.step in (Step.WORKED, Step.SENT):
                    self._with_room(entry)
                else:
                    owed.settle(task_id, 0, used=False)

    def _with_room(self, entry: Entry) -> None:
        """Go on with a task; while the disk is full wait, and after a time tell the coordinator."""
        task = entry.task
        began = time.monotonic()
        try:
            while not self._stop.is_set():
                self._under_way = task.run_id
                try:
                    self._go_on(self._known(entry))
                    return
                except OSError as error:
                    if not disk_is_full(error):
                        raise
                self._connection.make_room()
                self._touch(waits=DISK_FULL)
                _log.warning("disk_full", activity=self._status.activity)
                self._connection.stands(task.task_id, 0.0, NO_ROOM)
                waited = time.monotonic() - began
                if gives_way(task) and waited > self._options.room_patience_s:
                    self._deferred.pop(task.task_id, None)
                    self._give_up(failure(task, NO_ROOM))
                    return
                self._await_room(entry.task)
        finally:
            self._under_way = ""

    def _has_room(self, task: pb.Task) -> bool:
        """Whether a result of this task's size can be written: as large as what it came with."""
        needed = 2 * sum(payload.size for payload in task.payloads) + SPARE_BYTES
        return shutil.disk_usage(self._site.run_folder(task.run_id)).free >= needed

    def _await_room(self, task: pb.Task) -> None:
        """Wait for room before work is done again that could not be written down."""
        until = time.monotonic() + self._options.room_patience_s
        while True:
            self._stop.wait(min(ROOM_LOOK_S, self._options.room_patience_s))
            if self._stop.is_set() or self._has_room(task) or time.monotonic() >= until:
                return
            if not self._connection.stands(task.task_id, 0.0, NO_ROOM):
                return

    def _give_up(self, report: pb.TaskReport) -> None:
        """Report a failure of which nothing can be kept."""
        try:
            self._connection.report(report)
        except RequestRefused as error:
            _log.info("report_refused", words=str(error))
        detail: dict[str, JSON] = {
            "task": report.task_id,
            "outcome": "failed",
            "accepted": False,
            "words": report.words,
        }
        with suppress(OSError):  # nothing can be written: the coordinator knows
            self._site.record("task.reported", detail)

    def _known(self, entry: Entry) -> Entry:
        """The task as the journal knows it; a new one is entered there."""
        known = self._journal(entry.task).read(entry.task.task_id)
        return known if known is not None else self._keep(entry)

    def _go_on(self, entry: Entry) -> None:
        """Take a task from its last step to its end, or to where it waits for a person."""
        if entry.step is Step.REPORTED:
            self._report_again(entry)
            return
        known = look_at(self._site, entry.task).objection
        if known is not None and known.waits(entry.task):
            self._defer(entry)
            return
        if known is not None:
            entry = self._refused(entry, known)
        if entry.step is Step.RECEIVED:
            entry = self._fetch(entry)
        for left in itertools.count(REPORTS - 1, -1):
            if entry.step is Step.FETCHED:
                worked = self._work(entry)
                if worked is None:
                    return
                entry = worked
            self._deferred.pop(entry.task.task_id, None)
            entry = self._checked(entry)
            if entry.step is not Step.FETCHED:
                entry = self._checked(self._send(entry))
            if entry.step is Step.SENT:
                entry = self._report(entry, again=left > 0)
            if entry.step is Step.REPORTED:
                return

    def _checked(self, entry: Entry) -> Entry:
        """Before anything leaves: refused where the custodian said so, done again without her.

        A result in whose making a withdrawn patient's data may have had a part is dropped.
        """
        task, report = entry.task, entry.report
        if report is None or report.outcome != pb.OUTCOME_DONE:
            return entry
        look = look_at(self._site, task)
        if look.objection is not None and look.objection.waits(task):
            self._drop_result(task)
            return self._keep(replace(entry.at(Step.FETCHED), report=None))
        if look.objection is not None:
            return self._refused(entry, look.objection)
        if task.kind in DATA_KINDS and look.withdrawn != entry.withdrawn:
            self._site.record("task.repeated", {"task": task.task_id})
            self._drop_result(task)
            # What is owed of earlier rounds holds traces of the withdrawn data too.
            self._files(task).owed.forget()
            return self._keep(replace(entry.at(Step.FETCHED), report=None))
        return entry

    def _refused(self, entry: Entry, objection: Objection) -> Entry:
        """The task as refused: its result, if there is one, is dropped and never leaves."""
        self._drop_result(entry.task)
        report = refusal(entry.task, objection.words)
        moved = entry if entry.step in (Step.WORKED, Step.SENT) else entry.at(Step.WORKED)
        return self._keep(replace(moved, report=report))

    def _defer(self, entry: Entry) -> None:
        task_id = entry.task.task_id
        if task_id not in self._deferred:
            self._site.record("task.waits", {"task": task_id})
        self._deferred[task_id] = entry

    def _drop_result(self, task: pb.Task) -> None:
        files = self._files(task)
        for path in files.out.glob(f"{task.task_id}.*"):
            path.unlink(missing_ok=True)
        files.owed.settle(task.task_id, turn_of(task), used=False)

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
        """Do the work under guard; None where it waits for a person or the agent ends."""
        task = entry.task
        while True:
            standing = Standing(self._connection.stands, task.task_id, self._news)
            guard = self._guard(task, self._worker.close, standing)
            report = None
            if guard.objection is None:
                with standing, guard:
                    report = self._attempt(task)
            if self._stop.is_set():
                # What ended the work may be the stop itself: nothing is kept, it is done again.
                return None
            if guard.objection is not None:
                if guard.objection.waits(task):
                    self._defer(entry)
                    return None
                return self._refused(entry, guard.objection)
            if report is None:
                self._defer(entry)
                return None
            if not (guard.data_changed and task.kind in DATA_KINDS):
                break
            self._site.record("task.repeated", {"task": task.task_id})
            self._drop_result(task)
            # What is owed of earlier rounds holds traces of the withdrawn data too.
            self._files(task).owed.forget()
        if entry.times is not None:
            report.times.download_seconds = entry.times.download_seconds
            report.times.downloaded_bytes = entry.times.downloaded_bytes
        worked = replace(entry.at(Step.WORKED), report=report, withdrawn=guard.began.withdrawn)
        return self._keep(worked)

    def _guard(
        self, task: pb.Task, end_work: Callable[[], None], standing: Standing | None = None
    ) -> Guard:
        def look() -> Look:
            """The site's word, then the coordinator's."""
            found = look_at(self._site, task)
            if found.objection is None and standing is not None and standing.recalled:
                return replace(found, objection=Objection(Ground.RECALLED, RECALLED))
            return found

        return Guard(look, end_work, self._news, self._options.look_s)

    def _attempt(self, task: pb.Task) -> pb.TaskReport | None:
        try:
            return self._worker.do(task, self._files(task))
        except SiteRefused as error:
            return refusal(task, str(error))
        except FederationError as error:
            self._blame_the_disk(task, error)
            return failure(task, str(error))
        except Exception as error:  # edge: only the class name of a foreign error may travel
            self._blame_the_disk(task, error)
            _log.error("task_failed", cause=type(error).__name__, where=where(error))
            return failure(task, f"the site could not do it ({type(error).__name__})")

    def _blame_the_disk(self, task: pb.Task, error: Exception) -> None:
        """Where no room is left it is the cause, whatever a library or the trainer called it.

        Raises:
            OSError: the disk is full.
        """
        if disk_is_full(error) or not self._has_room(task):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)) from error

    def _send(self, entry: Entry) -> Entry:
        """Send the result's objects; those that have arrived move nothing."""
        report, task = entry.report or pb.TaskReport(), entry.task
        self._connection.unwanted.clear()
        guard = self._guard(task, self._connection.unwanted.set)
        try:
            with guard:
                for payload in report.payloads:
                    source = self._files(task).update(task.task_id)
                    moved = self._connection.upload(task.task_id, payload, source)
                    report.times.upload_seconds += moved.seconds
                    report.times.uploaded_bytes += moved.bytes
        except (RequestRefused, TransferFailed, FileNotFoundError) as error:
            if guard.objection is not None or guard.data_changed:
                return entry
            words = "the update is gone" if isinstance(error, FileNotFoundError) else str(error)
            report = failure(task, words)
        if entry.step is Step.SENT:
            return replace(entry, report=report)
        return self._keep(replace(entry.at(Step.SENT), report=report))

    def _report(self, entry: Entry, *, again: bool) -> Entry:
        """Report a result; ``again``: one that the coordinator does not have is left to be sent."""
        task, report = entry.task, entry.report or pb.TaskReport()
        try:
            reply = self._connection.report(report)
            accepted, words = reply.accepted, reply.words
        except TransferFailed as error:
            if again:
                return entry
            accepted, words = False, str(error)
        except RequestRefused as error:
            accepted, words = False, str(error)
        owed, number = self._files(task).owed, turn_of(task)
        entry = self._keep(
            entry.at(Step.REPORTED),
            lambda: owed.settle(task.task_id, number, used=accepted),
        )
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
        return entry

    def _report_again(self, entry: Entry) -> None:
        """The coordinator asks for a task that it has had reported: its state was set back."""
        try:
            self._connection.report(entry.report or failure(entry.task, "already reported"))
        except (RequestRefused, TransferFailed) as error:
            self._connection.report(failure(entry.task, f"reported before: {error}"))

    def _tidy(self, task: pb.Task) -> None:
        files = self._files(task)
        for path in (files.update(task.task_id), files.trained(task.task_id)):
            path.unlink(missing_ok=True)
        if task.kind == pb.TASK_KIND_PUBLISH:
            files.owed.forget()
            self._connection.make_room()
        kept = sorted(files.objects.glob("*"), key=lambda path: path.stat().st_mtime, reverse=True)
        if task.kind in (pb.TASK_KIND_TRAIN, pb.TASK_KIND_EVALUATE):
            for path in kept[KEPT_OBJECTS:]:
                self._connection.retire(path)
            self._journal(task).forget_before(task.round)

    def _keep(self, entry: Entry, first: Callable[[], None] = _nothing) -> Entry:
        self._observer(f"step:{entry.step}:entering")
        first()
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
