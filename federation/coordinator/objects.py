"""Content-addressed files: every plan, model and update under its name (:mod:`federation.chunks`).

An upload is staged in ``incoming/<site>/<name>.part``, each chunk hashed while it arrives, and only
the complete file is renamed to ``<first two digits>/<name>``; what stands there is complete and
never changes. Beside it lie ``<name>.chunks``, its chunks' digests, and, once somebody asked,
``<name>.sha256``; both only save time and are made again where they are missing.
"""

from __future__ import annotations

import os
import re
import shutil
import threading
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from federation.canonical import sha256_file, sync_folder, write_atomically
from federation.chunks import ChunkList, indices
from federation.errors import NoRoom, TransferFailed, TransferMoved, disk_is_full
from federation.spares import Spares
from federation.staging import PartFile
from federation.wire.frames import Piece, pieces

_NAME = re.compile(r"[0-9a-f]{64}")
_FULL: Final = "the coordinator's disk is full: its operator must make room"
SPARE_BYTES: Final = 64 << 20
"""Free space that an upload must leave on the disk."""


def is_name(text: str) -> bool:
    """Whether ``text`` may name an object."""
    return _NAME.fullmatch(text) is not None


def check_name(text: str) -> str:
    """Give ``text`` back when it is 64 lower-case hexadecimal digits.

    Raises:
        TransferFailed: it is not.
    """
    if not is_name(text):
        raise TransferFailed("an object is named by 64 lower-case hexadecimal digits")
    return text


def has_room(folder: Path, needed: int = 0) -> bool:
    """Whether ``needed`` bytes fit on a folder's disk with :data:`SPARE_BYTES` to spare."""
    return shutil.disk_usage(folder).free >= needed + SPARE_BYTES


class _Upload:
    """An upload that this process knows; its lock guards everything in it."""

    def __init__(self, path: Path, chunks: ChunkList, spares: Spares) -> None:
        self.lock = threading.Lock()
        self.turn = 0
        self._path = path
        self._chunks = chunks
        self._spares = spares
        self._part: PartFile | None = None

    @property
    def part(self) -> PartFile:
        """The file; the first look at it verifies what an earlier process left."""
        if self._part is None:
            self._part = PartFile(self._path, self._chunks, early=True, spares=self._spares)
        return self._part

    def forget(self) -> None:
        """End the upload: whoever still writes is refused."""
        with self.lock:
            self.turn += 1
            if self._part is not None:
                self._part.close()
            self._path.unlink(missing_ok=True)


class ObjectStore:
    """The objects below one folder.

    Args:
        folder: created where absent.

    Attributes:
        spares: dropped objects' files, for the uploads to come.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(folder / "scratch", ignore_errors=True)
        self.spares = Spares(folder / "spare", durable=True)
        self._uploads: dict[tuple[str, str], _Upload] = {}
        self._guard = threading.Lock()

    def path(self, name: str) -> Path:
        """Where a complete object lies or will lie."""
        return self._folder / check_name(name)[:2] / name

    def has(self, name: str) -> bool:
        """Whether an object is complete."""
        return self.path(name).is_file()

    def put_bytes(self, data: bytes) -> str:
        """Keep a small object; gives its name."""
        chunks = ChunkList.of_bytes(data)
        path = self.path(chunks.name)
        if not path.exists():
            path.parent.mkdir(exist_ok=True)
            write_atomically(path, data)
        return chunks.name

    def adopt(self, path: Path, chunks: ChunkList | None = None) -> tuple[str, int]:
        """Move a finished file in; gives its name and size.

        Args:
            path: the file.
            chunks: its chunks, from whoever wrote it; None hashes the file.
        """
        chunks = chunks or ChunkList.of_file(path)
        with path.open("rb+") as stream:
            os.fsync(stream.fileno())
        self._keep(path, chunks)
        return chunks.name, chunks.size

    @contextmanager
    def scratch(self, needed: int) -> Iterator[Path]:
        """A file in the making, gone afterwards unless :meth:`adopt` has taken it.

        What a kill leaves behind goes when the store is opened again.

        Args:
            needed: bytes that will be written.

        Raises:
            NoRoom: there is no space for them.
        """
        self._check_space(needed)
        path = self._folder / "scratch" / uuid.uuid4().hex
        path.parent.mkdir(exist_ok=True)
        try:
            yield path
        except OSError as error:
            if disk_is_full(error):
                raise NoRoom(_FULL) from error
            raise
        finally:
            path.unlink(missing_ok=True)

    def names(self) -> list[str]:
        """The names of all complete objects."""
        found = (path.name for path in self._folder.glob("[0-9a-f][0-9a-f]/*"))
        return sorted(name for name in found if is_name(name))

    def drop(self, name: str) -> None:
        """Forget an object; an absent one is forgotten already."""
        path = self.path(name)
        self.spares.retire(path)
        for gone in (path.with_suffix(".chunks"), path.with_suffix(".sha256")):
            gone.unlink(missing_ok=True)

    def chunks(self, name: str) -> ChunkList:
        """What an object consists of.

        Raises:
            TransferFailed: no such object, or its file is damaged.
        """
        path = self.path(name)
        try:
            size = path.stat().st_size
            try:
                return ChunkList.announced(name, size, path.with_suffix(".chunks").read_bytes())
            except (FileNotFoundError, TransferFailed):
                found = ChunkList.of_file(path)
        except FileNotFoundError as error:
            raise TransferFailed("the object is not here (any more)") from error
        if found.name != name:
            raise TransferFailed("the object's file is damaged: the operator must look at the disk")
        path.with_suffix(".chunks").write_bytes(found.digests)
        return found

    def sha256(self, name: str) -> str:
        """The plain SHA-256 of an object's bytes, as ``sha256sum`` prints it; computed once."""
        beside = self.path(name).with_suffix(".sha256")
        try:
            return check_name(beside.read_text(encoding="ascii"))
        except (FileNotFoundError, UnicodeDecodeError, TransferFailed):
            digest = sha256_file(self.path(name))
            write_atomically(beside, digest.encode("ascii"))
            return digest

    def read(self, name: str, wanted: Iterable[tuple[int, int]]) -> Iterator[Piece]:
        """Pieces of an object's chunks; each is valid until the next one is asked for.

        Args:
            name: the object.
            wanted: chunks as (first, count).

        Raises:
            TransferFailed: no such object.
        """
        chunks = self.chunks(name)
        try:
            with self.path(name).open("rb", buffering=0) as stream:
                yield from pieces(stream.fileno(), chunks, indices(wanted, chunks.count))
        except FileNotFoundError as error:
            raise TransferFailed("the object is not here (any more)") from error

    def offer(self, site: str, chunks: ChunkList) -> list[tuple[int, int]] | None:
        """A site announces an upload.

        What an earlier process received of it is verified first. Repeating it changes nothing.

        Returns:
            The chunks that are missing as (first, count); None where the object is complete.

        Raises:
            NoRoom: there is no space for it.
        """
        name = check_name(chunks.name)
        if self.has(name):
            return None
        with self._guard:
            upload = self._uploads.get((site, name))
            if upload is None:
                upload = _Upload(self._part(site, name), chunks, self.spares)
                self._uploads[site, name] = upload
        self._forget_others(site, name)
        with upload.lock:
            if upload.part.complete:
                self._finished(site, upload)
                return None
            self._check_space(upload.part.unallocated_bytes)
            return list(upload.part.missing())

    def receive(
        self, site: str, name: str, arriving: Iterable[Piece]
    ) -> list[tuple[int, int]] | None:
        """Write an upload's pieces; the complete object is kept.

        Args:
            site: who sends.
            name: an object that the site has offered to this process.
            arriving: pieces of missing chunks, each chunk from its start.

        Returns:
            As :meth:`offer`.

        Raises:
            TransferMoved: it was not offered, or the site has begun it again meanwhile.
            TransferFailed: a piece was not asked for, or a chunk is not the one announced.
        """
        if self.has(check_name(name)):
            return None
        with self._guard:
            upload = self._uploads.get((site, name))
        if upload is None:
            raise TransferMoved("this object has not been offered since the coordinator started")
        with upload.lock:
            # A later try ends the earlier one, whose connection may hang.
            upload.turn += 1
            turn = upload.turn
            upload.part.begin()
        for piece in arriving:
            with upload.lock:
                if upload.turn != turn:
                    raise TransferMoved("the site has begun this upload again")
                upload.part.take(piece.chunk, piece.offset, piece.data)
        with upload.lock:
            if upload.turn == turn and upload.part.complete:
                self._finished(site, upload)
            return None if self.has(name) else list(upload.part.missing())

    def _forget_others(self, site: str, name: str) -> None:
        """A site sends one object at a time: what it began before and left is in the way."""
        with self._guard:
            left = [key for key in self._uploads if key[0] == site and key[1] != name]
            uploads = [self._uploads.pop(key) for key in left]
        for upload in uploads:
            upload.forget()
        for path in (self._folder / "incoming" / site).glob("*.part"):
            if path.stem != name:
                path.unlink(missing_ok=True)

    def _finished(self, site: str, upload: _Upload) -> None:
        """Keep a complete upload; the caller holds its lock."""
        part = upload.part
        if self.has(part.chunks.name):
            part.close()
            part.path.unlink(missing_ok=True)
        else:
            part.finish(sync=True)
            self._keep(part.path, part.chunks)
        with self._guard:
            self._uploads.pop((site, part.chunks.name), None)

    def _check_space(self, needed: int) -> None:
        if not has_room(self._folder, needed):
            self.spares.clear()
            if not has_room(self._folder, needed):
                raise NoRoom(_FULL)

    def _part(self, site: str, name: str) -> Path:
        return self._folder / "incoming" / site / f"{name}.part"

    def _keep(self, path: Path, chunks: ChunkList) -> None:
        final = self.path(chunks.name)
        final.parent.mkdir(exist_ok=True)
        final.with_suffix(".chunks").write_bytes(chunks.digests)
        path.replace(final)
        sync_folder(final.parent)
