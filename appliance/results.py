"""Results: a model's mask back on the source series, as SEG, held, released, sent.

A result is HELD until a person or an explicit rule of the settings releases it. Immediately before
it is sent, patient and accession values are taken fresh from the PACS; a study that is gone or
withdrawn holds its result. Its UIDs follow from study and model, so a repeated step stores the same
object again and never a second one.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import structlog

from appliance.errors import ApplianceError, NotAllowed
from appliance.home import Home, remove_tree
from appliance.identity import Identities
from appliance.pipeline.pool import WorkerPool
from appliance.pipeline.runner import back_off_s
from appliance.pipeline.states import State
from appliance.research import CaseFiles
from appliance.result_writing import SEG_FILE, SegDone, SegWork, write_result
from appliance.settings import PacsSection, Settings
from appliance.store import NodeState, ResultRow, ResultState, StudyRow
from appliance.store.database import Value
from dicom_bridge.errors import DicomBridgeError, PeerError, VaultError
from dicom_bridge.net.client import PacsClient
from dicom_bridge.net.model import StudyCriteria, StudyMatch
from federation.clock import stamp
from federation.manifest import ModelManifest

_log = structlog.get_logger(__name__)

REFERENCE = "FLAIR"
POLICY = "policy"
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
_UNSENT = (ResultState.HELD, ResultState.RELEASED, ResultState.FAILED)


@dataclass(frozen=True, slots=True)
class ResultsParts:
    """What results work with.

    Attributes:
        state: the node's state.
        home: the node home.
        settings: the node's settings.
        identities: pseudonyms and vault.
        pool: the worker processes.
        client: the client of a configured PACS, by name.
        audit: writes an audit entry: actor, action, object, detail.
    """

    state: NodeState
    home: Home
    settings: Settings
    identities: Identities
    pool: WorkerPool
    client: Callable[[str], PacsClient]
    audit: Callable[[str, str, str, Mapping[str, Value]], None]


class Results:
    """Makes results of masks and sends what is released."""

    def __init__(self, parts: ResultsParts) -> None:
        self._parts = parts
        self._state = parts.state
        self._wake = threading.Event()

    def wake(self) -> None:
        """Look for released results now."""
        self._wake.set()

    def key(self, study_key: str, model_id: str) -> str:
        """The result's key: the same for the same study and model."""
        digest = hashlib.sha256(f"{study_key} {model_id}".encode()).hexdigest()
        return f"rs{digest[:12]}"

    def known(self, study_key: str, model_id: str) -> bool:
        """Whether this study has a result of this model."""
        return self._state.results.find(self.key(study_key, model_id)) is not None

    def folder(self, key: str) -> Path:
        """Where a result's SEG lies (identified zone)."""
        return self._parts.home.results / key

    def enter(self, study: StudyRow, manifest: ModelManifest, mask: Path) -> ResultRow:
        """Write the SEG of one mask and enter the result as held (or `no finding`).

        Args:
            study: the study.
            manifest: the model.
            mask: the trainer's mask on the prepared grid.

        Raises:
            ApplianceError: the SEG cannot be written; the text is in words.
        """
        key = self.key(study.study_key, manifest.id)
        folder = self.folder(key)
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        name = self._parts.identities.result_uid
        done: SegDone = self._parts.pool.call(
            write_result,
            SegWork(
                mask=mask,
                image=self._parts.home.research
                / CaseFiles(study.subject, study.session).image(REFERENCE),
                source=self._parts.identities.source(study.study_key, REFERENCE),
                manifest=manifest,
                folder=folder,
                sop_uid=name(study.study_key, manifest.id, "sop"),
                series_uid=name(study.study_key, manifest.id, "series"),
            ),
        )
        now = stamp(self._state.clock())
        state = ResultState.HELD if done.found else ResultState.NO_FINDING
        self._state.results.add(
            ResultRow(
                key=key,
                study_key=study.study_key,
                model_id=manifest.id,
                state=state,
                reason="" if done.found else "the model found nothing",
                destination="",
                volume_ml=done.volume_ml,
                lesions=done.lesions,
                attempt=0,
                not_before=None,
                created_at=now,
                updated_at=now,
                sent_at=None,
                decided_by="",
            )
        )
        self._parts.audit("node", f"result.{state}", key, {"model": manifest.id})
        if done.found:
            self.apply_rule(key)
        return self._state.results.get(key)

    def apply_rule(self, key: str) -> None:
        """Release a held result where the settings' rule says so."""
        section = self._parts.settings.results
        held = self._state.results.get(key).state is ResultState.HELD
        if held and section.release == "all" and self._parts.settings.results_pacs() is not None:
            self.release(key, actor=POLICY)
            self._parts.audit(POLICY, "result.released", key, {"rule": "results.release is all"})

    def release(self, key: str, *, actor: str, destination: str = "") -> ResultRow:
        """Release a held result to a destination (empty: the configured one).

        Raises:
            NotAllowed: it is not held, or no such destination takes results.
        """
        pacs = self._destination(destination)
        row = self._state.results.move(
            key,
            (ResultState.HELD, ResultState.FAILED),
            ResultState.RELEASED,
            {
                "destination": pacs.name,
                "decided_by": actor,
                "reason": "",
                "not_before": None,
                "attempt": 0,
            },
        )
        self._wake.set()
        return row

    def hold(self, key: str, *, reason: str = "") -> ResultRow:
        """Hold a result that is not sent yet.

        Raises:
            NotAllowed: it was sent, or there is nothing to send.
        """
        changes: dict[str, Value] = {"reason": reason, "decided_by": "operator"}
        return self._state.results.move(key, _UNSENT, ResultState.HELD, changes)

    def send(self, key: str) -> ResultRow:
        """Send a released result now, or a sent one again.

        Raises:
            NotAllowed: it was not released.
        """
        allowed = (ResultState.RELEASED, ResultState.FAILED, ResultState.SENT)
        changes: dict[str, Value] = {"not_before": None}
        self._state.results.move(key, allowed, ResultState.RELEASED, changes)
        self._send(self._state.results.get(key))
        return self._state.results.get(key)

    def withdraw(self, study_key: str) -> None:
        """A study was withdrawn: its unsent results are erased, sent ones are marked."""
        for row in self._state.results.select(study_key=study_key):
            self._state.results.move(
                row.key,
                tuple(ResultState),
                ResultState.WITHDRAWN,
                {"reason": "the study was withdrawn"},
            )
            remove_tree(self.folder(row.key))

    def recover(self) -> None:
        """A dead process was sending: send again; the same object is stored again."""
        for row in self._state.results.select(state=ResultState.SENDING):
            self._state.results.move(row.key, (ResultState.SENDING,), ResultState.RELEASED)
        for row in self._state.results.select(state=ResultState.HELD):
            if not row.decided_by and not row.reason:
                self.apply_rule(row.key)

    def run(self, stop: threading.Event) -> None:
        """Send released results until `stop` is set."""
        while not stop.is_set():
            self._wake.clear()
            self.send_due(stop)
            self._wake.wait(timeout=1.0)

    def send_due(self, stop: threading.Event | None = None) -> int:
        """Send everything that is released and due; gives the number of attempts."""
        due = self._state.results.due(self._state.clock())
        for row in due:
            if stop is not None and stop.is_set():
                break
            try:
                self._send(row)
            except NotAllowed:
                _log.info("result_changed_meanwhile", result=row.key)
        return len(due)

    def _destination(self, name: str) -> PacsSection:
        wanted = name or self._parts.settings.results.destination or ""
        for pacs in self._parts.settings.pacs:
            if pacs.name == wanted and "results" in pacs.role:
                return pacs
        raise NotAllowed("no [[pacs]] with the role 'results' has this name: correct the settings")

    def _send(self, row: ResultRow) -> None:
        sending = (ResultState.RELEASED, ResultState.FAILED)
        self._state.results.move(row.key, sending, ResultState.SENDING)
        try:
            obstacle = self._deliver(row)
        except (PeerError, OSError) as error:
            words = str(error) if isinstance(error, PeerError) else "the disk refused"
            self._again(row, words)
            return
        except (DicomBridgeError, ApplianceError) as error:
            obstacle = str(error)
        if obstacle:
            self._state.results.move(
                row.key, (ResultState.SENDING,), ResultState.HELD, {"reason": obstacle}
            )
            self._parts.audit("node", "result.held", row.key, {"reason": obstacle})
            return
        changes: dict[str, Value] = {"sent_at": stamp(self._state.clock()), "reason": ""}
        self._state.results.move(row.key, (ResultState.SENDING,), ResultState.SENT, changes)
        self._parts.audit("node", "result.sent", row.key, {"destination": row.destination})
        _log.info("result_sent", result=row.key, destination=row.destination)

    def _again(self, row: ResultRow, words: str) -> None:
        attempt = row.attempt + 1
        wait = timedelta(seconds=back_off_s(attempt, self._parts.settings.retry))
        changes: dict[str, Value] = {
            "attempt": attempt,
            "reason": words,
            "not_before": stamp(self._state.clock() + wait),
        }
        self._state.results.move(row.key, (ResultState.SENDING,), ResultState.FAILED, changes)
        _log.warning("result_not_sent", result=row.key, attempt=attempt, reason=words)

    def _deliver(self, row: ResultRow) -> str:
        """Send one result; gives why it must be held instead, or an empty text."""
        if self._state.studies.get(row.study_key).state is State.WITHDRAWN:
            return "the study was withdrawn"
        try:
            original = self._parts.identities.original(row.study_key)
        except VaultError:
            return "the vault has no original identity of the study"
        criteria = StudyCriteria(study_uids=(original.study.StudyInstanceUID,))
        matches = self._parts.client(original.pacs).find_studies(criteria)
        if not matches:
            return "the study is no longer in the PACS"
        path = self.folder(row.key) / SEG_FILE
        if not path.exists():
            return "the segmentation's file is gone: run the model again"
        fresh = refresh(path, matches[0])
        outcome = self._parts.client(row.destination).send([fresh])[0]
        if not outcome.ok:
            raise PeerError(outcome.words)
        return ""


def refresh(path: Path, match: StudyMatch) -> Path:
    """A copy of a SEG with the patient and accession values that the PACS has now.

    Args:
        path: the SEG.
        match: the study as the PACS describes it; what it leaves empty stays as it was.

    Returns:
        The copy beside the SEG, to be sent.
    """
    import pydicom

    dataset = pydicom.dcmread(path)
    values = {keyword: str(getattr(match, keyword)) for keyword in FRESH_KEYWORDS}
    changed = {k: v for k, v in values.items() if v and str(dataset.get(k, "")) != v}
    if not all(value.isascii() for value in changed.values()):
        dataset.decode()
        dataset.SpecificCharacterSet = "ISO_IR 192"
    for keyword, value in changed.items():
        setattr(dataset, keyword, value)
    copy = path.with_name("sending.dcm")
    part = path.with_name("sending.dcm.part")
    dataset.save_as(part, enforce_file_format=True)
    part.replace(copy)
    return copy
