"""The running node's verbs for the control API (`appliance.control.operations.NodeOperations`)."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from appliance.control.operations import (
    ComponentView,
    EchoView,
    FederationView,
    FoundView,
    IdentityView,
    MetricView,
    PullView,
    QcView,
)
from appliance.datasets import Datasets
from appliance.erasure import Erasure, ErasureParts, PatientGone
from appliance.errors import NotFound
from appliance.fingerprint import fingerprint_of, rules_of
from appliance.home import Home
from appliance.identity import Identities
from appliance.intake import Intake, criteria_of
from appliance.labels.importing import Imported, ImportOptions, LabelImport
from appliance.pipeline.runner import Runner
from appliance.pipeline.states import Stage
from appliance.pipeline.work import QC_FILE, STAGES
from appliance.preparation import Preparer
from appliance.reports.site import report_path, write_dataset_report
from appliance.research import CaseFiles, case_files
from appliance.results import Results
from appliance.settings import PacsSection, Settings
from appliance.store import DatasetRow, NodeState, ResultRow, StudyRow
from dicom_bridge.errors import DicomBridgeError
from federation.fingerprint import Fingerprint


@dataclass(frozen=True, slots=True)
class OperationsParts:
    """What the verbs need.

    Attributes:
        state: the node's state.
        home: the node home.
        settings: the node's settings.
        identities: pseudonyms and vault.
        intake: queries and fetches.
        runner: the pipeline.
        datasets: data sets.
        preparer: prepared folders.
        imports: masks that the custodian imports.
        results: segmentations.
        components: the service's parts now.
        federation: the link to the coordinator now.
        wake: lets every waiting part look for work.
    """

    state: NodeState
    home: Home
    settings: Settings
    identities: Identities
    intake: Intake
    runner: Runner
    datasets: Datasets
    preparer: Preparer
    imports: LabelImport
    results: Results
    components: Callable[[], Sequence[ComponentView]]
    federation: Callable[[], FederationView]
    wake: Callable[[], None]


class Operations:
    """See `NodeOperations` for what each method promises."""

    def __init__(self, parts: OperationsParts) -> None:
        self._parts = parts
        self._erasure = Erasure(
            ErasureParts(
                state=parts.state,
                home=parts.home,
                identities=parts.identities,
                datasets=parts.datasets,
                preparer=parts.preparer,
                settling=parts.runner.settling,
                withdraw_results=parts.results.withdraw,
                stop_fetch=parts.intake.forget,
            )
        )

    def components(self) -> Sequence[ComponentView]:
        """The service's parts."""
        return self._parts.components()

    def federation(self) -> FederationView:
        """The link to the coordinator."""
        return self._parts.federation()

    def echo(self, pacs: str) -> EchoView:
        """C-ECHO to a configured PACS; a failure is an answer in words.

        Raises:
            NotFound: no such PACS.
        """
        section = self._pacs(pacs)
        try:
            answer = self._parts.intake.client(section).echo()
        except DicomBridgeError as error:
            return EchoView(section.name, False, str(error), 0.0)
        return EchoView(section.name, answer.ok, answer.words, round(answer.seconds * 1000.0, 1))

    def find(self, pacs: str, *, reveal: bool) -> Sequence[FoundView]:
        """C-FIND by the configured criteria.

        Raises:
            NotFound: no such PACS.
            DicomBridgeError: the PACS does not answer.
        """
        section = self._pacs(pacs)
        found = []
        for match in self._parts.intake.client(section).find_studies(criteria_of(section)):
            key = self._parts.identities.study_key(match.StudyInstanceUID)
            view = FoundView(
                key=key,
                modalities=", ".join(match.ModalitiesInStudy),
                instances=match.instances or 0,
                known=self._parts.state.studies.find(key) is not None,
            )
            if reveal:
                view = FoundView(
                    view.key,
                    view.modalities,
                    view.instances,
                    view.known,
                    patient=f"{match.PatientName} ({match.PatientID})",
                    date=match.StudyDate,
                    description=match.StudyDescription,
                )
            found.append(view)
        return found

    def pull(self, pacs: str, keys: Sequence[str]) -> PullView:
        """Take in matching studies.

        Raises:
            NotFound: no such PACS.
            DicomBridgeError: the PACS does not answer.
        """
        pulled = self._parts.intake.poll(self._pacs(pacs), keys)
        return PullView(pulled.matched, pulled.added, pulled.late, pulled.reopened, pulled.refused)

    def create_dataset(self, name: str, tags: Sequence[str]) -> DatasetRow:
        """An open data set."""
        return self._parts.datasets.create(name, tags)

    def freeze_dataset(self, name: str) -> DatasetRow:
        """Fix members and split."""
        return self._parts.datasets.freeze(name)

    def fingerprint(self, name: str) -> Fingerprint:
        """What a plan that lists fingerprints would learn of a frozen data set."""
        rules = rules_of(self._parts.settings.fingerprint)
        return fingerprint_of(self._parts.state, self._parts.home, name, rules)

    def import_labels(self, table: Path, options: ImportOptions) -> Iterator[Imported]:
        """Import a table of masks, row by row.

        Raises:
            NotAllowed: the table cannot be used.
        """
        return self._parts.imports.run(table, options)

    def withdraw(self, study_key: str, *, reason: str) -> StudyRow:
        """Erase a study for every later use; a running stage's result is dropped."""
        return self._erasure.withdraw(study_key, reason=reason)

    def withdraw_patient(self, study_key: str, *, reason: str) -> PatientGone:
        """Erase everything of a study's patient; only keyed marks stay, which refuse her later."""
        return self._erasure.withdraw_patient(study_key, reason=reason)

    def finish_withdrawals(self) -> int:
        """Finish what a dead process began; gives the number of patients."""
        return self._erasure.finish()

    def reopen(self, study_key: str, *, actor: str, reason: str) -> StudyRow:
        """Fetch and process a study once more."""
        return self._parts.intake.reopen(study_key, actor=actor, reason=reason)

    def identity(self, study_key: str) -> IdentityView:
        """Who a study's patient is; the caller checks the role and writes the audit log.

        Raises:
            NotFound: no such study.
            VaultError: the vault knows nothing of it (any more).
        """
        self._parts.state.studies.get(study_key)
        original = self._parts.identities.original(study_key)
        return IdentityView(study_key, original.pacs, original.study)

    def release_result(self, key: str, *, actor: str, destination: str) -> ResultRow:
        """Release a held result."""
        return self._parts.results.release(key, actor=actor, destination=destination)

    def hold_result(self, key: str, *, reason: str) -> ResultRow:
        """Hold a result that is not sent."""
        return self._parts.results.hold(key, reason=reason)

    def send_result(self, key: str) -> ResultRow:
        """Send a released result now, or a sent one again."""
        return self._parts.results.send(key)

    def qc(self, study_key: str) -> QcView:
        """A study's QC record; empty where it has none yet."""
        study = self._parts.state.studies.get(study_key)
        published = self._parts.home.research / CaseFiles(study.subject, study.session).qc()
        staged = self._parts.home.study(study_key) / STAGES / Stage.CHECK.value / QC_FILE
        for path in (published, staged):
            try:
                document = json.loads(path.read_bytes())
            except OSError:
                continue
            metrics = tuple(
                MetricView(m["name"], float(m["value"]), m["unit"], m["direction"])
                for m in document["metrics"]
                if m["value"] is not None
            )
            return QcView(document["decision"], tuple(document["reasons"]), metrics)
        return QcView()

    def files(self, study_key: str) -> Sequence[str]:
        """A study's files below the research folder, relative."""
        study = self._parts.state.studies.get(study_key)
        found = case_files(self._parts.home, CaseFiles(study.subject, study.session))
        return [path.as_posix() for path in found]

    def report(self, study_key: str) -> Path | None:
        """Where a study's report for people lies."""
        return report_path(self._parts.home, self._parts.state.studies.get(study_key))

    def dataset_report(self, name: str) -> Path:
        """Draw a data set's report for people.

        Raises:
            NotFound: no such data set.
        """
        parts = self._parts
        return write_dataset_report(parts.state, parts.home, parts.settings, name)

    def wake(self) -> None:
        """Let waiting parts look for work now."""
        self._parts.wake()

    def _pacs(self, name: str) -> PacsSection:
        for pacs in self._parts.settings.pacs:
            if not name or pacs.name == name:
                return pacs
        raise NotFound("no [[pacs]] of the settings has this name")
