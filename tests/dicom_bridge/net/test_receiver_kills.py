"""A PACS moves a study while receiver processes are killed: no loss, no double."""

from __future__ import annotations

import hashlib
import os
import signal
import threading
from pathlib import Path

import pytest
from pydicom import dcmread

from dicom_bridge.net import PacsClient, RemoteAE, RetrievePolicy, Timeouts, retrieve_study
from dicom_bridge.net.scp.supervisor import ReceiverProcesses
from tests.dicom_bridge.net.processes import Zone, key, running_processes
from tests.pacs import LOOPBACK, StudyForm, running_orthanc, write_small_study
from tests.tools import free_port
from tests.waiting import wait_for

PATIENT = Timeouts(move_idle_s=60, move_total_s=1500, response_s=120)


def kill_at(zone: Zone, receiver: ReceiverProcesses, counts: tuple[int, ...]) -> threading.Thread:
    """Kill a receiver process whenever so many instances have been recorded."""

    def run() -> None:
        for turn, count in enumerate(counts):
            wait_for(
                lambda n=count: receiver.counts.stored >= n,  # type: ignore[misc]
                what=f"{count} instances",
                seconds=900,
                every=0.002,
            )
            before = receiver.restarts
            os.kill(receiver.pids[turn % len(receiver.pids)], signal.SIGKILL)
            wait_for(lambda n=before: receiver.restarts > n, what="the death to be seen")  # type: ignore[misc]

    thread = threading.Thread(target=run)
    thread.start()
    return thread


def move_with_kills(tmp_path: Path, form: StudyForm, kills: tuple[int, ...]) -> None:
    port = free_port()
    zone = Zone(tmp_path / "identified")
    study = write_small_study(tmp_path / "source", form)
    total = len(study.paths)
    peers = [RemoteAE("NODE", LOOPBACK, port), RemoteAE("STORESCU", LOOPBACK, free_port())]
    with running_orthanc(tmp_path / "pacs", peers) as pacs:
        client = PacsClient(pacs.remote, calling_ae="STORESCU", timeouts=PATIENT)
        assert all(outcome.ok for outcome in client.send(study.paths))
        refs = client.find_instances(study.study_uid)
        assert len(refs) == total
        names = {ref.SOPInstanceUID: key(ref.SOPInstanceUID) for ref in refs}

        def received() -> set[str]:
            stored = zone.stored()
            return {uid for uid, name in names.items() if name in stored}

        with running_processes(zone, processes=2, port=port) as (receiver, _):
            zone.expect(study.paths)
            killer = kill_at(zone, receiver, kills)
            policy = RetrievePolicy(rounds=8, settle_s=2.0, first_wait_s=0.5, longest_wait_s=2.0)
            report = retrieve_study(
                client, received, study.study_uid, "NODE", expected=refs, policy=policy
            )
            killer.join()
            assert report.complete, report.words
            assert receiver.restarts == len(kills)
    assert len(zone.stored()) == total
    assert [path.suffix for path in zone.files()] == [".dcm"] * total
    digests = {
        str(entry.values["instance"]): entry.values["sha256"]
        for entry in zone.read()
        if entry.kind == "stored"
    }
    for path in zone.files():
        assert hashlib.sha256(path.read_bytes()).hexdigest() == digests[path.stem]
    for source in study.paths[:: max(1, total // 50)]:
        sent = dcmread(source)
        assert dcmread(zone.file(str(sent.SOPInstanceUID))).PixelData == sent.PixelData


@pytest.mark.integration
def test_300_instances_with_receivers_killed_twice(tmp_path: Path) -> None:
    move_with_kills(tmp_path, StudyForm(series=3, slices=100, side=32), (60, 180))


@pytest.mark.long
@pytest.mark.timeout(1800)
def test_10000_instances_with_receivers_killed_twice(tmp_path: Path) -> None:
    move_with_kills(tmp_path, StudyForm(series=20, slices=500, side=64), (2500, 7000))
