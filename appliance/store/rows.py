"""What the store gives back: immutable rows, no identifiers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum

from appliance.pipeline.states import Stage, State
from appliance.result_states import ResultState
from federation.canonical import JSON


class DatasetState(StrEnum):
    """A data set is open until frozen; only an approved one is used by plans."""

    OPEN = "open"
    FROZEN = "frozen"
    APPROVED = "approved"
    REVOKED = "revoked"


class Decision(StrEnum):
    """What the custodian said about a plan or a model."""

    PENDING = "pending"
    APPROVED = "approved"
    REJECTED = "rejected"


@dataclass(frozen=True, slots=True)
class NewStudy:
    """A study that the PACS offered for the first time."""

    study_key: str
    patient_key: str
    subject: str
    session: str
    pacs: str
    expected: int = 0


@dataclass(frozen=True, slots=True)
class StudyRow:
    """One study.

    Attributes:
        stage: the stage that was refused or failed last, or that runs now.
        attempt: failed attempts of the present stage.
        not_before: earliest UTC time of the next attempt.
        claim: token of the running stage, or None.
        expected: instances that the PACS listed and the node asks for.
        received: instances that are here.
        late: instances that the PACS listed only after the study was fetched.
        inputs: canonical modalities present.
        session: BIDS session label of the present version.
        facts: further values of a closed vocabulary (counts, engine versions, volumes).
        version: 1, and one more each time the study was reopened after it had been `ready`.
    """

    study_key: str
    patient_key: str
    subject: str
    session: str
    pacs: str
    state: State
    stage: Stage | None
    attempt: int
    reason: str
    not_before: str | None
    claim: str | None
    found_at: str
    updated_at: str
    expected: int
    received: int
    late: int
    inputs: tuple[str, ...]
    labelled: bool
    qc_decision: str
    qc_released: bool
    facts: Mapping[str, JSON] = field(default_factory=dict)
    version: int = 1

    @property
    def case(self) -> str:
        """The name of this version in the research zone: ``sub-<label>_ses-<label>``."""
        return f"sub-{self.subject}_ses-{self.session}"

    @property
    def version_key(self) -> str:
        """The study's key, with ``v2`` and so on behind it for a later version."""
        return version_label(self.study_key, self.version)

    def at(self, version: int) -> StudyRow:
        """The study as an earlier version named its files; the state is the present one."""
        base = self.session if self.version == 1 else self.session.removesuffix(f"v{self.version}")
        return replace(self, session=version_label(base, version), version=version)

    def versions(self) -> tuple[StudyRow, ...]:
        """All versions, the first one first."""
        return tuple(self.at(number) for number in range(1, self.version + 1))


def version_label(base: str, version: int) -> str:
    """The name of a version: version 1 has the plain name.

    Examples:
        >>> version_label("abcdefgh", 1), version_label("abcdefgh", 2)
        ('abcdefgh', 'abcdefghv2')
    """
    return base if version == 1 else f"{base}v{version}"


@dataclass(frozen=True, slots=True)
class StageRun:
    """One execution of one stage; `outcome` is running, done, refused, failed or interrupted."""

    study_key: str
    stage: Stage
    attempt: int
    outcome: str
    started: str
    finished: str | None
    seconds: float
    detail: str


@dataclass(frozen=True, slots=True)
class StageTiming:
    """Seconds of the finished executions of one stage over all studies."""

    stage: Stage
    studies: int
    seconds_total: float
    seconds_median: float


@dataclass(frozen=True, slots=True)
class Funnel:
    """How many studies got how far; `quarantine_reasons` counts by reason in words."""

    offered: int
    fetched: int
    converted: int
    passed_qc: int
    quarantined: int
    ready: int
    trained: int
    quarantine_reasons: Mapping[str, int]
    missing_inputs: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class DatasetRow:
    """A data set: a named, later frozen, set of studies.

    Attributes:
        cases: members at the freeze; `training`, `test` and `unlabelled` divide them.
        erased: of these, how many were erased since because their patient was withdrawn.
    """

    name: str
    state: DatasetState
    hash: str
    tags: tuple[str, ...]
    created_at: str
    frozen_at: str | None
    decided_at: str | None
    decided_by: str
    cases: int
    training: int
    test: int
    unlabelled: int
    erased: int = 0


@dataclass(frozen=True, slots=True)
class Member:
    """A study of a frozen data set.

    Attributes:
        split: ``train``, ``test`` or ``infer``; plans divide ``train`` further.
        content: SHA-256 over the case's files at the time of the freeze.
    """

    study_key: str
    case: str
    split: str
    labelled: bool
    inputs: tuple[str, ...]
    content: str


@dataclass(frozen=True, slots=True)
class PlanRow:
    """A training plan that the coordinator offered; `document` is the signed plan as JSON text."""

    hash: str
    name: str
    signer: str
    document: str
    state: Decision
    reason: str
    dataset: str | None
    offered_at: str
    decided_at: str | None
    decided_by: str


@dataclass(frozen=True, slots=True)
class RunRow:
    """A federated run that the coordinator gave this site a task of.

    Attributes:
        plan_hash: the newest plan of the run that was seen here.
        state: ``taking part`` or ``left``.
        reason: the custodian's, where left.
        told: whether the coordinator knows that the site left.
        answer: what the coordinator said to that.
    """

    run_id: str
    plan_hash: str
    state: str
    reason: str
    told: bool
    answer: str
    seen_at: str
    decided_at: str | None
    decided_by: str


@dataclass(frozen=True, slots=True)
class Halt:
    """All runs are halted at this site."""

    reason: str
    halted_at: str
    halted_by: str


@dataclass(frozen=True, slots=True)
class ModelRow:
    """A finished model; `weights` is a path relative to the research folder."""

    id: str
    plan_hash: str
    round: int
    manifest: str
    weights: str
    state: Decision
    reason: str
    offered_at: str
    decided_at: str | None
    decided_by: str


@dataclass(frozen=True, slots=True)
class ResultRow:
    """What one model found in one study, as a set of objects.

    Attributes:
        reason: in words why it is where it is.
        attempt: failed attempts in a row of the present step.
        not_before: earliest UTC time of the next attempt.
        sent_at: when the PACS had taken every object.
        decided_by: who released or held it.
        algorithm: the plan's name; of one study's results with one algorithm the newest stands.
        found: whether the model found anything.
        predecessor: key of the result in the PACS that this one supersedes, or empty.
        findings: JSON list: label, volume (ml), and the volume of each connected piece.
        losses: how often the PACS did not list what it had taken.
        rounds: how often storage commitment was asked for.
        committed_at: when the PACS had taken responsibility for every object.
        patient_seen: key of another patient that the PACS files the study under now, or empty.
        patient_confirmed: the same, once a person has released the result all the same.
    """

    key: str
    study_key: str
    model_id: str
    state: ResultState
    reason: str
    destination: str
    volume_ml: float
    lesions: int
    attempt: int
    not_before: str | None
    created_at: str
    updated_at: str
    sent_at: str | None
    decided_by: str
    algorithm: str = ""
    found: bool = True
    predecessor: str = ""
    findings: str = "[]"
    losses: int = 0
    rounds: int = 0
    committed_at: str | None = None
    patient_seen: str = ""
    patient_confirmed: str = ""


@dataclass(frozen=True, slots=True)
class ResultObject:
    """One DICOM object of a result.

    Attributes:
        form: ``seg``, ``sr`` or ``sc``.
        file: name in the result's folder.
        object_key: keyed hash of its SOP Instance UID.
        sha256: of the file as it was made.
        size: bytes.
        state: ``made``, ``sent``, ``stored``, ``committed`` or ``failed``.
        reason: the PACS's last refusal, in words.
    """

    result: str
    form: str
    file: str
    object_key: str
    sha256: str
    size: int
    state: str = "made"
    reason: str = ""


@dataclass(frozen=True, slots=True)
class ResultEvent:
    """One step on a result's way."""

    at: str
    state: ResultState
    detail: str


@dataclass(frozen=True, slots=True)
class Commitment:
    """One request for storage commitment.

    Attributes:
        transaction_key: keyed hash of the transaction UID.
        state: ``planned`` (the PACS may not know of it), ``pending``, ``answered`` or ``expired``.
        deadline: UTC time until which the PACS may answer.
    """

    transaction_key: str
    result: str
    state: str
    asked_at: str
    deadline: str
    answered_at: str | None = None


@dataclass(frozen=True, slots=True)
class Activity:
    """Something that happened, for the operator's view; counts and closed words only."""

    at: str
    action: str
    detail: Mapping[str, JSON]
