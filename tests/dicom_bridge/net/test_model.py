"""Values across the boundary: checks, masks, retries."""

from __future__ import annotations

from datetime import date
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dicom_bridge.errors import AssociationRejected, PeerFailure, PeerUnreachable, SettingsRefused
from dicom_bridge.net import (
    InstanceRef,
    MoveOutcome,
    ReceiverSettings,
    RemoteAE,
    RetrieveReport,
    RetryPolicy,
    SendOutcome,
    StudyCriteria,
    StudyMatch,
)
from dicom_bridge.net.model import check_ae_title, is_transient

SECRET = "SECRET99"


@given(st.text(max_size=40))
def test_ae_title_is_valid_or_refused_without_repeating_it(value: str) -> None:
    stripped = value.strip(" ")
    valid = 1 <= len(stripped) <= 16 and all(" " <= c <= "~" and c != "\\" for c in stripped)
    if valid:
        assert check_ae_title(value, "PACS") == stripped
    else:
        with pytest.raises(SettingsRefused, match=r"^PACS: an AE title has 1 to 16"):
            check_ae_title(value, "PACS")


@pytest.mark.parametrize("port", [0, -1, 65536])
def test_port_out_of_range_is_refused(port: int) -> None:
    with pytest.raises(SettingsRefused, match="1 to 65535"):
        RemoteAE("PACS", "localhost", port)


def test_empty_host_is_refused() -> None:
    with pytest.raises(SettingsRefused, match="host is empty"):
        RemoteAE("PACS", "", 104)


def test_nobody_is_allowed_by_accident() -> None:
    with pytest.raises(SettingsRefused, match="allowed calling AE titles is empty"):
        ReceiverSettings("NODE", "127.0.0.1", 0, frozenset())
    with pytest.raises(SettingsRefused, match="max_associations"):
        ReceiverSettings("NODE", "127.0.0.1", 0, frozenset({"A"}), max_associations=0)


def test_representations_hold_no_patient_value() -> None:
    texts = dict.fromkeys(StudyMatch.__dataclass_fields__, SECRET)
    match = StudyMatch(**{**texts, "ModalitiesInStudy": (SECRET,), "instances": 3})  # type: ignore[arg-type]
    values = (
        match,
        InstanceRef(SECRET, SECRET, SECRET, "MR"),
        StudyCriteria(patient_ids=(SECRET,), study_date_from=date(2024, 1, 2)),
        MoveOutcome(0, 1, 2, 3, (SECRET,), "words"),
        SendOutcome(Path(SECRET), SECRET, 0, "words"),
        RetrieveReport(frozenset({SECRET}), frozenset({SECRET}), frozenset({SECRET}), 1, "words"),
    )
    for value in values:
        assert SECRET not in repr(value)
        assert SECRET not in str(value)


@pytest.mark.parametrize(
    ("status", "ok"),
    [(None, False), (0, True), (0xB007, True), (0xA700, False), (0x0124, False)],
)
def test_send_outcome_counts_warnings_as_stored(status: int | None, ok: bool) -> None:
    assert SendOutcome(Path("x"), "1.2", status, "").ok is ok


def test_passing_causes_are_told_from_lasting_ones() -> None:
    assert is_transient(PeerUnreachable("x"))
    assert is_transient(AssociationRejected("x", result=2))
    assert not is_transient(AssociationRejected("x", result=1))
    assert not is_transient(PeerFailure("x", status=0xA700))


def test_retry_waits_longer_each_time_and_ends() -> None:
    waits: list[float] = []
    policy = RetryPolicy(attempts=4, first_wait_s=1, longest_wait_s=3, sleep=waits.append)
    calls = 0

    def fail() -> None:
        nonlocal calls
        calls += 1
        raise PeerUnreachable("x")

    with pytest.raises(PeerUnreachable):
        policy.retrying()(fail)
    assert calls == 4
    assert waits == [1, 2, 3]
