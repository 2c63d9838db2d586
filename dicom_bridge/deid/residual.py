"""Search of everything that comes out for what identifies the patient, in every byte.

Files are searched as they lie, decompressed (gzip, zlib streams in tar or zip are not opened) and
with base64 decoded; as bytes in ASCII, Latin-1, UTF-8 and UTF-16, without case and accents. In
binary content only long tokens count, since short ones occur by chance in voxels; in text short
ones count as whole words. A name that is a word of the closed technical vocabularies (a patient
called Head) cannot be looked for: the values that may hold such words come from those lists only.
"""

from __future__ import annotations

import base64
import binascii
import re
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dicom_bridge.deid.identifiers import Identifiers
from dicom_bridge.deid.values import SERIES_WORDS, TERMS, VENDORS, fold

LARGEST_VIEW = 2 * 1024**3
DEEPEST = 3
BINARY_TOKEN = 5
TEXT_TOKEN = 3
WHOLE_WORD = 5
ASCII_CHARACTER, OTHER_CHARACTER = 2, 3
_KINDS = np.zeros(256, dtype=np.uint8)  # 0 the byte 0, 1 control, then characters
_KINDS[1:32] = 1
_KINDS[32:127] = ASCII_CHARACTER
_KINDS[127] = 1
_KINDS[128:] = OTHER_CHARACTER
_BASE64 = re.compile(rb"(?:[A-Za-z0-9+/_-]{4}\s{0,2}){6,}[A-Za-z0-9+/_-]{0,3}={0,2}")
_DECIMALS = re.compile(rb"[0-9]\.")
_MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")


@dataclass(frozen=True, slots=True)
class ResidualHit:
    """One place where an identifier was found; does not say which value.

    Attributes:
        path: the file.
        kind: ``name``, ``id``, ``date`` or ``other``.
        view: how it was seen: ``name of the file``, ``bytes``, ``text``, ``utf-16``, after ``gzip``
            or ``base64``.
        offset: first place in that view, bytes or characters.
    """

    path: Path
    kind: str
    view: str
    offset: int


@dataclass(frozen=True, slots=True)
class _Token:
    kind: str
    text: str
    whole: bool


def residual_search(paths: Iterable[Path], identifiers: Identifiers) -> list[ResidualHit]:
    """Search files, and all files below folders, for identifiers.

    Args:
        paths: files and folders; names of files and folders below them are searched too.
        identifiers: what to look for.

    Returns:
        One hit per file, kind and view, sorted; empty where nothing was found.

    Raises:
        OSError: a file cannot be read: a search that leaves a file out proves nothing.
    """
    tokens = _tokens(identifiers)
    hits: list[ResidualHit] = []
    for path, shown in _files(paths):
        for kind, offset in _in_text(fold(shown), tokens, whole=True):
            hits.append(ResidualHit(path, kind, "name of the file", offset))
        if path.is_file():
            for kind, view, offset in search_bytes(path.read_bytes(), identifiers):
                hits.append(ResidualHit(path, kind, view, offset))
    return sorted(hits, key=lambda hit: (str(hit.path), hit.kind, hit.view))


def search_bytes(content: bytes, identifiers: Identifiers) -> list[tuple[str, str, int]]:
    """Search one content; gives kind, view and offset of the first hit of each kind and view."""
    tokens = _tokens(identifiers)
    found: dict[tuple[str, str], int] = {}
    for view, data in _views(content, "", 0):
        for kind, name, offset in _in_view(data, tokens):
            found.setdefault((kind, f"{view}{name}"), offset)
    return [(kind, view, offset) for (kind, view), offset in sorted(found.items())]


def _files(paths: Iterable[Path]) -> Iterator[tuple[Path, str]]:
    for path in paths:
        yield path, path.name
        if path.is_dir():
            for below in sorted(path.rglob("*")):
                yield below, str(below.relative_to(path))


@lru_cache(maxsize=64)
def _tokens(identifiers: Identifiers) -> tuple[_Token, ...]:
    names = [
        _Token("name", name, len(name) < WHOLE_WORD)
        for name in identifiers.names
        if len(name) >= TEXT_TOKEN and name not in _technical_words()
    ]
    ids = [
        _Token("id", fold(number), number.isdigit() or len(number) <= WHOLE_WORD)
        for number in identifiers.ids
        if len(number) >= TEXT_TOKEN
    ]
    dates = [
        _Token("date", spelling, whole=True)
        for day in identifiers.dates
        for spelling in date_spellings(day)
    ]
    others = [_Token("other", fold(o), whole=False) for o in identifiers.others if len(o) > 3]
    return (*names, *ids, *dates, *others)


@cache
def _technical_words() -> frozenset[str]:
    """Words of closed vocabularies, which stand in every output whatever the patient's name is."""
    words = {fold(term) for term in TERMS} | SERIES_WORDS
    return frozenset(words | {word for vendor in VENDORS for word in vendor.split()})


def date_spellings(day: str) -> tuple[str, ...]:
    """How a date (YYYYMMDD) is commonly written, folded.

    Example:
        >>> date_spellings("19640229")[:4]
        ('19640229', '1964-02-29', '1964/02/29', '1964.02.29')
    """
    if len(day) != 8 or not day.isdigit() or not 1 <= int(day[4:6]) <= 12:
        return (day,)
    year, month, number = day[:4], day[4:6], day[6:]
    short_month, short_day = str(int(month)), str(int(number))
    word = _MONTHS[int(month) - 1]
    numeric = [day, *(sign.join((year, month, number)) for sign in "-/.")]
    numeric += [sign.join((number, month, year)) for sign in "-/."]
    numeric += [sign.join((month, number, year)) for sign in "-/."]
    numeric += [sign.join((short_day, short_month, year)) for sign in "/."]
    numeric += [sign.join((short_month, short_day, year)) for sign in "/."]
    words = [f"{number}{s}{word}{s}{year}" for s in " -"] + [f"{short_day} {word} {year}"]
    words += [f"{word} {short_day}, {year}", f"{number}{word}{year}"]
    return tuple(dict.fromkeys(numeric + words))


def _views(content: bytes, prefix: str, depth: int) -> Iterator[tuple[str, bytes]]:
    """The content itself and what it holds compressed or in base64."""
    yield prefix, content
    if depth >= DEEPEST:
        return
    if content[:2] == b"\x1f\x8b":
        plain = _gunzip(content)
        if plain is not None:
            yield from _views(plain, f"{prefix}gzip, ", depth + 1)
    if b"\0" in content[:4096]:
        return
    for match in _BASE64.finditer(content):
        decoded = _unbase64(match.group())
        if decoded is not None:
            yield from _views(decoded, f"{prefix}base64, ", depth + 1)


def _gunzip(content: bytes) -> bytes | None:
    parts, rest, size = [], content, 0
    while rest[:2] == b"\x1f\x8b":
        inflater = zlib.decompressobj(zlib.MAX_WBITS | 16)
        try:
            plain = inflater.decompress(rest, LARGEST_VIEW - size)
        except zlib.error:
            break
        parts.append(plain)
        size += len(plain)
        rest = inflater.unused_data
        if not inflater.eof or size >= LARGEST_VIEW:
            break
    return b"".join(parts) if parts else None


def _unbase64(text: bytes) -> bytes | None:
    compact = b"".join(text.split()).replace(b"-", b"+").replace(b"_", b"/").rstrip(b"=")
    compact = compact[: len(compact) - (len(compact) % 4 == 1)]
    try:
        return base64.b64decode(compact + b"=" * (-len(compact) % 4), validate=True)
    except (binascii.Error, ValueError):
        return None


def search_voxels(data: bytes, identifiers: Identifiers) -> bool:
    """Whether a long name or number stands in raw voxels, as ASCII or UTF-16.

    Only where there is a run of characters that is long enough for one is it searched at all.
    """
    tokens = [t for t in _tokens(identifiers) if t.kind != "date" and len(t.text) > BINARY_TOKEN]
    if not tokens:
        return False
    narrow, wide = _character_runs(data)
    if not (narrow or wide or any(not token.text.isascii() for token in tokens)):
        return False
    lowered = data.lower()
    return any(
        _find(lowered, needle, token, wide=name == "utf-16") >= 0
        for token in tokens
        for name, needle in _needles(token.text)
        if (wide if name == "utf-16" else narrow) or not token.text.isascii()
    )


def _character_runs(data: bytes) -> tuple[bool, bool]:
    """Whether more characters than ``BINARY_TOKEN`` follow each other: as bytes, and as UTF-16."""
    kinds = _KINDS[np.frombuffer(data, dtype=np.uint8)]
    pairs = (kinds[:-1] == ASCII_CHARACTER) & (kinds[1:] == 0)
    return _has_run(kinds >= ASCII_CHARACTER, 1), _has_run(pairs, 2)


def _has_run(marks: NDArray[np.bool_], step: int) -> bool:
    """Whether six marks in a row stand at this distance from each other."""
    two = marks[:-step] & marks[step:]
    four = two[: -2 * step] & two[2 * step :]
    return bool((four[: -2 * step] & two[4 * step :]).any())


def _in_view(data: bytes, tokens: tuple[_Token, ...]) -> Iterator[tuple[str, str, int]]:
    """Hits in one view: as text where it is text, as bytes otherwise."""
    text = _as_text(data)
    if text is not None:
        for kind, offset in _in_text(fold(text), tokens, whole=False):
            yield kind, "text", offset
        return
    lowered = data.lower()
    for token in tokens:
        if len(token.text) < BINARY_TOKEN:
            continue
        for name, needle in _needles(token.text):
            offset = _find(lowered, needle, token, wide=name == "utf-16")
            if offset >= 0:
                yield token.kind, name, offset
    for kind, offset in _in_strings(data, tokens):
        yield kind, "strings", offset


def _as_text(data: bytes) -> str | None:
    if data[:2] in (b"\xff\xfe", b"\xfe\xff") and len(data) % 2 == 0:
        return data.decode("utf-16", "replace")
    if b"\0" in data:
        return None
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        return data.decode("latin-1")


def _needles(text: str) -> Iterator[tuple[str, bytes]]:
    yield "bytes", text.encode("utf-8")
    yield "utf-16", text.encode("utf-16-le")


def _find(data: bytes, needle: bytes, token: _Token, *, wide: bool) -> int:
    """First place of a needle; numbers must not continue in digits on either side."""
    place = data.find(needle)
    while place >= 0:
        step = 2 if wide else 1
        before = data[max(0, place - 2 * step) : place : step]
        end = place + len(needle)
        if not token.whole or not _continues(before, needle[:1], data[end : end + 1]):
            return place
        place = data.find(needle, place + 1)
    return -1


def _continues(before: bytes, first: bytes, after: bytes) -> bool:
    """Whether a number or word goes on beyond what was found; decimals of a number do."""
    if first.isdigit():
        return before[-1:].isdigit() or after.isdigit() or _DECIMALS.fullmatch(before) is not None
    return before[-1:].isalnum() or after.isalnum()


_PRINTABLE = bytes(range(32, 127))
_STRINGS = re.compile(rb"[\x20-\x7e\x80-\xff]{6,}")
_HEAD = 256 * 1024


def _in_strings(data: bytes, tokens: tuple[_Token, ...]) -> Iterator[tuple[str, int]]:
    """Short tokens as whole words among printable runs at the start, where headers lie."""
    runs = [
        (match.start(), fold(decoded))
        for match in _STRINGS.finditer(data[:_HEAD])
        if len((run := match.group()).translate(None, _PRINTABLE)) <= 0.2 * len(run)
        for decoded in {run.decode("latin-1"), run.decode("utf-8", "replace")}
    ]
    together = "\n".join(text for _, text in runs)
    if not any(True for _ in _in_text(together, tokens, whole=True)):
        return
    for start, text in runs:
        for kind, offset in _in_text(text, tokens, whole=True):
            yield kind, start + offset


def _in_text(text: str, tokens: tuple[_Token, ...], *, whole: bool) -> Iterator[tuple[str, int]]:
    for token in tokens:
        place = text.find(token.text)
        while place >= 0:
            end = place + len(token.text)
            before = text[max(0, place - 2) : place]
            after = text[end] if end < len(text) else " "
            if _stands_alone(before, token, after, whole=whole):
                yield token.kind, place
                break
            place = text.find(token.text, place + 1)


def _stands_alone(before: str, token: _Token, after: str, *, whole: bool) -> bool:
    if token.whole or (whole and len(token.text) < BINARY_TOKEN):
        ends = before.encode("utf-8", "replace"), after.encode("utf-8", "replace")
        if not before[-1:].isascii() or not after.isascii():
            return not before[-1:].isalnum() and not after.isalnum()
        return not _continues(ends[0], token.text[:1].encode(), ends[1])
    return True
