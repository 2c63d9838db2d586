"""A withdrawn patient whose studies are still in the PACS: a real Orthanc, trivial stages."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pydicom
import pytest

from appliance.control.operations import PullView
from appliance.demo.pacs import OrthancPacs
from appliance.pipeline.states import Stage, State
from appliance.settings import Settings
from dicom_bridge.net import PacsClient, RemoteAE
from tests.appliance.core.late_node import AE, LateNode, late_settings, living
from tests.pacs import SmallStudy, StudyForm, running_orthanc, write_small_study
from tests.tools import free_port

pytestmark = [pytest.mark.integration, pytest.mark.timeout(300)]

SENDER = "FILLER"


@dataclass(frozen=True)
class Hospital:
    """A PACS with two visits of one patient and one of another."""

    pacs: OrthancPacs
    port: int
    folder: Path
    hers: tuple[SmallStudy, ...]

    @property
    def settings(self) -> Settings:
        return late_settings(self.pacs.remote, self.port, "WITHDRAW*")

    def visit(self, number: int, patient: str) -> SmallStudy:
        form = StudyForm(patient_id=patient, description=f"WITHDRAW {number}", seed=900 + number)
        study = write_small_study(self.folder / str(number), form)
        client = PacsClient(self.pacs.remote, calling_ae=SENDER)
        assert all(outcome.ok for outcome in client.send(study.paths))
        return study


@pytest.fixture
def hospital(tmp_path: Path) -> Iterator[Hospital]:
    port = free_port()
    peers = [RemoteAE(AE, "127.0.0.1", port), RemoteAE(SENDER, "127.0.0.1", free_port())]
    with running_orthanc(tmp_path / "pacs", peers) as pacs:
        empty = Hospital(pacs, port, tmp_path / "files", ())
        hers = (empty.visit(0, "ZQ-4711-88"), empty.visit(1, "ZQ-4711-88"))
        empty.visit(2, "OTHER-1")
        yield Hospital(pacs, port, tmp_path / "files", hers)


def identifiers(node: LateNode, hospital: Hospital) -> set[bytes]:
    words = {"ZQ-4711-88"}
    for study in hospital.hers:
        words.add(study.study_uid)
        words.add(node.identities.study_key(study.study_uid))
        words |= {
            str(pydicom.dcmread(p, stop_before_pixels=True).SOPInstanceUID) for p in study.paths
        }
    row = node.state.studies.get(node.identities.study_key(hospital.hers[0].study_uid))
    return {word.encode() for word in words | {row.subject}}


def found(root: Path, words: set[bytes]) -> list[str]:
    places = []
    for path in root.rglob("*"):
        name = str(path.relative_to(root)).encode()
        content = path.read_bytes() if path.is_file() else b""
        places += [path.name for word in words if word in name or word in content]
    return places


def pull(node: LateNode, hospital: Hospital) -> PullView:
    pulled = node.intake.poll(hospital.settings.pacs[0])
    return PullView(pulled.matched, pulled.added, pulled.late, pulled.reopened, pulled.refused)


def test_she_is_erased_and_every_later_pull_is_refused_in_words(
    tmp_path: Path, hospital: Hospital
) -> None:
    home = tmp_path / "home"
    with living(home, hospital.settings) as node:
        node.work()
        assert node.state.studies.count(State.READY) == 3
        node.datasets.create("auto")
        node.datasets.freeze("auto")
        words = identifiers(node, hospital)
        assert found(home, words)
        key = node.identities.study_key(hospital.hers[1].study_uid)
        assert node.erasure.withdraw_patient(key, reason="she asked").studies == 2
        assert found(home, words) == []
        view = pull(node, hospital)
        assert (view.matched, view.added, view.refused) == (3, 0, 2)
        assert "2 refused" in view.words
        assert "withdrawn" in view.words
    third = hospital.visit(3, " ZQ-4711-88")
    with living(home, hospital.settings) as node:
        node.work()
        view = pull(node, hospital)
        assert (view.matched, view.added, view.refused) == (4, 0, 3), "a new visit of hers too"
        assert node.state.studies.count() == 1
        assert found(home, words | {third.study_uid.encode()}) == []
        assert node.state.datasets.get("auto").erased == 2


def test_what_comes_while_she_is_withdrawn_is_not_kept(tmp_path: Path, hospital: Hospital) -> None:
    home = tmp_path / "home"
    with living(home, hospital.settings) as node:
        assert node.intake.poll_all()
        stop = threading.Event()
        her = {node.identities.study_key(study.study_uid) for study in hospital.hers}
        withdrawn: list[str] = []
        recorded = node.state.instances.record

        def record(study_key: str, instance_key: str, sha256: str) -> bool:
            """The withdrawal comes while her first instance is being received."""
            if study_key in her and not withdrawn:
                withdrawn.append(study_key)
                words.update(identifiers(node, hospital))
                node.erasure.withdraw_patient(study_key, reason="now")
            return recorded(study_key, instance_key, sha256)

        words: set[bytes] = set()
        node.state.instances.record = record  # type: ignore[method-assign]
        while node.intake.fetch_next(stop):
            pass
        assert withdrawn
        assert node.state.studies.claim((Stage.REQUEST, Stage.RECEIVE)) is None
        assert [row.state for row in node.state.studies.select()] == [State.RECEIVED]
        assert found(home, words) == []
