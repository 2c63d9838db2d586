"""STOW-RS (PS3.18 10.5): files streamed as they lie on disk, the answer read per instance."""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydicom.datadict import tag_for_keyword

from dicom_bridge.net.model import SendOutcome
from dicom_bridge.net.words import describe_status
from dicom_bridge.web.query import text

_PIECE = 1 << 20
FILES_PER_REQUEST = 50
BYTES_PER_REQUEST = 512 << 20


class Body:
    """A multipart/related body over files; its length is known, its content is read when sent."""

    def __init__(self, paths: Sequence[Path]) -> None:
        self._paths = tuple(paths)
        self._boundary = f"clinode-{secrets.token_hex(16)}"
        self._head = f"--{self._boundary}\r\nContent-Type: application/dicom\r\n\r\n".encode()
        self._tail = f"--{self._boundary}--\r\n".encode()
        self._sizes = tuple(path.stat().st_size for path in self._paths)

    @property
    def content_type(self) -> str:
        """The value of the request's Content-Type."""
        return f'multipart/related; type="application/dicom"; boundary={self._boundary}'

    def __len__(self) -> int:
        return sum(len(self._head) + size + 2 for size in self._sizes) + len(self._tail)

    def __iter__(self) -> Iterator[bytes]:
        for path, size in zip(self._paths, self._sizes, strict=True):
            yield self._head
            left = size
            with path.open("rb") as file:
                while left > 0 and (piece := file.read(min(_PIECE, left))):
                    left -= len(piece)
                    yield piece
            if left:
                raise OSError(f"a file of {size} bytes became shorter while it was sent")
            yield b"\r\n"
        yield self._tail


def groups(paths: Sequence[Path]) -> Iterator[list[Path]]:
    """Files in groups that one request takes; a larger file goes alone."""
    group: list[Path] = []
    size = 0
    for path in paths:
        bytes_here = path.stat().st_size
        if group and (len(group) >= FILES_PER_REQUEST or size + bytes_here > BYTES_PER_REQUEST):
            yield group
            group, size = [], 0
        group.append(path)
        size += bytes_here
    if group:
        yield group


def outcomes_of(answer: object, sent: Mapping[str, Path], words: str) -> dict[str, SendOutcome]:
    """What became of each instance, by SOP Instance UID (PS3.18 Table 10.5.3-2 and I.2.2).

    Args:
        answer: the DICOM JSON of the answer, None where there was none.
        sent: the files that were sent, by SOP Instance UID.
        words: the HTTP status in words, for instances that the answer does not name.
    """
    found: dict[str, SendOutcome] = {}
    document = answer[0] if isinstance(answer, list) and answer else answer
    if isinstance(document, Mapping):
        for item in _items(document, "ReferencedSOPSequence"):
            uid = text(item, "ReferencedSOPInstanceUID")
            code = _code(item, "WarningReason", 0x0000)
            if uid in sent:
                found[uid] = _outcome(sent[uid], uid, code)
        for item in _items(document, "FailedSOPSequence"):
            uid = text(item, "ReferencedSOPInstanceUID")
            if uid in sent:
                found[uid] = _outcome(sent[uid], uid, _code(item, "FailureReason", 0x0110))
    for uid, path in sent.items():
        if uid not in found:
            reason = f"the answer does not say whether it was stored; {words}"
            found[uid] = SendOutcome(path, uid, None, reason)
    return found


def _outcome(path: Path, uid: str, code: int) -> SendOutcome:
    return SendOutcome(path, uid, code, describe_status("STOW-RS", code))


def _items(document: Mapping[str, Any], keyword: str) -> list[Mapping[str, Any]]:
    tag = tag_for_keyword(keyword)
    element = document.get(f"{tag:08X}")
    values = element.get("Value") if isinstance(element, Mapping) else None
    return [item for item in values or () if isinstance(item, Mapping)]


def _code(item: Mapping[str, Any], keyword: str, absent: int) -> int:
    value = text(item, keyword)
    return int(value) if value.isdecimal() and int(value) <= 0xFFFF else absent
