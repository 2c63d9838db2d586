"""Studies come in: C-FIND by the configured criteria, C-MOVE to the node's own receiver.

The PACS's own list of instances (C-FIND at image level) is the truth that the received ones are
reconciled with; counters in C-MOVE responses are hints. Results that this node made are neither
asked for nor counted.

A study that was fetched and for which the PACS lists further source instances later is reopened
as a new version (``[intake] reopen``). Withdrawn patients and studies are refused.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime, timedelta
from pathlib import Path

import structlog

from appliance.archives import ClientFactory
from appliance.errors import ApplianceError, NotAllowed, NotFound
from appliance.home import Home, remove_tree
from appliance.identity import REFUSAL, Identities
from appliance.pipeline.runner import Observer, back_off_s
from appliance.pipeline.states import STOPPED, Event, Point, Stage, StageEvent, State, reached
from appliance.pipeline.work import RECEIVED
from appliance.settings import PacsSection, Settings
from appliance.store import Claim, NodeState, Outcome, StudyRow
from dicom_bridge.archive import Archive
from dicom_bridge.errors import DicomBridgeError, PeerError
from dicom_bridge.net import intake as durable
from dicom_bridge.net.model import InstanceRef, StudyCriteria, StudyMatch
from dicom_bridge.net.retrieve import RetrievePolicy, RetrieveReport
from dicom_bridge.net.scp.jobs import remove_job, write_job
from federation.canonical import JSON

_log = structlog.get_logger(__name__)
LABELS = frozenset({"SEG", "RTSTRUCT"})
"""Modalities of objects that reopen nothing."""
_PACS_RETRY_S = 30.0
_RESERVE_BYTES = 256 << 20
"""Disk space that is left free by what arrives on our own connections, as by the receiver."""
NODE = "node"
"""Actor of what the intake does by itself."""
_LOOK_AGAIN = timedelta(hours=24)


@dataclass(frozen=True, slots=True)
class Pulled:
    """What a query brought.

    Attributes:
        matched: studies that the PACS lists.
        added: new ones.
        late: known ones with instances that are not here.
        reopened: of these, those that are fetched again as a new version.
        refused: studies of withdrawn patients, and withdrawn studies.
    """

    matched: int
    added: int
    late: int = 0
    reopened: int = 0
    refused: int = 0


def criteria_of(pacs: PacsSection) -> StudyCriteria:
    """The C-FIND keys of a configured PACS."""
    query = pacs.query
    return StudyCriteria(
        modalities=query.modalities,
        study_date_from=query.study_date_from,
        study_date_to=query.study_date_to,
        description=query.description,
    )


class Spool:
    """What the receiver asks: the node's inbox (`dicom_bridge.net.intake.Inbox`).

    Only instances that an open fetch expects are wanted. Files and records are named by keyed
    hashes of the UIDs.

    Args:
        state: the node's state.
        home: the node home.
        identities: names of studies and instances.
        jobs: the folder in which receiver processes look up what may come; None where the receiver
            is in this process.
    """

    def __init__(
        self, state: NodeState, home: Home, identities: Identities, jobs: Path | None = None
    ) -> None:
        self._state = state
        self._home = home
        self._identities = identities
        self._jobs = jobs
        self._mutex = threading.Lock()
        self._expected: dict[str, frozenset[str]] = {}

    def expect(
        self,
        study_key: str,
        instance_keys: frozenset[str],
        *,
        study_uid: str = "",
        refs: Sequence[InstanceRef] = (),
    ) -> None:
        """Take these instances of a study until `done`.

        Args:
            study_key: the study.
            instance_keys: its instances.
            study_uid: original UID, for receiver processes.
            refs: the instances as the PACS lists them, for receiver processes.

        Raises:
            NotAllowed: the study was withdrawn: no job is opened for it.
        """
        if study_uid and self._identities.refused_study(study_uid):
            raise NotAllowed(REFUSAL)
        with self._mutex:
            self._expected[study_key] = instance_keys
        if self._jobs is None:
            return
        received = self._home.study(study_key) / RECEIVED
        received.mkdir(mode=0o700, parents=True, exist_ok=True)
        below = received.relative_to(self._home.identified).as_posix()
        name = self._identities.instance_key
        series = {uid: name(uid)[:16] for uid in {ref.SeriesInstanceUID for ref in refs}}
        places = {}
        for ref in refs:
            key = name(ref.SOPInstanceUID)
            places[ref.SOPInstanceUID] = (key, f"{below}/{series[ref.SeriesInstanceUID]}/{key}.dcm")
        write_job(self._jobs, study_key, study_uid, places)

    def done(self, study_key: str) -> None:
        """Take no more instances of a study."""
        with self._mutex:
            self._expected.pop(study_key, None)
        if self._jobs is not None:
            remove_job(self._jobs, study_key)

    def wanted(self, study_uid: str, sop_uid: str) -> bool:
        """Whether an open fetch expects this instance; never one of a withdrawn study."""
        if self._identities.refused_study(study_uid):
            return False
        with self._mutex:
            expected = self._expected.get(self._identities.study_key(study_uid))
        return expected is not None and self._identities.instance_key(sop_uid) in expected

    def path_for(self, study_uid: str, series_uid: str, sop_uid: str) -> Path:
        """The instance's final file; its folder exists."""
        folder = self._home.study(self._identities.study_key(study_uid)) / RECEIVED
        folder = folder / self._identities.instance_key(series_uid)[:16]
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        return folder / f"{self._identities.instance_key(sop_uid)}.dcm"

    def recorded(self, study_uid: str, sop_uid: str, sha256: str) -> None:
        """Record durably that the instance is here."""
        study_key = self._identities.study_key(study_uid)
        self._state.instances.record(study_key, self._identities.instance_key(sop_uid), sha256)

    def conflicting(self, study_uid: str, sop_uid: str) -> None:
        """Record that other content came under the UID of an instance that is here."""
        study_key = self._identities.study_key(study_uid)
        self._state.instances.mark_conflict(study_key, self._identities.instance_key(sop_uid))


AuditWriter = Callable[[str, str, Mapping[str, int | str]], None]


@dataclass(frozen=True, slots=True)
class IntakeParts:
    """What the intake works with.

    Attributes:
        state: the node's state.
        home: the node home.
        settings: the node's settings.
        identities: pseudonyms and vault.
        spool: the receiver's inbox.
        client: makes a client for a configured PACS.
        observer: told at each point of `request` and `receive`.
        on_received: called when a study is complete.
        on_reopened: called with a reopened study, who asked for it and why.
        on_labels: called with a `ready` study for which segmentations were fetched.
        audit: writes an audit entry of the node: action, object, detail.
        policy: how stubbornly a study is retrieved.
    """

    state: NodeState
    home: Home
    settings: Settings
    identities: Identities
    spool: Spool
    client: ClientFactory
    observer: Observer = lambda _event: None
    on_received: Callable[[], None] = lambda: None
    on_reopened: Callable[[StudyRow, str, str], None] = lambda _study, _actor, _reason: None
    on_labels: Callable[[StudyRow], object] = lambda _study: None
    audit: AuditWriter = lambda _action, _object, _detail: None
    policy: RetrievePolicy = field(default_factory=lambda: RetrievePolicy(settle_s=1.0))


class Intake:
    """Asks the PACS for studies and fetches them, one after the other."""

    def __init__(self, parts: IntakeParts) -> None:
        self._parts = parts
        self._state = parts.state
        self._wake = threading.Event()
        self._polled = threading.Event()
        self._listed: dict[str, int] = {}
        self._looked: dict[str, datetime] = {}
        self._clients: dict[str, Archive] = {}
        self._sink = durable.Intake(
            parts.spool, reserve_bytes=_RESERVE_BYTES, tally=durable.Tally()
        )
        self.problem = ""

    @property
    def polled(self) -> bool:
        """Whether every PACS has answered a query since the start."""
        return self._polled.is_set()

    def wake(self) -> None:
        """Look for studies to fetch now."""
        self._wake.set()

    def client(self, pacs: PacsSection) -> Archive:
        """The one client of a PACS (its requests wait for each other)."""
        if pacs.name not in self._clients:
            self._clients[pacs.name] = self._parts.client(pacs)
        return self._clients[pacs.name]

    def pacs(self, name: str) -> PacsSection:
        """A configured PACS; an empty name means the first one that is queried.

        Raises:
            NotFound: no such PACS.
        """
        for pacs in self._parts.settings.pacs:
            if pacs.name == name or (not name and "query" in pacs.role):
                return pacs
        raise NotFound("no [[pacs]] of the settings has this name")

    def run(self, stop: threading.Event) -> None:
        """Query and fetch until `stop` is set."""
        intake = self._parts.settings.intake
        next_poll = time.monotonic() + (0.0 if intake.on_start else intake.every_s)
        while not stop.is_set():
            self._wake.clear()
            if time.monotonic() >= next_poll:
                ok = self.poll_all()
                wait = intake.every_s if ok else min(_PACS_RETRY_S, intake.every_s)
                next_poll = time.monotonic() + wait
            if self.fetch_next(stop):
                continue
            self._wake.wait(timeout=max(0.05, min(1.0, next_poll - time.monotonic())))

    def poll_all(self) -> bool:
        """Query every PACS; False where one did not answer."""
        problems = []
        for pacs in self._parts.settings.query_pacs():
            try:
                self.poll(pacs)
            except DicomBridgeError as error:
                problems.append(f"{pacs.name}: {error}")
                _log.warning("pacs_query_failed", pacs=pacs.name, cause=type(error).__name__)
        self.problem = "; ".join(problems)
        if not problems:
            self._polled.set()
        return not problems

    def poll(self, pacs: PacsSection, keys: Sequence[str] = ()) -> Pulled:
        """Query one PACS and enter what is new.

        Args:
            pacs: the PACS.
            keys: only these studies; empty takes all that match.

        Raises:
            DicomBridgeError: the PACS does not answer, or refuses.
        """
        matches = self.client(pacs).find_studies(criteria_of(pacs))
        identities = self._parts.identities
        added = late = reopened = refused = 0
        for match in matches:
            newcomer = identities.newcomer(match, pacs.name)
            if keys and newcomer.study_key not in keys:
                continue
            if identities.refused_study(match.StudyInstanceUID) or identities.refused(
                match.IssuerOfPatientID, match.PatientID
            ):
                refused += 1
                continue
            known = self._state.studies.find(newcomer.study_key)
            if known is None:
                identities.keep(match, pacs.name)
                added += self._state.studies.add(newcomer)
            elif reached(known.state, State.RECEIVED, stage=known.stage) and self._is_late(
                pacs, match, known
            ):
                late += 1
                reopened += self._reopen_late(pacs, match, known.study_key)
        pulled = Pulled(len(matches), added, late, reopened, refused)
        _log.info("pacs_queried", pacs=pacs.name, **asdict(pulled))
        self._parts.audit("pacs.queried", pacs.name, asdict(pulled))
        self._wake.set()
        return pulled

    def _is_late(self, pacs: PacsSection, match: StudyMatch, study: StudyRow) -> bool:
        """Whether the PACS now lists instances that it did not list at the fetch."""
        key = study.study_key
        if study.state is State.WITHDRAWN:
            return False
        if not self._changed(match, key):
            return study.late > 0
        refs = self._wanted(self.client(pacs).find_instances(match.StudyInstanceUID), key)
        if match.instances is not None:
            self._listed[key] = match.instances
        self._looked[key] = self._state.clock()
        here = self._state.instances.keys(key)
        name = self._parts.identities.instance_key
        absent = [ref for ref in refs if name(ref.SOPInstanceUID) not in here]
        if absent and all(ref.Modality in LABELS for ref in absent):
            self._fetch_labels(pacs, match, study, absent)
            return False
        missing = len(absent)
        if missing != study.late:
            self._state.studies.note_late(key, missing)
            self._state.activity.record("study.late", {"study": key, "instances": missing})
        return missing > 0

    def _fetch_labels(
        self, pacs: PacsSection, match: StudyMatch, study: StudyRow, refs: Sequence[InstanceRef]
    ) -> None:
        """Fetch segmentations that came into a `ready` study: they reopen nothing.

        In a study that is still on its way they wait for a later query.
        """
        key = study.study_key
        listed, looked = self._listed.pop(key, None), self._looked.pop(key, None)
        if study.state is not State.READY:
            return
        name = self._parts.identities.instance_key
        names = {ref.SOPInstanceUID: name(ref.SOPInstanceUID) for ref in refs}

        def received() -> set[str]:
            """The expected instances that are here."""
            here = self._state.instances.keys(key)
            return {uid for uid, name in names.items() if name in here}

        uid = match.StudyInstanceUID
        self._parts.spool.expect(key, frozenset(names.values()), study_uid=uid, refs=refs)
        try:
            report = self.client(pacs).retrieve(
                uid, received, expected=refs, sink=self._sink, policy=self._parts.policy
            )
        finally:
            self._parts.spool.done(key)
        if report.complete:
            if listed is not None:
                self._listed[key] = listed
            if looked is not None:
                self._looked[key] = looked
        self._parts.on_labels(study)

    def _changed(self, match: StudyMatch, study_key: str) -> bool:
        """Whether the study's instances must be listed: by their number, or once in a while."""
        if match.instances is not None:
            return self._listed.get(study_key) != match.instances
        looked = self._looked.get(study_key)
        return looked is None or self._state.clock() - looked >= _LOOK_AGAIN

    def _reopen_late(self, pacs: PacsSection, match: StudyMatch, study_key: str) -> bool:
        """Reopen a study with late instances, where it rests and the settings say so."""
        study = self._state.studies.get(study_key)
        resting = study.claim is None and study.state in (State.READY, *STOPPED)
        if self._parts.settings.intake.reopen != "auto" or not resting:
            return False
        self._parts.identities.keep(match, pacs.name)
        try:
            self.reopen(study_key, actor=NODE, reason="the PACS lists further images")
        except NotAllowed:
            return False
        return True

    def reopen(self, study_key: str, *, actor: str, reason: str) -> StudyRow:
        """Fetch and process a study once more; a `ready` one becomes a new version.

        What frozen data sets hold of the present version stays as it is.

        Raises:
            NotFound: no such study.
            NotAllowed: the study is on its way, or withdrawn.
        """
        late = self._state.studies.get(study_key).late
        study = self._state.studies.apply(study_key, Event.REOPEN, reason=reason)
        detail: dict[str, JSON] = {
            "study": study_key,
            "instances": late,
            "version": study.version,
        }
        self._state.activity.record("study.reopened", detail)
        _log.info("study_reopened", study=study_key, instances=late, version=study.version)
        self._parts.on_reopened(study, actor, reason)
        self._wake.set()
        return study

    def forget(self, study_key: str) -> None:
        """Take nothing more of a study: it is being withdrawn."""
        self._parts.spool.done(study_key)
        self._listed.pop(study_key, None)
        self._looked.pop(study_key, None)

    def _wanted(self, refs: Sequence[InstanceRef], study_key: str) -> list[InstanceRef]:
        """Without the modalities that are not fetched and without this node's own results."""
        allowed = self._parts.settings.intake.instance_modalities
        name = self._parts.identities.instance_key
        ours = self._own_objects(study_key)
        return [
            ref
            for ref in refs
            if (not allowed or not ref.Modality or ref.Modality in allowed)
            and name(ref.SOPInstanceUID) not in ours
        ]

    def _own_objects(self, study_key: str) -> set[str]:
        """Keyed names of the objects that this node ever made for a study, of every version."""
        identities, results = self._parts.identities, self._state.results
        ours = set(results.object_keys(study_key))
        for version in self._state.studies.get(study_key).versions():
            for result in results.select(study_key=study_key):
                uid = identities.result_uid(version.version_key, result.model_id, "sop")
                ours.add(identities.instance_key(uid))
        return ours

    def fetch_next(self, stop: threading.Event) -> bool:
        """Fetch the next study that waits for it; False where none does."""
        claim = self._state.studies.claim((Stage.REQUEST, Stage.RECEIVE))
        if claim is None:
            return False
        started = time.monotonic()
        step = self._request if claim.stage is Stage.REQUEST else self._receive
        try:
            step(claim, stop, started)
        except PeerError as error:
            self._failed(claim, str(error), passing=True)
        except (DicomBridgeError, ApplianceError) as error:
            self._failed(claim, str(error))
        except OSError as error:
            self._failed(claim, f"the disk refused ({error.strerror})")
        return True

    def _list(self, claim: Claim) -> tuple[str, list[InstanceRef]]:
        key = claim.study.study_key
        original = self._parts.identities.original(key)
        client = self.client(self.pacs(original.pacs))
        refs = client.find_instances(original.study.StudyInstanceUID)
        if original.study.instances is not None:
            self._listed[key] = original.study.instances
        return original.study.StudyInstanceUID, self._wanted(refs, key)

    def _request(self, claim: Claim, stop: threading.Event, started: float) -> None:
        del stop
        key = claim.study.study_key
        self._tell(claim, Point.CLAIMED)
        _, refs = self._list(claim)
        limit = self._parts.settings.intake.max_instances_per_study
        if not refs or len(refs) > limit:
            words = (
                "no instance of the wanted modalities" if not refs else f"over {limit} instances"
            )
            self._state.studies.stop(claim, Event.REFUSE, f"the PACS lists {words}")
            return
        self._tell(claim, Point.WRITTEN)
        self._state.studies.note_expected(key, len(refs))
        self._tell(claim, Point.RENAMED)
        outcome = Outcome(facts={"series": len({ref.SeriesInstanceUID for ref in refs})})
        self._state.studies.finish(claim, outcome, seconds=time.monotonic() - started)
        self._tell(claim, Point.COMMITTED)

    def _receive(self, claim: Claim, stop: threading.Event, started: float) -> None:
        key = claim.study.study_key
        self._tell(claim, Point.CLAIMED)
        study_uid, refs = self._list(claim)
        names = {
            ref.SOPInstanceUID: self._parts.identities.instance_key(ref.SOPInstanceUID)
            for ref in refs
        }
        self._forget_lost(key)
        self._parts.spool.expect(key, frozenset(names.values()), study_uid=study_uid, refs=refs)

        def received() -> set[str]:
            """The expected instances that are here."""
            here = self._state.instances.keys(key)
            return {uid for uid, name in names.items() if name in here}

        pacs = self.pacs(self._parts.identities.original(key).pacs)
        try:
            report = self.client(pacs).retrieve(
                study_uid, received, expected=refs, sink=self._sink, policy=self._parts.policy
            )
        finally:
            self._parts.spool.done(key)
        if not self._state.studies.holds(claim):
            self._remove_withdrawn(key)
            return
        if stop.is_set():
            return
        self._tell(claim, Point.WRITTEN)
        conflicts = self._state.instances.conflicts(key)
        if conflicts:
            words = f"{conflicts} instances came twice with different content: ask the PACS"
            self._state.studies.stop(claim, Event.REFUSE, words)
            return
        if not report.complete:
            self._incomplete(claim, report)
            return
        self._remove_strangers(key, frozenset(names.values()))
        self._tell(claim, Point.RENAMED)
        outcome = Outcome(facts={"instances": len(refs)}, detail=report.words)
        self._state.studies.finish(claim, outcome, seconds=time.monotonic() - started)
        if claim.study.late:
            self._state.studies.note_late(key, 0)
        self._tell(claim, Point.COMMITTED)
        self._parts.audit("study.received", key, {"instances": len(refs), "pacs": pacs.name})
        self._parts.on_received()

    def _incomplete(self, claim: Claim, report: RetrieveReport) -> None:
        """Go on when the PACS's window opens again, or repeat as after a failure."""
        if report.resume_at is None:
            self._failed(claim, report.words)
        else:
            self._state.studies.postpone(claim, report.words, not_before=report.resume_at)

    def _remove_withdrawn(self, study_key: str) -> None:
        """A study was withdrawn while it came in: remove what came after the erasure."""
        study = self._state.studies.find(study_key)
        if study is None or study.state is State.WITHDRAWN:
            remove_tree(self._parts.home.study(study_key))

    def _forget_lost(self, study_key: str) -> None:
        """Drop records whose files are gone (a study that is fetched once more)."""
        folder = self._parts.home.study(study_key) / RECEIVED
        present = {path.stem for path in folder.rglob("*.dcm")}
        lost = self._state.instances.keys(study_key) - present
        if lost:
            self._state.instances.forget(study_key, lost)

    def _remove_strangers(self, study_key: str, expected: frozenset[str]) -> None:
        """Remove files of the spool that the PACS does not list, and unfinished ones."""
        for path in (self._parts.home.study(study_key) / RECEIVED).rglob("*"):
            if path.is_file() and (path.suffix != ".dcm" or path.stem not in expected):
                path.unlink()

    def _failed(self, claim: Claim, reason: str, *, passing: bool = False) -> None:
        """Repeat later; what is not a passing fault of the PACS is quarantined in the end."""
        policy = self._parts.settings.retry
        if claim.attempt >= policy.attempts and not passing:
            words = f"{claim.stage} failed {claim.attempt} times: {reason}"
            self._state.studies.stop(claim, Event.REFUSE, words)
        else:
            moment = self._state.clock() + timedelta(seconds=back_off_s(claim.attempt, policy))
            self._state.studies.stop(claim, Event.FAIL, reason, not_before=moment)
        _log.warning(
            "fetch_stopped",
            study=claim.study.study_key,
            stage=str(claim.stage),
            attempt=claim.attempt,
            reason=reason,
        )

    def _tell(self, claim: Claim, point: Point) -> None:
        self._parts.observer(StageEvent(claim.study.study_key, claim.stage, point))
