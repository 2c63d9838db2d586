"""Results: held by default, fresh values before sending, held again where the study is gone."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import cast

import pydicom
import pytest
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian

from appliance.errors import NotAllowed
from appliance.home import Home, create_keys
from appliance.identity import Identities
from appliance.pipeline.pool import WorkerPool
from appliance.pipeline.states import Event
from appliance.result_writing import SEG_FILE, segments_of
from appliance.results import Results, ResultsParts, refresh
from appliance.settings import settings_from
from appliance.store import NodeState, ResultRow, ResultState
from dicom_bridge.errors import PeerUnreachable
from dicom_bridge.net.client import PacsClient
from dicom_bridge.net.model import SendOutcome, StudyCriteria, StudyMatch
from federation.manifest import ModelManifest
from federation.plan import ms_lesion_demo_plan
from tests.appliance.core.values import MATCH, Clock, held


class Peer:
    """The PACS as results see it: what it lists, what it answers, what it got."""

    def __init__(self) -> None:
        self.matches = [MATCH]
        self.answers: list[bool | None] = []
        self.got: list[Dataset] = []

    def find_studies(self, criteria: StudyCriteria) -> list[StudyMatch]:
        assert criteria.study_uids == ("1.2.3",)
        return self.matches

    def send(self, paths: Sequence[Path]) -> list[SendOutcome]:
        answer = self.answers.pop(0) if self.answers else True
        if answer is None:
            raise PeerUnreachable("the PACS does not answer")
        self.got += [pydicom.dcmread(path) for path in paths] if answer else []
        return [SendOutcome(paths[0], "1", 0 if answer else 0xA700, "out of resources")]


class Bench:
    """Results over one study whose SEG is written."""

    def __init__(self, root: Path, *, release: str = "none") -> None:
        self.home = Home(root, "p")
        self.home.create()
        self.identities = Identities(self.home, create_keys(self.home))
        self.clock = Clock()
        self.state = NodeState(self.home.state_file, clock=self.clock)
        self.peer = Peer()
        self.audited: list[str] = []
        pacs = {
            "name": "main",
            "ae_title": "PACS",
            "host": "h",
            "port": 1,
            "role": ["query", "results"],
        }
        settings = settings_from(
            {
                "node": {"site": "a", "project": "p"},
                "pacs": [pacs],
                "results": {"release": release, "destination": "main"},
            }
        )
        self.pool = WorkerPool(workers=1, threads=1)

        def audit(actor: str, action: str, subject: str, detail: Mapping[str, object]) -> None:
            self.audited.append(action)

        self.results = Results(
            ResultsParts(
                state=self.state,
                home=self.home,
                settings=settings,
                identities=self.identities,
                pool=self.pool,
                client=lambda _name: cast("PacsClient", self.peer),
                audit=audit,
            )
        )
        newcomer = self.identities.newcomer(MATCH, "main")
        self.study_key = newcomer.study_key
        self.identities.keep(MATCH, "main")
        self.state.studies.add(newcomer)
        self.key = self.results.key(self.study_key, "m" * 64)
        self.state.results.add(held(self.key, self.study_key))
        write_object(self.results.folder(self.key))

    def now(self) -> ResultRow:
        return self.state.results.get(self.key)

    def close(self) -> None:
        self.pool.close()
        self.state.close()


def write_object(folder: Path) -> Path:
    """A small object with the values that the PACS had when it was written."""
    folder.mkdir(parents=True)
    dataset = Dataset()
    dataset.SpecificCharacterSet = "ISO_IR 100"
    dataset.SOPClassUID = "1.2.840.10008.5.1.4.1.1.66.4"
    dataset.SOPInstanceUID = "1.2.3.4"
    dataset.PatientName = "DOE^JANE"
    dataset.PatientID = "P1"
    dataset.AccessionNumber = "A1"
    dataset.ReferringPhysicianName = "MÜLLER^ANNA"
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    path = folder / SEG_FILE
    dataset.save_as(path, enforce_file_format=True)
    return path


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    made = Bench(tmp_path)
    yield made
    made.close()


def test_nothing_is_sent_before_a_release(bench: Bench) -> None:
    assert bench.results.send_due() == 0
    with pytest.raises(NotAllowed):
        bench.results.send(bench.key)
    assert bench.now().state is ResultState.HELD


def test_released_results_are_sent_with_fresh_values(bench: Bench) -> None:
    bench.peer.matches = [replace(MATCH, PatientName="DOE^JANE^MARRIED", AccessionNumber="A2")]
    bench.results.release(bench.key, actor="me")
    assert bench.results.send_due() == 1
    assert bench.now().state is ResultState.SENT
    assert bench.now().sent_at is not None
    (sent,) = bench.peer.got
    assert str(sent.PatientName) == "DOE^JANE^MARRIED"
    assert sent.AccessionNumber == "A2"
    assert sent.SOPInstanceUID == "1.2.3.4"
    assert bench.audited == ["result.sent"]
    with pytest.raises(NotAllowed):
        bench.results.hold(bench.key)


def test_a_study_that_is_gone_holds_its_result(bench: Bench) -> None:
    bench.peer.matches = []
    bench.results.release(bench.key, actor="me")
    bench.results.send_due()
    assert (bench.now().state, bench.peer.got) == (ResultState.HELD, [])
    assert "no longer in the PACS" in bench.now().reason


def test_a_withdrawn_study_holds_its_result_and_erasing_marks_it(bench: Bench) -> None:
    bench.results.release(bench.key, actor="me")
    bench.state.studies.apply(bench.study_key, Event.WITHDRAW)
    bench.results.send_due()
    assert "withdrawn" in bench.now().reason
    bench.results.withdraw(bench.study_key)
    assert bench.now().state is ResultState.WITHDRAWN
    assert not bench.results.folder(bench.key).exists()


def test_a_vanished_file_holds_the_result(bench: Bench) -> None:
    (bench.results.folder(bench.key) / SEG_FILE).unlink()
    bench.results.release(bench.key, actor="me")
    bench.results.send_due()
    assert "file is gone" in bench.now().reason
    bench.identities.forget(bench.study_key)
    bench.results.release(bench.key, actor="me")
    bench.results.send_due()
    assert "vault" in bench.now().reason


def test_a_failing_pacs_is_tried_again_later(bench: Bench) -> None:
    bench.peer.answers = [None, False, True]
    bench.results.release(bench.key, actor="me")
    for attempt in (1, 2):
        assert bench.results.send_due() == 1
        assert (bench.now().state, bench.now().attempt) == (ResultState.FAILED, attempt)
        assert bench.results.send_due() == 0, "the back-off has not passed"
        bench.clock.now += timedelta(minutes=5)
    bench.results.send_due()
    assert bench.now().state is ResultState.SENT


def test_a_death_while_sending_sends_the_same_object_again(bench: Bench) -> None:
    bench.results.release(bench.key, actor="me")
    bench.state.results.move(bench.key, (ResultState.RELEASED,), ResultState.SENDING)
    bench.results.recover()
    bench.results.send_due()
    assert [dataset.SOPInstanceUID for dataset in bench.peer.got] == ["1.2.3.4"]


def test_the_rule_releases_what_nobody_held(tmp_path: Path) -> None:
    bench = Bench(tmp_path, release="all")
    try:
        bench.results.recover()
        assert bench.now().state is ResultState.RELEASED
        assert bench.now().decided_by == "policy"
        bench.results.hold(bench.key)
        bench.results.recover()
        assert bench.now().state is ResultState.HELD, "a person's word stands"
    finally:
        bench.close()


def test_a_name_beyond_latin_keeps_the_other_values(tmp_path: Path) -> None:
    path = write_object(tmp_path / "r")
    copy = refresh(path, replace(MATCH, PatientName="ΠΑΠΑΔΟΠΟΥΛΟΥ^ΑΝΝΑ"))
    dataset = pydicom.dcmread(copy)
    assert str(dataset.PatientName) == "ΠΑΠΑΔΟΠΟΥΛΟΥ^ΑΝΝΑ"
    assert str(dataset.ReferringPhysicianName) == "MÜLLER^ANNA"


def test_uids_follow_from_study_and_model(bench: Bench) -> None:
    uid = bench.identities.result_uid
    assert uid("st1", "m", "sop") == uid("st1", "m", "sop")
    assert len({uid("st1", "m", "sop"), uid("st1", "m", "series"), uid("st2", "m", "sop")}) == 3
    assert uid("st1", "m", "sop").startswith("2.25.")
    assert len(uid("st1", "m", "sop")) <= 64


def test_segments_name_plan_and_model() -> None:
    plan = ms_lesion_demo_plan()
    manifest = ModelManifest(
        plan_name=plan.name,
        plan_hash="a" * 64,
        round=1,
        weights_sha256="b" * 64,
        weights_size=1,
        parents=(),
        preparation={},
        inputs=[],
        labels=[label.model_dump(mode="json") for label in plan.labels],
        network={},
    )
    (segment,) = segments_of(manifest)
    assert (segment.number, segment.label) == (1, "lesion")
    assert segment.type.value == "52988006"
    assert (segment.algorithm_name, segment.algorithm_version) == (plan.name, manifest.id)
