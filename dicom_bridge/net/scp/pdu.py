"""PDU framing (PS3.8 9.3): lengths are judged before anything is read, small PDUs are made here."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from enum import IntEnum

from dicom_bridge.errors import DataRefused
from dicom_bridge.net.stack import MAXIMUM_PDU_BYTES

HEADER_BYTES = 6
HEADER = struct.Struct(">BxL")
_PDV = struct.Struct(">LBB")

COMMAND_FRAGMENT = 0x01
LAST_FRAGMENT = 0x02


class PduType(IntEnum):
    """PS3.8 9.3.1."""

    ASSOCIATE_RQ = 0x01
    ASSOCIATE_AC = 0x02
    ASSOCIATE_RJ = 0x03
    P_DATA = 0x04
    RELEASE_RQ = 0x05
    RELEASE_RP = 0x06
    ABORT = 0x07


LONGEST_REQUEST_BYTES = 1 << 20
"""An A-ASSOCIATE-RQ: 128 contexts with every transfer syntax are about 300 KiB."""
LONGEST_DATA_BYTES = MAXIMUM_PDU_BYTES + 1024
"""A P-DATA-TF; the margin is for peers that count the PDV's own header apart."""
LONGEST_OTHER_BYTES = 1 << 12

_LONGEST = {
    PduType.ASSOCIATE_RQ: LONGEST_REQUEST_BYTES,
    PduType.P_DATA: LONGEST_DATA_BYTES,
}

RELEASE_RP = struct.pack(">BBLL", PduType.RELEASE_RP, 0, 4, 0)


class PduInvalid(DataRefused):
    """A peer's bytes are no PDU that PS3.8 knows, or one that is longer than negotiated."""


def check_length(kind: int, length: int) -> None:
    """Refuse what a PDU's header announces where it is too long for its type.

    Raises:
        PduInvalid: longer than this type may be.
    """
    if length > _LONGEST.get(kind, LONGEST_OTHER_BYTES):  # type: ignore[call-overload]
        raise PduInvalid(
            f"a PDU of type 0x{kind:02X} announces {length} bytes, more than was negotiated"
        )


def abort(source: int, reason: int) -> bytes:
    """An A-ABORT (PS3.8 9.3.8): source 0 service user, 2 service provider."""
    return struct.pack(">BBLBBBB", PduType.ABORT, 0, 4, 0, 0, source, reason)


def reject(result: int, source: int, reason: int) -> bytes:
    """An A-ASSOCIATE-RJ (PS3.8 9.3.4)."""
    return struct.pack(">BBLBBBB", PduType.ASSOCIATE_RJ, 0, 4, 0, result, source, reason)


def fragments(body: memoryview) -> Iterator[tuple[int, int, memoryview]]:
    """The presentation data values of a P-DATA-TF: context id, control header, fragment.

    Raises:
        PduInvalid: an item's length does not fit.
    """
    at, end = 0, len(body)
    if end == 0:
        raise PduInvalid("a P-DATA-TF without any presentation data value")
    while at < end:
        if end - at < _PDV.size:
            raise PduInvalid("a P-DATA-TF ends inside an item's header")
        length, context_id, control = _PDV.unpack_from(body, at)
        stop = at + 4 + length
        if length < 2 or stop > end:
            raise PduInvalid("a presentation data value does not fit into its PDU")
        yield context_id, control, body[at + 6 : stop]
        at = stop


def data_pdus(context_id: int, command: bytes, longest: int) -> bytes:
    """A command set as P-DATA-TF PDUs.

    Args:
        context_id: the presentation context.
        command: the encoded command set.
        longest: the peer's maximum length (PS3.8 D.1), 0 for none.
    """
    room = max(longest, 64) - 6 if longest else len(command)
    pieces = [command[at : at + room] for at in range(0, len(command), room)]
    made = []
    for number, piece in enumerate(pieces):
        control = COMMAND_FRAGMENT | (LAST_FRAGMENT if number == len(pieces) - 1 else 0)
        item = _PDV.pack(len(piece) + 2, context_id, control) + piece
        made.append(HEADER.pack(PduType.P_DATA, len(item)) + item)
    return b"".join(made)
