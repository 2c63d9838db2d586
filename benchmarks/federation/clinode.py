"""clinode as a contender: real coordinator, real agents, enrolment, mutual TLS, SQLite."""

from __future__ import annotations

import contextlib
import itertools
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.federation.case import Case, ContenderFailed, Processes, processes
from benchmarks.federation.measured import Figures, Watch, figures
from federation.clock import parse_stamp
from federation.coordinator.control_client import CoordinatorClient
from federation.errors import FederationError
from federation.plan import Plan
from tests.federation.doubles import make_home, small_plan

ASK_EVERY = 40
"""Looks at the disk between two questions whether the run has failed."""
AT_ONCE = 6
"""Sites that enrol at once; the listener bounds their number."""
MODULE = [sys.executable, "-m", "benchmarks.federation.clinode_processes"]


def plan_of(case: Case) -> Plan:
    """Rounds without evaluation in between; every site must answer."""
    plan = small_plan(case.total, minimum_sites=case.sites, deadline_s=3600)
    evaluation = plan.evaluation.model_copy(update={"every": 5000})
    return plan.model_copy(update={"evaluation": evaluation})


@contextlib.contextmanager
def runtime(folder: Path) -> Iterator[None]:
    """A folder of the run's own for the control socket."""
    before = os.environ.get("XDG_RUNTIME_DIR")
    folder.mkdir(mode=0o700, parents=True)
    os.environ["XDG_RUNTIME_DIR"] = str(folder)
    try:
        yield
    finally:
        os.environ.pop("XDG_RUNTIME_DIR")
        if before is not None:
            os.environ["XDG_RUNTIME_DIR"] = before


def run_clinode(case: Case, folder: Path) -> Figures:
    """One repetition."""
    with runtime(folder / "run"), processes(folder) as made:
        home = make_home(folder / "coordinator", patience_s=600.0)
        server = made.start("coordinator", [*MODULE, "coordinator", home, str(case.megabytes)])
        with CoordinatorClient(home) as control:
            made.wait_for(lambda: _answers(control), "coordinator", 60)
            roots = {"server": server.pid}
            for name in case.site_names:
                site = folder / name
                site.mkdir()
                (site / "token").write_text(control.add_site(name))
                roots[name] = made.start(name, [*MODULE, "agent", site, name]).pid
                if len(roots) % AT_ONCE == 0:
                    _enrolled(made, folder, roots)
            _enrolled(made, folder, roots)
            return _rounds(case, made, home, control, roots)


def _rounds(
    case: Case, made: Processes, home: Path, control: CoordinatorClient, roots: dict[str, int]
) -> Figures:
    run_id = control.submit(plan_of(case))["run_id"]
    watch = Watch(roots)
    asks = itertools.count(1)

    # The records on disk say how far the run is: asking the coordinator would be work for it.
    closed = home / "runs" / run_id / "rounds" / f"{case.total - 1:05d}.json"

    def _over() -> dict[str, Any] | None:
        if next(asks) % ASK_EVERY == 0:
            (row,) = control.runs()
            if row["state"] in ("failed", "stopped"):
                raise ContenderFailed(f"the run {row['state']}: {row['words']}")
        view = control.run(run_id) if closed.exists() else None
        return view if view is not None and view["round"] >= case.total else None

    try:
        view = made.wait_for(_over, "rounds", every=0.25)
    finally:
        watch.close()
    opened = {
        row["round"]: parse_stamp(row["opened_at"]).timestamp() for row in view["rounds_done"]
    }
    starts = [opened[number] for number in range(case.warmup + 1, case.total + 1)]
    return figures(watch, starts)


def _enrolled(made: Processes, folder: Path, roots: dict[str, int]) -> None:
    for name in roots:
        if name != "server":
            made.wait_for((folder / name / "enrolled").exists, f"enrolment of {name}", 300)


def _answers(control: CoordinatorClient) -> bool:
    try:
        control.status()
    except FederationError:
        return False
    return True
