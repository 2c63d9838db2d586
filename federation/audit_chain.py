"""An append-only audit log, one JSON object per line, each bound to the one before by SHA-256.

``hash = SHA-256(RFC 8785 JSON of the entry without its hash)`` and the entry holds the previous
entry's hash, so no line can be changed, removed or reordered without breaking the chain. A tail cut
off whole can only be seen by who remembers the last hash (see ``verify(..., expected_last=...)``).
Coordinator and node share this one implementation.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from federation.canonical import JSON, canonical_json, sha256_hex
from federation.clock import Clock, stamp, utc_now
from federation.errors import StoreDamaged

FORMAT = 1
GENESIS = "0" * 64
_TAIL = 1 << 20
_LONGEST_LINE = 1 << 20


@dataclass(frozen=True, slots=True)
class AuditEntry:
    """One line of the log."""

    seq: int
    at: str
    actor: str
    action: str
    object: str
    detail: Mapping[str, JSON]
    previous: str
    hash: str


@dataclass(frozen=True, slots=True)
class AuditVerification:
    """What :func:`verify` found: ``words`` is empty exactly when ``ok``."""

    ok: bool
    entries: int
    last_hash: str
    words: str = ""


def _entry_hash(document: Mapping[str, JSON]) -> str:
    return sha256_hex(canonical_json({k: v for k, v in document.items() if k != "hash"}))


def _parse(line: bytes) -> AuditEntry:
    document = cast("dict[str, JSON]", json.loads(line))
    fields = ("seq", "at", "actor", "action", "object", "detail", "previous", "hash")
    if not isinstance(document, dict) or set(document) != {"format", *fields}:
        raise ValueError("fields are not those of an audit entry")
    if document["format"] != FORMAT:
        raise ValueError(f"format {document['format']!r}, this program reads {FORMAT}")
    if _entry_hash(document) != document["hash"]:
        raise ValueError("its hash does not fit its content")
    return AuditEntry(**{name: document[name] for name in fields})  # type: ignore[arg-type]


class AuditChain:
    """Appends to one log file; safe for several threads and several processes.

    Args:
        path: the log; created with mode 0600 where absent.
        clock: gives the time of each entry.

    Raises:
        StoreDamaged: the last whole line is not an entry of this log.
    """

    def __init__(self, path: Path, clock: Clock = utc_now) -> None:
        self._path = path
        self._clock = clock
        self._lock = threading.Lock()
        path.parent.mkdir(parents=True, exist_ok=True)
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
        self._size = -1
        self._last = GENESIS
        self._seq = 0
        with self._lock, _Locked(self._descriptor):
            self._follow()

    @property
    def path(self) -> Path:
        """The log's file."""
        return self._path

    @property
    def last_hash(self) -> str:
        """The newest entry's hash, to be remembered elsewhere."""
        return self._last

    def append(
        self, actor: str, action: str, subject: str, detail: Mapping[str, JSON] | None = None
    ) -> AuditEntry:
        """Write one entry durably.

        Args:
            actor: who acted: a user, a site's name, ``system``.
            action: what was done, in dotted lower case (``site.revoked``).
            subject: what it was done to (``object`` in the file); never an identifier of a patient.
            detail: further JSON values; never an identifier of a patient.

        Returns:
            The entry as written.
        """
        with self._lock, _Locked(self._descriptor):
            self._follow()
            return self._write(actor, action, subject, dict(detail or {}))

    def close(self) -> None:
        """Give the file back."""
        with self._lock:
            if self._descriptor >= 0:
                os.close(self._descriptor)
                self._descriptor = -1

    def _write(self, actor: str, action: str, subject: str, detail: dict[str, JSON]) -> AuditEntry:
        document: dict[str, JSON] = {
            "format": FORMAT,
            "seq": self._seq + 1,
            "at": stamp(self._clock()),
            "actor": actor,
            "action": action,
            "object": subject,
            "detail": detail,
            "previous": self._last,
        }
        document["hash"] = _entry_hash(document)
        line = json.dumps(document, ensure_ascii=False, separators=(",", ":")).encode() + b"\n"
        if len(line) > _LONGEST_LINE:
            raise ValueError(f"an audit entry of {len(line)} bytes; at most {_LONGEST_LINE}")
        written = os.write(self._descriptor, line)
        if written != len(line):
            # The disk became full within the line: nothing of it stays.
            os.ftruncate(self._descriptor, self._size)
            raise OSError(errno.ENOSPC, "the audit log cannot grow: the disk is full")
        os.fsync(self._descriptor)
        self._size += len(line)
        self._last = cast("str", document["hash"])
        self._seq += 1
        return _parse(line)

    def _follow(self) -> None:
        """Read the newest entry where another process wrote, and cut a torn last line off."""
        size = os.fstat(self._descriptor).st_size
        if size == self._size:
            return
        start = max(0, size - 2 * _TAIL)
        tail = os.pread(self._descriptor, size - start, start)
        whole, _, torn = tail.rpartition(b"\n")
        last_line = whole.rpartition(b"\n")[2]
        if last_line:
            try:
                entry = _parse(last_line)
            except (ValueError, TypeError) as error:
                raise StoreDamaged(
                    f"the last entry of {self._path.name} is damaged ({error}): keep the file as "
                    "evidence, move it away and start a new log"
                ) from error
            self._last, self._seq = entry.hash, entry.seq
        self._size = size
        if torn:
            self._size = size - len(torn)
            os.ftruncate(self._descriptor, self._size)
            self._write("system", "audit.repaired", "log", {"torn_bytes": len(torn)})


class _Locked:
    """Holds the file's advisory lock."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def __enter__(self) -> None:
        fcntl.flock(self._descriptor, fcntl.LOCK_EX)

    def __exit__(self, *_: object) -> None:
        fcntl.flock(self._descriptor, fcntl.LOCK_UN)


def read_entries(path: Path) -> Iterator[AuditEntry]:
    """Every entry, oldest first; each line's own hash is checked, the chain is not.

    Raises:
        ValueError: a line is not an entry.
    """
    for entry, _ in entries_from(path):
        yield entry


def entries_from(path: Path, start: int = 0) -> Iterator[tuple[AuditEntry, int]]:
    """Every whole entry from a place on; a last line that is still being written is left.

    Args:
        path: the log.
        start: the byte offset of a line, as an earlier call gave it.

    Yields:
        An entry and the byte offset after it.

    Raises:
        ValueError: a line is not an entry.
    """
    with path.open("rb") as stream:
        stream.seek(start)
        for line in stream:
            if not line.endswith(b"\n"):
                return
            start += len(line)
            yield _parse(line), start


def tail(path: Path, count: int) -> list[AuditEntry]:
    """The newest ``count`` entries, oldest first."""
    if not path.exists():
        return []
    size = path.stat().st_size
    with path.open("rb") as stream:
        stream.seek(max(0, size - 4 * _TAIL))
        lines = [line for line in stream.read().split(b"\n") if line]
    if size > 4 * _TAIL:
        lines = lines[1:]
    return [_parse(line) for line in lines[-count:]] if count > 0 else []


def verify(path: Path, *, expected_last: str | None = None) -> AuditVerification:
    """Follow the whole chain.

    Args:
        path: the log.
        expected_last: a hash remembered elsewhere that the log must still hold.

    Returns:
        The count of good entries and, where broken, the first bad line in words.
    """
    watch = ChainWatch(path, remembered=expected_last)
    found = watch.check()
    if found.ok and not watch.seen:
        words = "the remembered entry is gone: tail cut off"
        return AuditVerification(False, found.entries, found.last_hash, words)
    return found


class ChainWatch:
    """Follows a chain as it grows: each line is checked once, a shorter file from the beginning.

    What somebody changes in lines that were checked before is seen by :func:`verify`, not here.

    Args:
        path: the log.
        remembered: a hash to look for.

    Attributes:
        seen: whether the remembered hash was met, or none was given.
    """

    def __init__(self, path: Path, *, remembered: str | None = None) -> None:
        self._path = path
        self._remembered = remembered
        self._lock = threading.Lock()
        self._start_over()

    def _start_over(self) -> None:
        self._offset = self._count = 0
        self._last = GENESIS
        self.seen = self._remembered is None

    def check(self) -> AuditVerification:
        """Follow the lines that are new since the last call."""
        with self._lock:
            if self._path.stat().st_size < self._offset:
                self._start_over()
            words = ""
            with self._path.open("rb") as stream:
                stream.seek(self._offset)
                for line in stream:
                    words = self._fault(line)
                    if words:
                        break
            return AuditVerification(not words, self._count, self._last, words)

    def _fault(self, line: bytes) -> str:
        number = self._count + 1
        try:
            entry = _parse(line)
        except (ValueError, TypeError) as error:
            return f"line {number}: {error}"
        if entry.previous != self._last:
            return f"line {number}: does not follow the line before: removed or reordered"
        if entry.seq != number:
            return f"line {number}: number {entry.seq}, expected {number}"
        self._last, self._count = entry.hash, number
        self._offset += len(line)
        self.seen = self.seen or entry.hash == self._remembered
        return ""
