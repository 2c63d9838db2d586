"""The site's end of bulk connections (:mod:`federation.wire.bulk`)."""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from typing import Final

import grpc

from federation.enrolment.client import SiteIdentity
from federation.errors import CoordinatorUnreachable, FederationError
from federation.node.clock_check import client_context
from federation.pki import SERVER_NAME
from federation.wire import federation_pb2 as pb
from federation.wire.bulk import BULK_PROTOCOL, BulkStream, Kind, Message, limit_silence
from federation.wire.dial import Proxy, dial
from federation.wire.frames import Coded, Piece

DIAL_S: Final = 20.0
Refusal = Callable[[grpc.StatusCode, str], FederationError]
"""Our error for a status that the coordinator answered."""
_STATUS: Final = {code.value[0]: code for code in grpc.StatusCode}


class BulkDialler:
    """Opens bulk connections and knows those that stand.

    Args:
        address: the coordinator's ``host:port``.
        proxy: goes through it; None dials directly.
        identity: key and certificates to show.
        refusal: makes errors of refusals.
    """

    def __init__(
        self, address: str, proxy: Proxy | None, identity: SiteIdentity, refusal: Refusal
    ) -> None:
        self._address, self._proxy, self.refusal = address, proxy, refusal
        self._context = client_context(identity)
        self._context.set_alpn_protocols([BULK_PROTOCOL])
        # TLS inside a proxy's TLS is more than the standard library's sockets can do.
        self._possible = proxy is None or not proxy.tls
        self._lock = threading.Lock()
        self._live: set[ssl.SSLSocket] = set()
        self._closed = False

    def dial(self) -> ssl.SSLSocket | None:
        """A connection; None where the coordinator, an older one, has no such protocol.

        Raises:
            CoordinatorUnreachable: it does not answer, or this was closed.
        """
        if not self._possible:
            return None
        try:
            raw = dial(self._address, self._proxy, DIAL_S)
            raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            limit_silence(raw)
            link = self._context.wrap_socket(raw, server_hostname=SERVER_NAME)
        except OSError as error:
            # The next ordinary call tells the cause: refusals have words there.
            raise CoordinatorUnreachable("no connection for chunks came about") from error
        if link.selected_alpn_protocol() != BULK_PROTOCOL:
            link.close()
            self._possible = False
            return None
        with self._lock:
            self._live.add(link)
            closed = self._closed
        if closed:
            self.end(link)
            raise CoordinatorUnreachable("the connection was closed")
        return link

    def end(self, link: ssl.SSLSocket) -> None:
        """Close a connection that its own thread has done with."""
        with self._lock:
            self._live.discard(link)
        link.close()

    def close(self) -> None:
        """Break every connection off; who waits on one gets an error."""
        with self._lock:
            self._closed = True
            live = list(self._live)
        for link in live:
            break_off(link)


def break_off(link: ssl.SSLSocket) -> None:
    """End a connection under the feet of whoever waits on it."""
    with contextlib.suppress(OSError):
        socket.socket.shutdown(link, socket.SHUT_RDWR)


class _Call:
    """One call on one connection."""

    def __init__(self, dialler: BulkDialler, link: ssl.SSLSocket) -> None:
        self._dialler, self._link = dialler, link
        self._stream = BulkStream(link)

    def cancel(self) -> bool:
        """Break the call off."""
        break_off(self._link)
        return True

    def _answer(self) -> Message:
        message = self._stream.receive()
        if message.kind is Kind.REFUSED:
            code = _STATUS.get(message.first, grpc.StatusCode.UNKNOWN)
            raise self._dialler.refusal(code, str(message.data, "utf-8", "replace"))
        return message

    @contextlib.contextmanager
    def _guarded(self) -> Iterator[None]:
        try:
            yield
        except (OSError, ValueError) as error:
            words = f"the chunks' connection broke ({type(error).__name__})"
            raise CoordinatorUnreachable(words) from error
        finally:
            self._dialler.end(self._link)


class BulkDownload(_Call):
    """The pieces of a ``GetChunks``; each is valid until the next one is asked for."""

    def __init__(
        self, dialler: BulkDialler, link: ssl.SSLSocket, request: pb.GetChunksRequest
    ) -> None:
        super().__init__(dialler, link)
        self._request = request

    def __iter__(self) -> Iterator[Piece]:
        """Make the call.

        Raises:
            CoordinatorUnreachable: the connection broke.
            FederationError: what the coordinator refused.
        """
        with self._guarded():
            self._stream.send(Kind.GET, self._request.SerializeToString())
            while (message := self._answer()).kind is Kind.PIECE:
                yield message.piece
            if message.kind is not Kind.END:
                raise ValueError("neither a piece nor the end")


class BulkUpload(_Call):
    """A ``PutChunks``, made when its result is asked for."""

    def __init__(self, dialler: BulkDialler, link: ssl.SSLSocket, frames: Iterator[Coded]) -> None:
        super().__init__(dialler, link)
        self._frames = frames

    def result(self) -> pb.ObjectStatus:
        """Make the call. Errors as :meth:`BulkDownload.__iter__`."""
        with self._guarded():
            for frame in self._frames:
                if isinstance(frame, Piece):
                    self._stream.send_piece(frame)
                else:
                    self._stream.send(Kind.PUT, frame.SerializeToString())
            self._stream.send(Kind.END)
            message = self._answer()
            if message.kind is not Kind.END:
                raise ValueError("no end")
            return pb.ObjectStatus.FromString(bytes(message.data))
