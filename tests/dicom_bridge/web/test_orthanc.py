"""The whole way over DICOMweb with Orthanc: query, retrieve through the intake, store, verify."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from datetime import date
from pathlib import Path

import pytest
from pydicom import dcmread
from pydicom.uid import JPEG2000Lossless, generate_uid

from appliance.demo.pacs import OrthancPacs
from dicom_bridge.archive import Archive
from dicom_bridge.net import (
    CommitmentRequest,
    Pace,
    PacsClient,
    RemoteAE,
    RetrievePolicy,
    Schedule,
    StudyCriteria,
    Traffic,
)
from dicom_bridge.net.get import GetBounds
from dicom_bridge.net.intake import OUT_OF_RESOURCES, Delivery, Intake, StoreRefused, Tally
from dicom_bridge.web import WebAddress, WebClient, WebOptions, query
from tests.pacs import (
    LOOPBACK,
    ONCE,
    FolderInbox,
    SmallStudy,
    StudyForm,
    running_orthanc,
    write_small_study,
)
from tests.tools import free_port

pytestmark = pytest.mark.integration

FAST = RetrievePolicy(rounds=3, settle_s=0.1, first_wait_s=0.05, longest_wait_s=0.2)


@pytest.fixture(scope="module")
def pacs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OrthancPacs]:
    peers = [RemoteAE("NODE", LOOPBACK, free_port())]
    with running_orthanc(tmp_path_factory.mktemp("orthanc"), peers) as running:
        yield running


def web(pacs: OrthancPacs, options: WebOptions | None = None) -> WebClient:
    return WebClient(WebAddress(f"{pacs.rest_url}/dicom-web/"), retry=ONCE, options=options)


def stored(client: Archive, folder: Path, form: StudyForm) -> SmallStudy:
    study = write_small_study(folder, form)
    outcomes = client.send(study.paths)
    assert [outcome.path for outcome in outcomes] == study.paths
    assert [outcome.words for outcome in outcomes if not outcome.ok] == []
    return study


class Box:
    """An inbox and the intake in front of it."""

    def __init__(self, folder: Path) -> None:
        self.inbox = FolderInbox(folder)
        self.tally = Tally()
        self._intake = Intake(self.inbox, reserve_bytes=0, tally=self.tally)

    def take(self, delivery: Delivery) -> None:
        self._intake.take(delivery)


@pytest.fixture
def box(tmp_path: Path) -> Box:
    return Box(tmp_path / "inbox")


def test_both_transports_are_archives(pacs: OrthancPacs) -> None:
    archives: list[Archive] = [web(pacs), PacsClient(pacs.remote, calling_ae="NODE")]
    for archive in archives:
        assert archive.echo().ok
        assert archive.find_studies(StudyCriteria(patient_ids=("nobody",))) == []
        assert archive.find_instances("1.2.3") == []


def test_from_the_pacs_and_back(pacs: OrthancPacs, box: Box, tmp_path: Path) -> None:
    client = web(pacs, WebOptions(bounds=GetBounds(memory_bytes=512, spool=tmp_path)))
    patient = f"P-{generate_uid()[-12:]}"
    study = stored(client, tmp_path / "a", StudyForm(series=2, slices=5, patient_id=patient))
    stored(client, tmp_path / "b", StudyForm(patient_id=patient, modality="CT", seed=1))
    stored(client, tmp_path / "c", StudyForm(patient_id=patient, study_date="20190101", seed=2))
    [match] = client.find_studies(
        StudyCriteria(
            modalities=("MR",),
            study_date_from=date(2024, 1, 1),
            patient_ids=(patient,),
            description="*MS*",
        )
    )
    assert match.StudyInstanceUID == study.study_uid
    assert (match.PatientID, match.PatientName, match.StudyDate) == (
        patient,
        "Doe^Jane",
        "20240102",
    )
    assert match.instances == 10
    assert "MR" in match.ModalitiesInStudy
    listed = client.find_instances(study.study_uid)
    assert {ref.SeriesInstanceUID for ref in listed} == set(study.series)
    box.inbox.study_uids = {study.study_uid}
    report = client.retrieve(
        study.study_uid, box.inbox.uids, expected=listed, sink=box, policy=FAST
    )
    assert report.complete, report.words
    assert (box.tally.stored, box.tally.repeated) == (10, 0)
    for source in study.paths:
        sent = dcmread(source)
        path = box.inbox.path_for(study.study_uid, sent.SeriesInstanceUID, sent.SOPInstanceUID)
        assert dcmread(path).PixelData == sent.PixelData
    sent_uids = {dcmread(path).SOPInstanceUID: "1.2" for path in study.paths}
    answer = client.commit(
        CommitmentRequest(generate_uid(), study.study_uid, {**sent_uids, "1.2.9": "1.2"})
    )
    assert answer.committed == set(sent_uids)
    assert dict(answer.failed) == {"1.2.9": 0x0112}


def test_only_the_missing_are_asked_for_and_strangers_do_not_enter(
    pacs: OrthancPacs, box: Box, tmp_path: Path
) -> None:
    client = web(pacs)
    study = stored(client, tmp_path / "a", StudyForm(slices=6))
    listed = client.find_instances(study.study_uid)
    box.inbox.study_uids = set()
    report = client.retrieve(
        study.study_uid, box.inbox.uids, expected=listed, sink=box, policy=FAST
    )
    assert not report.complete
    assert "no open request asked" in report.words
    assert box.inbox.files() == []
    box.inbox.study_uids = {study.study_uid}
    few = client.retrieve(
        study.study_uid, box.inbox.uids, expected=listed[:2], sink=_Only(box, 2), policy=FAST
    )
    assert few.complete
    whole = client.retrieve(study.study_uid, box.inbox.uids, expected=listed, sink=box, policy=FAST)
    assert whole.complete
    assert (box.tally.stored, box.tally.repeated) == (6, 0)


class _Only:
    """Takes the first ``count`` instances and refuses the rest, as a broken transfer would."""

    def __init__(self, box: Box, count: int) -> None:
        self._box, self._left = box, count

    def take(self, delivery: Delivery) -> None:
        if not self._left:
            raise StoreRefused(0x0110, "not now")
        self._left -= 1
        self._box.take(delivery)


def test_compressed_images_come_as_they_are(pacs: OrthancPacs, box: Box, tmp_path: Path) -> None:
    client = web(pacs)
    study = write_small_study(tmp_path / "a", StudyForm(slices=1, side=64))
    ds = dcmread(study.paths[0])
    ds.compress(JPEG2000Lossless, generate_instance_uid=False)
    ds.save_as(study.paths[0])
    [outcome] = client.send(study.paths)
    assert outcome.ok
    listed = client.find_instances(study.study_uid)
    report = client.retrieve(
        study.study_uid, box.inbox.uids, expected=listed, sink=box, policy=FAST
    )
    assert report.complete
    assert dcmread(box.inbox.files()[0]).file_meta.TransferSyntaxUID == JPEG2000Lossless


def test_pages_are_read_to_their_end(
    pacs: OrthancPacs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(query, "PAGE", 3)
    client = web(pacs)
    patient = f"P-{generate_uid()[-12:]}"
    for number in range(7):
        form = StudyForm(slices=1, patient_id=patient, seed=number)
        last = stored(client, tmp_path / str(number), form)
    assert len(client.find_studies(StudyCriteria(patient_ids=(patient,)))) == 7
    long = stored(client, tmp_path / "long", StudyForm(slices=10))
    assert len(client.find_instances(long.study_uid)) == 10
    assert len(client.find_instances(last.study_uid)) == 1


def test_a_closed_window_and_a_full_disk_end_it(
    pacs: OrthancPacs, box: Box, tmp_path: Path
) -> None:
    study = stored(web(pacs), tmp_path / "a", StudyForm(series=3, slices=2))
    listed = web(pacs).find_instances(study.study_uid)
    closed = threading.Event()

    class Door(Schedule):
        def is_open(self, _moment: object) -> bool:
            return not closed.is_set()

    def received() -> set[str]:
        if len(box.inbox.uids()) >= 2:
            closed.set()
        return box.inbox.uids()

    slow = web(pacs, WebOptions(Traffic(Pace(Door()))))
    report = slow.retrieve(study.study_uid, received, expected=listed, sink=box, policy=FAST)
    assert 2 <= len(report.received) < 6
    assert "time window" in report.words

    class Full:
        def take(self, delivery: Delivery) -> None:
            raise StoreRefused(OUT_OF_RESOURCES, "the disk is full")

    with pytest.raises(StoreRefused, match="disk is full"):
        web(pacs).retrieve(
            study.study_uid, box.inbox.uids, expected=listed, sink=Full(), policy=FAST
        )


def test_what_cannot_be_sent_does_not_stop_the_rest(pacs: OrthancPacs, tmp_path: Path) -> None:
    client = web(pacs)
    study = write_small_study(tmp_path / "a", StudyForm(slices=2))
    junk = tmp_path / "junk.dcm"
    junk.write_bytes(b"nothing")
    outcomes = client.send([study.paths[0], junk, study.paths[1]])
    assert [outcome.ok for outcome in outcomes] == [True, False, True]
    assert "no complete DICOM file" in outcomes[1].words
    assert client.send([]) == []
