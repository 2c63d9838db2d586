"""Holding what came out against the answer key.

Stricter than the public scorer in three points: a value that must go may not be anywhere in the
bytes of the output, pixels outside the burned boxes are compared one by one, and hidden pixels are
compared with the letters that were drawn.
"""

from __future__ import annotations

import io
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from pydicom import dcmread
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset
from pydicom.multival import MultiValue

from dicom_bridge.deid.glyphs import has_text
from tests.dicom_bridge.deid.answers.key import HIPAA, Action, Answer, Box, Expected

_STEP = re.compile(r"(\w+)(?:\[(\d+)\])?$")
_PRIVATE = re.compile(r"\(([0-9a-f]{4}),(.+),([0-9a-f]{2})\)$")
_WORD = re.compile(r"[^\W_]+")
# Words of sentences that say nothing, as in any stop list.
_STOP = frozenset(
    [
        "a",
        "after",
        "and",
        "by",
        "for",
        "from",
        "in",
        "of",
        "on",
        "or",
        "out",
        "rule",
        "status",
        "the",
        "to",
        "with",
        "without",
    ]
)
# Words of addresses, URLs and the like that identify nobody by themselves.
_PLAIN = frozenset(
    [
        "dr",
        "https",
        "org",
        "example",
        "mail",
        "portal",
        "road",
        "port",
        "village",
        "mayor",
        "radiology",
    ]
)
BYTES_FROM = 6
_WORDLIKE = frozenset(
    [
        "young",
        "brown",
        "hand",
        "rose",
        "hill",
        "king",
        "gray",
        "grace",
        "dawn",
        "charles",
        "robert",
        "marsh",
    ]
)


@dataclass(frozen=True, slots=True)
class Verdict:
    """What became of one expected action."""

    kind: str
    expected: Expected
    passed: bool
    found: str = ""


@dataclass(slots=True)
class Scores:
    """Verdicts over many objects.

    Attributes:
        verdicts: one per expected action of every object that came out.
        files: objects seen. out: objects that came out.
        held: objects with text burned in where no mask is known, held back as they must be.
        over_held: other objects that were held back, as kind, variant and reason.
        leaks: planted values found anywhere in the bytes of an output, as kind and value.
        uids: old UID to new. patients: old PatientID to new.
    """

    verdicts: list[Verdict] = field(default_factory=list)
    files: int = 0
    out: int = 0
    held: int = 0
    over_held: list[tuple[str, str, str]] = field(default_factory=list)
    leaks: list[tuple[str, str]] = field(default_factory=list)
    uids: dict[str, str] = field(default_factory=dict)
    patients: dict[str, str] = field(default_factory=dict)

    def take(self, answer: Answer, output: bytes | None, reason: str = "") -> None:
        """Score one object; no output means that it was held back for the reason."""
        self.files += 1
        if output is None:
            if answer.variant == "burned":
                self.held += 1
            else:
                self.over_held.append((answer.kind, answer.variant, reason))
            return
        self.out += 1
        after = dcmread(io.BytesIO(output))
        for expected in answer.expected:
            self.verdicts.append(self._verdict(answer, expected, after))
        self.leaks += [(answer.kind, secret) for secret in leaked(output, answer.secrets)]

    def _verdict(self, answer: Answer, expected: Expected, after: Dataset) -> Verdict:
        if expected.action in (Action.PIXELS_HIDDEN, Action.PIXELS_RETAINED):
            passed = _pixels(answer, expected, after)
            return Verdict(answer.kind, expected, passed, expected.action)
        element = find(after, expected.place)
        text = as_text(element)
        return Verdict(answer.kind, expected, self._passed(expected, element, text), text[:80])

    def _passed(self, expected: Expected, element: DataElement | None, text: str) -> bool:
        match expected.action:
            case Action.TAG_RETAINED:
                return element is not None
            case Action.TEXT_NOTNULL:
                return bool(text.strip())
            case Action.TEXT_RETAINED:
                return _retained(expected.value, text)
            case Action.TEXT_REMOVED:
                return _removed(expected, text)
            case Action.DATE_SHIFTED:
                return expected.value not in text
            case Action.UID_CHANGED:
                return bool(text) and text != expected.value
            case Action.UID_CONSISTENT:
                return bool(text) and self.uids.setdefault(expected.value, text) == text
            case _:
                return bool(text) and self.patients.setdefault(expected.value, text) == text

    @property
    def wrong(self) -> list[Verdict]:
        """What was not as expected."""
        return [verdict for verdict in self.verdicts if not verdict.passed]

    @property
    def share(self) -> float:
        """Share of expected actions that were done."""
        done = sum(verdict.passed for verdict in self.verdicts)
        return done / len(self.verdicts) if self.verdicts else 0.0

    @property
    def over_removed(self) -> int:
        """Places whose value or pixels had to stay and did not."""
        stay = (Action.TAG_RETAINED, Action.TEXT_NOTNULL, Action.TEXT_RETAINED)
        wanted = (*stay, Action.PIXELS_RETAINED)
        return sum(verdict.expected.action in wanted for verdict in self.wrong)

    def collisions(self) -> int:
        """How many different old UIDs or patients got one new name."""
        return sum(len(m) - len(set(m.values())) for m in (self.uids, self.patients))

    def table(self) -> str:
        """The figures as Markdown: by action, by IOD and by HIPAA letter."""
        by_action = ((str(v.expected.action), v) for v in self.verdicts)
        by_kind = ((v.kind, v) for v in self.verdicts)
        hipaa = [v for v in self.verdicts if v.expected.hipaa]
        by_letter = ((f"{v.expected.hipaa} {HIPAA[v.expected.hipaa]}", v) for v in hipaa)
        return "\n".join(
            (
                *_rows("action", by_action),
                *_rows("IOD", by_kind),
                *_rows("HIPAA kind", sorted(by_letter, key=lambda pair: pair[0])),
            )
        )


def _rows(title: str, pairs: Iterable[tuple[str, Verdict]]) -> list[str]:
    total: Counter[str] = Counter()
    done: Counter[str] = Counter()
    for name, verdict in pairs:
        total[name] += 1
        done[name] += verdict.passed
    lines = [f"| {title} | expected | done | share |", "|---|---:|---:|---:|"]
    for name, count in total.items():
        lines.append(f"| {name} | {count} | {done[name]} | {100 * done[name] / count:.2f} % |")
    return [*lines, ""]


def find(dataset: Dataset, place: str) -> DataElement | None:
    """The element at a place of a key, or None where it or its way is missing."""
    here = dataset
    *way, last = place.split(".") if not place.startswith("(") else [place]
    if "(" in place and not place.startswith("("):
        raise ValueError("private elements of a key stand at the top level")
    for step in way:
        match = _STEP.match(step)
        sequence = here.get(match[1]) if match else None
        number = int(match[2]) if match and match[2] else 0
        if not sequence or number >= len(sequence):
            return None
        here = sequence[number]
    private = _PRIVATE.match(last)
    if private:
        try:
            block = here.private_block(int(private[1], 16), private[2])
            return block[int(private[3], 16)]
        except KeyError:
            return None
    return here.data_element(last) if last in here else None


def as_text(element: DataElement | None) -> str:
    """The value as text, several ones joined by a backslash; empty where there is none."""
    if element is None or element.value is None:
        return ""
    value = element.value
    if isinstance(value, bytes):
        return value.decode("latin-1")
    if isinstance(value, MultiValue | list | tuple):
        return "\\".join(str(part) for part in value)
    return str(value)


def plain(text: str) -> str:
    """Without case and accents."""
    decomposed = unicodedata.normalize("NFKD", text)
    return "".join(c for c in decomposed if not unicodedata.combining(c)).casefold()


def _words(text: str) -> Counter[str]:
    return Counter(w for w in _WORD.findall(plain(text)) if w not in _STOP)


def _retained(wanted: str, text: str) -> bool:
    try:
        numbers = [float(part) for part in wanted.split("\\")]
        return numbers == [float(part) for part in text.split("\\")]
    except ValueError:
        return _words(wanted) <= _words(text)


def _removed(expected: Expected, text: str) -> bool:
    """Nothing of the value is left: not the whole, none of its numbers, none of its names."""
    if len(expected.value) > 3 and plain(expected.value) in plain(text):
        return False
    shortest = 2 if expected.hipaa == "A" else 3
    words = {w for w in _words(expected.value) if len(w) >= shortest and w not in _PLAIN}
    return not words & set(_words(text))


def leaked(output: bytes, secrets: Iterable[str]) -> list[str]:
    """Planted values that stand anywhere in a file, without case and accents, in two encodings."""
    views = (plain(output.decode("latin-1")), plain(output.decode("utf-8", "replace")))
    found = []
    for secret in secrets:
        text = plain(secret)
        if len(text) >= BYTES_FROM and text not in _WORDLIKE and any(text in v for v in views):
            found.append(secret)
    return found


def _pixels(answer: Answer, expected: Expected, after: Dataset) -> bool:
    """Burned boxes show no letter any more; everything else is as it was."""
    before = answer.dataset.pixel_array
    try:
        shown = after.pixel_array
    except (AttributeError, ValueError, RuntimeError):
        return False
    if before.shape != shown.shape:
        return False
    if expected.box is not None:
        return _hidden(before, shown, expected.box)
    boxes = [e.box for e in answer.expected if e.box is not None]
    outside = np.ones(before.shape, dtype=np.bool_)
    for box in boxes:
        outside[_place(box)] = False
    return bool(np.array_equal(before[outside], shown[outside]))


def _hidden(before: NDArray[np.generic], shown: NDArray[np.generic], box: Box) -> bool:
    old, new = _grey(before[_place(box)]), _grey(shown[_place(box)])
    if np.array_equal(old, new):
        return False
    if new.max() == new.min():
        return True
    letters = old == old.max()
    similar = np.corrcoef(letters.ravel(), new.ravel())[0, 1]
    return bool(abs(similar) < 0.1) and not has_text(new, dark=True)


def _grey(part: NDArray[np.generic]) -> NDArray[np.float64]:
    values = part.astype(np.float64)
    return values.max(axis=2) if values.ndim == 3 else values


def _place(box: Box) -> tuple[slice, slice]:
    return slice(box.top, box.top + box.height), slice(box.left, box.left + box.width)
