"""What must happen to a planted object: the ten actions of the MIDI-B challenge, place by place.

The kinds of action and their meaning follow the public scorer CBIIT/MIDI_validation_script (the
code is our own). The key is made while an object is planted, never from an output.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

from pydicom.dataset import Dataset


class Action(StrEnum):
    """What is expected of one place."""

    TAG_RETAINED = "tag_retained"
    TEXT_NOTNULL = "text_notnull"
    TEXT_RETAINED = "text_retained"
    TEXT_REMOVED = "text_removed"
    DATE_SHIFTED = "date_shifted"
    UID_CHANGED = "uid_changed"
    PIXELS_HIDDEN = "pixels_hidden"
    PIXELS_RETAINED = "pixels_retained"
    UID_CONSISTENT = "uid_consistent"
    PATID_CONSISTENT = "patid_consistent"


HIPAA = {
    "A": "names",
    "B": "places smaller than a state",
    "C": "dates, and ages of 90 or more",
    "D": "telephone numbers",
    "E": "fax numbers",
    "F": "e-mail addresses",
    "G": "social security numbers",
    "H": "medical record numbers",
    "I": "health plan numbers",
    "J": "account numbers",
    "K": "certificate and licence numbers",
    "L": "vehicle identifiers",
    "M": "device identifiers and serial numbers",
    "N": "URLs",
    "O": "IP addresses",
    "P": "biometric identifiers",
    "Q": "full-face images",
    "R": "any other unique identifier",
}


@dataclass(frozen=True, slots=True)
class Box:
    """A rectangle of pixels, from 0: first row, first column, rows, columns."""

    top: int
    left: int
    height: int
    width: int


@dataclass(frozen=True, slots=True)
class Expected:
    """One expected action.

    Attributes:
        action: which of the ten.
        place: path in the data set, ``Sequence[0].Keyword`` or ``(0029,CREATOR,10)``; empty for
            pixels.
        value: what stands there before: the text that must stay, or the one that must go.
        rule: the rule of PS3.15 Annex E that asks for it.
        hipaa: a letter of 45 CFR 164.514(b)(2)(i), empty where the value identifies nobody.
        box: for pixels.
    """

    action: Action
    place: str
    value: str = ""
    rule: str = ""
    hipaa: str = ""
    box: Box | None = None


@dataclass(slots=True)
class Answer:
    """A planted object and its key.

    Attributes:
        kind: short name of the IOD, for the table.
        variant: ``clean``, ``masked`` (text is burned in where the profile has a mask) or
            ``burned`` (text is burned in where no mask is known: it must not come out).
        dataset: the planted object.
        expected: its key.
        secrets: planted values that may stand nowhere in the bytes of the output.
        syntax: UID of the transfer syntax of the file.
        preamble: the file's first bytes.
    """

    kind: str
    variant: str
    dataset: Dataset
    expected: list[Expected] = field(default_factory=list)
    secrets: set[str] = field(default_factory=set)
    syntax: str = "1.2.840.10008.1.2.1"
    preamble: bytes = b""
