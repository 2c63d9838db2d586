"""An object in the making: chunks are hashed while they come and written once, at their place.

What lies in the file from an earlier process is hashed again and only believed chunk by chunk, so a
kill, a cut line or a spoiled disk costs the chunks concerned and nothing else.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from federation.chunks import CHUNK_BYTES, ChunkList, Data, ranges
from federation.errors import TransferFailed
from federation.spares import Spares

_SYNC_FILE_RANGE_WRITE: Final = 2
_libc = ctypes.CDLL(None, use_errno=True)


def start_writing(descriptor: int, offset: int, count: int) -> None:
    """Have the kernel begin to write a part of a file out, so that a later sync is short.

    A hint (sync_file_range(2)): where the system has none, nothing happens.
    """
    call = getattr(_libc, "sync_file_range", None)
    if call is not None:
        call(
            descriptor,
            ctypes.c_int64(offset),
            ctypes.c_int64(count),
            ctypes.c_uint(_SYNC_FILE_RANGE_WRITE),
        )


def write_at(descriptor: int, data: Data, offset: int) -> None:
    """Write all of ``data`` at its place."""
    view = memoryview(data)
    while len(view):
        written = os.pwrite(descriptor, view, offset)
        view, offset = view[written:], offset + written


class PartFile:
    """A file that is filled with an object's chunks; not for two threads at once.

    Args:
        path: the unfinished file; what it holds already is verified, not believed.
        chunks: what the object consists of.
        early: begin to write to the disk chunk by chunk, for a file that is synced at the end.
        spares: a file that does not exist yet is one of these, written over.
    """

    def __init__(
        self,
        path: Path,
        chunks: ChunkList,
        *,
        early: bool = False,
        spares: Spares | None = None,
    ) -> None:
        self.path = path
        self.chunks = chunks
        self._early = early
        path.parent.mkdir(parents=True, exist_ok=True)
        reused = spares is not None and not path.exists() and spares.reuse(path, chunks.size)
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            self._have = bytearray(chunks.count) if reused else self._verified()
        except OSError:
            os.close(self._file)
            raise
        self._open = -1
        self._at = 0
        self._digest = hashlib.sha256()

    def close(self) -> None:
        """Close the file; what has arrived stays in it."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    def missing(self) -> Iterator[tuple[int, int]]:
        """Chunks that are not here, as (first, count)."""
        return ranges(index for index, have in enumerate(self._have) if not have)

    @property
    def unallocated_bytes(self) -> int:
        """Bytes that the file still needs on the disk."""
        return max(0, self.chunks.size - 512 * os.fstat(self._file).st_blocks)

    @property
    def complete(self) -> bool:
        """Whether every chunk is here and verified."""
        return all(self._have)

    def begin(self) -> None:
        """A new stream of frames begins; a chunk of which only a part has come is forgotten."""
        self._open = -1

    def take(self, index: int, offset: int, data: Data) -> None:
        """Write the next bytes of a chunk.

        Args:
            index: which chunk.
            offset: where in the chunk the bytes belong; they come in order within a chunk.
            data: the bytes.

        Raises:
            TransferFailed: the bytes do not go on where the chunk stands, or the chunk that they
                complete is not the one announced.
        """
        if index != self._open:
            if offset or not 0 <= index < self.chunks.count or self._have[index]:
                raise TransferFailed("a chunk came that was not asked for, or not from its start")
            self._open, self._at, self._digest = index, 0, hashlib.sha256()
        length = self.chunks.length(index)
        if offset != self._at or offset + len(data) > length:
            raise TransferFailed("a chunk does not continue where it stands")
        self._digest.update(data)
        write_at(self._file, data, index * CHUNK_BYTES + offset)
        self._at += len(data)
        if self._at == length:
            self._open = -1
            if self._digest.digest() != self.chunks.digest(index):
                raise TransferFailed("a chunk does not have the announced SHA-256: send it anew")
            self._have[index] = 1
            if self._early:
                start_writing(self._file, index * CHUNK_BYTES, length)

    def finish(self, *, sync: bool) -> None:
        """Close the complete file, on request only once it is on the disk."""
        os.ftruncate(self._file, self.chunks.size)
        if sync:
            os.fsync(self._file)
        self.close()

    def _verified(self) -> bytearray:
        have = bytearray(self.chunks.count)
        size = os.fstat(self._file).st_size
        if size > self.chunks.size:
            os.ftruncate(self._file, self.chunks.size)
            size = self.chunks.size
        for index in range(self.chunks.count):
            length = self.chunks.length(index)
            if index * CHUNK_BYTES + length > size:
                break
            data = os.pread(self._file, length, index * CHUNK_BYTES)
            have[index] = hashlib.sha256(data).digest() == self.chunks.digest(index)
        return have
