"""Content-addressed files: every plan, model and update under its SHA-256.

An object arrives in ``incoming/<site>/<sha256>.part``, is hashed whole, and only then renamed to
``<first two digits>/<sha256>``; what stands there is complete and never changes.
"""

from __future__ import annotations

import os
import re
import shutil
import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from federation.canonical import sha256_file, sha256_hex, sync_folder, write_atomically
from federation.errors import NoRoom, TransferFailed, TransferMoved
from federation.wire.versions import CHUNK_BYTES

_SHA = re.compile(r"[0-9a-f]{64}")
SPARE_BYTES: Final = 64 << 20
"""Free space that an upload must leave on the disk."""


def check_sha(text: str) -> str:
    """Give ``text`` back when it is 64 lower-case hexadecimal digits.

    Raises:
        TransferFailed: it is not.
    """
    if _SHA.fullmatch(text) is None:
        raise TransferFailed("an object is named by 64 lower-case hexadecimal digits")
    return text


def has_room(folder: Path, needed: int = 0) -> bool:
    """Whether ``needed`` bytes fit on a folder's disk with :data:`SPARE_BYTES` to spare."""
    return shutil.disk_usage(folder).free >= needed + SPARE_BYTES


class ObjectStore:
    """The objects below one folder.

    Args:
        folder: created where absent.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(folder / "scratch", ignore_errors=True)
        self._turns: dict[str, int] = {}
        self._guard = threading.Lock()

    def path(self, sha256: str) -> Path:
        """Where a complete object lies or will lie."""
        return self._folder / check_sha(sha256)[:2] / sha256

    def has(self, sha256: str) -> bool:
        """Whether an object is complete."""
        return self.path(sha256).is_file()

    def put_bytes(self, data: bytes) -> str:
        """Keep a small object; gives its SHA-256."""
        sha256 = sha256_hex(data)
        path = self.path(sha256)
        if not path.exists():
            path.parent.mkdir(exist_ok=True)
            write_atomically(path, data)
        return sha256

    def adopt(self, path: Path) -> tuple[str, int]:
        """Move a finished file in; gives SHA-256 and size."""
        sha256, size = sha256_file(path), path.stat().st_size
        self._keep(path, sha256)
        return sha256, size

    @contextmanager
    def scratch(self) -> Iterator[Path]:
        """A file in the making, gone afterwards unless :meth:`adopt` has taken it.

        What a kill leaves behind goes when the store is opened again.
        """
        path = self._folder / "scratch" / uuid.uuid4().hex
        path.parent.mkdir(exist_ok=True)
        try:
            yield path
        finally:
            path.unlink(missing_ok=True)

    def drop(self, sha256: str) -> None:
        """Forget an object; an absent one is forgotten already."""
        self.path(sha256).unlink(missing_ok=True)

    def read(self, sha256: str, offset: int) -> Iterator[tuple[int, bytes]]:
        """Chunks of an object from ``offset`` on, each with its own offset.

        Raises:
            TransferFailed: no such object, or the offset lies behind its end.
        """
        try:
            with self.path(sha256).open("rb") as stream:
                size = os.fstat(stream.fileno()).st_size
                if offset > size:
                    raise TransferFailed(f"offset {offset} lies behind the object's {size} bytes")
                stream.seek(offset)
                while data := stream.read(CHUNK_BYTES):
                    yield offset, data
                    offset += len(data)
        except FileNotFoundError as error:
            raise TransferFailed("the object is not here (any more)") from error

    def arrived(self, site: str, sha256: str) -> tuple[int, bool]:
        """Bytes of an upload that have arrived, and whether the object is complete."""
        path = self.path(sha256)
        if path.is_file():
            return path.stat().st_size, True
        part = self._part(site, sha256)
        return (part.stat().st_size if part.exists() else 0), False

    def receive(
        self, site: str, announced: tuple[str, int], chunks: Iterator[tuple[int, bytes]]
    ) -> tuple[int, bool]:
        """Append chunks to an upload; a whole one is verified and kept.

        Args:
            site: who sends.
            announced: SHA-256 and size of the whole object.
            chunks: offset and bytes; the first continues where :meth:`arrived` says.

        Returns:
            Bytes that have arrived, and whether the object is complete.

        Raises:
            TransferFailed: an offset leaves a gap, more bytes than announced, no space, or the
                whole does not have the announced hash (it is thrown away then).
        """
        sha256, size = announced
        turn = self._next_turn(f"{site}/{sha256}")
        have, complete = self.arrived(site, sha256)
        if complete:
            return have, True
        part = self._part(site, sha256)
        part.parent.mkdir(parents=True, exist_ok=True)
        if have > size:
            part.unlink()
            have = 0
        self._check_space(size - have)
        with part.open("ab") as stream:
            for offset, data in chunks:
                if offset != have:
                    raise TransferMoved(f"a chunk at {offset}, expected {have}")
                if have + len(data) > size:
                    raise TransferFailed(f"more bytes than the {size} that were announced")
                with self._guard:
                    if self._turns[f"{site}/{sha256}"] != turn:
                        raise TransferMoved("the site has begun this upload again")
                    stream.write(data)
                    stream.flush()
                have += len(data)
            os.fsync(stream.fileno())
        if have < size:
            return have, False
        if sha256_file(part) != sha256:
            part.unlink()
            raise TransferFailed("the object does not have the announced SHA-256: send it anew")
        self._keep(part, sha256)
        return size, True

    def forget_incoming(self, site: str) -> None:
        """Throw a site's unfinished uploads away."""
        shutil.rmtree(self._folder / "incoming" / site, ignore_errors=True)

    def _check_space(self, needed: int) -> None:
        if not has_room(self._folder, needed):
            raise NoRoom("the coordinator's disk is full: its operator must make room")

    def _part(self, site: str, sha256: str) -> Path:
        return self._folder / "incoming" / site / f"{check_sha(sha256)}.part"

    def _keep(self, path: Path, sha256: str) -> None:
        final = self.path(sha256)
        final.parent.mkdir(exist_ok=True)
        with path.open("rb+") as stream:
            os.fsync(stream.fileno())
        path.replace(final)
        sync_folder(final.parent)

    def _next_turn(self, key: str) -> int:
        """A later try of the same upload ends the earlier one, whose connection may hang."""
        with self._guard:
            self._turns[key] = self._turns.get(key, 0) + 1
            return self._turns[key]
