"""Default deny: a planted surname comes out of no place at no depth."""

from __future__ import annotations

import io

import numpy as np
import pytest
from pydicom import dcmread

from dicom_bridge.deid import Identifiers, Option, Profile, deidentify_bytes, search_bytes
from dicom_bridge.errors import DataRefused
from tests.dicom_bridge.deid.objects import BASIC, SURNAME, file_bytes, mr_image, pseudonymizer
from tests.dicom_bridge.deid.plant import outside_the_data_set, planted, plants

WANTED = Identifiers(names=frozenset({SURNAME.lower()}))
PLANTS = dict(plants())
OUTSIDE = dict(outside_the_data_set())
GENEROUS = Profile.basic(
    {
        *(Option.CLEAN_DESCRIPTORS, Option.CLEAN_STRUCTURED_CONTENT, Option.CLEAN_GRAPHICS),
        *(Option.RETAIN_MODIFIED_DATES, Option.RETAIN_PATIENT_CHARACTERISTICS),
        *(Option.RETAIN_DEVICE_IDENTITY, Option.RETAIN_SAFE_PRIVATE),
    }
)


def out(content: bytes, profile: Profile = BASIC) -> bytes:
    return b"".join(deidentify_bytes(content, profile, pseudonymizer()).parts)


def leaked(content: bytes) -> bool:
    low = content.lower()
    name = SURNAME.lower()
    return name.encode() in low or name.encode("utf-16-le") in low


def test_there_are_more_than_sixty_places() -> None:
    assert len(PLANTS) + len(OUTSIDE) >= 61


def test_the_search_finds_every_plant_before_anything_is_removed() -> None:
    for name, item in PLANTS.items():
        content = file_bytes(planted(item, 0, kept=True))
        assert leaked(content), name
        assert search_bytes(content, WANTED), name
    for name, content in OUTSIDE.items():
        assert leaked(content), name


@pytest.mark.parametrize("profile", [BASIC, GENEROUS], ids=["basic", "with options"])
@pytest.mark.parametrize("kept", [True, False], ids=["in kept", "in removed"])
@pytest.mark.parametrize("depth", [0, 1, 2])
def test_no_plant_comes_out(depth: int, kept: bool, profile: Profile) -> None:
    for name, item in PLANTS.items():
        if depth == 0 and name == "00280010":
            continue  # refused: see below
        content = out(file_bytes(planted(item, depth, kept=kept)), profile)
        assert not leaked(content), f"{name} at depth {depth}"


def test_all_plants_at_once_leave_a_readable_image() -> None:
    ds = mr_image()
    for name, item in PLANTS.items():
        if name not in ("00280010", "ImageType"):
            ds.update(item)
    content = out(file_bytes(ds))
    assert not leaked(content)
    back = dcmread(io.BytesIO(content))
    assert back.pixel_array.tobytes() == mr_image().PixelData
    assert back.EchoTime == 4.11


@pytest.mark.parametrize("name", OUTSIDE)
def test_nothing_around_the_elements_comes_out(name: str) -> None:
    content = out(OUTSIDE[name])
    assert not leaked(content)
    assert dcmread(io.BytesIO(content)).pixel_array.tobytes() == mr_image().PixelData


def test_unused_bits_of_pixels_are_cleared() -> None:
    ds = mr_image()
    stored = np.frombuffer(ds.PixelData, dtype="<u2")
    hidden = stored | (np.arange(stored.size, dtype="<u2") % 16 << 12)
    ds.PixelData = hidden.astype("<u2").tobytes()
    back = dcmread(io.BytesIO(out(file_bytes(ds))))
    assert np.array_equal(np.frombuffer(back.PixelData, dtype="<u2"), stored)


def test_a_rows_element_of_another_form_is_refused_not_guessed() -> None:
    with pytest.raises(DataRefused, match="pixel") as refused:
        out(file_bytes(planted(PLANTS["00280010"], 0, kept=True)))
    assert SURNAME not in str(refused.value)
