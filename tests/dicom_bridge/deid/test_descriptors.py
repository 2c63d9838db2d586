"""Descriptions: what examinations are called stays, what names anybody goes."""

from __future__ import annotations

import io

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom import dcmread

from dicom_bridge.deid import Option, Profile, deidentify_bytes
from dicom_bridge.deid.descriptors import clean_description
from dicom_bridge.deid.values import known_words
from tests.dicom_bridge.deid.objects import file_bytes, mr_image, pseudonymizer

CLEANED = Profile.basic({Option.CLEAN_DESCRIPTORS})


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("t1_mprage_sag_p2_iso_1.0", "t1_mprage_sag_p2_iso_1.0"),
        ("XR CHEST 2 VIEWS", "XR CHEST 2 VIEWS"),
        ("CT CHEST W/O & W/ CONTRAST", "CT CHEST W/O W/ CONTRAST"),
        ("ABD/PEL 5mm", "ABD/PEL 5mm"),
        ("AX DWI b1000", "AX DWI b1000"),
        ("fl3d_vibe_dixon_tra_W", "fl3d_vibe_dixon_tra_W"),
        ("white matter lesions", "white matter lesions"),
        ("Dr. Li Wu called +1 512 555 9087", "called"),
        ("MR Brain, Dr. Williams", "MR Brain"),
        ("AX T2 FLAIR for White", "AX T2 FLAIR for"),
        ("L5-S1 03/05/2021", "L5-S1"),
        ("10.23.4.55", ""),
        ("Müller ADC", "ADC"),
        ("P312345@example-mail.org", ""),
        ("42", ""),
    ],
)
def test_known_words_and_short_numbers_stay(text: str, kept: str) -> None:
    assert clean_description(text, known_words()) == kept


@given(st.text(max_size=60))
@settings(max_examples=200, deadline=None)
def test_cleaning_is_idempotent_and_adds_nothing(text: str) -> None:
    once = clean_description(text, known_words())
    assert clean_description(once, known_words()) == once
    assert len(once) <= len(text)


def test_only_the_patients_own_words_are_taken_out_of_a_description() -> None:
    ds = mr_image()
    ds.PatientName = "Head^Foot"
    ds.SeriesDescription, ds.StudyDescription = "T1 brain of foot", "MR Head"
    ds.SegmentDescription = "no attribute of this object"
    content = b"".join(deidentify_bytes(file_bytes(ds), CLEANED, pseudonymizer()).parts)
    after = dcmread(io.BytesIO(content))
    assert after.SeriesDescription == "T1 brain of"
    assert after.StudyDescription == "MR"
    assert "SegmentDescription" not in after


def test_text_that_the_table_does_not_name_is_cleaned_too() -> None:
    ds = mr_image()
    ds.ReceiveCoilName = "HEAD"
    ds.ImageComments = "motion artifact, Fairweather"
    item = mr_image()
    item.clear()
    item.DimensionDescriptionLabel = "x"
    after = dcmread(
        io.BytesIO(b"".join(deidentify_bytes(file_bytes(ds), CLEANED, pseudonymizer()).parts))
    )
    assert after.ImageComments == "motion artifact"
