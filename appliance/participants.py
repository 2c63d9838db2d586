"""What of a person the site's policy lets into the research zone: sex and age, nothing else.

The values are read on the identified side and cross as one small file per session
(``*_person.json``); ``participants.tsv`` and ``sessions.tsv`` (BIDS 1.10, "Participants file",
"Sessions file") are made from those files alone, so that a withdrawal leaves nothing behind.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date, datetime
from pathlib import Path
from types import MappingProxyType
from typing import Literal

from pydicom.dataset import Dataset

from federation.canonical import JSON

Trait = Literal["sex", "age"]

PERSON_SUFFIX = "_person.json"
OLDEST = 89
"""Ages above this are given as this one (BIDS 1.10; HIPAA 45 CFR 164.514(b)(2)(i)(C))."""

ABSENT = "n/a"
_AGE = re.compile(r"(\d{3})([DWMY])")
_DATE = re.compile(r"\d{8}")
_PER_YEAR = {"D": 365.25, "W": 52.18, "M": 12.0, "Y": 1.0}


@dataclass(frozen=True, slots=True)
class Policy:
    """What may cross, and how coarse.

    Attributes:
        traits: which values; empty lets nothing through.
        age_step_years: ages are rounded down to multiples of this.

    Examples:
        >>> Policy(("age",), 5).age(47.3), Policy(("age",), 5).age(97.0)
        (45, 89)
    """

    traits: tuple[Trait, ...] = ()
    age_step_years: int = 5

    def age(self, years: float) -> int:
        """An age as it may cross, in years."""
        if years >= OLDEST:
            return OLDEST
        return int(years // self.age_step_years) * self.age_step_years


def person_of(header: Dataset, policy: Policy) -> dict[str, JSON]:
    """What crosses of the person in a header; values that are absent or odd are left out.

    Args:
        header: an original header (identified side).
        policy: the site's.

    Returns:
        ``sex`` ("F", "M" or "O") and ``age`` (whole years, coarse), as far as allowed and known.
    """
    found: dict[str, JSON] = {}
    sex = str(header.get("PatientSex") or "").strip().upper()
    if "sex" in policy.traits and sex in ("F", "M", "O"):
        found["sex"] = sex
    years = _years(header)
    if "age" in policy.traits and years is not None:
        found["age"] = policy.age(years)
    return found


def _years(header: Dataset) -> float | None:
    """Age at the study: from birth and study date, else from PatientAge (VR AS)."""
    born, seen = (_day(header.get(name)) for name in ("PatientBirthDate", "StudyDate"))
    if born is not None and seen is not None and born <= seen:
        birthday_to_come = (seen.month, seen.day) < (born.month, born.day)
        return float(seen.year - born.year - birthday_to_come)
    stated = _AGE.fullmatch(str(header.get("PatientAge") or "").strip())
    return None if stated is None else int(stated[1]) / _PER_YEAR[stated[2]]


def _day(value: object) -> date | None:
    text = str(value or "").strip()
    if not _DATE.fullmatch(text):
        return None
    try:
        return datetime.strptime(text, "%Y%m%d").date()  # noqa: DTZ007 - a day has no zone
    except ValueError:
        return None


def tables(persons: Mapping[str, Mapping[str, Mapping[str, JSON]]]) -> dict[Path, str]:
    """``participants.tsv`` and one ``sessions.tsv`` per subject where anything is known of visits.

    Args:
        persons: subject (``sub-...``) to session (``ses-...``) to what crossed of the person.

    Returns:
        File below the BIDS folder to its text. A person's age is the one at her first session by
        age; a sex that differs between sessions is not given.
    """
    values = [person for sessions in persons.values() for person in sessions.values()]
    traits = [name for name in ("age", "sex") if any(name in person for person in values)]
    rows = [["participant_id", *traits, "sessions"]]
    made: dict[Path, str] = {}
    for subject, sessions in sorted(persons.items()):
        known = {name: _known(sessions, name) for name in traits}
        rows.append([subject, *(known[name] for name in traits), str(len(sessions))])
        if "age" in traits:
            visits = [
                [session, str(person.get("age", ABSENT))]
                for session, person in sorted(sessions.items())
            ]
            made[Path(subject) / f"{subject}_sessions.tsv"] = _tsv([["session_id", "age"], *visits])
    return {Path("participants.tsv"): _tsv(rows), **made}


def _known(sessions: Mapping[str, Mapping[str, JSON]], trait: str) -> str:
    values = [person[trait] for person in sessions.values() if trait in person]
    if trait == "age":
        ages = [value for value in values if isinstance(value, int)]
        return str(min(ages)) if ages else ABSENT
    return str(values[0]) if len(set(map(str, values))) == 1 else ABSENT


def _tsv(rows: list[list[str]]) -> str:
    return "".join("\t".join(row) + "\n" for row in rows)


_AGE_WORDS = f"rounded down to steps that the site sets; {OLDEST} and older is {OLDEST}"

SESSION_COLUMNS: Mapping[str, JSON] = MappingProxyType(
    {
        "session_id": {"Description": "Session"},
        "age": {"Description": f"Age at the session, {_AGE_WORDS}", "Units": "year"},
    }
)
"""``sessions.json``, which holds for the sessions' tables of all subjects."""


def columns() -> dict[str, JSON]:
    """``participants.json``: what the columns mean."""
    return {
        "participant_id": {"Description": "Pseudonym, valid inside this project only"},
        "age": {"Description": f"Age at the first session, {_AGE_WORDS}", "Units": "year"},
        "sex": {
            "Description": "PatientSex as the PACS has it",
            "Levels": {"F": "female", "M": "male", "O": "other"},
        },
        "sessions": {"Description": "Number of sessions (studies and their kept versions)"},
    }


def read_person(path: Path) -> dict[str, JSON]:
    """What crossed of a person, from her session's file; nothing where it is absent or odd."""
    try:
        document = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}
    if not isinstance(document, dict):
        return {}
    kept: dict[str, JSON] = {}
    if document.get("sex") in ("F", "M", "O"):
        kept["sex"] = document["sex"]
    age = document.get("age")
    if isinstance(age, int) and not isinstance(age, bool) and 0 <= age <= OLDEST:
        kept["age"] = age
    return kept
