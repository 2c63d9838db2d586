"""Strict reading of encoded data sets: where each element lies, without decoding its value.

Only little endian encodings (PS3.5 A.1, A.2, A.4, A.5). Whatever does not fit exactly, be it a
length that leads outside its item or an unknown VR, is refused: nothing is guessed.
"""

from __future__ import annotations

import struct
import zlib
from typing import NamedTuple

from pydicom._dicom_dict import DicomDictionary, RepeatersDictionary
from pydicom.datadict import mask_match

from dicom_bridge.errors import DataRefused

UNDEFINED = 0xFFFFFFFF
ITEM = 0xFFFEE000
ITEM_END = 0xFFFEE00D
SEQUENCE_END = 0xFFFEE0DD
PIXEL_DATA = 0x7FE00010
DEEPEST = 16
LARGEST_FILE = 2 * 1024**3
LARGEST_INFLATED = 1024**3
IMPLICIT_LE = "1.2.840.10008.1.2"
EXPLICIT_LE = "1.2.840.10008.1.2.1"
DEFLATED_LE = "1.2.840.10008.1.2.1.99"

LONG_VRS = frozenset(
    {b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"SV", b"UC", b"UN", b"UR", b"UT", b"UV"}
)
SHORT_VRS = frozenset(
    {
        *(b"AE", b"AS", b"AT", b"CS", b"DA", b"DS", b"DT", b"FD", b"FL", b"IS", b"LO", b"LT"),
        *(b"PN", b"SH", b"SL", b"SS", b"ST", b"TM", b"UI", b"UL", b"US"),
    }
)
_EXPLICIT = struct.Struct("<HH2sH")
_TAG_LENGTH = struct.Struct("<HHI")
_LENGTH = struct.Struct("<I")


class Element(NamedTuple):
    """Where one element lies in the encoded bytes.

    Attributes:
        tag: group and element as one number.
        vr: two letters; for implicit encoding the dictionary's.
        start: first byte of the value.
        end: byte after the value, before a sequence delimiter.
        undefined: the value has undefined length (items or fragments up to a delimiter).
        explicit: the items of a sequence carry their VRs.
    """

    tag: int
    vr: bytes
    start: int
    end: int
    undefined: bool
    explicit: bool


class DicomFile(NamedTuple):
    """The parts of a PS3.10 file.

    Attributes:
        syntax: TransferSyntaxUID from the file meta information.
        body: the encoded data set, inflated where it was deflated.
        explicit: whether elements carry their VRs.
    """

    syntax: str
    body: bytes
    explicit: bool


def split_file(content: bytes) -> DicomFile:
    """Take a PS3.10 file apart.

    Raises:
        DataRefused: no such file, a broken file meta group, or a big endian encoding.
    """
    if len(content) < 144 or content[128:132] != b"DICM":
        raise DataRefused("no DICOM file: the prefix DICM is missing at byte 128")
    meta, position = {}, 132
    while position < len(content) and content[position : position + 2] == b"\x02\x00":
        element, position = _read(content, position, len(content), explicit=True, depth=0)
        meta[element.tag] = content[element.start : element.end]
    syntax = meta.get(0x00020010, b"").decode("ascii", "replace").strip(" \0")
    if not syntax:
        raise DataRefused("no transfer syntax in the file meta information: the file is damaged")
    if syntax == "1.2.840.10008.1.2.2":
        raise DataRefused("big endian encoding (retired): have it sent as little endian")
    body = content[position:]
    if syntax == DEFLATED_LE:
        return DicomFile(EXPLICIT_LE, _inflate(body), explicit=True)
    return DicomFile(syntax, body, explicit=syntax != IMPLICIT_LE)


def _inflate(body: bytes) -> bytes:
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)
    try:
        plain = inflater.decompress(body, LARGEST_INFLATED)
    except zlib.error as error:
        raise DataRefused("the deflated data set is damaged") from error
    if not inflater.eof:
        raise DataRefused("the deflated data set is truncated or too large")
    return plain


def parse(
    body: bytes, start: int, end: int, *, explicit: bool, depth: int = 0
) -> dict[int, Element]:
    """The elements of one data set by tag, in ascending order.

    Args:
        body: all bytes.
        start: first byte of the data set.
        end: byte after it.
        explicit: whether elements carry their VRs.
        depth: how many sequences enclose it.

    Raises:
        DataRefused: anything does not fit, a tag comes twice, or nesting is too deep.
    """
    found: dict[int, Element] = {}
    position, last, ordered = start, -1, True
    while position < end:
        element, position = _read(body, position, end, explicit=explicit, depth=depth)
        tag = element.tag
        if tag in found:
            raise DataRefused(f"element ({tag >> 16:04X},{tag & 0xFFFF:04X}) comes twice")
        ordered = ordered and tag > last
        last = tag
        found[tag] = element
    return found if ordered else dict(sorted(found.items()))


def items(body: bytes, element: Element, depth: int) -> list[dict[int, Element]]:
    """The items of a sequence, each parsed.

    Raises:
        DataRefused: as :func:`parse`.
    """
    found = []
    position = element.start
    while position < element.end:
        start, length = _item(body, position, element.end)
        if length == UNDEFINED:
            content, position = _undefined_item(body, start, element, depth)
        else:
            position = start + length
            explicit = element.explicit
            content = parse(body, start, position, explicit=explicit, depth=depth + 1)
        found.append(content)
    return found


def fragments(body: bytes, element: Element) -> list[tuple[int, int]]:
    """Start and end of each fragment of encapsulated pixel data, the offset table first (A.4)."""
    found = []
    position = element.start
    while position < element.end:
        start, length = _item(body, position, element.end)
        if length == UNDEFINED:
            raise DataRefused("a fragment of the pixel data has no length")
        found.append((start, start + length))
        position = start + length
    return found


def _item(body: bytes, position: int, end: int) -> tuple[int, int]:
    if position + 8 > end:
        raise DataRefused("a sequence ends within an item's header: the file is truncated")
    group, number, length = _TAG_LENGTH.unpack_from(body, position)
    if (group << 16 | number) != ITEM:
        raise DataRefused("an item of a sequence does not begin as one: the file is damaged")
    if length != UNDEFINED and position + 8 + length > end:
        raise DataRefused("an item is longer than its sequence: the file is damaged")
    return position + 8, length


def _undefined_item(
    body: bytes, start: int, element: Element, depth: int
) -> tuple[dict[int, Element], int]:
    stop, after = _skip_to(body, start, element.end, explicit=element.explicit, depth=depth + 1)
    return parse(body, start, stop, explicit=element.explicit, depth=depth + 1), after


def _skip_to(body: bytes, start: int, end: int, *, explicit: bool, depth: int) -> tuple[int, int]:
    """End of an item of undefined length, and the byte after its delimiter."""
    position = start
    while position + 8 <= end:
        group, number, _ = _TAG_LENGTH.unpack_from(body, position)
        if (group << 16 | number) == ITEM_END:
            return position, position + 8
        _, position = _read(body, position, end, explicit=explicit, depth=depth)
    raise DataRefused("an item has no end: the file is truncated")


def _read(
    body: bytes, position: int, end: int, *, explicit: bool, depth: int
) -> tuple[Element, int]:
    """One element at a position, and the position after it."""
    if position + 8 > end:
        raise DataRefused("the data set ends within an element's header: the file is truncated")
    if explicit:
        group, number, vr, length = _EXPLICIT.unpack_from(body, position)
        tag = group << 16 | number
        start = position + 8
        if vr in LONG_VRS:
            if start + 4 > end:
                raise DataRefused("the data set ends within an element's header")
            (length,) = _LENGTH.unpack_from(body, start)
            start += 4
        elif vr not in SHORT_VRS:
            raise DataRefused("an element has no known VR: the encoding is damaged")
        nested = vr != b"UN"
    else:
        group, number, length = _TAG_LENGTH.unpack_from(body, position)
        tag = group << 16 | number
        start = position + 8
        vr = dictionary_vr(tag)
        nested = False
    if length != UNDEFINED:
        if start + length > end:
            raise DataRefused("an element is longer than what encloses it: the file is truncated")
        return Element(tag, vr, start, start + length, undefined=False, explicit=nested), (
            start + length
        )
    stop, after = _skip_sequence(body, start, end, explicit=nested, depth=depth + 1)
    if tag != PIXEL_DATA and vr not in (b"SQ", b"UN"):
        if explicit:
            raise DataRefused("an element that is no sequence has undefined length")
        vr = b"SQ"
    return Element(tag, vr, start, stop, undefined=True, explicit=nested), after


def _skip_sequence(
    body: bytes, start: int, end: int, *, explicit: bool, depth: int
) -> tuple[int, int]:
    """End of a sequence or of fragments of undefined length, and the byte after the delimiter."""
    if depth > DEEPEST:
        raise DataRefused(f"sequences are nested more than {DEEPEST} deep")
    position = start
    while position + 8 <= end:
        group, number, length = _TAG_LENGTH.unpack_from(body, position)
        tag = group << 16 | number
        if tag == SEQUENCE_END:
            return position, position + 8
        if tag != ITEM:
            raise DataRefused("an item of a sequence does not begin as one: the file is damaged")
        position += 8
        if length == UNDEFINED:
            _, position = _skip_to(body, position, end, explicit=explicit, depth=depth)
        else:
            position += length
    raise DataRefused("a sequence has no end: the file is truncated")


def dictionary_vr(tag: int) -> bytes:
    """The dictionary's VR of a tag, ``UN`` where it knows none.

    Ambiguous ones get the form that implicit encodings mean: OW for words, US for ``US or SS``
    (the caller looks at PixelRepresentation).
    """
    known = DicomDictionary.get(tag)
    if known is None:
        mask = mask_match(tag)
        if mask is None:
            return b"UN"
        known = RepeatersDictionary[mask]
    vr = known[0]
    if len(vr) == 2:
        return vr.encode("ascii")
    return b"OW" if "OW" in vr else b"US"
