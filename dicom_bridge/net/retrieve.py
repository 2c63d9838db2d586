"""Retrieval of a study: moved series by series, reconciled, only the missing asked for again."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import structlog

from dicom_bridge.errors import AssociationRejected, PeerError, PeerFailure
from dicom_bridge.net.model import InstanceRef, MoveOutcome, MoveWatch, StopSignal, is_transient
from dicom_bridge.net.move import MoveTarget, chunks
from dicom_bridge.net.words import is_permanent_move_failure

_log = structlog.get_logger(__name__)


class Mover(Protocol):
    """What retrieval needs of a PACS; :class:`dicom_bridge.net.client.PacsClient` is one."""

    def move_series(
        self,
        study_uid: str,
        series_uid: str,
        destination_ae: str,
        *,
        watch: MoveWatch | None = None,
    ) -> MoveOutcome:
        """Move one series."""
        ...

    def move_study(
        self, study_uid: str, destination_ae: str, *, watch: MoveWatch | None = None
    ) -> MoveOutcome:
        """Move the study."""
        ...

    def move_instances(
        self, target: MoveTarget, destination_ae: str, *, watch: MoveWatch | None = None
    ) -> MoveOutcome:
        """Move single instances."""
        ...


@dataclass(frozen=True, slots=True)
class RetrievePolicy:
    """How stubbornly a study is retrieved.

    Attributes:
        rounds: how often what is missing is asked for, at least 1.
        settle_s: after a C-MOVE has ended: how long to wait without any arrival for stragglers
            (some PACS answer before they have sent everything).
        first_wait_s: wait before the second round; doubles with each round.
        longest_wait_s: the most that a wait grows to.
        instances_per_request: UIDs in one image-level request.
        stop: set to give up early; what has arrived stays.
        sleep: how to wait; tests pass their own.
    """

    rounds: int = 4
    settle_s: float = 3.0
    first_wait_s: float = 1.0
    longest_wait_s: float = 60.0
    instances_per_request: int = 32
    stop: StopSignal | None = None
    sleep: Callable[[float], None] = time.sleep


@dataclass(frozen=True, slots=True)
class RetrieveReport:
    """What came of a retrieval.

    Attributes:
        expected: SOP Instance UIDs that the PACS listed.
        received: those of them that are in the inbox.
        missing: those that are not.
        rounds: how many rounds it took.
        words: the result in words, with the last cause where something is missing.
    """

    expected: frozenset[str] = field(repr=False)
    received: frozenset[str] = field(repr=False)
    missing: frozenset[str] = field(repr=False)
    rounds: int
    words: str

    @property
    def complete(self) -> bool:
        """Whether everything that the PACS listed has been received."""
        return not self.missing


def retrieve_study(
    client: Mover,
    inbox_received: Callable[[], set[str]],
    study_uid: str,
    destination_ae: str,
    *,
    expected: Sequence[InstanceRef],
    policy: RetrievePolicy | None = None,
) -> RetrieveReport:
    """Retrieve a study until everything listed has arrived or the rounds are used up.

    Safe to call again after a crash: what ``inbox_received`` already holds is not asked for.

    Args:
        client: the PACS.
        inbox_received: SOP Instance UIDs of this study that are durably stored so far.
        study_uid: the study.
        destination_ae: our Storage SCP's AE title as the PACS knows it.
        expected: what the PACS says exists (``PacsClient.find_instances``).
        policy: how often and how long.

    Raises:
        PeerFailure: the PACS refuses for a reason that only a person can change (for example it
            does not know ``destination_ae``).
        AssociationRejected: the PACS refuses us permanently.
    """
    job = _Job(client, inbox_received, study_uid, destination_ae, policy or RetrievePolicy())
    return job.run(expected)


class _Job:
    """One retrieval in progress."""

    def __init__(
        self,
        client: Mover,
        inbox_received: Callable[[], set[str]],
        study_uid: str,
        destination_ae: str,
        policy: RetrievePolicy,
    ) -> None:
        self._client = client
        self._received = inbox_received
        self._study = study_uid
        self._destination = destination_ae
        self._policy = policy
        self._cause = ""
        self._watch = MoveWatch(progress=lambda: len(inbox_received()), stop=policy.stop)

    def run(self, expected: Sequence[InstanceRef]) -> RetrieveReport:
        """Round after round; see :func:`retrieve_study`."""
        wanted = frozenset(ref.SOPInstanceUID for ref in expected)
        rounds = 0
        for rounds in range(1, max(1, self._policy.rounds) + 1):
            if not self._missing(expected):
                rounds -= 1
                break
            if rounds > 1:
                self._wait_before(rounds)
            if self._stopped():
                self._cause = "stopped on request"
                break
            self._round(expected, first=rounds == 1)
        missing = frozenset(ref.SOPInstanceUID for ref in self._missing(expected))
        words = f"{len(wanted) - len(missing)} of {len(wanted)} instances received"
        if missing:
            words += f" after {rounds} rounds; last cause: {self._cause or 'none was given'}"
        _log.info("study_retrieved", expected=len(wanted), missing=len(missing), rounds=rounds)
        return RetrieveReport(wanted, wanted - missing, missing, rounds, words)

    def _missing(self, expected: Sequence[InstanceRef]) -> list[InstanceRef]:
        received = self._received()
        return [ref for ref in expected if ref.SOPInstanceUID not in received]

    def _stopped(self) -> bool:
        return self._policy.stop is not None and self._policy.stop.is_set()

    def _wait_before(self, number: int) -> None:
        wait = self._policy.first_wait_s * 2 ** (number - 2)
        self._policy.sleep(min(wait, self._policy.longest_wait_s))

    def _round(self, expected: Sequence[InstanceRef], *, first: bool) -> None:
        by_series: dict[str, list[InstanceRef]] = {}
        for ref in expected:
            by_series.setdefault(ref.SeriesInstanceUID, []).append(ref)
        for series_uid, refs in by_series.items():
            missing = self._missing(refs)
            if not missing or self._stopped():
                continue
            try:
                if len(missing) == len(refs):
                    self._move_series(series_uid, refs)
                else:
                    self._move_missing(series_uid, missing)
            except PeerError as error:
                if isinstance(error, AssociationRejected) and not is_transient(error):
                    raise
                if isinstance(error, PeerFailure):
                    raise
                self._cause = str(error)
                _log.warning("series_move_failed", cause=type(error).__name__, first=first)

    def _move_series(self, series_uid: str, refs: Sequence[InstanceRef]) -> None:
        outcome = self._client.move_series(
            self._study, series_uid, self._destination, watch=self._watch
        )
        self._judge(outcome)
        if outcome.status == 0xA900:
            outcome = self._client.move_study(self._study, self._destination, watch=self._watch)
            self._judge(outcome)
        self._settle(refs, admitted=outcome.failed)

    def _move_missing(self, series_uid: str, missing: Sequence[InstanceRef]) -> None:
        uids = [ref.SOPInstanceUID for ref in missing]
        admitted = 0
        for part in chunks(uids, max(1, self._policy.instances_per_request)):
            outcome = self._move_part(series_uid, part)
            admitted += outcome.failed
            if not outcome.ok and outcome.completed == 0 and len(part) > 1:
                # Not every PACS takes a list of UIDs in a C-MOVE (PS3.4 C.4.2.2.1).
                for uid in part:
                    if not self._stopped():
                        self._move_part(series_uid, (uid,))
        self._settle(missing, admitted=admitted)

    def _move_part(self, series_uid: str, uids: tuple[str, ...]) -> MoveOutcome:
        target = MoveTarget(self._study, series_uid, uids)
        outcome = self._client.move_instances(target, self._destination, watch=self._watch)
        # A PACS that does not take lists may answer them with any failure: only single ones count.
        self._judge(outcome, final=len(uids) == 1)
        return outcome

    def _judge(self, outcome: MoveOutcome, *, final: bool = True) -> None:
        if not outcome.ok:
            self._cause = outcome.words
        if final and is_permanent_move_failure(outcome.status):
            raise PeerFailure(outcome.words, status=outcome.status)

    def _settle(self, refs: Sequence[InstanceRef], *, admitted: int) -> None:
        """Wait for stragglers as long as something still arrives, but not for admitted failures."""
        step = 0.1
        quiet = 0.0
        before = len(self._missing(refs))
        while before > admitted and quiet < self._policy.settle_s and not self._stopped():
            self._policy.sleep(step)
            now = len(self._missing(refs))
            quiet = 0.0 if now < before else quiet + step
            before = now
