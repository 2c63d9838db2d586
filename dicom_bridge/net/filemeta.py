"""Preamble and file meta information: the same bytes for the same instance, however it comes.

Neither AE titles nor addresses nor the version of any library stand in it: an instance that comes
again, over another transport or after an update, has the same digest.
"""

from __future__ import annotations

import struct
from functools import lru_cache

from pydicom.uid import PYDICOM_IMPLEMENTATION_UID


def preamble_and_meta(sop_class: str, sop_uid: str, syntax: str) -> bytes:
    """Preamble and file meta information (PS3.10 7.1)."""
    before, after = _meta_around(sop_class, syntax)
    uid = _padded(sop_uid)
    body = b"".join((before, struct.pack("<HH2sH", 2, 3, b"UI", len(uid)), uid, after))
    return b"".join((b"\0" * 128, b"DICM", struct.pack("<HH2sHL", 2, 0, b"UL", 4, len(body)), body))


@lru_cache(maxsize=64)
def _meta_around(sop_class: str, syntax: str) -> tuple[bytes, bytes]:
    version = struct.pack("<HH2sHL", 2, 1, b"OB", 0, 2) + b"\x00\x01"
    before = version + _uid_element(2, sop_class)
    return before, _uid_element(0x10, syntax) + _uid_element(0x12, PYDICOM_IMPLEMENTATION_UID)


def _uid_element(element: int, uid: str) -> bytes:
    value = _padded(uid)
    return struct.pack("<HH2sH", 2, element, b"UI", len(value)) + value


def _padded(uid: str) -> bytes:
    value = uid.encode("ascii")
    return value + b"\0" if len(value) % 2 else value
