"""The coordinator's end of bulk connections: the two chunk calls, made without gRPC."""

from __future__ import annotations

import contextlib
import socket
import ssl
import time
from collections.abc import Callable, Iterator
from typing import Any, Final, Never, Protocol, cast

import grpc
import structlog
from google.protobuf.message import DecodeError

from federation.wire import federation_pb2 as pb
from federation.wire.bulk import BulkStream, Kind, limit_silence
from federation.wire.frames import GET_METHOD, PUT_METHOD, Coded, Piece, encode
from federation.wire.guard import Admission, MessageRecorder

_LINGER_S: Final = 2.0
_log = structlog.get_logger(__name__)


class ChunkService(Protocol):
    """What serves the calls; :class:`federation.coordinator.servicer.FederationService` does."""

    def GetChunks(self, request: Any, context: Any) -> Iterator[Piece]:  # noqa: ANN401 - grpc's shape
        """Stream pieces."""
        ...

    def PutChunks(self, request_iterator: Any, context: Any) -> pb.ObjectStatus:  # noqa: ANN401
        """Take pieces."""
        ...


class _Refused(Exception):
    """A call that its service has aborted."""

    def __init__(self, code: grpc.StatusCode, words: str) -> None:
        super().__init__(words)
        self.code, self.words = code, words


class _Context:
    """What the service and the gate use of a gRPC context."""

    def __init__(self, peer: str) -> None:
        self._peer = peer

    def peer(self) -> str:
        """The connection's name at the front."""
        return self._peer

    def is_active(self) -> bool:
        """A broken connection is noticed when it is used."""
        return True

    def abort(self, code: grpc.StatusCode, details: str) -> Never:
        """End the call."""
        raise _Refused(code, details)


class BulkServer:
    """Serves one call on each connection that the front hands over.

    Args:
        service: answers the calls.
        admit: asked before the call and before every piece.
        recorder: gets every message; None records nothing.
    """

    def __init__(
        self, service: ChunkService, admit: Admission, recorder: MessageRecorder | None = None
    ) -> None:
        self._service = service
        self._admit = admit
        self._recorder = recorder

    def __call__(self, link: ssl.SSLSocket, peer: str) -> None:
        """Serve the connection until its call is over; ``peer`` is its name at the front."""
        limit_silence(link)
        stream = BulkStream(link)
        context = _Context(peer)
        try:
            self._admit(cast("grpc.ServicerContext", context))
            self._call(stream, context)
        except _Refused as refused:
            stream.send(Kind.REFUSED, refused.words.encode(), (refused.code.value[0], 0))
            _linger(link)
        except (ValueError, DecodeError) as error:
            _log.info("bulk_call_malformed", cause=type(error).__name__)

    def _call(self, stream: BulkStream, context: _Context) -> None:
        opening = stream.receive()
        raw = bytes(opening.data)
        if opening.kind is Kind.GET:
            self._record("in", GET_METHOD, lambda: raw)
            request = pb.GetChunksRequest.FromString(raw)
            for piece in self._service.GetChunks(request, context):
                self._pass("out", GET_METHOD, piece, context)
                stream.send_piece(piece)
            stream.send(Kind.END)
        elif opening.kind is Kind.PUT:
            self._record("in", PUT_METHOD, lambda: raw)
            head = pb.PutFrame.FromString(raw)
            status = self._service.PutChunks(self._arriving(head, stream, context), context)
            answer = status.SerializeToString()
            self._record("out", PUT_METHOD, lambda: answer)
            stream.send(Kind.END, answer)
        else:
            words = "a call begins with what it asks for, an upload names task and object"
            raise _Refused(grpc.StatusCode.INVALID_ARGUMENT, words)

    def _arriving(
        self, head: pb.PutFrame, stream: BulkStream, context: _Context
    ) -> Iterator[Coded]:
        yield head
        while (message := stream.receive()).kind is Kind.PIECE:
            piece = message.piece
            self._pass("in", PUT_METHOD, piece, context)
            yield piece
        if message.kind is not Kind.END:
            raise ValueError("an upload that neither goes on nor ends")

    def _pass(self, direction: str, method: str, piece: Piece, context: _Context) -> None:
        """A certificate may be revoked in the middle of a transfer."""
        self._admit(cast("grpc.ServicerContext", context))
        self._record(direction, method, lambda: encode(piece))

    def _record(self, direction: str, method: str, message: Callable[[], bytes]) -> None:
        if self._recorder is not None:
            self._recorder.record(direction, method, message())


def _linger(link: ssl.SSLSocket) -> None:
    """Let the refusal reach a caller that still sends: closing at once would reset it."""
    with contextlib.suppress(OSError):
        socket.socket.shutdown(link, socket.SHUT_WR)
        link.settimeout(_LINGER_S)
        buffer, until = bytearray(1 << 16), time.monotonic() + _LINGER_S
        while link.recv_into(buffer) and time.monotonic() < until:
            pass
