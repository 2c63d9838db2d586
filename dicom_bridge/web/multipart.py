"""WADO-RS answers, part by part (PS3.18 8.6.1.2, RFC 2046 5.1): never more than one in memory.

A part is a DICOM file (PS3.10). Its preamble and file meta information are read and dropped, its
data set is passed on byte for byte: what is stored is what the PACS sent, under file meta of ours.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from email.message import Message
from typing import Protocol, TypeVar

from pydicom.uid import UID

from dicom_bridge.errors import DataRefused
from dicom_bridge.net.guard import SpillBuffer
from dicom_bridge.net.intake import Delivery

_HEADER_LIMIT = 1 << 16
_META_LIMIT = 1 << 20
_PREAMBLE = 132
_LONG_VR = frozenset({b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"UC", b"UN", b"UR", b"UT"})
_SOP_CLASS, _SOP_UID, _SYNTAX = 0x0002, 0x0003, 0x0010


class Content(Protocol):
    """What takes the bytes of one part."""

    def write(self, data: bytes) -> None:
        """Take the next bytes."""
        ...

    def close(self) -> None:
        """Drop what was taken."""
        ...


C = TypeVar("C", bound=Content)


def boundary_of(content_type: str) -> bytes:
    """The boundary of a multipart answer.

    Raises:
        DataRefused: the answer is not multipart, or names no boundary.

    Example:
        >>> boundary_of('multipart/related; type="application/dicom"; boundary="x-y"')
        b'x-y'
    """
    header = Message()
    header["Content-Type"] = content_type
    boundary = header.get_boundary()
    if header.get_content_maintype() != "multipart" or not boundary:
        raise DataRefused(
            f"expected multipart/related with a boundary, the server sent "
            f"{header.get_content_type()}; look into its log"
        )
    return boundary.encode("ascii", "replace")


def parts(chunks: Iterator[bytes], boundary: bytes, make: Callable[[], C]) -> Iterator[C]:
    """Cut an answer into its parts; each is complete when it is handed out.

    Args:
        chunks: the answer's body as it arrives.
        boundary: without the leading dashes.
        make: makes what takes one part's bytes.

    Raises:
        DataRefused: the answer is no multipart message, or ends before its closing boundary.
    """
    reader = _Reader(chunks)
    delimiter = b"\r\n--" + boundary
    reader.prepend(b"\r\n")
    reader.copy_until(delimiter, None)
    while not reader.at_end_marker():
        reader.header()
        with ExitStack() as undone:
            content = make()
            undone.callback(content.close)
            reader.copy_until(delimiter, content)
            undone.pop_all()
        yield content


class _Reader:
    """Looks for delimiters in a stream of chunks, holding no more than a chunk of it."""

    def __init__(self, chunks: Iterator[bytes]) -> None:
        self._chunks = chunks
        self._held = b""

    def prepend(self, data: bytes) -> None:
        """Pretend that ``data`` came first."""
        self._held = data + self._held

    def _more(self) -> None:
        for chunk in self._chunks:
            if chunk:
                self._held += chunk
                return
        raise DataRefused("the answer ended before its last part; it is asked for again")

    def copy_until(self, delimiter: bytes, content: Content | None) -> None:
        """Pass everything before the delimiter to ``content`` and drop the delimiter."""
        while (found := self._held.find(delimiter)) < 0:
            safe = len(self._held) - len(delimiter) + 1
            if safe > 0:
                if content is not None:
                    content.write(self._held[:safe])
                self._held = self._held[safe:]
            self._more()
        if content is not None and found:
            content.write(self._held[:found])
        self._held = self._held[found + len(delimiter) :]

    def at_end_marker(self) -> bool:
        """Whether the delimiter just dropped was the closing one."""
        while len(self._held) < 2:
            self._more()
        return self._held.startswith(b"--")

    def header(self) -> None:
        """Skip a part's header; a part may have none (RFC 2046 5.1)."""
        while b"\r\n\r\n" not in self._held:
            if len(self._held) > _HEADER_LIMIT:
                raise DataRefused("a part's header is too long; the answer is not understood")
            self._more()
        self._held = self._held.split(b"\r\n\r\n", 1)[1]


class DicomPart:
    """Takes one DICOM file: its meta information apart, its data set into ``content``."""

    def __init__(self, content: SpillBuffer) -> None:
        self._content = content
        self._head: bytes | None = b""
        self._values: dict[int, str] = {}

    def write(self, data: bytes) -> None:
        """Take the next bytes.

        Raises:
            DataRefused: they are no DICOM file, or larger than allowed.
        """
        if self._head is not None:
            self._head += data
            end = self._end_of_meta(self._head)
            if end is None:
                if len(self._head) > _META_LIMIT:
                    raise DataRefused("the file meta information is too long; the part is refused")
                return
            data, self._head = self._head[end:], None
        try:
            self._content.write(data)
        except ConnectionAbortedError as error:
            raise DataRefused("an instance is larger than allowed; it is not taken") from error

    def close(self) -> None:
        """Drop what was taken."""
        self._content.close()

    def delivery(self) -> Delivery:
        """The complete part, as the intake takes it.

        Raises:
            DataRefused: the file meta information does not say what the part is.
        """
        if self._head is not None or not {_SOP_CLASS, _SOP_UID, _SYNTAX} <= set(self._values):
            raise DataRefused("a part is no DICOM file with file meta information; it is refused")
        syntax = UID(self._values[_SYNTAX])
        if not syntax.is_transfer_syntax:
            raise DataRefused("a part has a transfer syntax that is not known; it is refused")
        return Delivery(self._content, syntax, self._values[_SOP_CLASS], self._values[_SOP_UID])

    def _end_of_meta(self, head: bytes) -> int | None:
        """Where group 0002 ends, or None where more bytes are needed to tell."""
        if len(head) < _PREAMBLE:
            return None
        if head[128:132] != b"DICM":
            raise DataRefused("a part is no DICOM file; check that the URL is a DICOMweb service")
        at = _PREAMBLE
        self._values.clear()
        while len(head) >= at + 12:
            group, element = struct.unpack_from("<HH", head, at)
            if group != 0x0002:
                return at
            long = head[at + 4 : at + 6] in _LONG_VR
            (length,) = struct.unpack_from("<L" if long else "<H", head, at + (8 if long else 6))
            start = at + (12 if long else 8)
            if start + length > len(head):
                return None
            if element in (_SOP_CLASS, _SOP_UID, _SYNTAX):
                value = head[start : start + length].decode("ascii", "replace")
                self._values[element] = value.rstrip("\0 ")
            at = start + length
        return None
