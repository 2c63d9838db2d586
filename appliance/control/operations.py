"""What the control server asks of the running node: small, so that a test can stand in for it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from appliance.erasure import PatientGone
from appliance.identity import REFUSAL
from appliance.labels.importing import Imported, ImportOptions
from appliance.store import DatasetRow, ResultRow, StudyRow
from dicom_bridge.net.model import StudyMatch
from federation.fingerprint import Fingerprint


@dataclass(frozen=True, slots=True)
class ComponentView:
    """A part of the service: ``state`` is running, waiting, stopped or failed."""

    name: str
    state: str
    detail: str = ""
    since: str = ""


@dataclass(frozen=True, slots=True)
class FederationView:
    """The link to the coordinator: not enrolled, connecting, connected or offline."""

    state: str
    coordinator: str = ""
    last_contact: str = ""
    run: str = ""
    round: int = 0
    rounds: int = 0
    task: str = ""
    certificate_expires: str = ""
    detail: str = ""
    waits: str = ""
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class EchoView:
    """Answer of a C-ECHO, in words."""

    pacs: str
    ok: bool
    message: str
    milliseconds: float


@dataclass(frozen=True, slots=True)
class FoundView:
    """A study that the PACS offers; identifying fields are only filled when asked for."""

    key: str
    modalities: str
    instances: int
    known: bool
    patient: str = "hidden"
    date: str = "hidden"
    description: str = "hidden"

    def __repr__(self) -> str:
        return f"FoundView({self.key})"


@dataclass(frozen=True, slots=True)
class PullView:
    """How many studies matched, and of these: new, late, reopened, refused as withdrawn."""

    matched: int
    added: int
    late: int = 0
    reopened: int = 0
    refused: int = 0

    @property
    def words(self) -> str:
        """What happened, in one sentence."""
        text = f"{self.matched} studies match, {self.added} of them are new and will be fetched"
        if self.late:
            text += f"; {self.late} have further images in the PACS ({self.reopened} reopened)"
        if self.refused:
            text += f"; {self.refused} refused: {REFUSAL}"
        return text


@dataclass(frozen=True, slots=True, repr=False)
class IdentityView:
    """Who a study's patient is, for a custodian's eyes only."""

    key: str
    pacs: str
    study: StudyMatch

    def __repr__(self) -> str:
        return f"IdentityView({self.key}, <values masked>)"


@dataclass(frozen=True, slots=True)
class MetricView:
    """One QC metric of a study."""

    name: str
    value: float
    unit: str
    direction: str
    decision: str = ""


@dataclass(frozen=True, slots=True)
class QcView:
    """A study's QC: decision pass, review, fail or empty."""

    decision: str = ""
    reasons: tuple[str, ...] = ()
    metrics: tuple[MetricView, ...] = ()


class NodeOperations(Protocol):
    """The node's verbs that are more than a look into its state."""

    def components(self) -> Sequence[ComponentView]:
        """The service's parts."""
        ...

    def federation(self) -> FederationView:
        """The link to the coordinator."""
        ...

    def echo(self, pacs: str) -> EchoView:
        """C-ECHO to a configured PACS (empty: the first)."""
        ...

    def find(self, pacs: str, *, reveal: bool) -> Sequence[FoundView]:
        """C-FIND by the configured criteria."""
        ...

    def pull(self, pacs: str, keys: Sequence[str]) -> PullView:
        """Take in matching studies (all, or those with ``keys``)."""
        ...

    def create_dataset(self, name: str, tags: Sequence[str]) -> DatasetRow:
        """An open data set."""
        ...

    def freeze_dataset(self, name: str) -> DatasetRow:
        """Fix members and split."""
        ...

    def fingerprint(self, name: str) -> Fingerprint:
        """What a plan that lists fingerprints would learn of a frozen data set."""
        ...

    def import_labels(self, table: Path, options: ImportOptions) -> Iterator[Imported]:
        """Import a table of masks, row by row."""
        ...

    def withdraw(self, study_key: str, *, reason: str) -> StudyRow:
        """Erase a study for every later use."""
        ...

    def withdraw_patient(self, study_key: str, *, reason: str) -> PatientGone:
        """Erase everything of a study's patient; only keyed marks stay."""
        ...

    def reopen(self, study_key: str, *, actor: str, reason: str) -> StudyRow:
        """Fetch and process a study once more, as a new version where it was ready."""
        ...

    def identity(self, study_key: str) -> IdentityView:
        """Who a study's patient is."""
        ...

    def release_result(self, key: str, *, actor: str, destination: str) -> ResultRow:
        """Release a held result to a destination (empty: the configured one)."""
        ...

    def hold_result(self, key: str, *, reason: str) -> ResultRow:
        """Hold a result that is not sent."""
        ...

    def send_result(self, key: str) -> ResultRow:
        """Send a released result now, or a sent one again."""
        ...

    def qc(self, study_key: str) -> QcView:
        """A study's QC record."""
        ...

    def files(self, study_key: str) -> Sequence[str]:
        """A study's files below the research folder, relative."""
        ...

    def report(self, study_key: str) -> Path | None:
        """Where a study's report for people lies; None where there is none."""
        ...

    def dataset_report(self, name: str) -> Path:
        """Draw a data set's report for people; gives its file."""
        ...

    def wake(self) -> None:
        """Let waiting parts look for work now."""
        ...
