"""``clinode demo``: three hospitals, their PACS and a coordinator on this machine, end to end.

Every part is an operating-system process of its own; this module only starts them, fills the
PACS, submits the plan and watches through the same control APIs that people use.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from appliance.demo.cohort import (
    LABELLED,
    Made,
    find_real_studies,
    make_studies,
    plan_studies,
)
from appliance.demo.hospital import PROJECT, Hospital, Ports
from appliance.demo.namespace import free_ports
from appliance.demo.processes import MemoryWatch, Process, clinode, run, start
from appliance.demo.progress import DemoProgress
from appliance.errors import ApplianceError, NotRunning
from federation.coordinator.control_client import CoordinatorClient
from federation.errors import CoordinatorUnreachable

POLL_S = 0.5
PIPELINE_LIMIT_S = 1800.0
RUN_LIMIT_S = 3600.0
START_LIMIT_S = 60.0
SETTLED = frozenset({"ready", "quarantined", "withdrawn"})
RESULT_FINAL = frozenset(
    {"stored", "committed", "no finding", "failed", "refused", "superseded", "withdrawn"}
)


T = TypeVar("T")


class DemoFailed(ApplianceError):
    """The demonstration could not go on."""


@dataclass(frozen=True, slots=True)
class DemoOptions:
    """What ``clinode demo`` was asked for.

    Attributes:
        hospitals: how many, 1 to 8.
        rounds: federated rounds.
        pacs: ``orthanc`` or ``embedded``.
        workdir: an empty or new folder for everything.
        dicom: folders of real studies, one per hospital from the first on.
        full: the studies' voxel sizes in place of half resolution.
        seed: of phantoms and plan.
        notes: remarks for the outcome.
        capture: where the coordinator keeps every message as serialised (tests search them).
        labelled: labelled phantoms per hospital.
    """

    hospitals: int
    rounds: int
    pacs: str
    workdir: Path
    dicom: tuple[Path, ...] = ()
    full: bool = False
    seed: int = 20
    notes: tuple[str, ...] = ()
    capture: Path | None = None
    labelled: int = LABELLED


@dataclass(slots=True)
class Demonstration:
    """A running demonstration.

    Attributes:
        options: what was asked for.
        progress: where progress is shown.
        hospitals: the hospitals.
        phases: seconds of each phase, in order.
        run_id: the training run, once submitted.
    """

    options: DemoOptions
    progress: DemoProgress
    hospitals: list[Hospital] = field(default_factory=list)
    phases: dict[str, float] = field(default_factory=dict)
    run_id: str = ""
    memory: MemoryWatch = field(default_factory=MemoryWatch)
    coordinator: Process | None = None
    _ports: tuple[int, int] = (0, 0)
    _stores: dict[int, list[Future[None]]] = field(default_factory=dict)

    @property
    def coordinator_home(self) -> Path:
        """The coordinator's home folder."""
        return self.options.workdir / "coordinator"

    def prepare(self) -> None:
        """Hospitals with their ports and real studies; nothing is started yet."""
        count = self.options.hospitals
        ports = free_ports(4 * count + 2)
        self._ports = (ports[-2], ports[-1])
        for index in range(count):
            mine = ports[4 * index : 4 * index + 4]
            hospital = Hospital(
                index, self.options.workdir / f"hospital-{chr(ord('a') + index)}", Ports(*mine)
            )
            if index < len(self.options.dicom):
                hospital.real = find_real_studies(self.options.dicom[index])
            self.hospitals.append(hospital)
            self._stores[index] = []
        self.options.workdir.mkdir(parents=True, exist_ok=True)

    def run(self) -> None:
        """All phases up to results in the PACS.

        Raises:
            DemoFailed: a phase did not come to its end.
            ApplianceError: a process or a call failed.
        """
        self.memory.start()
        with self._phase("enrolment"):
            self._start_coordinator()
            self._enrol_sites()
        with self._phase("PACS and studies"):
            for hospital in self.hospitals:
                hospital.start_pacs(self.options.pacs)
            self._fill_pacs()
        with self._phase("pipeline"):
            self._wait_pipeline()
        with self._phase("training"):
            self._submit()
            self._wait_run()
        with self._phase("results"):
            self._wait_results()

    @contextmanager
    def _phase(self, name: str) -> Iterator[None]:
        begun = time.monotonic()
        self.progress.phase(name)
        try:
            yield
        finally:
            self.phases[name] = time.monotonic() - begun

    def _start_coordinator(self) -> None:
        home = str(self.coordinator_home)
        federation, enrolment = self._ports
        run(
            clinode(
                *("--home", home, "coordinator", "init", "--project", PROJECT),
                *("--host", "127.0.0.1", "--port", str(federation)),
                *("--enrolment-port", str(enrolment)),
            )
        )
        asked_for = self.options.capture
        capture = () if asked_for is None else ("--capture", str(asked_for))
        self.coordinator = start(
            "coordinator",
            clinode("--home", home, "coordinator", "run", *capture),
            self.options.workdir / "coordinator.log",
        )
        with CoordinatorClient(self.coordinator_home) as client:
            self._until(
                lambda: asked(client.status) is not None, "the coordinator answers", START_LIMIT_S
            )

    def _enrol_sites(self) -> None:
        profile = "full" if self.options.full else "quick"

        def _enrol(hospital: Hospital) -> None:
            answer = run(
                clinode(
                    *("--home", str(self.coordinator_home)),
                    *("coordinator", "site", "add", hospital.name, "--json"),
                )
            )
            hospital.set_up_node(
                hospital.settings(self._ports, profile), json.loads(answer)["token"]
            )

        with ThreadPoolExecutor(2) as pool:
            list(pool.map(_enrol, self.hospitals))
        self.progress.say(f"{len(self.hospitals)} sites enrolled with single-use tokens")

    def _fill_pacs(self) -> None:
        """Make phantoms and send each to its PACS; a filled hospital's node starts at once."""
        planned = plan_studies(
            self.options.hospitals,
            self.options.workdir / "studies",
            seed=self.options.seed,
            half=not self.options.full,
            labelled=self.options.labelled,
        )
        due = {h.index: sum(p.hospital == h.index for p in planned) for h in self.hospitals}
        bar = self.progress.bar("studies made and stored in the PACS", len(planned))
        with ThreadPoolExecutor(len(self.hospitals)) as pool:
            for hospital in self.hospitals:
                for real in hospital.real:
                    job = pool.submit(send_all, hospital, real.files)
                    self._stores[hospital.index].append(job)

            def _stored(made: Made) -> None:
                index = made.planned.hospital
                hospital = self.hospitals[index]
                hospital.studies.append(made)
                job = pool.submit(send_all, hospital, made.written.files)
                self._stores[index].append(job)
                bar.advance()
                self._start_filled(due)

            make_studies(planned, workers=2, done=_stored)
            for jobs in self._stores.values():
                for job in jobs:
                    job.result()
        self._start_filled(due)

    def _start_filled(self, due: dict[int, int]) -> None:
        """Start the node of every hospital whose studies all lie in its PACS."""
        for hospital in self.hospitals:
            jobs = self._stores[hospital.index]
            complete = len(hospital.studies) == due[hospital.index]
            if hospital.process is None and complete and all(job.done() for job in jobs):
                for job in jobs:
                    job.result()
                hospital.start_node()

    def _wait_pipeline(self) -> None:
        """Until every study is ready or quarantined and each site's data set is approved."""
        total = sum(h.expected_studies for h in self.hospitals)
        bar = self.progress.bar("studies prepared", total)

        def _settled() -> bool:
            done = 0
            approved = True
            for hospital in self.hospitals:
                counts, has_dataset = node_progress(hospital)
                done += sum(n for state, n in counts.items() if state in SETTLED)
                approved = approved and has_dataset
            bar.update(done)
            return done >= total and approved

        self._until(_settled, "every study is prepared", PIPELINE_LIMIT_S)

    def _submit(self) -> None:
        plan = self.options.workdir / "plan.json"
        plan.write_bytes(demo_plan(self.options.rounds, len(self.hospitals)))
        answer = run(
            clinode(
                *("--home", str(self.coordinator_home), "run", "submit", str(plan), "--json"),
                *(part for h in self.hospitals for part in ("--site", h.name)),
            )
        )
        self.run_id = json.loads(answer)["run_id"]
        self.progress.say(f"plan submitted as run {self.run_id}; each node decides by its policy")

    def _wait_run(self) -> None:
        bar = self.progress.bar("federated rounds", self.options.rounds)
        with CoordinatorClient(self.coordinator_home) as client:

            def _finished() -> bool:
                detail = asked(lambda: client.run(self.run_id))
                if detail is None:
                    return False
                bar.update(completed_rounds(detail), run_words(detail))
                if detail["state"] in ("failed", "stopped"):
                    raise DemoFailed(f"the run ended as {detail['state']}: {detail['words']}")
                return bool(detail["state"] in ("publishing", "finished"))

            self._until(_finished, "the training run ends", RUN_LIMIT_S)

    def _wait_results(self) -> None:
        """Until every study that can be segmented has a result that is sent or has no finding."""
        bar = self.progress.bar("results", len(self.hospitals))
        with CoordinatorClient(self.coordinator_home) as client:

            def _done() -> bool:
                detail = asked(lambda: client.run(self.run_id))
                if detail is None:
                    return False
                finished = sum(results_final(h) for h in self.hospitals)
                bar.update(finished)
                published = detail["state"] == "finished"
                return published and finished == len(self.hospitals)

            self._until(_done, "the results are in the PACS", PIPELINE_LIMIT_S)

    def _until(self, observe: Callable[[], bool], what: str, limit_s: float) -> None:
        """Poll until ``observe`` is true; a dead process ends the wait at once."""
        deadline = time.monotonic() + limit_s
        while not observe():
            self._look_after_processes()
            if time.monotonic() > deadline:
                raise DemoFailed(f"waited {limit_s:.0f} s until {what}: see the logs in workdir")
            time.sleep(POLL_S)

    def _look_after_processes(self) -> None:
        """Start again what was killed; raise for what ended by itself."""
        if self.coordinator is not None:
            self.coordinator.revive()
            self.coordinator.check()
        for hospital in self.hospitals:
            hospital.check()

    def notes(self) -> tuple[str, ...]:
        """What a reader of the outcome should know besides."""
        services = [self.coordinator, *(h.process for h in self.hospitals)]
        restarted = [
            f"{p.name} was killed and started again {p.restarts} time(s)"
            for p in services
            if p is not None and p.restarts
        ]
        return (*self.options.notes, *restarted)

    def stop(self) -> None:
        """Stop every process that was started."""
        self.memory.stop()
        for hospital in self.hospitals:
            hospital.stop()
        if self.coordinator is not None:
            self.coordinator.stop()


def asked(call: Callable[[], T]) -> T | None:
    """The answer of a control API, or None while its service starts (again)."""
    try:
        return call()
    except (NotRunning, CoordinatorUnreachable):
        return None


def send_all(hospital: Hospital, files: Sequence[Path]) -> None:
    """C-STORE files to a hospital's PACS.

    Raises:
        DemoFailed: the PACS did not take one of them.
    """
    outcomes = hospital.pacs_client().send(files)
    refused = [o for o in outcomes if not o.ok]
    if refused:
        raise DemoFailed(
            f"{hospital.name}: the PACS took {len(outcomes) - len(refused)} of {len(outcomes)} "
            f"objects; the first refusal: {refused[0].words}"
        )


def node_progress(hospital: Hospital) -> tuple[dict[str, int], bool]:
    """Studies per state, and whether a data set is approved; nothing while the node starts."""
    with hospital.client() as client:
        status, datasets = asked(client.status), asked(client.datasets)
    if status is None or datasets is None:
        return {}, False
    counts = {c.state: c.count for c in status.studies}
    return counts, any(d.state == "approved" for d in datasets.datasets)


def results_final(hospital: Hospital) -> bool:
    """Whether all results of a hospital are sent, without finding, or given up."""
    with hospital.client() as client:
        results = asked(client.results)
    return results is not None and all(r.state in RESULT_FINAL for r in results.results)


def demo_plan(rounds: int, hospitals: int) -> bytes:
    """The plan's canonical JSON; a single hospital makes a federation of one."""
    from federation.plan import canonical_json, ms_lesion_demo_plan

    plan = ms_lesion_demo_plan(rounds)
    strategy = plan.strategy.model_copy(
        update={"minimum_sites": min(plan.strategy.minimum_sites, hospitals)}
    )
    evaluation = plan.evaluation.model_copy(update={"every": 2 if rounds >= 4 else 1})
    changes = {"project": PROJECT, "strategy": strategy, "evaluation": evaluation}
    return canonical_json(plan.model_copy(update=changes))


def completed_rounds(detail: dict[str, Any]) -> int:
    """How many training rounds of a run are closed; round 0 only evaluates."""
    closed = [r["round"] for r in detail["rounds_done"] if r["state"] == "closed"]
    return max(closed, default=0)


def run_words(detail: dict[str, Any]) -> str:
    """A run's state for the progress line, with the sites' mean validation Dice."""
    means = [
        f"{row['split']} Dice {row['mean']:.2f}"
        for r in detail["rounds_done"]
        for row in r["means"]
        if row["metric"] == "dice"
    ]
    return ", ".join([str(detail["state"]), *means[-1:]])


def keep_running(demo: Demonstration) -> None:
    """Leave everything running until Ctrl+C."""
    try:
        while True:
            time.sleep(1.0)
            for hospital in demo.hospitals:
                hospital.check()
    except KeyboardInterrupt:
        sys.stderr.write("\n")
