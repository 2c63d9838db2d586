"""Side-cars hold listed fields in BIDS units, and only from de-identified headers."""

from __future__ import annotations

import json
import re
import warnings
from typing import Any

import pytest
from pydicom.datadict import DicomDictionary
from pydicom.dataset import Dataset

from dicom_bridge.deid import Identifiers, deidentify_dataset, header_sidecar, search_bytes
from dicom_bridge.deid.sidecar import ALLOWED
from dicom_bridge.errors import DataRefused
from tests.dicom_bridge.deid.objects import BASIC, SURNAME, mr_image, pseudonymizer


def test_fields_and_units() -> None:
    sidecar = header_sidecar(deidentify_dataset(mr_image(), BASIC, pseudonymizer()).dataset)
    assert sidecar["EchoTime"] == pytest.approx(0.00411)
    assert sidecar["RepetitionTime"] == pytest.approx(2.25)
    assert sidecar["InversionTime"] == pytest.approx(0.925)
    assert sidecar["MagneticFieldStrength"] == 3
    assert sidecar["ManufacturersModelName"] == "Prisma_fit"
    assert sidecar["ImageType"] == ["ORIGINAL", "PRIMARY", "M", "ND"]
    assert search_bytes(json.dumps(sidecar).encode(), Identifiers.from_datasets([mr_image()])) == []
    forbidden = ("Institution", "Station", "Serial", "Date", "Patient", "UID", "Accession")
    allowed = {"PatientPosition"}
    assert not [k for k in sidecar if k not in allowed and any(f in k for f in forbidden)]


def test_an_original_header_is_refused() -> None:
    with pytest.raises(DataRefused, match="de-identified headers only"):
        header_sidecar(mr_image())


def test_enhanced_headers_are_read_through_their_groups_and_odd_values_left_out() -> None:
    ds, timing, echo, group = Dataset(), Dataset(), Dataset(), Dataset()
    ds.PatientIdentityRemoved = "YES"
    timing.RepetitionTime, timing.FlipAngle = 9000.0, 150.0
    echo.EffectiveEchoTime = 120.0
    group.MRTimingAndRelatedParametersSequence = [timing]
    group.MREchoSequence = [echo]
    ds.SharedFunctionalGroupsSequence = [group]
    ds.PulseSequenceName = "TSE"
    ds.Manufacturer = ""
    sidecar = header_sidecar(ds)
    assert sidecar == {
        "EchoTime": 0.12,
        "RepetitionTime": 9.0,
        "FlipAngle": 150.0,
        "PulseSequenceDetails": "TSE",
    }


# Each planted where a person may type, and what must not come out.
PLANTS = (
    f"seen by {SURNAME}",
    SURNAME.upper(),
    "20210305",
    "2021-03-05",
    "05.03.2021",
    "19640229",
    "PAT-7731",
    "ACC998877",
    "1670321",
    "Hospital of Plant",
    "Quitschmann",
)
LEAKS = re.compile(
    rf"{SURNAME}|Quitschmann|Hospital of Plant|PAT-?7731|ACC998877|1670321|2021|1964", re.IGNORECASE
)


def text_keywords() -> list[str]:
    """Every attribute of the dictionary that holds text and may stand in an image's header."""
    kinds = ("LO", "SH", "LT", "ST", "UT", "UC", "CS", "AE", "PN")
    skip = {"SpecificCharacterSet", "PatientIdentityRemoved", "PhotometricInterpretation"}
    return [
        entry[4]
        for tag, entry in DicomDictionary.items()
        if entry[0] in kinds and entry[4] and entry[4] not in skip and tag >> 16 > 0x0006
    ]


def put(ds: Dataset, keyword: str, value: object) -> None:
    """Set an attribute, whatever its value representation says."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        setattr(ds, keyword, value)


@pytest.mark.parametrize("plant", PLANTS)
def test_identifiers_in_every_text_field_do_not_come_out(plant: str) -> None:
    original = mr_image()
    kept = {"PatientName", "PatientID", "AccessionNumber", "InstitutionName", "BurnedInAnnotation"}
    kept |= {"ReferringPhysicianName", "Modality", "ConversionType", "PatientPosition"}
    for keyword in text_keywords():
        if keyword not in kept:
            put(original, keyword, plant)
    put(original, "ImageType", ["ORIGINAL", "PRIMARY", plant])
    put(original, "SoftwareVersions", ["syngo MR E11", plant])
    inner = Dataset()
    for keyword in ("ReceiveCoilName", "PulseSequenceName", "ScanOptions"):
        put(inner, keyword, plant)
    group = Dataset()
    group.MRReceiveCoilSequence, group.MREchoSequence = [inner], [inner]
    original.SharedFunctionalGroupsSequence = [group]
    made = header_sidecar(deidentify_dataset(original, BASIC, pseudonymizer()).dataset)
    assert not LEAKS.search(json.dumps(made)), plant
    assert set(made) <= ALLOWED
    assert made["EchoTime"] == pytest.approx(0.00411)


def test_the_search_for_leaks_can_find_them() -> None:
    assert all(LEAKS.search(plant) for plant in PLANTS)


def bare(**values: object) -> dict[str, Any]:
    """The side-car of a header that holds these values only."""
    ds = Dataset()
    ds.PatientIdentityRemoved = "YES"
    for keyword, value in values.items():
        put(ds, keyword, value)
    return header_sidecar(ds)


def test_numbers_out_of_range_are_left_out() -> None:
    odd = {
        "EchoTime": ("0", "-3", "200000"),
        "RepetitionTime": ("0", "1e9"),
        "InversionTime": ("0", "-1"),
        "FlipAngle": ("0", "361"),
        "MagneticFieldStrength": ("0", "15000", "-3"),
        "SliceThickness": ("0", "-1"),
        "SpacingBetweenSlices": ("-5",),
        "EchoTrainLength": ("0",),
        "PixelBandwidth": ("0",),
        "NumberOfAverages": ("0",),
        "PercentSampling": ("0", "5000"),
    }
    for keyword, values in odd.items():
        for value in values:
            assert bare(**{keyword: value}) == {}, (keyword, value)


def test_codes_of_the_standard_only() -> None:
    assert bare(ScanningSequence=["SE", "IR", "SMITH"]) == {"ScanningSequence": "SE_IR"}
    assert bare(PatientPosition="JOHN") == {}
    assert bare(MRAcquisitionType="4D") == {}
    assert bare(ScanOptions=["FS", "lower", "A" * 17]) == {"ScanOptions": "FS"}
    assert bare(ImageType=["ORIGINAL", "PRIMARY", "M", "NONE", "Mr Smith"]) == {
        "ImageType": ["ORIGINAL", "PRIMARY", "M", "NONE"]
    }


def test_free_text_without_dates_and_long_numbers() -> None:
    assert bare(SoftwareVersions=["27", "LX", "release:DV26.0_R05_2008.a"]) == {
        "SoftwareVersions": "27_LX_release:DV26.0_R05_2008.a"
    }
    assert bare(SoftwareVersions="3.1.67-2.561951-Re-20170628") == {}
    assert bare(ReceiveCoilName="coil of 03.05.1964") == {}
    assert bare(Manufacturer="REMOVED") == {}
    assert bare(ManufacturerModelName="x" * 65) == {}


def test_inversion_times_of_enhanced_objects() -> None:
    modifier, group, ds = Dataset(), Dataset(), Dataset()
    modifier.InversionTimes = [2200.0, 50.0]
    group.MRModifierSequence = [modifier]
    ds.PerFrameFunctionalGroupsSequence = [group]
    ds.PatientIdentityRemoved = "YES"
    assert header_sidecar(ds) == {"InversionTime": 2.2}
