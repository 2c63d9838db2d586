"""Results: a model's mask back on the source series, checked, held, released, sent, committed.

A result is the set of objects that one model made for one study. It is HELD until a person or an
explicit rule of the settings releases it. Immediately before it is sent, patient and accession
values are taken fresh from the PACS; a study that is gone, withdrawn or filed under another patient
holds its result. Its UIDs follow from study and model, so a repeated step stores the same object
again and never a second one. `appliance.result_states` is the table of what may follow what.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import structlog

from appliance.errors import ApplianceError, NotAllowed, NotFound
from appliance.home import Home, remove_tree
from appliance.identity import Identities
from appliance.pipeline.pool import WorkerPool
from appliance.pipeline.runner import back_off_s
from appliance.result_commitment import CommitmentParts, Commitments
from appliance.result_making import NOTHING, Maker
from appliance.result_sending import (
    MADE,
    STORED,
    Delivery,
    ObjectsRefused,
    Observer,
    Obstacle,
    SendingParts,
)
from appliance.result_states import IN_PACS, Instant, Verb
from appliance.result_writing import (
    SEG,
    SEG_FILE,
)
from appliance.settings import PacsSection, Settings
from appliance.store import NodeState, ResultObject, ResultRow, ResultState, StudyRow
from appliance.store.database import Value
from dicom_bridge.archive import Archive
from dicom_bridge.errors import DicomBridgeError, PeerError
from dicom_bridge.net.model import CommitmentReport, is_transient
from federation.clock import stamp
from federation.manifest import ModelManifest

_log = structlog.get_logger(__name__)

POLICY = "policy"
_HOLDABLE = (ResultState.HELD, ResultState.RELEASED, ResultState.FAILED)
_STEPS_AT_ONCE = 12
_MOST_LOSSES = 3
_LOOK_S = 1.0


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
        observer: told at each instant of a result's way.
    """

    state: NodeState
    home: Home
    settings: Settings
    identities: Identities
    pool: WorkerPool
    client: Callable[[str], Archive]
    audit: Callable[[str, str, str, Mapping[str, Value]], None]
    observer: Observer = lambda _key, _instant: None


class Results:
    """Makes results of masks and brings what is released into the PACS.

    Attributes:
        key: a result's key; see `Maker.key`.
        uids: the UIDs of a result's objects.
        folder: where a result's objects lie.
        marks: what results and their corrected copies can be known by.
    """

    def __init__(self, parts: ResultsParts) -> None:
        self._parts = parts
        self._state = parts.state
        self._wake = threading.Event()
        self._turn = threading.RLock()
        self._maker = Maker(parts)
        self.key = self._maker.key
        self.uids = self._maker.uids
        self.folder = self._maker.folder
        self.marks = self._maker.marks
        self._delivery = Delivery(
            SendingParts(parts.state, parts.home, parts.identities, parts.client, parts.observer)
        )
        self._commitments = Commitments(
            CommitmentParts(
                state=parts.state,
                settings=parts.settings,
                identities=parts.identities,
                client=parts.client,
                delivery=self._delivery,
                audit=parts.audit,
                observer=parts.observer,
                on_committed=self._clear,
            )
        )

    def wake(self) -> None:
        """Look for released results now."""
        self._wake.set()

    def known(self, version_key: str, model_id: str) -> bool:
        """Whether this version of a study has a result of this model."""
        return self._state.results.find(self.key(version_key, model_id)) is not None

    def enter(self, study: StudyRow, manifest: ModelManifest, mask: Path) -> ResultRow:
        """Write the objects of one mask, enter the result, check it, and hold or release it.

        A result of this study and model that is there already stays as it is.

        Args:
            study: the study, in the version that was segmented.
            manifest: the model.
            mask: the trainer's mask on the prepared grid.

        Raises:
            ApplianceError: an object cannot be written; the text is in words.
        """
        key = self.key(study.version_key, manifest.id)
        with self._turn:
            if not self.known(study.version_key, manifest.id):
                self._decide(self._maker.make(study, manifest, mask))
        return self._state.results.get(key)

    def _decide(self, row: ResultRow) -> None:
        """Validated -> held, or closed where there is nothing to send; then the rule."""
        if row.state is not ResultState.VALIDATED:
            return
        wanted = row.found or self._parts.settings.results.send_no_finding
        if not wanted or not self._state.results.objects(row.key):
            self._state.results.step(row.key, Verb.CLOSE)
            self._parts.audit("node", "result.no finding", row.key, {})
            return
        self._state.results.step(row.key, Verb.HOLD)
        self._parts.audit("node", "result.held", row.key, {})
        self._tell(row.key, Instant.HELD)
        self.apply_rule(row.key)

    def apply_rule(self, key: str) -> None:
        """Release a held result where the settings' rule says so."""
        section = self._parts.settings.results
        held = self._state.results.get(key).state is ResultState.HELD
        if held and section.release == "all" and self._parts.settings.results_pacs() is not None:
            self.release(key, actor=POLICY)
            self._parts.audit(POLICY, "result.released", key, {"rule": "results.release is all"})

    def release(self, key: str, *, actor: str, destination: str = "") -> ResultRow:
        """Release a held result to a destination (empty: the configured one).

        A refused result is checked once more first. A person's release also accepts that the PACS
        files the study under another patient now.

        Raises:
            NotAllowed: it is not held, or no such destination takes results.
        """
        pacs = self._destination(destination)
        row = self._state.results.get(key)
        changes: dict[str, Value] = {
            "destination": pacs.name,
            "decided_by": actor,
            "reason": "" if row.found else NOTHING,
            "not_before": None,
            "attempt": 0,
            "losses": 0,
            "rounds": 0,
        }
        if actor != POLICY and row.patient_seen:
            changes |= {"patient_confirmed": row.patient_seen, "patient_seen": ""}
        with self._turn:
            if row.state is ResultState.REFUSED:
                self._maker.recheck(row)
            if row.state is ResultState.NO_FINDING and not self._state.results.objects(key):
                raise NotAllowed("the model found nothing and wrote nothing: there is no object")
            row = self._state.results.step(key, Verb.RELEASE, changes)
        self._tell(key, Instant.RELEASED)
        self._wake.set()
        return row

    def hold(self, key: str, *, reason: str = "") -> ResultRow:
        """Hold a result that is not sent yet.

        Raises:
            NotAllowed: it was sent, or there is nothing to send.
        """
        changes: dict[str, Value] = {"reason": reason, "decided_by": "operator"}
        return self._state.results.step(key, Verb.HOLD, changes, only=_HOLDABLE)

    def send(self, key: str) -> ResultRow:
        """Send a released result now, or a sent one again: what the PACS lists stays there.

        Raises:
            NotAllowed: it was not released, or its local copy is gone.
        """
        with self._turn:
            row = self._state.results.get(key)
            if row.state is ResultState.COMMITTED:
                raise NotAllowed("the PACS has committed to it: the local copy is gone")
            only = (ResultState.RELEASED, ResultState.FAILED, *IN_PACS)
            changes: dict[str, Value] = {"not_before": None, "losses": 0, "rounds": 0}
            self._state.results.step(key, Verb.RESEND, changes, only=only)
            files = [item.file for item in self._state.results.objects(key)]
            self._state.results.mark_objects(key, files, MADE)
            self._advance(key)
            return self._state.results.get(key)

    def withdraw(self, study_key: str) -> None:
        """A study was withdrawn: its unsent results are erased, sent ones are marked."""
        for row in self._state.results.select(study_key=study_key):
            changes: dict[str, Value] = {"reason": "the study was withdrawn", "findings": "[]"}
            self._state.results.step(row.key, Verb.WITHDRAW, changes)
            remove_tree(self.folder(row.key))
            remove_tree(self.folder(f"{row.key}.part"))

    def on_commitment(self, report: CommitmentReport) -> bool:
        """Take a PACS's report of storage commitment; False where no request of ours has its UID.

        Called from the receiver's threads; a report may come hours later and after a restart.
        """
        known = self._commitments.report(report)
        self._wake.set()
        return known

    def recover(self) -> None:
        """Take up what a dead process left: the same objects are sent again, never others."""
        entered = {row.key for row in self._state.results.select()}
        for folder in self._parts.home.results.iterdir():
            if folder.name not in entered:
                remove_tree(folder)
        for row in self._state.results.select():
            self._adopt(row)
            if row.state is ResultState.SENDING:
                self._state.results.step(row.key, Verb.RESEND)
            if row.state is ResultState.HELD and not row.decided_by and not row.reason:
                self.apply_rule(row.key)
            if row.state is ResultState.COMMITTED:
                remove_tree(self.folder(row.key))
        self._commitments.recover()

    def _adopt(self, row: ResultRow) -> None:
        """Enter the SEG of a result that was made before results were sets of objects."""
        path = self.folder(row.key) / SEG_FILE
        if not row.found or self._state.results.objects(row.key) or not path.exists():
            return
        content = path.read_bytes()
        uid = self._parts.identities.instance_key(self.uids(row.study_key, row.model_id).seg)
        digest = hashlib.sha256(content).hexdigest()
        state = STORED if row.state is ResultState.SENT else MADE
        item = ResultObject(row.key, SEG, SEG_FILE, uid, digest, len(content), state)
        self._state.results.add_objects([item])

    def run(self, stop: threading.Event) -> None:
        """Send released results until `stop` is set."""
        while not stop.is_set():
            self._wake.clear()
            self.send_due(stop)
            self._wake.wait(timeout=_LOOK_S)

    def send_due(self, stop: threading.Event | None = None) -> int:
        """Bring everything that is due one or more steps on; gives the number of results."""
        due = self._state.results.due(self._state.clock())
        for row in due:
            if stop is not None and stop.is_set():
                break
            with self._turn:
                try:
                    self._advance(row.key)
                except (NotAllowed, NotFound):
                    _log.info("result_changed_meanwhile", result=row.key)
        return len(due)

    def _advance(self, key: str) -> None:
        """Take step after step until something must be waited for."""
        steps: Mapping[ResultState, Callable[[ResultRow], None]] = {
            ResultState.MADE: self._maker.validate,
            ResultState.VALIDATED: self._decide,
            ResultState.RELEASED: self._send,
            ResultState.FAILED: self._send,
            ResultState.SENT: self._confirm,
            ResultState.STORED: self._commit,
        }
        for _ in range(_STEPS_AT_ONCE):
            row = self._state.results.get(key)
            moment = stamp(self._state.clock())
            waiting = row.not_before is not None and row.not_before > moment
            settled = row.state is ResultState.STORED and row.not_before is None
            if row.state not in steps or waiting or settled:
                return
            steps[row.state](row)

    def _destination(self, name: str) -> PacsSection:
        wanted = name or self._parts.settings.results.destination or ""
        for pacs in self._parts.settings.pacs:
            if pacs.name == wanted and "results" in pacs.role:
                return pacs
        raise NotAllowed("no [[pacs]] with the role 'results' has this name: correct the settings")

    def _send(self, row: ResultRow) -> None:
        """Released or failed -> sent, failed (again later), held or refused."""
        self._state.results.step(row.key, Verb.START)
        self._tell(row.key, Instant.STARTED)
        try:
            self._delivery.send(row)
        except Obstacle as obstacle:
            self._hold(row, str(obstacle), obstacle.patient)
        except ObjectsRefused as error:
            self._again(row, str(error), bounded=True)
        except PeerError as error:
            self._again(row, str(error))
        except OSError as error:
            self._again(row, f"the disk refused ({error.strerror})")
        except (DicomBridgeError, ApplianceError) as error:
            self._hold(row, str(error), "")
        else:
            changes: dict[str, Value] = {
                "sent_at": stamp(self._state.clock()),
                "reason": "" if row.found else NOTHING,
                "attempt": 0,
                "not_before": None,
            }
            self._state.results.step(row.key, Verb.FINISH, changes)
            self._parts.audit("node", "result.sent", row.key, {"destination": row.destination})
            _log.info("result_sent", result=row.key, destination=row.destination)
            self._tell(row.key, Instant.SENT)
            self._replace(row)

    def _replace(self, row: ResultRow) -> None:
        """The older results in the PACS are superseded once the newer one is there, too."""
        for older in self._maker.standing(row.study_key, row.algorithm, row.key):
            if older.state in IN_PACS and older.created_at <= row.created_at:
                self._maker.supersede(older, row.key)

    def _hold(self, row: ResultRow, words: str, patient: str) -> None:
        changes: dict[str, Value] = {"reason": words, "patient_seen": patient}
        self._state.results.step(row.key, Verb.HOLD, changes)
        self._parts.audit("node", "result.held", row.key, {"reason": words})

    def _again(self, row: ResultRow, words: str, *, bounded: bool = False) -> None:
        attempt = row.attempt + 1
        changes: dict[str, Value] = {"attempt": attempt, "reason": words}
        if bounded and attempt >= self._parts.settings.retry.attempts:
            changes["reason"] = f"the PACS refused it {attempt} times: {words}"
            self._state.results.step(row.key, Verb.REFUSE, changes)
            self._parts.audit("node", "result.refused", row.key, {"reason": words})
            return
        changes["not_before"] = self._later(attempt)
        self._state.results.step(row.key, Verb.FAIL, changes)
        _log.warning("result_not_sent", result=row.key, attempt=attempt, reason=words)

    def _later(self, attempt: int) -> str:
        wait = timedelta(seconds=back_off_s(attempt, self._parts.settings.retry))
        return stamp(self._state.clock() + wait)

    def _confirm(self, row: ResultRow) -> None:
        """Sent -> stored where the PACS lists every object; else ask again, then send again."""
        attempt = row.attempt + 1
        try:
            missing = self._delivery.missing(row)
        except DicomBridgeError as error:
            longest = self._parts.settings.retry.longest_wait_s
            often = isinstance(error, PeerError) and is_transient(error)
            wait = (
                self._later(attempt)
                if often
                else stamp(self._state.clock() + timedelta(seconds=max(longest, 1.0)))
            )
            words = f"sent, but not verified: {error}"
            self._state.results.update(
                row.key, {"attempt": attempt, "not_before": wait, "reason": words}
            )
            return
        if not missing:
            self._tell(row.key, Instant.LISTED)
            self._stored(row)
        elif attempt < self._parts.settings.retry.attempts:
            words = f"the PACS does not list {len(missing)} objects yet"
            self._state.results.update(
                row.key, {"attempt": attempt, "not_before": self._later(attempt), "reason": words}
            )
        else:
            self._lost(row, [item.file for item in missing])

    def _stored(self, row: ResultRow) -> None:
        pacs = self._pacs(row.destination)
        wanted = pacs is not None and pacs.commitment
        changes: dict[str, Value] = {
            "attempt": 0,
            "reason": "" if row.found else NOTHING,
            "not_before": stamp(self._state.clock()) if wanted else None,
        }
        self._state.results.step(row.key, Verb.CONFIRM, changes)
        self._parts.audit("node", "result.stored", row.key, {"destination": row.destination})
        self._tell(row.key, Instant.STORED)

    def _lost(self, row: ResultRow, files: list[str]) -> None:
        """What the PACS took and does not list is sent again, a few times."""
        words = f"the PACS took {len(files)} objects and does not list them"
        self._state.results.mark_objects(row.key, files, MADE, words)
        if row.losses + 1 >= _MOST_LOSSES:
            self._state.results.step(row.key, Verb.REFUSE, {"reason": f"{words}: ask the PACS"})
            self._parts.audit("node", "result.refused", row.key, {"reason": words})
            return
        changes: dict[str, Value] = {
            "attempt": 0,
            "losses": row.losses + 1,
            "reason": words,
            "not_before": self._later(row.losses + 1),
        }
        self._state.results.step(row.key, Verb.LOSE, changes)

    def _commit(self, row: ResultRow) -> None:
        """Stored -> committed: ask, or see whether the PACS let the time pass."""
        self._commitments.pursue(row, self._later)

    def _clear(self, key: str) -> None:
        """Remove the local copy of a committed result."""
        remove_tree(self.folder(key))
        self._tell(key, Instant.CLEARED)

    def _pacs(self, name: str) -> PacsSection | None:
        found = [pacs for pacs in self._parts.settings.pacs if pacs.name == name]
        return found[0] if found else None

    def _tell(self, key: str, instant: Instant) -> None:
        self._parts.observer(key, instant)
