"""The sink of a receiver process: objects into the write-ahead log, then "stored" may be said.

Small objects are gathered in one buffer per thread, hashed as they arrive and appended to the log
with their file meta information; the log's `fdatasync` makes them durable. Objects that are larger
than ``memory_bytes`` stream into a file of their own, which is synced, and a record in the log says
where it belongs. In both cases :mod:`.place` does the rest after the answer.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import count
from pathlib import Path

from dicom_bridge.net.filemeta import preamble_and_meta
from dicom_bridge.net.intake import (
    MISMATCH,
    NOT_AUTHORISED,
    OUT_OF_RESOURCES,
    PROCESSING_FAILURE,
    StoreRefused,
    file_digest,
    is_uid,
)
from dicom_bridge.net.model import CommitmentReport
from dicom_bridge.net.scp.head import scan_head
from dicom_bridge.net.scp.jobs import JobBook, Target
from dicom_bridge.net.scp.journal import sync_folder
from dicom_bridge.net.scp.place import Placer
from dicom_bridge.net.scp.rooms import Board
from dicom_bridge.net.scp.sink import StoreRequest
from dicom_bridge.net.scp.wal import LogFull, Record, WriteAheadLog

_HEAD_BYTES = 1 << 20
_LOOK_AT_DISK_S = 0.25
_EARLY_WRITE_BYTES = 4 << 20
_STRIPES = 64
_NO_SPACE = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


@dataclass(frozen=True, slots=True)
class StoreOptions:
    """Where and how much.

    Attributes:
        root: what the jobs' paths are below.
        spool: for objects that arrive; on the file system of ``root``.
        name: of this process.
        memory_bytes: larger objects stream into a file.
        instance_bytes: a larger data set ends the association.
        reserve_bytes: free disk space that is never used up.
    """

    root: Path
    spool: Path
    name: str
    memory_bytes: int = 1 << 20
    instance_bytes: int = 4 << 30
    reserve_bytes: int = 256 << 20


class LogSink:
    """Takes objects of open jobs; safe for several threads.

    Args:
        options: where and how much.
        jobs: what may come.
        log: the write-ahead log, replayed.
        placer: settles the log's records.
        board: counts answers.
        fatal: called when the log's disk has failed: nothing may be answered any more.
    """

    def __init__(
        self,
        options: StoreOptions,
        jobs: JobBook,
        log: WriteAheadLog,
        placer: Placer,
        board: Board,
        fatal: Callable[[], None] = lambda: None,
    ) -> None:
        self._fatal = fatal
        self.options = options
        self._root = str(options.root)
        self._jobs = jobs
        self.log = log
        self._placer = placer
        self._board = board
        self._free_bytes = 0
        self._free_until = 0.0
        self._stripes = [threading.Lock() for _ in range(_STRIPES)]
        self._numbers = count()
        self._buffers = threading.local()

    def open(self, request: StoreRequest) -> StoredObject:
        """Begin one object.

        Raises:
            StoreRefused: nobody asked for it, or there is no space for it.
        """
        if not is_uid(request.sop_uid) or not is_uid(request.sop_class):
            raise StoreRefused(MISMATCH, "the command's UIDs are absent or not UIDs")
        target = self._jobs.find(request.sop_uid)
        if target is None:
            raise StoreRefused(NOT_AUTHORISED, "no open request asked for this instance")
        self.check_space(self.options.memory_bytes)
        return StoredObject(self, request, target)

    def report(self, report: CommitmentReport) -> None:
        """Keep a storage commitment report durably.

        Raises:
            StoreRefused: it is larger than a record of the log.
        """
        content = json.dumps(
            {
                "transaction": report.transaction_uid,
                "committed": sorted(report.committed),
                "failed": dict(report.failed),
            }
        ).encode()
        if len(content) > self.log.largest:
            raise StoreRefused(OUT_OF_RESOURCES, "the report is larger than can be kept")
        self._append({"kind": "commitment"}, memoryview(content), hashlib.sha256(content).digest())

    def check_space(self, size: int) -> None:
        """Refuse what would touch the reserve.

        Raises:
            StoreRefused: there is no space.
        """
        now = time.monotonic()
        if now > self._free_until:
            status = os.statvfs(self.options.root)
            self._free_bytes = status.f_bavail * status.f_frsize
            self._free_until = now + _LOOK_AT_DISK_S
        needed = self.options.reserve_bytes + self._placer.pending.bytes + size
        if self._placer.full or self._free_bytes < needed:
            raise StoreRefused(OUT_OF_RESOURCES, "less disk space is left than is reserved")

    def take(
        self, target: Target, digest: bytes, meta: dict[str, object], data: memoryview
    ) -> None:
        """Append an object to the log and judge it against what is here under its UID.

        Raises:
            StoreRefused: other content was received before; this one is kept beside it.
        """
        told = digest.hex()
        meta |= {
            "path": target.path,
            "study": target.study_key,
            "instance": target.instance_key,
            "sha256": told,
        }
        with self._stripes[hash(target.path) % _STRIPES]:
            known = self._known(target.path)
            if known == told:
                again = {**meta, "kind": "again"}
                self._append(again, memoryview(b""), hashlib.sha256().digest())
                self._board.add("repeated")
                return
            self._append(meta, data, digest if len(data) else hashlib.sha256().digest())
            if known is None:
                self._board.add("stored")
                return
        self._board.add("conflicts")
        raise StoreRefused(
            PROCESSING_FAILURE, "other content was received before under the same UID"
        )

    def buffer(self) -> bytearray:
        """This thread's buffer for small objects and for the head of large ones."""
        buffer: bytearray | None = getattr(self._buffers, "own", None)
        if buffer is None:
            buffer = self._buffers.own = bytearray(self.options.memory_bytes + _HEAD_BYTES)
        return buffer

    def part(self) -> Path:
        """A name for a large object on its way in."""
        return self.options.spool / f"{self.options.name}-{next(self._numbers)}.part"

    def _known(self, path: str) -> str | None:
        waiting = self._placer.pending.digest(path)
        if waiting is not None:
            return waiting
        if not os.path.exists(f"{self._root}/{path}"):
            return None
        return file_digest(self.options.root / path)

    def _append(self, meta: dict[str, object], content: memoryview, digest: bytes) -> Record:
        try:
            record = self.log.append(meta, content, digest)
        except LogFull as error:
            raise StoreRefused(OUT_OF_RESOURCES, "the receiver waits for its disk") from error
        try:
            self.log.commit(record.seq)
        except OSError:
            self._fatal()
            raise
        return record


class StoredObject:
    """One object on its way into a `LogSink`; used by one thread."""

    def __init__(self, sink: LogSink, request: StoreRequest, target: Target) -> None:
        self._sink = sink
        self._request = request
        self._target = target
        self._buffer = sink.buffer()
        meta = preamble_and_meta(request.sop_class, request.sop_uid, request.syntax)
        self._meta_bytes = self._filled = len(meta)
        self._buffer[: len(meta)] = meta
        self._hash = hashlib.sha256(meta)
        self._size = len(meta)
        self._part: Path | None = None
        self._descriptor = -1
        self._failure: OSError | None = None

    def write(self, data: memoryview) -> None:
        """Take a fragment.

        Raises:
            ConnectionAbortedError: the data set is larger than allowed.
        """
        self._size += len(data)
        if self._size > self._sink.options.instance_bytes:
            raise ConnectionAbortedError("the peer sends a data set larger than allowed")
        self._hash.update(data)
        if self._part is None and self._size <= self._sink.options.memory_bytes:
            self._buffer[self._filled : self._size] = data
            self._filled = self._size
            return
        try:
            self._spill(data)
        except OSError as error:
            self._failure = error
        if self._filled < self._sink.options.memory_bytes:  # the head may be in this fragment
            end = min(self._filled + len(data), len(self._buffer))
            self._buffer[self._filled : end] = data[: end - self._filled]
            self._filled = end

    def finish(self) -> None:
        """Make it durable and record it.

        Raises:
            StoreRefused: it is not taken; the status is answered.
        """
        request, target = self._request, self._target
        with memoryview(self._buffer) as whole:
            head = scan_head(whole[self._meta_bytes : self._filled], request.syntax)
            if head.sop_uid != request.sop_uid or head.sop_class != request.sop_class:
                raise StoreRefused(MISMATCH, "command and data set name other instances")
            if head.study_uid != target.study_uid:
                raise StoreRefused(NOT_AUTHORISED, "no open request asked for this instance")
            digest = self._hash.digest()
            try:
                if self._part is None and self._failure is None:
                    self._sink.take(target, digest, {"kind": "object"}, whole[: self._filled])
                else:
                    self._finish_large(target, digest)
            except OSError as error:
                if error.errno in _NO_SPACE:
                    raise StoreRefused(OUT_OF_RESOURCES, "the disk is full") from error
                raise StoreRefused(PROCESSING_FAILURE, "the object could not be kept") from error

    def discard(self) -> None:
        """Let go of what is not kept."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1
        if self._part is not None:
            self._part.unlink(missing_ok=True)
            self._part = None

    def _finish_large(self, target: Target, digest: bytes) -> None:
        if self._failure is not None or self._part is None:
            raise self._failure or OSError("the object was not written")
        os.fdatasync(self._descriptor)
        os.close(self._descriptor)
        self._descriptor = -1
        part = self._part
        sync_folder(part.parent)
        meta: dict[str, object] = {"kind": "file", "part": part.name}
        self._part = None  # from here on it is the log's
        try:
            self._sink.take(target, digest, meta, memoryview(b""))
        except StoreRefused as refusal:
            if refusal.status == OUT_OF_RESOURCES:
                part.unlink(missing_ok=True)
            raise

    def _spill(self, data: memoryview) -> None:
        if self._failure is not None:
            return
        if self._part is None:
            part = self._sink.part()
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
            self._descriptor = os.open(part, flags, 0o600)
            self._part = part
            _write_all(self._descriptor, memoryview(self._buffer)[: self._filled])
        before = self._size - len(data)
        if before // _EARLY_WRITE_BYTES != self._size // _EARLY_WRITE_BYTES:
            try:
                self._sink.check_space(_EARLY_WRITE_BYTES)
            except StoreRefused as refusal:
                raise OSError(errno.ENOSPC, str(refusal)) from refusal
        _write_all(self._descriptor, data)


def _write_all(descriptor: int, data: memoryview) -> None:
    while data:
        data = data[os.write(descriptor, data) :]


def clear_spool(spool: Path, name: str, kept: frozenset[str]) -> None:
    """Remove what a crash left of objects that were never answered."""
    for path in spool.glob(f"{name}-*.part"):
        if path.name not in kept:
            with contextlib.suppress(OSError):
                path.unlink()
