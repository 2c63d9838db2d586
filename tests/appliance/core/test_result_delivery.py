"""Results written for a study in a real Orthanc: sent, verified, superseded, held."""

from __future__ import annotations

import hashlib
import json
import threading
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import cast

import nibabel as nib
import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset
from pynetdicom import AE, build_role, evt
from pynetdicom.sop_class import (
    StorageCommitmentPushModel,
    StorageCommitmentPushModelInstance,
)

from appliance.archives import client_for
from appliance.home import Home
from appliance.intake import Intake, IntakeParts, Spool
from appliance.label_refresh import LabelParts, LabelRefresh
from appliance.labels.keeping import KeeperParts, LabelKeeper
from appliance.pipeline.pool import WorkerPool
from appliance.pipeline.states import ARROWS
from appliance.receiving import Receiving, layout_of
from appliance.research import CaseFiles, case_hash, erase_case
from appliance.result_states import Instant
from appliance.result_writing import REPORT_FILE, SEG_FILE
from appliance.store import Member, Outcome, ResultState
from dicom_bridge.archive import Archive
from dicom_bridge.net import PacsClient, PacsOptions, RemoteAE
from dicom_bridge.net.retrieve import RetrievePolicy
from dicom_bridge.seg import check_seg
from federation.node.site_port import EVALUATED
from tests.pacs import LOOPBACK, OrthancPacs, running_orthanc
from tests.results import PROJECT, NodeResults, changed, manifest, set_up, small_study
from tests.studies import TestStudy
from tests.tools import free_port
from tests.waiting import wait_for

pytestmark = [pytest.mark.integration, pytest.mark.timeout(300)]

NODE_AE = "RESULTNODE"


@dataclass
class Site:
    """An Orthanc with one study per test, and how to make a node for it."""

    pacs: OrthancPacs
    port: int
    folder: Path
    nodes: list[NodeResults]
    pool: WorkerPool

    @property
    def client(self) -> PacsClient:
        return PacsClient(self.pacs.remote, calling_ae=NODE_AE)

    def study(self, name: str) -> TestStudy:
        study = small_study(self.folder / name, name)
        assert all(outcome.ok for outcome in self.client.send(study.files))
        return study

    def node(self, study: TestStudy, **results: object) -> NodeResults:
        """A node that fetches from this Orthanc and sends to it."""
        remote = self.pacs.remote
        dimse = {"ae_title": remote.ae_title, "host": remote.host, "port": remote.port}
        commitment = results.pop("commitment", False)
        web = {"url": f"{self.pacs.rest_url}/dicom-web"}
        document = {
            "dicom": {"ae_title": NODE_AE, "port": self.port, "allowed_ae": ["COMMITS"]},
            "pacs": [
                {
                    "name": "main",
                    **dimse,
                    "role": ["query", "results"],
                    "commitment": commitment,
                },
                {"name": "web", "transport": "dicomweb", "role": "results", "web": web},
            ],
            "results": {"destination": "main", **results},
            "retry": {"attempts": 3, "first_wait_s": 0.05, "longest_wait_s": 0.1},
        }
        home = Home(self.folder / "homes" / study.StudyInstanceUID[-12:], PROJECT)
        set_up(home, study, self.client, document)
        node = NodeResults(home, lambda name: self.archive(node, name), pool=self.pool)
        self.nodes.append(node)
        return node

    def archive(self, node: NodeResults, name: str) -> Archive:
        (section,) = [pacs for pacs in node.settings.pacs if pacs.name == name]
        return client_for(node.settings)(section)

    def made(self, study: TestStudy) -> list[str]:
        """SOP Instance UIDs in the study that are not the scanner's."""
        listed = self.client.find_instances(study.StudyInstanceUID)
        return sorted(ref.SOPInstanceUID for ref in listed if ref.Modality != "MR")

    def stored(self, uid: str) -> Dataset:
        """An instance as the PACS gives it back."""
        (key,) = self._ask("/tools/lookup", uid)
        path = self.folder / f"{uid}.dcm"
        url = f"{self.pacs.rest_url}/instances/{key}/file"
        with urllib.request.urlopen(url, timeout=20.0) as answer:
            path.write_bytes(answer.read())
        return pydicom.dcmread(path)

    def delete(self, study: TestStudy) -> None:
        (key,) = self._ask("/tools/lookup", study.StudyInstanceUID)
        self._call("DELETE", f"/studies/{key}", None)

    def _ask(self, path: str, body: str) -> list[str]:
        return [entry["ID"] for entry in json.loads(self._call("POST", path, body.encode()))]

    def _call(self, method: str, path: str, body: bytes | None) -> bytes:
        request = urllib.request.Request(f"{self.pacs.rest_url}{path}", data=body, method=method)
        with urllib.request.urlopen(request, timeout=20.0) as answer:
            return bytes(answer.read())


@pytest.fixture(scope="module")
def orthanc(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    folder, port = tmp_path_factory.mktemp("delivery"), free_port()
    with running_orthanc(folder / "pacs", [RemoteAE(NODE_AE, "127.0.0.1", port)]) as pacs:
        pool = WorkerPool(workers=1, threads=1)
        yield Site(pacs, port, folder, [], pool)
        pool.close()


@pytest.fixture
def site(orthanc: Site) -> Iterator[Site]:
    yield orthanc
    while orthanc.nodes:
        orthanc.nodes.pop().close()


def test_a_result_is_stored_whole_and_a_second_sending_doubles_nothing(site: Site) -> None:
    study = site.study("whole")
    node = site.node(study)
    known = {"weights": manifest().weights_sha256, "split": "test", "mean": 0.71, "sd": 0.05}
    node.state.activity.record(EVALUATED, {**known, "cases": 9})
    row = node.enter(manifest())
    assert (row.state, row.lesions, row.found) == (ResultState.HELD, 2, True)
    assert node.audited == ["result.made", "result.held"]
    assert site.made(study) == []
    node.results.release(row.key, actor="me")
    node.results.send_due()
    assert node.get(row.key).state is ResultState.STORED, node.get(row.key).reason
    uids = node.results.uids(node.study().version_key, row.model_id)
    assert site.made(study) == sorted([uids.seg, uids.report])
    assert node.results.send(row.key).state is ResultState.STORED
    assert site.made(study) == sorted([uids.seg, uids.report])
    seg, report = site.stored(uids.seg), site.stored(uids.report)
    source = node.identities.source(row.study_key, "FLAIR")
    assert check_seg(source, site.folder / f"{uids.seg}.dcm") == []
    assert seg.SeriesDescription == f"RESEARCH {manifest().plan_name} {manifest().id[:8]}"
    assert report.SeriesDescription.startswith("RESEARCH")
    for dataset in (seg, report):
        assert dataset.PatientID == study.PatientID
        assert dataset.StudyInstanceUID == study.StudyInstanceUID
    evidence = report.CurrentRequestedProcedureEvidenceSequence
    named = {
        item.ReferencedSOPInstanceUID
        for entry in evidence
        for series in entry.ReferencedSeriesSequence
        for item in series.ReferencedSOPSequence
    }
    assert uids.seg in named
    text = report.to_json()
    assert "0.71" in text, "the model's Dice at this site"
    assert "Not for diagnostic use" in text


def test_the_same_model_again_makes_nothing_new(site: Site) -> None:
    study = site.study("again")
    node = site.node(study, release="all")
    first = node.enter(manifest())
    node.results.send_due()
    assert node.enter(manifest()).key == first.key
    node.results.enter(node.study(), manifest(), node.home.root / "mask.safetensors")
    assert len(node.state.results.select()) == 1
    assert len(site.made(study)) == 2


def test_a_newer_model_supersedes_visibly(site: Site) -> None:
    study = site.study("newer")
    node = site.node(study)
    old = node.enter(manifest(1))
    node.results.release(old.key, actor="me")
    node.results.send_due()
    held = node.enter(manifest(2))
    new = node.enter(manifest(3))
    other = node.enter(changed(manifest(1), "another-plan"))
    states = {row.key: row.state for row in node.state.results.select()}
    assert states[old.key] is ResultState.STORED, "it stands until the newer one is there"
    assert states[held.key] is ResultState.SUPERSEDED
    assert (states[new.key], states[other.key]) == (ResultState.HELD, ResultState.HELD)
    assert new.predecessor == old.key
    node.results.release(new.key, actor="me")
    node.results.send_due()
    assert node.get(old.key).state is ResultState.SUPERSEDED
    assert new.key in node.get(old.key).reason
    version = node.study().version_key
    before, now = node.results.uids(version, old.model_id), node.results.uids(version, new.model_id)
    report, seg = site.stored(now.report), site.stored(now.seg)
    (document,) = report.PredecessorDocumentsSequence
    (series,) = document.ReferencedSeriesSequence
    assert series.ReferencedSOPSequence[0].ReferencedSOPInstanceUID == before.report
    assert f"supersedes {old.model_id[:8]}" in seg.SeriesDescription
    assert f"supersedes {old.model_id[:8]}" in seg.ContentDescription
    assert len(site.made(study)) == 4


def test_nothing_found_is_a_report_and_no_segmentation(site: Site) -> None:
    study = site.study("nothing")
    node = site.node(study, release="all")
    row = node.enter(manifest(), mask="empty")
    assert not row.found
    node.results.send_due()
    assert node.get(row.key).state is ResultState.STORED
    uids = node.results.uids(node.study().version_key, row.model_id)
    assert site.made(study) == [uids.report]
    node.close()
    site.nodes.remove(node)


@pytest.mark.parametrize("setting", [{"send_no_finding": False}, {"form": ["seg"]}])
def test_nothing_found_may_be_kept_to_oneself(site: Site, setting: dict[str, object]) -> None:
    study = site.study(f"silent-{next(iter(setting))}")
    node = site.node(study, release="all", **setting)
    row = node.enter(manifest(), mask="empty")
    assert row.state is ResultState.NO_FINDING
    assert node.results.send_due() == 0
    assert site.made(study) == []


def test_an_object_that_changed_on_disk_is_refused_and_a_person_may_look_again(site: Site) -> None:
    node = site.node(site.study("damaged"))
    node.results.enter(node.study(), manifest(), node.home.root / "mask.safetensors")
    (row,) = node.state.results.select()
    path = node.results.folder(row.key) / SEG_FILE
    whole = path.read_bytes()
    node.state.results.update(row.key, {"state": ResultState.MADE})
    path.write_bytes(whole[:-10])
    node.results.send_due()
    assert node.get(row.key).state is ResultState.REFUSED
    assert "seg.dcm changed" in node.get(row.key).reason
    path.write_bytes(whole)
    assert node.results.release(row.key, actor="me").state is ResultState.RELEASED
    node.results.send_due()
    assert node.get(row.key).state is ResultState.STORED


def test_a_report_about_another_segmentation_is_refused(site: Site) -> None:
    node = site.node(site.study("mixed"))
    row = node.enter(manifest())
    other = node.enter(changed(manifest(), "another-plan"))
    stranger = (node.results.folder(other.key) / REPORT_FILE).read_bytes()
    (node.results.folder(row.key) / REPORT_FILE).write_bytes(stranger)
    digest = hashlib.sha256(stranger).hexdigest()
    node.state.database.execute(
        "UPDATE result_objects SET sha256 = ? WHERE result = ? AND form = 'sr'", (digest, row.key)
    )
    node.state.results.update(row.key, {"state": ResultState.MADE})
    node.results.send_due()
    assert node.get(row.key).state is ResultState.REFUSED
    assert "another SOP Instance UID" in node.get(row.key).reason


def test_a_study_deleted_from_the_pacs_holds_its_result(site: Site) -> None:
    study = site.study("deleted")
    node = site.node(study)
    row = node.enter(manifest())
    site.delete(study)
    node.results.release(row.key, actor="me")
    node.results.send_due()
    assert node.get(row.key).state is ResultState.HELD
    assert "no longer in the PACS" in node.get(row.key).reason
    assert site.made(study) == []


def test_results_go_by_stow_and_are_verified_by_qido(site: Site) -> None:
    study = site.study("web")
    node = site.node(study)
    row = node.enter(manifest())
    node.results.release(row.key, actor="me", destination="web")
    node.results.send_due()
    assert node.get(row.key).state is ResultState.STORED, node.get(row.key).reason
    assert len(site.made(study)) == 2
    assert node.results.send(row.key).state is ResultState.STORED
    assert len(site.made(study)) == 2


def test_orthanc_commits_on_an_association_of_its_own(site: Site) -> None:
    study = site.study("committed")
    node = site.node(study, commitment=True)
    instants: list[Instant] = []
    node.close()
    site.nodes.remove(node)
    node = NodeResults(
        node.home,
        lambda _name: site.client,
        observer=lambda _key, instant: instants.append(instant),
        pool=site.pool,
    )
    site.nodes.append(node)
    receiving = Receiving(
        node.settings,
        node.home,
        node.state,
        on_commitment=node.results.on_commitment,
        port=site.port,
    )
    receiving.start()
    try:
        row = node.enter(manifest())
        node.results.release(row.key, actor="me")
        node.results.send_due()
        committed = ResultState.COMMITTED
        wait_for(lambda: node.get(row.key).state is committed, what="the commitment", seconds=60)
    finally:
        receiving.stop()
    gone = node.results.folder(row.key)
    wait_for(lambda: not gone.exists(), what="the end of the local copy")
    assert set(instants) == set(Instant), "the tests of kills know every instant"
    assert len(site.made(study)) == 2


def corrected(site: Site, uid: str, rater: str, number: int) -> Path:
    """One of our SEGs as a viewer stores it after a correction: three voxels of a slice less."""
    dataset = site.stored(uid)
    dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = f"{uid[:40]}.{number}"
    dataset.SeriesInstanceUID = f"{uid[:40]}.77{number}"
    dataset.Manufacturer = dataset.ManufacturerModelName = "Viewer"
    dataset.SeriesDescription = "corrected"
    dataset.ContentTime = f"12000{number}"
    dataset.ContentCreatorName = rater
    for segment in dataset.SegmentSequence:
        if rater:
            segment.SegmentAlgorithmType = "MANUAL"
        for keyword in ("TrackingID", "TrackingUID"):
            if keyword in segment:
                delattr(segment, keyword)
    path = site.folder / f"corrected-{number}.dcm"
    dataset.save_as(path, enforce_file_format=True)
    return path


@dataclass
class Listening:
    """A node's intake over a ready study, with what takes new labels."""

    node: NodeResults
    intake: Intake

    def poll(self) -> int:
        """Query the PACS; the number of studies with late images."""
        keys = (self.node.study().study_key,)
        return self.intake.poll(self.node.settings.pacs[0], keys).late

    def labels(self, kind: str = "raters") -> dict[str, int]:
        """Label images of one kind with their voxels."""
        root = self.node.home.derivatives / kind
        found = sorted(root.rglob("*_dseg.nii.gz"))
        return {p.name: int(np.count_nonzero(nib.load(p).dataobj)) for p in found}


@contextmanager
def listening(node: NodeResults, study: TestStudy) -> Iterator[Listening]:
    """Move the study to `ready` and let the node hear of what comes into it."""
    key = node.study().study_key
    for arrow in ARROWS:
        claim = node.state.studies.claim_study(key, arrow.stage)
        assert claim is not None
        node.state.studies.finish(claim, Outcome(inputs=("FLAIR",)), seconds=1.0)
    for path in study.files:
        uid = str(pydicom.dcmread(path, stop_before_pixels=True).SOPInstanceUID)
        node.state.instances.record(key, node.identities.instance_key(uid), "0" * 64)
    spool = Spool(node.state, node.home, node.identities, layout_of(node.home).jobs)
    labels = LabelRefresh(
        LabelParts(
            state=node.state,
            home=node.home,
            settings=node.settings,
            identities=node.identities,
            pool=node.pool,
            own=node.results.marks,
            keeper=LabelKeeper(
                KeeperParts(
                    state=node.state,
                    home=node.home,
                    section=node.settings.labels,
                    identities=node.identities,
                    pool=node.pool,
                    audit=lambda action, _object, _detail: node.audited.append(action),
                    settling=threading.RLock(),
                    reference="FLAIR",
                )
            ),
        )
    )
    intake = Intake(
        IntakeParts(
            state=node.state,
            home=node.home,
            settings=node.settings,
            identities=node.identities,
            spool=spool,
            client=client_for(node.settings),
            on_labels=labels.take,
            policy=RetrievePolicy(settle_s=0.5),
        )
    )
    receiving = Receiving(node.settings, node.home, node.state, on_commitment=lambda _report: True)
    receiving.start()
    try:
        yield Listening(node, intake)
    finally:
        receiving.stop()


def test_a_corrected_result_comes_back_as_a_raters_label_and_reopens_nothing(site: Site) -> None:
    study = site.study("corrected")
    node = site.node(study, release="all")
    row = node.enter(manifest())
    node.results.send_due()
    uid = node.results.uids(node.study().version_key, row.model_id).seg
    with listening(node, study) as heard:
        assert heard.poll() == 0
        assert heard.labels() == {}, "our own result is no label"
        assert site.client.send([corrected(site, uid, "RATER^ONE", 1)])[0].ok
        assert heard.poll() == 0
        (voxels,) = heard.labels().values()
        assert voxels > 0
        assert list(heard.labels("labels").values()) == [voxels], "nobody froze the study"
        present = node.study()
        assert (present.version, present.state.value, present.labelled) == (1, "ready", True)
        assert not node.home.study(present.study_key).exists(), "the spool is empty again"
        case = CaseFiles.of(present.case)
        member = Member(present.study_key, present.case, "train", True, ("FLAIR",), "")
        node.state.datasets.create("before")
        content = case_hash(node.home, case)
        node.state.datasets.freeze("before", [member], content_hash=content, splits={})
        two = [corrected(site, uid, "RATER^ONE", 2), corrected(site, uid, "RATER^TWO", 3)]
        assert all(outcome.ok for outcome in site.client.send(two))
        assert heard.poll() == 0
        assert len(heard.labels()) == 2, "one label per rater"
        assert case_hash(node.home, case) == content, "the frozen data set stays"
        assert node.study().version == 1
        assert heard.poll() == 0
        assert node.audited.count("study.label") == 3, "nothing is taken twice"
        for path in node.home.research.rglob("*"):
            assert "RATER" not in path.name
            if path.is_file():
                assert b"RATER" not in path.read_bytes()
        erase_case(node.home, case)
        assert heard.labels() == {}


def test_a_copy_by_a_viewer_that_names_nobody_is_recognised_by_its_algorithm(site: Site) -> None:
    study = site.study("nameless")
    node = site.node(study, release="all")
    row = node.enter(manifest())
    node.results.send_due()
    uid = node.results.uids(node.study().version_key, row.model_id).seg
    foreign = corrected(site, uid, "", 4)
    dataset = pydicom.dcmread(foreign)
    for segment in dataset.SegmentSequence:
        segment.SegmentAlgorithmName = "another vendor's"
    dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = f"{uid[:40]}.5"
    stranger = site.folder / "stranger.dcm"
    dataset.save_as(stranger, enforce_file_format=True)
    with listening(node, study) as heard:
        assert all(outcome.ok for outcome in site.client.send([foreign, stranger]))
        assert heard.poll() == 0
        assert len(heard.labels()) == 1
        events = node.state.activity.select()
        told = {e.action for e in events}
        assert told == {"study.label", "study.label_refused"}, "an algorithm's is no label"


@contextmanager
def committing(asked: list[Dataset]) -> Iterator[RemoteAE]:
    """A PACS by pynetdicom that takes requests for commitment and answers none of them itself."""

    def on_action(event: evt.Event) -> tuple[int, None]:
        asked.append(event.action_information)
        return 0x0000, None

    entity = AE(ae_title="COMMITS")
    entity.add_supported_context(StorageCommitmentPushModel)
    handlers = [(evt.EVT_N_ACTION, on_action)]
    server = entity.start_server((LOOPBACK, 0), block=False, evt_handlers=handlers)
    try:
        yield RemoteAE("COMMITS", LOOPBACK, server.server_address[1])
    finally:
        server.shutdown()


def report_later(port: int, asked: Dataset, *, failed: Sequence[str] = ()) -> None:
    """The PACS opens an association to the node and reports (PS3.4 J.3.3)."""
    information = Dataset()
    information.TransactionUID = asked.TransactionUID
    items = list(asked.ReferencedSOPSequence)
    information.ReferencedSOPSequence = [
        item for item in items if item.ReferencedSOPInstanceUID not in failed
    ]
    information.FailedSOPSequence = [
        item for item in items if item.ReferencedSOPInstanceUID in failed
    ]
    for item in information.FailedSOPSequence:
        item.FailureReason = 0x0112
    entity = AE(ae_title="COMMITS")
    entity.add_requested_context(StorageCommitmentPushModel)
    role = build_role(StorageCommitmentPushModel, scp_role=True)
    association = entity.associate(LOOPBACK, port, ae_title=NODE_AE, ext_neg=[role])
    assert association.is_established
    status, _ = association.send_n_event_report(
        information,
        2 if failed else 1,
        StorageCommitmentPushModel,
        StorageCommitmentPushModelInstance,
    )
    association.release()
    assert status.Status == 0x0000


@dataclass
class OtherCommits:
    """An archive of which another program answers for the safekeeping."""

    archive: PacsClient
    commits: PacsClient

    def __getattr__(self, name: str) -> object:
        return getattr(self.commits if name == "commit" else self.archive, name)


def test_reports_hours_later_after_a_restart_and_with_a_failure(site: Site) -> None:
    study = site.study("hours")
    first = site.node(study, commitment=True)
    first.close()
    site.nodes.remove(first)
    asked: list[Dataset] = []
    now = [datetime(2026, 3, 1, 12, tzinfo=UTC)]
    with committing(asked) as remote:
        commits = PacsClient(remote, calling_ae=NODE_AE, options=PacsOptions(report_wait_s=0.1))
        both = cast("Archive", OtherCommits(site.client, commits))

        def start() -> tuple[NodeResults, Receiving]:
            """A life of the node: its results, and the receiver that hears reports."""
            node = NodeResults(first.home, lambda _: both, clock=lambda: now[0], pool=site.pool)
            receiving = Receiving(
                node.settings, node.home, node.state, on_commitment=node.results.on_commitment
            )
            receiving.start()
            node.results.recover()
            return node, receiving

        node, receiving = start()
        row = node.enter(manifest())
        node.results.release(row.key, actor="me")
        node.results.send_due()
        assert node.get(row.key).state is ResultState.STORED, node.get(row.key).reason
        uids = node.results.uids(node.study().version_key, row.model_id)
        receiving.stop()
        node.close()
        now[0] += timedelta(hours=20)
        node, receiving = start()
        site.nodes.append(node)
        try:
            node.results.send_due()
            assert len(asked) == 1, "it waits"
            report_later(site.port, asked[0], failed=[uids.report])
            failed = ResultState.FAILED
            wait_for(lambda: node.get(row.key).state is failed, what="the failure's report")
            assert "no such instance" in node.get(row.key).reason
            node.results.send_due()
            assert len(asked) == 2, node.get(row.key).reason
            (item,) = asked[1].ReferencedSOPSequence
            assert item.ReferencedSOPInstanceUID == uids.report
            now[0] += timedelta(hours=5)
            report_later(site.port, asked[1])
            done = ResultState.COMMITTED
            wait_for(lambda: node.get(row.key).state is done, what="the commitment")
        finally:
            receiving.stop()
    assert site.made(study) == sorted([uids.seg, uids.report])
