"""Sending a result: fresh values, the objects that the PACS lacks, its list, its commitment.

Nothing here decides what a result's next state is; `appliance.results` does.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from appliance.errors import ApplianceError
from appliance.home import Home, remove_tree
from appliance.identity import Identities, Original
from appliance.pipeline.states import State
from appliance.result_states import Instant
from appliance.result_writing import SEG
from appliance.store import NodeState, ResultObject, ResultRow
from dicom_bridge.archive import Archive
from dicom_bridge.errors import PeerError, VaultError
from dicom_bridge.net.model import StudyCriteria, StudyMatch, is_transient

SENDING = "sending"
FRESH_KEYWORDS = (
    "PatientName",
    "PatientID",
    "IssuerOfPatientID",
    "PatientBirthDate",
    "PatientSex",
    "AccessionNumber",
    "StudyID",
    "StudyDate",
    "StudyTime",
)
MADE, SENT, STORED, COMMITTED, FAILED = "made", "sent", "stored", "committed", "failed"
WAITING = (MADE, FAILED)

Observer = Callable[[str, Instant], None]


class Obstacle(ApplianceError):
    """The result must be held for a person.

    Attributes:
        patient: key of the patient under whom the PACS files the study now, where that changed.
    """

    def __init__(self, words: str, *, patient: str = "") -> None:
        self.patient = patient
        super().__init__(words)


class ObjectsRefused(ApplianceError):
    """The PACS answered, and did not take an object."""


@dataclass(frozen=True, slots=True)
class SendingParts:
    """What sending works with.

    Attributes:
        state: the node's state.
        home: the node home.
        identities: pseudonyms and vault.
        client: the client of a configured PACS, by name.
        observer: told at each instant (tests kill the process there).
    """

    state: NodeState
    home: Home
    identities: Identities
    client: Callable[[str], Archive]
    observer: Observer = lambda _key, _instant: None


class Delivery:
    """Brings a result's objects to its destination; every call may be repeated."""

    def __init__(self, parts: SendingParts) -> None:
        self._parts = parts
        self._state = parts.state

    def send(self, row: ResultRow) -> None:
        """Send the objects that the PACS does not have yet.

        Raises:
            Obstacle: the result must be held: study gone, withdrawn, another patient, files gone.
            ObjectsRefused: the PACS refused an object.
            PeerError: the PACS cannot be asked.
        """
        match = self._match(row)
        waiting = self._waiting(row, match.StudyInstanceUID)
        folder = self._parts.home.results / row.key
        copies = self._copies(folder, waiting, match)
        self._tell(row, Instant.REFRESHED)
        archive = self._parts.client(row.destination)
        for group in _groups(waiting):
            outcomes = archive.send([copies / item.file for item in group])
            self._tell(row, Instant.TRANSMITTED)
            pairs = list(zip(group, outcomes, strict=True))
            taken = [item.file for item, outcome in pairs if outcome.ok]
            self._state.results.mark_objects(row.key, taken, SENT)
            refused = [(item, outcome.words) for item, outcome in pairs if not outcome.ok]
            for item, words in refused:
                self._state.results.mark_objects(row.key, [item.file], FAILED, words)
            self._tell(row, Instant.RECORDED)
            if refused:
                raise ObjectsRefused(f"{refused[0][0].form}: {refused[0][1]}")
        remove_tree(copies)

    def missing(self, row: ResultRow) -> list[ResultObject]:
        """The objects that the PACS took but does not list.

        Raises:
            VaultError: the vault has no original identity of the study.
            PeerError: the PACS cannot be asked.
        """
        study_uid = self._original(row).study.StudyInstanceUID
        listed = self._listed(row, study_uid)
        objects = self._state.results.objects(row.key)
        here = [item.file for item in objects if item.object_key in listed]
        known = [item.file for item in objects if item.file in here and item.state != COMMITTED]
        self._state.results.mark_objects(row.key, known, STORED)
        return [item for item in objects if item.file not in here]

    def instances(self, row: ResultRow) -> tuple[str, dict[str, str]]:
        """The study's UID, and SOP class by SOP instance of what is to be committed.

        Raises:
            Obstacle: a file is gone.
            VaultError: the vault has no original identity of the study.
        """
        from pydicom.filereader import read_file_meta_info

        folder = self._parts.home.results / row.key
        found = {}
        for item in self._state.results.objects(row.key):
            if item.state == COMMITTED:
                continue
            if not (folder / item.file).exists():
                raise Obstacle("an object's file is gone: run the model again")
            meta = read_file_meta_info(folder / item.file)
            found[str(meta.MediaStorageSOPInstanceUID)] = str(meta.MediaStorageSOPClassUID)
        return self._original(row).study.StudyInstanceUID, found

    def _original(self, row: ResultRow) -> Original:
        return self._parts.identities.original(row.study_key)

    def _match(self, row: ResultRow) -> StudyMatch:
        """The study as the PACS describes it now.

        Raises:
            Obstacle: it is withdrawn, gone, or filed under another patient.
            PeerError: the PACS cannot be asked.
        """
        study = self._state.studies.get(row.study_key)
        if study.state is State.WITHDRAWN:
            raise Obstacle("the study was withdrawn")
        try:
            original = self._original(row)
        except VaultError:
            raise Obstacle("the vault has no original identity of the study") from None
        criteria = StudyCriteria(study_uids=(original.study.StudyInstanceUID,))
        matches = self._parts.client(original.pacs).find_studies(criteria)
        if not matches:
            raise Obstacle("the study is no longer in the PACS")
        match = matches[0]
        if _same_patient(original.study, match):
            return match
        identities = self._parts.identities
        patient = identities.newcomer(match, original.pacs).patient_key
        withdrawn = self._state.studies.patient_withdrawn(patient)
        if withdrawn or identities.refused(match.IssuerOfPatientID, match.PatientID):
            raise Obstacle("the PACS files the study under a patient who was withdrawn")
        if patient != row.patient_confirmed:
            raise Obstacle(
                "the PACS files the study under another PatientID than when it was fetched"
                " (merged or corrected): compare the two, then release the result again",
                patient=patient,
            )
        return match

    def _waiting(self, row: ResultRow, study_uid: str) -> list[ResultObject]:
        """The objects to send; after an interrupted attempt the PACS's list comes first."""
        objects = self._state.results.objects(row.key)
        starts = sum(event.state == "sending" for event in self._state.results.events(row.key))
        doubtful = [item for item in objects if item.state == MADE]
        if starts > 1 and doubtful:
            try:
                listed = self._listed(row, study_uid)
            except PeerError as error:
                if is_transient(error):
                    raise
                listed = set()
            known = [item.file for item in doubtful if item.object_key in listed]
            self._state.results.mark_objects(row.key, known, SENT)
            objects = self._state.results.objects(row.key)
        return [item for item in objects if item.state in WAITING]

    def _listed(self, row: ResultRow, study_uid: str) -> set[str]:
        name = self._parts.identities.instance_key
        refs = self._parts.client(row.destination).find_instances(study_uid)
        return {name(ref.SOPInstanceUID) for ref in refs}

    def _copies(self, folder: Path, objects: Sequence[ResultObject], match: StudyMatch) -> Path:
        """Copies with fresh values, in a folder of their own.

        Raises:
            Obstacle: a file is gone, or a copy does not read back.
        """
        copies = folder / SENDING
        remove_tree(copies)
        for item in objects:
            path = folder / item.file
            if not path.exists():
                raise Obstacle("an object's file is gone: run the model again")
            refresh(path, match, copies / item.file)
        return copies

    def _tell(self, row: ResultRow, instant: Instant) -> None:
        self._parts.observer(row.key, instant)


def _same_patient(before: StudyMatch, now: StudyMatch) -> bool:
    """Whether two descriptions name the same patient; an issuer only one gives says nothing."""
    issuers = {before.IssuerOfPatientID.strip(), now.IssuerOfPatientID.strip()} - {""}
    return before.PatientID.strip() == now.PatientID.strip() and len(issuers) <= 1


def _groups(objects: Sequence[ResultObject]) -> list[list[ResultObject]]:
    """One group per form, the segmentation first: the report refers to it."""
    forms = dict.fromkeys(item.form for item in objects)
    ordered = sorted(forms, key=lambda form: form != SEG)
    return [[item for item in objects if item.form == form] for form in ordered]


def refresh(path: Path, match: StudyMatch, copy: Path) -> Path:
    """A copy of an object with the patient and accession values that the PACS has now.

    Args:
        path: the object.
        match: the study as the PACS describes it; what it leaves empty stays as it was.
        copy: where the copy goes; its folder is made.

    Returns:
        The copy, read back and compared.

    Raises:
        Obstacle: the copy does not read back to what was written.
    """
    import pydicom

    dataset = pydicom.dcmread(path)
    before = dataset.get("PixelData")
    values = {keyword: str(getattr(match, keyword)) for keyword in FRESH_KEYWORDS}
    changed = {k: v for k, v in values.items() if v and str(dataset.get(k, "")) != v}
    if not all(value.isascii() for value in changed.values()):
        dataset.decode()
        dataset.SpecificCharacterSet = "ISO_IR 192"
    for keyword, value in changed.items():
        setattr(dataset, keyword, value)
    copy.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    part = copy.with_name(f"{copy.name}.part")
    dataset.save_as(part, enforce_file_format=True)
    back = pydicom.dcmread(part)
    same = all(str(back.get(k, "")) == v for k, v in changed.items())
    uids = ("SOPInstanceUID", "SeriesInstanceUID", "StudyInstanceUID")
    same = same and all(back.get(k) == dataset.get(k) for k in uids)
    if not same or back.get("PixelData") != before:
        part.unlink()
        raise Obstacle("an object with fresh values does not read back: it is not sent")
    part.replace(copy)
    return copy
