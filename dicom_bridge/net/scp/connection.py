"""One connection and its thread: TLS, framing, deadlines, and the conversation.

Why the socket is read as it is: pynetdicom's acceptor polls each socket every millisecond and
reads 4 KiB at a time. Here one blocking `recv_into` fills a buffer of several PDUs. On a plain
socket the time limit is the kernel's (SO_RCVTIMEO): Python's own time-out costs a `poll` before
every read. TCP_NODELAY is set because DIMSE alternates small messages, and TCP_QUICKACK is armed
before each read because peers that leave Nagle's algorithm on (Orthanc) wait for our
acknowledgement before they send the rest of an object.
"""

from __future__ import annotations

import contextlib
import errno
import socket
import ssl
import struct
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

import structlog

from dicom_bridge.net.scp.conversation import Conversation
from dicom_bridge.net.scp.machine import Event, State
from dicom_bridge.net.scp.negotiation import Accepted, Rejected, negotiate
from dicom_bridge.net.scp.pdu import HEADER, HEADER_BYTES, PduInvalid, check_length
from dicom_bridge.net.scp.rooms import Board, Limits, WaitingRoom
from dicom_bridge.net.scp.sink import Sink, Titles

_BUFFER_BYTES = 288 << 10
_TICK_S = 0.5
_LINGER_S = 2.0
_LINGER_BYTES = 4 << 20
_QUICK_ACK: int | None = getattr(socket, "TCP_QUICKACK", None)
_TIMEVAL = struct.Struct("ll")
_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Rules:
    """What every connection is held to.

    Attributes:
        titles: who we are and who may call.
        limits: how many at once.
        idle_s: an association without any PDU for so long is aborted.
        pdu_s: a PDU must be complete so long after its first byte.
        association_s: a connection must have asked for its association so long after its start,
            TLS handshake included.
    """

    titles: Titles
    limits: Limits
    idle_s: float
    pdu_s: float
    association_s: float


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What connections share: rules, seats, the sink, TLS."""

    rules: Rules
    board: Board
    waiting: WaitingRoom
    sink: Sink
    tls: ssl.SSLContext | None = None


class Expired(Exception):
    """A deadline passed."""


class Connection:
    """One accepted connection; `serve` runs in its own thread.

    Args:
        plain: the connected socket.
        address: the peer's address, for limits and the log.
        surroundings: what connections share.
    """

    def __init__(self, plain: socket.socket, address: str, surroundings: Surroundings) -> None:
        self._socket: socket.socket = plain
        self._address = address
        self._around = surroundings
        self._rules = surroundings.rules
        self._seat: int | None = None
        self._waits = True
        self._stopping = False
        self._conversation = Conversation(
            self._negotiate, surroundings.sink, lambda _status, _words: self._count_refusal()
        )
        self._buffer = bytearray(_BUFFER_BYTES)
        self._view = memoryview(self._buffer)
        self._start = self._end = 0
        now = time.monotonic()
        self._association_deadline = now + self._rules.association_s
        self._heard = now
        self._pdu_deadline: float | None = None

    def serve(self) -> None:
        """Talk until the association or the connection ends, then close it."""
        try:
            self._prepare()
            self._talk()
        except Expired as expiry:
            _log.warning("association_expired", address=self._address, reason=str(expiry))
            self._send(self._conversation.on_event(Event.EXPIRED))
        except (OSError, EOFError) as error:
            if self._conversation.state is not State.AWAIT_CLOSE:
                cause = type(error).__name__
                _log.warning("association_aborted", address=self._address, cause=cause)
        except Exception as error:  # edge: one connection's failure must not end the others
            _log.error("connection_failed", cause=type(error).__name__)
        finally:
            self._conversation.on_event(Event.CLOSED)
            self._leave()
            self._close()

    def stop(self) -> None:
        """End soon: an object that is being recorded is recorded and answered first."""
        self._stopping = True
        with contextlib.suppress(OSError):
            # Not SSLSocket.shutdown: that one drops the encryption of what is still sent.
            socket.socket.shutdown(self._socket, socket.SHUT_RD)

    def _count_refusal(self) -> None:
        self._around.board.add("refused")

    def _prepare(self) -> None:
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if self._around.tls is None:
            seconds = _TIMEVAL.pack(int(_TICK_S), int(_TICK_S % 1 * 1e6))
            self._socket.setblocking(True)
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, seconds)
            long = _TIMEVAL.pack(max(1, int(self._rules.pdu_s)), 0)
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, long)
            return
        self._socket.settimeout(self._rules.association_s)
        self._socket = self._around.tls.wrap_socket(
            self._socket, server_side=True, do_handshake_on_connect=False
        )
        self._shake_hands(self._socket)
        self._socket.settimeout(_TICK_S)

    def _shake_hands(self, secured: ssl.SSLSocket) -> None:
        """TLS in this connection's thread; each step of a slow peer shortens what is left."""
        secured.settimeout(_TICK_S)
        while True:
            try:
                secured.do_handshake()
            except (TimeoutError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
                if self._stopping or time.monotonic() > self._association_deadline:
                    raise Expired("no TLS handshake in time") from None
            else:
                return

    def _talk(self) -> None:
        conversation = self._conversation
        while True:
            self._take_pdus()
            if conversation.state not in (State.AWAIT_REQUEST, State.OPEN):
                return
            if self._stopping:
                self._send(conversation.on_event(Event.STOPPED))
                return
            self._make_room()
            self._read()

    def _take_pdus(self) -> None:
        """Hand every complete PDU of the buffer to the conversation."""
        conversation, buffer = self._conversation, self._buffer
        while self._end - self._start >= HEADER_BYTES:
            kind, length = HEADER.unpack_from(buffer, self._start)
            try:
                check_length(kind, length)
            except PduInvalid as error:
                _log.warning("association_invalid", reason=str(error), address=self._address)
                self._send(conversation.on_event(Event.INVALID))
                return
            after = self._start + HEADER_BYTES + length
            if after > self._end:
                return
            answer = conversation.on_pdu(kind, self._view[self._start + HEADER_BYTES : after])
            self._start = after
            self._pdu_deadline = None
            if answer:
                self._send(answer)
            if not conversation.is_open:
                return
            self._heard = time.monotonic()

    def _make_room(self) -> None:
        """Room in the buffer for the rest of the PDU that has begun."""
        held = self._end - self._start
        if not held:
            self._start = self._end = 0
            return
        if self._pdu_deadline is None:
            self._pdu_deadline = time.monotonic() + self._rules.pdu_s
        needed = HEADER_BYTES
        if held >= HEADER_BYTES:
            _, length = HEADER.unpack_from(self._buffer, self._start)
            needed += length
        if needed > len(self._buffer):
            # Only an A-ASSOCIATE-RQ may be longer than the buffer; data PDUs never are.
            larger = bytearray(needed)
            larger[:held] = self._view[self._start : self._end]
            self._buffer, self._view = larger, memoryview(larger)
        elif self._start + needed > len(self._buffer):
            self._view[:held] = self._view[self._start : self._end]
        else:
            return
        self._start, self._end = 0, held

    def _read(self) -> None:
        """Read what there is; waits at most until a deadline.

        Raises:
            EOFError: the peer closed the connection.
            Expired: a deadline passed.
            OSError: the connection broke.
        """
        while True:
            self._keep_deadlines()
            if _QUICK_ACK is not None:
                self._socket.setsockopt(socket.IPPROTO_TCP, _QUICK_ACK, 1)
            try:
                count = self._socket.recv_into(self._view[self._end :])
            except (BlockingIOError, TimeoutError, ssl.SSLWantReadError):
                if self._stopping:
                    return
                continue
            if count == 0:
                if self._stopping:
                    return
                raise EOFError("the peer closed the connection")
            self._end += count
            return

    def _keep_deadlines(self) -> None:
        now = time.monotonic()
        if self._pdu_deadline is not None and now > self._pdu_deadline:
            raise Expired("a PDU that began was not finished in time")
        if not self._conversation.is_open:
            if now > self._association_deadline:
                raise Expired("no association was asked for in time")
        elif self._pdu_deadline is None and now - self._heard > self._rules.idle_s:
            raise Expired("nothing was heard for too long")

    def _negotiate(self, body: memoryview) -> Accepted | Rejected:
        return negotiate(body, self._rules.titles, self._sit)

    def _sit(self) -> bool:
        self._seat = self._around.board.take_seat(self._address, self._rules.limits)
        if self._seat is None:
            return False
        self._stop_waiting()
        return True

    def _stop_waiting(self) -> None:
        if self._waits:
            self._waits = False
            self._around.waiting.leave(self._address)

    def _leave(self) -> None:
        self._stop_waiting()
        if self._seat is not None:
            self._around.board.leave_seat(self._seat)
            self._seat = None

    def _send(self, data: bytes) -> None:
        if not data:
            return
        with contextlib.suppress(ssl.SSLError):
            try:
                self._socket.sendall(data)
            except OSError as error:
                if error.errno in (errno.EAGAIN, errno.EWOULDBLOCK):
                    raise ConnectionAbortedError("the peer does not read answers") from error
                raise

    def _close(self) -> None:
        """Let the peer close first, as it should after our last PDU (Sta13, ARTIM; PS3.8 9.2).

        Closing with unread data would reset the connection and destroy what was sent; and a
        requestor that sees the end of the connection beside our rejection may miss the rejection.
        """
        with contextlib.suppress(OSError, ValueError):
            self._socket.settimeout(0.2)
            self._drain(time.monotonic() + _LINGER_S)
        with contextlib.suppress(OSError, ValueError):
            if isinstance(self._socket, ssl.SSLSocket):
                self._socket.settimeout(_TICK_S)
                self._socket.unwrap()
        with contextlib.suppress(OSError, ValueError):
            self._socket.shutdown(socket.SHUT_WR)
        with contextlib.suppress(OSError):
            self._socket.close()
        self._view.release()

    def _drain(self, deadline: float) -> None:
        """Read what still comes, until the peer closes or its time is over."""
        drained = 0
        while time.monotonic() < deadline and not self._stopping and drained < _LINGER_BYTES:
            try:
                count = self._socket.recv_into(self._view)
                if not count:
                    return
                drained += count
            except (TimeoutError, ssl.SSLWantReadError):
                continue


def start(connection: Connection, done: Callable[[Connection], None]) -> threading.Thread:
    """Serve a connection in a thread of its own; ``done`` is called at its end."""

    def run() -> None:
        try:
            connection.serve()
        finally:
            done(connection)

    thread = threading.Thread(target=run, name="dicom-association", daemon=True)
    thread.start()
    return thread
