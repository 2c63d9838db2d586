"""What is done with one C-STORE request: read the UIDs, ask, write durably, record, answer.

The data set is never decoded: only its head is scanned for the UIDs, the bytes go to disk as sent.
"""

from __future__ import annotations

import errno
import hashlib
import io
import os
import re
import shutil
import threading
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import IO, Protocol

from pydicom.dataset import Dataset
from pydicom.filereader import read_dataset
from pydicom.uid import UID, DeflatedExplicitVRLittleEndian

from dicom_bridge.errors import DataRefused
from dicom_bridge.net.filemeta import preamble_and_meta
from dicom_bridge.net.guard import SpillBuffer

STORED = 0x0000
OUT_OF_RESOURCES = 0xA700
MISMATCH = 0xA900
NOT_UNDERSTOOD = 0xC000
NOT_AUTHORISED = 0x0124
PROCESSING_FAILURE = 0x0110
CLASS_NOT_SUPPORTED = 0x0122

ANSWERS: Mapping[int, str] = MappingProxyType(
    {
        STORED: "stored durably and recorded, or received before with the same content",
        OUT_OF_RESOURCES: "the disk is full, or less space is left than is reserved",
        MISMATCH: "the data set and the command name other instances",
        NOT_UNDERSTOOD: "the data set cannot be read, or a UID is absent or no UID",
        PROCESSING_FAILURE: "the node failed and the sender may repeat; or other content was "
        "received before under this UID, and both are kept for a person",
        CLASS_NOT_SUPPORTED: "the SOP class is not that of the presentation context",
        NOT_AUTHORISED: "no open retrieval asked for this instance",
    }
)
"""What a C-STORE is answered with, and why; the conformance statement lists it."""

_HEAD_BYTES = 1 << 20
_LAST_TAG = 0x0020000E
_UID_FORM = re.compile(r"[0-9]+(\.[0-9]+)*\Z", re.ASCII)
_HEAD_TAGS = [0x00080016, 0x00080018, 0x0020000D, 0x0020000E]
_NO_SPACE = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
_STRIPES = 64


class Inbox(Protocol):
    """The appliance's side of the receiver; called from several association threads at once."""

    def wanted(self, study_uid: str, sop_uid: str) -> bool:
        """Whether an open job asked for this instance."""
        ...

    def path_for(self, study_uid: str, series_uid: str, sop_uid: str) -> Path:
        """The instance's final file; the UIDs have been checked (digits and dots, 64 at most)."""
        ...

    def recorded(self, study_uid: str, sop_uid: str, sha256: str) -> None:
        """Record durably that the final file is in place; success is answered only afterwards.

        Called again when the same instance arrives again unchanged, so it must be idempotent.
        ``sha256`` is that of the whole file, in hex.
        """
        ...

    def conflicting(self, study_uid: str, sop_uid: str) -> None:
        """Record that other content came under the UID of an instance already received.

        The first file stays, the second is kept beside it with the suffix ``.conflict``; the study
        needs a person.
        """
        ...


class StoreRefused(DataRefused):
    """An instance is not taken; ``status`` is what the sender is told (PS3.4 B.2.3)."""

    def __init__(self, status: int, words: str) -> None:
        super().__init__(words)
        self.status = status


@dataclass(frozen=True, slots=True, repr=False)
class Head:
    """The identity that a data set states about itself."""

    study_uid: str
    series_uid: str
    sop_uid: str
    sop_class: str


@dataclass(frozen=True, slots=True, repr=False)
class Delivery:
    """One C-STORE request.

    Attributes:
        content: the encoded data set.
        syntax: its transfer syntax.
        sop_class: AffectedSOPClassUID of the command.
        sop_uid: AffectedSOPInstanceUID of the command.
    """

    content: SpillBuffer
    syntax: UID
    sop_class: str
    sop_uid: str


@dataclass(slots=True)
class Tally:
    """What a receiver has answered so far."""

    stored: int = 0
    repeated: int = 0
    conflicts: int = 0
    refused: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def add(self, name: str) -> None:
        """Count one answer."""
        with self.lock:
            setattr(self, name, getattr(self, name) + 1)


def read_head(content: bytes, syntax: UID) -> Head:
    """Scan the beginning of an encoded data set for the UIDs that identify it.

    Args:
        content: at least the elements up to (0020,000E), in ``syntax``.
        syntax: the transfer syntax in which the data set was sent.

    Raises:
        StoreRefused: an element is absent, empty or no valid UID, or the bytes are no data set.
    """
    if syntax == DeflatedExplicitVRLittleEndian:
        try:
            content = zlib.decompressobj(-zlib.MAX_WBITS).decompress(content, _HEAD_BYTES)
        except zlib.error as error:
            raise StoreRefused(NOT_UNDERSTOOD, "the deflated data set is damaged") from error
    try:
        head = read_dataset(
            io.BytesIO(content),
            is_implicit_VR=syntax.is_implicit_VR,
            is_little_endian=syntax.is_little_endian,
            stop_when=lambda tag, _vr, _length: tag > _LAST_TAG,
            specific_tags=_HEAD_TAGS,
        )
        values = [str(head.get(tag).value or "") if tag in head else "" for tag in _HEAD_TAGS]
    except Exception as error:  # edge: hostile bytes; pydicom raises whatever it stumbles over
        raise StoreRefused(NOT_UNDERSTOOD, "the data set cannot be read") from error
    return check_head(values)


def check_head(values: Sequence[str]) -> Head:
    """Judge what a data set says it is.

    Args:
        values: SOP Class, SOP Instance, Study and Series Instance UID as encoded.

    Raises:
        StoreRefused: one of the instance UIDs is absent, empty or no valid UID.
    """
    sop_class, sop_uid, study_uid, series_uid = (value.rstrip("\0 ") for value in values)
    for value, name in ((study_uid, "Study"), (series_uid, "Series"), (sop_uid, "SOP")):
        if not is_uid(value):
            raise StoreRefused(NOT_UNDERSTOOD, f"{name} Instance UID is absent or not a UID")
    return Head(study_uid, series_uid, sop_uid, sop_class)


def is_uid(value: str) -> bool:
    """Whether a value has a UID's form (PS3.5 9.1): digits and dots, 64 characters at most."""
    return len(value) <= 64 and _UID_FORM.match(value) is not None


class Intake:
    """Takes deliveries into an inbox; safe for several threads.

    The final name appears only after the file's bytes are on disk. A crash leaves at most a
    ``.part`` file, which the next delivery of the same instance overwrites.
    """

    def __init__(self, inbox: Inbox, *, reserve_bytes: int, tally: Tally) -> None:
        self._inbox = inbox
        self._reserve = reserve_bytes
        self._tally = tally
        self._stripes = tuple(threading.Lock() for _ in range(_STRIPES))

    def take(self, delivery: Delivery) -> None:
        """Store one instance durably.

        Raises:
            StoreRefused: with the status to answer; nothing of the delivery remains on disk.
        """
        if delivery.content.failure is not None:
            raise StoreRefused(OUT_OF_RESOURCES, "the disk is full")
        head = read_head(delivery.content.head(_HEAD_BYTES), delivery.syntax)
        if head.sop_uid != delivery.sop_uid or (
            head.sop_class and head.sop_class != delivery.sop_class
        ):
            raise StoreRefused(MISMATCH, "the data set and the request name other instances")
        if not self._inbox.wanted(head.study_uid, head.sop_uid):
            raise StoreRefused(NOT_AUTHORISED, "no open request asked for this instance")
        with self._stripes[hash(head.sop_uid) % _STRIPES]:
            self._store(delivery, head)

    def _store(self, delivery: Delivery, head: Head) -> None:
        final = self._inbox.path_for(head.study_uid, head.series_uid, head.sop_uid)
        part = final.with_name(final.name + ".part")
        try:
            final.parent.mkdir(parents=True, exist_ok=True)
            if shutil.disk_usage(final.parent).free < self._reserve + delivery.content.size:
                raise StoreRefused(OUT_OF_RESOURCES, "less disk space is left than is reserved")
            digest = write_durably(part, lambda out: _write_file(out, delivery))
            if final.exists():
                self._again(part, final, head, digest)
            else:
                os.replace(part, final)
                _sync_folder(final.parent)
                self._inbox.recorded(head.study_uid, head.sop_uid, digest)
                self._tally.add("stored")
        except OSError as error:
            if error.errno in _NO_SPACE:
                raise StoreRefused(OUT_OF_RESOURCES, "the disk is full") from error
            raise StoreRefused(PROCESSING_FAILURE, "the file could not be written") from error
        finally:
            part.unlink(missing_ok=True)

    def _again(self, part: Path, final: Path, head: Head, digest: str) -> None:
        if file_digest(final) == digest:
            self._inbox.recorded(head.study_uid, head.sop_uid, digest)
            self._tally.add("repeated")
            return
        os.replace(part, final.with_name(final.name + ".conflict"))
        _sync_folder(final.parent)
        self._inbox.conflicting(head.study_uid, head.sop_uid)
        self._tally.add("conflicts")
        raise StoreRefused(
            PROCESSING_FAILURE, "other content was received before under the same UID"
        )


class _HashingWriter:
    """Passes bytes on to a file and hashes them."""

    def __init__(self, out: IO[bytes]) -> None:
        self._out = out
        self.digest = hashlib.sha256()

    def write(self, data: bytes | memoryview) -> int:
        """Write ``data`` and return how many bytes were taken."""
        self.digest.update(data)
        return self._out.write(data)


def write_durably(path: Path, write: Callable[[_HashingWriter], None]) -> str:
    """Write a file and force it to disk.

    Returns:
        The SHA-256 of what was written, in hex.

    Raises:
        OSError: it could not be written whole.
    """
    with path.open("wb") as out:
        writer = _HashingWriter(out)
        write(writer)
        out.flush()
        os.fdatasync(out.fileno())
    return writer.digest.hexdigest()


def _write_file(out: _HashingWriter, delivery: Delivery) -> None:
    out.write(preamble_and_meta(delivery.sop_class, delivery.sop_uid, delivery.syntax))
    for piece in delivery.content.pieces():
        out.write(piece)


def file_digest(path: Path) -> str:
    """The SHA-256 of a file, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def answer(status: int, words: str) -> Dataset:
    """A C-STORE response's status with its Error Comment (PS3.7 C.4.2: LO, 64 characters)."""
    response = Dataset()
    response.Status = status
    if status != STORED:
        response.ErrorComment = words[:64]
    return response
