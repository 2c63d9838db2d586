"""Rows of Table N.11-6: every attribute of Table E.1-1, with what the engine really does."""

from __future__ import annotations

import pytest

from dicom_bridge.deid import Option, Profile
from dicom_bridge.deid.statement import StatementRow, elements_and_actions
from dicom_bridge.deid.table import load_rows
from tests.dicom_bridge.deid.objects import BASIC


def rows(profile: Profile) -> dict[str, StatementRow]:
    return {row.tag: row for row in elements_and_actions(profile)}


@pytest.fixture(scope="module")
def basic() -> dict[str, StatementRow]:
    return rows(BASIC)


def test_every_row_of_the_table_is_there_and_nothing_is_encrypted(
    basic: dict[str, StatementRow],
) -> None:
    for tag in load_rows():
        assert f"({tag >> 16:04X},{tag & 0xFFFF:04X})" in basic
    assert {row.encrypted for row in basic.values()} == {"no"}


@pytest.mark.parametrize(
    ("tag", "action", "dummy", "lasts"),
    [
        ("(0010,0010)", "Z", "HMAC-SHA-256", True),
        ("(0008,0018)", "U", "2.25.", True),
        ("(0008,1030)", "X", "", False),
        ("(0040,A730)", "D", "REMOVED", False),
        ("(0042,0011)", "D", "empty PDF", False),
        ("(0010,0030)", "Z", "", False),
        ("(0009,0010)", None, "", False),
        ("(gggg,eeee) where gggg is odd", "X", "", False),
    ],
)
def test_basic_rows(
    basic: dict[str, StatementRow], tag: str, action: str | None, dummy: str, lasts: bool
) -> None:
    if action is None:
        assert tag not in basic
        return
    row = basic[tag]
    assert row.action == action
    assert dummy in row.dummy
    assert bool(row.integrity) is lasts


def test_options_change_their_rows() -> None:
    options = {Option.RETAIN_MODIFIED_DATES, Option.RETAIN_UIDS, Option.RETAIN_SAFE_PRIVATE}
    changed = rows(Profile.basic(options))
    assert changed["(0008,0020)"].action == "C"
    assert "whole weeks" in changed["(0008,0020)"].dummy
    assert changed["(0008,0018)"].action == "K"
    assert changed["(0008,0018)"].integrity == "as in the original"
    assert changed["(gggg,eeee) where gggg is odd"].action == "C"
