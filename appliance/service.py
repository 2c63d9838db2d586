"""The node's service: receiver, intake, pipeline, results, federation and control API together.

One process owns the home. Every part runs in a thread of its own; imaging runs in worker processes
and training in the trainer's. The service may be killed at any instant and started again.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

import structlog

from appliance.archives import client_for
from appliance.atna import atna_feed
from appliance.control.listening import ControlServer
from appliance.control.operations import ComponentView, FederationView
from appliance.control.peers import Custodians, Tickets
from appliance.control.server import NodeControl
from appliance.datasets import Datasets, SplitRule
from appliance.errors import NotAllowed
from appliance.expiry import ExpiryWatch
from appliance.governance import POLICY, Governance
from appliance.home import Home, load_keys
from appliance.identity import Identities
from appliance.intake import Intake, IntakeParts, Spool
from appliance.label_refresh import LabelParts, LabelRefresh
from appliance.labels.importing import ImportParts, LabelImport
from appliance.labels.keeping import KeeperParts, LabelKeeper
from appliance.operations import Operations, OperationsParts
from appliance.participation import Participation
from appliance.parts import Part
from appliance.pipeline.pool import WorkerPool
from appliance.pipeline.runner import Observer, Runner, StageTable
from appliance.pipeline.settling import settlers
from appliance.pipeline.stages import WORKER_STAGES, run_stage
from appliance.pipeline.states import Stage
from appliance.preparation import Preparer, PreparerOptions
from appliance.receiving import Receiving, layout_of
from appliance.research import ensure_tree
from appliance.results import Results, ResultsParts
from appliance.settings import Settings, load_settings
from appliance.site_work import SiteParts, SiteWork
from appliance.store import DatasetState, NodeState, ResultState, StudyRow
from appliance.versions import Versions
from appliance.way_out import proxy_of
from dicom_bridge.archive import Archive
from dicom_bridge.net.retrieve import RetrievePolicy
from federation.amendment import AmendmentLimits
from federation.audit_chain import AuditChain
from federation.canonical import JSON
from federation.clock import Clock, utc_now
from federation.enrolment.client import COORDINATOR_FILE, SiteIdentity
from federation.enrolment.renewal import Renewal, load_present
from federation.errors import (
    FederationError,
    IdentityRefused,
    SettingsRefused,
    VersionRefused,
)
from federation.keyfile import read_passphrase
from federation.node.agent import AgentOptions, SiteAgent
from federation.node.connection import CoordinatorConnection
from federation.node.status import AgentStatus

_log = structlog.get_logger(__name__)

JOIN_S = 20.0
_LOOK_S = 1.0
_ENROLMENT_LOOK_S = 5.0
_REFUSED_WAIT_S = 60.0


@dataclass(frozen=True, slots=True)
class NodeOptions:
    """What tests set.

    Attributes:
        observer: told at each point of each stage.
        agent_observer: told at each step of the federation's agent.
        clock: UTC time.
        receiver_port: overrides the settings' port (0 lets the system choose).
    """

    observer: Observer = lambda _event: None
    agent_observer: Callable[[str], None] = lambda _point: None
    clock: Clock = utc_now
    receiver_port: int | None = None


class Node:
    """A node over its home folder.

    Args:
        root: the home, made by ``clinode node init``.
        options: hooks for tests.

    Attributes:
        state: the node's state.
        settings: the node's settings.
        operations: the verbs of the control API.
        governance: decisions on plans, models and data sets.
        datasets: data sets and the split.
        participation: the custodian's word on runs.
        site: the node as the federation sees it.
        identities: pseudonyms and vault.

    Raises:
        SettingsInvalid: the settings have problems.
        HomeInvalid: secrets are missing.
        StoreBusy: another process runs this home.
    """

    def __init__(self, root: Path, *, options: NodeOptions | None = None) -> None:
        self._options = options or NodeOptions()
        root = root.resolve()
        self.settings: Settings = load_settings(Home(root).settings_file)
        self.home = Home(root, self.settings.node.project)
        keys = load_keys(self.home)
        self.home.create()
        self.state = NodeState(self.home.state_file, clock=self._options.clock)
        self.audit = AuditChain(self.home.audit_file, self._options.clock)
        self._atna = atna_feed(self.home, self.settings)
        self._stop = threading.Event()
        self._look = threading.Event()
        resources = self.settings.resources
        self._pool = WorkerPool(workers=resources.workers, threads=resources.threads)
        self.identities = Identities(self.home, keys)
        jobs = layout_of(self.home).jobs
        self._spool = Spool(self.state, self.home, self.identities, jobs)
        self.governance = Governance(
            self.state,
            self.audit,
            self.settings.governance,
            on_change=self.wake,
            amendments=amendment_limits(self.settings),
        )
        self.participation = Participation(self.state, self.audit, self.wake)
        rule = SplitRule.of(keys.site_secret, self.settings.split)
        self.datasets = Datasets(self.state, self.home, rule)
        self._runner = self._make_runner()
        self._intake = self._make_intake()
        options_of = PreparerOptions(
            keys.site_secret,
            self.settings.labels.codes,
            resources.threads,
            self.settings.labels.merge,
            self.settings.imaging.reference,
            int(self.settings.imaging.cache_gib * 2**30),
        )
        self._versions = Versions(
            self.state, self.home, self.identities, settling=self._runner.settling
        )
        self._preparer = Preparer(self.state, self.home, self.datasets, self._pool, options_of)
        self._results = self._make_results()
        self._keeper = self._make_keeper()
        self._labels = self._make_labels()
        self._imports = self._make_imports()
        self.site = self._make_site()
        self.operations = self._make_operations()
        self._receiver: Receiving | None = None
        self._control: ControlServer | None = None
        self._agent: SiteAgent | None = None
        self._identity: SiteIdentity | None = None
        self._agent_words = ""
        self._passphrase = read_passphrase(self.settings.federation.key_passphrase)
        self._expiry = ExpiryWatch(self.home.keys, self.settings, self._options.clock)
        self._parts: list[Part] = []

    def start(self) -> int:
        """Recover, listen and start every part.

        Returns:
            The TCP port of the receiver.
        """
        ensure_tree(self.home)
        self.operations.finish_withdrawals()
        self._runner.recover()
        self._results.recover()
        self._labels.recover()
        self._imports.recover()
        port = self._start_receiver()
        targets: Mapping[str, Callable[[threading.Event], None]] = {
            "intake": self._intake.run,
            "pipeline": self._runner.run,
            "results": self._results.run,
            "governance": self._govern,
            "federation": self._federate,
            "audit": self._atna.run,
        }
        self._parts = [
            Part(name, target, self._stop, clock=self._options.clock)
            for name, target in targets.items()
        ]
        for part in self._parts:
            part.start()
        tickets = Tickets(self.home.root)
        servicer = NodeControl(
            self.state,
            self.governance,
            self.audit,
            self.settings,
            self.operations,
            self.home,
            Custodians(tickets, self.settings.access.custodians),
            self.participation,
        )
        self._control = ControlServer(self.home.root, servicer, tickets)
        self._control.start()
        self.audit.append("node", "node.started", self.settings.node.site, {})
        _log.info("node_started", site=self.settings.node.site, port=port)
        return port

    def stop(self) -> None:
        """Stop every part; running stages are given up and repeated at the next start."""
        self._stop.set()
        self.wake()
        if self._control is not None:
            self._control.stop()
        if self._receiver is not None:
            self._receiver.stop()
        self._pool.close()
        stuck = [part.name for part in self._parts if not part.join(JOIN_S)]
        if stuck:
            _log.warning("parts_still_running", parts=stuck)
        self.audit.append("node", "node.stopped", self.settings.node.site, {})
        self._atna.catch_up()
        self.state.close()
        self.identities.close()
        _log.info("node_stopped")

    def wait(self) -> None:
        """Block until `stop` is asked for by `request_stop`."""
        self._stop.wait()

    def request_stop(self) -> None:
        """Let `wait` return; safe in a signal handler."""
        self._stop.set()

    def wake(self) -> None:
        """Let every waiting part look for work now."""
        self._runner.wake()
        self._intake.wake()
        self._results.wake()
        self._look.set()
        if self._agent is not None:
            self._agent.wake()

    def _start_receiver(self) -> int:
        if not self.settings.allowed_ae():
            _log.warning("receiver_off", reason="no PACS is configured")
            return 0
        self._receiver = Receiving(
            self.settings,
            self.home,
            self.state,
            on_commitment=self._results.on_commitment,
            port=self._options.receiver_port,
        )
        return self._receiver.start()

    def _make_runner(self) -> Runner:
        table = StageTable(
            run=dict.fromkeys(WORKER_STAGES, run_stage),
            settle=settlers(self.home, self.identities),
            done=self._stage_done,
        )
        return Runner(
            self.state,
            self.home,
            self.settings,
            self._pool,
            table,
            observer=self._options.observer,
            own=lambda study_key: self._results.marks(study_key),
        )

    def _make_intake(self) -> Intake:
        return Intake(
            IntakeParts(
                state=self.state,
                home=self.home,
                settings=self.settings,
                identities=self.identities,
                spool=self._spool,
                client=client_for(self.settings, spool=self.home.identified),
                observer=self._options.observer,
                on_received=self._runner.wake,
                audit=self._audit_intake,
                on_reopened=self._reopened,
                on_labels=lambda study: self._labels.take(study),
                policy=RetrievePolicy(settle_s=1.0, stop=self._stop),
            )
        )

    def _audit_intake(self, action: str, subject: str, detail: Mapping[str, int | str]) -> None:
        self.audit.append("node", action, subject, dict(detail))

    def _make_site(self) -> SiteWork:
        return SiteWork(
            SiteParts(
                state=self.state,
                home=self.home,
                settings=self.settings,
                governance=self.governance,
                preparer=self._preparer,
                results=self._results,
                audit=self.audit,
                participation=self.participation,
            )
        )

    def _make_results(self) -> Results:
        def audit(actor: str, action: str, subject: str, detail: Mapping[str, object]) -> None:
            """Write an entry of the audit log."""
            texts = {name: str(value) for name, value in detail.items()}
            self.audit.append(actor, action, subject, texts)

        def client(name: str) -> Archive:
            """The one client of a configured PACS."""
            return self._intake.client(self._intake.pacs(name))

        return Results(
            ResultsParts(
                state=self.state,
                home=self.home,
                settings=self.settings,
                identities=self.identities,
                pool=self._pool,
                client=client,
                audit=audit,
            )
        )

    def _make_labels(self) -> LabelRefresh:
        return LabelRefresh(
            LabelParts(
                state=self.state,
                home=self.home,
                settings=self.settings,
                identities=self.identities,
                pool=self._pool,
                own=self._results.marks,
                keeper=self._keeper,
            )
        )

    def _make_keeper(self) -> LabelKeeper:
        return LabelKeeper(
            KeeperParts(
                state=self.state,
                home=self.home,
                section=self.settings.labels,
                identities=self.identities,
                pool=self._pool,
                audit=self._audit_intake,
                settling=self._runner.settling,
                reference=self.settings.imaging.reference,
            )
        )

    def _make_imports(self) -> LabelImport:
        return LabelImport(
            ImportParts(
                state=self.state,
                home=self.home,
                identities=self.identities,
                pool=self._pool,
                keeper=self._keeper,
                section=self.settings.labels,
                reference=self.settings.imaging.reference,
            )
        )

    def _make_operations(self) -> Operations:
        return Operations(
            OperationsParts(
                state=self.state,
                home=self.home,
                settings=self.settings,
                identities=self.identities,
                intake=self._intake,
                runner=self._runner,
                datasets=self.datasets,
                preparer=self._preparer,
                imports=self._imports,
                results=self._results,
                components=self._components,
                federation=self._federation_view,
                wake=self.wake,
            )
        )

    def _stage_done(self, study_key: str, stage: Stage) -> None:
        del study_key, stage
        self._look.set()

    def _reopened(self, study: StudyRow, actor: str, reason: str) -> None:
        """Tell the custodian that a study is processed again; hold what is not sent yet."""
        detail: dict[str, JSON] = {"version": study.version, "reason": reason}
        self.audit.append(actor, "study.reopened", study.study_key, detail)
        for result in self.state.results.select(study_key=study.study_key):
            with suppress(NotAllowed):
                if result.state is not ResultState.HELD:
                    words = "late images: the study is processed again"
                    self._results.hold(result.key, reason=words)

    def _govern(self, stop: threading.Event) -> None:
        """Apply what the settings let the node decide alone."""
        while not stop.is_set():
            self._look.clear()
            self._auto_freeze()
            self.governance.apply_policy()
            self._versions.sweep()
            self._expiry.look()
            self._look.wait(_LOOK_S)

    def _auto_freeze(self) -> None:
        """Freeze and approve a first data set when the first intake has settled."""
        wanted = self.settings.governance.auto_freeze and self._intake.polled
        if not wanted or not self.state.settled() or not self.datasets.candidates():
            return
        rows = {row.name: row for row in self.state.datasets.select()}
        row = rows.get("auto")
        if row is None and rows:
            return
        try:
            row = row or self.datasets.create("auto", ("auto",))
            if row.state is DatasetState.OPEN:
                row = self.datasets.freeze("auto")
                detail = {"hash": row.hash, "rule": "governance.auto_freeze is on"}
                self.audit.append(POLICY, "dataset.frozen", row.name, dict(detail))
            if row.state is DatasetState.FROZEN:
                words = "governance.auto_freeze is on"
                self.governance.approve_dataset("auto", actor=POLICY, reason=words)
        except NotAllowed as error:
            _log.warning("auto_freeze_refused", reason=str(error))

    def _federate(self, stop: threading.Event) -> None:
        """Be the coordinator's site; waits for the enrolment where there is none yet."""
        while not stop.is_set():
            if not (self.home.keys / COORDINATOR_FILE).exists():
                stop.wait(_ENROLMENT_LOOK_S)
                continue
            try:
                self._identity = load_present(self.home.keys, self._passphrase)
            except SettingsRefused as error:
                self._agent_words = str(error)
                _log.warning("keys_refused", words=str(error))
                stop.wait(_REFUSED_WAIT_S)
                continue
            agent = SiteAgent(
                CoordinatorConnection(
                    self._identity, proxy=proxy_of(self.settings, self._identity.address)
                ),
                self.site,
                AgentOptions(
                    clock=self._options.clock,
                    observer=self._options.agent_observer,
                    renewal=Renewal(
                        self.home.keys, clock=self._options.clock, passphrase=self._passphrase
                    ),
                ),
            )
            self._agent = agent
            try:
                agent.run(stop)
            except (IdentityRefused, VersionRefused) as error:
                self._agent_words = str(error)
                stop.wait(_REFUSED_WAIT_S)
            except FederationError as error:
                self._agent_words = str(error)
                stop.wait(_ENROLMENT_LOOK_S)

    def _components(self) -> Sequence[ComponentView]:
        views = [
            ComponentView(part.shown.name, part.shown.state, part.shown.detail, part.shown.since)
            for part in self._parts
        ]
        receiver = self._receiver
        if receiver is None:
            views.insert(0, ComponentView("receiver", "stopped", "no PACS is configured"))
        else:
            counts = receiver.counts
            words = f"{counts.stored} stored, {counts.refused} refused"
            views.insert(0, ComponentView("receiver", "running", words))
        if self._intake.problem:
            views = [
                ComponentView(v.name, "waiting", self._intake.problem, v.since)
                if v.name == "intake"
                else v
                for v in views
            ]
        return views

    def _federation_view(self) -> FederationView:
        identity, agent = self._identity, self._agent
        warnings = tuple(notice.words for notice in self._expiry.notices())
        if identity is None or agent is None:
            words = self._agent_words
            warnings = (words, *warnings) if words else warnings
            return FederationView("not enrolled", detail=words, warnings=warnings)
        status = agent.status
        refusal = status.words or ("" if status.connected else self._agent_words)
        if refusal:
            warnings = (refusal, *warnings)
        if status.clock_words:
            warnings = (*warnings, status.clock_words)
        if status.connected:
            state = "connected"
        else:
            state = "offline" if status.last_contact or self._agent_words else "connecting"
        return FederationView(
            state=state,
            coordinator=identity.address,
            last_contact=status.last_contact,
            run=status.run_id,
            round=status.round,
            rounds=self.site.rounds(),
            task=status.activity,
            certificate_expires=agent.certificate_ends,
            detail=refusal,
            waits="" if refusal else self._waits(status),
            warnings=warnings,
        )

    def _waits(self, status: AgentStatus) -> str:
        """What the federation's part waits for; a halt is the first thing to say."""
        halt = self.state.runs.halted()
        if halt is None:
            return status.waits
        return f"your `clinode run resume`: halted since {halt.halted_at} by {halt.halted_by}"


def amendment_limits(settings: Settings) -> AmendmentLimits | None:
    """What of a run under way may change without asking; None asks always."""
    section = settings.federation.amendments
    if section is None:
        return None
    return AmendmentLimits(section.learning_rate_factor, section.rounds)


def run_node(root: Path) -> None:
    """Run the node until SIGTERM or SIGINT.

    Raises:
        ApplianceError: settings, secrets or the home's lock do not permit it.
    """
    node = Node(root)

    def end(number: int, frame: FrameType | None) -> None:
        """Let the service stop."""
        del number, frame
        node.request_stop()

    before = {s: signal.signal(s, end) for s in (signal.SIGTERM, signal.SIGINT)}
    try:
        node.start()
        node.wait()
    finally:
        node.stop()
        for number, handler in before.items():
            signal.signal(number, handler)
