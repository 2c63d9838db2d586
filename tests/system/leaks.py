"""An independent search for identifiers in files: raw, decompressed and base64-decoded bytes.

It shares no code with the product's own residual search.
"""

from __future__ import annotations

import base64
import binascii
import re
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pydicom
from numpy.typing import NDArray

NAMES = ("PatientName", "ReferringPhysicianName", "PerformingPhysicianName", "OperatorsName")
VALUES = (
    "PatientID",
    "OtherPatientIDs",
    "AccessionNumber",
    "InstitutionName",
    "InstitutionAddress",
    "StationName",
    "DeviceSerialNumber",
    "PatientAddress",
    "PatientTelephoneNumbers",
    "StudyInstanceUID",
    "SeriesInstanceUID",
    "SOPInstanceUID",
    "FrameOfReferenceUID",
)
DATES = ("PatientBirthDate", "StudyDate", "SeriesDate", "AcquisitionDate", "ContentDate")
SHORTEST = 6
UID = re.compile(r"(?<![\d.])\d{1,4}(?:\.\d{1,40}){3,}")
FRACTION = re.compile(r"(?<![\d.])\d{1,3}\.\d*$")
"""What stands before eight digits that belong to a decimal fraction (a UID has more dots)."""
LETTERS = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
TEXT_RUN = 5
"""Shorter runs of printable bytes cannot hold a needle and are what noise is full of."""
BASE64_RUN = 24


def _table(allowed: bytes) -> NDArray[np.bool_]:
    """Whether a byte value is one of these."""
    table = np.zeros(256, dtype=bool)
    table[list(allowed)] = True
    return table


TEXT = _table(LETTERS + b".^-_ @/,:+")
BASE64 = _table(LETTERS + b"+/_-")


@dataclass(frozen=True, slots=True)
class Hit:
    """A needle found in a file; what it is, not its value."""

    file: str
    kind: str


def needles_of(headers: Iterable[pydicom.Dataset]) -> dict[str, str]:
    """Identifying strings of data sets, lower case, with the attribute they come from."""
    found: dict[str, str] = {}
    for header in headers:
        for keyword in NAMES:
            for part in re.split(r"[\^ =]+", str(header.get(keyword, ""))):
                found[part.lower()] = keyword
        for keyword in VALUES:
            found[str(header.get(keyword, "")).lower()] = keyword
        for keyword in DATES:
            value = str(header.get(keyword, ""))
            found[value] = keyword
            if len(value) == 8:
                found[f"{value[:4]}-{value[4:6]}-{value[6:]}"] = keyword
    return {needle: kind for needle, kind in found.items() if len(needle) >= SHORTEST}


def headers_below(folder: Path) -> Iterator[pydicom.Dataset]:
    """The header of every DICOM file below a folder."""
    for path in sorted(folder.rglob("*.dcm")):
        yield pydicom.dcmread(
            path, stop_before_pixels=True, force=True, specific_tags=[*NAMES, *VALUES, *DATES]
        )


def search(paths: Iterable[Path], needles: dict[str, str]) -> list[Hit]:
    """Every file that holds a needle, in its bytes or its name.

    Args:
        paths: files and folders.
        needles: lower-case strings and what they are.
    """
    uids = {needle: kind for needle, kind in needles.items() if kind.endswith("UID")}
    words = {needle: kind for needle, kind in needles.items() if needle not in uids}
    hits = []
    for path in paths:
        files = [path] if path.is_file() else sorted(p for p in path.rglob("*") if p.is_file())
        for file in files:
            text = "\n".join([str(file.relative_to(path.parent)).lower(), *texts(file)])
            hits += [Hit(str(file), kind) for needle, kind in words.items() if _holds(text, needle)]
            # Thousands of UIDs: looked up by what looks like one, rather than one by one.
            hits += [Hit(str(file), uids[seen]) for seen in set(UID.findall(text)) & uids.keys()]
    return hits


def _holds(text: str, needle: str) -> bool:
    """Whether a text holds a needle; eight digits amid a decimal fraction are no date.

    A round's record has hundreds of fractions of 17 digits: 0.6195503142946063 is no birth date.
    """
    if not (needle.isdigit() and len(needle) == 8):
        return needle in text
    places = (found.start() for found in re.finditer(needle, text))
    return any(not FRACTION.search(text[max(0, place - 24) : place]) for place in places)


def texts(file: Path) -> Iterator[str]:
    """The printable runs of a file, of what it decompresses to and of its base64 parts."""
    for layer in layers(file.read_bytes()):
        values = np.frombuffer(layer, dtype=np.uint8)
        text = TEXT[values]
        found = [layer[begin:end] for begin, end in runs(text, TEXT_RUN)]
        wide = text[:-1] & (values[1:] == 0)  # UTF-16: every second byte is zero
        for first in (0, 1):
            letters = layer[first::2]
            found += [letters[begin:end] for begin, end in runs(wide[first::2], TEXT_RUN)]
        yield b"\n".join(found).lower().decode("ascii")


def runs(wanted: NDArray[np.bool_], least: int) -> Iterator[tuple[int, int]]:
    """Where at least so many neighbours are wanted: first place, and the place after the last."""
    edges = np.flatnonzero(wanted[1:] != wanted[:-1]) + 1
    first, last = [0] if wanted[:1].any() else [], [wanted.size] if wanted[-1:].any() else []
    edges = np.concatenate([np.array(first, np.intp), edges, np.array(last, np.intp)])
    begins, ends = edges[::2], edges[1::2]
    long = ends - begins >= least
    return zip(begins[long].tolist(), ends[long].tolist(), strict=True)


def layers(content: bytes, depth: int = 0) -> Iterator[bytes]:
    """The bytes, then what they contain compressed or as base64, three levels deep."""
    yield content
    if depth == 3:
        return
    if content[:2] == b"\x1f\x8b" or content[:2] in (b"\x78\x01", b"\x78\x9c", b"\x78\xda"):
        try:
            yield from layers(zlib.decompressobj(47).decompress(content), depth + 1)
        except zlib.error:
            return
    else:
        values = np.frombuffer(content, dtype=np.uint8)
        for begin, end in runs(BASE64[values], BASE64_RUN):
            padded = content[begin:end] + b"=" * (-(end - begin) % 4)
            try:
                yield from layers(base64.b64decode(padded, altchars=None), depth + 1)
            except binascii.Error:
                continue
