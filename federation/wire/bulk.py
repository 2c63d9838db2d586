"""Chunks over a TLS connection of their own, without HTTP/2 around them.

A hop through HTTP/2 costs the coordinator as much again as TLS itself, so ``GetChunks`` and
``PutChunks`` may also be made on a connection of their own: same port, same certificates, chosen by
its ALPN name (RFC 7301). Each connection carries one call. A message is a head (kind, three
unsigned 32-bit numbers, big-endian) and as many bytes as its last number says:

========  =============================================  ======================
kind      numbers                                        bytes
========  =============================================  ======================
GET       0, 0, length                                   ``GetChunksRequest``
PUT       0, 0, length                                   ``PutFrame``
PIECE     chunk, offset in the chunk, length             the chunk's bytes
END       0, 0, length                                   empty, or ``ObjectStatus``
REFUSED   gRPC status code, 0, length                    words, UTF-8
========  =============================================  ======================

A site sends GET and takes PIECE until END, or sends PUT, PIECE and END and takes END.
"""

from __future__ import annotations

import socket
import ssl
import struct
from dataclasses import dataclass
from enum import IntEnum
from typing import Final

from federation.wire.frames import FRAME_BYTES, IDLE_S, Piece

BULK_PROTOCOL: Final = "clinode-bulk/1"
"""The connection's ALPN name."""
MAX_CONTROL_BYTES: Final = 1 << 20
"""Longest message that is no piece."""
SILENT_S: Final = 30
"""A line that swallows everything is noticed after so long, as on gRPC's connections."""
_PROBE_AFTER_S: Final = 10
_PROBES: Final = 4
_HEAD: Final = struct.Struct(">BIII")


def limit_silence(link: socket.socket) -> None:
    """End a connection on which nothing moves (`IDLE_S`) or whose line is dead (`SILENT_S`).

    The system notices the latter in both directions: by probes where nothing is being sent
    (SO_KEEPALIVE), by a limit for sent bytes that stay unacknowledged (TCP_USER_TIMEOUT, RFC 5482).
    """
    link.settimeout(IDLE_S)
    every = (SILENT_S - _PROBE_AFTER_S) // _PROBES
    link.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    link.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, _PROBE_AFTER_S)
    link.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, every)
    link.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, _PROBES)
    link.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, SILENT_S * 1000)


class Kind(IntEnum):
    """What a message is."""

    GET = 1
    PUT = 2
    PIECE = 3
    END = 4
    REFUSED = 5


@dataclass(frozen=True, slots=True)
class Message:
    """A message that has been read; ``data`` is valid until the next one is read."""

    kind: Kind
    first: int
    second: int
    data: memoryview

    @property
    def piece(self) -> Piece:
        """The message as a piece of a chunk."""
        return Piece(self.first, self.second, self.data)


class BulkStream:
    """Messages over one TLS connection, read into one buffer; for one thread at a time.

    Args:
        link: the connection; its timeout is how long nothing may move.
    """

    def __init__(self, link: ssl.SSLSocket) -> None:
        self._link = link
        self._head = memoryview(bytearray(_HEAD.size))
        self._buffer = memoryview(bytearray())

    def send(
        self, kind: Kind, data: bytes | memoryview = b"", numbers: tuple[int, int] = (0, 0)
    ) -> None:
        """Write a message.

        Raises:
            OSError: the connection is gone, or nothing moved for its whole timeout.
        """
        head = _HEAD.pack(kind, *numbers, len(data))
        if len(data) > MAX_CONTROL_BYTES:
            self._link.sendall(head)
            self._link.sendall(data)
        else:
            self._link.sendall(b"".join((head, data)))

    def send_piece(self, piece: Piece) -> None:
        """Write a piece. Errors as :meth:`send`."""
        self.send(Kind.PIECE, piece.data, (piece.chunk, piece.offset))

    def receive(self) -> Message:
        """Read the next message.

        Raises:
            ValueError: it is none of this protocol, or longer than such a message may be.
            OSError: the connection is gone, or nothing moved for its whole timeout.
        """
        self._fill(self._head)
        number, first, second, length = _HEAD.unpack(self._head)
        kind = Kind(number)
        if length > (FRAME_BYTES if kind is Kind.PIECE else MAX_CONTROL_BYTES):
            raise ValueError(f"a message of {length} bytes")
        if len(self._buffer) < length:
            self._buffer = memoryview(bytearray(length))
        data = self._buffer[:length]
        self._fill(data)
        return Message(kind, first, second, data)

    def _fill(self, view: memoryview) -> None:
        while len(view):
            count = self._link.recv_into(view)
            if not count:
                raise ConnectionResetError("the connection ended in a message")
            view = view[count:]
