"""What labels mean: known sets of codes, and a project's own from its settings or a TOML file.

Codes are those of DICOM PS3.16 (CID 7150, 7151 and the lists that dcmqi ships); property modifiers
are pre-coordinated because writers cannot add them to a segment.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path

import tomli_w

from dicom_bridge.errors import SegRefused
from dicom_bridge.seg.model import (
    BRAIN,
    LESION,
    MORPHOLOGICALLY_ABNORMAL,
    Code,
    SegmentSpec,
)

ANATOMICAL = Code("91723000", "SCT", "Anatomical structure")
TISSUE = Code("85756007", "SCT", "Tissue")
WHITE_MATTER = Code("389080008", "SCT", "White matter")
PROSTATE = Code("41216001", "SCT", "Prostate")
T2_HYPERINTENSITY = Code("110702", "DCM", "White Matter T2 Hyperintensity")
T1_HYPOINTENSITY = Code("110701", "DCM", "White Matter T1 Hypointensity")
PERIPHERAL_ZONE = Code("279706003", "SCT", "Peripheral zone of the prostate")
TRANSITION_ZONE = Code("399384005", "SCT", "Transition zone of the prostate")
CENTRAL_ZONE_RIGHT = Code("716900007", "SCT", "Central zone of right half prostate")
CENTRAL_ZONE_LEFT = Code("716901006", "SCT", "Central zone of left half prostate")
ANTERIOR_STROMA = Code("717025007", "SCT", "Anterior fibromuscular stroma of prostate")
ENHANCING = Code("C113842", "NCIt", "Enhancing Lesion")
NON_ENHANCING = Code("C81175", "NCIt", "Non-Enhancing Lesion")
NECROSIS = Code("6574001", "SCT", "Necrosis")
EDEMA = Code("79654002", "SCT", "Edema")
NEOPLASM = Code("108369006", "SCT", "Neoplasm")
GLIOBLASTOMA = Code("1163375002", "SCT", "Glioblastoma")

MS_LESIONS = (
    SegmentSpec(
        1, "MS lesion", MORPHOLOGICALLY_ABNORMAL, LESION, region=BRAIN, finding=T2_HYPERINTENSITY
    ),
)
PROSTATE_ZONES = (
    SegmentSpec(1, "Peripheral zone", ANATOMICAL, PERIPHERAL_ZONE, colour=(80, 180, 255)),
    SegmentSpec(2, "Transition zone", ANATOMICAL, TRANSITION_ZONE, colour=(255, 200, 60)),
    SegmentSpec(3, "Central zone right", ANATOMICAL, CENTRAL_ZONE_RIGHT, colour=(120, 220, 120)),
    SegmentSpec(4, "Central zone left", ANATOMICAL, CENTRAL_ZONE_LEFT, colour=(60, 160, 90)),
    SegmentSpec(
        5, "Anterior fibromuscular stroma", ANATOMICAL, ANTERIOR_STROMA, colour=(200, 120, 220)
    ),
)
PROSTATE_LESIONS = (
    SegmentSpec(1, "Prostate lesion", MORPHOLOGICALLY_ABNORMAL, LESION, region=PROSTATE),
)
GLIOMA_REGIONS = (
    SegmentSpec(
        1, "Necrosis", MORPHOLOGICALLY_ABNORMAL, NECROSIS, colour=(90, 90, 220), region=BRAIN
    ),
    SegmentSpec(2, "Edema", MORPHOLOGICALLY_ABNORMAL, EDEMA, colour=(90, 210, 90), region=BRAIN),
    SegmentSpec(3, "Enhancing tumour", MORPHOLOGICALLY_ABNORMAL, ENHANCING, region=BRAIN),
    SegmentSpec(
        4,
        "Non-enhancing tumour",
        MORPHOLOGICALLY_ABNORMAL,
        NON_ENHANCING,
        colour=(240, 180, 60),
        region=BRAIN,
    ),
)
SCHEMES: Mapping[str, tuple[SegmentSpec, ...]] = {
    "ms-lesions": MS_LESIONS,
    "prostate-zones": PROSTATE_ZONES,
    "prostate-lesions": PROSTATE_LESIONS,
    "glioma-regions": GLIOMA_REGIONS,
}
ALGORITHM_TYPES = ("AUTOMATIC", "SEMIAUTOMATIC", "MANUAL")
FIELDS = frozenset(
    {
        "value",
        "name",
        "category",
        "type",
        "region",
        "finding",
        "colour",
        "algorithm_type",
        "algorithm_name",
        "algorithm_version",
        "tracking_id",
        "tracking_uid",
    }
)


def labels_of(scheme: str) -> tuple[SegmentSpec, ...]:
    """A known set of labels by name.

    Raises:
        SegRefused: no such set; the text names those that exist.
    """
    try:
        return SCHEMES[scheme]
    except KeyError:
        known = ", ".join(sorted(SCHEMES))
        raise SegRefused(f"no set of codes has this name: known are {known}") from None


def parse_code(value: object, what: str) -> Code:
    """A code from ``{value, scheme, meaning}`` or from the text ``scheme:value:meaning``.

    Args:
        value: from settings, a TOML file or a manifest.
        what: for the error: which code of which label.

    Raises:
        SegRefused: a part is missing or empty, or too long for its VR.
    """
    if isinstance(value, str):
        parts = value.split(":", 2)
        if len(parts) != 3:
            raise SegRefused(f"{what}: expected 'scheme:value:meaning'")
        value = {"scheme": parts[0], "value": parts[1], "meaning": parts[2]}
    if not isinstance(value, Mapping):
        raise SegRefused(f"{what}: expected a table of value, scheme and meaning")
    texts = {key: str(value.get(key) or "").strip() for key in ("value", "scheme", "meaning")}
    try:
        return Code(**texts)
    except SegRefused as error:
        raise SegRefused(f"{what}: {error}") from None


def parse_label(entry: Mapping[str, object]) -> SegmentSpec:
    """One label from its settings.

    Args:
        entry: ``value`` and ``name``, and optionally ``category``, ``type``, ``region``,
            ``finding`` (codes), ``colour`` (three numbers), algorithm and tracking fields.

    Raises:
        SegRefused: a field that is unknown, missing or out of range.
    """
    unknown = sorted(set(entry) - FIELDS)
    if unknown:
        raise SegRefused(f"a label has fields that nobody knows: {', '.join(unknown)}")
    number = entry.get("value")
    name = str(entry.get("name") or "").strip()
    if not isinstance(number, int) or isinstance(number, bool) or not 1 <= number <= 255:
        raise SegRefused("a label's value must be a whole number from 1 to 255")
    if not name:
        raise SegRefused(f"label {number} has no name")
    kind = str(entry.get("algorithm_type") or "AUTOMATIC").upper()
    if kind not in ALGORITHM_TYPES:
        raise SegRefused(f"label {number}: algorithm_type is one of {', '.join(ALGORITHM_TYPES)}")

    def _code(key: str) -> Code | None:
        return None if key not in entry else parse_code(entry[key], f"label {number}, {key}")

    return SegmentSpec(
        number=number,
        label=name,
        category=_code("category") or MORPHOLOGICALLY_ABNORMAL,
        type=_code("type") or LESION,
        algorithm_type=kind,  # type: ignore[arg-type]  # checked above
        algorithm_name=str(entry.get("algorithm_name") or ""),
        algorithm_version=str(entry.get("algorithm_version") or ""),
        colour=_colour(entry.get("colour"), number),
        region=_code("region"),
        finding=_code("finding"),
        tracking_id=_text(entry.get("tracking_id")),
        tracking_uid=_text(entry.get("tracking_uid")),
    )


def _text(value: object) -> str | None:
    return str(value) if value else None


def _colour(value: object, number: int) -> tuple[int, int, int]:
    if value is None:
        return (255, 64, 64)
    if isinstance(value, Sequence) and not isinstance(value, str) and len(value) == 3:
        red, green, blue = value
        if all(isinstance(part, int) and 0 <= part <= 255 for part in (red, green, blue)):
            return (red, green, blue)
    raise SegRefused(f"label {number}: colour is three whole numbers from 0 to 255")


def parse_labels(entries: Sequence[Mapping[str, object]]) -> tuple[SegmentSpec, ...]:
    """A project's own labels, such as ``[[label]]`` tables of its settings.

    Raises:
        SegRefused: none, one value twice, or a label that is not well-formed.
    """
    labels = tuple(parse_label(entry) for entry in entries)
    if not labels:
        raise SegRefused("expected at least one label")
    numbers = [label.number for label in labels]
    if len(set(numbers)) != len(numbers):
        raise SegRefused("two labels carry the same value")
    return labels


def load_labels(path: Path) -> tuple[SegmentSpec, ...]:
    """Labels from a TOML file with ``[[label]]`` tables.

    Raises:
        SegRefused: unreadable, or not well-formed; the text says where.
    """
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise SegRefused(f"the labels file cannot be read ({type(error).__name__})") from None
    entries = document.get("label")
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise SegRefused("the labels file must hold [[label]] tables")
    return parse_labels(entries)


def labels_toml(labels: Sequence[SegmentSpec]) -> str:
    """The TOML text that `load_labels` reads back."""
    return tomli_w.dumps({"label": [_entry(label) for label in labels]})


def _entry(label: SegmentSpec) -> dict[str, object]:
    entry: dict[str, object] = {"value": label.number, "name": label.label}
    codes = {
        "category": label.category,
        "type": label.type,
        "region": label.region,
        "finding": label.finding,
    }
    for key, code in codes.items():
        if code is not None:
            entry[key] = {"value": code.value, "scheme": code.scheme, "meaning": code.meaning}
    entry["colour"] = list(label.colour)
    texts = {
        "algorithm_type": label.algorithm_type,
        "algorithm_name": label.algorithm_name,
        "algorithm_version": label.algorithm_version,
        "tracking_id": label.tracking_id,
        "tracking_uid": label.tracking_uid,
    }
    return {**entry, **{key: text for key, text in texts.items() if text}}
