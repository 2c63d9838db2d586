"""The trainer as a process: killed, orphaned, closed, cut off from the network."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from federation.errors import TrainerFailed, TrainerLost
from federation.learning.prepared import Split
from federation.plan import Plan
from federation.trainer.client import Trainer
from federation.trainer.jobs import (
    EvaluateJob,
    InitialiseJob,
    TrainerResources,
    TrainJob,
    job_document,
)
from federation.trainer.serve import Server
from tests.federation.learning.test_trainer_jobs import Bench
from tests.federation.learning.tiny import tiny_plan
from tests.tools import REPOSITORY
from tests.waiting import wait_for

pytestmark = [pytest.mark.integration, pytest.mark.timeout(300)]

PATIENCE = 120.0
"""Seconds in which a process must start even on a machine that does much else."""


def long_plan() -> Plan:
    """A plan of which one round takes long enough to be killed in."""
    return tiny_plan({"training": {"steps_per_round": 200}})


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path, long_plan())


@pytest.fixture
def trainer(tmp_path: Path) -> Iterator[Trainer]:
    with Trainer(tmp_path / "process", TrainerResources()) as started:
        yield started


def gone(pid: int) -> bool:
    """Whether a process has ended (a zombie has)."""
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def kill_in_training(trainer: Trainer) -> int:
    """Kill the trainer after its first steps; returns the process id that it had."""
    wait_for(lambda: trainer.progress(), what="the first step", seconds=PATIENCE)
    pid = trainer.pid
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    return pid


def test_a_killed_trainer_is_restarted_and_repeats_identically(
    bench: Bench, trainer: Trainer, tmp_path: Path
) -> None:
    expected = bench.train(0)
    job = TrainJob(bench.plan, bench.data, bench.weights, 0, tmp_path / "update")
    killed: list[int] = []
    killer = threading.Thread(target=lambda: killed.append(kill_in_training(trainer)))
    killer.start()
    result = trainer.train(job)
    killer.join()
    assert killed
    assert trainer.pid not in (None, killed[0])
    assert (result.sha256, result.loss) == (expected.sha256, expected.loss)
    state = "state/after-000000.safetensors"
    assert (tmp_path / "process" / state).read_bytes() == (
        tmp_path / "trainer" / state
    ).read_bytes()

    pid = trainer.pid
    assert trainer.train(job) == result  # known: not trained again
    assert trainer.pid == pid
    result.update.unlink()
    assert trainer.train(job).sha256 == expected.sha256  # output lost: trained again


@pytest.mark.long
def test_a_new_client_goes_on_where_the_old_one_was_killed(bench: Bench, tmp_path: Path) -> None:
    first = bench.train(0)
    second = bench.train(1, first.update)
    folder = tmp_path / "process"
    with Trainer(folder, TrainerResources()) as trainer:
        trainer.train(TrainJob(bench.plan, bench.data, bench.weights, 0, tmp_path / "a"))
    job = TrainJob(bench.plan, bench.data, tmp_path / "a", 1, tmp_path / "b")
    (folder / "inbox" / "000777.json").write_text("{}")
    with Trainer(folder, TrainerResources()) as trainer:
        assert not (folder / "inbox" / "000777.json").exists()
        assert trainer.train(job).sha256 == second.sha256


def test_the_process_leaves_the_network_or_says_why(trainer: Trainer) -> None:
    found = wait_for(lambda: trainer.isolation(), what="the process's record", seconds=PATIENCE)
    assert found["pid"] == trainer.pid
    assert found["dies_with_parent"] is True
    mine = os.readlink("/proc/self/ns/net")
    its = os.readlink(f"/proc/{trainer.pid}/ns/net")
    if found["network"] == "isolated":
        assert its != mine
        assert found["interfaces"] == []
    else:
        assert its == mine
        assert "refused" in found["reason"]


def test_the_process_inherits_no_secret(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLINODE_VAULT_KEY", "planted-secret")
    with Trainer(tmp_path, TrainerResources(threads=1)) as trainer:
        # Once the record is there, so is the program: before its exec(2) the file may be empty.
        found = wait_for(lambda: trainer.isolation(), what="the process's record", seconds=PATIENCE)
        environment = Path(f"/proc/{trainer.pid}/environ").read_bytes()
    assert b"planted-secret" not in environment
    assert b"OMP_NUM_THREADS=1" in environment
    assert found["threads"] == 1


def test_errors_of_a_job_reach_the_caller_and_the_process_lives(
    bench: Bench, trainer: Trainer, tmp_path: Path
) -> None:
    weights = tmp_path / "not-weights"
    weights.write_bytes(b"x")
    with pytest.raises(TrainerFailed, match="weights file cannot be read"):
        trainer.evaluate(EvaluateJob(bench.plan, bench.data, weights, Split.TEST))
    assert trainer.initialise(InitialiseJob(bench.plan, tmp_path / "w")).weights.is_file()


def test_closing_ends_a_waiting_job(trainer: Trainer, tmp_path: Path) -> None:
    # So long that no machine has finished it when the trainer is closed.
    bench = Bench(tmp_path / "endless", tiny_plan({"training": {"steps_per_round": 5000}}))
    job = TrainJob(bench.plan, bench.data, bench.weights, 0, tmp_path / "update")
    failures: list[Exception] = []

    def wait() -> None:
        try:
            trainer.train(job)
        except TrainerLost as error:
            failures.append(error)

    waiting = threading.Thread(target=wait)
    waiting.start()
    wait_for(lambda: trainer.progress(), what="the first step", seconds=PATIENCE)
    pid = trainer.pid
    trainer.close()
    waiting.join(PATIENCE)
    assert not waiting.is_alive()
    assert "closed" in str(failures[0])
    assert pid is not None
    assert gone(pid)


def test_a_process_that_cannot_live_is_given_up(tmp_path: Path) -> None:
    with (
        Trainer(tmp_path, TrainerResources(threads=0)) as trainer,
        pytest.raises(TrainerLost, match="died 4 times"),
    ):
        trainer.initialise(InitialiseJob(tiny_plan(), tmp_path / "w"))
    assert "--threads" in (tmp_path / "trainer.log").read_text()


def test_a_job_needs_a_started_trainer(tmp_path: Path) -> None:
    trainer = Trainer(tmp_path, TrainerResources())
    trainer.start()
    trainer.close()
    assert trainer.pid is None
    with pytest.raises(TrainerLost, match="closed"):
        trainer.initialise(InitialiseJob(tiny_plan(), tmp_path / "w"))


NODE = """
import sys, threading
from pathlib import Path
from federation.trainer.client import Trainer
from federation.trainer.jobs import TrainerResources
from tests.waiting import wait_for
trainer = Trainer(Path(sys.argv[1]), TrainerResources())
threading.Thread(target=trainer.start).start()
wait_for(trainer.isolation, what="the trainer's record", seconds=120)
print(trainer.pid, flush=True)
sys.stdin.read()
"""


def test_the_trainer_outlives_the_thread_that_started_it_but_not_the_node(tmp_path: Path) -> None:
    node = subprocess.Popen(
        [sys.executable, "-c", NODE, str(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=REPOSITORY,
    )
    with node:
        assert node.stdout is not None
        pid = int(node.stdout.readline())
        assert not gone(pid)
        node.kill()
    wait_for(lambda: gone(pid), what="the trainer's end", seconds=PATIENCE)


def test_old_job_files_are_forgotten(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("federation.trainer.client.KEPT_JOBS", 2)  # edge: a limit, not a behaviour
    with Trainer(tmp_path, TrainerResources()) as trainer:
        for seed in range(4):
            plan = tiny_plan({"seed": seed})
            trainer.initialise(InitialiseJob(plan, tmp_path / f"w{seed}"))
    names = ["000003.json", "000004.json"]
    assert sorted(path.name for path in (tmp_path / "inbox").iterdir()) == names
    assert sorted(path.name for path in (tmp_path / "outbox").iterdir()) == names
    assert Server(tmp_path).pending() == []
    assert job_document(InitialiseJob(tiny_plan(), tmp_path))["kind"] == "initialise"
