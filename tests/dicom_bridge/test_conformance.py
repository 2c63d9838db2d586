"""The conformance statement says what runs, changes with the configuration, and only then."""

from __future__ import annotations

import dataclasses
import re

import pytest

from dicom_bridge.conformance import Facts, Peer, conformance_statement
from dicom_bridge.conformance.services import STATUSES
from dicom_bridge.deid import Option, Profile
from dicom_bridge.net import Timeouts, stack

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
