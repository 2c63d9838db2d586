"""What identifies a patient: names, numbers and dates to look for in anything that comes out."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field

from pydicom.dataset import Dataset
from pydicom.multival import MultiValue

from dicom_bridge.deid.values import VENDORS, fold

SHORTEST_NAME = 3
SHORTEST_NUMBER = 4
SHORTEST_PHRASE = 6
NUMBER_TAGS = frozenset(
    {
        *(0x00100020, 0x00101000, 0x00080050, 0x00101080, 0x00102154, 0x00402016),
        *(0x00402017, 0x00401001, 0x00400253, 0x00380010, 0x00101090),
    }
)
PLACE_TAGS = frozenset({0x00080080, 0x00080081, 0x00081040, 0x00101040, 0x00102152})
DATE_TAGS = frozenset({0x00100030, 0x00080020, 0x00080021, 0x00080022, 0x00080023})
_LETTERS = re.compile(r"[^\W\d_]+")
_EMPTY_WORDS = frozenset(
    (
        *("anonymous", "anonymized", "anonymised", "anon", "removed", "unknown", "none", "null"),
        *("test", "patient", "name", "phantom", "the", "and", "von", "van", "der", "den", "del"),
        *("dos", "mrs", "prof"),
    )
)


@dataclass(frozen=True, slots=True, repr=False)
class Identifiers:
    """A patient's identifiers, for comparison only; the representation shows none.

    Attributes:
        names: parts of names, folded, three letters or more.
        ids: numbers as they were given (patient, accession, ...), four characters or more.
        dates: as YYYYMMDD.
        others: phrases such as institution and address, folded; found only as a whole.
    """

    names: frozenset[str] = field(default_factory=frozenset)
    ids: frozenset[str] = field(default_factory=frozenset)
    dates: frozenset[str] = field(default_factory=frozenset)
    others: frozenset[str] = field(default_factory=frozenset)

    def __repr__(self) -> str:
        """Counts only."""
        counts = (len(self.names), len(self.ids), len(self.dates), len(self.others))
        return "Identifiers({} names, {} ids, {} dates, {} others)".format(*counts)

    def __or__(self, other: Identifiers) -> Identifiers:
        """All identifiers of both."""
        return Identifiers(
            self.names | other.names,
            self.ids | other.ids,
            self.dates | other.dates,
            self.others | other.others,
        )

    @classmethod
    def from_datasets(cls, datasets: Iterable[Dataset]) -> Identifiers:
        """Collect from headers, at every nesting level.

        Args:
            datasets: original headers of one or several patients.
        """
        names: set[str] = set()
        ids: set[str] = set()
        dates: set[str] = set()
        others: set[str] = set()
        for dataset in datasets:
            for element in dataset.iterall():
                tag, texts = int(element.tag), _texts(element.value)
                if element.VR == "PN":
                    names |= {part for text in texts for part in name_parts(text)}
                elif tag in NUMBER_TAGS:
                    ids |= {n for text in texts if (n := number_token(text))}
                elif tag in PLACE_TAGS:
                    others |= phrases(texts)
                elif tag in DATE_TAGS:
                    dates |= {t[:8] for text in texts if _is_date(t := text.strip())}
        return cls(frozenset(names), frozenset(ids), frozenset(dates), frozenset(others))


def name_parts(text: str) -> set[str]:
    """The parts of a person's name that are worth looking for, folded.

    Example:
        >>> sorted(name_parts("Müller-Lüdenscheidt^Karl^^Dr"))
        ['karl', 'ludenscheidt', 'muller']
    """
    words = (fold(word) for word in _LETTERS.findall(text))
    return {w for w in words if len(w) >= SHORTEST_NAME and w not in _EMPTY_WORDS}


def number_token(text: str) -> str:
    """A number of a patient or a visit that is worth looking for; empty where it is not."""
    value = fold(text.strip(" \0"))
    if len(value) < SHORTEST_NUMBER or len(set(value)) == 1 or value in _EMPTY_WORDS:
        return ""
    return value


def phrases(texts: Iterable[str]) -> set[str]:
    """Names of places that are long enough to look for as a whole, folded.

    A manufacturer's name is none: where it stands for the hospital it also stands for the device.
    """
    stripped = (text.strip(" \0") for text in texts)
    return {fold(t) for t in stripped if len(t) >= SHORTEST_PHRASE and fold(t) not in VENDORS}


def _texts(value: object) -> list[str]:
    if value is None:
        return []
    if isinstance(value, MultiValue | list | tuple):
        return [str(part) for part in value]
    return [str(value)]


def _is_date(text: str) -> bool:
    return len(text) >= 8 and text[:8].isdigit() and not text.startswith(("0000", "0001", "1900"))
