"""Results over a PACS that is a few lines of test: what it lists, answers and got."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import cast

import pydicom
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian

from appliance.home import Home, create_keys
from appliance.identity import Identities
from appliance.pipeline.pool import WorkerPool
from appliance.result_states import Instant
from appliance.result_writing import REPORT_FILE, SEG_FILE
from appliance.results import Results, ResultsParts
from appliance.settings import settings_from
from appliance.store import NodeState, ResultObject, ResultRow
from dicom_bridge.archive import Archive
from dicom_bridge.errors import PeerUnreachable
from dicom_bridge.net.model import (
    CommitmentReport,
    CommitmentRequest,
    InstanceRef,
    SendOutcome,
    StudyCriteria,
    StudyMatch,
)
from tests.appliance.core.values import MATCH, Clock, held

SEG_UID, REPORT_UID = "1.2.3.4", "1.2.3.5"
UIDS = {SEG_FILE: SEG_UID, REPORT_FILE: REPORT_UID}


class Peer:
    """The PACS as results see it.

    Attributes:
        matches: what C-FIND gives.
        answers: of the next C-STOREs: taken, refused, or no connection (None).
        got: what was stored, by SOP Instance UID.
        sent: every object that came, in order.
        lost: UIDs that it takes and does not list.
        reports: the next reports on the same association; None answers later.
        asked: the commitment requests.
    """

    def __init__(self) -> None:
        self.matches = [MATCH]
        self.answers: list[bool | None] = []
        self.got: dict[str, Dataset] = {}
        self.sent: list[str] = []
        self.lost: set[str] = set()
        self.reports: list[CommitmentReport | None] = []
        self.asked: list[CommitmentRequest] = []
        self.down = False

    def find_studies(self, criteria: StudyCriteria) -> list[StudyMatch]:
        assert criteria.study_uids == ("1.2.3",)
        self._answer()
        return self.matches

    def find_instances(self, study_uid: str) -> list[InstanceRef]:
        assert study_uid == "1.2.3"
        self._answer()
        return [InstanceRef("1.9", uid, "", "") for uid in self.got if uid not in self.lost]

    def send(self, paths: Sequence[Path]) -> list[SendOutcome]:
        outcomes = []
        for path in paths:
            answer = self.answers.pop(0) if self.answers else True
            if answer is None:
                raise PeerUnreachable("the PACS does not answer")
            dataset = pydicom.dcmread(path)
            uid = str(dataset.SOPInstanceUID)
            if answer:
                self.got[uid] = dataset
                self.sent.append(uid)
            words = "out of resources"
            outcomes.append(SendOutcome(path, uid, 0 if answer else 0xA700, words))
        return outcomes

    def commit(self, request: CommitmentRequest) -> CommitmentReport | None:
        self._answer()
        self.asked.append(request)
        return self.reports.pop(0) if self.reports else None

    def _answer(self) -> None:
        if self.down:
            raise PeerUnreachable("the PACS does not answer")


class Bench:
    """Results over one study whose SEG and report are written."""

    def __init__(self, root: Path, *, release: str = "none", commitment: bool = False) -> None:
        self.home = Home(root, "p")
        self.home.create()
        self.identities = Identities(self.home, create_keys(self.home))
        self.clock = Clock()
        self.state = NodeState(self.home.state_file, clock=self.clock)
        self.peer = Peer()
        self.audited: list[str] = []
        self.instants: list[Instant] = []
        pacs = {
            "name": "main",
            "ae_title": "PACS",
            "host": "h",
            "port": 1,
            "role": ["query", "results"],
            "commitment": commitment,
        }
        self.settings = settings_from(
            {
                "node": {"site": "a", "project": "p"},
                "pacs": [pacs],
                "results": {"release": release, "destination": "main"},
            }
        )
        self.pool = WorkerPool(workers=1, threads=1)
        self.results = self.again()
        newcomer = self.identities.newcomer(MATCH, "main")
        self.study_key = newcomer.study_key
        self.identities.keep(MATCH, "main")
        self.state.studies.add(newcomer)
        self.key = self.results.key(self.study_key, "m" * 64)
        folder = self.results.folder(self.key)
        objects = []
        for form, file in (("seg", SEG_FILE), ("sr", REPORT_FILE)):
            content = write_object(folder / file, UIDS[file]).read_bytes()
            name = self.identities.instance_key(UIDS[file])
            digest = hashlib.sha256(content).hexdigest()
            objects.append(ResultObject(self.key, form, file, name, digest, len(content)))
        self.state.results.add(held(self.key, self.study_key), objects)

    def again(self) -> Results:
        """Results over the same state, as after a restart."""

        def audit(actor: str, action: str, subject: str, detail: Mapping[str, object]) -> None:
            self.audited.append(action)

        return Results(
            ResultsParts(
                state=self.state,
                home=self.home,
                settings=self.settings,
                identities=self.identities,
                pool=self.pool,
                client=lambda _name: cast("Archive", self.peer),
                audit=audit,
                observer=lambda _key, instant: self.instants.append(instant),
            )
        )

    def now(self) -> ResultRow:
        return self.state.results.get(self.key)

    def objects(self) -> dict[str, str]:
        return {item.form: item.state for item in self.state.results.objects(self.key)}

    def close(self) -> None:
        self.pool.close()
        self.identities.close()
        self.state.close()


def write_object(path: Path, uid: str) -> Path:
    """A small object with the values that the PACS had when it was written."""
    path.parent.mkdir(parents=True, exist_ok=True)
    dataset = Dataset()
    dataset.SpecificCharacterSet = "ISO_IR 100"
    dataset.SOPClassUID = "1.2.840.10008.5.1.4.1.1.66.4"
    dataset.SOPInstanceUID = uid
    dataset.PatientName = "DOE^JANE"
    dataset.PatientID = "P1"
    dataset.AccessionNumber = "A1"
    dataset.ReferringPhysicianName = "MÜLLER^ANNA"
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    dataset.save_as(path, enforce_file_format=True)
    return path
