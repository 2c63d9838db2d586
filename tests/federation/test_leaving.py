"""A custodian's word takes effect at once; several runs; amendments; full disks; clocks.

Sites are doubles with a trainer that trains until it is told how; the coordinator, the wire and the
agents are real.
"""

from __future__ import annotations

import errno
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, cast

import pytest

from federation.clock import utc_now
from federation.coordinator.control_client import CoordinatorClient
from federation.coordinator.process import Coordinator, CoordinatorOptions
from federation.errors import TrainerLost, TransferFailed
from federation.node.agent import AgentOptions, SiteAgent
from federation.node.clock_check import clock_words
from federation.node.connection import CoordinatorConnection, RetryPolicy
from federation.node.site_port import PlanDecision, Stand, Standing
from federation.node.transfer import ChunkCalls, ObjectMover, payload_of
from federation.plan import SignedPlan
from federation.trainer import Trainer, TrainerResources, TrainJob, TrainResult
from federation.wire import federation_pb2 as pb
from tests.federation.doubles import (
    FakeSite,
    Federation,
    NumpyTrainer,
    numpy_initialiser,
    small_plan,
)
from tests.waiting import wait_for

QUICK = 3.0
"""Seconds within which a word takes effect here, on a machine that does much else."""


@dataclass
class Patient:
    """A trainer's double that trains until ``go`` is set or it is closed."""

    go: threading.Event = field(default_factory=threading.Event)
    begun: threading.Event = field(default_factory=threading.Event)
    closed: int = 0

    def factory(self, site: FakeSite) -> Any:  # noqa: ANN401
        """The agent's trainer factory."""
        patient = self

        class Slow(NumpyTrainer):
            def train(self, job: TrainJob) -> TrainResult:
                self._ended = threading.Event()
                patient.begun.set()
                while not patient.go.wait(0.02):
                    if self._ended.is_set():
                        raise TrainerLost("the trainer was closed while a job was waiting")
                with (site.folder / "trainings.log").open("a") as stream:
                    stream.write(f"{job.round + 1}\n")
                return super().train(job)

            def close(self) -> None:
                patient.closed += 1
                if hasattr(self, "_ended"):
                    self._ended.set()

        def make(folder: Path, resources: TrainerResources) -> Trainer:
            made = Slow(folder, resources)
            made.site, made.cases = site.name, site.cases
            return made

        return make


@dataclass
class Pair:
    """Site A trains slowly, site B at once; a round needs one of them."""

    federation: Federation
    slow: FakeSite
    quick: FakeSite
    patient: Patient
    agent: SiteAgent

    def start(self, control: CoordinatorClient, **more: Any) -> str:  # noqa: ANN401
        """Submit a run and wait until A trains."""
        plan = small_plan(2, minimum_sites=1, deadline_s=600, **more)
        run_id = str(control.submit(plan)["run_id"])
        wait_for(self.patient.begun.is_set, what="the training to begin", seconds=60)
        return run_id


def agent_of(federation: Federation, site: FakeSite, options: AgentOptions) -> SiteAgent:
    """An agent in a thread."""
    retry = RetryPolicy(first_s=0.05, longest_s=0.2)
    connection = CoordinatorConnection(federation.enrolled(site.name), retry=retry)
    agent = SiteAgent(connection, site, options)
    federation.run_agent(agent)
    return agent


@pytest.fixture
def pair(federation: Federation) -> Iterator[Pair]:
    slow, quick, patient = federation.site("site-a"), federation.site("site-b"), Patient()
    options = AgentOptions(
        trainers=patient.factory(slow), deferred_poll_s=0.2, look_s=0.1, room_patience_s=0.5
    )
    made = Pair(federation, slow, quick, patient, agent_of(federation, slow, options))
    federation.start(quick)
    yield made
    patient.go.set()


def tasks(site: FakeSite, outcome: str) -> list[str]:
    """Words of a site's reports with one outcome."""
    return [
        str(detail["words"])
        for action, detail in site.records
        if action == "task.reported" and detail["outcome"] == outcome
    ]


def run_over(control: CoordinatorClient, run_id: str) -> dict[str, Any]:
    """The run once it is over."""

    def over() -> dict[str, Any] | None:
        view = control.run(run_id)
        return view if view["state"] in ("finished", "failed", "stopped") else None

    return wait_for(over, what="the run's end", seconds=60)


def part(view: dict[str, Any], site: str) -> dict[str, Any]:
    """A site's line of a run."""
    return next(row for row in view["sites"] if row["site"] == site)


def trainings(site: FakeSite) -> list[str]:
    """Rounds that a site has trained."""
    path = site.folder / "trainings.log"
    return path.read_text().split() if path.exists() else []


def test_leaving_stops_the_trainer_and_the_run_goes_on(
    pair: Pair, control: CoordinatorClient
) -> None:
    run_id = pair.start(control)
    told = time.monotonic()
    pair.slow.left[run_id] = "ethics vote ended"
    pair.agent.wake()
    wait_for(lambda: tasks(pair.slow, "refused"), what="the refusal")
    assert time.monotonic() - told < QUICK
    assert tasks(pair.slow, "refused") == ["the site left: ethics vote ended"]
    wait_for(lambda: run_id in pair.slow.told, what="the word of leaving")
    view = run_over(control, run_id)
    assert view["state"] == "finished"
    assert part(view, "site-a")["state"] == "left"
    assert "ethics vote ended" in part(view, "site-a")["words"]
    assert trainings(pair.slow) == []
    assert trainings(pair.quick) == ["1", "2"]
    assert pair.slow.published == []


def test_a_trained_update_does_not_leave_after_the_word(
    federation: Federation, control: CoordinatorClient
) -> None:
    site, patient = federation.site("site-a"), Patient()
    patient.go.set()
    run: list[str] = []

    def leave_when_worked(point: str) -> None:
        if point == "step:worked:entering" and trainings(site) and run:
            site.left[run[0]] = "changed our mind"

    options = AgentOptions(trainers=patient.factory(site), observer=leave_when_worked)
    agent_of(federation, site, options)
    federation.start(federation.site("site-b"))
    paused = control.submit(small_plan(1, minimum_sites=1))["run_id"]
    run.append(str(paused))
    view = run_over(control, run[0])
    wait_for(lambda: tasks(site, "refused"), what="the refusal")
    done = next(at for at in view["rounds_done"] if at["round"] == 1)
    assert [row["site"] for row in done["sites"] if row.get("cases")] == ["site-b"]
    assert list((site.folder / "runs" / run[0] / "agent" / "out").iterdir()) == []


def test_a_halted_site_refuses_then_takes_part_again(
    pair: Pair, control: CoordinatorClient
) -> None:
    run_id = pair.start(control)
    pair.slow.stand = Standing(Stand.HALTED, "the custodian has halted this site")
    pair.agent.wake()
    wait_for(lambda: tasks(pair.slow, "refused"), what="the refusal")
    wait_for(lambda: control.run(run_id)["round"] >= 2, what="the second round", seconds=60)
    pair.patient.go.set()
    wait_for(
        lambda: pair.slow.records[-1:] and pair.slow.records[-1][0] == "task.waits",
        what="the publication to wait",
    )
    pair.slow.stand = Standing()
    view = run_over(control, run_id)
    assert view["state"] == "finished"
    assert part(view, "site-a")["state"] == "joined"
    assert pair.slow.published == [view["model_id"]]
    assert trainings(pair.slow) == []


def test_a_round_that_cannot_do_without_it_waits_for_a_halted_site(
    federation: Federation, control: CoordinatorClient
) -> None:
    site = federation.site("site-a")
    federation.start(site)
    site.stand = Standing(Stand.HALTED, "the custodian has halted this site")
    run_id = str(control.submit(small_plan(1, minimum_sites=1))["run_id"])
    wait_for(lambda: "task.waits" in [a for a, _ in site.records], what="the offer to wait")
    site.stand = Standing()
    wait_for(lambda: trainings(site), what="training", seconds=60)
    assert run_over(control, run_id)["state"] == "finished"


def test_an_approval_taken_back_ends_the_training(pair: Pair, control: CoordinatorClient) -> None:
    run_id = pair.start(control)
    pair.slow.answer = PlanDecision.rejected("the data set of this plan was revoked")
    pair.agent.wake()
    wait_for(lambda: tasks(pair.slow, "refused"), what="the refusal")
    assert tasks(pair.slow, "refused") == ["the data set of this plan was revoked"]
    assert run_over(control, run_id)["state"] == "finished"
    assert trainings(pair.slow) == []


def test_a_withdrawn_patient_means_training_without_her(
    pair: Pair, control: CoordinatorClient
) -> None:
    run_id = pair.start(control)
    closed = pair.patient.closed
    owed = pair.slow.run_folder(run_id) / "agent" / "owed"
    owed.mkdir()
    (owed / "after-000000.safetensors").touch()
    pair.slow.stand = Standing(withdrawn=1)
    pair.agent.wake()
    wait_for(lambda: pair.patient.closed > closed, what="the trainer to be stopped")
    wait_for(
        lambda: "task.repeated" in [action for action, _ in pair.slow.records],
        what="the training to be done again",
    )
    wait_for(lambda: not owed.exists(), what="what rounding owed to be forgotten")
    assert trainings(pair.slow) == []
    pair.patient.go.set()
    view = run_over(control, run_id)
    assert view["state"] == "finished"
    assert trainings(pair.slow) == ["1", "2"]
    assert [len(at["sites"]) for at in view["rounds_done"][1:]] == [2, 2]


def test_a_node_in_several_runs_serves_them_in_turn(
    federation: Federation, control: CoordinatorClient
) -> None:
    site = federation.site("site-a")
    federation.start(site)
    waits = small_plan(2, minimum_sites=1).model_copy(update={"name": "waits"})
    hashes: list[str] = []
    first = control.submit(waits)
    hashes.append(str(control.run(first["run_id"])["plan_hash"]))
    site.answers[hashes[0]] = PlanDecision.pending()
    plan = small_plan(2, minimum_sites=1)
    named = [plan.model_copy(update={"name": name}) for name in ("b", "c")]
    others = [str(control.submit(each)["run_id"]) for each in named]
    for run_id in others:
        assert run_over(control, run_id)["state"] == "finished"
    assert control.run(first["run_id"])["state"] in ("offered", "submitted", "queued")
    site.answers[hashes[0]] = PlanDecision.approved()
    assert run_over(control, str(first["run_id"]))["state"] == "finished"


def test_a_full_disk_is_waited_out_or_told(
    federation: Federation, control: CoordinatorClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = federation.site("site-a")
    full = threading.Event()
    real = FakeSite.prepare

    def prepare(self: FakeSite, plan_hash: str) -> Path:
        if full.is_set():
            raise OSError(errno.ENOSPC, "No space left on device", "/data/sub-a1/x.nii.gz")
        return real(self, plan_hash)

    monkeypatch.setattr(FakeSite, "prepare", prepare)  # the site's disk, which is full
    full.set()
    options = AgentOptions(trainers=site.trainer, deferred_poll_s=0.2, room_patience_s=3600.0)
    agent = agent_of(federation, site, options)
    run_id = str(control.submit(small_plan(1, minimum_sites=1))["run_id"])
    words = wait_for(lambda: "disk is full" in agent.status.waits, what="the words")
    assert words
    full.clear()
    assert run_over(control, run_id)["state"] == "finished"
    assert "disk" not in agent.status.waits


def test_a_disk_that_stays_full_is_told_then_waited_for(
    federation: Federation, control: CoordinatorClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    site, full = federation.site("site-a"), threading.Event()
    real = FakeSite.prepare

    def prepare(self: FakeSite, plan_hash: str) -> Path:
        if full.is_set():
            raise OSError(errno.ENOSPC, "No space left on device", "/data/sub-a1/x.nii.gz")
        return real(self, plan_hash)

    def fill(point: str) -> None:
        # The first task reported is the offer: what follows finds the disk full.
        if point == "step:reported:entered" and not trainings(site):
            full.set()

    monkeypatch.setattr(FakeSite, "prepare", prepare)  # the site's disk, which is full
    options = AgentOptions(trainers=site.trainer, observer=fill, room_patience_s=0.2)
    agent_of(federation, site, options)
    run_id = str(control.submit(small_plan(1, minimum_sites=1))["run_id"])
    words = wait_for(lambda: tasks(site, "failed") or None, what="the failure", seconds=60)
    assert set(words) == {"the disk of this site's node is full"}
    wait_for(lambda: control.run(run_id)["round"] == 1, what="the round", seconds=60)
    full.clear()
    monkeypatch.setattr(FakeSite, "prepare", real)
    assert run_over(control, run_id)["state"] == "finished"


def test_status_says_what_the_node_waits_for(
    federation: Federation, control: CoordinatorClient
) -> None:
    site = federation.site("site-a")
    agent = federation.start(site)
    wait_for(lambda: agent.status.waits == "the coordinator's next task", what="idle words")
    site.answer = PlanDecision.pending()
    control.submit(small_plan(1, minimum_sites=1))
    wait_for(lambda: "a person's decision on 1 task" in agent.status.waits, what="waiting words")
    federation.coordinator.stop()
    away = wait_for(lambda: agent.status if not agent.status.connected else None, what="away words")
    assert "cannot be reached" in away.waits
    assert "asked again by itself" in away.waits
    options = CoordinatorOptions(initialiser=numpy_initialiser)
    federation.coordinator = Coordinator(federation.home, options)
    federation.coordinator.start()
    wait_for(lambda: agent.status.connected, what="the coordinator again", seconds=60)


@pytest.mark.parametrize(
    ("skew", "words"), [(59.0, ""), (61.0, "61 s ahead"), (-900.0, "15 minutes behind")]
)
def test_a_wrong_clock_is_told(skew: float, words: str) -> None:
    there = datetime(2026, 11, 21, 12, 0, tzinfo=UTC)
    said = clock_words(there + timedelta(seconds=skew), there)
    assert words in said
    assert bool(words) == bool(said)


def test_the_clock_is_compared_with_the_coordinators(federation: Federation) -> None:
    site = federation.site("site-a")
    options = AgentOptions(trainers=site.trainer, clock=lambda: utc_now() + timedelta(seconds=500))
    agent = agent_of(federation, site, options)
    words = wait_for(lambda: agent.status.clock_words, what="the comparison")
    assert "ours is 8 minutes ahead of it" in words


def test_an_amended_run_trains_its_new_number_of_rounds(
    federation: Federation, control: CoordinatorClient
) -> None:
    site, patient = federation.site("site-a"), Patient()
    options = AgentOptions(trainers=patient.factory(site), deferred_poll_s=0.2, look_s=0.1)
    agent_of(federation, site, options)
    run_id = str(control.submit(small_plan(2, minimum_sites=1, deadline_s=600))["run_id"])
    wait_for(patient.begun.is_set, what="the training to begin", seconds=60)
    control.amend(run_id, rounds=3)
    patient.go.set()
    view = run_over(control, run_id)
    assert (view["state"], view["rounds"]) == ("finished", 3)
    assert trainings(site) == ["1", "2", "3"]
    offered = [
        SignedPlan.from_json(path.read_bytes()) for path in (site.folder / "offered").iterdir()
    ]
    assert sorted(bool(plan.plan.amends) for plan in offered) == [False, True]


def test_an_amendment_that_waits_for_a_person_trains_nothing(
    federation: Federation, control: CoordinatorClient
) -> None:
    site, patient = federation.site("site-a"), Patient()
    options = AgentOptions(trainers=patient.factory(site), deferred_poll_s=0.2, look_s=0.1)
    agent = agent_of(federation, site, options)
    run_id = str(control.submit(small_plan(2, minimum_sites=1, deadline_s=600))["run_id"])
    wait_for(patient.begun.is_set, what="the training to begin", seconds=60)
    site.answers[str(control.run(run_id)["plan_hash"])] = PlanDecision.approved()
    site.answer = PlanDecision.pending()
    control.amend(run_id, learning_rate=0.01)
    patient.go.set()
    wait_for(lambda: "a person's decision" in agent.status.waits, what="the words", seconds=60)
    assert trainings(site) == ["1"]
    site.answer = PlanDecision.approved()
    assert run_over(control, run_id)["state"] == "finished"
    assert trainings(site) == ["1", "2"]


def test_a_patient_withdrawn_before_the_result_left_is_not_in_it(
    federation: Federation, control: CoordinatorClient
) -> None:
    site, patient = federation.site("site-a"), Patient()
    patient.go.set()
    sent: list[int] = []

    def withdraw_when_worked(point: str) -> None:
        if point == "step:worked:entered" and trainings(site) == ["1"]:
            site.stand = Standing(withdrawn=1)
        if point == "step:sent:entered" and trainings(site):
            sent.append(len(trainings(site)))

    options = AgentOptions(trainers=patient.factory(site), observer=withdraw_when_worked)
    agent_of(federation, site, options)
    run_id = str(control.submit(small_plan(1, minimum_sites=1))["run_id"])
    assert run_over(control, run_id)["state"] == "finished"
    assert trainings(site) == ["1", "1"]
    assert sent[0] == 2


def test_an_unwanted_upload_ends_before_its_first_piece(tmp_path: Path) -> None:
    source = tmp_path / "update"
    source.write_bytes(b"x" * 1000)

    # Nothing can be called on it: an upload that nobody wants makes no call.
    calls = cast("ChunkCalls", object())
    mover = ObjectMover(lambda: calls, lambda call: call())
    mover.unwanted.set()
    payload = payload_of(pb.PAYLOAD_KIND_UPDATE, "update", source)
    with pytest.raises(TransferFailed, match="broke the upload off"):
        mover.upload("task", payload, source)


def test_halted_between_work_and_report_a_needed_task_is_done_again(
    federation: Federation, control: CoordinatorClient
) -> None:
    site = federation.site("site-a")

    def halt_when_worked(point: str) -> None:
        if point == "step:worked:entered" and trainings(site) == ["1", "1"]:
            site.stand = Standing(Stand.HALTED, "the custodian has halted this site")

    class Spoilt(NumpyTrainer):
        """The first update is refused, so that the round asks again."""

        def train(self, job: TrainJob) -> TrainResult:
            self.spoil = "nan" if not trainings(site) else ""
            with (site.folder / "trainings.log").open("a") as stream:
                stream.write("1\n")
            return super().train(job)

    options = AgentOptions(trainers=Spoilt, observer=halt_when_worked, deferred_poll_s=0.2)
    agent_of(federation, site, options)
    run_id = str(control.submit(small_plan(1, minimum_sites=1))["run_id"])
    wait_for(
        lambda: site.records[-1:] and site.records[-1][0] == "task.waits",
        what="the task to wait",
        seconds=60,
    )
    assert control.run(run_id)["state"] == "running"
    site.stand = Standing()
    assert run_over(control, run_id)["state"] == "finished"
    assert trainings(site) == ["1", "1", "1"]
