"""The node's way to the coordinator: it dials out, by mutual TLS, and tries again.

Calls are repeated with growing pauses while the coordinator cannot be reached; what it refused is
not repeated. How objects move is :mod:`federation.node.transfer`'s.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, TypeVar, cast

import grpc
import structlog
import tenacity

from federation.clock import Clock, utc_now
from federation.enrolment.client import SiteIdentity
from federation.errors import (
    CoordinatorUnreachable,
    FederationError,
    IdentityRefused,
    RequestRefused,
    TransferFailed,
    VersionRefused,
)
from federation.node.bulk import BulkDialler
from federation.node.clock_check import clock_words, coordinator_time
from federation.node.transfer import ChunkCalls, ObjectMover, Transfer
from federation.node.tunnel import Tunnel
from federation.pki import SERVER_NAME
from federation.wire import federation_pb2 as pb
from federation.wire.dial import Proxy
from federation.wire.federation_pb2_grpc import FederationStub
from federation.wire.frames import MAX_MESSAGE_BYTES
from federation.wire.versions import MESSAGE_FORMAT, PROTOCOL_VERSIONS, software_version

POLL_S: Final = 15.0
CLOCK_TRIES: Final = 8
CLOCK_S: Final = 5.0
"""How long the coordinator's time is waited for."""
CALL_S: Final = 30.0
REPORT_S: Final = 600.0
"""The coordinator checks a whole update before it answers a report."""
_KEEPALIVE: Final = (
    ("grpc.keepalive_time_ms", 20_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    # Without it gRPC waits a minute for the answer to a ping, whatever keepalive says.
    ("grpc.http2.ping_timeout_ms", 10_000),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.max_reconnect_backoff_ms", 5_000),
    ("grpc.initial_reconnect_backoff_ms", 200),
    ("grpc.min_reconnect_backoff_ms", 200),
)
_RETRIED: Final = frozenset(
    {
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.DEADLINE_EXCEEDED,
        grpc.StatusCode.CANCELLED,
        grpc.StatusCode.UNKNOWN,
        grpc.StatusCode.INTERNAL,
        grpc.StatusCode.ABORTED,
        grpc.StatusCode.RESOURCE_EXHAUSTED,
    }
)
_log = structlog.get_logger(__name__)
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """How calls are repeated while the coordinator is away: without end, with growing pauses.

    Attributes:
        sleep: waits; gets seconds.
        first_s: the first pause.
        longest_s: the longest pause.
        jitter: gives a number in [0, 1) that spreads the pauses of several sites.
        clock: wall clock, compared with the coordinator's while it is away.
    """

    sleep: Callable[[float], None] = time.sleep
    first_s: float = 0.5
    longest_s: float = 30.0
    jitter: Callable[[], float] = field(default=random.random)
    clock: Clock = utc_now


def mapped(error: grpc.RpcError) -> FederationError:
    """Our error for one of gRPC's, once and completely."""
    # gRPC raises objects that are errors and calls at once, which its stubs cannot express.
    call = cast("grpc.Call", error)
    return refused(call.code(), call.details() or "")


def refused(code: grpc.StatusCode, details: str) -> FederationError:
    """Our error for a status and its words."""
    words = details or "no reason was given"
    if code in (grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED):
        return IdentityRefused(words)
    if code is grpc.StatusCode.RESOURCE_EXHAUSTED and details:
        return CoordinatorUnreachable(words)
    if code in _RETRIED:
        return CoordinatorUnreachable(f"the coordinator cannot be reached ({code.name.lower()})")
    if code is grpc.StatusCode.DATA_LOSS:
        return TransferFailed(words)
    if code is grpc.StatusCode.FAILED_PRECONDITION and "protocol version" in words:
        return VersionRefused(words)
    return RequestRefused(words)


class CoordinatorConnection:
    """Calls to one coordinator as one site.

    Args:
        identity: this site's key and certificates (see :func:`federation.enrolment.enrol`).
        address: ``host:port``; default is the one told at enrolment.
        retry: how calls are repeated.
        stop: set by whoever wants the agent to end: waiting calls give up then.
        versions: protocol versions to offer.
        proxy: goes through it; None dials directly.

    Attributes:
        away: why the coordinator cannot be reached now, in words, or "".
    """

    def __init__(
        self,
        identity: SiteIdentity,
        *,
        address: str = "",
        retry: RetryPolicy | None = None,
        stop: threading.Event | None = None,
        versions: Sequence[int] = PROTOCOL_VERSIONS,
        proxy: Proxy | None = None,
    ) -> None:
        self.site = identity.site
        self._clock_words = ""
        self._versions = tuple(versions)
        self._identity = identity
        self._address = address or identity.address
        self._retry = retry or RetryPolicy()
        self.stop = stop or threading.Event()
        self.away = ""
        # Without a proxy gRPC dials by itself: one copy of every byte less.
        self._proxy = proxy
        self._tunnel = None if proxy is None else Tunnel(self._address, proxy)
        self._channel: grpc.Channel | None = None
        self._stub = self._open()
        self._mover = ObjectMover(lambda: self._chunks, self.repeated)

    def _open(self) -> FederationStub:
        credentials = grpc.ssl_channel_credentials(
            root_certificates=self._identity.authority_pem,
            private_key=self._identity.key_pem,
            certificate_chain=self._identity.certificate_pem,
        )
        options = (
            ("grpc.ssl_target_name_override", SERVER_NAME),
            ("grpc.use_local_subchannel_pool", 1),
            # Which proxy is used is decided here, not by gRPC from the environment.
            ("grpc.enable_http_proxy", 0),
            ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
            *_KEEPALIVE,
        )
        target = self._address if self._tunnel is None else self._tunnel.target
        self._channel = grpc.secure_channel(target, credentials, options=options)
        stub = FederationStub(self._channel)
        self._bulk = BulkDialler(self._address, self._proxy, self._identity, refused)
        self._chunks = ChunkCalls(self._channel, stub, self._bulk)
        return stub

    def close(self) -> None:
        """Close the connection; a waiting call ends."""
        self._bulk.close()
        if self._channel is not None:
            self._channel.close()
        if self._tunnel is not None:
            self._tunnel.close()

    def _named(self, error: FederationError) -> FederationError:
        """The error with the words of the tunnel, which knows more than gRPC says."""
        known = "" if self._tunnel is None else self._tunnel.problem
        if known and isinstance(error, CoordinatorUnreachable):
            return CoordinatorUnreachable(known)
        return error

    def _clock_problem(self, tries: int) -> str:
        """What is said where a wrong clock spoils the certificates; gRPC does not tell.

        The coordinator is asked for its time at the second try and at every eighth from there.
        """
        if tries % CLOCK_TRIES == 2:
            there = coordinator_time(self._address, self._proxy, self._identity, CLOCK_S)
            self._clock_words = "" if there is None else clock_words(self._retry.clock(), there)
        return self._clock_words

    @property
    def identity(self) -> SiteIdentity:
        """Key and certificates in use."""
        return self._identity

    def use(self, identity: SiteIdentity) -> None:
        """Call with another certificate of the same site from now on."""
        former, bulk = self._channel, self._bulk
        self._identity = identity
        self._stub = self._open()
        bulk.close()
        if former is not None:
            former.close()

    def renew(self, signing_request_pem: bytes) -> bytes:
        """Have a new key certified; the certificate in PEM.

        Raises:
            RequestRefused: the coordinator does not renew (an older version).
        """
        request = pb.RenewRequest(format=MESSAGE_FORMAT, signing_request_pem=signing_request_pem)
        reply = self.repeated(lambda: self._stub.Renew(request, timeout=CALL_S))
        return reply.certificate_pem

    def handshake(self) -> pb.HandshakeReply:
        """Agree on a protocol version.

        Raises:
            VersionRefused: there is no common one.
            IdentityRefused: this site's certificate is not accepted.
            CoordinatorUnreachable: ``stop`` was set while waiting.
        """
        request = pb.HandshakeRequest(
            format=MESSAGE_FORMAT,
            protocol_versions=self._versions,
            software_version=software_version(),
            site=self.site,
            authorities=self._identity.authorities,
            issuer=self._identity.issuer,
        )
        return self.repeated(lambda: self._stub.Handshake(request, timeout=CALL_S))

    def poll(self, deferred: Sequence[str] = (), wait_s: float = POLL_S) -> pb.PollReply:
        """Ask for a task; waits for one up to ``wait_s``. Errors as :meth:`handshake`."""
        request = pb.PollRequest(
            format=MESSAGE_FORMAT, wait_seconds=wait_s, deferred_task_ids=deferred
        )
        return self.repeated(lambda: self._stub.PollTask(request, timeout=wait_s + CALL_S))

    def stands(self, task_id: str, wait_s: float, words: str = "") -> bool:
        """Whether the coordinator still waits for a task; asked once, an unanswered one stands.

        Args:
            task_id: the task that is being worked on.
            wait_s: the answer comes at once where the task has ended, else after this many seconds.
            words: what the task waits for at this site; shown to the data scientist.
        """
        request = pb.PollRequest(
            format=MESSAGE_FORMAT, wait_seconds=wait_s, working_task_id=task_id, words=words
        )
        try:
            reply = self._stub.PollTask(request, timeout=wait_s + CALL_S)
        except (grpc.RpcError, ValueError):
            # Not reached, refused, or closed meanwhile: who asks next is told why.
            return True
        return task_id not in reply.ended_task_ids

    def report(self, report: pb.TaskReport) -> pb.ReportReply:
        """End a task.

        Raises:
            RequestRefused: the coordinator does not know the task, or lacks an object.
        """
        return self.repeated(lambda: self._stub.ReportTask(report, timeout=REPORT_S))

    def leave(self, run_id: str, words: str) -> pb.LeaveRunReply:
        """Tell the coordinator that the site takes no further part in a run.

        Raises:
            RequestRefused: the coordinator knows no such run of this site, or is an older version.
        """
        request = pb.LeaveRunRequest(format=MESSAGE_FORMAT, run_id=run_id, words=words[:300])
        return self.repeated(lambda: self._stub.LeaveRun(request, timeout=CALL_S))

    def download(self, task_id: str, payload: pb.Payload, target: Path) -> Transfer:
        """Fetch an object into ``target`` (see :meth:`ObjectMover.download`)."""
        return self._mover.download(task_id, payload, target)

    def retire(self, target: Path) -> None:
        """See :meth:`ObjectMover.retire`."""
        self._mover.retire(target)

    def make_room(self) -> None:
        """See :meth:`ObjectMover.make_room`."""
        self._mover.make_room()

    @property
    def unwanted(self) -> threading.Event:
        """Set while an upload must not go on (see :class:`ObjectMover`)."""
        return self._mover.unwanted

    def upload(self, task_id: str, payload: pb.Payload, source: Path) -> Transfer:
        """Send an object (see :meth:`ObjectMover.upload`)."""
        return self._mover.upload(task_id, payload, source)

    def repeated(self, call: Callable[[], T]) -> T:
        """Make a call, again and again while the coordinator cannot be reached.

        Raises:
            CoordinatorUnreachable: ``stop`` was set.
            FederationError: what the coordinator refused.
        """
        policy = self._retry
        backoff = tenacity.wait_exponential(multiplier=policy.first_s, max=policy.longest_s)

        def _attempt() -> T:
            try:
                found = call()
            except grpc.RpcError as error:
                raise self._named(mapped(error)) from None
            except (ValueError, grpc.FutureCancelledError) as error:
                # grpcio: a closed channel, or a transfer that stalled.
                raise CoordinatorUnreachable("the connection was closed or stalled") from error
            self.away = ""
            return found

        def _wait(state: tenacity.RetryCallState) -> float:
            return float(backoff(state)) * (0.5 + policy.jitter())

        def _say(state: tenacity.RetryCallState) -> None:
            error = state.outcome.exception() if state.outcome is not None else None
            said = str(error or "the coordinator cannot be reached")
            self.away = self._clock_problem(state.attempt_number) or said
            _log.info("coordinator_away", tries=state.attempt_number)

        retrying = tenacity.Retrying(
            sleep=policy.sleep,
            wait=_wait,
            stop=lambda _: self.stop.is_set(),
            retry=tenacity.retry_if_exception_type(CoordinatorUnreachable),
            before_sleep=_say,
            reraise=True,
        )
        return retrying(_attempt)
