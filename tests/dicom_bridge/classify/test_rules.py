from __future__ import annotations

import pydicom
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from pydicom.uid import (
    CTImageStorage,
    EnhancedMRImageStorage,
    MRImageStorage,
    RTStructureSetStorage,
    SecondaryCaptureImageStorage,
)

from dicom_bridge.classify import SeriesKind, classify_series

K = SeriesKind


def header(**values: object) -> Dataset:
    dataset = Dataset()
    base: dict[str, object] = {
        "SOPClassUID": MRImageStorage,
        "Modality": "MR",
        "ImageType": ["ORIGINAL", "PRIMARY", "M", "ND"],
        "ImageOrientationPatient": [1, 0, 0, 0, 1, 0],
    }
    for keyword, value in {**base, **values}.items():
        if value is not None:
            setattr(dataset, keyword, value)
    return dataset


def mr(te: float, tr: float, ti: float | None = None, **values: object) -> Dataset:
    return header(EchoTime=te, RepetitionTime=tr, InversionTime=ti, **values)


SE, GR, IR, EP = "SE", "GR", ["SE", "IR"], "EP"

# Echo, repetition and inversion times of common protocols, without any description.
PHYSICS = [
    (mr(90, 9000, 2500, ScanningSequence=IR), K.FLAIR, "Siemens 2D FLAIR"),
    (mr(394, 5000, 1800, ScanningSequence=IR), K.FLAIR, "Siemens 3D SPACE FLAIR"),
    (mr(120, 11000, 2800, ScanningSequence="IR"), K.FLAIR, "Philips 2D FLAIR"),
    (mr(117, 8000, 2250, ScanningSequence=["SE", "IR"]), K.FLAIR, "GE CUBE FLAIR"),
    (mr(194.4, 4000, 1400, ScanningSequence=IR), K.FLAIR, "64 mT FLAIR"),
    (mr(2.98, 2300, 900, ScanningSequence=["GR", "IR"], FlipAngle=9), K.T1W, "MPRAGE"),
    (mr(3.2, 8.2, 450, ScanningSequence="GR", FlipAngle=12), K.T1W, "BRAVO"),
    (mr(3.8, 8.2, None, ScanningSequence="GR", FlipAngle=8), K.T1W, "Philips TFE"),
    (mr(24, 2000, 860, ScanningSequence=["SE", "IR"]), K.T1W, "T1 FLAIR"),
    (mr(9, 550, None, ScanningSequence=SE), K.T1W, "spin echo T1"),
    (mr(2.5, 250, None, ScanningSequence=GR, FlipAngle=70), K.T1W, "FLASH 2D"),
    (mr(100, 5000, None, ScanningSequence=SE), K.T2W, "TSE T2"),
    (mr(408, 3200, None, ScanningSequence=SE), K.T2W, "SPACE T2"),
    (mr(20, 3000, None, ScanningSequence=SE), K.PDW, "proton density"),
    (mr(50, 5000, 150, ScanningSequence=IR), K.OTHER, "STIR"),
    (mr(20, 600, None, ScanningSequence=GR, FlipAngle=20), K.OTHER, "T2*"),
    (mr(30, 2000, None, ScanningSequence=["EP", "GR"], FlipAngle=80), K.BOLD, "EPI"),
    (mr(80, 5000, None, ScanningSequence=EP), K.DWI, "spin echo EPI"),
]


@pytest.mark.parametrize(("dataset", "kind", "name"), PHYSICS, ids=[row[2] for row in PHYSICS])
def test_times_alone_name_the_contrast(dataset: Dataset, kind: SeriesKind, name: str) -> None:
    found = classify_series([dataset])
    assert found.kind is kind
    # Echo-planar images of several kinds share their times: believed, not sworn to.
    assert found.confidence >= (0.7 if "EP" in str(dataset.ScanningSequence) else 0.9)


NAMES = [
    ("Ax T2 FLAIR", K.FLAIR),
    ("t2_tirm_tra_dark-fluid", K.FLAIR),
    ("SAG 3D FLAIR_fs", K.FLAIR),
    ("sT1W_3D_TFE", K.T1W),
    ("T1_MPRAGE_sag", K.T1W),
    ("AX T1 FLAIR", K.T1W),
    ("t1_mprage_sag post Gd", K.T1W_CE),
    ("T1 +C", K.T1W_CE),
    ("AX T1 PRE GAD", K.T1W),
    ("T2W_TSE", K.T2W),
    ("pd_tse", K.PDW),
    ("ep2d_diff_3scan_trace_ADC", K.ADC),
    ("ep2d_diff_4scan_trace", K.DWI),
    ("SWI_Images", K.SWI),
    ("3-plane loc", K.LOCALISER),
    ("AAHead_Scout", K.LOCALISER),
    ("Survey", K.LOCALISER),
    ("rest bold", K.BOLD),
    ("TOF_3D", K.OTHER),
    ("STIR cor", K.OTHER),
    ("something else", K.OTHER),
]


@pytest.mark.parametrize(("name", "kind"), NAMES)
def test_names_alone(name: str, kind: SeriesKind) -> None:
    found = classify_series([header(SeriesDescription=name)])
    assert found.kind is kind, found


def test_agreement_contradiction_and_silence_change_the_confidence() -> None:
    flair = mr(90, 9000, 2500, ScanningSequence=IR)
    silent = classify_series([flair])
    flair.SeriesDescription = "FLAIR axial"
    agreeing = classify_series([flair])
    flair.SeriesDescription = "T1 axial"
    contradicting = classify_series([flair])
    named = classify_series([header(SeriesDescription="FLAIR")])
    assert agreeing.confidence > silent.confidence > named.confidence > contradicting.confidence
    assert contradicting.confidence < 0.6
    assert contradicting.kind is K.FLAIR
    assert "against-name" in contradicting.rule


SPECIAL = [
    (header(ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"]), K.LOCALISER),
    (header(ImageType=["DERIVED", "SECONDARY", "MPR"]), K.DERIVED),
    (header(ImageType=["DERIVED", "PRIMARY", "PROJECTION IMAGE", "MIP"]), K.DERIVED),
    (header(ImageType=["DERIVED", "PRIMARY", "DIFFUSION", "ADC"]), K.ADC),
    (header(ImageType=["DERIVED", "PRIMARY", "DIFFUSION", "TRACEW"]), K.DWI),
    (header(ImageType=["ORIGINAL", "PRIMARY", "P", "ND"]), K.OTHER),
    (header(DiffusionBValue=1000.0), K.DWI),
    (header(SOPClassUID=CTImageStorage, Modality="CT"), K.CT),
    (
        header(SOPClassUID=CTImageStorage, Modality="CT", ImageType=["O", "P", "LOCALIZER"]),
        K.LOCALISER,
    ),
    (header(SOPClassUID=SecondaryCaptureImageStorage), K.SECONDARY_CAPTURE),
    (header(SOPClassUID=RTStructureSetStorage, Modality="RTSTRUCT"), K.RTSTRUCT),
    (header(SOPClassUID="1.2.840.10008.5.1.4.1.1.88.33", Modality="SR"), K.SR),
    (header(SOPClassUID="1.2.840.10008.5.1.4.1.1.66.4", Modality="SEG"), K.SEG),
    (header(SOPClassUID="1.2.840.10008.5.1.4.1.1.66", Modality="MR"), K.OTHER),
    (header(NumberOfTemporalPositions=40, ImageType=["ORIGINAL", "PRIMARY", "T2"]), K.BOLD),
]


@pytest.mark.parametrize(("dataset", "kind"), SPECIAL)
def test_objects_and_image_types(dataset: Dataset, kind: SeriesKind) -> None:
    assert classify_series([dataset]).kind is kind


def test_three_planes_are_a_localiser_whatever_the_name() -> None:
    planes = [[1, 0, 0, 0, 1, 0], [0, 1, 0, 0, 0, -1], [1, 0, 0, 0, 0, -1]]
    headers = [mr(90, 9000, 2500, ImageOrientationPatient=plane) for plane in planes]
    assert classify_series(headers).kind is K.LOCALISER


def test_contrast_agent_of_the_header() -> None:
    spin = {"ScanningSequence": SE}
    assert classify_series([mr(9, 550, None, **spin)]).kind is K.T1W
    given = mr(9, 550, None, ContrastBolusAgent="DOTAREM", **spin)
    assert classify_series([given]).kind is K.T1W_CE
    none = mr(9, 550, None, ContrastBolusAgent="NONE", **spin)
    assert classify_series([none]).kind is K.T1W
    before = mr(9, 550, None, ContrastBolusAgent="GD", SeriesDescription="T1 pre", **spin)
    assert classify_series([before]).kind is K.T1W


BODY = [
    ({"BodyPartExamined": "BRAIN"}, "head", True),
    ({"BodyPartExamined": "HEAD"}, "head", True),
    ({"BodyPartExamined": ""}, "unknown", True),
    ({"BodyPartExamined": "", "SeriesDescription": "T2 brain"}, "head", True),
    ({"BodyPartExamined": "PROSTATE"}, "prostate", False),
    ({"BodyPartExamined": "KNEE"}, "knee", False),
    ({"BodyPartExamined": "LSPINE"}, "spine", False),
    ({"BodyPartExamined": "QUUX"}, "another body part", False),
    ({"BodyPartExamined": "", "ProtocolName": "Knee routine"}, "knee", False),
    ({"BodyPartExamined": "HEAD", "SeriesDescription": "T2 SAG C-SPINE"}, "spine", False),
]


@pytest.mark.parametrize(("values", "part", "fits"), BODY)
def test_body_part(values: dict[str, object], part: str, fits: bool) -> None:
    found = classify_series([header(**values)])
    assert (found.body_part, found.body_part_ok) == (part, fits)


def enhanced(contrast: str, te: float, tr: float, **modifier: object) -> Dataset:
    shared = Dataset()
    for macro, values in {
        "MREchoSequence": {"EffectiveEchoTime": te},
        "MRTimingAndRelatedParametersSequence": {"RepetitionTime": tr, "FlipAngle": 90},
        "MRModifierSequence": modifier,
        "MRImageFrameTypeSequence": {"AcquisitionContrast": contrast},
        "PlaneOrientationSequence": {"ImageOrientationPatient": [1, 0, 0, 0, 1, 0]},
    }.items():
        item = Dataset()
        for keyword, value in values.items():
            setattr(item, keyword, value)
        setattr(shared, macro, Sequence([item]))
    return header(
        SOPClassUID=EnhancedMRImageStorage,
        NumberOfFrames=4,
        EchoPulseSequence="SPIN",
        SharedFunctionalGroupsSequence=Sequence([shared]),
    )


def test_enhanced_objects_by_statement_and_by_times() -> None:
    assert classify_series([enhanced("FLUID_ATTENUATED", 1, 1)]).kind is K.FLAIR
    times = enhanced("UNKNOWN", 100, 9000, InversionTimes=2500.0, InversionRecovery="YES")
    assert classify_series([times]).kind is K.FLAIR
    assert classify_series([enhanced("", 100, 5000, InversionRecovery="NO")]).kind is K.T2W
    assert classify_series([enhanced("DIFFUSION", 80, 5000)]).kind is K.DWI


VALUES = st.dictionaries(
    st.sampled_from(
        [
            *("EchoTime", "RepetitionTime", "InversionTime", "SeriesDescription", "ImageType"),
            *("BodyPartExamined", "ScanningSequence", "NumberOfFrames", "ContrastBolusAgent"),
            *("SOPClassUID", "ImageOrientationPatient", "DiffusionBValue"),
        ]
    ),
    st.binary(max_size=9),
)


@settings(max_examples=80, deadline=None)
@given(VALUES)
def test_odd_bytes_never_break_it(values: dict[str, bytes]) -> None:
    dataset = header()
    for keyword, value in values.items():
        tag = pydicom.tag.Tag(keyword)
        vr = pydicom.datadict.dictionary_VR(tag)
        dataset._dict[tag] = pydicom.dataelem.RawDataElement(
            tag, vr, len(value), value, 0, False, True, True
        )
    found = classify_series([dataset])
    assert 0 <= found.confidence <= 1


def test_no_header_is_a_mistake_of_the_caller() -> None:
    with pytest.raises(ValueError, match="at least one"):
        classify_series([])


GRADIENT = {"ScanningSequence": "GR", "FlipAngle": 20, "MRAcquisitionType": "3D"}
LOOKALIKES = [
    (mr(3.4, 22, None, AngioFlag="Y", **GRADIENT), K.OTHER, "inflow angiography"),
    (mr(3.4, 22, None, ScanOptions=["FC"], **GRADIENT), K.OTHER, "flow-compensated"),
    (mr(4.9, 30, None, SequenceVariant=["SP", "MTC"], **GRADIENT), K.OTHER, "magnetisation"),
    (mr(20, 28, None, ScanOptions="FC", **GRADIENT), K.SWI, "susceptibility"),
    (mr(20, 28, None, SeriesDescription="SWAN", **GRADIENT), K.SWI, "named over a T2*"),
    (mr(3.4, 22, None, SeriesDescription="TOF_3D", **GRADIENT), K.OTHER, "named angiography"),
    (mr(1.4, 3.1, None, SeriesDescription="AAHead_Scout", **GRADIENT), K.LOCALISER, "scout"),
    (mr(3, 5000, 700, SeriesDescription="mp2rage_INV1", **GRADIENT), K.OTHER, "part of MP2RAGE"),
    (mr(300, 7500, 3000, SeriesDescription="DIR", ScanningSequence=IR), K.OTHER, "double IR"),
    (mr(5, 500, None, SeriesDescription="T1 map", ScanningSequence=SE), K.DERIVED, "map"),
    (header(ImageType=["DERIVED", "SECONDARY", "SCREEN SAVE"]), K.SECONDARY_CAPTURE, "screen"),
    (header(SamplesPerPixel=3), K.DERIVED, "coloured"),
    (header(ImageType=["ORIGINAL", "PRIMARY", "W", "DIXON"]), K.DERIVED, "Dixon water"),
    (header(ImageType=["ORIGINAL", "PRIMARY", "M", "P"]), K.OTHER, "mixed components"),
    (
        header(
            SOPClassUID=CTImageStorage, Modality="CT", ImageType=["DERIVED", "SECONDARY", "MPR"]
        ),
        *(K.DERIVED, "CT reformat"),
    ),
    (header(SOPClassUID="1.2.840.10008.5.1.4.1.1.1", Modality="CR"), K.OTHER, "X-ray"),
]


@pytest.mark.parametrize(("dataset", "kind", "name"), LOOKALIKES, ids=[r[2] for r in LOOKALIKES])
def test_what_looks_like_a_plain_contrast(dataset: Dataset, kind: SeriesKind, name: str) -> None:
    del name
    assert classify_series([dataset]).kind is kind


def test_private_b_values_of_each_vendor() -> None:
    blocks = (
        (0x0019, "SIEMENS MR HEADER", 0x0C, "IS", "1000"),
        (0x0043, "GEMS_PARM_01", 0x39, "IS", ["1000001000", "8", "0", "0"]),
        (0x2001, "Philips Imaging DD 001", 0x03, "FL", 1000.0),
        (0x0065, "Image Private Header", 0x09, "FD", 1000.0),
    )
    for group, creator, element, vr, value in blocks:
        dataset = mr(80, 5000, None, ScanningSequence=SE)
        dataset.private_block(group, creator, create=True).add_new(element, vr, value)
        assert classify_series([dataset]).kind is K.DWI, creator


def test_a_localiser_by_name_alone_must_look_like_one() -> None:
    many = [mr(3, 2300, 900, SeriesDescription="loc", **GRADIENT) for _ in range(60)]
    found = classify_series(many)
    assert (found.kind, found.rival) == (K.T1W, K.LOCALISER)
    assert found.confidence < 0.6
    assert classify_series(many[:20]).kind is K.LOCALISER
