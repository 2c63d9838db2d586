"""The client against an SCP whose answers the test writes."""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Callable, Iterator
from datetime import date
from pathlib import Path

import pytest
from pydicom.dataset import Dataset
from pynetdicom import evt

from dicom_bridge.errors import AssociationRejected, PeerFailure, PeerUnreachable
from dicom_bridge.net import MoveWatch, PacsClient, RemoteAE, RetryPolicy, StudyCriteria, Timeouts
from dicom_bridge.net.stack import VERIFICATION
from tests.dicom_bridge.net.peers import scripted_scp
from tests.pacs import LOOPBACK, ONCE, QUICK
from tests.tools import free_port

SECRET = "SECRET99"


def client(remote: RemoteAE, timeouts: Timeouts = QUICK) -> PacsClient:
    return PacsClient(remote, calling_ae="NODE", timeouts=timeouts, retry=ONCE)


def study(uid: str, **values: object) -> Dataset:
    ds = Dataset()
    ds.QueryRetrieveLevel = "STUDY"
    ds.StudyInstanceUID = uid
    for keyword, value in values.items():
        setattr(ds, keyword, value)
    return ds


def test_repeated_and_partial_answers_become_one_study() -> None:
    def find(event: evt.Event) -> Iterator[tuple[int, Dataset | None]]:
        yield 0xFF00, study("1.2", PatientID="P", StudyDate="20240105")
        yield 0xFF01, study("1.2", PatientID="P", StudyDescription="HEAD")
        yield 0xFF00, study("1.1", PatientID="Q")
        yield 0xFF00, study("", PatientID="nobody")

    with scripted_scp(find) as remote:
        first, second = client(remote).find_studies(StudyCriteria())
    assert first.StudyInstanceUID == "1.1"
    assert (second.PatientID, second.StudyDate, second.StudyDescription) == (
        "P",
        "20240105",
        "HEAD",
    )
    assert second.instances is None


def test_answers_that_ignore_the_criteria_are_left_out() -> None:
    def find(event: evt.Event) -> Iterator[tuple[int, Dataset | None]]:
        yield 0xFF00, study("1", StudyDate="20231231", ModalitiesInStudy="MR")
        yield 0xFF00, study("2", StudyDate="20240101", ModalitiesInStudy=["SEG", "MR"])
        yield 0xFF00, study("3", StudyDate="20240101", ModalitiesInStudy="CT")
        yield 0xFF00, study("4", StudyDate="20240301", ModalitiesInStudy="MR")
        yield 0xFF00, study("5", StudyDate="20240102", ModalitiesInStudy="MR", PatientID="X")
        yield 0xFF00, study("6", ModalitiesInStudy="MR", StudyDescription="knee [left]")
        yield 0xFF00, study("7", ModalitiesInStudy="MR", StudyDescription="Brain ms")

    criteria = StudyCriteria(
        modalities=("MR",),
        study_date_from=date(2024, 1, 1),
        study_date_to=date(2024, 2, 29),
        patient_ids=("P",),
        description="BRAIN*",
    )
    with scripted_scp(find) as remote:
        found = client(remote).find_studies(criteria)
    assert [match.StudyInstanceUID for match in found] == ["2", "7"]


def test_the_query_carries_the_criteria() -> None:
    seen: list[Dataset] = []

    def find(event: evt.Event) -> Iterator[tuple[int, Dataset | None]]:
        seen.append(event.identifier)
        yield 0x0000, None

    criteria = StudyCriteria(
        modalities=("MR", "PT"),
        study_date_from=date(2024, 1, 1),
        study_date_to=date(2024, 1, 1),
        description="Schädel*",
    )
    with scripted_scp(find) as remote:
        assert client(remote).find_studies(criteria) == []
        assert client(remote).find_studies(StudyCriteria(study_date_to=date(2024, 5, 6))) == []
    assert [query.ModalitiesInStudy for query in seen[:2]] == ["MR", "PT"]
    assert {query.StudyDate for query in seen[:2]} == {"20240101"}
    assert seen[0].StudyDescription == "Schädel*"
    assert seen[0].SpecificCharacterSet == "ISO_IR 192"
    assert seen[2].StudyDate == "-20240506"
    assert "SpecificCharacterSet" not in seen[2]


def test_missing_modalities_are_looked_up_in_the_series() -> None:
    def find(event: evt.Event) -> Iterator[tuple[int, Dataset | None]]:
        if event.identifier.QueryRetrieveLevel == "STUDY":
            yield 0xFF00, study("1")
            yield 0xFF00, study("2")
            return
        modality = "MR" if event.identifier.StudyInstanceUID == "2" else "CT"
        yield 0xFF00, study("x", SeriesInstanceUID="9", Modality=modality)

    with scripted_scp(find) as remote:
        found = client(remote).find_studies(StudyCriteria(modalities=("MR",)))
    assert [(m.StudyInstanceUID, m.ModalitiesInStudy) for m in found] == [("2", ("MR",))]


def test_instances_without_optional_keys() -> None:
    def find(event: evt.Event) -> Iterator[tuple[int, Dataset | None]]:
        if event.identifier.QueryRetrieveLevel == "SERIES":
            yield 0xFF00, study("1", SeriesInstanceUID="1.1", Modality="MR")
            yield 0xFF00, study("1", SeriesInstanceUID="1.1")
            yield 0xFF00, study("1", SeriesInstanceUID="1.2")
            return
        series = event.identifier.SeriesInstanceUID
        yield 0xFF00, study("1", SOPInstanceUID=f"{series}.1")
        yield 0xFF00, study("1", SOPInstanceUID=f"{series}.1")
        yield 0xFF00, study("1", SOPInstanceUID=f"{series}.2", SOPClassUID="1.9")

    with scripted_scp(find) as remote:
        found = client(remote).find_instances("1")
    assert [(r.SOPInstanceUID, r.SOPClassUID, r.Modality) for r in found] == [
        ("1.1.1", "", "MR"),
        ("1.1.2", "1.9", "MR"),
        ("1.2.1", "", ""),
        ("1.2.2", "1.9", ""),
    ]


def test_a_failure_status_is_said_in_words() -> None:
    def find(event: evt.Event) -> Iterator[tuple[int, Dataset | None]]:
        yield 0xFF00, study("1", PatientID=SECRET)
        yield 0xA700, None

    with (
        scripted_scp(find) as remote,
        pytest.raises(PeerFailure, match="0xA700: the PACS is out of resources") as caught,
    ):
        client(remote).find_studies(StudyCriteria(patient_ids=(SECRET,)))
    assert caught.value.status == 0xA700
    assert SECRET not in str(caught.value)


def test_a_service_that_is_not_offered_is_a_rejection() -> None:
    with (
        scripted_scp(services=(VERIFICATION,)) as remote,
        pytest.raises(AssociationRejected, match="none of the services"),
    ):
        client(remote).find_studies(StudyCriteria())


def test_requests_are_repeated_while_the_cause_passes() -> None:
    waits: list[float] = []
    nobody = RemoteAE("PACS", LOOPBACK, free_port())
    retry = RetryPolicy(attempts=3, first_wait_s=1, sleep=waits.append)
    patient = PacsClient(nobody, calling_ae="NODE", timeouts=QUICK, retry=retry)
    with pytest.raises(PeerUnreachable, match="connection refused"):
        patient.find_studies(StudyCriteria())
    assert waits == [1, 2]
    with pytest.raises(PeerUnreachable):
        patient.echo()
    assert waits == [1, 2]


def test_unknown_host_is_said_in_words() -> None:
    with pytest.raises(PeerUnreachable, match="no address is known"):
        client(RemoteAE("PACS", "no-such-host.invalid", 104)).echo()


def silent_move(release: threading.Event) -> Callable[[evt.Event], Iterator[object]]:
    def move(event: evt.Event) -> Iterator[object]:
        release.wait(30)
        yield None, None

    return move


def impatient(**changes: float) -> Timeouts:
    return dataclasses.replace(QUICK, cancel_grace_s=0.2, **changes)


def test_a_move_without_progress_is_ended() -> None:
    release = threading.Event()

    with scripted_scp(move=silent_move(release)) as remote:
        try:
            with pytest.raises(PeerUnreachable, match=r"no progress for 0\.5 s"):
                client(remote, impatient(move_idle_s=0.5)).move_series("1", "1.1", "NODE")
        finally:
            release.set()


def test_progress_restarts_the_idle_time_and_stop_ends_it() -> None:
    release = threading.Event()
    stop = threading.Event()
    looks = 0

    def progress() -> int:
        nonlocal looks
        looks += 1
        if looks >= 8:
            stop.set()
        return looks

    with scripted_scp(move=silent_move(release)) as remote:
        try:
            with pytest.raises(PeerUnreachable, match="stopped on request"):
                client(remote, impatient(move_idle_s=0.6)).move_study(
                    "1", "NODE", watch=MoveWatch(progress=progress, stop=stop)
                )
        finally:
            release.set()
    # Eight looks at a quarter of a second each: three times the idle time.
    assert looks >= 8


def test_a_move_may_not_take_for_ever() -> None:
    release = threading.Event()
    with scripted_scp(move=silent_move(release)) as remote:
        try:
            with pytest.raises(PeerUnreachable, match=r"took longer than 0\.4 s"):
                client(remote, impatient(move_total_s=0.4)).move_study("1", "NODE")
        finally:
            release.set()


def test_failed_uids_and_counts_are_reported() -> None:
    def move(event: evt.Event) -> Iterator[object]:
        yield (None, None)

    with scripted_scp(move=move) as remote:
        outcome = client(remote).move_series("1", "1.1", "NODE")
    assert outcome.status == 0xA801
    assert not outcome.ok
    assert "add our AE title" in outcome.words


def test_files_that_are_no_dicom_do_not_stop_the_others(tmp_path: Path) -> None:
    junk = tmp_path / "junk.dcm"
    junk.write_bytes(b"nothing of the kind")
    with scripted_scp() as remote:
        outcomes = client(remote).send([junk, tmp_path / "absent.dcm"])
    assert [outcome.ok for outcome in outcomes] == [False, False]
    assert all("no complete DICOM file" in outcome.words for outcome in outcomes)
    assert client(RemoteAE("X", LOOPBACK, free_port())).send([]) == []


def test_several_threads_share_one_client() -> None:
    active = 0
    most = 0
    guard = threading.Lock()

    def find(event: evt.Event) -> Iterator[tuple[int, Dataset | None]]:
        nonlocal active, most
        with guard:
            active += 1
            most = max(most, active)
        yield 0xFF00, study("1")
        with guard:
            active -= 1

    found: list[int] = []
    with scripted_scp(find) as remote:
        shared = client(remote)
        threads = [
            threading.Thread(target=lambda: found.append(len(shared.find_studies(StudyCriteria()))))
            for _ in range(4)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert found == [1, 1, 1, 1]
    assert most == 1
