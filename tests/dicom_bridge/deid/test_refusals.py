"""Whatever cannot be decided is refused, with a reason in words and without a patient's value."""

from __future__ import annotations

import random
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom.dataset import Dataset
from pydicom.uid import ImplicitVRLittleEndian

from dicom_bridge.deid import Profile, deidentify_bytes
from dicom_bridge.deid.glyphs import has_text
from dicom_bridge.deid.pixels import clean_fragments
from dicom_bridge.errors import DataRefused
from tests.dicom_bridge.deid.objects import BASIC, SURNAME, file_bytes, mr_image, pseudonymizer

FONT = {"O": "0E11111111110E", "X": "11110A040A1111", "H": "1111111F111111"}


def refuse(ds: Dataset, profile: Profile = BASIC) -> str:
    with pytest.raises(DataRefused) as refused:
        deidentify_bytes(file_bytes(ds), profile, pseudonymizer())
    assert SURNAME not in str(refused.value)
    return str(refused.value)


def _screen(ds: Dataset) -> None:
    ds.ImageType = ["DERIVED", "SECONDARY", "SCREEN SAVE"]


def _derived(ds: Dataset) -> None:
    ds.ImageType = ["DERIVED", "SECONDARY"]


def _annotated(ds: Dataset) -> None:
    ds.BurnedInAnnotation = "YES"


def _secondary(ds: Dataset) -> None:
    ds.SOPClassUID = "1.2.840.10008.5.1.4.1.1.7"


def _ultrasound(ds: Dataset) -> None:
    ds.SOPClassUID = "1.2.840.10008.5.1.4.1.1.6.1"


def _captured(ds: Dataset) -> None:
    ds.ConversionType = "DF"


def _document(ds: Dataset) -> None:
    ds.SOPClassUID = "1.2.840.10008.5.1.4.1.1.104.2"


def _private_class(ds: Dataset) -> None:
    ds.SOPClassUID = "1.2.276.0.1.2.3"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (_annotated, "burned-in annotation"),
        (_screen, "screen capture"),
        (_derived, "derived secondary"),
        (_secondary, "secondary capture"),
        (_ultrasound, "ultrasound"),
        (_captured, "captured or digitised"),
        (_document, "SOP class"),
        (_private_class, "SOP class"),
    ],
)
def test_images_that_may_carry_text_are_refused(
    change: Callable[[Dataset], None], words: str
) -> None:
    ds = mr_image()
    change(ds)
    assert words in refuse(ds)


def test_known_computed_images_and_trusted_captures_come_out() -> None:
    ds = mr_image()
    ds.ImageType = ["DERIVED", "SECONDARY", "ADC"]
    assert deidentify_bytes(file_bytes(ds), BASIC, pseudonymizer()).proof.sop_instance
    capture = mr_image()
    _secondary(capture)
    capture.BurnedInAnnotation = "NO"
    trusting = Profile(trust_annotation_no=True)
    assert deidentify_bytes(file_bytes(capture), trusting, pseudonymizer()).proof.sop_instance
    capture.BurnedInAnnotation = "YES"
    assert "burned-in" in refuse(capture, trusting)


def _lettered(
    shape: tuple[int, int], letters: str, value: int
) -> np.ndarray[tuple[int, int], np.dtype[np.uint16]]:
    frame = np.random.default_rng(1).integers(0, 300, shape, dtype=np.uint16)
    frame[20:50, 20:50] += 600
    for place, letter in enumerate(letters):
        for row in range(7):
            dots = int(FONT[letter][2 * row : 2 * row + 2], 16)
            for column in range(5):
                if dots >> (4 - column) & 1:
                    frame[6 + row, 6 + 6 * place + column] = value
    return frame


def test_a_line_of_letters_in_the_pixels_is_seen() -> None:
    frame = _lettered((64, 80), "HOXHOXHO", 2000)
    assert has_text(frame)
    assert not has_text(_lettered((64, 80), "HO", 2000))
    assert not has_text(_lettered((64, 80), "", 0))
    dark = (3000 - frame).astype(np.uint16)
    assert not has_text(dark)
    assert has_text(dark, dark=True)
    ds = mr_image()
    ds.Rows, ds.Columns, ds.PixelData = 64, 80, frame.tobytes()
    assert "line of letters" in refuse(ds)
    unseen = Profile(detect_text=False)
    assert deidentify_bytes(file_bytes(ds), unseen, pseudonymizer()).proof.sop_instance


def test_comments_in_compressed_pixels_are_overwritten_in_place() -> None:
    comment = SURNAME.encode()
    tail = b"\xff\xda\x00\x02data\xff\xd9"
    jpeg = b"\xff\xd8\xff\xfe" + (len(comment) + 2).to_bytes(2, "big") + comment + tail + comment
    j2k = b"\xff\x4f\xff\x64" + (len(comment) + 4).to_bytes(2, "big") + b"\0\1" + comment
    j2k += b"\xff\x90\x00\x0a\0\0\0\0\0\x12\0\1\xff\x93data" + b"\xff\xd9"
    for encoding, fragment in (("jpeg", jpeg), ("j2k", j2k)):
        spans = [(0, 0), (0, len(fragment))]
        _, cleaned = clean_fragments(fragment, spans, encoding)
        assert len(cleaned) == len(fragment)
        assert comment not in cleaned
        assert b"data" in cleaned
    with pytest.raises(DataRefused, match="does not begin"):
        clean_fragments(b"no image", [(0, 0), (0, 8)], "jpeg")


CONTENT = file_bytes(mr_image())
IMPLICIT = file_bytes(mr_image(), ImplicitVRLittleEndian)


@pytest.mark.parametrize("content", [CONTENT, IMPLICIT], ids=["explicit", "implicit"])
def test_every_truncation_is_refused(content: bytes) -> None:
    assert deidentify_bytes(content, BASIC, pseudonymizer()).proof.sop_instance
    for length in [*range(0, len(content), 7), len(content) - 1]:
        with pytest.raises(DataRefused):
            deidentify_bytes(content[:length], BASIC, pseudonymizer())


def _outcome(content: bytes) -> tuple[bytes, bytes]:
    """What was said and what came out."""
    try:
        return b"", b"".join(deidentify_bytes(content, BASIC, pseudonymizer()).parts)
    except DataRefused as refused:
        return str(refused).encode(), b""


def test_damaged_bytes_are_refused_or_leak_nothing() -> None:
    chance = random.Random(7)
    name = SURNAME.encode()
    for _ in range(400):
        damaged = bytearray(CONTENT)
        for _ in range(chance.randint(1, 6)):
            damaged[chance.randrange(132, 1400)] = chance.randrange(256)
        said, came_out = _outcome(bytes(damaged))
        assert name not in said
        assert name not in came_out


@given(st.binary(max_size=300))
@settings(max_examples=80, deadline=None)
def test_any_bytes_end_in_a_refusal(noise: bytes) -> None:
    with pytest.raises(DataRefused):
        deidentify_bytes(CONTENT[:340] + noise, BASIC, pseudonymizer())


def test_hostile_structure_is_refused() -> None:
    head = CONTENT[: CONTENT.index(b"\x08\x00\x05\x00CS")]
    nested = b"\x40\x00\x75\x02SQ\0\0\xff\xff\xff\xff\xfe\xff\x00\xe0\xff\xff\xff\xff"
    for body in (nested * 5000, b"\x08\x00\x05\x00ZZ\0\0", CONTENT[len(head) :] * 2):
        with pytest.raises(DataRefused):
            deidentify_bytes(head + body, BASIC, pseudonymizer())
