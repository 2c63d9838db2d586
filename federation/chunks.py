"""What names an object: the SHA-256 of its chunks, so that every chunk can be checked alone.

An object is cut into chunks of :data:`CHUNK_BYTES`; the last one may be shorter. Each chunk is
named by its SHA-256 (FIPS 180-4), the object by the SHA-256 over :data:`DOMAIN`, its size (8 bytes,
big-endian) and its chunks' digests in order: a hash list, a Merkle tree of depth one. Each byte is
hashed once at each end, in whatever order the chunks come.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Final

from federation.errors import TransferFailed

CHUNK_BYTES: Final = 4 << 20
"""Bytes of a chunk: what a broken transfer loses at most."""
DIGEST_BYTES: Final = 32
MAX_CHUNKS: Final = 1 << 15
"""Chunks of the largest object (128 GiB): its list still fits into a message."""
DOMAIN: Final = b"clinode object v1\n"
"""Keeps an object's name apart from any other SHA-256."""

Data = bytes | bytearray | memoryview


def chunk_count(size: int) -> int:
    """Number of chunks of an object of ``size`` bytes; an empty object has none.

    >>> [chunk_count(size) for size in (0, 1, CHUNK_BYTES, CHUNK_BYTES + 1)]
    [0, 1, 1, 2]
    """
    return -(-size // CHUNK_BYTES)


@dataclass(frozen=True)
class ChunkList:
    """An object's size in bytes and the digests of its chunks, joined in order."""

    size: int
    digests: bytes

    @cached_property
    def name(self) -> str:
        """The object's name: 64 lower-case hexadecimal digits."""
        head = DOMAIN + self.size.to_bytes(8, "big")
        return hashlib.sha256(head + self.digests).hexdigest()

    @property
    def count(self) -> int:
        """Number of chunks."""
        return len(self.digests) // DIGEST_BYTES

    def digest(self, index: int) -> bytes:
        """The digest of one chunk."""
        return self.digests[index * DIGEST_BYTES : (index + 1) * DIGEST_BYTES]

    def length(self, index: int) -> int:
        """Bytes of one chunk."""
        return min(CHUNK_BYTES, self.size - index * CHUNK_BYTES)

    @classmethod
    def announced(cls, name: str, size: int, digests: bytes) -> ChunkList:
        """What the other side says of an object, checked against the object's name.

        Raises:
            TransferFailed: size, digests and name do not belong together, or there are more chunks
                than an object may have.
        """
        if not 0 <= size <= MAX_CHUNKS * CHUNK_BYTES:
            raise TransferFailed(
                f"an object of {size} bytes; at most {MAX_CHUNKS} chunks are taken"
            )
        if len(digests) != chunk_count(size) * DIGEST_BYTES:
            raise TransferFailed(
                f"an object of {size} bytes has {chunk_count(size)} chunks, "
                f"{len(digests)} bytes of digests came"
            )
        made = cls(size, bytes(digests))
        if made.name != name:
            raise TransferFailed("the list of chunks does not belong to the object's name")
        return made

    @classmethod
    def of_digests(cls, size: int, digests: Iterable[bytes]) -> ChunkList:
        """The list of chunks that were hashed one by one, in order."""
        return cls(size, b"".join(digests))

    @classmethod
    def of_bytes(cls, data: Data) -> ChunkList:
        """The list of an object in memory."""
        builder = ChunkListBuilder()
        builder.update(data)
        return builder.finish()

    @classmethod
    def of_file(cls, path: Path) -> ChunkList:
        """The list of a file; memory for one chunk."""
        builder = ChunkListBuilder()
        buffer = memoryview(bytearray(CHUNK_BYTES))
        with path.open("rb", buffering=0) as stream:
            while count := stream.readinto(buffer):
                builder.update(buffer[:count])
        return builder.finish()


class ChunkListBuilder:
    """Hashes an object that comes in pieces of any length, in order."""

    def __init__(self) -> None:
        self._digests: list[bytes] = []
        self._open = hashlib.sha256()
        self._size = 0

    def update(self, data: Data) -> None:
        """Take the next bytes."""
        view = memoryview(data)
        while len(view):
            room = CHUNK_BYTES - self._size % CHUNK_BYTES
            piece = view[:room]
            self._open.update(piece)
            self._size += len(piece)
            if len(piece) == room:
                self._digests.append(self._open.digest())
                self._open = hashlib.sha256()
            view = view[room:]

    def finish(self) -> ChunkList:
        """The list of what came."""
        last = [self._open.digest()] if self._size % CHUNK_BYTES else []
        return ChunkList.of_digests(self._size, [*self._digests, *last])


def ranges(indices: Iterable[int]) -> Iterator[tuple[int, int]]:
    """Ascending chunk indices as (first, count).

    >>> list(ranges([0, 1, 2, 7, 9, 10]))
    [(0, 3), (7, 1), (9, 2)]
    """
    first = count = 0
    for index in indices:
        if count and index == first + count:
            count += 1
            continue
        if count:
            yield first, count
        first, count = index, 1
    if count:
        yield first, count


def indices(wanted: Iterable[tuple[int, int]], total: int) -> Iterator[int]:
    """Chunk indices of (first, count) ranges; none outside an object of ``total`` chunks.

    >>> list(indices([(0, 2), (4, 9)], 6))
    [0, 1, 4, 5]
    """
    for first, count in wanted:
        yield from range(max(first, 0), min(first + count, total))
