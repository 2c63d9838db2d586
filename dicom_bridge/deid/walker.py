"""One walk over the elements of one object: rules are applied, what may stay is written."""

from __future__ import annotations

import struct
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import lru_cache
from typing import NamedTuple

from dicom_bridge.deid import codec, values
from dicom_bridge.deid.codec import LONG_VRS, UNDEFINED, Element
from dicom_bridge.deid.identifiers import (
    NUMBER_TAGS,
    PLACE_TAGS,
    name_parts,
    number_token,
    phrases,
)
from dicom_bridge.deid.pixels import ENCODINGS, ImageFacts, clean_fragments, native_pixels
from dicom_bridge.deid.private import safe_vr
from dicom_bridge.deid.pseudonym import Pseudonymizer
from dicom_bridge.deid.rules import (
    CODE_MEANING,
    CODE_SCHEME,
    CODE_VALUE,
    CONTENT_SEQUENCE,
    Method,
    Node,
    Rule,
    private_rule,
    technical_rule,
)
from dicom_bridge.deid.values import BINARY_SIZES, DUMMIES, Verdict
from dicom_bridge.errors import DataRefused

SHORT = 128
_NOTED = NUMBER_TAGS | PLACE_TAGS
LARGEST_CACHE = 20000
ITEM_START = struct.pack("<HHI", 0xFFFE, 0xE000, UNDEFINED)
ITEM_STOP = struct.pack("<HHI", 0xFFFE, 0xE00D, 0)
SEQUENCE_STOP = struct.pack("<HHI", 0xFFFE, 0xE0DD, 0)
_SHORT_HEAD = struct.Struct("<HH2sH")
_LONG_HEAD = struct.Struct("<HH2sHI")
_TEXTS, _CODE_STRING = (
    frozenset({b"LO", b"SH"}),
    frozenset({b"CS"}),
)  # codes that some write as text
_DUMMY_FREE = frozenset({b"US", b"SS", b"UL", b"SL", b"FL", b"FD", b"DS", b"IS", b"AT", b"SQ"})


class Outcome(NamedTuple):
    """What becomes of one element: bytes to write (none where it goes), text to check, letter."""

    chunk: bytes | None
    text: str
    letter: str


class Candidate(NamedTuple):
    """A written value that must not hold an identifier: its place, its rule and its text."""

    place: int
    tag: int
    vr: bytes
    rule: Rule
    text: str


@dataclass(frozen=True, slots=True)
class Patient:
    """What of the patient the walk needs: the new name, and the days by which dates move."""

    pseudonym: bytes
    days: int


@dataclass(slots=True)
class Memory:
    """What one engine remembers between objects: short values and what became of them."""

    pseudonymizer: Pseudonymizer
    safe_private: bool
    keep_places: bool
    outcomes: dict[tuple[Rule, bytes, bytes], Outcome] = field(default_factory=dict)

    def keep(self, key: tuple[Rule, bytes, bytes], outcome: Outcome) -> None:
        """Remember one outcome; everything is forgotten when the memory is full."""
        if len(self.outcomes) >= LARGEST_CACHE:
            self.outcomes.clear()
        self.outcomes[key] = outcome


def encode(tag: int, vr: bytes, value: bytes) -> bytes:
    """One element in explicit VR little endian.

    Raises:
        DataRefused: the value is too long for its VR.
    """
    padded = values.pad(vr, value)
    if vr in LONG_VRS:
        return _LONG_HEAD.pack(tag >> 16, tag & 0xFFFF, vr, 0, len(padded)) + padded
    if len(padded) > 0xFFFF:
        raise DataRefused("a value is too long for explicit encoding")
    return _SHORT_HEAD.pack(tag >> 16, tag & 0xFFFF, vr, len(padded)) + padded


def sequence_head(tag: int, vr: bytes = b"SQ") -> bytes:
    """The header of a sequence or of encapsulated pixel data of undefined length."""
    return _LONG_HEAD.pack(tag >> 16, tag & 0xFFFF, vr, 0, UNDEFINED)


class Walker:
    """Applies rules to the elements of one object.

    Args:
        body: the encoded data set.
        memory: what is remembered between objects.
        patient: new name and day offset.
        facts: what the header says about the pixels.
        syntax: transfer syntax of the body.
        painted: native pixel data to write in the place of the object's own, None for its own.
    """

    def __init__(
        self,
        body: bytes,
        memory: Memory,
        patient: Patient,
        facts: ImageFacts,
        syntax: str,
        painted: bytes | None = None,
    ) -> None:
        self.out: list[bytes | memoryview] = []
        self.letters: Counter[str] = Counter()
        self.candidates: list[Candidate] = []
        self.names: set[str] = set()
        self.numbers: set[str] = set()
        self.places: set[str] = set()
        self.standard: set[str] = set()  # words of the standard's own meanings that were written
        self.stored: bytes | memoryview | None = None
        self._body = body
        self._memory = memory
        self._patient = patient
        self._facts = facts
        self._syntax = syntax
        self._painted = painted

    def walk(
        self, part: Iterable[Element], node: Node, siblings: dict[int, Element], depth: int = 0
    ) -> None:
        """Treat elements of one data set, in order.

        Args:
            part: the elements to treat.
            node: the rules of this place.
            siblings: all elements of the same data set.
            depth: how many sequences enclose it.
        """
        body, out, letters, rules = self._body, self.out, self.letters, node.rules
        outcomes = self._memory.outcomes
        for element in part:
            tag, vr, start, end = element[:4]
            if vr == b"PN" or tag in _NOTED:
                self._note(tag, body[start:end])
            rule = rules.get(tag)
            if rule is None:
                rule = self._other_rule(element, node, siblings)
                if rule is None:
                    letters["X"] += 1
                    self._look_into(element, depth)
                    continue
                if vr == b"UN":
                    (vr,) = rule.vrs  # a safe private element: the table says its VR
            if vr not in rule.vrs or rule.method > Method.UID:
                self._special(element, rule, siblings, depth)
                continue
            if end - start > SHORT:
                outcome = self._judge(tag, vr, rule, body[start:end])
            else:
                key = (rule, vr, body[start:end])
                known = outcomes.get(key)
                outcome = known or self._judge(tag, vr, rule, key[2])
                if known is None:
                    self._memory.keep(key, outcome)
            chunk, text, letter = outcome
            letters[letter] += 1
            if chunk is not None:
                if text:
                    self.candidates.append(Candidate(len(out), tag, vr, rule, text))
                out.append(chunk)

    def check(self) -> int:
        """Take back every written value that holds an identifier; says how many there were."""
        long = [token for token in self.names | self.numbers | self.places if len(token) >= 5]
        short = {token for token in self.names | self.numbers if len(token) < 5}
        hits = 0

        def holds(text: str) -> bool:
            return any(token in text for token in long) or bool(short and short & _split(text))

        for place, tag, vr, rule, text in self.candidates:
            if holds(text):
                chunk = self._without(place, tag, vr, rule, holds)
                self.out[place] = chunk if chunk is not None else b""
                hits += 1
        return hits

    def _without(
        self, place: int, tag: int, vr: bytes, rule: Rule, holds: Callable[[str], bool]
    ) -> bytes | None:
        """A cleaned text without the words that identify; nothing of any other value."""
        if rule.judge is values.cleaned_text:
            head = _LONG_HEAD.size if vr in LONG_VRS else _SHORT_HEAD.size
            verdict = values.cleaned_text(bytes(self.out[place])[head:], holds)
            if verdict.value is not None and not holds(verdict.text):
                return encode(tag, vr, verdict.value)
        return _fallback(tag, vr, rule).chunk

    def _judge(self, tag: int, vr: bytes, rule: Rule, raw: bytes) -> Outcome:
        """A value whose fate depends on nothing but itself (and the project's secret)."""
        method = rule.method
        if method is Method.EMPTY:
            return Outcome(encode(tag, vr, b""), "", "Z")
        if not raw:
            return Outcome(encode(tag, vr, b""), "", "K")
        if method is Method.DUMMY:
            return Outcome(encode(tag, vr, DUMMIES.get(vr, b"")), "", "D")
        if method is Method.RAW:
            size = BINARY_SIZES.get(vr, 1)
            verdict = Verdict(raw if len(raw) % size == 0 else None)
        elif method is Method.UID:
            verdict = self._uids(raw)
        else:
            verdict = rule.judge(raw) if rule.judge is not None else values.REFUSED
        if verdict.value is None:
            return _fallback(tag, vr, rule)
        letter = rule.label
        if method is Method.UID:
            letter = "K" if verdict.value == raw.rstrip(b"\0 ") else "U"
        return Outcome(encode(tag, vr, verdict.value), verdict.text, letter)

    def _uids(self, raw: bytes) -> Verdict:
        parts = values.uid_text(raw)
        if parts is None:
            return values.REFUSED
        new = self._memory.pseudonymizer.uid
        return Verdict("\\".join(new(part) if part else "" for part in parts).encode())

    def _special(
        self, element: Element, rule: Rule, siblings: dict[int, Element], depth: int
    ) -> None:
        """Elements whose fate depends on their neighbours, the patient, or what they contain."""
        tag, vr, start, end = element[:4]
        if vr in _TEXTS and rule.vrs == _CODE_STRING and rule.method is Method.JUDGE:
            outcome = self._judge(tag, b"CS", rule, self._body[start:end])
        elif vr not in rule.vrs:
            outcome = _fallback(tag, min(rule.vrs), rule)
        elif rule.method is Method.SEQUENCE:
            self._sequence(element, rule, depth)
            return
        elif rule.method is Method.PIXELS:
            self._pixels(element)
            return
        elif rule.method is Method.PATIENT:
            outcome = Outcome(encode(tag, vr, self._patient.pseudonym), "", rule.label)
        elif rule.method is Method.DUMMY_ITEM:
            outcome = Outcome(_dummy_item(tag), "", "D")
        else:
            outcome = self._dated_or_meaning(element, rule, siblings, self._body[start:end])
        self.letters[outcome.letter] += 1
        if outcome.chunk is not None:
            if outcome.text:
                place = len(self.out)
                self.candidates.append(Candidate(place, tag, vr, rule, outcome.text))
            self.out.append(outcome.chunk)

    def _dated_or_meaning(
        self, element: Element, rule: Rule, siblings: dict[int, Element], raw: bytes
    ) -> Outcome:
        if rule.method is Method.DATE:
            verdict = values.shift_date(raw, self._patient.days)
        else:
            scheme = self._sibling(siblings, CODE_SCHEME)
            verdict = values.code_meaning(scheme, self._sibling(siblings, CODE_VALUE), raw)
            if verdict.value is not None and not verdict.text:
                self.standard |= _split(values.fold(verdict.value.decode("ascii")))
        if verdict.value is None:
            return _fallback(element.tag, element.vr, rule)
        return Outcome(encode(element.tag, element.vr, verdict.value), verdict.text, rule.label)

    def _sibling(self, siblings: dict[int, Element], tag: int) -> bytes:
        found = siblings.get(tag)
        return self._body[found.start : found.end] if found is not None else b""

    def _sequence(self, element: Element, rule: Rule, depth: int) -> None:
        if depth >= codec.DEEPEST:
            raise DataRefused(f"sequences are nested more than {codec.DEEPEST} deep")
        self.letters[rule.label] += 1
        if element.end == element.start or rule.child is None:
            self.out.append(encode(element.tag, b"SQ", b""))
            return
        self.out.append(sequence_head(element.tag))
        for item in codec.items(self._body, element, depth):
            self.out.append(ITEM_START)
            self.walk(item.values(), rule.child, item, depth + 1)
            self.out.append(ITEM_STOP)
        self.out.append(SEQUENCE_STOP)

    def _pixels(self, element: Element) -> None:
        self.letters["K" if self._painted is None else "C"] += 1
        body, tag, vr = self._body, element.tag, element.vr
        if self._painted is not None:
            padded = self._painted + b"\0" * (len(self._painted) % 2)
            vr = vr if tag != codec.PIXEL_DATA else b"OW"
            self.out.append(_LONG_HEAD.pack(tag >> 16, tag & 0xFFFF, vr, 0, len(padded)))
            self.out.append(padded)
            self.stored = self._painted
            return
        if not element.undefined:
            stored = native_pixels(memoryview(body)[element.start : element.end], self._facts)
            self.out.append(_LONG_HEAD.pack(tag >> 16, tag & 0xFFFF, vr, 0, len(stored)))
            self.out.append(stored)
            self.stored = stored
            return
        encoding = ENCODINGS.get(self._syntax)
        if encoding is None:
            raise DataRefused("this compression of pixel data is not supported: video or unknown")
        spans = codec.fragments(body, element)
        if len(spans) - 1 < self._facts.frames:
            raise DataRefused("there are fewer compressed frames than the header says")
        self.out.append(sequence_head(tag, b"OB"))
        for fragment in clean_fragments(body, spans, encoding):
            self.out.append(struct.pack("<HHI", 0xFFFE, 0xE000, len(fragment)))
            self.out.append(fragment)
        self.out.append(SEQUENCE_STOP)

    def _other_rule(
        self, element: Element, node: Node, siblings: dict[int, Element]
    ) -> Rule | None:
        """Public technical numbers at top level, and known-safe private elements."""
        tag = element.tag
        if tag & 0x10000:
            return self._safe_private(element, siblings) if self._memory.safe_private else None
        return _technical(tag) if node.top else None

    def _safe_private(self, element: Element, siblings: dict[int, Element]) -> Rule | None:
        tag = element.tag
        number = tag & 0xFFFF
        if 0x10 <= number <= 0xFF:
            creator = (
                self._body[element.start : element.end].decode("ascii", "replace").strip(" \0")
            )
            block = (tag & 0xFFFF0000) | number << 8
            known = any(
                block <= other.tag <= block | 0xFF
                and other.vr in (safe_vr(other.tag, creator), b"UN")
                and safe_vr(other.tag, creator) is not None
                for other in siblings.values()
            )
            return private_rule(b"LO") if known and element.vr in (b"LO", b"UN") else None
        name = siblings.get((tag & 0xFFFF0000) | (number >> 8))
        if name is None or element.undefined:
            return None
        creator = self._body[name.start : name.end].decode("ascii", "replace").strip(" \0")
        vr = safe_vr(tag, creator)
        return private_rule(vr) if vr is not None and element.vr in (vr, b"UN") else None

    def _note(self, tag: int, raw: bytes) -> None:
        if tag in NUMBER_TAGS:
            self.numbers |= _number_tokens(raw)
        elif tag in PLACE_TAGS:
            self.places |= set() if self._memory.keep_places else phrases([_decoded(raw)])
        else:
            self.names |= _name_tokens(raw)

    def _look_into(self, element: Element, depth: int) -> None:
        """Identifiers inside a sequence that goes."""
        if element.vr != b"SQ" or element.tag & 0x10000 or element.end == element.start:
            return
        if depth >= codec.DEEPEST:
            raise DataRefused(f"sequences are nested more than {codec.DEEPEST} deep")
        for item in codec.items(self._body, element, depth):
            for inner in item.values():
                if inner.vr == b"PN" or inner.tag in _NOTED:
                    self._note(inner.tag, self._body[inner.start : inner.end])
                else:
                    self._look_into(inner, depth + 1)


@lru_cache(maxsize=4096)
def _technical(tag: int) -> Rule | None:
    return technical_rule(tag)


def _fallback(tag: int, vr: bytes, rule: Rule) -> Outcome:
    """What is written where a value may not stay: by type, nothing that could mislead."""
    if rule.kind == "1" and vr not in _DUMMY_FREE and vr in DUMMIES:
        return Outcome(encode(tag, vr, DUMMIES[vr]), "", "D")
    if rule.kind == "2":
        return Outcome(encode(tag, vr, b""), "", "Z")
    return Outcome(None, "", "X")


def _dummy_item(tag: int) -> bytes:
    """A sequence with one item that says nothing: a comment for documents, a code otherwise."""
    code = (
        encode(CODE_VALUE, b"SH", b"REMOVED"),
        encode(CODE_SCHEME, b"SH", b"99CLINODE"),
        encode(CODE_MEANING, b"LO", b"REMOVED"),
    )
    parts = [sequence_head(tag), ITEM_START]
    if tag == CONTENT_SEQUENCE:
        parts += [encode(0x0040A010, b"CS", b"CONTAINS"), encode(0x0040A040, b"CS", b"TEXT")]
        parts += [sequence_head(0x0040A043), ITEM_START, encode(CODE_VALUE, b"SH", b"121106")]
        parts += [encode(CODE_SCHEME, b"SH", b"DCM"), encode(CODE_MEANING, b"LO", b"Comment")]
        parts += [ITEM_STOP, SEQUENCE_STOP, encode(0x0040A160, b"UT", b"REMOVED")]
    else:
        parts += code
    return b"".join([*parts, ITEM_STOP, SEQUENCE_STOP])


@lru_cache(maxsize=1024)
def _name_tokens(raw: bytes) -> frozenset[str]:
    return frozenset(name_parts(_decoded(raw)))


@lru_cache(maxsize=1024)
def _number_tokens(raw: bytes) -> frozenset[str]:
    return frozenset(t for part in _decoded(raw).split("\\") if (t := number_token(part)))


def _decoded(raw: bytes) -> str:
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError:
        return raw.decode("latin-1")


@lru_cache(maxsize=4096)
def _split(text: str) -> frozenset[str]:
    word = "".join(c if c.isalnum() else " " for c in text)
    return frozenset(word.split())
