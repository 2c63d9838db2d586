"""DCMTK's tools as peers, on either side."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydicom import dcmread
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian

from dicom_bridge.errors import AssociationRejected
from dicom_bridge.net import PacsClient, RemoteAE
from tests.dicom_bridge.net.conftest import NODE, PEER_SCP, Site
from tests.pacs import (
    LOOPBACK,
    ONCE,
    QUICK,
    FolderInbox,
    StudyForm,
    run_tool,
    running_receiver,
    running_storescp,
    write_small_study,
)
from tests.tools import free_port

pytestmark = pytest.mark.integration


def client(remote: RemoteAE) -> PacsClient:
    return PacsClient(remote, calling_ae=NODE, timeouts=QUICK, retry=ONCE)


def test_storescu_sends_to_our_receiver(tmp_path: Path) -> None:
    study = write_small_study(tmp_path / "source", StudyForm(slices=40, side=64))
    inbox = FolderInbox(tmp_path / "inbox")
    with running_receiver(inbox) as (receiver, ours):
        where = ["-aec", ours.ae_title, LOOPBACK, str(ours.port)]
        done = run_tool("storescu", "-aet", "STORESCU", *where, *map(str, study.paths))
        assert done.returncode == 0, done.stderr
        assert receiver.counts.stored == 40
    for source in study.paths:
        sent = dcmread(source)
        stored = inbox.path_for(study.study_uid, sent.SeriesInstanceUID, sent.SOPInstanceUID)
        assert dcmread(stored).PixelData == sent.PixelData


def test_echoscu_and_who_may_call(tmp_path: Path) -> None:
    with running_receiver(FolderInbox(tmp_path / "inbox")) as (_, ours):
        where = [LOOPBACK, str(ours.port)]
        good = run_tool("echoscu", "-aet", "STORESCU", "-aec", ours.ae_title, *where)
        assert good.returncode == 0, good.stderr
        stranger = run_tool("echoscu", "-aet", "STRANGER", "-aec", ours.ae_title, *where)
        assert stranger.returncode != 0
        assert "Calling AE Title Not Recognized" in stranger.stderr
        other = run_tool("echoscu", "-aet", "STORESCU", "-aec", "OTHER", *where)
        assert other.returncode != 0
        assert "Called AE Title Not Recognized" in other.stderr


def test_an_unasked_storescu_is_told_so(tmp_path: Path) -> None:
    study = write_small_study(tmp_path / "source", StudyForm(slices=1))
    inbox = FolderInbox(tmp_path / "inbox", study_uids=set())
    with running_receiver(inbox) as (_, ours):
        where = ["-aec", ours.ae_title, LOOPBACK, str(ours.port)]
        done = run_tool("storescu", "-v", "-aet", "STORESCU", *where, str(study.paths[0]))
    assert "0x124" in done.stderr
    assert inbox.files() == []


def test_storescu_that_aborts_leaves_the_receiver_well(tmp_path: Path) -> None:
    study = write_small_study(tmp_path / "source", StudyForm(slices=2))
    inbox = FolderInbox(tmp_path / "inbox")
    with running_receiver(inbox) as (_, ours):
        where = ["-aec", ours.ae_title, LOOPBACK, str(ours.port)]
        run_tool("storescu", "--abort", "-aet", "STORESCU", *where, *map(str, study.paths))
        again = run_tool("storescu", "-aet", "STORESCU", *where, *map(str, study.paths))
        assert again.returncode == 0, again.stderr
    assert len(inbox.files()) == 2


def test_we_send_to_storescp(tmp_path: Path) -> None:
    study = write_small_study(tmp_path / "source", StudyForm(slices=5))
    with running_storescp(tmp_path / "scp") as remote:
        assert client(remote).echo().implementation.startswith("OFFIS_DCMTK")
        outcomes = client(remote).send(study.paths)
    assert all(outcome.ok for outcome in outcomes)
    assert len(list((tmp_path / "scp").iterdir())) == 5


@pytest.mark.parametrize(
    ("own", "options", "stored"),
    [
        (ExplicitVRLittleEndian, ["+xi"], ImplicitVRLittleEndian),
        (ImplicitVRLittleEndian, [], ImplicitVRLittleEndian),
        (ExplicitVRLittleEndian, ["+x="], ExplicitVRLittleEndian),
    ],
)
def test_the_peer_may_insist_on_another_encoding(
    tmp_path: Path, own: str, options: list[str], stored: str
) -> None:
    study = write_small_study(tmp_path / "source", StudyForm(slices=2))
    for path in study.paths:
        ds = dcmread(path)
        ds.file_meta.TransferSyntaxUID = own
        ds.save_as(path, implicit_vr=own == ImplicitVRLittleEndian, little_endian=True)
    with running_storescp(tmp_path / "scp", options=options) as remote:
        assert all(outcome.ok for outcome in client(remote).send(study.paths))
    for path in (tmp_path / "scp").iterdir():
        assert dcmread(path).file_meta.TransferSyntaxUID == stored


def test_a_peer_that_refuses_is_said_so(tmp_path: Path) -> None:
    with (
        running_storescp(tmp_path / "scp", options=["--refuse"]) as remote,
        pytest.raises(AssociationRejected, match="gave no reason; ask its administrator"),
    ):
        client(remote).echo()


def test_a_peer_that_aborts_is_said_so(tmp_path: Path) -> None:
    study = write_small_study(tmp_path / "source", StudyForm(slices=3))
    with running_storescp(tmp_path / "scp", options=["--abort-after"]) as remote:
        outcomes = client(remote).send(study.paths)
    assert not any(outcome.ok for outcome in outcomes)
    assert all("it aborted the association" in outcome.words for outcome in outcomes)


def test_findscu_and_movescu_through_orthanc(orthanc: Site, tmp_path: Path) -> None:
    """What we sent is what others find and fetch."""
    study = write_small_study(tmp_path / "source", StudyForm(slices=3))
    assert all(outcome.ok for outcome in orthanc.client.send(study.paths))
    remote = orthanc.pacs.remote
    keys = ["-k", "QueryRetrieveLevel=STUDY", "-k", f"StudyInstanceUID={study.study_uid}"]
    where = ["-aet", NODE, "-aec", remote.ae_title, LOOPBACK, str(remote.port)]
    found = run_tool("findscu", "-S", *keys, "-k", "PatientID", *where)
    assert "PAT-1" in found.stdout + found.stderr
    with running_storescp(tmp_path / "scp", ae_title=PEER_SCP, port=orthanc.peer_port):
        moved = run_tool("movescu", "-S", "-aem", PEER_SCP, *keys, *where)
        assert moved.returncode == 0, moved.stderr
    assert len(list((tmp_path / "scp").iterdir())) == 3


def test_movescu_cannot_push_into_the_node_what_it_did_not_ask_for(
    orthanc: Site, tmp_path: Path
) -> None:
    study = write_small_study(tmp_path / "source", StudyForm(slices=2))
    assert all(outcome.ok for outcome in orthanc.client.send(study.paths))
    remote = orthanc.pacs.remote
    keys = ["-k", "QueryRetrieveLevel=STUDY", "-k", f"StudyInstanceUID={study.study_uid}"]
    where = ["-aet", PEER_SCP, "-aec", remote.ae_title, LOOPBACK, str(remote.port)]
    inbox = FolderInbox(tmp_path / "inbox", study_uids=set())
    settings = {"port": orthanc.node_port, "allowed_ae": frozenset({remote.ae_title})}
    with running_receiver(inbox, **settings) as (receiver, _):
        run_tool("movescu", "-S", "-aem", NODE, *keys, *where)
        assert receiver.counts.stored == 0
        assert receiver.counts.refused >= 1
    assert inbox.files() == []


def test_nobody_at_the_port(tmp_path: Path) -> None:
    study = write_small_study(tmp_path / "source", StudyForm(slices=1))
    nobody = RemoteAE("NOBODY", LOOPBACK, free_port())
    with pytest.raises(Exception, match="connection refused"):
        client(nobody).send(study.paths)
