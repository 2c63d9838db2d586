"""Retrieval of a study: moved series by series, reconciled, only the missing asked for again."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from typing import Protocol

import structlog

from dicom_bridge.errors import AssociationRejected, PeerError, PeerFailure
from dicom_bridge.net.model import InstanceRef, MoveOutcome, MoveWatch, StopSignal, is_transient
from dicom_bridge.net.move import MoveTarget, chunks
from dicom_bridge.net.pace import Meter, Pace
from dicom_bridge.net.words import is_permanent_move_failure

_LEVEL_REFUSED = 0xA900
_LONGEST_PAUSE_S = 1.0
_TRIED = frozenset({0xA701, 0xA702, 0xB000, 0xFE00})
"""Failures of a request that was understood."""

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
class Traffic:
    """What one PACS bears.

    Attributes:
        pace: when and how fast it may be asked.
        associations: how many series may be moved at once, at least 1.
        monotonic: a clock in seconds for the rate; tests pass their own.
    """

    pace: Pace = field(default_factory=Pace)
    associations: int = 1
    monotonic: Callable[[], float] = time.monotonic


@dataclass(frozen=True, slots=True)
class RetrieveReport:
    """What came of a retrieval.

    Attributes:
        expected: SOP Instance UIDs that the PACS listed.
        received: those of them that are in the inbox.
        missing: those that are not.
        rounds: how many rounds it took.
        words: the result in words, with the last cause where something is missing.
        resume_at: where a time window closed before the end: when to go on; None otherwise.
    """

    expected: frozenset[str] = field(repr=False)
    received: frozenset[str] = field(repr=False)
    missing: frozenset[str] = field(repr=False)
    rounds: int
    words: str
    resume_at: datetime | None = None

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
    traffic: Traffic | None = None,
) -> RetrieveReport:
    """Retrieve a study until everything listed has arrived or the rounds are used up.

    Safe to call again after a crash: what ``inbox_received`` already holds is not asked for.

    Args:
        client: the PACS.
        inbox_received: SOP Instance UIDs of this study that are durably stored so far; called from
            several threads where ``traffic`` allows several associations.
        study_uid: the study.
        destination_ae: our Storage SCP's AE title as the PACS knows it.
        expected: what the PACS says exists (``PacsClient.find_instances``).
        policy: how often and how long.
        traffic: when, how fast and on how many associations; by default at once, on one.

    Raises:
        PeerFailure: the PACS refuses for a reason that only a person can change (for example it
            does not know ``destination_ae``).
        AssociationRejected: the PACS refuses us permanently.
        DataRefused: our own disk is full.
    """
    job = _Job(
        client,
        inbox_received,
        study_uid,
        destination_ae,
        policy or RetrievePolicy(),
        traffic or Traffic(),
    )
    return job.run(expected)


class _Halt:
    """Set when retrieval must end: on request, at the end of a window, or after an error.

    C-MOVE and C-GET in progress look at it, so that they are cancelled.
    """

    def __init__(self, stop: StopSignal | None, pace: Pace) -> None:
        self._stop = stop
        self._pace = pace
        self.failed = threading.Event()

    @property
    def asked(self) -> bool:
        """Whether the caller asked for it."""
        return self._stop is not None and self._stop.is_set()

    @property
    def closed(self) -> bool:
        """Whether no window is open."""
        return not self._pace.is_open()

    def is_set(self) -> bool:
        """Whether to end."""
        return self.failed.is_set() or self.asked or self.closed


class _Job:
    """One retrieval in progress."""

    def __init__(
        self,
        client: Mover,
        inbox_received: Callable[[], set[str]],
        study_uid: str,
        destination_ae: str,
        policy: RetrievePolicy,
        traffic: Traffic,
    ) -> None:
        self._client = client
        self._received = inbox_received
        self._study = study_uid
        self._destination = destination_ae
        self._policy = policy
        self._traffic = traffic
        self._cause = ""
        self._takes_lists = True
        self._takes_images = True
        self._whole_study = threading.Lock()
        self._halt = _Halt(policy.stop, traffic.pace)
        self._meter = Meter(traffic.pace.per_second, traffic.monotonic)
        self._watch = MoveWatch(progress=lambda: len(inbox_received()), stop=self._halt)

    def run(self, expected: Sequence[InstanceRef]) -> RetrieveReport:
        """Round after round; see :func:`retrieve_study`."""
        wanted = frozenset(ref.SOPInstanceUID for ref in expected)
        rounds = 0
        for rounds in range(1, max(1, self._policy.rounds) + 1):
            if not self._missing(expected):
                rounds -= 1
                break
            if rounds > 1 and not self._halt.is_set():
                self._wait_before(rounds)
            if self._halt.is_set():
                rounds -= 1
                break
            self._round(expected, first=rounds == 1)
        missing = frozenset(ref.SOPInstanceUID for ref in self._missing(expected))
        report = self._report(wanted, missing, rounds)
        _log.info("study_retrieved", expected=len(wanted), missing=len(missing), rounds=rounds)
        return report

    def _report(
        self, wanted: frozenset[str], missing: frozenset[str], rounds: int
    ) -> RetrieveReport:
        resume_at: datetime | None = None
        words = f"{len(wanted) - len(missing)} of {len(wanted)} instances received"
        if missing and self._halt.asked:
            words += f" after {rounds} rounds; stopped on request"
        elif missing and self._halt.closed:
            resume_at = self._traffic.pace.resumes()
            when = "and opens no more" if resume_at is None else f"until {resume_at:%Y-%m-%d %H:%M}"
            words += f"; the time window of the PACS is closed {when} UTC"
        elif missing:
            words += f" after {rounds} rounds; last cause: {self._cause or 'none was given'}"
        return RetrieveReport(wanted, wanted - missing, missing, rounds, words, resume_at)

    def _missing(self, expected: Sequence[InstanceRef]) -> list[InstanceRef]:
        received = self._received()
        return [ref for ref in expected if ref.SOPInstanceUID not in received]

    def _wait_before(self, number: int) -> None:
        wait = self._policy.first_wait_s * 2 ** (number - 2)
        self._policy.sleep(min(wait, self._policy.longest_wait_s))

    def _round(self, expected: Sequence[InstanceRef], *, first: bool) -> None:
        by_series: dict[str, list[InstanceRef]] = {}
        for ref in expected:
            by_series.setdefault(ref.SeriesInstanceUID, []).append(ref)
        workers = min(max(1, self._traffic.associations), len(by_series))
        if workers == 1:
            for series_uid, refs in by_series.items():
                self._series(series_uid, refs, first=first)
            return
        with ThreadPoolExecutor(workers, thread_name_prefix="retrieve") as pool:
            jobs = [
                pool.submit(self._series, series_uid, refs, first=first)
                for series_uid, refs in by_series.items()
            ]
            for job in as_completed(jobs):
                if job.exception() is not None:
                    # The other series end early too: what is wrong is wrong for all of them.
                    self._halt.failed.set()
        for job in jobs:
            job.result()

    def _series(
        self,
        series_uid: str,
        refs: list[InstanceRef],
        *,
        first: bool,
    ) -> None:
        """What is missing of one series."""
        missing = self._missing(refs)
        if not missing or self._halt.is_set():
            return
        try:
            chunk = self._traffic.pace.chunk(len(refs))
            if len(missing) == len(refs) and (chunk >= len(refs) or not self._takes_images):
                self._paced(refs, partial(self._move_series, series_uid, refs))
            else:
                self._move_missing(series_uid, missing)
        except PeerError as error:
            if isinstance(error, AssociationRejected) and not is_transient(error):
                raise
            if isinstance(error, PeerFailure):
                raise
            self._cause = str(error)
            _log.warning("series_move_failed", cause=type(error).__name__, first=first)

    def _paced(self, refs: Sequence[InstanceRef], request: Callable[[], None]) -> None:
        """Make a request, then wait for as long as what it brought takes at the PACS's rate."""
        if self._traffic.pace.per_second is None:
            request()
            return
        before = len(self._missing(refs))
        self._meter.started()
        try:
            request()
        finally:
            left = self._meter.pay(before - len(self._missing(refs)))
            while left > 0 and not self._halt.is_set():
                step = min(left, _LONGEST_PAUSE_S)
                self._policy.sleep(step)
                left -= step

    def _move_series(self, series_uid: str, refs: Sequence[InstanceRef]) -> None:
        outcome = self._client.move_series(
            self._study, series_uid, self._destination, watch=self._watch
        )
        self._judge(outcome)
        if outcome.status == _LEVEL_REFUSED:
            with self._whole_study:
                if not self._missing(refs):
                    return
                outcome = self._client.move_study(self._study, self._destination, watch=self._watch)
                self._judge(outcome)
        self._settle(refs, admitted=outcome.failed)

    def _move_missing(self, series_uid: str, refs: Sequence[InstanceRef]) -> None:
        """Single instances; the whole series where the PACS does not move single ones."""
        most = self._policy.instances_per_request if self._takes_lists else 1
        size = self._traffic.pace.chunk(max(1, most))
        uids = [ref.SOPInstanceUID for ref in refs]
        for part in chunks(uids, size):
            if self._halt.is_set():
                return
            if self._takes_images:
                wanted = [ref for ref in refs if ref.SOPInstanceUID in part]
                self._paced(wanted, partial(self._move_listed, series_uid, wanted))
        if not self._takes_images:
            self._paced(refs, partial(self._move_series, series_uid, refs))

    def _move_listed(self, series_uid: str, refs: Sequence[InstanceRef]) -> None:
        uids = tuple(ref.SOPInstanceUID for ref in refs)
        outcome = self._move_part(series_uid, uids)
        admitted = outcome.failed
        if len(uids) > 1 and _refuses_list(outcome) and self._missing(refs):
            self._takes_lists = False
            admitted = 0
            for uid in uids:
                if self._takes_images and not self._halt.is_set():
                    admitted += self._move_part(series_uid, (uid,)).failed
        self._settle(refs, admitted=admitted)

    def _move_part(self, series_uid: str, uids: tuple[str, ...]) -> MoveOutcome:
        target = MoveTarget(self._study, series_uid, uids)
        outcome = self._client.move_instances(target, self._destination, watch=self._watch)
        # A PACS that does not take lists may answer them with any failure: only single ones count.
        single = len(uids) == 1
        if single and outcome.status == _LEVEL_REFUSED:
            self._takes_images = False
        self._judge(outcome, final=single)
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
        while before > admitted and quiet < self._policy.settle_s and not self._halt.is_set():
            self._policy.sleep(step)
            now = len(self._missing(refs))
            quiet = 0.0 if now < before else quiet + step
            before = now


def _refuses_list(outcome: MoveOutcome) -> bool:
    """Whether a PACS may have refused a list of UIDs as such (PS3.4 C.4.2.2.1): not every does."""
    return not outcome.ok and outcome.completed == 0 and outcome.status not in _TRIED
