"""The conformance statement says what runs, changes with the configuration, and only then."""

from __future__ import annotations

import ast
import dataclasses
import re
from pathlib import Path

import pytest

from dicom_bridge.conformance import Facts, Peer, conformance_statement
from dicom_bridge.conformance.services import STATUSES
from dicom_bridge.deid import Option, Profile
from dicom_bridge.net import Timeouts, intake, stack

FACTS = Facts(version="1.2.3")
STATEMENT = conformance_statement(FACTS)


def test_the_same_configuration_gives_the_same_text() -> None:
    assert conformance_statement(FACTS) == STATEMENT


@pytest.mark.parametrize(
    "heading",
    [
        "## 1 Overview",
        "### 1.1 Content and Transfer",
        "## 5 Service and Interoperability Description",
        "### 7.2 Specifications",
        "## Annex A. Information Object Definitions",
        "#### C.2.6 Attribute Confidentiality Details",
    ],
)
def test_sections_of_the_template(heading: str) -> None:
    assert f"\n{heading}\n" in STATEMENT


def test_constants_come_from_the_program() -> None:
    assert f"| Maximum PDU Length | {stack.MAXIMUM_PDU_BYTES} bytes |" in STATEMENT
    assert f"| Connection timeout | {Timeouts().connect_s:g} s |" in STATEMENT
    for service, statuses in STATUSES.items():
        assert statuses, service
        assert "does not define" not in STATEMENT


def _called_with(source: Path, function: str) -> set[str]:
    """Upper-case names that a function is given as its first argument anywhere in a module."""
    calls = (node for node in ast.walk(ast.parse(source.read_text())) if isinstance(node, ast.Call))
    named = (call for call in calls if getattr(call.func, "id", "") == function and call.args)
    return {call.args[0].id for call in named if isinstance(call.args[0], ast.Name)}


def test_every_status_that_a_store_is_refused_with_is_listed() -> None:
    folder = Path(intake.__file__).parent
    used = _called_with(folder / "intake.py", "StoreRefused")
    used |= _called_with(folder / "scp" / "store.py", "StoreRefused") | {"CLASS_NOT_SUPPORTED"}
    assert len(used) >= 6
    listed = {getattr(intake, name) for name in used}
    assert listed | {intake.STORED} == set(intake.ANSWERS)
    for status in intake.ANSWERS:
        assert f"| 0x{status:04X} |" in STATEMENT


def test_every_service_that_is_asked_for_is_listed() -> None:
    folder = Path(stack.__file__).parent
    used = set[str]().union(*(_called_with(path, "build_context") for path in folder.glob("*.py")))
    constants = {name for name in used if name.isupper()}
    assert {getattr(stack, name) for name in constants} == set(stack.PROPOSED)
    _, _, contexts = STATEMENT.partition("Table 7-3.")
    for uid in stack.PROPOSED:
        assert f"| {uid} |" in contexts.partition("Table 7-4.")[0]


def test_created_objects_are_described_as_they_are_written() -> None:
    assert "| > SegmentNumber | (0062,0004) | US | ALWAYS | AUTO |" in STATEMENT
    assert "| Manufacturer | (0008,0070) | LO | ALWAYS | FIXED |" in STATEMENT
    assert "Measurement report (TID 1500)" in STATEMENT
    assert "Secondary capture" not in STATEMENT
    pictures = conformance_statement(dataclasses.replace(FACTS, form=("seg", "sc")))
    assert "Secondary capture" in pictures
    assert "Measurement report" not in pictures


def test_rows_of_de_identification_follow_the_profile() -> None:
    row = re.compile(r"^\| Patient's? ?Name \| \(0010,0010\) \| ([A-Z/*]+) \|", re.MULTILINE)
    name = row.search(STATEMENT)
    assert name is not None
    assert name.group(1) in ("Z", "D", "Z/D")
    age = re.compile(r"^\|[^|]*\| \(0010,1010\) \| ([A-Z/*]+) \|", re.MULTILINE)
    found = age.search(STATEMENT)
    kept = age.search(
        conformance_statement(
            dataclasses.replace(
                FACTS, profile=Profile.basic([Option.RETAIN_PATIENT_CHARACTERISTICS])
            )
        )
    )
    assert found is not None
    assert kept is not None
    assert (found.group(1), kept.group(1)) != (kept.group(1), found.group(1))


def test_web_and_tls_appear_where_they_are_configured() -> None:
    assert "QIDO-RS" not in STATEMENT
    assert "TLS is off" in STATEMENT
    peer = Peer("web", "dicomweb", "move", 1, False, True, ("query",))
    other = conformance_statement(
        dataclasses.replace(FACTS, peers=(peer,), tls_profile="non-downgrading")
    )
    assert "QIDO-RS" in other
    assert "Profile non-downgrading" in other
