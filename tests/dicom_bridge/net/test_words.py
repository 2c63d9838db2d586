"""Statuses, rejections and aborts in words: what it means and what to do."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dicom_bridge.net import OurAddress, describe_rejection, describe_status
from dicom_bridge.net.words import (
    SERVICES,
    Rejection,
    describe_abort,
    is_permanent_move_failure,
)

OURS = OurAddress("CLINODE", "10.0.0.7", 11112)

GENERAL = (0x0105, 0x0106, 0x0110, 0x0112, 0x0115, 0x0117, 0x0118, 0x0119, 0x0120, 0x0121,
           0x0124, 0x0210, 0x0211, 0x0212, 0x0213)  # fmt: skip
"""PS3.7 C.5, beyond what each service lists."""

TABLES: dict[str, tuple[int, ...]] = {
    # PS3.7 9.1.5.1.4
    "C-ECHO": (0x0122, 0x0210, 0x0211, 0x0212),
    # PS3.4 Table C.4-1, PS3.7 9.1.2.1.5
    "C-FIND": (0xA700, 0xA900, 0xC000, 0xC001, 0xCFFF, 0xFE00, 0x0122, 0xB001),
    # PS3.4 Table C.4-2, PS3.7 9.1.4.1.7
    "C-MOVE": (0xA701, 0xA702, 0xA801, 0xA900, 0xAA00, 0xAA01, 0xAA02, 0xAA03, 0xAA04, 0xC000,
               0xC100, 0xCFFF, 0xFE00, 0xB000, 0x0122),
    # PS3.4 Table C.4-3, PS3.7 9.1.3.1.6
    "C-GET": (0xA701, 0xA702, 0xA900, 0xAA00, 0xAA01, 0xAA02, 0xAA03, 0xAA04, 0xC000, 0xCFFF,
              0xFE00, 0xB000, 0x0122),
    # PS3.4 Table B.2-1, PS3.7 9.1.1.1.9
    "C-STORE": (0xA700, 0xA7FF, 0xA900, 0xA9FF, 0xC000, 0xCFFF, 0xB000, 0xB006, 0xB007, 0x0117,
                0x0122, 0x0124),
    # PS3.7 10.1.4.1.10
    "N-ACTION": (0x0112, 0x0113, 0x0114, 0x0115, 0x0117, 0x0118, 0x0119, 0x0122, 0x0123, 0x0124,
                 0x0210, 0x0211, 0x0212, 0x0213),
    # PS3.7 10.1.1.1.8
    "N-EVENT-REPORT": (0x0110, 0x0112, 0x0113, 0x0114, 0x0115, 0x0117, 0x0118, 0x0119, 0x0210,
                       0x0211, 0x0212, 0x0213),
    # PS3.18 Table I.2-2
    "STOW-RS": (0xA700, 0xA900, 0xC000, 0xC122, 0x0110, 0x0122, 0x0124, 0xB000, 0xB006, 0xB007),
    # PS3.3 C.14.1.1
    "storage commitment": (0x0110, 0x0112, 0x0119, 0x0122, 0x0131, 0x0213),
}  # fmt: skip

CASES = [(s, code) for s in SERVICES for code in dict.fromkeys((*TABLES[s], *GENERAL))]


@pytest.mark.parametrize(
    ("service", "status"), CASES, ids=lambda v: v if isinstance(v, str) else f"{v:04X}"
)
def test_each_status_of_the_standard_says_what_it_means_and_what_to_do(
    service: str, status: int
) -> None:
    words = describe_status(service, status)
    assert "does not define" not in words
    meaning, _, action = words.split(": ", 1)[1].rpartition("; " if "; " in words else ", ")
    assert len(meaning) > 8
    assert len(action) > 3


@given(st.sampled_from(SERVICES), st.integers(0, 0xFFFF))
def test_every_status_has_words(service: str, status: int) -> None:
    words = describe_status(service, status)
    assert words.startswith(f"{service} 0x{status:04X}: ")
    assert len(words.split(": ", 1)[1]) > 3


@pytest.mark.parametrize(
    ("service", "status", "said"),
    [
        ("C-MOVE", 0xA801, "add our AE title with our host and port"),
        ("C-MOVE", 0xA702, "reach our Storage SCP"),
        ("C-MOVE", 0xC000, "move destination"),
        ("C-MOVE", 0xC123, "look into its log"),
        ("C-MOVE", 0xB000, "asked for again"),
        ("C-GET", 0x0122, "retrieve = 'move'"),
        ("C-STORE", 0xA7FF, "disk may be full"),
        ("C-STORE", 0xB123, "stored with a warning"),
        ("C-STORE", 0x0124, "not authorised"),
        ("C-FIND", 0xA900, "keys"),
        ("C-FIND", 0xFE00, "narrow"),
        ("storage commitment", 0x0112, "sent again"),
        ("C-ECHO", 0xBEEF, "does not define"),
    ],
)
def test_status_says_what_to_do(service: str, status: int, said: str) -> None:
    assert said in describe_status(service, status)


@pytest.mark.parametrize("status", [0xA801, 0xC000])
def test_the_administrator_is_told_our_address(status: int) -> None:
    words = describe_status("C-MOVE", status, ours=OURS)
    assert words.endswith("to add AE title CLINODE, host 10.0.0.7, port 11112")
    nowhere = describe_status("C-MOVE", status, ours=OurAddress("CLINODE", "", 11112))
    assert "the address of this machine" in nowhere


REASONS = [(1, 1), (1, 2), (1, 3), (1, 7), (2, 1), (2, 2), (3, 1), (3, 2)]
"""PS3.8 Table 9-21, without reserved ones."""


@pytest.mark.parametrize(("source", "reason"), REASONS)
@pytest.mark.parametrize("result", [1, 2])
def test_each_reject_reason_says_what_to_do(result: int, source: int, reason: int) -> None:
    words = describe_rejection(Rejection(result, source, reason), calling_ae="A", called_ae="B")
    assert "; " in words
    assert "refused the association" not in words


@given(st.integers(0, 255), st.integers(0, 255), st.integers(0, 255))
def test_every_rejection_has_words(result: int, source: int, reason: int) -> None:
    words = describe_rejection(Rejection(result, source, reason), calling_ae="A", called_ae="B")
    assert len(words) > 10


def test_rejection_names_the_side_to_correct() -> None:
    calling = describe_rejection(Rejection(1, 1, 3), calling_ae="NODE", called_ae="PACS")
    called = describe_rejection(Rejection(1, 1, 7), calling_ae="NODE", called_ae="PACS")
    told = describe_rejection(Rejection(1, 1, 3), calling_ae="NODE", called_ae="PACS", ours=OURS)
    assert "NODE" in calling
    assert "PACS" not in calling
    assert "PACS" in called
    assert "host 10.0.0.7, port 11112" in told


@given(st.integers(0, 255), st.integers(0, 255))
def test_every_abort_has_words(source: int, reason: int) -> None:
    words = describe_abort(source, reason)
    assert words.startswith("aborted the association: ")
    assert words.endswith("look into its log")


def test_only_settings_make_a_move_failure_permanent() -> None:
    assert is_permanent_move_failure(0xA801)
    assert not is_permanent_move_failure(0xA702)
    assert not is_permanent_move_failure(0xB000)
