"""Statuses and rejections in words."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dicom_bridge.net import describe_rejection, describe_status
from dicom_bridge.net.words import Rejection, is_permanent_move_failure

SERVICES = ("C-ECHO", "C-FIND", "C-MOVE", "C-STORE")


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
        ("C-STORE", 0xA7FF, "disk may be full"),
        ("C-STORE", 0xB123, "stored with a warning"),
        ("C-STORE", 0x0124, "not authorised"),
        ("C-FIND", 0xA900, "keys"),
        ("C-ECHO", 0xBEEF, "does not define"),
    ],
)
def test_status_says_what_to_do(service: str, status: int, said: str) -> None:
    assert said in describe_status(service, status)


@given(st.integers(0, 255), st.integers(0, 255), st.integers(0, 255))
def test_every_rejection_has_words(result: int, source: int, reason: int) -> None:
    words = describe_rejection(Rejection(result, source, reason), calling_ae="A", called_ae="B")
    assert len(words) > 10


def test_rejection_names_the_side_to_correct() -> None:
    calling = describe_rejection(Rejection(1, 1, 3), calling_ae="NODE", called_ae="PACS")
    called = describe_rejection(Rejection(1, 1, 7), calling_ae="NODE", called_ae="PACS")
    assert "NODE" in calling
    assert "PACS" not in calling
    assert "PACS" in called


def test_only_settings_make_a_move_failure_permanent() -> None:
    assert is_permanent_move_failure(0xA801)
    assert not is_permanent_move_failure(0xA702)
    assert not is_permanent_move_failure(0xB000)
