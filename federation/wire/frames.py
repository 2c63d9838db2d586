"""Frames of an object's chunks, coded by hand: the bytes are copied once instead of three times.

On the wire a frame is what ``federation.proto`` says of ``Frame`` and ``PutFrame``; a test holds
both against protobuf's own coding (Protocol Buffers, encoding guide).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from federation.chunks import CHUNK_BYTES, ChunkList
from federation.errors import TransferFailed
from federation.wire import federation_pb2 as pb

FRAME_BYTES: Final = 2 << 20
"""Bytes of a chunk that one frame carries: what must move within a transfer's idle time."""
MAX_MESSAGE_BYTES: Final = CHUNK_BYTES + (1 << 16)
"""A frame may carry a whole chunk."""
IDLE_S: Final = 120.0
"""A transfer in which no frame moves for so long is broken off and resumed."""
_CHUNK, _OFFSET, _DATA = 0x08, 0x10, 0x1A


@dataclass(frozen=True, slots=True)
class Piece:
    """Consecutive bytes of one chunk."""

    chunk: int
    offset: int
    data: bytes | memoryview


Coded = Piece | pb.Frame | pb.PutFrame


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def encode(message: Coded) -> bytes:
    """A frame's bytes; a message of protobuf's own is coded by protobuf."""
    if not isinstance(message, Piece):
        return message.SerializeToString()
    head = (
        bytes((_CHUNK,)) + _varint(message.chunk)
        + bytes((_OFFSET,)) + _varint(message.offset)
        + bytes((_DATA,)) + _varint(len(message.data))
    )  # fmt: skip
    return b"".join((head, message.data))


def _read_varint(raw: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while shift < 64:
        byte = raw[at]
        value |= (byte & 0x7F) << shift
        at += 1
        if byte < 0x80:
            return value, at
        shift += 7
    raise ValueError("a number is longer than 64 bits")


def _piece(raw: bytes) -> Piece | None:
    """A frame with nothing but a piece, None for any other."""
    at, found = 0, {_CHUNK: 0, _OFFSET: 0}
    while at < len(raw):
        tag = raw[at]
        if tag not in (_CHUNK, _OFFSET, _DATA):
            return None
        value, at = _read_varint(raw, at + 1)
        if tag == _DATA:
            if at + value != len(raw):
                return None
            return Piece(found[_CHUNK], found[_OFFSET], memoryview(raw)[at:])
        found[tag] = value
    return None


def decode(raw: bytes) -> Piece:
    """Read a ``Frame``.

    Raises:
        ValueError: it is none.
    """
    try:
        piece = _piece(raw)
    except IndexError as error:
        raise ValueError("a frame ends early") from error
    if piece is not None:
        return piece
    other = pb.Frame.FromString(raw)
    return Piece(other.chunk, other.offset, other.data)


def decode_put(raw: bytes) -> Piece | pb.PutFrame:
    """Read a ``PutFrame``: a piece, or the message that begins an upload.

    Raises:
        ValueError: it is none.
    """
    try:
        piece = _piece(raw)
    except IndexError as error:
        raise ValueError("a frame ends early") from error
    return piece if piece is not None else pb.PutFrame.FromString(raw)


GET_METHOD: Final = "/clinode.federation.v1.Federation/GetChunks"
PUT_METHOD: Final = "/clinode.federation.v1.Federation/PutChunks"
Coders = Mapping[str, tuple[Callable[[bytes], Any] | None, Callable[[Any], bytes] | None]]
SERVER_CODERS: Final[Coders] = {GET_METHOD: (None, encode), PUT_METHOD: (decode_put, None)}
"""Method to (reads requests, writes responses) where the server does not use protobuf's own."""


def pieces(descriptor: int, chunks: ChunkList, wanted: Iterable[int]) -> Iterator[Piece]:
    """The pieces of chunks in a file; each is valid until the next one is asked for.

    Raises:
        TransferFailed: the file ends before the chunk does.
    """
    buffer = memoryview(bytearray(FRAME_BYTES))
    for index in wanted:
        length = chunks.length(index)
        for offset in range(0, length, FRAME_BYTES):
            view = buffer[: min(FRAME_BYTES, length - offset)]
            if os.preadv(descriptor, [view], index * CHUNK_BYTES + offset) != len(view):
                raise TransferFailed("the object's file is shorter than the object")
            yield Piece(index, offset, view)
