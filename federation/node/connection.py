"""The node's way to the coordinator: it dials out, by mutual TLS, and tries again.

Calls are repeated with growing pauses while the coordinator cannot be reached; what it refused is
not repeated. Objects go in both directions in chunks and resume at the byte where they broke.
"""

from __future__ import annotations

import hashlib
import os
import random
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, TypeVar, cast

import grpc
import structlog
import tenacity

from federation.canonical import sha256_file, sync_folder
from federation.enrolment.client import SiteIdentity
from federation.errors import (
    CoordinatorUnreachable,
    FederationError,
    IdentityRefused,
    RequestRefused,
    TransferFailed,
    VersionRefused,
)
from federation.node.tunnel import Tunnel
from federation.pki import SERVER_NAME
from federation.wire import federation_pb2 as pb
from federation.wire.dial import Proxy
from federation.wire.federation_pb2_grpc import FederationStub
from federation.wire.versions import (
    CHUNK_BYTES,
    MESSAGE_FORMAT,
    PROTOCOL_VERSIONS,
    software_version,
)

POLL_S: Final = 15.0
CALL_S: Final = 30.0
REPORT_S: Final = 600.0
"""The coordinator checks a whole update before it answers a report."""
IDLE_S: Final = 60.0
"""A transfer in which no byte moves for so long is broken off and resumed."""
_KEEPALIVE: Final = (
    ("grpc.keepalive_time_ms", 20_000),
    ("grpc.keepalive_timeout_ms", 10_000),
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
    """

    sleep: Callable[[float], None] = time.sleep
    first_s: float = 0.5
    longest_s: float = 30.0
    jitter: Callable[[], float] = field(default=random.random)


@dataclass(frozen=True, slots=True)
class Transfer:
    """What a transfer took."""

    seconds: float
    bytes: int


def mapped(error: grpc.RpcError) -> FederationError:
    """Our error for one of gRPC's, once and completely."""
    # gRPC raises objects that are errors and calls at once, which its stubs cannot express.
    call = cast("grpc.Call", error)
    code, words = call.code(), call.details() or "no reason was given"
    if code in (grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED):
        return IdentityRefused(words)
    if code is grpc.StatusCode.RESOURCE_EXHAUSTED and call.details():
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
        self._versions = tuple(versions)
        self._identity = identity
        self._address = address or identity.address
        self._retry = retry or RetryPolicy()
        self.stop = stop or threading.Event()
        self.away = ""
        # Without a proxy gRPC dials by itself: one copy of every byte less.
        self._tunnel = None if proxy is None else Tunnel(self._address, proxy)
        self._channel: grpc.Channel | None = None
        self._stub = self._open()

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
            *_KEEPALIVE,
        )
        target = self._address if self._tunnel is None else self._tunnel.target
        self._channel = grpc.secure_channel(target, credentials, options=options)
        return FederationStub(self._channel)

    def close(self) -> None:
        """Close the connection; a waiting call ends."""
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

    @property
    def identity(self) -> SiteIdentity:
        """Key and certificates in use."""
        return self._identity

    def use(self, identity: SiteIdentity) -> None:
        """Call with another certificate of the same site from now on."""
        former = self._channel
        self._identity = identity
        self._stub = self._open()
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
        """Fetch an object into ``target``; an interrupted one continues at its byte.

        Raises:
            TransferFailed: what came does not have the announced size and hash, twice.
        """
        started, moved = time.monotonic(), 0
        if target.exists() and _is(target, payload):
            return Transfer(time.monotonic() - started, 0)
        target.parent.mkdir(parents=True, exist_ok=True)
        part = target.with_name(f"{payload.sha256}.part")
        for _ in range(2):
            moved += self.repeated(lambda: self._fetch(task_id, payload, part))
            if _is(part, payload):
                part.replace(target)
                sync_folder(target.parent)
                return Transfer(time.monotonic() - started, moved)
            part.unlink(missing_ok=True)
        raise TransferFailed("an object came twice with another hash than announced")

    def upload(self, task_id: str, payload: pb.Payload, source: Path) -> Transfer:
        """Send an object; an interrupted one continues at its byte, a complete one moves nothing.

        Raises:
            TransferFailed: the coordinator found another hash than announced, or has no space.
        """
        started = time.monotonic()
        moved = self.repeated(lambda: self._send(task_id, payload, source))
        return Transfer(time.monotonic() - started, moved)

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
            self.away = str(error or "the coordinator cannot be reached")
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

    def _fetch(self, task_id: str, payload: pb.Payload, part: Path) -> int:
        have = part.stat().st_size if part.exists() else 0
        if have > payload.size:
            part.unlink()
            have = 0
        if have == payload.size:
            return 0
        request = pb.GetObjectRequest(
            format=MESSAGE_FORMAT, task_id=task_id, sha256=payload.sha256, offset=have
        )
        moved = 0
        stream = self._stub.GetObject(request)
        with part.open("ab") as sink, _Watch(stream.cancel) as watch:
            for chunk in stream:
                watch.moved()
                if chunk.offset != have or have + len(chunk.data) > payload.size:
                    raise TransferFailed("a chunk does not continue where the object stands")
                sink.write(chunk.data)
                sink.flush()
                have += len(chunk.data)
                moved += len(chunk.data)
            os.fsync(sink.fileno())
        if have < payload.size:
            raise CoordinatorUnreachable("the object's stream ended early")
        return moved

    def _send(self, task_id: str, payload: pb.Payload, source: Path) -> int:
        status = self._stub.StatObject(
            pb.StatObjectRequest(
                format=MESSAGE_FORMAT,
                task_id=task_id,
                sha256=payload.sha256,
                size=payload.size,
            ),
            timeout=CALL_S,
        )
        if status.complete:
            return 0
        moved = 0
        with source.open("rb") as stream, _Watch(lambda: None) as watch:
            stream.seek(status.have)

            def _chunks() -> Iterator[pb.PutChunk]:
                nonlocal moved
                offset = int(status.have)
                head = pb.PutChunk(
                    format=MESSAGE_FORMAT,
                    task_id=task_id,
                    sha256=payload.sha256,
                    size=payload.size,
                    offset=offset,
                )
                yield head
                while not stream.closed and (data := stream.read(CHUNK_BYTES)):
                    watch.moved()
                    yield pb.PutChunk(offset=offset, data=data)
                    offset += len(data)
                    moved += len(data)

            call = self._stub.PutObject.future(_chunks())
            watch.ends = call.cancel
            result = call.result()
        if not result.complete:
            raise CoordinatorUnreachable("the upload ended early")
        return moved


class _Watch:
    """Breaks a transfer off in which nothing moves: progress is the limit, not the whole time."""

    def __init__(self, ends: Callable[[], object]) -> None:
        self.ends = ends
        self._last = time.monotonic()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="transfer-watch", daemon=True)

    def __enter__(self) -> _Watch:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def moved(self) -> None:
        """Bytes moved just now."""
        self._last = time.monotonic()

    def _run(self) -> None:
        while not self._over.wait(1.0):
            if time.monotonic() - self._last > IDLE_S:
                _log.warning("transfer_stalled", idle_s=IDLE_S)
                self.ends()
                return


def _is(path: Path, payload: pb.Payload) -> bool:
    return (
        path.exists()
        and path.stat().st_size == payload.size
        and sha256_file(path) == payload.sha256
    )


def payload_of(kind: pb.PayloadKind.ValueType, name: str, path: Path) -> pb.Payload:
    """The payload entry of a file."""
    with path.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    return pb.Payload(kind=kind, name=name, sha256=digest, size=path.stat().st_size)
