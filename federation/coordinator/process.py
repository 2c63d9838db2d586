"""The coordinator as a whole: make its home, put its parts together, serve until told to stop."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

import grpc
import structlog

from federation.audit_chain import AuditChain
from federation.clock import Clock, utc_now
from federation.coordinator.bulk import BulkServer
from federation.coordinator.causes import Cause
from federation.coordinator.control import ControlService, bind_control
from federation.coordinator.engine import Engine, EngineParts, Initialiser
from federation.coordinator.front import FrontSettings, TlsFront
from federation.coordinator.keyring import KeyRing, make_keys
from federation.coordinator.limits import RefusalLog
from federation.coordinator.objects import ObjectStore
from federation.coordinator.records import RunRecords
from federation.coordinator.registry import Project, Registry
from federation.coordinator.reports import Reports
from federation.coordinator.runs import Runs
from federation.coordinator.servicer import EnrolmentService, FederationService, Gate
from federation.coordinator.settings import (
    CoordinatorSettings,
    Home,
    control_socket,
    load_settings,
    save_settings,
)
from federation.coordinator.store import Observer, Store
from federation.coordinator.upkeep import Upkeep, enrolment_credentials, thresholds_of
from federation.errors import SettingsRefused
from federation.keyfile import read_passphrase
from federation.plan import SignedPlan
from federation.signing import KeySource
from federation.trainer import InitialiseJob, Trainer, TrainerResources
from federation.wire.federation_pb2_grpc import (
    add_EnrolmentServicer_to_server,
    add_FederationServicer_to_server,
)
from federation.wire.frames import MAX_MESSAGE_BYTES, SERVER_CODERS
from federation.wire.guard import Guard, MessageRecorder, admit_everybody

WORKERS = 96
"""Threads of the federation's gRPC server: long polls hold one each."""
_log = structlog.get_logger(__name__)


def init_coordinator(
    home: Path,
    settings: CoordinatorSettings,
    *,
    clock: Clock = utc_now,
    keys: KeySource | None = None,
) -> CoordinatorSettings:
    """Make a coordinator's home: authority, certificates, plan-signing key, settings.

    A home that is in use keeps its authority and its plan key: they are never made anew. Of its
    settings only what ``settings`` was explicitly given changes.

    Args:
        home: the folder.
        settings: project and addresses.
        clock: wall clock.
        keys: where the signing keys are; None makes them in files.

    Raises:
        SettingsRefused: the home belongs to another project, or its authority is missing.
    """
    paths = Home(home)
    home.mkdir(parents=True, exist_ok=True)
    paths.keys.mkdir(mode=0o700, exist_ok=True)
    if paths.settings.exists():
        present = load_settings(paths.settings)
        if present.project != settings.project:
            raise SettingsRefused("this home belongs to another project: take another folder")
        given = {name: getattr(settings, name) for name in settings.model_fields_set}
        settings = present.model_copy(update=given)
    make_keys(paths, settings, clock(), keys)
    save_settings(paths.settings, settings)
    return settings


def trainer_initialiser(plan: SignedPlan, out: Path, work: Path) -> None:
    """Make a plan's initial weights in a trainer process: the coordinator itself loads no torch."""
    with Trainer(work, TrainerResources(threads=1)) as trainer:
        trainer.initialise(InitialiseJob(plan.plan, out))


@dataclass(frozen=True, slots=True)
class CoordinatorOptions:
    """What a caller may replace.

    Attributes:
        observer: sees every transition.
        capture: folder that gets every serialised message, None for none.
        initialiser: makes initial weights.
        clock: wall clock.
        keys: where the signing keys are; None takes the home's files.
    """

    observer: Observer | None = None
    capture: Path | None = None
    initialiser: Initialiser = trainer_initialiser
    clock: Clock = utc_now
    keys: KeySource | None = None


class Coordinator:
    """A running coordinator.

    Args:
        home: a folder that :func:`init_coordinator` made.
        options: what is replaced, mostly by tests.

    Raises:
        SettingsRefused: the home is not complete.
    """

    def __init__(self, home: Path, options: CoordinatorOptions | None = None) -> None:
        options = options or CoordinatorOptions()
        self.home = Home(home)
        self.settings = load_settings(self.home.settings)
        self._options = options
        self.keys = KeyRing(
            self.home,
            self.settings,
            clock=options.clock,
            keys=options.keys,
            passphrase=read_passphrase(self.settings.key_passphrase),
        )
        self._plan_signer = self.keys.plan()
        self.audit = AuditChain(self.home.audit, options.clock)
        self.store = Store(self.home.state, options.clock, options.observer)
        self.objects = ObjectStore(self.home.objects)
        self.upkeep = Upkeep(self.keys, self.store, thresholds_of(self.settings), options.clock)
        self.registry = Registry(
            self.store,
            self.audit,
            self.keys.authority,
            self._project(),
            options.clock,
            self.keys.authorities,
            self.upkeep.notices,
        )
        self._records = RunRecords(self.home.runs, self.store, self.objects)
        self.engine = Engine(
            EngineParts(
                store=self.store,
                objects=self.objects,
                records=self._records,
                audit=self.audit,
                initialiser=options.initialiser,
                clock=options.clock,
                work=self.home.work,
                patience_s=self.settings.patience_s,
                slots=self.settings.active_runs,
            )
        )
        self._servers: list[grpc.Server] = []
        self._front: TlsFront | None = None

    @property
    def control_path(self) -> Path:
        """The control socket."""
        return control_socket(self.home.folder)

    def start(self) -> None:
        """Serve: federation, enrolment, control, and the engine."""
        bind = self.settings.bind or self.settings.host
        self.keys.ensure_server()
        backend = self.home.folder / "work"
        backend.mkdir(parents=True, exist_ok=True)
        if swept := self.engine.sweep():
            _log.info("objects_swept", count=swept)
        self._front = self._start_federation(bind)
        self._start_enrolment(bind)
        self.upkeep.on_renewed(self._front.reload)
        self.upkeep.start()
        runs = Runs(
            self.store, self.registry, self.engine, self._records, self._plan_signer, self.audit
        )
        self._servers.append(
            bind_control(ControlService(runs, self.settings, self._front), self.control_path)
        )
        self.engine.start()
        self.audit.append("system", "coordinator.started", self.settings.project)
        _log.info("coordinator_started", project=self.settings.project)

    def stop(self) -> None:
        """End everything in order; what is under way continues at the next start."""
        self.upkeep.stop()
        for server in self._servers:
            server.stop(0.5).wait()
        if self._front is not None:
            self._front.stop()
        self.engine.stop()
        self._records.close()
        self.audit.append("system", "coordinator.stopped", self.settings.project)
        self.store.close()
        self.audit.close()
        self.control_path.unlink(missing_ok=True)

    def _project(self) -> Project:
        settings = self.settings
        return Project(
            name=settings.project,
            enrolment_address=settings.address(settings.enrolment_port),
            federation_address=settings.address(settings.federation_port),
            token_hours=settings.token_hours,
        )

    def _recorder(self) -> MessageRecorder | None:
        capture = self._options.capture
        return MessageRecorder(capture) if capture is not None else None

    def _start_federation(self, bind: str) -> TlsFront:
        log = RefusalLog(self.audit, self._options.clock)
        backend = control_socket(self.home.folder).with_suffix(".backend")
        backend.unlink(missing_ok=True)

        def _refused(cause: Cause, address: str) -> None:
            log.refused(cause.value, address)

        front = TlsFront(
            FrontSettings(
                host=bind,
                port=self.settings.federation_port,
                certificate=self.home.server,
                key=self.home.server_key,
                authority=self.home.authorities,
                passphrase=self.keys.passphrase,
                clock=self._options.clock,
            ),
            backend,
            _refused,
        )
        gate = Gate(front, self.registry, self.audit)
        reports = Reports(self.store, self.objects, self.audit, self.settings.update_norm_ratio)
        service = FederationService(
            gate, self.store, self.registry, (self.objects, reports), self._options.clock
        )
        recorder = self._recorder()
        server = grpc.server(
            ThreadPoolExecutor(WORKERS, thread_name_prefix="federation"),
            interceptors=[Guard(gate, recorder, SERVER_CODERS)],
            options=(("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),),
        )
        front.serve_bulk(BulkServer(service, gate, recorder))
        add_FederationServicer_to_server(service, server)
        server.add_insecure_port(f"unix:{backend}")
        server.start()
        self._servers.append(server)
        front.start()
        return front

    def _start_enrolment(self, bind: str) -> None:
        credentials = enrolment_credentials(self.keys)
        server = grpc.server(
            ThreadPoolExecutor(4, thread_name_prefix="enrolment"),
            interceptors=[Guard(admit_everybody, self._recorder())],
            options=(("grpc.max_receive_message_length", 64 << 10), ("grpc.so_reuseport", 0)),
            maximum_concurrent_rpcs=16,
        )
        add_EnrolmentServicer_to_server(EnrolmentService(self.registry), server)
        address = f"[{bind}]" if ":" in bind else bind
        server.add_secure_port(f"{address}:{self.settings.enrolment_port}", credentials)
        server.start()
        self._servers.append(server)


def run_coordinator(
    home: Path,
    observer: Observer | None = None,
    *,
    capture: Path | None = None,
    initialiser: Initialiser = trainer_initialiser,
    ready: Callable[[], None] | None = None,
) -> None:
    """Serve until SIGTERM or SIGINT; called from the main thread.

    Args:
        home: a folder that :func:`init_coordinator` made.
        observer: sees every transition.
        capture: folder that gets every message as serialised before TLS; None for none.
        initialiser: makes initial weights.
        ready: called once everything listens.
    """
    options = CoordinatorOptions(observer=observer, capture=capture, initialiser=initialiser)
    stopping = threading.Event()

    def _stop(_: int, __: FrameType | None) -> None:
        stopping.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _stop)
    coordinator = Coordinator(home, options)
    coordinator.start()
    if ready is not None:
        ready()
    stopping.wait()
    coordinator.stop()
