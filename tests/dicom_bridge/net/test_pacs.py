"""The whole way with real PACS: fill, find, move to our Storage SCP, send a result back."""

from __future__ import annotations

import json
import urllib.request
from datetime import date
from pathlib import Path

import pytest
from pydicom import dcmread
from pydicom.uid import SegmentationStorage, generate_uid

from appliance.demo.pacs import OrthancPacs, PacsNotStarted
from dicom_bridge.errors import AssociationRejected, PeerFailure, PeerUnreachable
from dicom_bridge.net import (
    PacsClient,
    RemoteAE,
    RetrievePolicy,
    StudyCriteria,
    retrieve_study,
)
from tests.dicom_bridge.net.conftest import NODE, Site
from tests.dicom_bridge.net.peers import cutting_relay
from tests.pacs import (
    LOOPBACK,
    ONCE,
    QUICK,
    FolderInbox,
    SmallStudy,
    StudyForm,
    running_orthanc,
    running_receiver,
    write_small_study,
)
from tests.tools import free_port

pytestmark = pytest.mark.integration

FAST = RetrievePolicy(rounds=4, settle_s=1.0, first_wait_s=0.05, longest_wait_s=0.2)


@pytest.fixture(params=["orthanc", "embedded"])
def site(request: pytest.FixtureRequest) -> Site:
    found: Site = request.getfixturevalue(request.param)
    return found


@pytest.fixture
def inbox(tmp_path: Path) -> FolderInbox:
    return FolderInbox(tmp_path / "inbox")


def fill(site: Site, folder: Path, form: StudyForm) -> SmallStudy:
    study = write_small_study(folder, form)
    assert [outcome.words for outcome in site.client.send(study.paths) if not outcome.ok] == []
    return study


def allowed(site: Site) -> frozenset[str]:
    return frozenset({site.pacs.remote.ae_title})


def test_from_the_pacs_and_back(site: Site, inbox: FolderInbox, tmp_path: Path) -> None:
    patient = f"P-{generate_uid()[-12:]}"
    form = StudyForm(series=2, slices=4, patient_id=patient)
    study = fill(site, tmp_path / "wanted", form)
    fill(site, tmp_path / "ct", StudyForm(patient_id=patient, modality="CT", seed=1))
    old = StudyForm(patient_id=patient, study_date="20190101", seed=2)
    fill(site, tmp_path / "old", old)

    criteria = StudyCriteria(
        modalities=("MR",), study_date_from=date(2024, 1, 1), patient_ids=(patient,)
    )
    [match] = site.client.find_studies(criteria)
    assert match.StudyInstanceUID == study.study_uid
    assert (match.PatientID, match.StudyDate) == (patient, "20240102")
    assert "MR" in match.ModalitiesInStudy
    listed = site.client.find_instances(study.study_uid)
    assert len(listed) == 8
    assert {ref.SeriesInstanceUID for ref in listed} == set(study.series)

    inbox.study_uids = {study.study_uid}
    settings = {"port": site.node_port, "allowed_ae": allowed(site)}
    with running_receiver(inbox, **settings) as (receiver, _):
        report = retrieve_study(
            site.client, inbox.uids, study.study_uid, NODE, expected=listed, policy=FAST
        )
        assert report.complete
        assert report.rounds == 1
        assert receiver.counts.refused == 0
    for source in study.paths:
        sent = dcmread(source)
        got = dcmread(inbox.path_for(study.study_uid, sent.SeriesInstanceUID, sent.SOPInstanceUID))
        assert got.PixelData == sent.PixelData
        assert str(got.PatientName) == str(sent.PatientName)

    result = dcmread(study.paths[0])
    result.SOPClassUID = result.file_meta.MediaStorageSOPClassUID = SegmentationStorage
    result.SOPInstanceUID = result.file_meta.MediaStorageSOPInstanceUID = generate_uid()
    result.SeriesInstanceUID, result.Modality = generate_uid(), "SEG"
    path = tmp_path / "result.dcm"
    result.save_as(path)
    [outcome] = site.client.send([path])
    assert outcome.ok
    after = site.client.find_instances(study.study_uid)
    [found] = [ref for ref in after if ref.Modality == "SEG"]
    assert found.SOPInstanceUID == result.SOPInstanceUID


def test_a_long_series_arrives_whole(site: Site, inbox: FolderInbox, tmp_path: Path) -> None:
    study = fill(site, tmp_path / "source", StudyForm(slices=230, side=8))
    listed = site.client.find_instances(study.study_uid)
    settings = {"port": site.node_port, "allowed_ae": allowed(site)}
    with running_receiver(inbox, **settings) as (receiver, _):
        report = retrieve_study(
            site.client, inbox.uids, study.study_uid, NODE, expected=listed, policy=FAST
        )
        assert receiver.counts.stored == 230
        assert receiver.counts.repeated == 0
    assert report.words == "230 of 230 instances received"


def test_a_cut_transfer_is_completed_without_doubles(
    site: Site, inbox: FolderInbox, tmp_path: Path
) -> None:
    study = fill(site, tmp_path / "source", StudyForm(slices=20, side=128))
    listed = site.client.find_instances(study.study_uid)
    with (
        running_receiver(inbox, allowed_ae=allowed(site)) as (receiver, ours),
        cutting_relay(ours.port, port=site.node_port, after=300_000) as relay,
    ):
        report = retrieve_study(
            site.client, inbox.uids, study.study_uid, NODE, expected=listed, policy=FAST
        )
        counts = receiver.counts
        assert relay.connections >= 2
    assert report.complete
    assert report.rounds >= 2
    assert (counts.stored, counts.repeated, counts.conflicts) == (20, 0, 0)
    assert len(inbox.files()) == 20


def test_a_node_that_is_down_is_said_so(site: Site, inbox: FolderInbox, tmp_path: Path) -> None:
    study = fill(site, tmp_path / "source", StudyForm(slices=2))
    listed = site.client.find_instances(study.study_uid)
    policy = RetrievePolicy(rounds=1, settle_s=0.1)
    try:
        report = retrieve_study(
            site.client, inbox.uids, study.study_uid, NODE, expected=listed, policy=policy
        )
    except PeerFailure as refusal:
        # The qrscp application says "unknown destination" for one that does not answer.
        words = str(refusal)
    else:
        assert len(report.missing) == 2
        words = report.words
    assert "C-MOVE 0x" in words
    assert study.study_uid not in words


def test_what_was_not_asked_for_does_not_enter(
    site: Site, inbox: FolderInbox, tmp_path: Path
) -> None:
    study = fill(site, tmp_path / "source", StudyForm(slices=2))
    inbox.study_uids = set()
    settings = {"port": site.node_port, "allowed_ae": allowed(site)}
    with running_receiver(inbox, **settings) as (receiver, _):
        outcome = site.client.move_study(study.study_uid, NODE)
        assert receiver.counts.refused >= 1
    assert not outcome.ok
    assert inbox.files() == []


def test_an_unknown_destination_is_said_in_words(site: Site, tmp_path: Path) -> None:
    study = fill(site, tmp_path / "source", StudyForm(slices=1))
    outcome = site.client.move_study(study.study_uid, "NOBODY")
    assert not outcome.ok
    assert "add our AE title with our host and port" in outcome.words


def test_orthanc_refuses_strangers_and_wrong_titles(orthanc: Site, tmp_path: Path) -> None:
    remote = orthanc.pacs.remote
    stranger = PacsClient(remote, calling_ae="STRANGER", timeouts=QUICK, retry=ONCE)
    with pytest.raises(AssociationRejected, match="does not know our AE title STRANGER"):
        stranger.echo()
    study = write_small_study(tmp_path, StudyForm(slices=1))
    with pytest.raises(AssociationRejected, match="does not know our AE title STRANGER"):
        stranger.send(study.paths)
    wrong = RemoteAE("WRONG", remote.host, remote.port)
    with pytest.raises(AssociationRejected, match="does not answer to the AE title WRONG"):
        PacsClient(wrong, calling_ae=NODE, timeouts=QUICK, retry=ONCE).echo()


def test_a_port_that_speaks_no_dicom_is_said_so(orthanc: Site) -> None:
    assert isinstance(orthanc.pacs, OrthancPacs)
    port = int(orthanc.pacs.rest_url.rsplit(":", 1)[1])
    web = PacsClient(RemoteAE("ORTHANC", LOOPBACK, port), calling_ae=NODE, timeouts=QUICK)
    with pytest.raises(PeerUnreachable, match="speaks DICOM"):
        web.echo()


def test_orthanc_shows_its_web_page_and_dicomweb(orthanc: Site, tmp_path: Path) -> None:
    assert isinstance(orthanc.pacs, OrthancPacs)
    study = fill(orthanc, tmp_path, StudyForm(slices=1))
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(orthanc.pacs.web_url, timeout=10) as page:
        assert b"Orthanc Explorer" in page.read()
    url = f"{orthanc.pacs.rest_url}/dicom-web/studies?StudyInstanceUID={study.study_uid}"
    request = urllib.request.Request(url, headers={"Accept": "application/dicom+json"})
    with opener.open(request, timeout=10) as answer:
        assert len(json.load(answer)) == 1


def test_orthanc_keeps_unknown_sop_classes(orthanc: Site, tmp_path: Path) -> None:
    study = write_small_study(tmp_path, StudyForm(slices=1))
    ds = dcmread(study.paths[0])
    ds.SOPClassUID = ds.file_meta.MediaStorageSOPClassUID = "1.2.826.0.1.3680043.9.1234.5"
    ds.save_as(study.paths[0])
    [outcome] = orthanc.client.send(study.paths)
    assert outcome.ok


def test_a_pacs_that_cannot_start_says_why(tmp_path: Path) -> None:
    http_port = free_port()
    with running_orthanc(tmp_path / "first", []) as first:
        second = OrthancPacs()
        with pytest.raises(PacsNotStarted, match="ended with status"):
            second.start(tmp_path / "second", "SECOND", first.remote.port, http_port, [])
        with pytest.raises(PacsNotStarted, match="not running"):
            _ = second.pid
    with pytest.raises(PacsNotStarted, match="not started"):
        _ = OrthancPacs().remote


def test_a_restarted_orthanc_still_holds_its_studies(tmp_path: Path) -> None:
    peer = RemoteAE(NODE, LOOPBACK, free_port())
    study = write_small_study(tmp_path / "source", StudyForm(slices=2))
    for turn in range(2):
        with running_orthanc(tmp_path / "pacs", [peer]) as pacs:
            client = PacsClient(pacs.remote, calling_ae=NODE, timeouts=QUICK, retry=ONCE)
            if turn == 0:
                client.send(study.paths)
            assert len(client.find_instances(study.study_uid)) == 2
