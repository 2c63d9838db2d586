"""PS3.15 Table E.1-1 as data: per attribute the action of the Basic Profile and of each option."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from functools import cache
from importlib import resources
from types import MappingProxyType
from typing import Any

TABLES = "dicom_bridge.deid.tables"
TABLE_FILES = ("confidentiality_profile_attributes.json", "additions_2024b_to_2026c.json")
SAFE_PRIVATE = "safe_private.json"


class Option(StrEnum):
    """The options of PS3.15 Annex E that can be added to the Basic Profile."""

    CLEAN_PIXEL_DATA = "clean-pixel-data"
    CLEAN_RECOGNIZABLE_VISUAL_FEATURES = "clean-recognizable-visual-features"
    CLEAN_GRAPHICS = "clean-graphics"
    CLEAN_STRUCTURED_CONTENT = "clean-structured-content"
    CLEAN_DESCRIPTORS = "clean-descriptors"
    RETAIN_FULL_DATES = "retain-full-dates"
    RETAIN_MODIFIED_DATES = "retain-modified-dates"
    RETAIN_PATIENT_CHARACTERISTICS = "retain-patient-characteristics"
    RETAIN_DEVICE_IDENTITY = "retain-device-identity"
    RETAIN_UIDS = "retain-uids"
    RETAIN_SAFE_PRIVATE = "retain-safe-private"
    RETAIN_INSTITUTION_IDENTITY = "retain-institution-identity"


class Action(StrEnum):
    """What happens to an element (PS3.15 Table E.1-1a)."""

    REMOVE = "X"
    EMPTY = "Z"
    DUMMY = "D"
    UID = "U"
    CLEAN = "C"
    KEEP = "K"


BASIC_CODE = ("113100", "Basic Application Confidentiality Profile")
OPTION_CODES: Mapping[Option, tuple[str, str]] = MappingProxyType(
    {
        Option.CLEAN_PIXEL_DATA: ("113101", "Clean Pixel Data Option"),
        Option.CLEAN_RECOGNIZABLE_VISUAL_FEATURES: (
            "113102",
            "Clean Recognizable Visual Features Option",
        ),
        Option.CLEAN_GRAPHICS: ("113103", "Clean Graphics Option"),
        Option.CLEAN_STRUCTURED_CONTENT: ("113104", "Clean Structured Content Option"),
        Option.CLEAN_DESCRIPTORS: ("113105", "Clean Descriptors Option"),
        Option.RETAIN_FULL_DATES: (
            "113106",
            "Retain Longitudinal Temporal Information Full Dates Option",
        ),
        Option.RETAIN_MODIFIED_DATES: (
            "113107",
            "Retain Longitudinal Temporal Information Modified Dates Option",
        ),
        Option.RETAIN_PATIENT_CHARACTERISTICS: ("113108", "Retain Patient Characteristics Option"),
        Option.RETAIN_DEVICE_IDENTITY: ("113109", "Retain Device Identity Option"),
        Option.RETAIN_UIDS: ("113110", "Retain UIDs Option"),
        Option.RETAIN_SAFE_PRIVATE: ("113111", "Retain Safe Private Option"),
        Option.RETAIN_INSTITUTION_IDENTITY: ("113112", "Retain Institution Identity Option"),
    }
)
_COLUMNS = {
    "rtnSafePrivOpt": Option.RETAIN_SAFE_PRIVATE,
    "rtnUIDsOpt": Option.RETAIN_UIDS,
    "rtnDevIdOpt": Option.RETAIN_DEVICE_IDENTITY,
    "rtnInstIdOpt": Option.RETAIN_INSTITUTION_IDENTITY,
    "rtnPatCharsOpt": Option.RETAIN_PATIENT_CHARACTERISTICS,
    "rtnLongFullDatesOpt": Option.RETAIN_FULL_DATES,
    "rtnLongModifDatesOpt": Option.RETAIN_MODIFIED_DATES,
    "cleanDescOpt": Option.CLEAN_DESCRIPTORS,
    "cleanStructContOpt": Option.CLEAN_STRUCTURED_CONTENT,
    "cleanGraphOpt": Option.CLEAN_GRAPHICS,
}


@dataclass(frozen=True, slots=True)
class Row:
    """One attribute of Table E.1-1.

    Attributes:
        tag: group and element as one number.
        name: the standard's name.
        basic: the Basic Profile's cell, one action or several joined by ``/`` (``X/Z/U*``).
        options: the cells of the option columns that are filled.
    """

    tag: int
    name: str
    basic: str
    options: Mapping[Option, Action]


def read_table(name: str) -> bytes:
    """The bytes of a data file of this package."""
    return resources.files(TABLES).joinpath(name).read_bytes()


@cache
def table_hash() -> str:
    """SHA-256 over every data file that decides what happens to an element."""
    others = (
        "iod_attributes.json",
        "codes.json",
        "vocabulary.json",
        "descriptors.json",
        SAFE_PRIVATE,
    )
    names = (*TABLE_FILES, *others)
    return hashlib.sha256(b"".join(read_table(name) for name in names)).hexdigest()


@cache
def load_rows() -> Mapping[int, Row]:
    """All rows that name one tag; the patterns (odd groups, 50xx, 60xx) are rules of the engine."""
    rows: dict[int, Row] = {}
    for name in TABLE_FILES:
        for entry in json.loads(read_table(name)):
            row = _row(entry)
            if row is not None:
                rows[row.tag] = row
    return MappingProxyType(rows)


def _row(entry: Mapping[str, Any]) -> Row | None:
    try:
        tag = int(entry["id"], 16)
    except ValueError:
        return None
    options = {_COLUMNS[c]: Action(entry[c]) for c in _COLUMNS if entry.get(c)}
    return Row(tag, str(entry["name"]), str(entry["basicProfile"]), MappingProxyType(options))


def resolve(row: Row, options: frozenset[Option], kind: str) -> Action:
    """The one action for an attribute of this type in its IOD.

    An option that keeps beats one that cleans, and both beat the Basic Profile. A combination takes
    the first that leaves the object valid: X for type 3, Z for type 2, D for type 1. An X alone is
    a Z where the IOD has type 2: zero length says as little, and the object stays valid. References
    to images (``X/Z/U*``) always stay with new UIDs, so that they still lead somewhere.

    Args:
        row: the attribute's row.
        options: the options that were chosen.
        kind: PS3.5 7.4 type, ``1``, ``1C``, ``2``, ``2C`` or ``3``.

    Example:
        >>> resolve(load_rows()[0x00080022], frozenset(), "3")
        <Action.REMOVE: 'X'>
    """
    chosen = {row.options[option] for option in options if option in row.options}
    for action in (Action.KEEP, Action.CLEAN):
        if action in chosen:
            return action
    if row.basic.endswith("U*"):
        return Action.UID
    allowed = row.basic.split("/")
    if len(allowed) == 1:
        only = Action(allowed[0])
        if only is Action.REMOVE and kind.startswith("2"):
            return Action.EMPTY
        return Action.DUMMY if only is Action.EMPTY and kind.startswith("1") else only
    order = {"1": "DZX", "2": "ZDX", "3": "XZD"}[kind[0]]
    return Action(next(letter for letter in order if letter in allowed))
