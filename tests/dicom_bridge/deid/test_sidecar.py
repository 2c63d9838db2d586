"""Side-cars hold listed fields in BIDS units, and only from de-identified headers."""

from __future__ import annotations

import json

import pytest
from pydicom.dataset import Dataset

from dicom_bridge.deid import Identifiers, deidentify_dataset, header_sidecar, search_bytes
from dicom_bridge.errors import DataRefused
from tests.dicom_bridge.deid.objects import BASIC, mr_image, pseudonymizer


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
