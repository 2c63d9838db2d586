"""Other kinds of objects and encodings: documents, projection images, compressed and deflated."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    RLELossless,
)

from dicom_bridge.deid import Option, Profile, deidentify_bytes, deidentify_dataset, deidentify_file
from dicom_bridge.deid.tree import leaks
from dicom_bridge.errors import DataRefused
from tests.dicom_bridge.deid.objects import (
    BASIC,
    SURNAME,
    code,
    file_bytes,
    mr_image,
    pseudonymizer,
    reference,
)

CLASS = "1.2.840.10008.5.1.4.1.1."
IMAGES = ("2", "4", "128", "1", "1.1", "1.2", "20", "12.1", "4.1", "2.1")
STRUCTURED = Profile.basic({Option.CLEAN_STRUCTURED_CONTENT})


def through(content: bytes, profile: Profile = BASIC) -> Dataset:
    return dcmread(io.BytesIO(b"".join(deidentify_bytes(content, profile, pseudonymizer()).parts)))


def report() -> Dataset:
    """A structured report with text, a name, a number, a date and a reference to an image."""
    ds = mr_image()
    for keyword in ("PixelData", "Rows", "Columns", "ImageType"):
        delattr(ds, keyword)
    ds.SOPClassUID, ds.Modality = f"{CLASS}88.33", "SR"
    ds.ValueType, ds.ContinuityOfContent = "CONTAINER", "SEPARATE"
    ds.CompletionFlag, ds.VerificationFlag = "COMPLETE", "VERIFIED"
    ds.ConceptNameCodeSequence = [code("126000", "DCM", f"Report on {SURNAME}")]
    observer = Dataset()
    observer.VerifyingObserverName = SURNAME
    observer.VerifyingOrganization = SURNAME
    observer.VerificationDateTime = "20210305101112"
    observer.VerifyingObserverIdentificationCodeSequence = [code("1", "99X", SURNAME)]
    ds.VerifyingObserverSequence = [observer]
    text, number, image, nested = Dataset(), Dataset(), Dataset(), Dataset()
    for item, kind in ((text, "TEXT"), (number, "NUM"), (image, "IMAGE"), (nested, "CONTAINER")):
        item.RelationshipType, item.ValueType = "CONTAINS", kind
        item.ConceptNameCodeSequence = [code("121071", "DCM", f"about {SURNAME}")]
    text.TextValue = f"{SURNAME} is well"
    measured = Dataset()
    measured.NumericValue = "12.5"
    measured.MeasurementUnitsCodeSequence = [code("ml", "UCUM", SURNAME)]
    number.MeasuredValueSequence = [measured]
    image.ReferencedSOPSequence = reference("1.2.3.4.1.1")
    nested.ContentSequence = [number]
    ds.ContentSequence = [text, image, nested]
    return ds


def test_the_content_of_a_report_becomes_one_dummy() -> None:
    after = through(file_bytes(report()))
    assert len(after.ContentSequence) == 1
    assert after.ContentSequence[0].TextValue == "REMOVED"
    assert after.VerifyingObserverSequence[0].VerifyingObserverName == "REMOVED"
    assert SURNAME not in str(after)


def test_cleaned_content_keeps_numbers_codes_and_references() -> None:
    after = through(file_bytes(report()), STRUCTURED)
    text, image, nested = after.ContentSequence
    assert text.TextValue == "REMOVED"
    assert text.ConceptNameCodeSequence[0].CodeMeaning == "Finding"
    new = pseudonymizer().uid("1.2.3.4.1.1")
    assert image.ReferencedSOPSequence[0].ReferencedSOPInstanceUID == new
    measured = nested.ContentSequence[0].MeasuredValueSequence[0]
    assert measured.NumericValue == 12.5
    assert SURNAME not in str(after)


def test_a_report_is_no_picture_of_one() -> None:
    ds = report()
    ds.ImageType = ["DERIVED", "SECONDARY", "REPORT"]
    assert through(file_bytes(ds)).Modality == "SR"


def test_words_of_the_standard_do_not_hold_back_a_patient_of_that_name() -> None:
    ds = report()
    ds.PatientName, ds.InstitutionName = "White^Brain", "SIEMENS"
    ds.ConceptNameCodeSequence = [code("389080008", "SCT", "White matter")]
    ds.SeriesDescription = "t1 Whitehead white matter of White"
    cleaned = Profile.basic({Option.CLEAN_STRUCTURED_CONTENT, Option.CLEAN_DESCRIPTORS})
    encoded = deidentify_bytes(file_bytes(ds), cleaned, pseudonymizer())
    assert not leaks(encoded)
    after = dcmread(io.BytesIO(b"".join(encoded.parts)))
    assert "hite matter" in after.ConceptNameCodeSequence[0].CodeMeaning
    assert "white" not in str(after.get("SeriesDescription")).lower()


@pytest.mark.parametrize("suffix", IMAGES)
def test_clean_images_of_many_kinds_come_out(suffix: str) -> None:
    ds = mr_image()
    ds.SOPClassUID = CLASS + suffix
    after = through(file_bytes(ds))
    assert after.PixelData == mr_image().PixelData
    assert after.SOPClassUID == ds.SOPClassUID


def test_compressed_pixels_are_decoded_for_text_and_kept_as_they_are() -> None:
    ds = mr_image()
    file_bytes(ds)
    ds.compress(RLELossless, generate_instance_uid=False)
    after = through(file_bytes(ds, RLELossless))
    assert after.file_meta.TransferSyntaxUID == RLELossless
    assert np.array_equal(
        after.pixel_array, np.frombuffer(mr_image().PixelData, "<u2").reshape(24, 32)
    )
    ds.NumberOfFrames = 3
    with pytest.raises(DataRefused, match="fewer compressed frames"):
        through(file_bytes(ds, RLELossless))


def test_deflated_data_sets_are_inflated_and_damaged_ones_refused() -> None:
    plain = file_bytes(mr_image())
    (length,) = struct.unpack_from("<I", plain, 140)
    head, body = file_bytes(mr_image(), DeflatedExplicitVRLittleEndian), plain[144 + length :]
    (length,) = struct.unpack_from("<I", head, 140)
    packer = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    deflated = packer.compress(body) + packer.flush()
    meta = head[: 144 + length]
    assert through(meta + deflated).file_meta.TransferSyntaxUID == ExplicitVRLittleEndian
    with pytest.raises(DataRefused, match="truncated"):
        through(meta + deflated[:-9])
    with pytest.raises(DataRefused, match="damaged"):
        through(meta + b"\xff" * 80)


def test_implicit_becomes_explicit_and_big_endian_is_refused() -> None:
    after = through(file_bytes(mr_image(), ImplicitVRLittleEndian))
    assert after.file_meta.TransferSyntaxUID == ExplicitVRLittleEndian
    assert after.PixelData == mr_image().PixelData
    head = bytearray(file_bytes(mr_image()))
    place = head.index(b"1.2.840.10008.1.2.1\0")
    head[place : place + 20] = b"1.2.840.10008.1.2.2\0"
    with pytest.raises(DataRefused, match="big endian"):
        through(bytes(head))
    head[place : place + 20] = b"1.2.840.10008.1.2.9\0"
    with pytest.raises(DataRefused, match="transfer syntax"):
        through(bytes(head))
    assert str(ExplicitVRBigEndian).endswith("2.2")


def test_files_that_cannot_be_read_or_are_no_data_sets(tmp_path: Path) -> None:
    with pytest.raises(DataRefused, match="cannot be read"):
        deidentify_file(tmp_path / "none.dcm", tmp_path / "out.dcm", BASIC, pseudonymizer())
    broken = Dataset()
    broken.SOPClassUID = "1.2.3"
    with pytest.raises(DataRefused):
        deidentify_dataset(broken, BASIC, pseudonymizer())
    wrong = mr_image()
    wrong.NumberOfFrames = "1"
    content = file_bytes(wrong).replace(b"IS\x02\x001 (\0\x10", b"IS\x02\x00x (\0\x10")
    with pytest.raises(DataRefused, match="cannot be de-identified: ValueError"):
        deidentify_bytes(content, BASIC, pseudonymizer())
    assert list(tmp_path.iterdir()) == []
