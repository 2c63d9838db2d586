"""DIMSE command sets by hand (PS3.7 6.3 and Annex E): group 0000, implicit VR little endian."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from enum import IntEnum

from dicom_bridge.errors import DataRefused

_ELEMENT = struct.Struct("<HHL")
_US = struct.Struct("<H")
NO_DATA_SET = 0x0101


class Field(IntEnum):
    """Command Field (0000,0100) of the requests that are served."""

    C_STORE = 0x0001
    C_ECHO = 0x0030
    N_EVENT_REPORT = 0x0100
    C_CANCEL = 0x0FFF


RESPONSE = 0x8000

_CLASS, _REQUESTED_CLASS, _FIELD, _ID, _ANSWERED = 0x0002, 0x0003, 0x0100, 0x0110, 0x0120
_DATA_SET, _STATUS, _COMMENT = 0x0800, 0x0900, 0x0902
_INSTANCE, _REQUESTED_INSTANCE, _EVENT = 0x1000, 0x1001, 0x1002
_NUMBERS = frozenset({_FIELD, _ID, _ANSWERED, _DATA_SET, _STATUS, _EVENT})


class CommandInvalid(DataRefused):
    """Bytes that are no command set."""


@dataclass(frozen=True, slots=True, repr=False)
class Command:
    """A request as the peer sent it.

    Attributes:
        field: Command Field.
        message_id: Message ID.
        has_data: whether a data set follows.
        sop_class: Affected SOP Class UID, or the requested one; empty where absent.
        sop_uid: Affected SOP Instance UID, or the requested one; empty where absent.
        event: Event Type ID of an N-EVENT-REPORT, 0 where absent.
    """

    field: int
    message_id: int
    has_data: bool
    sop_class: str
    sop_uid: str
    event: int

    @property
    def is_request(self) -> bool:
        """Whether it asks for something (responses have the highest bit set)."""
        return not self.field & RESPONSE


def parse_command(encoded: bytes | bytearray | memoryview) -> Command:
    """Read a command set.

    Raises:
        CommandInvalid: the bytes are no command set, or the Command Field is absent.
    """
    encoded = bytes(encoded)
    values: dict[int, bytes] = {}
    at, end = 0, len(encoded)
    while at < end:
        if end - at < _ELEMENT.size:
            raise CommandInvalid("a command set ends inside an element")
        group, element, length = _ELEMENT.unpack_from(encoded, at)
        at += _ELEMENT.size
        if group != 0 or length > end - at:
            raise CommandInvalid("an element of a command set does not belong there")
        values[element] = encoded[at : at + length]
        at += length
    numbers: dict[int, int] = {}
    for element in _NUMBERS & values.keys():
        if len(values[element]) != _US.size:
            raise CommandInvalid("a number of a command set has not two bytes")
        (numbers[element],) = _US.unpack(values[element])
    if _FIELD not in numbers or _DATA_SET not in numbers:
        raise CommandInvalid("a command set without Command Field or Command Data Set Type")
    if not numbers[_FIELD] & RESPONSE and numbers[_FIELD] != Field.C_CANCEL and _ID not in numbers:
        raise CommandInvalid("a request without Message ID")
    return Command(
        field=numbers[_FIELD],
        message_id=numbers.get(_ID, 0),
        has_data=numbers[_DATA_SET] != NO_DATA_SET,
        sop_class=_uid(values.get(_CLASS) or values.get(_REQUESTED_CLASS, b"")),
        sop_uid=_uid(values.get(_INSTANCE) or values.get(_REQUESTED_INSTANCE, b"")),
        event=numbers.get(_EVENT, 0),
    )


def _uid(value: bytes) -> str:
    return value.rstrip(b"\0 ").decode("ascii", errors="replace")


def encode_response(command: Command, status: int, words: str = "") -> bytes:
    """The response to a request, without data set.

    Args:
        command: the request.
        status: PS3.7 annex C.
        words: Error Comment (LO, 64 characters; cut), for a failure.
    """
    elements = [
        (_CLASS, _text(command.sop_class, b"\0")),
        (_FIELD, _US.pack(command.field | RESPONSE)),
        (_ANSWERED, _US.pack(command.message_id)),
        (_DATA_SET, _US.pack(NO_DATA_SET)),
        (_STATUS, _US.pack(status)),
    ]
    if words:
        elements.append((_COMMENT, _text(words[:64], b" ")))
    if command.sop_uid:
        elements.append((_INSTANCE, _text(command.sop_uid, b"\0")))
    if command.field == Field.N_EVENT_REPORT:
        elements.append((_EVENT, _US.pack(command.event)))
    body = b"".join(_ELEMENT.pack(0, tag, len(value)) + value for tag, value in elements if value)
    return _ELEMENT.pack(0, 0, 4) + struct.pack("<L", len(body)) + body


def _text(value: str, padding: bytes) -> bytes:
    encoded = value.encode("ascii", errors="replace")
    return encoded + padding if len(encoded) % 2 else encoded
