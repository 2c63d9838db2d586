"""Bounds on what a peer can make us hold, below and above pynetdicom's requestor (SCU).

pynetdicom reads whatever PDU length a peer announces and waits for ever for the rest of a started
PDU; `GuardedSocket` bounds both without changing its state machine. `SpillBuffer` keeps a data set
in memory or in a nameless file. Our acceptor has its own bounds: :mod:`dicom_bridge.net.scp`.
"""

from __future__ import annotations

import io
import socket
import struct
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from pynetdicom.dimse import DIMSEServiceProvider
from pynetdicom.dimse_primitives import DimseServiceType

from dicom_bridge.net.stack import MAXIMUM_PDU_BYTES

_HEADER_BYTES = 6
_P_DATA = 0x04
_ASSOCIATE_RQ = 0x01
_LIMITS = {_ASSOCIATE_RQ: 1 << 20, _P_DATA: MAXIMUM_PDU_BYTES + 1024}
_OTHER_LIMIT = 1 << 16
_QUICK_ACK: int | None = getattr(socket, "TCP_QUICKACK", None)
_PIECE = 1 << 20


class GuardedSocket(socket.socket):
    """A connected socket that checks PDU framing (PS3.8 9.3.1) before it allocates.

    The whole PDU must arrive within ``pdu_s`` seconds of its first byte, and its announced length
    must be within what was negotiated; otherwise reading raises ``OSError`` and the association
    ends. A PDU's body is read in one go and handed out in the pieces that pynetdicom asks for.
    """

    pdu_s: float = 60.0

    _header: bytes = b""
    _body: memoryview | None = None
    _given: int = 0
    _deadline: float = 0.0

    @classmethod
    def over(cls, plain: socket.socket) -> GuardedSocket:
        """Take over a connected socket and switch Nagle's algorithm off.

        DIMSE alternates small messages, and each would wait for the last one's acknowledgement.
        """
        guarded = cls(plain.family, plain.type, plain.proto, fileno=plain.detach())
        guarded.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return guarded

    def recv(self, bufsize: int, flags: int = 0, /) -> bytes:
        """Up to ``bufsize`` bytes of the current PDU.

        Raises:
            ConnectionAbortedError: the peer announces a PDU longer than allowed.
            TimeoutError: the PDU did not arrive in time.
        """
        if self._body is None and len(self._header) < _HEADER_BYTES:
            return self._read_header(bufsize, flags)
        if self._body is None:
            self._body = self._read_body()
        piece = bytes(self._body[self._given : self._given + bufsize])
        self._given += len(piece)
        if self._given >= len(self._body):
            self._next_pdu()
        return piece

    def _next_pdu(self) -> None:
        self._header, self._body, self._given = b"", None, 0

    def _read_header(self, bufsize: int, flags: int) -> bytes:
        if not self._header:
            self._deadline = time.monotonic() + self.pdu_s
            if _QUICK_ACK is not None:
                # Peers that leave Nagle's algorithm on wait for this acknowledgement.
                self.setsockopt(socket.IPPROTO_TCP, _QUICK_ACK, 1)
        self._keep_deadline()
        piece = super().recv(min(bufsize, _HEADER_BYTES - len(self._header)), flags)
        self._header += piece
        if len(self._header) == _HEADER_BYTES:
            kind, length = self._kind_and_length()
            if length > _LIMITS.get(kind, _OTHER_LIMIT):
                raise ConnectionAbortedError("the peer announced a PDU longer than negotiated")
            if length == 0:
                self._next_pdu()
        return piece

    def _kind_and_length(self) -> tuple[int, int]:
        kind, _, length = struct.unpack(">BBL", self._header)
        return int(kind), int(length)

    def _read_body(self) -> memoryview:
        _, length = self._kind_and_length()
        body = memoryview(bytearray(length))
        filled = 0
        while filled < length:
            self._keep_deadline()
            count = self.recv_into(body[filled:])
            if count == 0:
                break
            filled += count
        return body[:filled]

    def _keep_deadline(self) -> None:
        remaining = self._deadline - time.monotonic()
        if remaining <= 0:
            raise TimeoutError("the peer did not finish a PDU in time")
        self.settimeout(remaining)


@dataclass(frozen=True, slots=True)
class MessageBounds:
    """How much of one DIMSE message may be held.

    Attributes:
        memory_bytes: above it a data set goes to a nameless file in ``spool``.
        instance_bytes: above it the association is aborted.
        spool: where those files go; None keeps data sets in memory up to ``instance_bytes``.
    """

    memory_bytes: int
    instance_bytes: int
    spool: Path | None


class SpillBuffer(io.BytesIO):
    """Takes a data set as it arrives; large ones move to a file that vanishes with the buffer."""

    def __init__(self, bounds: MessageBounds) -> None:
        super().__init__()
        self._bounds = bounds
        self._file: IO[bytes] | None = None
        self.size = 0
        self.failure: OSError | None = None

    def write(self, data: bytes | memoryview, /) -> int:  # type: ignore[override]
        """Append ``data``.

        A full disk is kept in ``failure`` and answered when the message is complete.

        Raises:
            ConnectionAbortedError: the data set is larger than allowed.
        """
        self.size += len(data)
        if self.size > self._bounds.instance_bytes:
            raise ConnectionAbortedError("the peer sends a data set larger than allowed")
        if self._file is None and (
            self._bounds.spool is None or self.size <= self._bounds.memory_bytes
        ):
            return super().write(data)
        try:
            self._spill(data)
        except OSError as error:
            self.failure = error
        return len(data)

    def _spill(self, data: bytes | memoryview) -> None:
        if self.failure is not None:
            return
        if self._file is None:
            self._file = tempfile.TemporaryFile(  # noqa: SIM115 - closed by close()
                dir=self._bounds.spool, buffering=_PIECE
            )
            self._file.write(self.getbuffer())
            self.seek(0)
            self.truncate()
        self._file.write(data)

    def pieces(self) -> Iterator[bytes | memoryview]:
        """What was written, from the beginning."""
        if self._file is None:
            yield self.getbuffer()
            return
        self._file.seek(0)
        while piece := self._file.read(_PIECE):
            yield piece

    def head(self, count: int) -> bytes:
        """The first ``count`` bytes."""
        if self._file is None:
            return bytes(self.getbuffer()[:count])
        self._file.seek(0)
        return self._file.read(count)

    def close(self) -> None:
        """Let the file vanish."""
        if self._file is not None:
            self._file.close()
            self._file = None
        super().close()


class RequestorDimse(DIMSEServiceProvider):
    """Keeps responses for the request that waits for them.

    pynetdicom's association thread looks for messages without waiting, and is meant to pause while
    a request is under way. The pause has a gap: a thread that was just about to look may take the
    response away, and the request waits in vain until its time-out. As requestor we serve nothing,
    so looking without waiting finds nothing.
    """

    def get_msg(self, block: bool = False) -> tuple[None, None] | tuple[int, DimseServiceType]:
        """The next message for a request that waits, nothing for anybody else."""
        if not block:
            return None, None
        return super().get_msg(block=True)
