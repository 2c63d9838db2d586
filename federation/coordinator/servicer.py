"""The two gRPC services as the coordinator answers them."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Final, Never, cast

import grpc
import structlog

from federation.audit_chain import AuditChain
from federation.chunks import ChunkList
from federation.clock import Clock, parse_stamp, stamp
from federation.coordinator.causes import Cause
from federation.coordinator.front import Identity, TlsFront
from federation.coordinator.objects import ObjectStore, check_name
from federation.coordinator.registry import Registry
from federation.coordinator.reports import Reports
from federation.coordinator.schema import TaskRow
from federation.coordinator.states import TASK_ENDS, RoundState, TaskState
from federation.coordinator.store import Store
from federation.coordinator.tasks import task_message
from federation.errors import (
    EnrolmentRefused,
    FederationError,
    IdentityRefused,
    NoRoom,
    RequestRefused,
    TransferFailed,
    TransferMoved,
    VersionRefused,
)
from federation.wire import federation_pb2 as pb
from federation.wire.federation_pb2_grpc import EnrolmentServicer, FederationServicer
from federation.wire.frames import Piece
from federation.wire.versions import MESSAGE_FORMAT, negotiate, software_version

LONGEST_POLL_S: Final = 20.0
MAX_DEFERRED: Final = 256
_log = structlog.get_logger(__name__)

_CODES: Final = (
    (EnrolmentRefused, grpc.StatusCode.PERMISSION_DENIED),
    (IdentityRefused, grpc.StatusCode.UNAUTHENTICATED),
    (VersionRefused, grpc.StatusCode.FAILED_PRECONDITION),
    (RequestRefused, grpc.StatusCode.INVALID_ARGUMENT),
    (TransferMoved, grpc.StatusCode.ABORTED),
    (NoRoom, grpc.StatusCode.RESOURCE_EXHAUSTED),
    (TransferFailed, grpc.StatusCode.DATA_LOSS),
)


def abort(context: grpc.ServicerContext, error: FederationError) -> Never:
    """End a call with an error's words and the status that belongs to its class."""
    codes = [code for kind, code in _CODES if isinstance(error, kind)]
    context.abort(codes[0] if codes else grpc.StatusCode.FAILED_PRECONDITION, str(error))


class Gate:
    """Decides on every call, and on every message of a stream, by the connection's certificate.

    Args:
        front: knows the certificate behind a connection.
        registry: knows how a certificate stands.
        audit: gets one entry per refused connection and cause.
    """

    def __init__(self, front: TlsFront, registry: Registry, audit: AuditChain) -> None:
        self._front = front
        self._registry = registry
        self._audit = audit
        self._told: set[tuple[str, Cause]] = set()

    def __call__(self, context: grpc.ServicerContext) -> None:
        """Abort the call where its certificate may not call."""
        identity = self._front.identity(context.peer())
        if identity is None:
            context.abort(grpc.StatusCode.UNAUTHENTICATED, Cause.NO_IDENTITY.value)
        cause = self._registry.standing(identity.site, identity.serial)
        if cause is not None:
            self.refuse(context, identity, cause)

    def identity(self, context: grpc.ServicerContext) -> Identity:
        """Who calls; the gate has admitted the call already."""
        identity = self._front.identity(context.peer())
        if identity is None:
            abort(context, IdentityRefused(Cause.NO_IDENTITY.value))
        return identity

    def refuse(self, context: grpc.ServicerContext, identity: Identity, cause: Cause) -> Never:
        """Refuse a call; the audit names the cause once per connection."""
        key = (context.peer(), cause)
        if key not in self._told:
            if len(self._told) > 10_000:
                self._told.clear()
            self._told.add(key)
            detail = {"cause": cause.value, "serial": identity.serial}
            self._audit.append(identity.site, "call.refused", identity.site, detail)
        abort(
            context,
            IdentityRefused(f"refused: {cause.value}; ask the coordinator's operator"),
        )


class FederationService(FederationServicer):
    """Serves the sites.

    Args:
        gate: knows who calls.
        parts: store, registry, objects, reports, audit.
        clock: wall clock.
    """

    def __init__(
        self,
        gate: Gate,
        store: Store,
        registry: Registry,
        files: tuple[ObjectStore, Reports],
        clock: Clock,
    ) -> None:
        self._gate = gate
        self._store = store
        self._registry = registry
        self._objects, self._reports = files
        self._clock = clock

    def Handshake(
        self, request: pb.HandshakeRequest, context: grpc.ServicerContext
    ) -> pb.HandshakeReply:
        """Agree on a protocol version; a site that thinks it is another one is refused."""
        identity = self._gate.identity(context)
        if request.site and request.site != identity.site:
            self._gate.refuse(context, identity, Cause.NAME_NOT_ITS_OWN)
        try:
            version = negotiate(request.protocol_versions)
        except VersionRefused as error:
            abort(context, error)
        self._registry.seen(identity.site, request.software_version)
        self._registry.authorities.heard(identity.site, request.authorities, request.issuer)
        return pb.HandshakeReply(
            format=MESSAGE_FORMAT,
            protocol_version=version,
            software_version=software_version(),
            project=self._registry.project.name,
            coordinator_time=stamp(self._clock()),
            certificate_ends=identity.ends,
            authorities_pem=self._registry.authorities.bundle_pem(),
        )

    def PollTask(self, request: pb.PollRequest, context: grpc.ServicerContext) -> pb.PollReply:
        """Give the site's next task, at once or when there is one."""
        site = self._gate.identity(context).site
        self._registry.seen(site)
        deferred = set(request.deferred_task_ids[:MAX_DEFERRED])
        if request.working_task_id:
            self._reports.held_up(site, request.working_task_id, request.words)
            deferred.add(request.working_task_id)
        until = time.monotonic() + min(max(request.wait_seconds, 0.0), LONGEST_POLL_S)
        while True:
            seen = self._store.signal.version
            ended = sorted(task_id for task_id in deferred if self._ended(task_id, site))
            # A site that is at work asks only whether its task still stands.
            due = [] if request.working_task_id else self._store.open_tasks(site)
            task = next((t for t in due if t.task_id not in deferred), None)
            left = until - time.monotonic()
            if task is not None or ended or left <= 0 or not context.is_active():
                break
            self._store.signal.wait(seen, min(left, 1.0))
        reply = pb.PollReply(format=MESSAGE_FORMAT, ended_task_ids=ended)
        if task is not None:
            reply.task.CopyFrom(self._hand_out(task))
        return reply

    def GetChunks(  # type: ignore[override] # pieces instead of messages: see wire/frames.py
        self, request: pb.GetChunksRequest, context: grpc.ServicerContext
    ) -> Iterator[Piece]:
        """Stream chunks of an object that one of the site's tasks names."""
        try:
            task = self._own_task(request.task_id, context)
            if request.object not in {p["sha256"] for p in task.body["payloads"]}:
                raise RequestRefused("the task does not name such an object")
            wanted = [(entry.first, entry.count) for entry in request.ranges]
            yield from self._objects.read(request.object, wanted)
        except FederationError as error:
            abort(context, error)

    def OfferObject(
        self, request: pb.OfferRequest, context: grpc.ServicerContext
    ) -> pb.ObjectStatus:
        """Say which chunks of an upload are missing."""
        try:
            task = self._own_task(request.task_id, context)
            if task.state in TASK_ENDS:
                raise RequestRefused("the task is over: its objects are not taken any more")
            limit = self._upload_limit(task)
            check_name(request.object)
            if not 0 < request.size <= limit:
                raise RequestRefused(f"an object of {request.size} bytes; this task takes {limit}")
            chunks = ChunkList.announced(request.object, request.size, request.digests)
            missing = self._objects.offer(task.site, chunks)
        except FederationError as error:
            abort(context, error)
        return _status(missing)

    def PutChunks(
        self, request_iterator: Iterator[pb.PutFrame], context: grpc.ServicerContext
    ) -> pb.ObjectStatus:
        """Take an upload's missing chunks."""
        frames = cast("Iterator[Piece | pb.PutFrame]", request_iterator)
        try:
            first = next(frames, None)
            if not isinstance(first, pb.PutFrame):
                raise RequestRefused("an upload begins with a frame that names task and object")
            task = self._own_task(first.task_id, context)
            if task.state in TASK_ENDS:
                raise RequestRefused("the task is over: its objects are not taken any more")
            missing = self._objects.receive(task.site, first.object, _pieces(frames))
        except FederationError as error:
            abort(context, error)
        return _status(missing)

    def ReportTask(self, request: pb.TaskReport, context: grpc.ServicerContext) -> pb.ReportReply:
        """Take a task's report."""
        site = self._gate.identity(context).site
        try:
            accepted, words = self._reports.take(site, request)
        except FederationError as error:
            abort(context, error)
        return pb.ReportReply(format=MESSAGE_FORMAT, accepted=accepted, words=words)

    def LeaveRun(
        self, request: pb.LeaveRunRequest, context: grpc.ServicerContext
    ) -> pb.LeaveRunReply:
        """Let the site out of a run."""
        site = self._gate.identity(context).site
        try:
            words = self._reports.leave(site, request.run_id, request.words)
        except FederationError as error:
            abort(context, error)
        return pb.LeaveRunReply(format=MESSAGE_FORMAT, words=words)

    def Renew(self, request: pb.RenewRequest, context: grpc.ServicerContext) -> pb.RenewReply:
        """Certify a new key of the site that calls."""
        site = self._gate.identity(context).site
        try:
            certificate = self._registry.renew(site, request.signing_request_pem)
        except EnrolmentRefused as error:
            # The caller's present certificate is fine: only this request is refused.
            abort(context, RequestRefused(str(error)))
        return pb.RenewReply(format=MESSAGE_FORMAT, certificate_pem=certificate)

    def _ended(self, task_id: str, site: str) -> bool:
        task = self._store.task(task_id)
        return task is None or task.site != site or task.state in TASK_ENDS

    def _own_task(self, task_id: str, context: grpc.ServicerContext) -> TaskRow:
        task = self._store.task(task_id)
        if task is None or task.site != self._gate.identity(context).site:
            raise RequestRefused("there is no such task of this site")
        return task

    def _hand_out(self, task: TaskRow) -> pb.Task:
        if task.state is TaskState.OPEN:
            with self._store.change() as change:
                change.task(task.task_id, TaskState.TAKEN)
        run = self._store.run(task.run_id)
        rounds = [row for row in self._store.rounds(task.run_id) if row.number == task.round]
        left = 0.0
        if rounds and rounds[0].state in (RoundState.TRAINING, RoundState.EVALUATING):
            left = (parse_stamp(rounds[0].deadline) - self._clock()).total_seconds()
        message = task_message(task, run.plan_hash, max(0.0, left))
        for payload in message.payloads:
            if self._objects.has(payload.sha256):
                payload.digests = self._objects.chunks(payload.sha256).digests
        return message

    @staticmethod
    def _upload_limit(task: TaskRow) -> int:
        """Bytes of the largest object that a task's report may bring: twice the model."""
        model = sum(
            int(p["size"]) for p in task.body["payloads"] if p["kind"] == pb.PAYLOAD_KIND_WEIGHTS
        )
        return 2 * model + (1 << 20) if task.kind == "train" else 0


def _pieces(frames: Iterator[Piece | pb.PutFrame]) -> Iterator[Piece]:
    for frame in frames:
        if not isinstance(frame, Piece):
            raise RequestRefused("a frame of an upload brings a piece of a chunk")
        yield frame


def _status(missing: list[tuple[int, int]] | None) -> pb.ObjectStatus:
    return pb.ObjectStatus(
        format=MESSAGE_FORMAT,
        complete=missing is None,
        missing=[pb.ChunkRange(first=first, count=count) for first, count in missing or ()],
    )


class EnrolmentService(EnrolmentServicer):
    """Serves who holds a token.

    Args:
        registry: checks tokens and certifies.
    """

    def __init__(self, registry: Registry) -> None:
        self._registry = registry

    def Enrol(self, request: pb.EnrolRequest, context: grpc.ServicerContext) -> pb.EnrolReply:
        """Certify a site's key by its token."""
        try:
            if request.format != MESSAGE_FORMAT:
                raise EnrolmentRefused(
                    f"a request of format {request.format}, this coordinator reads "
                    f"{MESSAGE_FORMAT}: upgrade the older side"
                )
            certificate = self._registry.enrol(
                request.token_id, request.secret, request.signing_request_pem
            )
        except FederationError as error:
            abort(context, error)
        return pb.EnrolReply(
            format=MESSAGE_FORMAT,
            certificate_pem=certificate,
            authority_pem=self._registry.authority_pem(),
            project=self._registry.project.name,
            federation_address=self._registry.project.federation_address,
        )
