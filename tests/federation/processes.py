"""Processes that the kill tests start: they SIGKILL themselves once at each point."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable
from pathlib import Path

import structlog

from federation import spares
from federation.coordinator.process import run_coordinator
from federation.enrolment import load_identity
from federation.errors import FederationError
from federation.node.agent import AgentOptions, SiteAgent
from federation.node.connection import CoordinatorConnection, RetryPolicy
from federation.plan import SignedPlan
from tests.federation.doubles import FakeSite, numpy_initialiser


def _kill_once(markers: Path, name: str) -> None:
    """Die by SIGKILL, the first time that ``name`` is reached in any life."""
    marker = markers / name.replace(":", "_")
    try:
        marker.touch(exist_ok=False)
    except FileExistsError:
        return
    os.kill(os.getpid(), signal.SIGKILL)


def _quiet() -> None:
    spares.SMALLEST = 1  # as in conftest.py
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(50))


def initialiser(plan: SignedPlan, out: Path, work: Path) -> None:
    """Numbers instead of a network; one plan cannot be initialised."""
    if plan.plan.name == "impossible":
        raise FederationError("this network cannot be made")
    numpy_initialiser(plan, out, work)


def coordinator(home: str, markers: str) -> None:
    """A coordinator that dies once at every transition."""
    _quiet()
    folder = Path(markers)
    run_coordinator(
        Path(home), observer=lambda point: _kill_once(folder, point), initialiser=initialiser
    )


def agent(folder: str, name: str, markers: str) -> None:
    """A site's agent that dies once at every step of every kind of task."""
    _quiet()
    site = FakeSite(name, Path(folder))
    identity = load_identity(Path(folder) / "keys")
    connection = CoordinatorConnection(identity, retry=RetryPolicy(first_s=0.02, longest_s=0.1))
    observer: list[Callable[[str], None]] = []
    made = SiteAgent(
        connection,
        site,
        AgentOptions(trainers=site.trainer, observer=lambda point: observer[0](point)),
    )
    observer.append(lambda point: _kill_once(Path(markers), f"{made.status.activity}-{point}"))
    made.run(threading.Event())
