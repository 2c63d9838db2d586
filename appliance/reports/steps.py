"""What was done to a study, in words, from what its stages noted.

Only values of a known form are taken: names of engines and rules, versions, counts and volumes.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from typing import Any

PACKAGES = (
    "clinode",
    "dicom2nifti",
    "dcm2niix",
    "pydicom",
    "highdicom",
    "SimpleITK",
    "nibabel",
    "scipy",
    "numpy",
    "pillow",
)
_WORD = re.compile(r"[\w .,:;()+*/%&=<>'-]{1,160}")
_FIELDS = (
    ("Manufacturer", "", ""),
    ("ManufacturersModelName", "", ""),
    ("MagneticFieldStrength", "", " T"),
    ("MRAcquisitionType", "", ""),
    ("RepetitionTime", "TR", " s"),
    ("EchoTime", "TE", " s"),
    ("InversionTime", "TI", " s"),
    ("FlipAngle", "flip", "°"),
)


def steps_of(facts: Mapping[str, Any]) -> tuple[tuple[str, str], ...]:
    """The steps with what each of them noted.

    Args:
        facts: a study's facts as the stages wrote them; what is absent or of another form is left
            out.

    Examples:
        >>> steps_of({"engines": {"T1w": "dicom2nifti 2.6.2"}, "face": "deface"})
        (('convert', 'T1w by dicom2nifti 2.6.2'), ('deface', 'face taken out'))
    """
    face = {"deface": "face taken out", "skull-strip": "everything but the brain taken out"}
    face["none"] = "no head, nothing taken out"
    found = (
        ("classify", _by_kind(facts.get("rules"), "{} by rule {}")),
        ("choice of series", _by_kind(facts.get("chosen"), "{}: {}")),
        ("de-identify headers", _deidentified(facts)),
        ("convert", _by_kind(facts.get("engines"), "{} by {}")),
        ("label", _listed(facts.get("label_notes"))),
        ("deface", face.get(str(facts.get("face")), "")),
        ("brain mask", _by_kind(facts.get("brain_ml"), "{} {} ml")),
        ("register", _by_kind(facts.get("registration_quality"), "{} with quality {}")),
    )
    return tuple((name, words) for name, words in found if words)


def versions() -> tuple[tuple[str, str], ...]:
    """The installed programs that work on images, with their versions."""
    found = []
    for name in PACKAGES:
        try:
            found.append((name, version(name)))
        except PackageNotFoundError:
            continue
    return tuple(found)


def acquisition(sidecar: Mapping[str, Any]) -> tuple[tuple[str, str], ...]:
    """How an image was acquired, from its (de-identified) side-car; at most a line.

    Examples:
        >>> acquisition({"MagneticFieldStrength": 3, "EchoTime": 0.09, "StationName": "X"})
        (('', '3 T'), ('TE', '0.09 s'))
    """
    found = []
    for field, name, unit in _FIELDS:
        value = sidecar.get(field)
        if isinstance(value, float) and not isinstance(value, bool):
            value = f"{value:g}"
        words = _word(value)
        if words:
            found.append((name, f"{words}{unit}"))
    return tuple(found)


def _by_kind(value: object, form: str) -> str:
    if not isinstance(value, Mapping):
        return ""
    words = [(_word(kind), _word(item)) for kind, item in value.items()]
    return "; ".join(form.format(kind, item) for kind, item in words if kind and item)


def _listed(value: object) -> str:
    if not isinstance(value, list | tuple):
        return ""
    return "; ".join(filter(None, map(_word, value)))


def _deidentified(facts: Mapping[str, Any]) -> str:
    actions = facts.get("deid_actions")
    if not isinstance(actions, int):
        return ""
    words = f"{actions} attributes removed or replaced"
    profile = _word(facts.get("deid_profile"))
    program = _word(facts.get("deid_version"))
    more = [f"profile {profile[:12]}" if profile else "", program]
    return ", ".join(filter(None, (words, *more)))


def _word(value: object) -> str:
    """A number or a short plain text; anything else is empty."""
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        return ""
    text = str(value)
    return text if _WORD.fullmatch(text) else ""
