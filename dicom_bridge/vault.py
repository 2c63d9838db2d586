"""The encrypted vault: pseudonym to identity, original UIDs and headers for the way back.

One SQLite file (WAL, ``synchronous=FULL``). Every value is sealed with AES-256-GCM (NIST SP
800-38D) under a fresh 96-bit nonce; the key lies outside the database. A row's name is a keyed
hash of the record's name and bound to the value as additional data, so rows can be neither read
nor exchanged. Records have an owner, by keyed hash too, so that all that belongs to one patient
or study is erased together.

Erased means overwritten: ``secure_delete`` zeroes the pages, then the write-ahead log is written
back and cut to nothing. What the file system or a disk keeps of overwritten blocks (snapshots,
wear levelling, backups) is outside this file's reach.

After an erasure only a tombstone may be left: a keyed hash, from which nothing can be computed.
"""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import json
import os
import sqlite3
import threading
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from dicom_bridge.errors import RecordAbsent, VaultError
from dicom_bridge.vault_folder import OldVault

APPLICATION = 0x434C5654
"""``PRAGMA application_id``: the letters CLVT."""
FORMAT = 2
"""``PRAGMA user_version``; format 1 was a folder with one file per record."""
NONCE = 12
KEY = 32
LARGEST = 64 * 1024 * 1024
LONGEST_NAME = 512
FILE = "vault.sqlite"

_SEAL = b"CLVT\x02"
_CHECK = b"check"
_WAIT_S = 30.0
_TABLES = f"""
CREATE TABLE meta (name BLOB PRIMARY KEY, sealed BLOB NOT NULL) STRICT;
CREATE TABLE records (
  id INTEGER PRIMARY KEY,
  row BLOB NOT NULL UNIQUE,
  owner BLOB NOT NULL,
  sealed BLOB NOT NULL
) STRICT;
CREATE INDEX records_owner ON records (owner);
CREATE TABLE tombstones (mark BLOB PRIMARY KEY, made_at TEXT NOT NULL) STRICT, WITHOUT ROWID;
PRAGMA application_id={APPLICATION};
PRAGMA user_version={FORMAT};
"""


@dataclass(frozen=True, slots=True)
class VaultCheck:
    """What a look at the whole vault found.

    Attributes:
        records: records that can be opened.
        tombstones: marks of erased patients and studies.
        problems: what is wrong, in words; empty where all is well.
    """

    records: int
    tombstones: int
    problems: tuple[str, ...]

    @property
    def ok(self) -> bool:
        """Whether nothing is wrong."""
        return not self.problems


class Vault:
    """Encrypted records in one SQLite file, each written whole or not at all; for many threads.

    A vault of format 1 in the same folder is taken over at once: read, written, verified, removed.

    Args:
        folder: where the file lies; made (mode 0700) where absent.
        key: 32 bytes, kept outside the folder.
        random: gives N random bytes.

    Raises:
        VaultError: the key has a wrong length or is another vault's, or the file is damaged, of a
            later format, or no vault.
    """

    def __init__(
        self, folder: Path, key: bytes, *, random: Callable[[int], bytes] = os.urandom
    ) -> None:
        if len(key) != KEY:
            raise VaultError(f"the vault's key must have {KEY} bytes, got {len(key)}")
        self._cipher = AESGCM(key)
        self._key = key
        self._random = random
        self._mutex = threading.RLock()
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        with _words("opened"):
            self._connection = _connect(folder / FILE)
        self._finalizer = weakref.finalize(self, self._connection.close)
        try:
            with _words("opened"):
                self._prepare()
            self._take_over(OldVault(folder, key))
        except VaultError:
            self.close()
            raise

    def close(self) -> None:
        """Close the file; a second call does nothing."""
        with self._mutex:
            self._finalizer()

    def put(self, name: str, document: Mapping[str, Any], *, owner: str = "") -> None:
        """Write or replace the record ``name`` durably.

        Args:
            name: at most 512 bytes in UTF-8.
            document: plain JSON, 64 MiB at most.
            owner: what it is erased with (`erase`); empty means the record itself.

        Raises:
            VaultError: the document is no JSON, too large, or the disk refuses.
        """
        self.put_all({name: document}, owner=owner)

    def put_all(self, documents: Mapping[str, Mapping[str, Any]], *, owner: str = "") -> None:
        """Write or replace several records in one durable transaction.

        Raises:
            VaultError: see `put`.
        """
        rows = [self._sealed(name, document, owner) for name, document in documents.items()]
        with self._writing():
            self._connection.executemany(
                "INSERT INTO records (row, owner, sealed) VALUES (?,?,?) ON CONFLICT (row)"
                " DO UPDATE SET owner = excluded.owner, sealed = excluded.sealed",
                rows,
            )

    def get(self, name: str) -> dict[str, Any]:
        """The record's document.

        Raises:
            RecordAbsent: there is none.
            VaultError: it was altered or exchanged.
        """
        row = self._row(name)
        with self._mutex, _words("read"):
            found = self._connection.execute(
                "SELECT sealed FROM records WHERE row = ?", (row,)
            ).fetchone()
        if found is None:
            raise RecordAbsent("the vault has no such record")
        own, document = self._unseal(found[0], row)
        if own != name:
            raise VaultError("a vault record carries another name than its own: restore a backup")
        return document

    def names(self, *, owner: str | None = None) -> list[str]:
        """The names of all records, or of an owner's, sorted.

        Raises:
            VaultError: a record cannot be opened.
        """
        sql, values = "SELECT row, sealed FROM records", []
        if owner is not None:
            sql, values = f"{sql} WHERE owner = ?", [self._keyed(b"owner", owner)]
        with self._mutex, _words("read"):
            return sorted(
                self._unseal(sealed, row)[0]
                for row, sealed in self._connection.execute(sql, values)
            )

    def delete(self, name: str) -> None:
        """Erase one record for good; nothing happens where there is none.

        Raises:
            VaultError: the disk refuses.
        """
        with self._writing():
            self._connection.execute("DELETE FROM records WHERE row = ?", (self._row(name),))
        self._scrub()

    def erase(
        self, owners: Iterable[str], tombstones: Iterable[bytes] = (), *, made_at: str = ""
    ) -> int:
        """Erase all records of the owners for good and leave tombstones, in one transaction.

        Args:
            owners: whose records go; a record without an owner is its own.
            tombstones: keyed hashes of what must not come back; made by the caller.
            made_at: UTC ISO 8601.

        Returns:
            Number of erased records.

        Raises:
            VaultError: the disk refuses, or another program reads the file just now: repeat it.
        """
        hashes = [(self._keyed(b"owner", owner),) for owner in owners]
        with self._writing():
            done = self._connection.executemany("DELETE FROM records WHERE owner = ?", hashes)
            self._connection.executemany(
                "INSERT INTO tombstones (mark, made_at) VALUES (?,?) ON CONFLICT DO NOTHING",
                [(mark, made_at) for mark in tombstones],
            )
        self._scrub()
        return max(0, done.rowcount)

    def tombstones(self) -> frozenset[bytes]:
        """All marks of what was erased."""
        with self._mutex, _words("read"):
            rows = self._connection.execute("SELECT mark FROM tombstones").fetchall()
        return frozenset(row[0] for row in rows)

    def check(self) -> VaultCheck:
        """Look at the file's structure and open every record."""
        problems: list[str] = []
        opened = broken = 0
        try:
            with self._mutex:
                words = self._connection.execute("PRAGMA integrity_check(3)").fetchall()
                problems += [f"the file is damaged: {row[0]}" for row in words if row[0] != "ok"]
                for row, sealed in self._connection.execute("SELECT row, sealed FROM records"):
                    try:
                        self._unseal(sealed, row)
                        opened += 1
                    except VaultError:
                        broken += 1
            marks = len(self.tombstones())
        except (sqlite3.Error, VaultError):
            problems.append("the file cannot be read to its end: restore a backup")
            marks = 0
        if broken:
            problems.append(f"{broken} records were altered or exchanged: restore a backup")
        return VaultCheck(opened, marks, tuple(problems))

    def _prepare(self) -> None:
        """Make the tables of a new file; know an old one and its key."""
        version = self._connection.execute("PRAGMA user_version").fetchone()[0]
        application = self._connection.execute("PRAGMA application_id").fetchone()[0]
        empty = self._connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0] == 0
        if empty:
            check = self._seal(_CHECK, b"{}")
            with self._writing():
                for statement in _TABLES.split(";"):
                    self._connection.execute(statement)
                self._connection.execute("INSERT INTO meta VALUES (?,?)", (_CHECK, check))
            return
        if application != APPLICATION:
            raise VaultError(f"{FILE} is no vault of clinode: restore a backup")
        if version != FORMAT:
            raise VaultError(
                f"the vault has format {version}, this program knows {FORMAT}: update clinode"
            )
        row = self._connection.execute("SELECT sealed FROM meta WHERE name = ?", (_CHECK,))
        found = row.fetchone()
        if found is None:
            raise VaultError("the vault lacks its check value: restore a backup")
        self._open(found[0], _CHECK)

    def _take_over(self, old: OldVault) -> None:
        """Move the records of format 1 here; a killed take-over is repeated."""
        for paths in old.batches():
            documents = dict(old.read(path) for path in paths)
            self.put_all(documents)
            for name, document in documents.items():
                if self.get(name) != document:
                    raise VaultError("a record of the old vault did not arrive: nothing was lost")
            old.remove(paths)
        old.finish()

    def _sealed(self, name: str, document: Mapping[str, Any], owner: str) -> tuple[bytes, ...]:
        if len(name.encode()) > LONGEST_NAME:
            raise VaultError(f"a vault record's name may have {LONGEST_NAME} bytes")
        try:
            plain = json.dumps({"name": name, "document": dict(document)}).encode()
        except (TypeError, ValueError) as error:
            raise VaultError("a vault record must be plain JSON") from error
        if len(plain) > LARGEST:
            raise VaultError(f"a vault record may have {LARGEST} bytes, this one has {len(plain)}")
        row = self._row(name)
        return row, self._keyed(b"owner", owner or name), self._seal(row, plain)

    def _seal(self, row: bytes, plain: bytes) -> bytes:
        nonce = self._random(NONCE)
        return _SEAL + nonce + self._cipher.encrypt(nonce, plain, _SEAL + row)

    def _open(self, sealed: bytes, row: bytes) -> bytes:
        head, body = sealed[: len(_SEAL)], sealed[len(_SEAL) :]
        if head != _SEAL or len(body) <= NONCE:
            raise VaultError(f"a vault record has not format {FORMAT}: restore a backup")
        try:
            return self._cipher.decrypt(body[:NONCE], body[NONCE:], _SEAL + row)
        except InvalidTag as error:
            message = "the vault cannot be opened: another key, or a record was altered"
            raise VaultError(message) from error

    def _unseal(self, sealed: bytes, row: bytes) -> tuple[str, dict[str, Any]]:
        plain = json.loads(self._open(sealed, row))
        return str(plain["name"]), dict(plain["document"])

    def _row(self, name: str) -> bytes:
        return self._keyed(b"row", name)

    def _keyed(self, purpose: bytes, text: str) -> bytes:
        secret = hmac.digest(self._key, b"clinode vault " + purpose, hashlib.sha256)
        return hmac.digest(secret, text.encode("utf-8", "surrogatepass"), hashlib.sha256)[:20]

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        with self._mutex, _words("written"), self._connection:
            self._connection.execute("BEGIN IMMEDIATE")
            yield

    def _scrub(self) -> None:
        """Write the log back and cut it, so that no old byte is left in it."""
        with self._mutex, _words("written"):
            busy = self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0]
        if busy:
            raise VaultError("another program reads the vault: close it, then repeat the erasure")


def _connect(path: Path) -> sqlite3.Connection:
    if not path.exists():
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT, 0o600))
    path.chmod(0o600)
    connection = sqlite3.connect(
        path, check_same_thread=False, isolation_level=None, timeout=_WAIT_S
    )
    try:
        connection.execute("PRAGMA secure_delete=ON")
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=FULL")
        connection.execute("PRAGMA trusted_schema=OFF")
        connection.execute("PRAGMA cell_size_check=ON")
    except sqlite3.Error:
        connection.close()
        raise
    return connection


@contextlib.contextmanager
def _words(done: str) -> Iterator[None]:
    """Map the database's errors once; their texts may hold values and are not passed on."""
    try:
        yield
    except sqlite3.ProgrammingError as error:
        raise VaultError(f"the vault cannot be {done}: it is closed") from error
    except sqlite3.OperationalError as error:
        name = getattr(error, "sqlite_errorname", "") or "SQLITE_ERROR"
        hint = {"SQLITE_FULL": "the disk is full", "SQLITE_BUSY": "another program holds it"}
        raise VaultError(f"the vault cannot be {done}: {hint.get(name, name)}") from error
    except sqlite3.Error as error:
        raise VaultError(f"the vault cannot be {done}: {FILE} is damaged") from error
    except OSError as error:
        raise VaultError(f"the vault cannot be {done}: {error.strerror}") from error
