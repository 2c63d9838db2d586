"""Public sets with planted identity: burned-in text is held back, nothing of a header stays."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset

from dicom_bridge.deid import (
    Identifiers,
    Option,
    Profile,
    deidentify_bytes,
    deidentify_dataset,
    search_bytes,
)
from dicom_bridge.errors import DataRefused
from tests.dicom_bridge.deid.objects import pseudonymizer
from tests.tools import shared_dir

# The most open profile there is: captures of unknown making come out where no text is seen.
OPEN = Profile(frozenset({Option.CLEAN_DESCRIPTORS}), trust_text_detection=True)
PIXELS = 65536


def public(name: str) -> Path:
    return shared_dir("data", "phi", *name.split("/"))


def words(ds: Dataset) -> set[str]:
    """Names of the header that no later value may hold."""
    return {
        part.lower()
        for keyword in ("PatientName", "ReferringPhysicianName", "OperatorsName")
        for part in str(ds.get(keyword, "")).replace("^", " ").replace(",", " ").split()
        if len(part) > 3 and part.isalpha()
    }


@pytest.mark.parametrize("name", ["0_ORIGINAL_compressed", "2_ORIGINAL"])
def test_text_in_the_pixels_holds_an_image_back_even_by_the_most_open_profile(name: str) -> None:
    content = public(f"pseudo_phi/{name}.dcm").read_bytes()
    with pytest.raises(DataRefused, match="line of letters"):
        deidentify_bytes(content, OPEN, pseudonymizer())


@pytest.mark.parametrize(
    "name",
    [
        "pseudo_phi/RGB_ORIGINAL.dcm",
        "fictional_names_ct/ctbrain1.dcm",
        "fictional_names_ct/ctbrain2.dcm",
        "dicom_cookies/image2.dcm",
        "dicom_cookies/image6.dcm",
    ],
)
def test_pictures_without_text_come_out_without_the_identity_of_their_headers(name: str) -> None:
    content = public(name).read_bytes()
    encoded = deidentify_bytes(content, OPEN, pseudonymizer())
    before = dcmread(io.BytesIO(content))
    header = b"".join(bytes(p) for p in encoded.parts if len(p) < PIXELS)
    known = Identifiers.from_datasets([before]) | encoded.identifiers
    assert search_bytes(header + b"\0", known) == []
    for word in words(before):
        assert word.encode() not in header.lower()
    after = dcmread(io.BytesIO(b"".join(encoded.parts)))
    assert np.array_equal(before.pixel_array, after.pixel_array)


@pytest.mark.parametrize("name", ["0_ORIGINAL_no_pixels", "2_ORIGINAL", "0_ORIGINAL_compressed"])
def test_names_in_free_text_of_headers_go_and_the_clinical_words_stay(name: str) -> None:
    before = dcmread(public(f"pseudo_phi/{name}.dcm"), stop_before_pixels=True)
    assert any(word in str(before.StudyDescription).lower() for word in words(before))
    after = deidentify_dataset(before, OPEN, pseudonymizer()).dataset
    assert str(after.StudyDescription).startswith("XR CHEST AP PORTABLE")
    text = str(after).lower()
    assert not [word for word in words(before) if word in text]
    assert str(before.PatientID).lower() not in text
    assert str(before.PatientBirthDate) not in text
