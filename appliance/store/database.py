"""One SQLite connection in WAL mode, owned by one process and shared by its threads."""

from __future__ import annotations

import errno
import fcntl
import os
import sqlite3
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TypeAlias

from appliance.errors import ApplianceError
from appliance.store.schema import MIGRATIONS, SCHEMA_VERSION, TABLES

Value: TypeAlias = str | int | float | None


class StoreBusy(ApplianceError):
    """Another process owns the node home."""


class StoreInvalid(ApplianceError):
    """The state file cannot be used by this version."""


class Database:
    """The state file: durable transactions, many threads, one process.

    Args:
        path: the SQLite file; created where absent.
        lock: the file whose lock marks the owner.

    Raises:
        StoreBusy: another process owns the home.
        StoreInvalid: the file is not a state file, or of a later version.
    """

    def __init__(self, path: Path, lock: Path) -> None:
        self._lock_descriptor = _take(lock)
        self._mutex = threading.RLock()
        try:
            self._connection = _open(path)
        except (StoreInvalid, OSError, sqlite3.Error):
            os.close(self._lock_descriptor)
            raise

    def close(self) -> None:
        """Close the file and give up ownership; a second call does nothing."""
        with self._mutex:
            if self._lock_descriptor >= 0:
                self._connection.close()
                os.close(self._lock_descriptor)
                self._lock_descriptor = -1

    def scrub(self) -> None:
        """Leave no byte of what was deleted: write the journal back and cut it to nothing.

        Raises:
            StoreBusy: another connection reads the file just now.
        """
        with self._mutex:
            busy = self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0]
        if busy:
            raise StoreBusy(
                "another program reads state.sqlite, so erased rows are not overwritten yet: close"
                " it and start the node again"
            )

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """Everything inside is one durable transaction; an exception undoes it. Nestable."""
        with self._mutex:
            if self._connection.in_transaction:
                yield
                return
            with _disk_told(), self._connection:
                self._connection.execute("BEGIN IMMEDIATE")
                yield

    def execute(self, sql: str, values: Sequence[Value] = ()) -> int:
        """Run one changing statement; gives the number of changed rows."""
        with self.transaction():
            return self._connection.execute(sql, values).rowcount

    def rows(self, sql: str, values: Sequence[Value] = ()) -> list[sqlite3.Row]:
        """All rows of a query."""
        with self._mutex:
            return self._connection.execute(sql, values).fetchall()

    def row(self, sql: str, values: Sequence[Value] = ()) -> sqlite3.Row | None:
        """The first row of a query, or None."""
        found = self.rows(sql, values)
        return found[0] if found else None

    def number(self, sql: str, values: Sequence[Value] = ()) -> int:
        """The first column of the first row as a whole number; 0 where there is none."""
        found = self.row(sql, values)
        return int(found[0] or 0) if found is not None else 0


@contextmanager
def _disk_told() -> Iterator[None]:
    """A full disk as the error that every other file gives for it; the transaction is undone."""
    try:
        yield
    except sqlite3.OperationalError as error:
        if error.sqlite_errorcode in (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR_SHMSIZE):
            raise OSError(errno.ENOSPC, "state.sqlite cannot grow: the disk is full") from error
        raise


def _take(lock: Path) -> int:
    descriptor = os.open(lock, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(descriptor)
        raise StoreBusy(
            "another process runs this node home: stop it first, or use its control API"
        ) from error
    return descriptor


def _open(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(path, check_same_thread=False, isolation_level=None, timeout=30.0)
    connection.row_factory = sqlite3.Row
    try:
        path.chmod(0o600)
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=FULL")
        connection.execute("PRAGMA foreign_keys=ON")
        connection.execute("PRAGMA secure_delete=ON")
        _prepare(connection)
    except sqlite3.DatabaseError as error:
        connection.close()
        raise StoreInvalid("state.sqlite is damaged or no state file of clinode") from error
    except StoreInvalid:
        connection.close()
        raise
    return connection


def _prepare(connection: sqlite3.Connection) -> None:
    version = int(connection.execute("PRAGMA user_version").fetchone()[0])
    if version > SCHEMA_VERSION:
        raise StoreInvalid(
            f"state.sqlite has schema version {version}, this program knows {SCHEMA_VERSION}"
        )
    for number, statements in enumerate((TABLES, *MIGRATIONS), start=1):
        if number > version:
            connection.executescript(f"BEGIN; {statements} PRAGMA user_version={number}; COMMIT;")
