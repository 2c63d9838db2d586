"""Off the answer path: from the log to final files, the journal, and free log space.

Order, for each batch: contents are copied out of the log into `.part` files; one `syncfs` makes
all of them durable; each gets its final name, which never replaces a file (`link`); the folders are
synced; the journal's lines are appended and synced; only then is the log's space free. A crash at
any point repeats the batch from the log with the same outcome.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import json
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import structlog

from dicom_bridge.net.intake import file_digest
from dicom_bridge.net.scp.journal import Entry, Journal, sync_folder
from dicom_bridge.net.scp.wal import Record, WriteAheadLog

_QUIET_S = 0.05
_LONGEST_S = 0.5
_BATCH_BYTES = 16 << 20
_RETRY_S = 1.0
_WIPE_AFTER_S = 30.0
_NEW_FILE = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC
_LIBC = ctypes.CDLL(None, use_errno=True)
_log = structlog.get_logger(__name__)


def sync_filesystem(descriptor: int) -> None:
    """Make everything durable that was written to this file's file system (syncfs(2)).

    Raises:
        OSError: it failed.
    """
    if _LIBC.syncfs(descriptor) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


@dataclass(slots=True)
class Pending:
    """What is in the log and not yet in place: digest by final path, and how many bytes."""

    digests: dict[str, str] = field(default_factory=dict)
    bytes: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    def add(self, path: str, digest: str, size: int) -> None:
        """A record was appended."""
        with self.lock:
            self.digests.setdefault(path, digest)
            self.bytes += size

    def remove(self, path: str, digest: str, size: int) -> None:
        """A record was settled."""
        with self.lock:
            self.bytes -= size
            if self.digests.get(path) == digest:
                del self.digests[path]

    def digest(self, path: str) -> str | None:
        """The digest of what waits for this path."""
        with self.lock:
            return self.digests.get(path)


class Placer:
    """Settles records in order, in a thread of its own.

    Args:
        root: what the records' paths are below.
        spool: where large objects wait for their name.
        name: of this process, part of the names of unfinished files.
        journal: gets the lines.
        news: called after each batch.
    """

    def __init__(
        self, root: Path, spool: Path, name: str, journal: Journal, news: Callable[[], None]
    ) -> None:
        self._root = root
        self._spool = spool
        self._name = name
        self._journal = journal
        self._news = news
        self.pending = Pending()
        self.full = False
        self._log: WriteAheadLog | None = None
        self._queue: deque[Record] = deque()
        self._wake = threading.Condition()
        self._idle = False
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name="placer", daemon=True)

    def start(self, log: WriteAheadLog) -> None:
        """Begin to settle this log's records."""
        self._log = log
        self._thread.start()

    def stop(self) -> None:
        """Settle what is there, then end."""
        with self._wake:
            self._stopping = True
            self._wake.notify_all()
        if self._thread.is_alive():
            self._thread.join()

    def submit(self, record: Record) -> None:
        """Take a record; called in the log's order, on the way to an answer.

        It wakes the placer only where that sleeps for want of work: a wake-up for each object
        would hand the interpreter to and fro and cost the answers their time.
        """
        meta = record.meta
        if "path" in meta:
            self.pending.add(str(meta["path"]), str(meta["sha256"]), record.length)
        self._queue.append(record)
        if self._idle:
            with self._wake:
                self._wake.notify()

    def _run(self) -> None:
        wiped = True
        while True:
            with self._wake:
                self._idle = True
                due = bool(self._queue) or self._stopping or self._wake.wait(_WIPE_AFTER_S)
                self._idle = False
            if self._queue:
                self._let_gather()
                self._settle(self._stage_all())
                wiped = False
            elif self._stopping:
                return
            elif not due and not wiped:
                self._wipe()
                wiped = True

    def _let_gather(self) -> None:
        """Wait while objects keep coming, but not for too long or too many."""
        most = self._log.capacity // 3 if self._log is not None else 0
        began, seen = time.monotonic(), 0
        while not self._stopping and self.pending.bytes < most:
            count = len(self._queue)
            if count == seen or time.monotonic() - began > _LONGEST_S:
                return
            seen = count
            time.sleep(_QUIET_S)

    def _stage_all(self) -> list[Record]:
        """Copy what is there out of the log."""
        batch: list[Record] = []
        size = 0
        while self._queue and size < _BATCH_BYTES:
            record = self._queue.popleft()
            self._until_it_works(lambda record=record: self._stage(record))  # type: ignore[misc]
            batch.append(record)
            size += record.length
        return batch

    def _settle(self, batch: Sequence[Record]) -> None:
        entries: list[Entry] = []
        self._until_it_works(self._sync)
        self._until_it_works(lambda: entries.extend(self._name_files(batch, len(entries))))
        self._until_it_works(lambda: self._journal.append(entries))
        for record in batch:
            meta = record.meta
            if "path" in meta:
                self.pending.remove(str(meta["path"]), str(meta["sha256"]), record.length)
        if self._log is not None:
            self._log.release(batch[-1].seq)
        self._news()

    def _until_it_works(self, step: Callable[[], None]) -> None:
        """Repeat a step until the disk takes it; meanwhile nothing new is taken."""
        while True:
            try:
                step()
            except OSError as error:
                if not self.full:
                    _log.error("receiver_paused", cause=os.strerror(error.errno or errno.EIO))
                self.full = True
                time.sleep(_RETRY_S)
            else:
                if self.full:
                    _log.info("receiver_resumed")
                self.full = False
                return

    def _part(self, record: Record) -> str:
        if "part" in record.meta:
            return f"{self._spool}/{record.meta['part']}"
        return f"{self._root}/{record.meta['path']}.{self._name}-{record.seq}.part"

    def _stage(self, record: Record) -> None:
        if record.meta.get("kind") != "object" or self._log is None:
            return
        part = self._part(record)
        try:
            descriptor = os.open(part, _NEW_FILE, 0o600)
        except FileNotFoundError:
            try:
                os.mkdir(os.path.dirname(part), 0o700)
            except FileExistsError:
                pass  # another process came first
            except FileNotFoundError:
                return  # the study's folder is gone: it was withdrawn meanwhile
            descriptor = os.open(part, _NEW_FILE, 0o600)
        try:
            self._log.copy(record, descriptor)
        finally:
            os.close(descriptor)

    def _sync(self) -> None:
        descriptor = os.open(self._root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            sync_filesystem(descriptor)
        finally:
            os.close(descriptor)

    def _name_files(self, batch: Sequence[Record], done: int) -> list[Entry]:
        """Give final names; ``done`` records of the batch have theirs from an earlier try."""
        entries = [self._entry(record) for record in batch[done:]]
        below = {os.path.dirname(str(r.meta["path"])) for r in batch if "path" in r.meta}
        for folder in below:
            if (self._root / folder).exists():
                sync_folder(self._root / folder)
        return entries

    def _entry(self, record: Record) -> Entry:
        meta = record.meta
        kind = str(meta["kind"])
        if kind == "commitment" and self._log is not None:
            content = json.loads(self._log.content(record))
            return Entry(record.seq, "commitment", content)
        values = {name: meta[name] for name in ("study", "instance", "sha256")}
        if kind == "again":
            if "part" in meta:
                _remove(self._part(record))
            return Entry(record.seq, "stored", values)
        return Entry(record.seq, self._give_name(record), values)

    def _give_name(self, record: Record) -> str:
        part, final = self._part(record), f"{self._root}/{record.meta['path']}"
        digest = str(record.meta["sha256"])
        try:
            if "part" in record.meta:
                Path(final).parent.mkdir(mode=0o700, exist_ok=True)
            os.link(part, final)
        except FileExistsError:
            if file_digest(Path(final)) != digest:
                os.replace(part, final + ".conflict")
                return "conflict"
        except FileNotFoundError:
            _remove(part)
            # An earlier try of this batch may have come so far.
            here = os.path.exists(final) and file_digest(Path(final)) == digest
            return "stored" if here else "dropped"
        _remove(part)
        return "stored"

    def _wipe(self) -> None:
        if self._log is not None:
            try:
                self._log.wipe()
            except OSError as error:
                _log.warning("log_not_wiped", cause=error.strerror)


def _remove(path: str) -> None:
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)
