"""Withdrawal: a study, or all of a patient, erased for every later use.

A patient's withdrawal goes in this order, each step repeatable, and is finished at the next start
where the process dies in between:

1. her studies are `withdrawn` in the state: no stage and no fetch of theirs can end any more
2. the vault forgets her and keeps keyed marks (`Identities.forget_patient`), in one transaction
3. her files go: spool, research files of all versions and projects, prepared cases, results
4. her rows go; frozen data sets keep a number; both databases are scrubbed

Afterwards nothing in the home names her or her pseudonyms but the audit log, where study keys stay:
keyed hashes that lead nowhere once the vault has forgotten them.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import structlog

from appliance.datasets import Datasets
from appliance.errors import NotAllowed
from appliance.home import Home, remove_tree, write_atomic
from appliance.identity import Identities
from appliance.pipeline.states import Event
from appliance.preparation import Preparer, remove_prepared
from appliance.research import CaseFiles, erase_case
from appliance.store import NodeState, StudyRow
from appliance.store.erasure import PatientErasure
from dicom_bridge.errors import VaultError
from federation.canonical import JSON
from federation.clock import stamp

_log = structlog.get_logger(__name__)
_TEXT = frozenset({".json", ".jsonl", ".log", ".txt", ".tsv", ".csv", ".html"})
_LARGEST_TEXT = 256 * 1024 * 1024
_IN_PACS = frozenset({"sending", "sent", "stored", "committed", "superseded"})


@dataclass(frozen=True, slots=True)
class PatientGone:
    """What a patient's withdrawal erased.

    Attributes:
        studies: her studies in this home.
        datasets: frozen data sets that held one of them.
        in_pacs: results of hers that were sent to a PACS: they have to be deleted there.
    """

    studies: int
    datasets: int
    in_pacs: int

    @property
    def words(self) -> str:
        """One sentence for the operator."""
        text = f"the patient is withdrawn: {self.studies} studies erased"
        if self.datasets:
            text += f", {self.datasets} data sets keep only their number"
        if self.in_pacs:
            text += f"; {self.in_pacs} results are in a PACS: delete them there"
        return text


@dataclass(frozen=True, slots=True)
class ErasureParts:
    """What a withdrawal works with.

    Attributes:
        state: the node's state.
        home: the node home.
        identities: pseudonyms and vault.
        datasets: frozen data sets.
        preparer: prepared folders.
        settling: held while a stage settles (`Runner.settling`).
        withdraw_results: erases a study's results.
        stop_fetch: lets the receiver take nothing more of a study.
    """

    state: NodeState
    home: Home
    identities: Identities
    datasets: Datasets
    preparer: Preparer
    settling: threading.RLock
    withdraw_results: Callable[[str], None]
    stop_fetch: Callable[[str], None]


class Erasure:
    """Withdraws studies and patients."""

    def __init__(self, parts: ErasureParts) -> None:
        self._parts = parts
        self._state = parts.state
        self._rows = PatientErasure(parts.state.database)

    def withdraw(self, study_key: str, *, reason: str) -> StudyRow:
        """Erase one study; its row stays as `withdrawn`, so that it is never taken again.

        Raises:
            NotFound: no such study.
            NotAllowed: it is withdrawn already.
            VaultError: the vault could not erase: repeat it.
        """
        with self._parts.settling:
            row = self._state.studies.apply(study_key, Event.WITHDRAW, reason=reason)
            self._parts.stop_fetch(study_key)
            self._parts.withdraw_results(study_key)
            self._erase_files(row)
            self._state.instances.forget(study_key)
            self._parts.identities.forget(study_key, made_at=stamp(self._state.clock()))
        return row

    def withdraw_patient(self, study_key: str, *, reason: str) -> PatientGone:
        """Erase everything of a study's patient: all her studies, visits and projects.

        Args:
            study_key: any study of hers.
            reason: in words; kept in the audit log only.

        Raises:
            NotFound: no such study.
            NotAllowed: the study has no PatientID, or the vault knows none, so that nobody can say
                which other studies are hers.
            VaultError: the vault could not erase: repeat it.
            StoreBusy: all is erased, but another program hinders the overwriting of the rows.
        """
        with self._parts.settling:
            study = self._state.studies.get(study_key)
            if study.patient_key not in self._rows.pending():
                self._must_be_nameable(study)
            self._state.studies.withdraw_patient(study.patient_key, reason=reason)
            return self._finish(study.patient_key)

    def finish(self) -> int:
        """Finish withdrawals that a dead process began; gives their number."""
        pending = self._rows.pending()
        with self._parts.settling:
            for patient_key in pending:
                self._finish(patient_key)
            self._state.database.scrub()
        return len(pending)

    def _must_be_nameable(self, study: StudyRow) -> None:
        for sibling in self._state.studies.of_patient(study.patient_key):
            try:
                original = self._parts.identities.original(sibling.study_key)
            except VaultError:
                continue
            if original.study.PatientID.strip():
                return
        raise NotAllowed(
            "no PatientID is known for this study, so nobody can say which studies are the same"
            " patient's: withdraw each study on its own"
        )

    def _finish(self, patient_key: str) -> PatientGone:
        studies = self._state.studies.of_patient(patient_key)
        in_pacs = sum(
            result.state in _IN_PACS
            for study in studies
            for result in self._state.results.select(study_key=study.study_key)
        )
        for study in studies:
            self._parts.stop_fetch(study.study_key)
            self._parts.withdraw_results(study.study_key)
        now = stamp(self._state.clock())
        self._parts.identities.forget_patient([s.study_key for s in studies], made_at=now)
        names = self._rows.datasets(studies)
        for study in studies:
            self._erase_files(study)
        self._rows.erase(patient_key, studies)
        for name in names:
            self._parts.datasets.write_record(self._state.datasets.get(name))
        gone = PatientGone(len(studies), len(names), in_pacs)
        self._state.activity.record("patient.withdrawn", {"studies": gone.studies})
        _log.info("patient_withdrawn", studies=gone.studies, datasets=gone.datasets)
        self._state.database.scrub()
        return gone

    def _erase_files(self, study: StudyRow) -> None:
        """Remove every file of a study, of all versions, in every project of the home."""
        try:
            remove_tree(self._parts.home.study(study.study_key))
        except OSError:
            # A stage or a receiver still writes there; who ends it, or the next start, removes it.
            _log.info("study_folder_in_use", study=study.study_key)
        cases = [version.case for version in study.versions()]
        for case in cases:
            self._parts.preparer.remove_case(case)
        for home in projects(self._parts.home):
            for case in cases:
                if home.bids.is_dir():
                    erase_case(home, CaseFiles.of(case))
                remove_prepared(home, case)
            forget_in_files(home, cases)


def projects(home: Home) -> Iterator[Home]:
    """The home as each of its projects sees it."""
    folder = home.root / "research"
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        if path.is_dir():
            yield home.with_project(path.name)


def forget_in_files(home: Home, cases: Iterable[str]) -> None:
    """Remove files named after the cases, and their lines and entries in other files.

    Looks through data set records, runs and models: masks, the trainer's jobs and scores, logs.
    """
    wanted = tuple(cases)
    for root in (home.datasets, home.models):
        for path in sorted(root.rglob("*")):
            if not path.is_file():
                continue
            if any(path.name.startswith(f"{case}.") for case in wanted):
                path.unlink(missing_ok=True)
            elif path.suffix in _TEXT and path.stat().st_size <= _LARGEST_TEXT:
                _forget_in_text(path, wanted)


def _forget_in_text(path: Path, cases: tuple[str, ...]) -> None:
    content = path.read_bytes()
    words = tuple(case.encode() for case in cases)
    if not any(word in content for word in words):
        return
    if path.suffix == ".html":
        path.unlink()  # a report: it is drawn anew when somebody asks for it
        return
    if path.suffix == ".json":
        try:
            document: JSON = json.loads(content)
        except ValueError:
            path.unlink()
            return
        write_atomic(path, json.dumps(pruned(document, frozenset(cases))).encode())
        return
    lines = content.splitlines(keepends=True)
    kept = [line for line in lines if not any(word in line for word in words)]
    write_atomic(path, b"".join(kept))


def pruned(value: JSON, cases: frozenset[str]) -> JSON:
    """JSON without the entries of cases: list items, keys, and objects whose ``case`` is one.

    Examples:
        >>> pruned({"cases": ["a", "b"], "masks": {"a": 1}, "x": [{"case": "a"}]}, frozenset("a"))
        {'cases': ['b'], 'masks': {}, 'x': []}
    """
    if isinstance(value, dict):
        return {k: pruned(v, cases) for k, v in value.items() if k not in cases}
    if isinstance(value, list):
        return [pruned(item, cases) for item in value if not _names(item, cases)]
    return "" if isinstance(value, str) and any(case in value for case in cases) else value


def _names(item: JSON, cases: frozenset[str]) -> bool:
    if isinstance(item, dict):
        return item.get("case") in cases
    return isinstance(item, str) and item in cases
