"""De-identification as rows of a conformance statement (PS3.2 Annex N, Table N.11-6).

Made from the compiled rules of every SOP class, not from the table alone: what a row says is what
the engine does.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from pydicom.datadict import dictionary_VR

from dicom_bridge.deid.profile import Profile
from dicom_bridge.deid.rules import (
    DOCUMENT,
    OURS,
    PATIENT_TAGS,
    Method,
    Node,
    Rule,
    compile_rules,
    sop_classes,
)
from dicom_bridge.deid.table import Action, Option, Row, load_rows
from dicom_bridge.deid.values import DUMMIES
from dicom_bridge.errors import DataRefused

NOT_ENCRYPTED = "no"
PATTERNS = (
    ("Curve data", "(50xx,xxxx)"),
    ("Overlay planes", "(60xx,xxxx)"),
    ("Data Set Trailing Padding", "(FFFC,FFFC)"),
    ("Unknown elements, VR UN", "any"),
    ("Elements that the IOD does not have at this place", "any"),
)
_ORDER = "XZDUCK"
_CLEANED = {"TM": "the time of day stays, its date moves", "AS": "more than 90 years become 90"}


@dataclass(frozen=True, slots=True)
class StatementRow:
    """One attribute of Table N.11-6.

    Attributes:
        name: the standard's name.
        tag: ``(gggg,eeee)``.
        action: letters of PS3.15 Table E.1-1a; several where the type in the IOD decides.
        encrypted: whether the original value is in the object in encrypted form.
        dummy: how a value that takes the place of the original is made; empty where none is.
        integrity: within what the same original gets the same value; empty where none is left.
    """

    name: str
    tag: str
    action: str
    encrypted: str
    dummy: str
    integrity: str


def elements_and_actions(profile: Profile) -> list[StatementRow]:
    """All attributes of Table E.1-1 with what this profile does to them, in the order of tags.

    The rows after them say what the patterns of the table and the default deny do.

    Args:
        profile: options and rules in force.
    """
    rules = _rules_by_tag(profile)
    rows = [_row(row, rules.get(tag, set()), profile) for tag, row in sorted(load_rows().items())]
    return [*rows, *_patterns(profile)]


def _row(row: Row, found: set[tuple[Action, Method]], profile: Profile) -> StatementRow:
    tag = f"({row.tag >> 16:04X},{row.tag & 0xFFFF:04X})"
    if row.tag in OURS:
        return StatementRow(row.name, tag, "D", NOT_ENCRYPTED, "what de-identification did", "")
    letters = {str(action) for action, _ in found} or {"X"}
    dummies = [text for action, method in found if (text := _dummy(row.tag, action, method))]
    kept = {Action.UID, Action.CLEAN, Action.KEEP} & {action for action, _ in found}
    consistent = kept or row.tag in PATIENT_TAGS
    scope = "as in the original" if kept == {Action.KEEP} else _scope(profile)
    return StatementRow(
        name=row.name,
        tag=tag,
        action="/".join(sorted(letters, key=_ORDER.index)),
        encrypted=NOT_ENCRYPTED,
        dummy="; ".join(sorted(set(dummies))),
        integrity=scope if consistent else "",
    )


def _scope(profile: Profile) -> str:
    keyed = "project: the same secret gives the same value in every run"
    return f"{keyed}; UIDs as in the original" if Option.RETAIN_UIDS in profile.options else keyed


def _dummy(tag: int, action: Action, method: Method) -> str:
    """How the engine makes the value that stands in the place of the original."""
    texts: Mapping[Method, str] = {
        Method.PATIENT: "10 characters, HMAC-SHA-256 of issuer and patient id, project's secret",
        Method.UID: "2.25.<128 bits of HMAC-SHA-256 of the UID, project's secret>",
        Method.DATE: "moved by whole weeks back, HMAC-SHA-256 of the patient, project's secret",
        Method.DUMMY_ITEM: "one item that says REMOVED",
        Method.MEANING: "the standard's meaning of the code",
    }
    if method in texts:
        return texts[method]
    if tag == DOCUMENT:
        return "an empty PDF document"
    if method is Method.DUMMY:
        value = DUMMIES.get(dictionary_VR(tag)[:2].encode(), b"").strip(b" \0")
        return f"constant {value.decode('ascii')}" if value else "constant zero"
    if action is Action.CLEAN and method is Method.JUDGE:
        return _CLEANED.get(dictionary_VR(tag), "reduced to closed vocabularies")
    return ""


def _patterns(profile: Profile) -> Iterator[StatementRow]:
    safe = Option.RETAIN_SAFE_PRIVATE in profile.options
    yield StatementRow(
        name="Private Attributes",
        tag="(gggg,eeee) where gggg is odd",
        action="C" if safe else "X",
        encrypted=NOT_ENCRYPTED,
        dummy="numbers and codes of Table E.3.10-1 stay, all others go" if safe else "",
        integrity="as in the original" if safe else "",
    )
    for name, tag in PATTERNS:
        yield StatementRow(name, tag, "X", NOT_ENCRYPTED, "", "")


def _rules_by_tag(profile: Profile) -> dict[int, set[tuple[Action, Method]]]:
    """What any rule of any SOP class does to a tag, at any depth."""
    found: dict[int, set[tuple[Action, Method]]] = {}
    seen: set[int] = set()
    roots = list(_roots(profile))  # kept, so that no id is used twice
    for root in roots:
        for tag, rule in _all_rules(root, seen):
            found.setdefault(tag, set()).add((rule.action, rule.method))
    return found


def _roots(profile: Profile) -> Iterator[Node]:
    for sop_class in sop_classes():
        try:
            yield compile_rules(profile, sop_class)
        except DataRefused:
            continue


def _all_rules(node: Node, seen: set[int]) -> Iterator[tuple[int, Rule]]:
    if id(node) in seen:
        return
    seen.add(id(node))
    for tag, rule in node.rules.items():
        yield tag, rule
        if rule.child is not None:
            yield from _all_rules(rule.child, seen)
