"""What a single value may say: closed vocabularies, patterns and dummies.

A function here takes an encoded value and gives a :class:`Verdict`: the value to write, or nothing
where it may not stay, and the text that still has to be compared with the patient's identifiers.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Callable, Mapping
from datetime import date, timedelta
from functools import cache, lru_cache
from typing import NamedTuple

from pydicom.charset import python_encoding

from dicom_bridge.deid.descriptors import clean_description
from dicom_bridge.deid.table import read_table

LONG_NUMBER = 5
REMOVED = b"REMOVED"
DUMMIES: Mapping[bytes, bytes] = {
    **dict.fromkeys((b"AE", b"LO", b"SH", b"PN", b"LT", b"ST", b"UC", b"UT"), REMOVED),
    b"UR": b"urn:removed ",
    b"CS": b"OTHER",
    b"AS": b"000Y",
    b"DA": b"19000101",
    b"TM": b"000000",
    b"DT": b"19000101000000",
    b"DS": b"0",
    b"IS": b"0",
    b"US": b"\0\0",
    b"SS": b"\0\0",
    b"UL": b"\0" * 4,
    b"SL": b"\0" * 4,
    b"FL": b"\0" * 4,
    b"FD": b"\0" * 8,
    b"AT": b"\0" * 4,
    b"OB": b"\0\0",
    b"OW": b"\0\0",
    b"UN": b"\0\0",
}
BINARY_SIZES: Mapping[bytes, int] = {
    b"US": 2,
    b"SS": 2,
    b"UL": 4,
    b"SL": 4,
    b"FL": 4,
    b"FD": 8,
    b"AT": 4,
    b"SV": 8,
    b"UV": 8,
    b"OW": 2,
    b"OF": 4,
    b"OL": 4,
    b"OD": 8,
    b"OV": 8,
    b"OB": 1,
}
_VOCABULARY: dict[str, list[str]] = json.loads(read_table("vocabulary.json"))
TERMS = frozenset(_VOCABULARY["terms"])
SCHEMES = frozenset(_VOCABULARY["schemes"])
VENDORS = frozenset(_VOCABULARY["vendors"])
SERIES_WORDS = frozenset(_VOCABULARY["series_words"])

_NUMBER = re.compile(rb"[0-9eE+\-. \\]*\0?")
_AGE = re.compile(rb"[0-9]{3}[DWMY] ?")
_CODE_STRING = re.compile(rb"[A-Z0-9_ ]{0,17}")
_DATE = re.compile(rb"[0-9]{8}(\.\.)? ?")
_TIME = re.compile(rb"[0-9]{2}([0-9]{2}([0-9]{2}(\.[0-9]{1,6})?)?)? *")
_DATE_TIME = re.compile(rb"[0-9]{4,14}(\.[0-9]{1,6})?([+-][0-9]{4})? *")
_UID = re.compile(rb"[0-9.\\]*[\0 ]?")
_CODE = re.compile(r"[A-Za-z0-9.,:;/_^%*+\[\]{}()'\"#-]{1,16}")
_DEVICE_TEXT = re.compile(r"[A-Za-z0-9 _.,:;/\\+*()\[\]#&%\"'<>!|{}-]{0,64}")
_DATE_LIKE = re.compile(
    r"(?<!\d)(19|20)\d\d[-./]?(0[1-9]|1[0-2])[-./]?(0[1-9]|[12]\d|3[01])(?!\d)"
    r"|(?<!\d)\d{1,2}[-./]\d{1,2}[-./](19|20)\d\d(?!\d)"
)
_LONG_NUMBER = re.compile(r"\d{7,}")
_WORDS = re.compile(r"[a-z0-9]+")


class Verdict(NamedTuple):
    """What becomes of a value.

    Attributes:
        value: the value to write, not yet padded; None where it may not stay.
        text: folded text to compare with the patient's identifiers; empty where none is needed.
    """

    value: bytes | None
    text: str = ""


Judge = Callable[[bytes], Verdict]
REFUSED = Verdict(None)


def fold(text: str) -> str:
    """Text without case and accents, for comparison.

    Example:
        >>> fold("Müller-Åse")
        'muller-ase'
    """
    if text.isascii():
        return text.lower()
    plain = unicodedata.normalize("NFKD", text)
    return "".join(c for c in plain if not unicodedata.combining(c)).casefold()


def pad(vr: bytes, value: bytes) -> bytes:
    """The value with an even length (PS3.5 6.2)."""
    if len(value) % 2 == 0:
        return value
    return value + (b"\0" if vr in (b"UI", b"OB", b"UN") else b" ")


def number(raw: bytes) -> Verdict:
    """IS and DS: digits, signs, points and exponents; long whole numbers are compared later."""
    if not _NUMBER.fullmatch(raw):
        return REFUSED
    if len(raw) < LONG_NUMBER:
        return Verdict(raw)
    parts = raw.decode("ascii").rstrip(" \0").split("\\")
    long = [p for part in parts if len(p := part.strip()) >= LONG_NUMBER and p.isdigit()]
    return Verdict(raw, " ".join(long))


def age(raw: bytes) -> Verdict:
    """AS: 90 years and more become 90 years."""
    if not _AGE.fullmatch(raw):
        return REFUSED
    return Verdict(b"090Y") if raw[3:4] == b"Y" and int(raw[:3]) > 90 else Verdict(raw)


def code_string(raw: bytes) -> Verdict:
    """CS: the standard's repertoire; terms outside the closed list are compared afterwards."""
    parts = raw.rstrip(b" \0").split(b"\\")
    if not all(_CODE_STRING.fullmatch(part) for part in parts):
        return REFUSED
    words = [part.decode("ascii").strip() for part in parts]
    return Verdict(raw.rstrip(b"\0"), fold(" ".join(w for w in words if w not in TERMS)))


def character_set(raw: bytes) -> Verdict:
    """Specific Character Set: a term of PS3.3 C.12.1.1.2 is nobody's name."""
    terms = raw.decode("ascii", "replace").rstrip(" \0").split("\\")
    if all(term.strip() in python_encoding for term in terms):
        return Verdict(raw.rstrip(b"\0"))
    return code_string(raw)


def date_value(raw: bytes) -> Verdict:
    """DA as it is."""
    ok = all(not part or _DATE.fullmatch(part) for part in raw.split(b"\\"))
    return Verdict(raw) if ok else REFUSED


def time_value(raw: bytes) -> Verdict:
    """TM as it is."""
    ok = all(not part or _TIME.fullmatch(part) for part in raw.split(b"\\"))
    return Verdict(raw) if ok else REFUSED


def date_time_value(raw: bytes) -> Verdict:
    """DT as it is."""
    ok = all(not part or _DATE_TIME.fullmatch(part) for part in raw.split(b"\\"))
    return Verdict(raw) if ok else REFUSED


def uid_value(raw: bytes) -> Verdict:
    """UI as it is: digits and points only."""
    return Verdict(raw) if _UID.fullmatch(raw) else REFUSED


def uid_text(raw: bytes) -> list[str] | None:
    """The UIDs of a UI value, or None where it holds anything else."""
    if not _UID.fullmatch(raw):
        return None
    return raw.decode("ascii").rstrip("\0 ").split("\\")


def shift_date(raw: bytes, days: int) -> Verdict:
    """DA or DT moved by whole days; the time of day and the zone stay. Partial dates cannot."""
    shifted: list[bytes] = []
    for part in raw.rstrip(b" \0").split(b"\\"):
        if not part:
            shifted.append(part)
            continue
        if not _DATE_TIME.fullmatch(part) or not part[:8].isdigit() or len(part) < 8:
            return REFUSED
        try:
            year, month, day = int(part[:4]), int(part[4:6]), int(part[6:8])
            moved = date(year, month, day) + timedelta(days=days)
        except (ValueError, OverflowError):
            return REFUSED
        shifted.append(f"{moved:%Y%m%d}".encode() + part[8:])
    return Verdict(b"\\".join(shifted))


def kept_text(raw: bytes) -> Verdict:
    """Text that an option keeps as it is; still compared with the patient's identifiers."""
    return Verdict(raw, fold(raw.decode("utf-8", "replace").strip(" \0")))


def vendor(raw: bytes) -> Verdict:
    """A manufacturer's name from the closed list, or one that begins with a name of it."""
    text = raw.decode("ascii", "replace").strip(" \0")
    plain = " ".join(_WORDS.findall(text.lower()))
    return Verdict(raw.rstrip(b"\0")) if plain in VENDORS or not plain else REFUSED


def pdf_type(raw: bytes) -> Verdict:
    """The one MIME type that a document may have."""
    known = raw.decode("ascii", "replace").strip(" \0").lower() == "application/pdf"
    return Verdict(b"application/pdf") if known else REFUSED


def device_text(raw: bytes) -> Verdict:
    """Names of models, software, sequences and coils: short, no dates, no long numbers."""
    try:
        text = raw.decode("ascii").strip(" \0")
    except UnicodeDecodeError:
        return REFUSED
    values = text.split("\\")
    if not all(_DEVICE_TEXT.fullmatch(value) and value.count(" ") < 5 for value in values):
        return REFUSED
    if _DATE_LIKE.search(text) or _LONG_NUMBER.search(text):
        return REFUSED
    return Verdict(raw.rstrip(b"\0"), fold(text))


def words_text(raw: bytes) -> Verdict:
    """Text of known words only (coded concepts and descriptions); any other may not stay."""
    text = raw.decode("latin-1").strip(" \0")
    words = _WORDS.findall(text.lower())
    kept = clean_description(text, known_words())
    return (
        Verdict(raw.rstrip(b"\0"), fold(text)) if _WORDS.findall(kept.lower()) == words else REFUSED
    )


def cleaned_text(raw: bytes, forbidden: Callable[[str], bool] = lambda _word: False) -> Verdict:
    """Free text reduced to words and numbers that identify nobody; None where nothing is left.

    Args:
        raw: the text; letters outside ASCII belong to no known word.
        forbidden: says of a folded word that it identifies the patient.
    """
    kept = clean_description(raw.decode("latin-1").strip(" \0"), known_words(), forbidden)
    return Verdict(kept.encode("ascii"), fold(kept)) if kept else REFUSED


def code_scheme(raw: bytes) -> Verdict:
    """A coding scheme that is known, or a private one (``99...``)."""
    text = raw.decode("ascii", "replace").strip(" \0")
    if text in SCHEMES:
        return Verdict(raw)
    return Verdict(raw, fold(text)) if text.startswith("99") and _CODE.fullmatch(text) else REFUSED


def code_value(raw: bytes) -> Verdict:
    """A code value: no text, no date, no long number except in SNOMED's form."""
    text = raw.decode("ascii", "replace").strip(" \0")
    if not _CODE.fullmatch(text) or _DATE_LIKE.search(text):
        return REFUSED
    return Verdict(raw, fold(text))


@lru_cache(maxsize=4096)
def code_meaning(scheme: bytes, value: bytes, meaning: bytes) -> Verdict:
    """The standard's meaning of a known code; otherwise the text if all its words are known."""
    names = codes().get(scheme.decode("ascii", "replace").strip(" \0"), {})
    standard = names.get(value.decode("ascii", "replace").strip(" \0"))
    return Verdict(standard.encode("ascii", "replace")) if standard else words_text(meaning)


@cache
def codes() -> Mapping[str, Mapping[str, str]]:
    """Meanings of coded concepts by scheme and value."""
    found: dict[str, dict[str, str]] = json.loads(read_table("codes.json"))
    return found


@cache
def known_words() -> frozenset[str]:
    """All words that meanings of coded concepts use, and words of series descriptions."""
    words = {
        word
        for meanings in codes().values()
        for meaning in meanings.values()
        for word in _WORDS.findall(fold(meaning))
        if len(word) > 2
    }
    return frozenset(words) | SERIES_WORDS
