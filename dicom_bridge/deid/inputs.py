"""What a file in an input folder is, by its first bytes: DICOM, or something to be named."""

from __future__ import annotations

import struct
from enum import StrEnum

from dicom_bridge.deid.report import kind_of

_ARCHIVES = (b"PK\x03\x04", b"PK\x05\x06", b"\x1f\x8b", b"7z\xbc\xaf", b"Rar!", b"\xfd7zXZ", b"BZh")
_DIRECTORY_CLASS = b"1.2.840.10008.1.3.10\x02\0"


class Input(StrEnum):
    """What a file is, in the words of the summary."""

    DICOM = "DICOM"
    DIRECTORY = "a DICOMDIR (not copied: it lists names)"
    OTHER = "no DICOM file"
    ARCHIVE = "an archive"
    BARE = "a data set without file header"


REFUSALS = {
    Input.ARCHIVE: "an archive: unpack it and run on the folder",
    Input.BARE: "a DICOM data set without the file header of PS3.10: its encoding is not certain",
}


def look_at(head: bytes, name: str) -> Input:
    """What a file is.

    Args:
        head: its first 512 bytes.
        name: its name: a DICOMDIR is always called so.

    Example:
        >>> str(look_at(b"hello", "notes.txt")), str(look_at(b"PK" + bytes([3, 4]), "a.zip"))
        ('no DICOM file', 'an archive')
    """
    if head[128:132] == b"DICM":
        listed = name.upper() == "DICOMDIR" or _DIRECTORY_CLASS in head[132:]
        return Input.DIRECTORY if listed else Input.DICOM
    if head.startswith(_ARCHIVES):
        return Input.ARCHIVE
    if head[:2] in (b"\x08\x00", b"\x02\x00") and len(head) > 8 and head[3:4] == b"\0":
        return Input.BARE
    return Input.OTHER


def source_kind(content: bytes) -> str:
    """The SOP class that the file meta information names; empty where it does not.

    Only registered names are given: a private UID could lead back to the hospital.
    """
    if len(content) < 160 or content[128:132] != b"DICM":
        return ""
    position, end = 132, min(len(content), 4096)
    while position + 12 <= end:
        group, element, vr, length = struct.unpack_from("<HH2sH", content, position)
        if group != 2:
            break
        if vr in (b"OB", b"UN", b"UT"):
            (length,) = struct.unpack_from("<I", content, position + 8)
            position += 4
        if element == 2 and vr == b"UI":
            value = content[position + 8 : position + 8 + length]
            return kind_of(value.decode("ascii", "replace").strip("\0 "))
        position += 8 + length
    return ""
