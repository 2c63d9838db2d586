"""The node against a real Orthanc: from C-FIND to `ready`, to a result back in the PACS."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pydicom
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from appliance.control.client import NodeClient
from appliance.demo.pacs import OrthancPacs
from appliance.demo.phantom import Fault, PhantomRequest, WrittenStudy, make_study, write_study
from appliance.errors import NotAllowed
from appliance.home import Home, create_keys
from appliance.keying import result_uid
from appliance.pipeline.states import State
from appliance.research import CaseFiles
from appliance.service import Node, NodeOptions
from appliance.settings import settings_from, settings_toml
from appliance.store import DatasetState, ResultState, StudyRow
from dicom_bridge.net import PacsClient, RemoteAE, StudyCriteria
from dicom_bridge.seg import check_seg
from federation.audit_chain import read_entries
from federation.learning.prepared import Split, read_manifest
from federation.manifest import ModelManifest
from federation.node.site_port import PlanDecision
from federation.plan import NetworkSpec, Plan, ms_lesion_demo_plan, sign
from federation.trainer import InitialiseJob, Trainer
from tests.pacs import running_orthanc
from tests.tools import free_port, require_tool
from tests.waiting import wait_for

pytestmark = [pytest.mark.integration, pytest.mark.timeout(1200)]

OWN_AE, TEST_AE, PROJECT = "NODE_T", "TESTER", "ms"
FAULTS = (None, None, Fault.MISSING_SLICE)


@dataclass(frozen=True)
class Hospital:
    """A PACS with three studies and the home of a node that never ran."""

    pacs: OrthancPacs
    studies: tuple[WrittenStudy, ...]
    home: Home
    port: int

    def client(self) -> PacsClient:
        return PacsClient(self.pacs.remote, calling_ae=TEST_AE)

    def node(self, options: NodeOptions | None = None) -> Node:
        return Node(self.home.root, options=options)


@pytest.fixture(scope="module")
def hospital(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hospital]:
    root = tmp_path_factory.mktemp("hospital")
    port = free_port()
    peers = [RemoteAE(OWN_AE, "127.0.0.1", port), RemoteAE(TEST_AE, "127.0.0.1", free_port())]
    studies = tuple(
        write_study(
            make_study(PhantomRequest(index, "siemens", seed=5, fault=fault)),
            root / f"study{index}",
            segmentation=index == 0,
        )
        for index, fault in enumerate(FAULTS)
    )
    with running_orthanc(root / "pacs", peers) as pacs:
        home = Home(root / "node", PROJECT)
        home.create()
        create_keys(home)
        settings = settings_from(
            {
                "node": {"site": "hospital-t", "project": PROJECT},
                "dicom": {"ae_title": OWN_AE, "port": port},
                "pacs": [
                    {
                        "name": "main",
                        "ae_title": pacs.remote.ae_title,
                        "host": pacs.remote.host,
                        "port": pacs.remote.port,
                        "role": ["query", "results"],
                    }
                ],
                "imaging": {"profile": "quick"},
                "retry": {"attempts": 2, "first_wait_s": 0.1},
                "governance": {
                    "auto_freeze": True,
                    "auto_approve_plans": "any",
                    "auto_accept_models": True,
                },
                "results": {"release": "none", "destination": "main"},
            }
        )
        home.settings_file.write_text(settings_toml(settings), encoding="utf-8")
        made = Hospital(pacs, studies, home, port)
        files = [path for study in studies for path in study.folder.rglob("*.dcm")]
        assert all(outcome.ok for outcome in made.client().send(files))
        yield made


@pytest.fixture(scope="module")
def node(hospital: Hospital) -> Iterator[Node]:
    made = hospital.node()
    made.start()
    wait_for(made.state.datasets.select, what="the first data set", seconds=300)
    wait_for(lambda: made.governance.approved_dataset(), what="the data set's approval", seconds=60)
    yield made
    made.stop()


def by_state(node: Node) -> dict[State, list[StudyRow]]:
    rows = node.state.studies.select()
    return {state: [row for row in rows if row.state is state] for state in State}


def test_good_studies_are_ready_and_the_bad_one_is_quarantined(node: Node) -> None:
    found = by_state(node)
    assert len(found[State.READY]) == 2
    assert [row.inputs for row in found[State.READY]] == [("FLAIR", "T1w")] * 2
    assert sorted(row.labelled for row in found[State.READY]) == [False, True]
    (bad,) = found[State.QUARANTINED]
    assert "slice" in bad.reason
    funnel = node.state.funnel()
    assert (funnel.offered, funnel.fetched, funnel.converted, funnel.ready) == (3, 3, 2, 2)
    assert {timing.stage.value for timing in node.state.stage_timings()} >= {"receive", "publish"}


def test_the_spool_is_empty_and_the_data_set_is_valid_bids(node: Node) -> None:
    ready = by_state(node)[State.READY]
    for row in ready:
        assert not node.home.study(row.study_key).exists()
        files = CaseFiles(row.subject, row.session)
        expected = [files.image("FLAIR"), files.image("T1w"), files.mask("FLAIR"), files.qc()]
        expected += [files.report(), *([files.label()] if row.labelled else [])]
        for path in (*expected, files.transform("T1w")):
            assert (node.home.research / path).exists(), path
        assert node.operations.qc(row.study_key).decision in ("pass", "review")
        assert files.image("FLAIR").as_posix() in node.operations.files(row.study_key)
    validator = require_tool("bids-validator-deno")
    roots = [node.home.bids, *(node.home.derivatives / n for n in ("labels", "masks", "qc"))]
    for root in roots:
        done = subprocess.run(
            [str(validator), "--format", "json", str(root)],
            capture_output=True,
            text=True,
            check=False,
        )
        issues = json.loads(done.stdout)["issues"]["issues"]
        assert [issue for issue in issues if issue["severity"] == "error"] == []


def test_no_identifier_outside_the_identified_zone(node: Node, hospital: Hospital) -> None:
    planted = {
        value.encode()
        for study in hospital.studies
        for kind in ("names", "ids", "uids")
        for value in study.planted[kind]
        if len(value) > 4
    }
    assert planted
    texts = [p for p in node.home.research.rglob("*") if p.suffix in (".json", ".tsv", ".txt")]
    texts += [node.home.state_file, node.home.audit_file]
    texts += list(node.home.root.glob("state.sqlite-*"))
    assert len(texts) > 8
    for path in texts:
        content = path.read_bytes()
        assert not [value for value in planted if value in content], path.name


def test_the_control_api_shows_the_studies(node: Node) -> None:
    with NodeClient(node.home.root) as client:
        status = client.status()
    assert status.funnel.ready == 2
    assert status.federation.state == "not enrolled"
    assert {part.state for part in status.components} <= {"running", "waiting"}


def test_a_second_query_adds_nothing(node: Node) -> None:
    pulled = node.operations.pull("main", ())
    assert (pulled.matched, pulled.added) == (3, 0)
    assert node.operations.echo("main").ok
    assert {view.patient for view in node.operations.find("", reveal=False)} == {"hidden"}


def small_plan() -> Plan:
    plan = ms_lesion_demo_plan(rounds=1)
    network = NetworkSpec(channels=(4, 8), strides=(2,), residual_units=0)
    return plan.model_copy(update={"project": PROJECT, "network": network})


@pytest.fixture(scope="module")
def published(node: Node, tmp_path_factory: pytest.TempPathFactory) -> ModelManifest:
    """An untrained model, offered, accepted and used on the unlabelled study."""
    signed = sign(small_plan(), Ed25519PrivateKey.generate())
    site = node.site
    site.offer(signed)
    assert site.decision(signed.hash) == PlanDecision.approved()
    folder = site.prepare(signed.hash)
    assert site.prepare(signed.hash) == folder, "prepared once"
    splits = sorted(entry.split for entry in read_manifest(folder).cases)
    assert splits == [Split.INFER, Split.TRAIN]
    summary = site.summary(signed.hash)
    assert (summary.training, summary.test, summary.unlabelled) == (1, 0, 1)
    weights = tmp_path_factory.mktemp("weights") / "initial.safetensors"
    with Trainer(site.run_folder("run-1") / "trainer", site.resources()) as trainer:
        made = trainer.initialise(InitialiseJob(signed.plan, weights))
        manifest = ModelManifest(
            plan_name=signed.plan.name,
            plan_hash=signed.hash,
            round=0,
            weights_sha256=made.sha256,
            weights_size=weights.stat().st_size,
            parents=(),
            preparation=signed.plan.preparation.model_dump(mode="json"),
            inputs=[entry.model_dump(mode="json") for entry in signed.plan.inputs],
            labels=[label.model_dump(mode="json") for label in signed.plan.labels],
            network=signed.plan.network.model_dump(mode="json"),
        )
        site.model_offered(manifest, weights)
        counts = site.publish(manifest, weights, trainer)
        assert counts is not None
        assert (counts.studies, counts.segmented, counts.failed) == (1, 1, 0)
        again = site.publish(manifest, weights, trainer)
        assert again == counts, "a repeated task makes nothing new"
    return manifest


def test_a_result_is_held_then_released_and_found_in_the_pacs(
    node: Node, hospital: Hospital, published: ModelManifest
) -> None:
    (row,) = node.state.results.select()
    assert row.state is ResultState.HELD
    assert row.volume_ml > 0
    with pytest.raises(NotAllowed):
        node.operations.release_result(row.key, actor="me", destination="nowhere")
    node.operations.release_result(row.key, actor="me", destination="")
    stored = ResultState.STORED
    wait_for(lambda: node.state.results.get(row.key).state is stored, what="the result's storage")
    study = node.state.studies.get(row.study_key)
    assert not study.labelled
    keys = create_keys(hospital.home)
    uid = result_uid(keys.project_secret, row.study_key, published.id, "sop")
    original = hospital.studies[1]
    listed = hospital.client().find_instances(original.StudyInstanceUID)
    assert [ref.SOPInstanceUID for ref in listed if ref.Modality == "SEG"] == [uid]
    seg = node.home.results / row.key / "seg.dcm"
    dataset = pydicom.dcmread(seg)
    source = pydicom.dcmread(original.flair[0])
    for keyword in ("PatientID", "PatientName", "StudyInstanceUID", "FrameOfReferenceUID"):
        assert dataset[keyword].value == source[keyword].value, keyword
    assert "RESEARCH" in dataset.SeriesDescription
    kept = node.identities.source(row.study_key, "FLAIR")
    assert check_seg(kept, seg) == []
    node.operations.send_result(row.key)
    listed = hospital.client().find_instances(original.StudyInstanceUID)
    assert len([ref for ref in listed if ref.Modality == "SEG"]) == 1, "nothing doubles"


def test_own_results_reopen_nothing(node: Node, published: ModelManifest) -> None:
    before = {row.study_key: (row.state, row.late) for row in node.state.studies.select()}
    assert node.operations.pull("main", ()).added == 0
    after = {row.study_key: (row.state, row.late) for row in node.state.studies.select()}
    assert after == before


def test_a_withdrawal_erases_and_stays(
    node: Node, hospital: Hospital, published: ModelManifest
) -> None:
    (row,) = node.state.results.select()
    study = node.operations.withdraw(row.study_key, reason="the patient asked")
    assert study.state is State.WITHDRAWN
    assert node.state.results.get(row.key).state is ResultState.WITHDRAWN
    assert not list(node.home.research.rglob(f"*{study.case}*"))
    assert not (node.home.results / row.key).exists()
    assert node.operations.pull("main", ()).added == 0
    listed = hospital.client().find_studies(StudyCriteria(modalities=("MR",)))
    assert len(listed) == 3
    assert node.state.datasets.get("auto").state is DatasetState.APPROVED
    assert len(node.datasets.usable("auto")) == 1


@pytest.mark.long
def test_late_images_make_a_new_version_and_leave_the_frozen_data_set(
    node: Node, hospital: Hospital, tmp_path: Path
) -> None:
    signed = sign(small_plan(), Ed25519PrivateKey.generate())
    node.site.offer(signed)
    wait_for(lambda: node.site.decision(signed.hash) == PlanDecision.approved(), what="approval")
    prepared = node.site.prepare(signed.hash)
    bytes_before = {path.name: path.read_bytes() for path in prepared.iterdir()}
    key = node.identities.study_key(hospital.studies[0].StudyInstanceUID)
    first = node.state.studies.get(key)
    image = node.home.research / CaseFiles(first.subject, first.session).image("FLAIR")
    content = image.read_bytes()
    late = []
    for number, path in enumerate(hospital.studies[0].flair[:2]):
        dataset = pydicom.dcmread(path)
        dataset.SeriesInstanceUID = "2.25.4711"
        dataset.SOPInstanceUID = f"2.25.4711{number}"
        dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
        dataset.SeriesDescription, dataset.SeriesNumber = "localizer", 99
        dataset.ImageType = ["ORIGINAL", "PRIMARY", "LOCALIZER"]
        late.append(tmp_path / f"{number}.dcm")
        dataset.save_as(late[-1], enforce_file_format=True)
    assert all(outcome.ok for outcome in hospital.client().send(late))
    pulled = node.operations.pull("main", (key,))
    assert (pulled.late, pulled.reopened) == (1, 1)
    wait_for(
        lambda: (
            node.state.studies.get(key).version == 2
            and node.state.studies.get(key).state is State.READY
        ),
        what="the second version",
        seconds=400,
    )
    second = node.state.studies.get(key)
    assert second.received == first.received + 2
    assert image.read_bytes() == content
    newer = node.home.research / CaseFiles(second.subject, second.session).image("FLAIR")
    assert newer.read_bytes() == content, "the same slices again, under the new version's name"
    assert node.site.prepare(signed.hash) == prepared
    assert {path.name: path.read_bytes() for path in prepared.iterdir()} == bytes_before
    assert [entry.object for entry in read_entries(node.home.audit_file)].count(key) >= 1
    validator = require_tool("bids-validator-deno")
    done = subprocess.run(
        [str(validator), "--format", "json", str(node.home.bids)],
        capture_output=True,
        text=True,
        check=False,
    )
    issues = json.loads(done.stdout)["issues"]["issues"]
    assert [issue for issue in issues if issue["severity"] == "error"] == []


def planted(study: WrittenStudy) -> set[bytes]:
    """Everything identifying that stands in a study's headers, also staff that others share."""
    return {v.encode() for kind in ("names", "ids", "uids") for v in study.planted[kind]}


@pytest.mark.long
def test_a_withdrawn_patient_leaves_nothing_in_a_real_home(node: Node, hospital: Hospital) -> None:
    study = hospital.studies[0]
    key = node.identities.study_key(study.StudyInstanceUID)
    row = node.state.studies.get(key)
    words = {word for word in planted(study) if len(word) > 4} | {row.subject.encode()}
    words -= set().union(*(planted(other) for other in hospital.studies[1:]))
    assert str(pydicom.dcmread(study.flair[0]).PatientID).encode() in words
    gone = node.operations.withdraw_patient(key, reason="the patient asked")
    assert gone.studies >= 1

    def nothing_left() -> bool:
        """No word in any name or file; the receiver's log is overwritten once it is idle."""
        for path in node.home.root.rglob("*"):
            name = str(path.relative_to(node.home.root)).encode()
            data = path.read_bytes() if path.is_file() else b""
            if any(word in name or word in data for word in words):
                return False
        return True

    wait_for(nothing_left, what="the last trace to go", seconds=120, every=2.0)
    pulled = node.operations.pull("main", ())
    assert pulled.refused >= 1
    assert node.state.studies.find(key) is None
    assert node.state.datasets.get("auto").erased >= 1
