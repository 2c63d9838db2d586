r"""A receiver process's journal: what it has put in place, one line each, for the node to take.

A line is eight hexadecimal digits (CRC-32 of the rest), a blank, and JSON with at least ``seq`` and
``kind``. The first line of a file is ``kind: mark``: everything up to its ``seq`` was taken by the
node before. Only the process writes; the node reads and says how far it has taken, and then the
process starts a new file by rename.
"""

from __future__ import annotations

import json
import os
import threading
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

ROTATE_BYTES = 1 << 20


@dataclass(frozen=True, slots=True, repr=False)
class Entry:
    """A line.

    Attributes:
        seq: number of the log record that it settles.
        kind: ``stored``, ``conflict``, ``dropped``, ``commitment`` or ``mark``.
        values: everything else.
    """

    seq: int
    kind: str
    values: Mapping[str, object]


def encode_entry(entry: Entry) -> bytes:
    """The entry's line."""
    content = {"seq": entry.seq, "kind": entry.kind, **entry.values}
    text = json.dumps(content, separators=(",", ":")).encode()
    return b"%08x %b\n" % (zlib.crc32(text), text)


def decode_lines(data: bytes) -> tuple[list[Entry], int]:
    """The whole lines at the beginning of ``data``, and where they end."""
    entries: list[Entry] = []
    at = 0
    while (end := data.find(b"\n", at)) >= 0:
        line = data[at:end]
        try:
            if int(line[:8], 16) != zlib.crc32(line[9:]):
                break
            values = json.loads(line[9:])
            entries.append(Entry(int(values.pop("seq")), str(values.pop("kind")), values))
        except (ValueError, KeyError, AttributeError):
            break
        at = end + 1
    return entries, at


class Journal:
    """The writing side.

    Args:
        path: the file; made with mode 0600 where absent. A torn last line is cut off.

    Attributes:
        last_seq: the highest number that is settled.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        entries, end = decode_lines(_read_all(self._descriptor))
        os.ftruncate(self._descriptor, end)
        self._size = end
        self.last_seq = max((entry.seq for entry in entries), default=0)

    def append(self, entries: Sequence[Entry]) -> None:
        """Append lines durably, all or none.

        Raises:
            OSError: nothing was appended.
        """
        lines = b"".join(encode_entry(entry) for entry in entries)
        with self._lock:
            try:
                if os.pwrite(self._descriptor, lines, self._size) != len(lines):
                    raise OSError("a journal line was written in part only")
                os.fdatasync(self._descriptor)
            except OSError:
                os.ftruncate(self._descriptor, self._size)
                raise
            self._size += len(lines)
            self.last_seq = max([self.last_seq, *(entry.seq for entry in entries)])

    def taken(self, inode: int, offset: int, *, least: int = ROTATE_BYTES) -> None:
        """The node has taken so much of the file with this inode: begin a new one where it grew.

        Raises:
            OSError: the new file could not be written; the old one goes on.
        """
        with self._lock:
            if self._size < least or offset != self._size:
                return
            if os.fstat(self._descriptor).st_ino != inode:
                return
            part = self._path.with_name(self._path.name + ".part")
            line = encode_entry(Entry(self.last_seq, "mark", {}))
            fresh = os.open(part, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
            try:
                os.pwrite(fresh, line, 0)
                os.fsync(fresh)
                os.replace(part, self._path)
                sync_folder(self._path.parent)
            except OSError:
                os.close(fresh)
                raise
            os.close(self._descriptor)
            self._descriptor, self._size = fresh, len(line)

    def close(self) -> None:
        """Close the file."""
        os.close(self._descriptor)


class JournalReader:
    """The reading side; follows the file over renames.

    Args:
        path: the journal.
        inode: of the file that was read last, 0 for none.
        offset: how far it was read.
    """

    def __init__(self, path: Path, inode: int = 0, offset: int = 0) -> None:
        self._path = path
        self.inode = inode
        self.offset = offset

    def read(self) -> list[Entry]:
        """What is new; ``offset`` is then behind it."""
        try:
            descriptor = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return []
        try:
            # A new file begins only when the old one was taken whole, so nothing is skipped.
            status = os.fstat(descriptor)
            if status.st_ino != self.inode or status.st_size < self.offset:
                self.inode, self.offset = status.st_ino, 0
            os.lseek(descriptor, self.offset, os.SEEK_SET)
            entries, end = decode_lines(_read_on(descriptor))
        finally:
            os.close(descriptor)
        self.offset += end
        return entries


def sync_folder(folder: Path) -> None:
    """Make names inside a folder durable."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _read_all(descriptor: int) -> bytes:
    os.lseek(descriptor, 0, os.SEEK_SET)
    return _read_on(descriptor)


def _read_on(descriptor: int) -> bytes:
    pieces = []
    while piece := os.read(descriptor, 1 << 20):
        pieces.append(piece)
    return b"".join(pieces)
