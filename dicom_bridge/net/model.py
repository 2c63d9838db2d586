"""What crosses the boundary of :mod:`dicom_bridge.net`: plain, frozen values.

Values that hold a patient's data mask themselves in ``repr`` so that no log line shows them.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from typing import Protocol, TypeVar

import structlog
from tenacity import (
    Retrying,
    retry_if_exception,
    stop_after_attempt,
    wait_exponential,
)

from dicom_bridge.errors import AssociationRejected, PeerUnreachable, SettingsRefused

SUCCESS = 0x0000

T = TypeVar("T")
_log = structlog.get_logger(__name__)


def check_ae_title(value: str, what: str) -> str:
    r"""Return an AE title if PS3.5 6.2 allows it: 1 to 16 printable ASCII characters, no backslash.

    Args:
        value: the title as configured; outer spaces are not significant and are removed.
        what: what the title names, for the error's text.

    Raises:
        SettingsRefused: the title is empty, too long, or has a character that is not allowed.

    Example:
        >>> check_ae_title(" PACS ", "PACS")
        'PACS'
    """
    title = value.strip(" ")
    if not 1 <= len(title) <= 16 or not title.isascii() or not title.isprintable() or "\\" in title:
        raise SettingsRefused(
            f"{what}: an AE title has 1 to 16 printable ASCII characters without backslash, "
            f"this one has {len(title)} characters or another sign; correct the settings"
        )
    return title


@dataclass(frozen=True, slots=True)
class RemoteAE:
    """A peer: its AE title and where it listens.

    Attributes:
        ae_title: 1 to 16 characters (PS3.5 6.2, VR AE).
        host: name or address.
        port: TCP port, 1 to 65535.
    """

    ae_title: str
    host: str
    port: int

    def __post_init__(self) -> None:
        object.__setattr__(self, "ae_title", check_ae_title(self.ae_title, "remote AE"))
        if not self.host:
            raise SettingsRefused("remote AE: the host is empty; enter its name or address")
        if not 1 <= self.port <= 65535:
            raise SettingsRefused(f"remote AE: port {self.port} is not in 1 to 65535")

    def __str__(self) -> str:
        return f"{self.ae_title} at {self.host}:{self.port}"


@dataclass(frozen=True, slots=True, repr=False)
class StudyCriteria:
    """Which studies to look for; what is empty does not restrict.

    Attributes:
        modalities: any of these must be in the study (ModalitiesInStudy), e.g. ``("MR",)``.
        study_date_from: first StudyDate, inclusive.
        study_date_to: last StudyDate, inclusive.
        patient_ids: any of these PatientID values.
        study_uids: any of these StudyInstanceUID values.
        accession_numbers: any of these AccessionNumber values.
        description: StudyDescription, with the wildcards ``*`` and ``?`` (PS3.4 C.2.2.2.4).
    """

    modalities: tuple[str, ...] = ()
    study_date_from: date | None = None
    study_date_to: date | None = None
    patient_ids: tuple[str, ...] = ()
    study_uids: tuple[str, ...] = ()
    accession_numbers: tuple[str, ...] = ()
    description: str | None = None

    def __repr__(self) -> str:
        return "StudyCriteria(<values masked>)"


@dataclass(frozen=True, slots=True, repr=False)
class StudyMatch:
    """One study as the PACS describes it; text is empty where the PACS said nothing.

    Attributes:
        instances: NumberOfStudyRelatedInstances, None where the PACS does not count.
    """

    StudyInstanceUID: str
    PatientID: str
    IssuerOfPatientID: str
    PatientName: str
    PatientBirthDate: str
    PatientSex: str
    StudyDate: str
    StudyTime: str
    AccessionNumber: str
    StudyID: str
    StudyDescription: str
    ModalitiesInStudy: tuple[str, ...]
    instances: int | None

    def __repr__(self) -> str:
        return f"StudyMatch(<values masked>, instances={self.instances})"


@dataclass(frozen=True, slots=True, repr=False)
class InstanceRef:
    """One instance that the PACS says it holds; SOPClassUID and Modality may be empty."""

    SeriesInstanceUID: str
    SOPInstanceUID: str
    SOPClassUID: str
    Modality: str

    def __repr__(self) -> str:
        return f"InstanceRef(<UIDs masked>, Modality={self.Modality!r})"


@dataclass(frozen=True, slots=True)
class Timeouts:
    """How long to wait, in seconds.

    Attributes:
        connect_s: for the TCP connection.
        association_s: for the answer to an association request or release.
        response_s: for the next response to C-ECHO, C-FIND and C-STORE.
        move_idle_s: during C-MOVE without any progress; every response and every received
            instance starts it anew.
        move_total_s: for one C-MOVE request, whatever its progress.
        cancel_grace_s: between C-CANCEL and the abort.
    """

    connect_s: float = 10.0
    association_s: float = 20.0
    response_s: float = 60.0
    move_idle_s: float = 300.0
    move_total_s: float = 4 * 3600.0
    cancel_grace_s: float = 5.0


def is_transient(error: BaseException) -> bool:
    """Whether the same request may succeed later without anybody changing a setting."""
    if isinstance(error, AssociationRejected):
        return error.result == 2
    return isinstance(error, PeerUnreachable)


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """Retries of requests that failed for a passing reason.

    Attributes:
        attempts: how often to try in all, at least 1.
        first_wait_s: wait before the second attempt; doubles each time.
        longest_wait_s: the most that a wait grows to.
        sleep: how to wait; tests pass their own.
    """

    attempts: int = 3
    first_wait_s: float = 1.0
    longest_wait_s: float = 30.0
    sleep: Callable[[float], None] = time.sleep

    def retrying(self) -> Retrying:
        """A tenacity object that repeats what :func:`is_transient` allows, then re-raises."""
        return Retrying(
            stop=stop_after_attempt(max(1, self.attempts)),
            wait=wait_exponential(multiplier=self.first_wait_s, max=self.longest_wait_s),
            retry=retry_if_exception(is_transient),
            sleep=self.sleep,
            reraise=True,
        )

    def ask(self, request: Callable[[], T]) -> T:
        """What a request answers, repeated as this policy says.

        Raises:
            DicomBridgeError: the last failure, or the first that does not pass by waiting.
        """
        for attempt in self.retrying():
            with attempt:
                number = attempt.retry_state.attempt_number
                if number > 1:
                    _log.info("pacs_request_repeated", attempt=number)
                return request()
        raise AssertionError("unreachable: tenacity returns or re-raises")


@dataclass(frozen=True, slots=True)
class EchoResult:
    """What a C-ECHO showed.

    Attributes:
        status: DIMSE status, 0 for success.
        words: the result in words.
        seconds: from the connection request to the answer.
        implementation: the peer's Implementation Version Name, empty if it gave none.
    """

    status: int
    words: str
    seconds: float
    implementation: str

    @property
    def ok(self) -> bool:
        """Whether the peer answered with success."""
        return self.status == SUCCESS


@dataclass(frozen=True, slots=True)
class MoveOutcome:
    """What the PACS says a C-MOVE did; a hint, compare with what was received.

    Attributes:
        status: the final DIMSE status (PS3.4 C.4.2.1.5).
        completed: NumberOfCompletedSuboperations.
        failed: NumberOfFailedSuboperations.
        warning: NumberOfWarningSuboperations.
        failed_uids: FailedSOPInstanceUIDList.
        words: the result in words with what to do.
    """

    status: int
    completed: int
    failed: int
    warning: int
    failed_uids: tuple[str, ...] = field(repr=False)
    words: str

    @property
    def ok(self) -> bool:
        """Whether the PACS reports success without failures."""
        return self.status == SUCCESS and self.failed == 0


class StopSignal(Protocol):
    """The part of ``threading.Event`` that is needed to stop a request."""

    def is_set(self) -> bool:
        """Whether to stop."""
        ...


@dataclass(frozen=True, slots=True)
class MoveWatch:
    """What a C-MOVE in progress is watched by.

    Attributes:
        progress: a number that grows with each instance received (it restarts the idle time-out).
        stop: set it to end the request: C-CANCEL first, then an abort.
    """

    progress: Callable[[], int] | None = None
    stop: StopSignal | None = None


@dataclass(frozen=True, slots=True)
class SendOutcome:
    """What became of one file that was sent by C-STORE.

    Attributes:
        path: the file.
        SOPInstanceUID: its instance, empty if the file could not be read.
        status: DIMSE status; None where nothing was sent or no answer came.
        words: the result in words with what to do.
    """

    path: Path = field(repr=False)
    SOPInstanceUID: str = field(repr=False)
    status: int | None
    words: str

    @property
    def ok(self) -> bool:
        """Whether the peer has stored the instance (success or warning, PS3.4 B.2.3)."""
        if self.status is None:
            return False
        return self.status in (0x0000, 0x0001) or 0xB000 <= self.status <= 0xBFFF


@dataclass(frozen=True, slots=True)
class CommitmentRequest:
    """What a PACS is asked to keep safe (storage commitment, PS3.4 J.3.2).

    Attributes:
        transaction_uid: a UID of ours, new for each request; the report names it.
        study_uid: the study that all instances belong to.
        sop_classes: SOP Class UID by SOP Instance UID.
    """

    transaction_uid: str
    study_uid: str = field(repr=False)
    sop_classes: Mapping[str, str] = field(repr=False)


@dataclass(frozen=True, slots=True)
class OurAddress:
    """Where our own receiver listens, as the PACS must know it.

    Attributes:
        ae_title: our AE title.
        host: the address that the PACS must call; empty where it is not known here.
        port: TCP port.
    """

    ae_title: str
    host: str
    port: int

    def __str__(self) -> str:
        where = f"host {self.host}" if self.host else "the address of this machine"
        return f"AE title {self.ae_title}, {where}, port {self.port}"


@dataclass(frozen=True, slots=True)
class CommitmentReport:
    """What a PACS says about safekeeping (storage commitment, PS3.4 J.3.3).

    Attributes:
        transaction_uid: the request that this answers.
        committed: SOP Instance UIDs that the PACS keeps.
        failed: SOP Instance UIDs that it does not, with the Failure Reason (PS3.3 C.14.1.1).
    """

    transaction_uid: str
    committed: frozenset[str] = field(repr=False)
    failed: Mapping[str, int] = field(repr=False)

    @property
    def complete(self) -> bool:
        """Whether everything that was asked about is committed."""
        return not self.failed
