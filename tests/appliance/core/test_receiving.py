"""Journals of receiver processes come into the state, once, whatever is killed in between."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydicom import dcmread

from appliance.home import Home, create_keys
from appliance.identity import Identities
from appliance.intake import Spool
from appliance.pipeline.work import RECEIVED
from appliance.receiving import JournalIntake, Receiving, layout_of
from appliance.settings import settings_from
from appliance.store import NewStudy, NodeState
from dicom_bridge.net import InstanceRef, PacsClient, RemoteAE
from dicom_bridge.net.model import CommitmentReport
from dicom_bridge.net.scp.journal import Entry, Journal
from tests.pacs import LOOPBACK, ONCE, QUICK, StudyForm, write_small_study
from tests.waiting import wait_for

KEY = "st0123456789ab"


@pytest.fixture
def home(tmp_path: Path) -> Home:
    home = Home(tmp_path / "node", "p")
    home.create()
    create_keys(home)
    layout_of(home).create()
    return home


@pytest.fixture
def state(home: Home) -> Iterator[NodeState]:
    state = NodeState(home.state_file)
    state.studies.add(NewStudy(KEY, "pt1", "sub", "ses", "main"))
    yield state
    state.close()


def stored(seq: int, instance: str, sha256: str = "0" * 64, *, study: str = KEY) -> Entry:
    return Entry(seq, "stored", {"study": study, "instance": instance, "sha256": sha256})


def intake_of(state: NodeState, home: Home, told: list[CommitmentReport]) -> JournalIntake:
    return JournalIntake(state, layout_of(home).folder, told.append)


def test_lines_are_taken_once_and_again_without_harm(home: Home, state: NodeState) -> None:
    journal = Journal(layout_of(home).journal(0))
    journals = {0: layout_of(home).journal(0), 1: layout_of(home).journal(1)}
    told: list[CommitmentReport] = []
    intake = intake_of(state, home, told)
    assert intake.take(journals) == {}
    journal.append([stored(1, "a"), stored(2, "b")])
    [position] = intake.take(journals).values()
    assert state.instances.keys(KEY) == {"a", "b"}
    assert position.offset == layout_of(home).journal(0).stat().st_size
    assert intake.take(journals) == {}
    values = {"transaction": "1.2.9", "committed": ["1.1"], "failed": {"1.3": 0x0112}}
    journal.append([stored(3, "a", "1" * 64), Entry(4, "commitment", values)])
    journal.append([Entry(5, "conflict", stored(5, "b").values)])
    intake.take(journals)
    assert state.instances.conflicts(KEY) == 2
    assert told == [CommitmentReport("1.2.9", frozenset({"1.1"}), {"1.3": 0x0112})]
    (layout_of(home).folder / "taken.json").unlink()
    intake_of(state, home, told).take(journals)
    assert state.instances.keys(KEY) == {"a", "b"}
    assert len(told) == 2, "at least once"
    assert intake_of(state, home, told).take(journals) == {}


def test_an_erased_study_does_not_come_back(home: Home, state: NodeState) -> None:
    Journal(layout_of(home).journal(0)).append([stored(1, "a", study="stffffffffffff")])
    intake_of(state, home, []).take({0: layout_of(home).journal(0)})
    assert state.instances.keys("stffffffffffff") == set()


def test_a_callback_that_fails_is_called_again(home: Home, state: NodeState) -> None:
    values = {"transaction": "1.2.9", "committed": ["1.1"], "failed": {}}
    Journal(layout_of(home).journal(0)).append([Entry(1, "commitment", values)])
    calls = []

    def broken(report: CommitmentReport) -> None:
        calls.append(report)
        if len(calls) == 1:
            raise RuntimeError("the state is busy")

    intake = JournalIntake(state, layout_of(home).folder, broken)
    journals = {0: layout_of(home).journal(0)}
    with pytest.raises(RuntimeError):
        intake.take(journals)
    assert len(intake.take(journals)) == 1
    assert len(calls) == 2


@pytest.mark.integration
def test_from_the_sender_to_the_state_through_a_kill(
    tmp_path: Path, home: Home, state: NodeState
) -> None:
    study = write_small_study(tmp_path / "source", StudyForm(slices=8))
    identities = Identities(home, create_keys(home))
    key = identities.study_key(study.study_uid)
    state.studies.add(NewStudy(key, "pt1", "sub1", "ses1", "main"))
    settings = settings_from(
        {
            "node": {"site": "a", "project": "p"},
            "dicom": {"ae_title": "NODE", "port": 0, "receiver_processes": 2},
            "pacs": [{"name": "main", "ae_title": "STORESCU", "host": LOOPBACK, "port": 1}],
        }
    )
    receiving = Receiving(settings, home, state, on_commitment=lambda _report: None)
    spool = Spool(state, home, identities, layout_of(home).jobs)
    remote = RemoteAE("NODE", LOOPBACK, receiving.start())
    try:
        headers = [dcmread(path, stop_before_pixels=True) for path in study.paths]
        refs = [
            InstanceRef(str(h.SeriesInstanceUID), str(h.SOPInstanceUID), str(h.SOPClassUID), "MR")
            for h in headers
        ]
        names = frozenset(identities.instance_key(ref.SOPInstanceUID) for ref in refs)
        client = PacsClient(remote, calling_ae="STORESCU", timeouts=QUICK, retry=ONCE)
        assert {o.status for o in client.send(study.paths)} == {0x0124}
        spool.expect(key, names, study_uid=study.study_uid, refs=refs)
        assert {o.status for o in client.send(study.paths)} == {0}
        for pid in receiving.pids:
            os.kill(pid, signal.SIGKILL)
        wait_for(lambda: state.instances.keys(key) == names, what="the state")
        spool.done(key)
        wait_for(lambda: receiving.restarts == 2, what="both to come back")
        assert {o.status for o in client.send(study.paths)} == {0x0124}
        assert receiving.counts.stored == 8
    finally:
        receiving.stop()
    files = sorted((home.study(key) / RECEIVED).rglob("*"))
    assert sorted(p.stem for p in files if p.is_file()) == sorted(names)
    assert all(p.suffix == ".dcm" for p in files if p.is_file())
