"""The runner: renames, retries, refusals, withdrawals, dead workers, dead nodes."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import psutil
import pytest

from appliance.errors import ApplianceError
from appliance.home import Home, create_keys
from appliance.pipeline.pool import WorkerDied, WorkerPool
from appliance.pipeline.runner import Runner, StageFunction, StageTable, back_off_s
from appliance.pipeline.states import ARROWS, Event, Point, Stage, StageEvent, State, kill_points
from appliance.pipeline.work import RECEIVED, STAGES, StageResult, StageWork
from appliance.settings import RetrySection, Settings, settings_from
from appliance.store import NewStudy, NodeState, Outcome
from tests.appliance.core import stage_samples as samples
from tests.appliance.core.values import Clock
from tests.waiting import wait_for

KEY = "st000000000001"
WORKER = tuple(arrow.stage for arrow in ARROWS if arrow.worker)


class Bench:
    """A node's home with one received study and a runner over it."""

    def __init__(self, root: Path, pool: WorkerPool) -> None:
        self.home = Home(root, "p")
        self.home.create()
        create_keys(self.home)
        self.settings: Settings = settings_from(
            {"node": {"site": "a", "project": "p"}, "retry": {"attempts": 3, "first_wait_s": 10}}
        )
        self.clock = Clock()
        self.pool = pool
        self.events: list[StageEvent] = []
        self.state = NodeState(self.home.state_file, clock=self.clock)
        if self.state.studies.add(NewStudy(KEY, "pt1", "s", "v", "main")):
            for stage in (Stage.REQUEST, Stage.RECEIVE):
                claim = self.state.studies.claim_study(KEY, stage)
                assert claim is not None
                self.state.studies.finish(claim, Outcome(), seconds=0.0)
            spool = self.folder / RECEIVED
            spool.mkdir(parents=True)
            (spool / "1.dcm").write_bytes(b"x")

    @property
    def folder(self) -> Path:
        return self.home.study(KEY)

    def runner(
        self,
        run: dict[Stage, StageFunction] | None = None,
        *,
        settle: Callable[[StageWork, StageResult], None] | None = None,
    ) -> Runner:
        table = StageTable(
            run={**dict.fromkeys(WORKER, samples.write_mark), **(run or {})},
            settle={} if settle is None else {Stage.CONVERT: settle},
        )
        return Runner(
            self.state, self.home, self.settings, self.pool, table, observer=self.events.append
        )

    def row_state(self) -> State:
        return self.state.studies.get(KEY).state


@pytest.fixture(scope="module")
def pool() -> Iterator[WorkerPool]:
    made = WorkerPool(workers=1, threads=3)
    yield made
    made.close()


@pytest.fixture
def bench(tmp_path: Path, pool: WorkerPool) -> Iterator[Bench]:
    made = Bench(tmp_path, pool)
    yield made
    made.state.close()


def test_a_study_runs_to_ready_and_the_spool_is_emptied(bench: Bench) -> None:
    assert bench.runner().step()
    assert bench.row_state() is State.READY
    assert not bench.folder.exists()
    points = [(event.stage, event.point) for event in bench.events]
    assert points == [(stage, point) for stage in WORKER for point in Point]
    facts = bench.state.studies.get(KEY).facts
    assert set(facts) == {stage.value for stage in WORKER}


def test_nothing_to_do(bench: Bench) -> None:
    bench.runner().step()
    assert not bench.runner().step()


@pytest.mark.parametrize(
    ("function", "words"),
    [(samples.refuse, "a slice is missing"), (samples.refuse_image, "no brain")],
)
def test_unusable_data_is_quarantined_with_the_reason(
    bench: Bench, function: StageFunction, words: str
) -> None:
    bench.runner({Stage.CONVERT: function}).step()
    row = bench.state.studies.get(KEY)
    assert (row.state, row.stage) == (State.QUARANTINED, Stage.CONVERT)
    assert words in row.reason
    assert (bench.folder / RECEIVED / "1.dcm").exists(), "a person may want to look"
    assert not list((bench.folder / STAGES).glob("*.tmp"))
    bench.state.studies.apply(KEY, Event.RETRY)
    bench.runner().step()
    assert bench.row_state() is State.READY


def test_a_refusal_may_keep_its_report(bench: Bench) -> None:
    bench.runner({Stage.CHECK: samples.refuse_with_files}).step()
    row = bench.state.studies.get(KEY)
    assert (row.state, row.reason) == (State.QUARANTINED, "quality: motion")
    assert (bench.folder / STAGES / "check" / samples.MARK).read_text() == "report"
    assert not (bench.folder / RECEIVED).exists(), "the spool is emptied after conversion"
    bench.state.studies.apply(KEY, Event.RELEASE)
    bench.runner().step()
    assert bench.row_state() is State.READY


def test_a_foreign_error_is_repeated_and_its_text_is_not_kept(bench: Bench) -> None:
    runner = bench.runner({Stage.CONVERT: samples.fail_with_identifier})
    for attempt in (1, 2):
        runner.step()
        row = bench.state.studies.get(KEY)
        assert (row.state, row.attempt) == (State.FAILED, attempt)
        assert not runner.step(), "the back-off has not passed"
        bench.clock.now += timedelta(seconds=10 * 2 ** (attempt - 1))
    runner.step()
    row = bench.state.studies.get(KEY)
    assert row.state is State.QUARANTINED
    assert "3 times" in row.reason
    assert "ValueError" in row.reason
    for run in bench.state.studies.runs(KEY):
        assert "DOE" not in run.detail
    assert "DOE" not in row.reason


def test_a_failing_stage_succeeds_later(bench: Bench) -> None:
    runner = bench.runner({Stage.DEFACE: samples.fail_twice})
    for _ in range(3):
        runner.step()
        bench.clock.now += timedelta(hours=1)
    assert bench.row_state() is State.READY


def test_a_killed_worker_costs_one_attempt(bench: Bench) -> None:
    runner = bench.runner({Stage.REGISTER: samples.die})
    runner.step()
    row = bench.state.studies.get(KEY)
    assert row.state is State.FAILED
    assert "worker process ended" in row.reason
    bench.clock.now += timedelta(hours=1)
    runner.step()
    assert bench.row_state() is State.READY


def test_an_error_while_settling_is_the_stages_failure(bench: Bench) -> None:
    def broken(work: StageWork, result: StageResult) -> None:
        raise ApplianceError("the vault is locked")

    bench.runner(settle=broken).step()
    row = bench.state.studies.get(KEY)
    assert (row.state, row.reason) == (State.FAILED, "the vault is locked")
    assert not (bench.folder / STAGES / "convert").exists()


def test_a_study_withdrawn_in_the_middle_leaves_nothing(bench: Bench) -> None:
    def withdraw(event: StageEvent) -> None:
        if (event.stage, event.point) == (Stage.DEFACE, Point.CLAIMED):
            bench.state.studies.apply(KEY, Event.WITHDRAW, reason="asked")

    table = StageTable(run=dict.fromkeys(WORKER, samples.write_mark))
    Runner(bench.state, bench.home, bench.settings, bench.pool, table, observer=withdraw).step()
    assert bench.row_state() is State.WITHDRAWN
    assert not bench.folder.exists()


def test_recovery_removes_leftovers(bench: Bench) -> None:
    claim = bench.state.studies.claim((Stage.CLASSIFY,))
    assert claim is not None
    leftover = bench.folder / STAGES / f"classify-{claim.token}.tmp"
    leftover.mkdir(parents=True)
    runner = bench.runner()
    assert not runner.step(), "claimed by a process that is gone"
    runner.recover()
    assert not leftover.exists()
    runner.step()
    assert bench.row_state() is State.READY


@pytest.mark.parametrize("first", [1.0, 5.0])
def test_back_off_grows_to_its_limit(first: float) -> None:
    policy = RetrySection(first_wait_s=first, longest_wait_s=100.0)
    waits = [back_off_s(attempt, policy) for attempt in range(1, 200)]
    assert waits[0] == first
    assert waits == sorted(waits)
    assert waits[-1] == 100.0


def test_workers_get_their_threads(pool: WorkerPool) -> None:
    assert pool.call(samples.environment, "OMP_NUM_THREADS") == "3"


def test_a_call_that_fails_is_an_error_in_words(pool: WorkerPool) -> None:
    with pytest.raises(ApplianceError, match="not enough memory"):
        pool.call(samples.too_much_memory)


def test_closing_ends_running_workers(tmp_path: Path) -> None:
    made = WorkerPool(workers=1, threads=1)
    future = made.submit(samples.touch_and_hang, tmp_path / "pid")
    path = tmp_path / "pid"
    wait_for(lambda: text_of(path), what="the worker's job")
    made.close()
    assert future.cancelled() or future.exception() is not None
    assert made.submit(samples.environment, "PATH").cancelled()


def test_a_worker_that_is_killed_is_told(tmp_path: Path) -> None:
    made = WorkerPool(workers=1, threads=1)
    future = made.submit(samples.touch_and_hang, tmp_path / "pid")
    path = tmp_path / "pid"
    pid = wait_for(lambda: text_of(path), what="the worker's job")
    os.kill(int(pid), signal.SIGKILL)
    assert isinstance(future.exception(timeout=30), WorkerDied)
    assert made.call(samples.environment, "OMP_NUM_THREADS") == "1", "a new worker goes on"
    made.close()


def text_of(path: Path) -> str:
    """A file's text, empty while it is absent."""
    return path.read_text(encoding="utf-8") if path.exists() else ""


def run_until(root: Path, stage: str, point: str) -> None:
    """A node's pipeline that is killed at one instant; runs in a process of its own."""
    bench = Bench(root, WorkerPool(workers=1, threads=1))

    def kill(event: StageEvent) -> None:
        if (event.stage.value, event.point.value) == (stage, point):
            os.kill(os.getpid(), signal.SIGKILL)

    table = StageTable(run=dict.fromkeys(WORKER, samples.write_mark))
    runner = Runner(bench.state, bench.home, bench.settings, bench.pool, table, observer=kill)
    runner.recover()
    runner.step()


@pytest.mark.integration
@pytest.mark.parametrize(
    ("stage", "point"),
    [
        # one stage at every instant, the others at every instant in `make test-long`
        pytest.param(*point, marks=() if point[0] is Stage.CONVERT else pytest.mark.long)
        for point in kill_points()
        if point[0] in WORKER
    ],
)
def test_kill_at_any_instant_loses_nothing(
    tmp_path: Path, pool: WorkerPool, stage: Stage, point: Point
) -> None:
    context = multiprocessing.get_context("spawn")
    process = context.Process(target=run_until, args=(tmp_path, stage.value, point.value))
    process.start()
    process.join(60)
    assert process.exitcode == -signal.SIGKILL
    bench = Bench(tmp_path, pool)
    try:
        runner = bench.runner()
        runner.recover()
        runner.step()
        assert bench.row_state() is State.READY
        assert not bench.folder.exists()
        runs = bench.state.studies.runs(KEY)
        done = [run.stage for run in runs if run.outcome == "done"]
        assert done == [arrow.stage for arrow in ARROWS], "each stage is done exactly once"
        assert sum(run.outcome == "interrupted" for run in runs) <= 1
    finally:
        bench.state.close()


@pytest.mark.integration
def test_workers_die_with_a_killed_node(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    process = context.Process(target=hang, args=(tmp_path,))
    process.start()
    path = tmp_path / "pid"
    pid = int(wait_for(lambda: text_of(path), what="the worker's job"))
    process.kill()
    process.join(30)
    wait_for(lambda: not psutil.pid_exists(pid) or _gone(pid), what="the worker's end")


def _gone(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def hang(folder: Path) -> None:
    """A node with a worker that never ends."""
    pool = WorkerPool(workers=1, threads=1)
    pool.submit(samples.touch_and_hang, folder / "pid").result()


def test_stage_work_names_its_folders(tmp_path: Path, bench: Bench) -> None:
    work = StageWork(
        Stage.CHECK, KEY, bench.home, tmp_path, tmp_path / "out", bench.settings, "a", "b"
    )
    assert work.case == "sub-a_ses-b"
    assert work.of(Stage.DEFACE) == tmp_path / STAGES / "deface"
    assert replace(work, qc_released=True).qc_released
