"""What runs in the processes that the resilience scenarios start, kill and cut off.

The product's public entry points: ``run_coordinator``, and ``SiteAgent`` over mutual TLS in the
loop in which a node keeps it. An observer writes every step with the machine's monotonic time to a
trace, and dies by SIGKILL where it was armed to.
"""

# ruff: noqa: ANN401 - what gRPC and JSON give has no narrower type
from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import structlog
from safetensors.numpy import save_file

from federation.coordinator import process as coordinator_process
from federation.coordinator.process import run_coordinator, trainer_initialiser
from federation.coordinator.servicer import FederationService
from federation.enrolment import enrol as enrol_site
from federation.enrolment.renewal import load_present
from federation.errors import FederationError, SiteFailed
from federation.node import connection as node_connection
from federation.node.agent import AgentOptions, SiteAgent
from federation.node.connection import CoordinatorConnection, RetryPolicy
from federation.node.work import OnDemandTrainer, TrainerFactory
from federation.plan import SignedPlan
from federation.trainer import Trainer, TrainerResources, TrainJob, TrainResult
from federation.wire import federation_pb2 as pb
from federation.wire.federation_pb2_grpc import FederationStub
from tests.federation.doubles import FakeSite, NumpyTrainer, initial_tensors
from tests.federation.resilience.relay import order

Config = Mapping[str, Any]
METHODS = tuple(pb.DESCRIPTOR.services_by_name["Federation"].methods)


class Trace:
    """Every step of a process with its time, and its death where it was armed.

    Args:
        folder: gets ``trace``; ``kill`` there names the point at which to die once.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True)

    def line(self, words: str) -> None:
        """Write one line."""
        with (self._folder / "trace").open("a") as stream:
            stream.write(f"{time.monotonic():.6f} {words}\n")

    def seen(self, point: str) -> None:
        """Note a step; die here if this is the point armed."""
        armed = self._folder / "kill"
        try:
            wanted = armed.read_text()
        except FileNotFoundError:
            wanted = ""
        if wanted == point:
            armed.unlink()
            self.line(f"killed {point}")
            os.kill(os.getpid(), signal.SIGKILL)
        self.line(point)


class Loss:
    """Loses one message once: tells the relay to cut or to swallow, then lets it go out.

    Args:
        folder: ``lose`` there holds ``{"method", "side", "how", "relay"}`` while armed.
        side: ``request`` in the agent, ``reply`` in the coordinator.
        trace: is told when.
    """

    def __init__(self, folder: Path, side: str, trace: Trace) -> None:
        self._path = folder / "lose"
        self._side = side
        self._trace = trace
        self._guard = threading.Lock()

    def here(self, method: str) -> None:
        """Lose the message that is about to go out, if it is the one."""
        with self._guard:
            try:
                wanted = json.loads(self._path.read_text())
            except FileNotFoundError:
                return
            if (wanted["method"], wanted["side"]) != (method, self._side):
                return
            self._path.unlink()
        order(Path(wanted["relay"]), wanted["how"])
        self._trace.line(f"lost {method} {self._side}")


def _lossy_service(loss: Loss) -> type[FederationService]:
    """The service, each method of which may lose its reply after its work is done."""

    def _unary(name: str) -> Callable[..., Any]:
        def _call(self: FederationService, request: Any, context: Any) -> Any:
            reply = getattr(FederationService, name)(self, request, context)
            loss.here(name)
            return reply

        return _call

    def _stream(name: str) -> Callable[..., Any]:
        def _call(self: FederationService, request: Any, context: Any) -> Iterator[Any]:
            for message in getattr(FederationService, name)(self, request, context):
                loss.here(name)
                yield message

        return _call

    made = {m.name: (_stream if m.server_streaming else _unary)(m.name) for m in METHODS}
    return type("LossyService", (FederationService,), made)


class _LossyCall:
    def __init__(self, call: Any, loss: Loss, name: str) -> None:
        self._call, self._loss, self._name = call, loss, name

    def __call__(self, *args: Any, **options: Any) -> Any:
        self._loss.here(self._name)
        return self._call(*args, **options)

    def future(self, *args: Any, **options: Any) -> Any:
        self._loss.here(self._name)
        return self._call.future(*args, **options)


def _lossy_stub(loss: Loss) -> Callable[[Any], Any]:
    """The stub, each method of which may lose its request."""

    def _make(channel: Any) -> Any:
        stub = FederationStub(channel)
        for method in METHODS:
            call = _LossyCall(getattr(stub, method.name), loss, method.name)
            setattr(stub, method.name, call)
        return stub

    return _make


def _pause(seconds: float) -> None:
    """Wait. Not time.sleep: libfaketime breaks the clock_nanosleep(2) that it calls."""
    threading.Event().wait(seconds)


def _quiet() -> None:
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(30))


def _initialiser(elements: int) -> Callable[[SignedPlan, Path, Path], None]:
    def _make(plan: SignedPlan, out: Path, work: Path) -> None:
        if plan.plan.name.startswith("impossible"):
            raise FederationError("this network cannot be made")
        tensors = initial_tensors()
        if elements > 1000:
            tensors["conv.weight"] = np.random.default_rng(7).normal(size=(elements // 10, 10))
            tensors["conv.weight"] = tensors["conv.weight"].astype(np.float32)
        save_file(tensors, out)

    return _make


def coordinator(config: Config) -> None:
    """A coordinator: ``home``, ``trace``, ``elements`` of the model, ``trainer`` if real."""
    _quiet()
    trace = Trace(Path(config["trace"]))
    trace.line("life begins")
    coordinator_process.FederationService = _lossy_service(  # type: ignore[misc]
        Loss(Path(config["trace"]), "reply", trace)
    )
    real = config.get("trainer") == "real"
    run_coordinator(
        Path(config["home"]),
        observer=trace.seen,
        initialiser=trainer_initialiser if real else _initialiser(config["elements"]),
        ready=lambda: trace.line("life ready"),
    )


class Script:
    """How a site behaves, by round: ``script.json`` in its folder, read anew each time."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / "script.json"

    def of(self, job: TrainJob) -> dict[str, Any]:
        """What is planned for a job: ``spoil``, ``seconds``, ``never``."""
        try:
            document = json.loads(self._path.read_text())
        except FileNotFoundError:
            return {}
        planned: dict[str, Any] = document.get(str(job.round + 1), {})
        return planned


class ScriptedSite(FakeSite):
    """The test's site, whose stand-in for the trainer follows a script."""

    def trainer(self, folder: Path, resources: TrainerResources) -> Trainer:
        """The agent's trainer factory."""
        site = self
        script = Script(self.folder)

        class Scripted(NumpyTrainer):
            def train(self, job: TrainJob) -> TrainResult:
                planned = script.of(job)
                with (site.folder / "trainings.log").open("a") as stream:
                    stream.write(f"{job.plan.name} {job.round + 1}\n")
                if planned.get("never"):
                    signal.pause()
                _pause(planned.get("seconds", 0.0))
                self.spoil = planned.get("spoil", "")
                if self.spoil == "words":
                    raise SiteFailed("CUDA out of memory: 80 MiB more were asked for")
                return super().train(job)

        trainer = Scripted(folder, resources)
        trainer.site, trainer.cases = self.name, self.cases
        return trainer


class PreparedSite(ScriptedSite):
    """A site with tiny prepared images, for the real trainer."""

    def prepare(self, plan_hash: str) -> Path:
        return self.folder / "prepared"


def _trainers(config: Config, site: ScriptedSite) -> TrainerFactory:
    if config.get("trainer") != "real":
        return site.trainer

    def _make(folder: Path, resources: TrainerResources) -> Trainer:
        # The trainer process keeps only some variables; those that begin with PYTHON go through.
        os.environ["PYTHON_TRAINER_TRACE"] = config["trace"]
        return OnDemandTrainer(
            folder, resources, module="tests.federation.resilience.mortal_trainer"
        )

    return _make


def agent(config: Config) -> None:
    """A site's agent, kept going as a node keeps it: ``folder``, ``name``, ``cases``, ``trace``."""
    _quiet()
    trace = Trace(Path(config["trace"]))
    trace.line("life begins")
    node_connection.FederationStub = _lossy_stub(  # type: ignore[misc, assignment]
        Loss(Path(config["trace"]), "request", trace)
    )
    stop = threading.Event()

    def _stop(_: int, __: FrameType | None) -> None:
        stop.set()

    signal.signal(signal.SIGTERM, _stop)
    folder = Path(config["folder"])
    kind = PreparedSite if config.get("trainer") == "real" else ScriptedSite
    site = kind(config["name"], folder, cases=config["cases"])
    while not stop.is_set():
        made = _agent(config, site, trace)
        watch = threading.Thread(target=_tell, args=(made, trace, stop), daemon=True)
        watch.start()
        try:
            made.run(stop)
        except FederationError as error:
            trace.line(f"words {type(error).__name__}: {error}")
            stop.wait(1.0)


def _tell(agent: SiteAgent, trace: Trace, stop: threading.Event) -> None:
    """Trace what the node's status says, whenever it says something new."""
    told = ""
    while not stop.wait(0.2):
        status = agent.status
        words = "; ".join(w for w in (status.words, status.clock_words, status.waits) if w)
        if words != told:
            trace.line(f"words {words}")
            told = words


def _agent(config: Config, site: ScriptedSite, trace: Trace) -> SiteAgent:
    connection = CoordinatorConnection(
        load_present(Path(config["keys"])),
        address=config["address"],
        retry=RetryPolicy(sleep=_pause, first_s=0.05, longest_s=config.get("longest_s", 1.0)),
    )
    made: list[SiteAgent] = []
    options = AgentOptions(
        trainers=_trainers(config, site),
        observer=lambda point: trace.seen(f"{made[0].status.activity}-{point}"),
        deferred_poll_s=0.2,
    )
    made.append(SiteAgent(connection, site, options))
    return made[0]


def enrol(config: Config) -> None:
    """Enrol a site: ``token``, ``keys``, ``name``."""
    enrol_site(config["token"], Path(config["keys"]), config["name"])


TARGETS: dict[str, Callable[[Config], None]] = {
    "coordinator": coordinator,
    "agent": agent,
    "enrol": enrol,
}

if __name__ == "__main__":
    TARGETS[sys.argv[1]](json.loads(sys.argv[2]))
