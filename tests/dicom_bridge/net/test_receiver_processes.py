"""Receiver processes: durable before the answer, journals, kills, duplicates, a full disk."""

from __future__ import annotations

import hashlib
import json
import os
import signal
from pathlib import Path

import pytest
from pydicom import dcmread

from dicom_bridge.net import PacsClient, PacsOptions, RemoteAE, SendOutcome, TlsFiles
from dicom_bridge.net.scp.connection import Rules
from dicom_bridge.net.scp.process import Layout, ProcessSettings
from dicom_bridge.net.scp.rooms import Limits
from dicom_bridge.net.scp.sink import Titles
from dicom_bridge.net.scp.store import StoreOptions
from dicom_bridge.net.scp.supervisor import Sizes
from tests.certificates import Authority
from tests.dicom_bridge.net.processes import Zone, key, running_processes
from tests.pacs import ONCE, QUICK, SmallStudy, StudyForm, write_small_study
from tests.waiting import wait_for

pytestmark = pytest.mark.integration


def test_settings_reach_a_process_unchanged(tmp_path: Path) -> None:
    settings = ProcessSettings(
        number=1,
        processes=2,
        listener=7,
        board=8,
        layout=Layout(tmp_path, tmp_path / "receiving"),
        rules=Rules(Titles("NODE", frozenset({"A", "B"})), Limits(3, 2), 4.0, 5.0, 6.0),
        options=StoreOptions(tmp_path, tmp_path / "receiving" / "spool", "1", 10, 20, 30),
        log_segments=2,
        segment_bytes=1 << 20,
        tls=TlsFiles(tmp_path / "c", tmp_path / "k", tmp_path / "a", "non-downgrading"),
    )
    assert ProcessSettings.from_json(json.loads(json.dumps(settings.to_json()))) == settings


def test_objects_come_over_tls(study: SmallStudy, zone: Zone, tmp_path: Path) -> None:
    authority = Authority(tmp_path / "ca", "Hospital")
    pair = authority.issue("node")
    files = TlsFiles(pair.certificate, pair.key, authority.path)
    with running_processes(zone, tls=files) as (_, remote):
        zone.expect(study.paths)
        options = PacsOptions(tls=files)
        sender = PacsClient(
            remote, calling_ae="STORESCU", timeouts=QUICK, retry=ONCE, options=options
        )
        assert statuses(sender.send(study.paths)) == [0, 0, 0]
        zone.wait_stored(3)


def client(remote: RemoteAE, calling_ae: str = "STORESCU") -> PacsClient:
    return PacsClient(remote, calling_ae=calling_ae, timeouts=QUICK, retry=ONCE)


def statuses(outcomes: list[SendOutcome]) -> list[int | None]:
    return [outcome.status for outcome in outcomes]


@pytest.fixture
def study(tmp_path: Path) -> SmallStudy:
    return write_small_study(tmp_path / "source", StudyForm(slices=3))


@pytest.fixture
def zone(tmp_path: Path) -> Zone:
    return Zone(tmp_path / "identified")


def test_bytes_arrive_as_sent_and_the_journal_tells(study: SmallStudy, zone: Zone) -> None:
    with running_processes(zone, processes=2) as (receiver, remote):
        zone.expect(study.paths)
        assert client(remote).echo().ok
        assert statuses(client(remote).send(study.paths)) == [0, 0, 0]
        assert receiver.counts.stored == 3
        zone.wait_stored(3)
        for source in study.paths:
            sent = dcmread(source)
            stored = zone.file(sent.SOPInstanceUID)
            assert dcmread(stored) == sent
            assert stored.stat().st_mode & 0o077 == 0
            digest = hashlib.sha256(stored.read_bytes()).hexdigest()
            [entry] = [e for e in zone.read() if e.values["instance"] == key(sent.SOPInstanceUID)]
            assert entry.values["sha256"] == digest
            assert entry.values["study"] == key(study.study_uid)
    assert len(zone.files()) == 3
    assert list(zone.layout.spool.iterdir()) == []


def test_large_objects_stream_past_memory(tmp_path: Path, zone: Zone) -> None:
    study = write_small_study(tmp_path / "source", StudyForm(slices=2, side=600))
    with running_processes(zone, sizes=Sizes(10_000, 2, 1 << 20)) as (_, remote):
        zone.expect(study.paths)
        assert statuses(client(remote).send([*study.paths, *study.paths])) == [0] * 4
        zone.wait_stored(2)
    for source in study.paths:
        sent = dcmread(source)
        assert dcmread(zone.file(sent.SOPInstanceUID)) == sent
    assert len(zone.files()) == 2
    assert list(zone.layout.spool.iterdir()) == []


def test_only_open_jobs_are_served(study: SmallStudy, zone: Zone) -> None:
    with running_processes(zone) as (receiver, remote):
        assert statuses(client(remote).send(study.paths[:1])) == [0x0124]
        zone.expect(study.paths)
        assert statuses(client(remote).send(study.paths[:1])) == [0]
        zone.close_job(study.study_uid)
        assert statuses(client(remote).send(study.paths[1:])) == [0x0124] * 2
        assert receiver.counts.refused == 3
        zone.wait_stored(1)
    assert len(zone.files()) == 1


def test_the_same_again_is_success_and_other_content_is_kept_apart(
    study: SmallStudy, zone: Zone, tmp_path: Path
) -> None:
    [path] = study.paths[:1]
    ds = dcmread(path)
    ds.PatientName = "Someone^Else"
    altered = tmp_path / "altered.dcm"
    ds.save_as(altered)
    with running_processes(zone) as (receiver, remote):
        zone.expect(study.paths)
        sender = client(remote)
        assert statuses(sender.send([path, path, altered])) == [0, 0, 0x0110]
        zone.wait_stored(1)
        assert statuses(sender.send([path, altered])) == [0, 0x0110]
        wait_for(
            lambda: [e.kind for e in zone.read()].count("conflict") == 2, what="both conflicts"
        )
        counts = receiver.counts
    assert (counts.stored, counts.repeated, counts.conflicts) == (1, 2, 2)
    first = zone.file(ds.SOPInstanceUID)
    assert zone.files() == [first, first.with_name(first.name + ".conflict")]
    assert str(dcmread(first).PatientName) == "Doe^Jane"


def test_full_disk_is_answered_and_the_log_keeps_what_was_promised(
    study: SmallStudy, zone: Zone
) -> None:
    with running_processes(zone, reserve_bytes=1 << 60) as (_, remote):
        zone.expect(study.paths)
        assert statuses(client(remote).send(study.paths[:1])) == [0xA700]
    assert zone.files() == []


@pytest.mark.parametrize("victim", ["receiver", "everything"])
def test_what_was_answered_survives_a_kill(tmp_path: Path, zone: Zone, victim: str) -> None:
    """Killed right after the last answer, before anything is in place."""
    study = write_small_study(tmp_path / "source", StudyForm(slices=20, side=64))
    zone.expect(study.paths)
    with running_processes(zone) as (receiver, remote):
        assert statuses(client(remote).send(study.paths)) == [0] * 20
        os.kill(receiver.pids[0], signal.SIGKILL)
        if victim == "receiver":
            wait_for(lambda: client(remote).echo().ok, what="the receiver to come back")
            assert receiver.restarts == 1
    with running_processes(zone):
        assert len(zone.wait_stored(20)) == 20
    for source in study.paths:
        sent = dcmread(source)
        assert dcmread(zone.file(sent.SOPInstanceUID)) == sent
    assert len(zone.files()) == 20
