"""The UIDs at the beginning of a data set.

The scanner reads what nearly every object looks like (little endian, well formed) some 20 times
faster than a general parser; whatever it does not understand goes to
:func:`dicom_bridge.net.intake.read_head`, which decides.
"""

from __future__ import annotations

import struct

from pydicom.uid import (
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ImplicitVRLittleEndian,
)

from dicom_bridge.net.intake import Head, check_head, read_head

_TAG = struct.Struct("<HH")
_IMPLICIT = struct.Struct("<HHL")
_EXPLICIT = struct.Struct("<HH2sH")
_LENGTH = struct.Struct("<L")
_SHORT = struct.Struct("<H")
_LONG_FORM = frozenset(b"OB OD OF OL OV OW SQ SV UC UN UR UT UV".split())
_SHORT_FORM = frozenset(b"AE AS AT CS DA DS DT FL FD IS LO LT PN SH SL SS ST TM UI UL US".split())
_UNDEFINED = 0xFFFFFFFF
_ITEM, _ITEM_END, _SEQUENCE_END = 0xFFFEE000, 0xFFFEE00D, 0xFFFEE0DD
_CLASS, _INSTANCE, _STUDY, _SERIES = 0x00080016, 0x00080018, 0x0020000D, 0x0020000E
_WANTED = frozenset({_CLASS, _INSTANCE, _STUDY, _SERIES})
_DEEPEST = 16


class _Odd(Exception):
    """Not for this scanner."""


def scan_head(content: memoryview, syntax: UID) -> Head:
    """The identity that a data set states about itself.

    Args:
        content: at least the elements up to (0020,000E).
        syntax: the transfer syntax.

    Raises:
        StoreRefused: as :func:`~dicom_bridge.net.intake.read_head`.
    """
    if syntax in (DeflatedExplicitVRLittleEndian, ExplicitVRBigEndian):
        return read_head(bytes(content), syntax)
    try:
        values = _values(content, explicit=syntax != ImplicitVRLittleEndian)
    except (_Odd, struct.error):
        return read_head(bytes(content), syntax)
    return check_head(values)


def _values(content: memoryview, *, explicit: bool) -> tuple[str, str, str, str]:
    found: dict[int, str] = {}
    at, last = 0, -1
    while True:
        if at >= len(content):
            break
        group, element = _TAG.unpack_from(content, at)
        tag = group << 16 | element
        if tag > _SERIES:
            break
        if tag <= last:
            raise _Odd
        last = tag
        start, length, vr = _element(content, at, explicit=explicit)
        if length == _UNDEFINED:
            # UN of undefined length holds implicit VR (PS3.5 6.2.2, note 1).
            at = _after_sequence(content, start, explicit=explicit and vr != b"UN", depth=0)
            continue
        at = start + length
        if at > len(content):
            raise _Odd
        if tag in _WANTED:
            found[tag] = bytes(content[start:at]).decode("ascii", errors="replace")
    return (
        found.get(_CLASS, ""),
        found.get(_INSTANCE, ""),
        found.get(_STUDY, ""),
        found.get(_SERIES, ""),
    )


def _element(content: memoryview, at: int, *, explicit: bool) -> tuple[int, int, bytes]:
    """Where an element's value starts, its length, its VR (empty where implicit)."""
    if not explicit:
        _, _, length = _IMPLICIT.unpack_from(content, at)
        return at + 8, length, b""
    _, _, vr, short = _EXPLICIT.unpack_from(content, at)
    if vr in _SHORT_FORM:
        return at + 8, short, vr
    if vr in _LONG_FORM:
        (length,) = _LENGTH.unpack_from(content, at + 8)
        return at + 12, length, vr
    raise _Odd


def _after_sequence(content: memoryview, at: int, *, explicit: bool, depth: int) -> int:
    """The position after a sequence of undefined length whose items start at ``at``."""
    if depth > _DEEPEST:
        raise _Odd
    while True:
        group, element, length = _IMPLICIT.unpack_from(content, at)
        tag = group << 16 | element
        at += 8
        if tag == _SEQUENCE_END:
            return at
        if tag != _ITEM:
            raise _Odd
        if length != _UNDEFINED:
            at += length
        else:
            at = _after_item(content, at, explicit=explicit, depth=depth + 1)


def _after_item(content: memoryview, at: int, *, explicit: bool, depth: int) -> int:
    while True:
        group, element = _TAG.unpack_from(content, at)
        if group << 16 | element == _ITEM_END:
            return at + 8
        start, length, vr = _element(content, at, explicit=explicit)
        if length == _UNDEFINED:
            inner = explicit and vr != b"UN"
            at = _after_sequence(content, start, explicit=inner, depth=depth)
        else:
            at = start + length
