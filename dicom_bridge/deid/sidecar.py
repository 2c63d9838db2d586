"""The JSON side-car of an image: an allow-list of BIDS fields from a de-identified header."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from pydicom.dataset import Dataset
from pydicom.multival import MultiValue

from dicom_bridge.errors import DataRefused

JSON = str | int | float | bool | list["JSON"] | dict[str, "JSON"] | None


def _number(value: object) -> float | None:
    try:
        number = float(str(value))
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def _milliseconds(value: object) -> float | None:
    number = _number(value)
    return None if number is None else round(number / 1000.0, 9)


def _integer(value: object) -> int | None:
    number = _number(value)
    return None if number is None or number != int(number) else int(number)


def _text(value: object) -> str | None:
    text = str(value).strip()
    return text if text and text.isascii() else None


def _texts(value: object) -> str | None:
    parts = value if isinstance(value, MultiValue | list) else [value]
    return "_".join(str(part) for part in parts if str(part)) or None


def _flag(value: object) -> bool | None:
    return {"Y": True, "YES": True, "N": False, "NO": False}.get(str(value).strip().upper())


# Header keyword, field of BIDS 1.10 (MRI common metadata), and the change of unit.
_FIELDS: tuple[tuple[str, str, Callable[[object], JSON]], ...] = (
    ("Modality", "Modality", _text),
    ("Manufacturer", "Manufacturer", _text),
    ("ManufacturerModelName", "ManufacturersModelName", _text),
    ("SoftwareVersions", "SoftwareVersions", _texts),
    ("MagneticFieldStrength", "MagneticFieldStrength", _number),
    ("ReceiveCoilName", "ReceiveCoilName", _text),
    ("ScanningSequence", "ScanningSequence", _texts),
    ("SequenceVariant", "SequenceVariant", _texts),
    ("ScanOptions", "ScanOptions", _texts),
    ("SequenceName", "SequenceName", _text),
    ("PulseSequenceName", "PulseSequenceDetails", _text),
    ("MRAcquisitionType", "MRAcquisitionType", _text),
    ("SliceThickness", "SliceThickness", _number),
    ("SpacingBetweenSlices", "SpacingBetweenSlices", _number),
    ("EchoTime", "EchoTime", _milliseconds),
    ("EffectiveEchoTime", "EchoTime", _milliseconds),
    ("RepetitionTime", "RepetitionTime", _milliseconds),
    ("InversionTime", "InversionTime", _milliseconds),
    ("FlipAngle", "FlipAngle", _number),
    ("EchoTrainLength", "EchoTrainLength", _integer),
    ("PixelBandwidth", "PixelBandwidth", _number),
    ("NumberOfAverages", "NumberOfAverages", _number),
    ("PercentPhaseFieldOfView", "PercentPhaseFOV", _number),
    ("PercentSampling", "PercentSampling", _number),
    ("PatientPosition", "PatientPosition", _text),
    ("BodyPartExamined", "BodyPart", _text),
    ("NonlinearGradientCorrection", "NonlinearGradientCorrection", _flag),
)
_FRAME_SEQUENCES = (
    *("MRTimingAndRelatedParametersSequence", "MREchoSequence", "PixelMeasuresSequence"),
    *("MRModifierSequence", "MRReceiveCoilSequence", "MRAveragesSequence"),
    *("MRImagingModifierSequence", "MRFOVGeometrySequence", "FrameAnatomySequence"),
)


def header_sidecar(ds_deidentified: Dataset) -> dict[str, JSON]:
    """The BIDS side-car's content: times in s, lengths mm, angles degrees, field T.

    Only a fixed list of fields is read, so nothing about institution, station, serial number,
    dates or identity can come out. Enhanced objects are read through their functional groups.

    Args:
        ds_deidentified: a header that went through :func:`deidentify_dataset`.

    Raises:
        DataRefused: the header does not say that identity was removed.
    """
    if str(ds_deidentified.get("PatientIdentityRemoved", "")) != "YES":
        raise DataRefused("a side-car is made from de-identified headers only: this one is not")
    found: dict[str, JSON] = {}
    sources = [ds_deidentified, *_functional_groups(ds_deidentified)]
    for keyword, name, convert in _FIELDS:
        if name in found:
            continue
        for source in sources:
            value = source.get(keyword)
            if value is None or value == "":
                continue
            converted = convert(value)
            if converted is not None:
                found[name] = converted
                break
    found["ImageType"] = _image_type(ds_deidentified)
    return {name: value for name, value in found.items() if value not in (None, [])}


def _functional_groups(ds: Dataset) -> list[Dataset]:
    groups: list[Dataset] = []
    for name in ("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence"):
        for item in (ds.get(name) or [])[:1]:
            groups += [inner for key in _FRAME_SEQUENCES for inner in (item.get(key) or [])[:1]]
    return groups


def _image_type(ds: Dataset) -> list[JSON]:
    value: Any = ds.get("ImageType") or []
    parts = value if isinstance(value, MultiValue | list) else [value]
    return [str(part) for part in parts if str(part)]
