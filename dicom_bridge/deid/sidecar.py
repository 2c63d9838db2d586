"""The JSON side-car of an image: an allow-list of BIDS fields from a de-identified header."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import Any

from pydicom.dataset import Dataset
from pydicom.multival import MultiValue

from dicom_bridge.errors import DataRefused

JSON = str | int | float | bool | list["JSON"] | dict[str, "JSON"] | None


# Free text of the maker's: no date and no run of digits that may be a serial or a patient's number.
_TEXT = re.compile(r"[A-Za-z0-9 .,:;/\\_+*%&()#=<>'-]{1,64}")
_TELLING = re.compile(
    r"(?:19|20)\d\d[-./]?[01]\d[-./]?[0-3]\d|\d{6,}|\d{1,2}[-./]\d{1,2}[-./]\d{4}"
)
_CODE = re.compile(r"[A-Z0-9_ ]{1,16}")
_REMOVED = frozenset({"REMOVED", "ANONYMIZED", "ANONYMOUS", "UNKNOWN", "NONE", "***"})
_VOCABULARY = {
    "Modality": frozenset({"MR", "CT", "PT"}),
    "MRAcquisitionType": frozenset({"1D", "2D", "3D"}),
    "ScanningSequence": frozenset({"SE", "IR", "GR", "EP", "RM"}),
    "SequenceVariant": frozenset({"SK", "MTC", "SS", "TRSS", "SP", "MP", "OSP", "NONE"}),
    "PatientPosition": frozenset(
        f"{end}{side}" for end in ("HF", "FF") for side in ("S", "P", "DL", "DR")
    )
    | frozenset({"LFP", "LFS", "RFP", "RFS", "AFDR", "AFDL", "PFDR", "PFDL"}),
}


def _number(value: object) -> float | None:
    try:
        number = float(str(value))
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def _within(
    low: float, high: float, *, scale: float = 1.0
) -> Callable[[object], float | int | None]:
    """A converter to a number above `low` and up to `high`, in the unit after scaling."""

    def _convert(value: object) -> float | int | None:
        number = _number(value)
        if number is None:
            return None
        number = round(number * scale, 9) if scale != 1.0 else number
        return number if low < number <= high else None

    return _convert


def _integer(value: object) -> int | None:
    number = _within(0, 1e6)(value)
    return None if number is None or number != int(number) else int(number)


def _text(value: object) -> str | None:
    text = str(value).strip()
    if not _TEXT.fullmatch(text) or _TELLING.search(text) or text.upper() in _REMOVED:
        return None
    return text


def _texts(value: object) -> str | None:
    parts = value if isinstance(value, MultiValue | list) else [value]
    kept = [text for text in map(_text, parts) if text]
    return _text("_".join(kept)) if kept else None


def _codes(name: str) -> Callable[[object], str | None]:
    """A converter to DICOM code strings, of the standard's own list where there is one."""
    known = _VOCABULARY.get(name)

    def _convert(value: object) -> str | None:
        parts = value if isinstance(value, MultiValue | list) else [value]
        codes = [str(part).strip() for part in parts]
        kept = [code for code in codes if (code in known if known else _code(code))]
        return "_".join(kept) or None

    return _convert


def _code(text: str) -> bool:
    return (
        bool(_CODE.fullmatch(text))
        and not _TELLING.search(text)
        and text not in _REMOVED - {"NONE"}
    )


def _inversion(value: object) -> float | int | None:
    """The first inversion time; enhanced objects list several."""
    parts = value if isinstance(value, MultiValue | list) else [value]
    return _SECONDS(parts[0]) if parts else None


def _flag(value: object) -> bool | None:
    return {"Y": True, "YES": True, "N": False, "NO": False}.get(str(value).strip().upper())


_SECONDS = _within(0, 100, scale=1e-3)
_MILLIMETRES = _within(0, 1000)
# Header keyword, field of BIDS 1.10 (MRI common metadata), and the change of unit.
_FIELDS: tuple[tuple[str, str, Callable[[object], JSON]], ...] = (
    ("Modality", "Modality", _codes("Modality")),
    ("Manufacturer", "Manufacturer", _text),
    ("ManufacturerModelName", "ManufacturersModelName", _text),
    ("SoftwareVersions", "SoftwareVersions", _texts),
    ("MagneticFieldStrength", "MagneticFieldStrength", _within(0, 25)),
    ("ReceiveCoilName", "ReceiveCoilName", _text),
    ("ScanningSequence", "ScanningSequence", _codes("ScanningSequence")),
    ("SequenceVariant", "SequenceVariant", _codes("SequenceVariant")),
    ("ScanOptions", "ScanOptions", _codes("ScanOptions")),
    ("SequenceName", "SequenceName", _text),
    ("PulseSequenceName", "PulseSequenceDetails", _text),
    ("MRAcquisitionType", "MRAcquisitionType", _codes("MRAcquisitionType")),
    ("SliceThickness", "SliceThickness", _MILLIMETRES),
    ("SpacingBetweenSlices", "SpacingBetweenSlices", _MILLIMETRES),
    ("EchoTime", "EchoTime", _SECONDS),
    ("EffectiveEchoTime", "EchoTime", _SECONDS),
    ("RepetitionTime", "RepetitionTime", _SECONDS),
    ("InversionTime", "InversionTime", _SECONDS),
    ("InversionTimes", "InversionTime", _inversion),
    ("FlipAngle", "FlipAngle", _within(0, 360)),
    ("EchoTrainLength", "EchoTrainLength", _integer),
    ("PixelBandwidth", "PixelBandwidth", _within(0, 1e6)),
    ("NumberOfAverages", "NumberOfAverages", _within(0, 1e4)),
    ("PercentPhaseFieldOfView", "PercentPhaseFOV", _within(0, 1000)),
    ("PercentSampling", "PercentSampling", _within(0, 1000)),
    ("PatientPosition", "PatientPosition", _codes("PatientPosition")),
    ("BodyPartExamined", "BodyPart", _codes("BodyPart")),
    ("NonlinearGradientCorrection", "NonlinearGradientCorrection", _flag),
)
ALLOWED = frozenset(name for _, name, _ in _FIELDS) | {"ImageType"}
_FRAME_SEQUENCES = (
    *("MRTimingAndRelatedParametersSequence", "MREchoSequence", "PixelMeasuresSequence"),
    *("MRModifierSequence", "MRReceiveCoilSequence", "MRAveragesSequence"),
    *("MRImagingModifierSequence", "MRFOVGeometrySequence", "FrameAnatomySequence"),
)


def header_sidecar(ds_deidentified: Dataset) -> dict[str, JSON]:
    """The BIDS side-car's content: times in s, lengths mm, angles degrees, field T.

    Only a fixed list of fields is read, so nothing about institution, station, serial number,
    dates or identity can come out. Coded fields keep the standard's codes only, free text of the
    maker's only without dates and long numbers, and numbers outside their range are left out, as
    are zeros that stand for "not known". Enhanced objects are read through their functional groups.

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
    return [str(part) for part in parts if _code(str(part))]
