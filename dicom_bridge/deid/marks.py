"""Elements of our own: file meta information, what ran (group 0012), pixels and documents."""

from __future__ import annotations

import struct
from collections.abc import Iterable
from functools import cache, lru_cache
from importlib import metadata
from typing import NamedTuple

from dicom_bridge.deid.painting import LOSSY, Painted
from dicom_bridge.deid.pixels import ImageFacts
from dicom_bridge.deid.rules import DOCUMENT
from dicom_bridge.deid.table import BASIC_CODE, OPTION_CODES
from dicom_bridge.deid.walker import ITEM_START, ITEM_STOP, SEQUENCE_STOP, encode, sequence_head

IMPLEMENTATION_UID = "2.25.93987576925235461578697845355900004475"
IMPLEMENTATION_NAME = "CLINODE_1"
IDENTITY_REMOVED, METHOD, METHOD_CODES = 0x00120062, 0x00120063, 0x00120064
ANNOTATION, TEMPORAL = 0x00280301, 0x00280303
LOSSY_FLAG, LOSSY_RATIO, LOSSY_METHOD = 0x00282110, 0x00282112, 0x00282114
CLEAN_PIXELS, FULL_DATES, MODIFIED_DATES = "113101", "113106", "113107"
_MEANINGS = dict([BASIC_CODE, *OPTION_CODES.values()])


class Insertion(NamedTuple):
    """An element that we write in the place of the object's own.

    Attributes:
        tag: where it stands.
        chunk: the encoded element, or several that follow each other.
        letter: the action that is counted where the object had this element.
    """

    tag: int
    chunk: bytes
    letter: str


@cache
def version() -> str:
    """Version of this software; 0 where it is not installed."""
    try:
        return metadata.version("clinode")
    except metadata.PackageNotFoundError:
        return "0"


@lru_cache(maxsize=256)
def identity_removed(codes: tuple[str, ...], profile_hash: str) -> bytes:
    """(0012,0062) to (0012,0064): that identity was removed, and by which options (PS3.15 E.1.1).

    Args:
        codes: codes of CID 7050 that ran, the Basic Profile first.
        profile_hash: hash of the profile, in the method's text.
    """
    items = b"".join(
        ITEM_START
        + encode(0x00080100, b"SH", code.encode())
        + encode(0x00080102, b"SH", b"DCM")
        + encode(0x00080104, b"LO", _MEANINGS[code].encode()[:64])
        + ITEM_STOP
        for code in codes
    )
    method = f"clinode {version()}; profile {profile_hash[:16]}"
    return b"".join(
        (
            encode(IDENTITY_REMOVED, b"CS", b"YES"),
            encode(METHOD, b"LO", method.encode()),
            sequence_head(METHOD_CODES) + items + SEQUENCE_STOP,
        )
    )


def temporal(codes: Iterable[str]) -> bytes:
    """(0028,0303): what happened to dates and times of this object (PS3.3 C.12.1)."""
    ran = set(codes)
    if FULL_DATES in ran:
        return encode(TEMPORAL, b"CS", b"UNMODIFIED")
    return encode(TEMPORAL, b"CS", b"MODIFIED" if MODIFIED_DATES in ran else b"REMOVED")


def painted_marks(painted: Painted, before: ImageFacts, syntax: str, size: int) -> list[Insertion]:
    """What the header says of pixels that were blanked.

    Args:
        painted: the pixels now.
        before: their form before.
        syntax: their transfer syntax before.
        size: bytes of the compressed pixels before.
    """
    marks = [Insertion(ANNOTATION, encode(ANNOTATION, b"CS", b"NO"), "C")]
    if not painted.decoded:
        return marks
    now = painted.facts
    if now.photometric != before.photometric:
        chunk = encode(0x00280004, b"CS", now.photometric.encode())
        marks.append(Insertion(0x00280004, chunk, "C"))
    if now.samples > 1:
        marks.append(Insertion(0x00280006, encode(0x00280006, b"US", b"\0\0"), "C"))
    if syntax in LOSSY:
        ratio = f"{len(painted.stored) / max(1, size):.2f}".encode()
        for tag, vr, value in (
            (LOSSY_FLAG, b"CS", b"01"),
            (LOSSY_RATIO, b"DS", ratio),
            (LOSSY_METHOD, b"CS", LOSSY[syntax].encode()),
        ):
            marks.append(Insertion(tag, encode(tag, vr, value), ""))
    return marks


def document_marks() -> list[Insertion]:
    """An empty document in the place of the object's own (Table E.1-1, action D)."""
    document = empty_pdf()
    return [
        Insertion(ANNOTATION, encode(ANNOTATION, b"CS", b"NO"), "C"),
        Insertion(DOCUMENT, encode(DOCUMENT, b"OB", document), "D"),
        Insertion(0x00420012, encode(0x00420012, b"LO", b"application/pdf"), "D"),
        Insertion(0x00420015, encode(0x00420015, b"UL", struct.pack("<I", len(document))), "D"),
    ]


@cache
def empty_pdf() -> bytes:
    """A valid PDF 1.4 of one page that says that the document was removed."""
    text = b"BT /F1 14 Tf 72 770 Td (The document was removed by de-identification.) Tj ET"
    objects = (
        b"<< /Type /Catalog /Pages 2 0 R >>",
        b"<< /Type /Pages /Kids [3 0 R] /Count 1 >>",
        b"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 595 842] /Contents 4 0 R /Resources 6 0 R >>",
        b"<< /Length %d >>\nstream\n%s\nendstream" % (len(text), text),
        b"<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>",
        b"<< /Font << /F1 5 0 R >> >>",
    )
    document = b"%PDF-1.4\n"
    places = []
    for number, content in enumerate(objects, 1):
        places.append(len(document))
        document += b"%d 0 obj\n%s\nendobj\n" % (number, content)
    table = b"".join(b"%010d 00000 n \n" % place for place in places)
    size = len(objects) + 1
    head = b"xref\n0 %d\n0000000000 65535 f \n" % size
    tail = b"trailer\n<< /Size %d /Root 1 0 R >>\nstartxref\n%d\n%%%%EOF\n" % (size, len(document))
    return document + head + table + tail


def file_meta(sop_class: str, sop_instance: str, syntax: str) -> bytes:
    """Preamble and file meta information of our own (PS3.10 7.1)."""
    group = b"".join(
        (
            encode(0x00020001, b"OB", b"\0\1"),
            encode(0x00020002, b"UI", sop_class.encode()),
            encode(0x00020003, b"UI", sop_instance.encode()),
            encode(0x00020010, b"UI", syntax.encode()),
            encode(0x00020012, b"UI", IMPLEMENTATION_UID.encode()),
            encode(0x00020013, b"SH", IMPLEMENTATION_NAME.encode()),
        )
    )
    return bytes(128) + b"DICM" + encode(0x00020000, b"UL", struct.pack("<I", len(group))) + group


def counted(labels: Iterable[tuple[str, int]]) -> tuple[dict[str, int], set[str]]:
    """Counts per action, and the codes of the options that decided on at least one element."""
    actions: dict[str, int] = {}
    ran: set[str] = set()
    for label, number in labels:
        letter, _, codes = label.partition(" ")
        actions[letter] = actions.get(letter, 0) + number
        ran.update(filter(None, codes.split(",")))
    return actions, ran
