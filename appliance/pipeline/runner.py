"""Moves studies along: claims a stage, has a worker do it, renames, commits.

Order of one stage, and the point at which the observer is told:

1. one transaction claims the study                                   ``claimed``
2. a worker writes into a temporary folder                            ``written``
3. what the stage settles outside is settled (vault, research zone), the folder gets its name
                                                                      ``renamed``
4. one transaction moves the study on                                 ``committed``

A process killed between any two of these repeats at most this one stage: `recover` gives up the
claims of the dead process and removes temporary folders; every step may be done twice.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import CancelledError, Future
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path

import structlog

from appliance.errors import ApplianceError
from appliance.home import Home, remove_tree, sync_folder
from appliance.pipeline.pool import WorkerDied, WorkerPool
from appliance.pipeline.states import ARROWS, Event, Point, Stage, StageEvent, State, reached
from appliance.pipeline.work import (
    RECEIVED,
    STAGES,
    TEMPORARY,
    StageResult,
    StageWork,
    no_marks,
)
from appliance.pipeline.worker import Answer
from appliance.settings import RetrySection, Settings
from appliance.store import Claim, NodeState, Outcome
from dicom_bridge.errors import DicomBridgeError
from dicom_bridge.seg.expert import OwnMarks

_log = structlog.get_logger(__name__)

StageFunction = Callable[[StageWork], StageResult]
SettleFunction = Callable[[StageWork, StageResult], None]
Observer = Callable[[StageEvent], None]


def back_off_s(attempt: int, policy: RetrySection) -> float:
    """Seconds to wait after failed attempt number `attempt` (1, 2, ...): doubling, bounded.

    Examples:
        >>> policy = RetrySection(first_wait_s=5.0, longest_wait_s=60.0)
        >>> [back_off_s(attempt, policy) for attempt in (1, 2, 3, 9)]
        [5.0, 10.0, 20.0, 60.0]
    """
    return min(policy.first_wait_s * 2.0 ** min(attempt - 1, 60), policy.longest_wait_s)


@dataclass(frozen=True, slots=True)
class StageTable:
    """The functions of the stages.

    Attributes:
        run: per stage the function that a worker process calls (module level, picklable).
        settle: per stage what the node itself does with the result before the folder gets its
            name; may be done twice.
        done: called after the commit with the study's key and the stage.
    """

    run: Mapping[Stage, StageFunction]
    settle: Mapping[Stage, SettleFunction] = field(default_factory=dict)
    done: Callable[[str, Stage], None] = lambda _key, _stage: None


@dataclass(slots=True)
class _Running:
    claim: Claim
    work: StageWork
    started: float


class Runner:
    """The loop that keeps the worker processes busy.

    Args:
        state: the node's state.
        home: the node home.
        settings: the node's settings.
        pool: the worker processes.
        table: what each stage does.
        observer: told at each point of each stage (kill tests).

    Attributes:
        settling: held while a finished stage is settled and committed; who erases a study takes it,
            so that nothing of the study appears afterwards.
    """

    def __init__(
        self,
        state: NodeState,
        home: Home,
        settings: Settings,
        pool: WorkerPool,
        table: StageTable,
        *,
        observer: Observer = lambda _event: None,
        own: Callable[[str], OwnMarks] = no_marks,
    ) -> None:
        self._state = state
        self._own = own
        self._home = home
        self._settings = settings
        self._pool = pool
        self._table = table
        self._observer = observer
        self._wake = threading.Event()
        self.settling = threading.RLock()
        self._stages = tuple(a.stage for a in ARROWS if a.worker and a.stage in table.run)
        self._running: dict[Future[Answer], _Running] = {}

    def wake(self) -> None:
        """Look for work now."""
        self._wake.set()

    def recover(self) -> None:
        """Give up the claims of a dead process and remove what it left half done."""
        for study in self._state.studies.recover():
            _log.info("stage_interrupted", study=study.study_key, state=str(study.state))
        for folder in self._home.studies.iterdir():
            for leftover in (folder / STAGES).glob(f"*{TEMPORARY}"):
                remove_tree(leftover)
            known = self._state.studies.find(folder.name)
            if known is None:
                remove_tree(folder)
            else:
                self.tidy(folder, known.state, known.stage)

    def tidy(self, folder: Path, state: State, stage: Stage | None) -> None:
        """Remove what a study in this state no longer needs: spool, then the whole folder."""
        if state in (State.READY, State.WITHDRAWN):
            remove_tree(folder)
        elif reached(state, State.CONVERTED, stage=stage):
            remove_tree(folder / RECEIVED)

    def run(self, stop: threading.Event) -> None:
        """Work until `stop` is set; then running stages are given up (they will be repeated)."""
        while not stop.is_set():
            self._wake.clear()
            self._fill()
            self._wake.wait(timeout=self._patience())
            self._collect()

    def step(self, *, timeout_s: float = 600.0) -> bool:
        """Do all stages that can be done now, then return; False where there was nothing to do.

        Raises:
            TimeoutError: a stage took longer than `timeout_s`.
        """
        worked = False
        while True:
            self._wake.clear()
            self._fill()
            if not self._running:
                return worked
            worked = True
            if not self._wake.wait(timeout=timeout_s):
                raise TimeoutError("a stage did not end in time")
            self._collect()

    def _patience(self) -> float:
        """Seconds until a study whose back-off passes may be looked for; at most 5."""
        due = self._state.studies.next_due()
        if due is None:
            return 5.0
        return min(5.0, max(0.05, (due - self._state.clock()).total_seconds()))

    def _fill(self) -> None:
        while len(self._running) < self._pool.workers:
            claim = self._state.studies.claim(self._stages)
            if claim is None:
                return
            self._begin(claim)

    def _begin(self, claim: Claim) -> None:
        study = claim.study
        study_dir = self._home.study(study.study_key)
        out = study_dir / STAGES / f"{claim.stage.value}-{claim.token}{TEMPORARY}"
        out.mkdir(parents=True, mode=0o700)
        work = StageWork(
            stage=claim.stage,
            study_key=study.study_key,
            home=self._home,
            study_dir=study_dir,
            out=out,
            settings=self._settings,
            subject=study.subject,
            session=study.session,
            qc_released=study.qc_released,
            threads=self._settings.resources.threads,
            version=study.version,
            facts=dict(study.facts),
            own=self._own(study.study_key),
        )
        self._tell(claim, Point.CLAIMED)
        future = self._pool.submit(self._table.run[claim.stage], work)
        self._running[future] = _Running(claim, work, time.monotonic())
        future.add_done_callback(lambda _future: self._wake.set())

    def _collect(self) -> None:
        for future in [future for future in self._running if future.done()]:
            running = self._running.pop(future)
            try:
                answer = future.result()
            except CancelledError:
                continue
            except WorkerDied as error:
                answer = Answer(failed=str(error))
            self._end(running, answer)

    def _end(self, running: _Running, answer: Answer) -> None:
        claim, work = running.claim, running.work
        with self.settling:
            if not self._state.studies.holds(claim):
                remove_tree(work.out)
                study = self._state.studies.find(claim.study.study_key)
                state = State.WITHDRAWN if study is None else study.state
                self.tidy(work.study_dir, state, None if study is None else study.stage)
                return
            if answer.refused is None and answer.failed is None:
                answer = self._settle(running, answer)
            if answer.refused is not None or answer.failed is not None:
                remove_tree(work.out)
                self._stopped(claim, answer)
        self._table.done(claim.study.study_key, claim.stage)

    def _settle(self, running: _Running, answer: Answer) -> Answer:
        """Rename and commit; an error of the disk or the vault is the stage's failure."""
        claim, work = running.claim, running.work
        result: StageResult = answer.value
        self._tell(claim, Point.WRITTEN)
        try:
            settle = self._table.settle.get(claim.stage)
            if settle is not None:
                settle(work, result)
            final = work.of(claim.stage)
            remove_tree(final)
            work.out.rename(final)
            sync_folder(final.parent)
        except (ApplianceError, DicomBridgeError) as error:
            return Answer(failed=str(error))
        except OSError as error:
            return Answer(failed=f"the disk refused to keep the result ({error.strerror})")
        self._tell(claim, Point.RENAMED)
        if result.refused is not None:
            self._stopped(claim, Answer(refused=result.refused))
            return answer
        seconds = time.monotonic() - running.started
        outcome = Outcome(
            inputs=result.inputs,
            labelled=result.labelled,
            qc_decision=result.qc_decision,
            facts=result.facts,
            detail=result.detail,
        )
        self._state.studies.finish(claim, outcome, seconds=seconds)
        self._tell(claim, Point.COMMITTED)
        key, stage = claim.study.study_key, str(claim.stage)
        _log.info("stage_done", study=key, stage=stage, seconds=round(seconds, 3))
        study = self._state.studies.get(key)
        self.tidy(work.study_dir, study.state, study.stage)
        return answer

    def _stopped(self, claim: Claim, answer: Answer) -> None:
        policy = self._settings.retry
        reason = answer.refused or answer.failed or ""
        last = claim.attempt >= policy.attempts
        if answer.refused is not None or last:
            if answer.refused is None:
                reason = f"{claim.stage} failed {claim.attempt} times: {reason}"
            self._state.studies.stop(claim, Event.REFUSE, reason)
        else:
            wait = timedelta(seconds=back_off_s(claim.attempt, policy))
            moment = self._state.clock() + wait
            self._state.studies.stop(claim, Event.FAIL, reason, not_before=moment)
        _log.warning(
            "stage_stopped",
            study=claim.study.study_key,
            stage=str(claim.stage),
            attempt=claim.attempt,
            refused=answer.refused is not None,
            reason=reason,
            where=answer.where,
        )

    def _tell(self, claim: Claim, point: Point) -> None:
        self._observer(StageEvent(claim.study.study_key, claim.stage, point))
