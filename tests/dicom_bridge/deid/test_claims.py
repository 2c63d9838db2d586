"""What an object says of its de-identification is what ran on it; documents and private blocks."""

from __future__ import annotations

import io

import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.uid import ImplicitVRLittleEndian

from dicom_bridge.deid import Option, Profile, deidentify_bytes
from dicom_bridge.deid.private import safe_blocks
from dicom_bridge.deid.profile import Documents
from dicom_bridge.errors import DataRefused
from tests.dicom_bridge.deid.objects import BASIC, SURNAME, file_bytes, mr_image, pseudonymizer

EVERYTHING = Profile.basic(
    {
        *(Option.CLEAN_DESCRIPTORS, Option.CLEAN_GRAPHICS, Option.CLEAN_STRUCTURED_CONTENT),
        *(Option.RETAIN_MODIFIED_DATES, Option.RETAIN_SAFE_PRIVATE, Option.RETAIN_UIDS),
    }
)
SAFE = Profile.basic({Option.RETAIN_SAFE_PRIVATE})


def out(content: bytes, profile: Profile) -> Dataset:
    return dcmread(io.BytesIO(b"".join(deidentify_bytes(content, profile, pseudonymizer()).parts)))


def codes(ds: Dataset) -> set[str]:
    return {item.CodeValue for item in ds.DeidentificationMethodCodeSequence}


def test_only_options_that_decided_about_an_element_are_claimed() -> None:
    ds = mr_image()
    after = out(file_bytes(ds), EVERYTHING)
    assert codes(after) == {"113100", "113105", "113107", "113110"}
    assert after.LongitudinalTemporalInformationModified == "MODIFIED"
    ds.add_new(0x00190010, "LO", "SIEMENS MR HEADER")
    ds.add_new(0x0019100C, "IS", "1000")
    assert codes(out(file_bytes(ds), EVERYTHING)) == codes(after) | {"113111"}
    for keyword in ("StudyDescription", "SeriesDescription", "ProtocolName"):
        setattr(ds, keyword, SURNAME)
    for element in list(ds):
        if element.VR in ("DA", "TM", "DT"):
            del ds[element.tag]
    bare = out(file_bytes(ds), EVERYTHING)
    assert codes(bare) == {"113100", "113110", "113111"}
    assert bare.LongitudinalTemporalInformationModified == "REMOVED"


def test_the_proof_says_the_same_as_the_object() -> None:
    encoded = deidentify_bytes(file_bytes(mr_image()), EVERYTHING, pseudonymizer())
    after = dcmread(io.BytesIO(b"".join(encoded.parts)))
    assert set(encoded.proof.codes) == codes(after)
    assert encoded.proof.profile_hash.startswith(str(after.DeidentificationMethod)[-16:])
    assert all(len(letter) == 1 for letter in encoded.proof.actions if letter != "found")


def test_full_dates_are_called_unmodified_and_claims_of_the_source_go() -> None:
    ds = mr_image()
    ds.PatientIdentityRemoved, ds.DeidentificationMethod = "NO", f"by {SURNAME}"
    ds.LongitudinalTemporalInformationModified = "REMOVED"
    after = out(file_bytes(ds), Profile.basic({Option.RETAIN_FULL_DATES}))
    assert codes(after) == {"113100", "113106"}
    assert after.LongitudinalTemporalInformationModified == "UNMODIFIED"
    assert after.PatientIdentityRemoved == "YES"
    assert SURNAME not in str(after)


def pdf() -> Dataset:
    """An encapsulated PDF with a name in everything."""
    ds = mr_image()
    for keyword in ("PixelData", "Rows", "Columns", "ImageType"):
        delattr(ds, keyword)
    ds.SOPClassUID, ds.Modality = "1.2.840.10008.5.1.4.1.1.104.1", "DOC"
    ds.BurnedInAnnotation, ds.ConversionType = "YES", "WSD"
    ds.DocumentTitle, ds.MIMETypeOfEncapsulatedDocument = f"About {SURNAME}", "application/pdf"
    ds.EncapsulatedDocument = f"%PDF-1.4 letter about {SURNAME}".encode()
    ds.EncapsulatedDocumentLength = len(ds.EncapsulatedDocument)
    ds.ConceptNameCodeSequence = []
    return ds


def test_a_document_is_replaced_by_an_empty_one() -> None:
    encoded = deidentify_bytes(file_bytes(pdf()), BASIC, pseudonymizer())
    content = b"".join(encoded.parts)
    assert SURNAME.lower().encode() not in content.lower()
    after = dcmread(io.BytesIO(content))
    document = after.EncapsulatedDocument[: after.EncapsulatedDocumentLength]
    assert document.startswith(b"%PDF-1.4")
    assert document.endswith(b"%%EOF\n")
    place = int(document.split(b"startxref\n")[1].split()[0])
    assert document[place : place + 4] == b"xref"
    for line, entry in enumerate(document[place:].split(b"\n")[3:9], 1):
        assert document[int(entry[:10]) :].startswith(b"%d 0 obj" % line)
    assert after.MIMETypeOfEncapsulatedDocument == "application/pdf"
    assert (after.BurnedInAnnotation, after.DocumentTitle) == ("NO", "")
    assert codes(after) == {"113100"}
    assert encoded.proof.actions["D"] >= 3
    again = out(content, BASIC)
    assert again.EncapsulatedDocument == after.EncapsulatedDocument


def test_documents_can_be_refused_and_must_be_there() -> None:
    with pytest.raises(DataRefused, match="profile refuses documents"):
        out(file_bytes(pdf()), Profile(documents=Documents.REFUSE))
    empty = pdf()
    del empty.EncapsulatedDocument
    with pytest.raises(DataRefused, match="no document"):
        out(file_bytes(empty), BASIC)


@pytest.mark.parametrize(
    ("suffix", "words"),
    [("9.1.1", "waveforms"), ("66", "raw data"), ("77.1.4", "visible light"), ("104.2", "PDF")],
)
def test_other_kinds_are_refused_in_words(suffix: str, words: str) -> None:
    ds = mr_image()
    ds.SOPClassUID = f"1.2.840.10008.5.1.4.1.1.{suffix}"
    with pytest.raises(DataRefused, match=words):
        out(file_bytes(ds), BASIC)


def test_safe_private_numbers_survive_implicit_encoding_with_their_own_vr() -> None:
    ds = mr_image()
    ds.add_new(0x20050010, "LO", "Philips MR Imaging DD 001")
    ds.add_new(0x2005100E, "FL", 0.25)
    ds.add_new(0x2005100F, "LO", SURNAME)
    ds.add_new(0x20010010, "LO", "Philips Imaging DD 001")
    ds.add_new(0x20011003, "FL", 1000.0)
    ds.add_new(0x2001105F, "SQ", [mr_image()])
    after = out(file_bytes(ds, ImplicitVRLittleEndian), SAFE)
    assert (after[0x2005100E].VR, after[0x2005100E].value) == ("FL", 0.25)
    assert after[0x20011003].value == 1000.0
    private = [int(e.tag) for e in after if e.tag.is_private]
    assert private == [0x20010010, 0x20011003, 0x20050010, 0x2005100E]


def test_what_the_sender_declares_safe_is_not_believed() -> None:
    ds = mr_image()
    ds.add_new(0x00110010, "LO", "ACME 1")
    ds.add_new(0x00111001, "LO", SURNAME)
    block = Dataset()
    block.PrivateGroupReference, block.PrivateCreatorReference = 0x0011, "ACME 1"
    block.BlockIdentifyingInformationStatus = "SAFE"
    ds.PrivateDataElementCharacteristicsSequence = [block]
    after = out(file_bytes(ds), SAFE)
    assert not [e for e in after if e.tag.is_private]
    assert "PrivateDataElementCharacteristicsSequence" not in after


def test_the_safe_list_holds_closed_forms_only() -> None:
    blocks = safe_blocks()
    assert sum(len(block) for block in blocks.values()) == 353
    vrs = {vr for block in blocks.values() for vr in block.values()}
    assert vrs == {
        b"IS",
        b"DS",
        b"FL",
        b"FD",
        b"US",
        b"SS",
        b"UL",
        b"SL",
        b"AT",
        b"CS",
        b"LO",
        b"SH",
    }
    texts = [vr for block in blocks.values() for vr in block.values() if vr in (b"LO", b"SH")]
    assert len(texts) == 5
