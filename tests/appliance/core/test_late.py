"""Late images of a processed study: a new version, and frozen data sets keep theirs.

The PACS is a real Orthanc; the pipeline's stages are trivial.
"""

from __future__ import annotations

import itertools
import multiprocessing
import signal
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pydicom
import pytest
from pydicom.uid import SegmentationStorage

from appliance.demo.pacs import OrthancPacs
from appliance.errors import NotAllowed
from appliance.pipeline.states import Point, Stage, State, kill_points
from appliance.research import CaseFiles, case_files, case_hash
from appliance.settings import Settings
from appliance.store import DatasetState
from dicom_bridge.errors import VaultError
from dicom_bridge.net import PacsClient, RemoteAE
from tests.appliance.core.late_node import (
    AE,
    LATE_NOTED,
    REOPENED,
    LateNode,
    late_settings,
    live_until,
    living,
)
from tests.appliance.core.values import held
from tests.pacs import SmallStudy, StudyForm, running_orthanc, write_small_study
from tests.tools import free_port

pytestmark = [pytest.mark.integration, pytest.mark.timeout(300)]

SLICES, FIRST = 12, 10
_number = itertools.count()
INSTANTS = [LATE_NOTED, REOPENED, *(f"{stage} {point}" for stage, point in kill_points())]
SHORT = [REOPENED, f"{Stage.PUBLISH} {Point.RENAMED}"]


@dataclass(frozen=True)
class Archive:
    """A PACS in which each test has a study of its own, found by its description."""

    pacs: OrthancPacs
    port: int
    folder: Path

    def send(self, paths: list[Path]) -> None:
        client = PacsClient(self.pacs.remote, calling_ae="FILLER")
        assert all(outcome.ok for outcome in client.send(paths))

    def begin(self, reopen: str = "auto") -> tuple[SmallStudy, Settings]:
        """A new study of which ten of twelve slices are there."""
        number = next(_number)
        form = StudyForm(
            slices=SLICES, patient_id=f"LATE-{number}", description=f"LATE {number}", seed=number
        )
        study = write_small_study(self.folder / str(number), form)
        self.send(study.paths[:FIRST])
        return study, late_settings(self.pacs.remote, self.port, f"LATE {number}", reopen)


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Archive]:
    root, port = tmp_path_factory.mktemp("late"), free_port()
    peers = [RemoteAE(AE, "127.0.0.1", port), RemoteAE("FILLER", "127.0.0.1", free_port())]
    with running_orthanc(root / "pacs", peers) as pacs:
        yield Archive(pacs, port, root / "files")


def image(node: LateNode, case: str) -> list[str]:
    """The instances that a version was made of."""
    path = node.home.research / CaseFiles.of(case).image("FLAIR")
    return path.read_text(encoding="utf-8").split()


def frozen(node: LateNode, case: str) -> dict[str, bytes]:
    """Every byte that a data set frozen with this case refers to."""
    paths = [node.home.research / p for p in case_files(node.home, CaseFiles.of(case))]
    return {path.name: path.read_bytes() for path in (*paths, node.home.datasets / "before.json")}


def begin(node: LateNode) -> dict[str, bytes]:
    """Process what is there and freeze it."""
    node.work()
    assert (node.study().state, node.study().version) == (State.READY, 1)
    node.datasets.create("before")
    node.datasets.freeze("before")
    return frozen(node, node.study().case)


def assert_ways_back(node: LateNode, study: SmallStudy) -> None:
    """Every new UID leads back to its original one."""
    new, key = node.identities.pseudonymizer.uid, node.study().study_key
    assert node.identities.study_of(new(study.study_uid)) == key
    for path in study.paths:
        uid = str(pydicom.dcmread(path, stop_before_pixels=True).SOPInstanceUID)
        assert node.identities.original_uid(key, new(uid)) == uid
    with pytest.raises(VaultError, match="no original"):
        node.identities.original_uid(key, new("1.2.3.4"))


def test_late_slices_make_a_second_version_and_the_frozen_data_set_stays(
    tmp_path: Path, archive: Archive
) -> None:
    study, settings = archive.begin()
    with living(tmp_path, settings) as node:
        before = begin(node)
        first = node.study()
        assert len(image(node, first.case)) == FIRST
        node.work()
        assert node.study().version == 1, "nothing new, nothing reopened"
        archive.send(study.paths[FIRST:])
        node.work()
        row = node.study()
        assert (row.state, row.version, row.received, row.late) == (State.READY, 2, SLICES, 0)
        assert len(image(node, row.case)) == SLICES
        assert row.case == f"{first.case}v2"
        assert frozen(node, first.case) == before, "the frozen data set keeps every byte"
        (member,) = node.datasets.usable("before")
        assert case_hash(node.home, CaseFiles.of(member.case)) == member.content
        told = [(a.action, a.detail.get("instances")) for a in node.state.activity.select()]
        assert told == [("study.reopened", 2), ("study.late", 2)]
        node.datasets.create("after")
        node.datasets.freeze("after")
        assert [m.case for m in node.state.datasets.members("after")] == [row.case]
        assert not node.home.study(row.study_key).exists(), "the spool is empty again"
        assert node.versions.sweep() == 0
        node.state.datasets.decide("before", DatasetState.REVOKED, actor="me")
        assert node.versions.sweep() == 1
        assert not case_files(node.home, CaseFiles.of(first.case))
        assert len(image(node, row.case)) == SLICES
        with pytest.raises(VaultError, match="no headers"):
            node.identities.source(row.study_key, "FLAIR")
        assert node.identities.original(row.study_key).study.instances == SLICES
        assert_ways_back(node, study)


def test_own_results_never_reopen(tmp_path: Path, archive: Archive) -> None:
    study, settings = archive.begin()
    with living(tmp_path, settings) as node:
        node.work()
        row = node.study()
        node.state.results.add(replace(held("rs1", row.study_key)))
        seg = pydicom.dcmread(study.paths[0])
        seg.SOPInstanceUID = node.identities.result_uid(row.study_key, "m" * 64, "sop")
        seg.SOPClassUID = seg.file_meta.MediaStorageSOPClassUID = SegmentationStorage
        seg.file_meta.MediaStorageSOPInstanceUID = seg.SOPInstanceUID
        seg.SeriesInstanceUID, seg.Modality = "2.25.77", "SEG"
        path = tmp_path / "seg.dcm"
        seg.save_as(path, enforce_file_format=True)
        archive.send([path])
        node.work()
        assert (node.study().version, node.study().late) == (1, 0)
        archive.send(study.paths[FIRST:])
        node.work()
        assert (node.study().version, node.study().received) == (2, SLICES)


def test_ask_waits_for_a_person(tmp_path: Path, archive: Archive) -> None:
    study, settings = archive.begin(reopen="ask")
    with living(tmp_path, settings) as node:
        node.work()
        archive.send(study.paths[FIRST:])
        node.work()
        node.work()
        row = node.study()
        assert (row.state, row.version, row.late) == (State.READY, 1, 2)
        assert node.state.studies.count_late() == 1
        node.intake.reopen(row.study_key, actor="anna", reason="the rest came")
        with pytest.raises(NotAllowed):
            node.intake.reopen(row.study_key, actor="anna", reason="again")
        node.work()
        assert (node.study().state, node.study().version) == (State.READY, 2)
        assert node.state.studies.count_late() == 0


@pytest.mark.parametrize(
    "instant",
    [
        pytest.param(instant, marks=() if instant in SHORT else pytest.mark.long)
        for instant in INSTANTS
    ],
)
def test_killed_at_any_instant_of_the_second_version(
    tmp_path: Path, archive: Archive, instant: str
) -> None:
    study, settings = archive.begin()
    with living(tmp_path, settings) as node:
        before = begin(node)
        case = node.study().case
    archive.send(study.paths[FIRST:])
    context = multiprocessing.get_context("spawn")
    process = context.Process(target=live_until, args=(tmp_path, settings, instant))
    process.start()
    process.join(120)
    assert process.exitcode == -signal.SIGKILL
    with living(tmp_path, settings) as node:
        assert frozen(node, case) == before
        node.work()
        row = node.study()
        assert (row.state, row.version, row.received) == (State.READY, 2, SLICES)
        assert len(image(node, row.case)) == SLICES
        assert frozen(node, case) == before
        done = [r.stage for r in node.state.studies.runs(row.study_key) if r.outcome == "done"]
        assert done.count(Stage.PUBLISH) == 2, "no stage is done twice"
        assert not any(node.home.studies.iterdir())
