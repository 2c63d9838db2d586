"""MR, CT and PET images of single frames."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset

from tests.dicom_bridge.deid.answers.key import Answer
from tests.dicom_bridge.deid.answers.modules import Slot, Words, plant_common
from tests.dicom_bridge.deid.answers.planter import Planter

MR_CLASS = "1.2.840.10008.5.1.4.1.1.4"
CT_CLASS = "1.2.840.10008.5.1.4.1.1.2"
PET_CLASS = "1.2.840.10008.5.1.4.1.1.128"
ROWS, COLUMNS = 64, 80
_MR_WORDS = (
    Words(
        "MRI BRAIN W/WO CONTRAST",
        "AX T2 FLAIR",
        "Brain MS protocol",
        "BRAIN",
        "SIEMENS",
        "Skyra",
        "headache, rule out multiple sclerosis",
    ),
    Words(
        "MR Brain",
        "SAG T1 MPRAGE",
        "t1_mprage_sag_p2_iso",
        "HEAD",
        "SIEMENS",
        "Prisma_fit",
        "follow up of white matter lesions",
    ),
    Words(
        "MR PROSTATE",
        "AX T2 TSE",
        "Prostate 3T",
        "PROSTATE",
        "Philips Medical Systems",
        "Ingenia",
        "elevated PSA",
    ),
    Words(
        "MRI Lumbar Spine without contrast",
        "COR STIR",
        "Spine lumbar routine",
        "LSPINE",
        "GE MEDICAL SYSTEMS",
        "SIGNA Premier",
        "low back pain",
    ),
    Words(
        "MRI KNEE LEFT",
        "SAG PD FS 3mm",
        "Knee routine",
        "KNEE",
        "GE MEDICAL SYSTEMS",
        "DISCOVERY MR750",
        "pain after injury",
    ),
    Words(
        "Neuro Tumor",
        "AX DWI b1000",
        "ep2d_diff_3scan_trace",
        "BRAIN",
        "SIEMENS",
        "Vida",
        "glioma, status post resection",
    ),
)
_CT_WORDS = (
    Words(
        "CT CHEST W CONTRAST",
        "AXIAL LUNG 1.0",
        "Chest routine",
        "CHEST",
        "GE MEDICAL SYSTEMS",
        "Revolution CT",
        "cough, pulmonary nodule",
    ),
    Words(
        "CT ABDOMEN AND PELVIS WITH CONTRAST",
        "ABD/PEL 5mm",
        "Abdomen Pelvis",
        "ABDOMEN",
        "SIEMENS",
        "SOMATOM Force",
        "abdominal pain, rule out appendicitis",
    ),
    Words(
        "CT Head without contrast",
        "HEAD STD",
        "Head routine",
        "HEAD",
        "TOSHIBA",
        "Aquilion ONE",
        "fall, rule out hemorrhage",
    ),
    Words(
        "CTA Neck",
        "ANGIO 0.75 mm",
        "Carotid angio",
        "NECK",
        "Philips",
        "iCT 256",
        "stroke symptoms",
    ),
)
_PET_WORDS = (
    Words(
        "PET CT WHOLE BODY FDG",
        "PET WB AC",
        "Whole body PET",
        "WHOLEBODY",
        "SIEMENS",
        "Biograph128_mCT",
        "staging of lymphoma",
    ),
    Words(
        "NM PET Tumor Imaging",
        "WB 3D MAC",
        "PET tumor",
        "CHEST",
        "GE MEDICAL SYSTEMS",
        "Discovery 690",
        "lung cancer, restaging",
    ),
)


def anatomy(slot: Slot, rows: int = ROWS, columns: int = COLUMNS) -> NDArray[np.uint16]:
    """A bright ellipse with smooth structures and noise, 12 bits, axes (row, column)."""
    seed = slot.chance.randrange(2**32)
    random = np.random.default_rng(seed)
    y, x = np.mgrid[-1 : 1 : rows * 1j, -1 : 1 : columns * 1j]
    body = ((x / 0.8) ** 2 + (y / 0.9) ** 2) < 1
    wave = 300 * np.cos(4 * x + random.uniform(0, 3)) * np.cos(3 * y + random.uniform(0, 3))
    image = body * (1100 + wave) + random.normal(40, 12, (rows, columns))
    return np.clip(image, 0, 4095).astype(np.uint16)


def make_mr(slot: Slot) -> Answer:
    """A spin echo or gradient echo image."""
    answer = Answer("MR", "clean", _empty())
    words = _MR_WORDS[(slot.person.study_day.day + slot.series) % len(_MR_WORDS)]
    p = plant_common(answer, MR_CLASS, "MR", slot, words)
    p.keep(ImageType=["ORIGINAL", "PRIMARY", "M", "ND"])
    p.keep(ScanningSequence="IR", SequenceVariant="SK", MRAcquisitionType="2D")
    p.keep(RepetitionTime="6000", EchoTime="394", InversionTime="2200", EchoTrainLength="1")
    p.keep(MagneticFieldStrength="3", FlipAngle="120", SequenceName="*tir2d1_16")
    p.keep(ImagingFrequency="123.25", ImagedNucleus="1H", PixelBandwidth="781")
    p.put(ScanOptions="")
    p.hide(
        "ReceiveCoilName",
        f"Coil {slot.person.doctor_family}",
        "A",
        "not listed: text",
        slot.person.doctor_family,
    )
    _plane(p, slot)
    _pixels(p, anatomy(slot))
    p.private(0x0019, "SIEMENS MR HEADER", 0x0C, "IS", "1000")
    p.private(0x0019, "SIEMENS MR HEADER", 0x7A, "LO", slot.person.ssn, hipaa="G")
    p.text("ImageComments", "motion artifact", ("A", slot.person.operator_family), form="{} ({})")
    if slot.instance % 2 == 0:
        answer.syntax = "1.2.840.10008.1.2"
    return answer


def make_ct(slot: Slot) -> Answer:
    """An axial CT image."""
    answer = Answer("CT", "clean", _empty())
    words = _CT_WORDS[slot.person.study_day.day % len(_CT_WORDS)]
    p = plant_common(answer, CT_CLASS, "CT", slot, words)
    p.keep(ImageType=["ORIGINAL", "PRIMARY", "AXIAL"])
    p.keep(KVP="120", XRayTubeCurrent="210", ExposureTime="500", ConvolutionKernel="Br40")
    p.keep(AcquisitionNumber="3", GantryDetectorTilt="0", ReconstructionDiameter="400")
    p.keep(RescaleIntercept="-1024", RescaleSlope="1", RescaleType="HU")
    p.keep(WindowCenter="40", WindowWidth="400")
    p.uid(IrradiationEventUID=slot.person.uid(7, 1))
    p.text("AcquisitionProtocolDescription", words.protocol, ("B", slot.person.town))
    p.text("ContrastBolusAgent", "Iohexol", ("R", slot.person.other_number))
    p.hide("DetectorID", f"DET-{slot.person.serial}", "M", "X/D")
    _plane(p, slot)
    _pixels(p, anatomy(slot))
    p.hide(
        "ImageComments",
        f"call {slot.person.doctor_family}",
        "A",
        "C clean descriptors",
        slot.person.doctor_family,
    )
    return answer


def make_pet(slot: Slot) -> Answer:
    """An attenuation-corrected FDG image."""
    answer = Answer("PET", "clean", _empty())
    words = _PET_WORDS[slot.person.study_day.day % len(_PET_WORDS)]
    p = plant_common(answer, PET_CLASS, "PT", slot, words)
    p.keep(ImageType=["ORIGINAL", "PRIMARY"])
    p.keep(Units="BQML", CountsSource="EMISSION", SeriesType=["WHOLE BODY", "IMAGE"])
    p.keep(DecayCorrection="START", CollimatorType="NONE", NumberOfSlices=12)
    p.keep(CorrectedImage=["DECY", "ATTN", "SCAT"], AttenuationCorrectionMethod="CT")
    p.keep(FrameReferenceTime="120000", ActualFrameDuration="180000", ImageIndex=1)
    p.keep(RescaleIntercept="0", RescaleSlope="1.2", DecayFactor="1.01")
    dose = p.item("RadiopharmaceuticalInformationSequence")
    dose.code("RadionuclideCodeSequence", "C-111A1", "SRT", "^18^Fluorine")
    dose.keep(RadionuclideTotalDose="370000000", RadionuclideHalfLife="6586.2")
    dose.keep(Radiopharmaceutical="Fluorodeoxyglucose")
    dose.date(RadiopharmaceuticalStartDateTime=f"{slot.person.day()}091500")
    p.put(PatientOrientationCodeSequence=[], PatientGantryRelationshipCodeSequence=[])
    orientation = p.item("PatientOrientationCodeSequence")
    orientation.code("PatientOrientationModifierCodeSequence", "40199007", "SCT", "Supine")
    orientation.keep(CodeValue="102538003", CodingSchemeDesignator="SCT", CodeMeaning="recumbent")
    p.code("PatientGantryRelationshipCodeSequence", "102540008", "SCT", "headfirst")
    p.date(AcquisitionDate=slot.person.day())
    p.present("K modified dates", AcquisitionTime="103000")
    _plane(p, slot)
    _pixels(p, anatomy(slot), stored=16)
    p.private(0x7053, "Philips PET Private Group", 0x00, "DS", "0.000423")
    p.private(0x7053, "Philips PET Private Group", 0x03, "ST", slot.person.mail, hipaa="F")
    return answer


def _empty() -> Dataset:
    return Dataset()


def _plane(p: Planter, slot: Slot) -> None:
    p.keep(ImagePositionPatient=[-40.0, -32.0, 5.0 * slot.instance])
    p.keep(ImageOrientationPatient=[1.0, 0.0, 0.0, 0.0, 1.0, 0.0])
    p.keep(PixelSpacing=[1.0, 1.0], SliceThickness="5")
    if p.ds.Modality != "PT":
        p.keep(PatientPosition="HFS")
    p.uid(FrameOfReferenceUID=slot.frame_uid)
    p.put(PositionReferenceIndicator="")
    p.date(ContentDate=slot.person.day())
    p.present("K modified dates", ContentTime="101520")
    reference = p.item("ReferencedImageSequence")
    reference.keep(ReferencedSOPClassUID=p.ds.SOPClassUID)
    reference.uid("U*", ReferencedSOPInstanceUID=slot.person.uid(1, slot.series, 99))
    reference.code("PurposeOfReferenceCodeSequence", "121311", "DCM", "Localizer")


def _pixels(p: Planter, image: NDArray[np.uint16], stored: int = 12) -> None:
    p.keep(SamplesPerPixel=1, PhotometricInterpretation="MONOCHROME2")
    p.keep(Rows=image.shape[0], Columns=image.shape[1], BitsAllocated=16)
    p.keep(BitsStored=stored, HighBit=stored - 1, PixelRepresentation=0)
    p.ds.PixelData = image.tobytes()
    p.ds["PixelData"].VR = "OW"
    p.pixels()
