"""Descriptions reduced to what says nothing about anybody (PS3.15 Clean Descriptors).

A word stays if it stands in a closed vocabulary: the words of coded concepts and of what
departments call their examinations and series. Of these, words that are also common names of
persons stay only in a phrase that makes them clinical (white matter). Numbers stay if they are
short, stand alone and are no part of a date or of a telephone number. Everything else goes; what
stays is spelled as it was.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from functools import cache
from itertools import pairwise
from typing import NamedTuple

from dicom_bridge.deid.table import read_table

_TOKEN = re.compile(r"\d+(?:\.\d+)?[^\W\d_]*|[^\W\d_][^\W_]*")
_NUMBER = re.compile(r"\d{1,2}(?:\.\d{1,3})?")
_MEASURE = re.compile(
    r"\d{1,4}(?:\.\d{1,3})?"
    r"(?:mm|cm|ms|sec|min|ml|mg|kv|kvp|mas|hz|mhz|deg|ph|slc|sl|ch|dir|fps|t|s|d|w|x|f|iso|view|views|vw)"
)
_MARK = re.compile(
    r"(?:[a-z]|te|tr|ti|fa|gd|sl|br|bf|bv|bl|hr|qr|fl|ge|se|ep|ph|dyn|dir|mb)\d{1,2}[a-z]?"
)
_B_VALUE = re.compile(r"b\d{1,4}s?|te\d{1,3}|ti\d{1,4}|tr\d{1,4}")
_JOINT = re.compile(r"[ _\-/.,:;+*&=]{1,2}")


class Token(NamedTuple):
    """A word or number of a text: its spelling, its folded form, where it stands, its length."""

    text: str
    word: str
    start: int
    end: int


@cache
def _lists() -> dict[str, frozenset[str]]:
    document: dict[str, list[str]] = json.loads(read_table("descriptors.json"))["lists"]
    return {name: frozenset(words) for name, words in document.items()}


def clean_description(
    text: str, known: frozenset[str], forbidden: Callable[[str], bool] = lambda _word: False
) -> str:
    """What of a description may stay, in its order and spelling; empty where nothing may.

    Args:
        text: the description; letters outside ASCII make a word unknown.
        known: folded words of the coded vocabularies.
        forbidden: says of a folded word that it is one of the patient's identifiers.

    Example:
        >>> clean_description("MR BRAIN Dr. Kaufman 3/5/2021 AX T2 3mm", frozenset())
        'MR BRAIN AX T2 3mm'
        >>> clean_description("white matter, Dr. White", frozenset({"matter"}))
        'white matter'
    """
    tokens = list(_tokens(text))
    kept: list[Token] = []
    for index, token in enumerate(tokens):
        after = tokens[index + 1].word if index + 1 < len(tokens) else ""
        before = tokens[index - 1].word if index else ""
        numeric = token.word[0].isdigit()
        if forbidden(token.word):
            continue
        if (
            _number_stays(tokens, index)
            if numeric
            else _word_stays(token.word, before, after, known)
        ):
            kept.append(token)
    if not any(len(token.word) > 1 and not token.word.isdigit() for token in kept):
        return ""
    return _joined(text, kept)


def _tokens(text: str) -> Iterator[Token]:
    for match in _TOKEN.finditer(text):
        yield Token(match.group(), match.group().lower(), match.start(), match.end())


def _word_stays(word: str, before: str, after: str, known: frozenset[str]) -> bool:
    lists = _lists()
    if word in lists["names"]:
        return f"{word} {after}" in lists["phrases"] or f"{before} {word}" in lists["phrases"]
    if word in lists["words"]:
        return True
    if len(word) < 3:
        return _MARK.fullmatch(word) is not None
    return word in known or any(p.fullmatch(word) for p in (_MARK, _B_VALUE))


def _number_stays(tokens: list[Token], index: int) -> bool:
    """Short numbers and measures that do not continue in another number."""
    token = tokens[index]
    if token.word in _lists()["words"] or _MEASURE.fullmatch(token.word):
        return True
    if not _NUMBER.fullmatch(token.word):
        return False
    for near in (index - 1, index + 1):
        if 0 <= near < len(tokens) and tokens[near].word[0].isdigit():
            other = tokens[near]
            gap = max(other.start - token.end, token.start - other.end)
            if gap <= 2 and not _MEASURE.fullmatch(other.word):
                return False
    return True


def _joined(text: str, kept: list[Token]) -> str:
    """The kept words with what stood between neighbours, where that is plain punctuation."""
    parts = [kept[0].text]
    for before, token in pairwise(kept):
        between = text[before.end : token.start]
        parts.append(between if _JOINT.fullmatch(between) else " ")
        parts.append(token.text)
    return "".join(parts)
