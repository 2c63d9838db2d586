"""One surname planted in every place that is known to leak, at three nesting depths."""

from __future__ import annotations

import struct
from collections.abc import Iterator

from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from pydicom.tag import BaseTag

from tests.dicom_bridge.deid.objects import SURNAME, code, file_bytes, mr_image, reference

TEXT = f"seen by {SURNAME} today"
CODE = SURNAME.upper()

# Public attributes that nest anywhere: keyword and value.
PUBLIC: tuple[tuple[str, object], ...] = (
    ("PatientName", f"{SURNAME}^Eve"),
    ("OtherPatientNames", f"{SURNAME}^Old"),
    ("PatientBirthName", SURNAME),
    ("PatientMotherBirthName", SURNAME),
    ("PatientID", CODE),
    ("OtherPatientIDs", CODE),
    ("IssuerOfPatientID", SURNAME),
    ("PatientAddress", f"{SURNAME} street 3"),
    ("PatientTelephoneNumbers", f"{SURNAME} 555"),
    ("PatientComments", TEXT),
    ("AdditionalPatientHistory", TEXT),
    ("Occupation", SURNAME),
    ("ReferringPhysicianName", SURNAME),
    ("PerformingPhysicianName", SURNAME),
    ("NameOfPhysiciansReadingStudy", SURNAME),
    ("OperatorsName", SURNAME),
    ("PhysiciansOfRecord", SURNAME),
    ("InstitutionName", f"{SURNAME} Clinic"),
    ("InstitutionAddress", TEXT),
    ("InstitutionalDepartmentName", SURNAME),
    ("StationName", CODE),
    ("StudyDescription", TEXT),
    ("SeriesDescription", TEXT),
    ("ProtocolName", TEXT),
    ("ImageComments", TEXT),
    ("DerivationDescription", TEXT),
    ("AcquisitionComments", TEXT),
    ("RequestedProcedureDescription", TEXT),
    ("RequestedProcedureID", CODE),
    ("PerformedProcedureStepDescription", TEXT),
    ("RequestingPhysician", SURNAME),
    ("AccessionNumber", CODE),
    ("StudyID", CODE),
    ("FillerOrderNumberImagingServiceRequest", CODE),
    ("PlacerOrderNumberImagingServiceRequest", CODE),
    ("DeviceSerialNumber", CODE),
    ("RetrieveAETitle", CODE),
    ("StationAETitle", CODE),
    ("StorageMediaFileSetID", CODE),
    ("TextValue", TEXT),
    ("PersonName", SURNAME),
    ("UnformattedTextValue", TEXT),
    ("CertificateOfSigner", CODE.encode()),
    ("ClinicalTrialSubjectID", CODE),
    ("Manufacturer", f"{SURNAME} Medical"),
    ("ManufacturerModelName", SURNAME),
    ("SoftwareVersions", f"built for {SURNAME}"),
    ("SequenceName", SURNAME),
    ("ReceiveCoilName", SURNAME),
    ("TransmitCoilName", SURNAME),
    ("BodyPartExamined", CODE),
    ("ScanOptions", ["FS", CODE]),
    ("ImageType", ["ORIGINAL", "PRIMARY", CODE]),
    ("PositionReferenceIndicator", SURNAME),
    ("WindowCenterWidthExplanation", SURNAME),
    ("CodeMeaning", f"Brain of {SURNAME}"),
    ("CodeValue", CODE),
    ("CodingSchemeDesignator", f"99{CODE}"),
    ("ContentLabel", CODE),
    ("RadiopharmaceuticalRoute", SURNAME),
)
# A value representation that the dictionary does not know for the tag, unknown and private places.
ODD: tuple[tuple[int, str, object], ...] = (
    (0x00180050, "PN", SURNAME),
    (0x00280010, "LO", SURNAME),
    (0x00180087, "UN", CODE.encode()),
    (0x00181234, "LO", SURNAME),
    (0x00181235, "UN", SURNAME.encode()),
    (0x00091001, "LO", SURNAME),
    (0x00091002, "UN", SURNAME.encode()),
    (0x00091003, "PN", SURNAME),
    (0x00291010, "OB", b"SV10" + SURNAME.encode() * 2),
    (0x00291020, "OB", f"<PatientName>{SURNAME}".encode()),
    (0x50002500, "LO", SURNAME),
    (0x50003000, "OW", SURNAME.encode()),
    (0x60000022, "LO", SURNAME),
    (0x60001500, "LO", SURNAME),
    (0x60003000, "OW", SURNAME.encode()),
    (0x60004000, "LT", SURNAME),
    (0x04000305, "OB", SURNAME.encode()),
)
CREATORS = ((0x00090010, f"{SURNAME} PRIVATE"), (0x00290010, "SIEMENS CSA HEADER"))


def plants() -> Iterator[tuple[str, Dataset]]:
    """Name and an item that holds one plant, for every place that can nest."""
    for keyword, value in PUBLIC:
        item = Dataset()
        setattr(item, keyword, value)
        yield keyword, item
    for tag, vr, value in ODD:
        item = Dataset()
        encoded = value if isinstance(value, bytes) else str(value).encode()
        encoded += b" " * (len(encoded) % 2)
        item[tag] = RawDataElement(BaseTag(tag), vr, len(encoded), encoded, 0, False, True)
        for creator, name in CREATORS:
            if tag >> 16 == creator >> 16:
                item.add_new(creator, "LO", name)
        yield f"{tag:08X}", item


def planted(item: Dataset, depth: int, *, kept: bool) -> Dataset:
    """An image with the item's elements at a depth: inside sequences that stay, or that go.

    Args:
        item: what to plant.
        depth: 0 top level, 1 or 2 inside sequences.
        kept: the sequences are those that de-identification keeps.
    """
    ds = mr_image()
    if depth == 0:
        ds.update(item)
        return ds
    outer = reference("1.2.3.4.1.2")[0] if kept else Dataset()
    if depth == 1:
        outer.update(item)
    else:
        inner = code("121311", "DCM", "Localizer")
        inner.update(item)
        name = "PurposeOfReferenceCodeSequence" if kept else "ScheduledProtocolCodeSequence"
        setattr(outer, name, Sequence([inner]))
    setattr(ds, "ReferencedImageSequence" if kept else "RequestAttributesSequence", [outer])
    return ds


def outside_the_data_set() -> Iterator[tuple[str, bytes]]:
    """Name and file for plants in places around and behind the elements."""
    surname = SURNAME.encode()
    yield "preamble", file_bytes(mr_image(), preamble=surname)
    ds = mr_image()
    ds.add_new(0xFFFCFFFC, "OB", surname)
    yield "trailing padding", file_bytes(ds)
    ds = mr_image()
    ds.PixelData += surname
    yield "behind the pixels", file_bytes(ds)
    icon = Dataset()
    icon.Rows, icon.Columns, icon.PixelData = 1, len(surname), surname
    icon.BitsAllocated, icon.PixelRepresentation = 8, 0
    ds = mr_image()
    ds.IconImageSequence = [icon]
    yield "icon", file_bytes(ds)
    for tag, vr in ((0x0016, b"AE"), (0x0017, b"AE"), (0x0018, b"AE")):
        yield f"meta {tag:04X}", _with_meta(tag, vr, surname)
    yield "private meta", _with_meta(0x0102, b"OB", surname)


def _with_meta(number: int, vr: bytes, value: bytes) -> bytes:
    """A file with one more element at the end of its meta group."""
    content = file_bytes(mr_image())
    (length,) = struct.unpack_from("<I", content, 140)
    end = 144 + length
    if vr == b"OB":
        element = struct.pack("<HH2sHI", 2, number, vr, 0, len(value)) + value
    else:
        element = struct.pack("<HH2sH", 2, number, vr, len(value)) + value
    head = content[:140] + struct.pack("<I", length + len(element))
    return head + content[144:end] + element + content[end:]
