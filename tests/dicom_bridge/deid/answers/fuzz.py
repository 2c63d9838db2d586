"""Damage: generated data sets of any shape, and real files with bytes changed or cut off."""

from __future__ import annotations

import random
import struct
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from hypothesis import strategies as st
from pydicom import dcmread
from pydicom.filebase import DicomBytesIO

from dicom_bridge.deid import Profile, Pseudonymizer, deidentify_bytes
from dicom_bridge.errors import DataRefused

MARKER = "Xqzavwky"
LONGEST_S = 10.0
SHORT_VRS = (
    *("AE", "AS", "AT", "CS", "DA", "DS", "DT", "FD", "FL", "IS", "LO", "LT", "PN", "SH", "SL"),
    *("SS", "ST", "TM", "UI", "UL", "US"),
)
LONG_VRS = ("OB", "OD", "OF", "OL", "OV", "OW", "SQ", "SV", "UC", "UN", "UR", "UT", "UV", "ZZ")
_END = struct.pack("<HHI", 0xFFFE, 0xE00D, 0)
_STOP = struct.pack("<HHI", 0xFFFE, 0xE0DD, 0)
_MARKS = (
    *(MARKER.encode(), MARKER.upper().encode(), f"{MARKER}^Eve".encode()),
    *(b"\x1b$B" + MARKER.encode(), MARKER.encode("utf-16-le"), b"", b"\\\\\\", b"\0" * 6),
    *(b"20210305", b"ISO 2022 IR 87\\ISO_IR 192", b"1.2.3.4.5", b"-1e999", b"99999999999999"),
)
_TAGS = (
    *(0x00080005, 0x00080008, 0x00080016, 0x00080018, 0x00081030, 0x0008103E, 0x00081140),
    *(0x00100010, 0x00100020, 0x00101010, 0x00180015, 0x0020000D, 0x0020000E, 0x00204000),
    *(0x00280002, 0x00280008, 0x00280010, 0x00280011, 0x00280100, 0x00280101, 0x00280102),
    *(0x00400275, 0x0040A730, 0x00089215, 0x00090010, 0x00091001, 0x00290010, 0x00291010),
    *(0x50003000, 0x60003000, 0x52009229, 0x7FE00010, 0xFFFCFFFC, 0x00020010, 0x00000000),
)


@dataclass(slots=True)
class Outcomes:
    """What became of the files: counts, and all that must not be."""

    written: int = 0
    refused: int = 0
    wrong: list[str] = field(default_factory=list)

    def take(
        self, content: bytes, secret: bytes, profile: Profile, pseudonymizer: Pseudonymizer
    ) -> None:
        """De-identify one content: a file that can be read and holds no secret, or a refusal."""
        begun = time.process_time()
        try:
            encoded = deidentify_bytes(content, profile, pseudonymizer)
        except DataRefused as refused:
            self.refused += 1
            if not str(refused) or secret.decode("latin-1").lower() in str(refused).lower():
                self.wrong.append("a refusal without reason, or one that tells")
        except Exception as error:  # edge: anything else is the defect that is looked for
            self.wrong.append(f"raised {type(error).__name__}")
        else:
            self._check(b"".join(encoded.parts), secret)
        seconds = time.process_time() - begun
        if seconds > LONGEST_S:
            self.wrong.append(f"took {seconds:.0f} s of processor time")

    def _check(self, output: bytes, secret: bytes) -> None:
        self.written += 1
        lowered = output.lower()
        wide = secret.lower().decode("latin-1").encode("utf-16-le")
        if secret.lower() in lowered or wide in lowered:
            self.wrong.append("leaked")
        try:
            after = dcmread(DicomBytesIO(output))
            for element in after.iterall():
                str(element.VR)
        except Exception as error:  # edge: an output that cannot be read is the defect
            self.wrong.append(f"wrote what cannot be read: {type(error).__name__}")
            return
        if after.get("PatientIdentityRemoved") != "YES":
            self.wrong.append("wrote a file without its record")


def mutations(content: bytes, chance: random.Random, count: int) -> Iterator[bytes]:
    """Damaged copies: bytes changed, pieces cut out, doubled, moved, lengths falsified, cut off."""
    size = len(content)
    for _ in range(count):
        damaged = bytearray(content)
        for _ in range(chance.randint(1, 4)):
            at = (
                chance.randrange(min(size, 4096))
                if chance.random() < 0.8
                else chance.randrange(size)
            )
            match chance.randrange(7):
                case 0:
                    damaged[at % len(damaged)] = chance.randrange(256)
                case 1:
                    damaged[at : at + chance.randint(1, 40)] = b""
                case 2:
                    damaged[at:at] = damaged[at : at + chance.randint(1, 400)]
                case 3:
                    damaged[at : at + 4] = struct.pack(
                        "<I", chance.choice((0, 1, 2**31, 2**32 - 1))
                    )
                case 4:
                    damaged[at : at + 2] = struct.pack("<H", chance.choice((0, 1, 0xFFFF, 0xFFFE)))
                case 5:
                    other = chance.randrange(size)
                    damaged[at : at + 64] = content[other : other + 64]
                case _:
                    del damaged[chance.randrange(len(damaged)) :]
            if len(damaged) < 2:
                break
        yield bytes(damaged)


def small_files(folder: Path, largest: int) -> list[Path]:
    """Files below a folder that are small enough to be damaged many times."""
    found = (p for p in sorted(folder.rglob("*")) if p.is_file())
    return [path for path in found if 200 < path.stat().st_size <= largest]


@st.composite
def elements(draw: Callable[..., object], depth: int = 0) -> bytes:
    """Encoded elements, explicit VR little endian: any tag, VR and value, sometimes any length."""
    parts = []
    for _ in range(int(draw(st.integers(0, 6 if depth else 12)))):  # type: ignore[call-overload]
        tag = draw(st.one_of(st.sampled_from(_TAGS), st.integers(0x00080000, 0xFFFFFFFF)))
        vr = draw(st.sampled_from((*SHORT_VRS, *LONG_VRS, "SQ", "SQ", "LO", "PN", "UN")))
        if vr == "SQ" and depth < 3:
            value = draw(_items(depth))
        else:
            value = draw(st.one_of(st.sampled_from(_MARKS), st.binary(max_size=40)))
        parts.append(_element(int(tag), str(vr), bytes(value), draw))  # type: ignore[arg-type, call-overload]
    return b"".join(sorted(parts)) if draw(st.booleans()) else b"".join(parts)


@st.composite
def _items(draw: Callable[..., object], depth: int) -> bytes:
    parts = []
    for _ in range(int(draw(st.integers(0, 2)))):  # type: ignore[call-overload]
        body = bytes(draw(elements(depth + 1)))  # type: ignore[call-overload]
        if draw(st.booleans()):
            parts.append(struct.pack("<HHI", 0xFFFE, 0xE000, len(body)) + body)
        else:
            parts.append(struct.pack("<HHI", 0xFFFE, 0xE000, 0xFFFFFFFF) + body + _END)
    return b"".join(parts)


def _element(tag: int, vr: str, value: bytes, draw: Callable[..., object]) -> bytes:
    if len(value) % 2:
        value += b" "
    lie = int(draw(st.sampled_from((0,) * 12 + (1, -1, 2, 1000, 2**31))))  # type: ignore[call-overload]
    length = max(0, len(value) + lie)
    head = struct.pack("<HH2s", tag >> 16, tag & 0xFFFF, vr.encode())
    if vr in LONG_VRS:
        if vr == "SQ" and draw(st.booleans()):
            return head + struct.pack("<HI", 0, 0xFFFFFFFF) + value + _STOP
        return head + struct.pack("<HI", 0, length & 0xFFFFFFFF) + value
    return head + struct.pack("<H", length & 0xFFFF) + value
