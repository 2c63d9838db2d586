"""Small synthetic DICOM objects, with identifiers of an invented patient where wanted."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.filewriter import dcmwrite
from pydicom.sequence import Sequence
from pydicom.uid import UID, ExplicitVRLittleEndian

from dicom_bridge.deid import Profile, Pseudonymizer

SURNAME = "Zykowiak"
MR_IMAGE = "1.2.840.10008.5.1.4.1.1.4"
BASIC = Profile.basic()


def pseudonymizer(project: str = "trial") -> Pseudonymizer:
    """A mapping with a fixed secret."""
    return Pseudonymizer(b"a secret of this test, 32 bytes!", project)


def mr_image(number: int = 1, *, study: str = "1.2.3.4", patient: str = "PAT-7731") -> Dataset:
    """A valid MR image of 32 x 24 pixels with the usual identity in its header."""
    ds = Dataset()
    ds.SpecificCharacterSet = "ISO_IR 100"
    ds.ImageType = ["ORIGINAL", "PRIMARY", "M", "ND"]
    ds.SOPClassUID, ds.SOPInstanceUID = MR_IMAGE, f"{study}.1.{number}"
    ds.StudyDate, ds.StudyTime = "20210305", "101112"
    ds.SeriesDate, ds.AcquisitionDate, ds.ContentDate = "20210305", "20210305", "20210305"
    ds.ContentTime = "101500"
    ds.AccessionNumber, ds.Modality = "ACC998877", "MR"
    ds.Manufacturer, ds.ManufacturerModelName = "SIEMENS", "Prisma_fit"
    ds.InstitutionName, ds.ReferringPhysicianName = "Hospital of Plant", "Quitschmann^Ada"
    ds.StudyDescription, ds.SeriesDescription = "MR Brain", "t1 mprage sag"
    ds.PatientName, ds.PatientID = f"{SURNAME}^Eve", patient
    ds.PatientBirthDate, ds.PatientSex, ds.PatientAge = "19640229", "F", "093Y"
    ds.PatientWeight = "71"
    ds.BodyPartExamined, ds.ScanningSequence, ds.SequenceVariant = "BRAIN", "GR", "SP"
    ds.ScanOptions, ds.MRAcquisitionType = "", "3D"
    ds.SequenceName, ds.SliceThickness = "*tfl3d1", "1"
    ds.RepetitionTime, ds.EchoTime, ds.InversionTime = "2250", "4.11", "925"
    ds.MagneticFieldStrength, ds.FlipAngle, ds.EchoTrainLength = "3", "9", "1"
    ds.DeviceSerialNumber, ds.SoftwareVersions = "167032", "syngo MR E11"
    ds.ProtocolName, ds.PatientPosition = "head protocol", "HFS"
    ds.StudyInstanceUID, ds.SeriesInstanceUID = study, f"{study}.1"
    ds.StudyID, ds.SeriesNumber, ds.InstanceNumber = "S4711", "5", str(number)
    ds.FrameOfReferenceUID, ds.PositionReferenceIndicator = f"{study}.9", ""
    ds.ImagePositionPatient, ds.ImageOrientationPatient = [0, 0, number], [1, 0, 0, 0, 1, 0]
    ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, "MONOCHROME2"
    ds.Rows, ds.Columns, ds.PixelSpacing = 24, 32, [1, 1]
    ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 16, 12, 11, 0
    ds.PixelData = pixels().tobytes()
    ds["PixelData"].VR = "OW"
    return ds


def pixels(seed: int = 3) -> np.ndarray[tuple[int, ...], np.dtype[np.uint16]]:
    """Noise of 12 bits, axes (row, column)."""
    return np.random.default_rng(seed).integers(0, 900, (24, 32), dtype=np.uint16)


def reference(*uids: str) -> Sequence:
    """References to MR images."""
    items = []
    for uid in uids:
        item = Dataset()
        item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = MR_IMAGE, uid
        items.append(item)
    return Sequence(items)


def code(value: str, scheme: str, meaning: str) -> Dataset:
    """A code item."""
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = value, scheme, meaning
    return item


def file_bytes(ds: Dataset, syntax: str = ExplicitVRLittleEndian, preamble: bytes = b"") -> bytes:
    """The data set as a PS3.10 file."""
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = ds.SOPClassUID
    meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID
    meta.TransferSyntaxUID = UID(syntax)
    ds.file_meta = meta
    ds.preamble = preamble.ljust(128, b"\0")
    buffer = io.BytesIO()
    dcmwrite(buffer, ds, enforce_file_format=True)
    return buffer.getvalue()


def write(ds: Dataset, path: Path) -> Path:
    """Write the data set as a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(file_bytes(ds))
    return path
