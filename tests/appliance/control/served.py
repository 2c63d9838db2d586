"""A real control server over a real node state; the running node's verbs are in memory."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from appliance.control.client import NodeClient
from appliance.control.listening import ControlServer
from appliance.control.operations import (
    ComponentView,
    EchoView,
    FederationView,
    FoundView,
    IdentityView,
    MetricView,
    PullView,
    QcView,
)
from appliance.control.peers import Custodians, Tickets
from appliance.control.server import NodeControl
from appliance.erasure import PatientGone
from appliance.errors import NotFound
from appliance.governance import Governance
from appliance.home import Home
from appliance.labels.importing import Imported, ImportOptions
from appliance.labels.table import BadRow
from appliance.labels.table import read_table as table_rows
from appliance.pipeline.states import ARROWS, Event, Stage, State
from appliance.reports.site import write_dataset_report
from appliance.result_states import Verb
from appliance.settings import default_settings
from appliance.store import (
    DatasetRow,
    Member,
    NewStudy,
    NodeState,
    Outcome,
    ResultRow,
    ResultState,
    StudyRow,
)
from dicom_bridge.errors import PeerUnreachable
from federation.audit_chain import AuditChain, AuditEntry, read_entries
from federation.fingerprint import CaseFigures, Fingerprint, Rules, make_fingerprint
from federation.manifest import ModelManifest, manifest_for
from federation.plan import SignedPlan, ms_lesion_demo_plan, sign
from tests.appliance.core.values import MATCH, held

ACTOR = "anna"
PATIENT = "DOE^JANE (4711)"
HELD = "rs0000000000aa"


@dataclass
class InMemoryOperations:
    """The node's verbs without PACS, pipeline and disk; everything else is the real state."""

    state: NodeState
    home: Home
    found: list[FoundView] = field(default_factory=list)
    down: bool = False
    broken: bool = False
    woken: int = 0
    warnings: tuple[str, ...] = ()

    def components(self) -> Sequence[ComponentView]:
        return [ComponentView("receiver", "running", "CLINODE at 127.0.0.1:11112", "now")]

    def federation(self) -> FederationView:
        return FederationView(
            "connected", "127.0.0.1:8442", run="run-1", round=3, rounds=12, warnings=self.warnings
        )

    def echo(self, pacs: str) -> EchoView:
        if pacs not in ("", "main"):
            raise NotFound("no [[pacs]] entry has this name")
        return EchoView("main", not self.down, "success" if not self.down else "no answer", 1.5)

    def find(self, pacs: str, *, reveal: bool) -> Sequence[FoundView]:
        if self.broken:
            raise ZeroDivisionError(PATIENT)
        if self.down:
            raise PeerUnreachable("nothing answers: check address and port")
        if not reveal:
            return self.found
        return [replace(f, patient=PATIENT, date="20260101") for f in self.found]

    def pull(self, pacs: str, keys: Sequence[str]) -> PullView:
        wanted = [f for f in self.found if not keys or f.key in keys]
        new = [NewStudy(f.key, "pt9", "p9", f.key, "main") for f in wanted]
        return PullView(len(wanted), sum(self.state.studies.add(study) for study in new))

    def create_dataset(self, name: str, tags: Sequence[str]) -> DatasetRow:
        return self.state.datasets.create(name, tags)

    def freeze_dataset(self, name: str) -> DatasetRow:
        members = [
            Member(s.study_key, s.case, "train", s.labelled, s.inputs, "0" * 64)
            for s in self.state.studies.select(state=State.READY)
        ]
        return self.state.datasets.freeze(name, members, content_hash="1" * 64, splits={})

    def fingerprint(self, name: str) -> Fingerprint:
        self.state.datasets.get(name)
        cases = [CaseFigures(f"p{n}", "FLAIR", (0.7, 0.7, 3.0), (180, 210, 48)) for n in range(6)]
        return make_fingerprint(cases, Rules())

    def import_labels(self, table: Path, options: ImportOptions) -> Iterator[Imported]:
        rows = table_rows(table)
        for number, row in enumerate(rows, start=1):
            if isinstance(row, BadRow):
                yield Imported(row.line, reason=row.words, total=len(rows))
                continue
            outcome = "fits" if options.dry_run else "taken"
            done = Imported(row.line, row.study, row.modality, outcome, total=len(rows))
            waits = number == 2 and "empty" not in options.accept
            yield replace(done, outcome="review", reason="empty") if waits else done

    def withdraw(self, study_key: str, *, reason: str) -> StudyRow:
        return self.state.studies.apply(study_key, Event.WITHDRAW, reason=reason)

    def withdraw_patient(self, study_key: str, *, reason: str) -> PatientGone:
        patient = self.state.studies.get(study_key).patient_key
        return PatientGone(len(self.state.studies.withdraw_patient(patient, reason=reason)), 0, 0)

    def reopen(self, study_key: str, *, actor: str, reason: str) -> StudyRow:
        return self.state.studies.apply(study_key, Event.REOPEN, reason=f"{actor}: {reason}")

    def identity(self, study_key: str) -> IdentityView:
        return IdentityView(study_key, "main", MATCH)

    def release_result(self, key: str, *, actor: str, destination: str) -> ResultRow:
        changes = {"destination": destination or "main", "decided_by": actor}
        return self.state.results.step(key, Verb.RELEASE, changes)

    def hold_result(self, key: str, *, reason: str) -> ResultRow:
        return self.state.results.step(key, Verb.HOLD, {"reason": reason})

    def send_result(self, key: str) -> ResultRow:
        self.state.results.step(key, Verb.START, only=[ResultState.RELEASED])
        return self.state.results.step(key, Verb.FINISH)

    def qc(self, study_key: str) -> QcView:
        metric = MetricView("flair_snr", 12.5, "", "higher")
        return QcView("review", ("FLAIR noise is high",), (metric,))

    def files(self, study_key: str) -> Sequence[str]:
        return ["bids/sub-p1/ses-s1/anat/sub-p1_ses-s1_FLAIR.nii.gz"]

    def report(self, study_key: str) -> Path | None:
        path = self.home.research / "derivatives" / f"{study_key}.html"
        return path if path.exists() else None

    def dataset_report(self, name: str) -> Path:
        settings = default_settings("hospital-t", "ms")
        return write_dataset_report(self.state, self.home, settings, name)

    def wake(self) -> None:
        self.woken += 1


@dataclass
class Served:
    """A node as its control socket shows it."""

    home: Home
    state: NodeState
    audit: AuditChain
    operations: InMemoryOperations
    governance: Governance
    signed: SignedPlan
    model: ModelManifest

    def client(self, actor: str | None = ACTOR) -> NodeClient:
        return NodeClient(self.home.root, actor=actor)

    def entries(self, action: str) -> list[AuditEntry]:
        return [entry for entry in read_entries(self.audit.path) if entry.action == action]


def key_of(number: int) -> str:
    return f"st{number:012x}"


def bring(state: NodeState, number: int, target: State) -> str:
    """Enter a study and move it along until it is in ``target``."""
    key = key_of(number)
    state.studies.add(NewStudy(key, f"pt{number}", f"p{number}", f"s{number}", "main"))
    for arrow in ARROWS:
        if state.studies.get(key).state is target:
            break
        claim = state.studies.claim_study(key, arrow.stage)
        assert claim is not None
        outcome = Outcome(inputs=("FLAIR", "T1w"), labelled=number == 1)
        assert state.studies.finish(claim, outcome, seconds=2.0)
    return key


def refuse(state: NodeState, number: int, stage: Stage, reason: str) -> str:
    """Enter a study that a stage refused."""
    before = next(arrow.source for arrow in ARROWS if arrow.stage is stage)
    key = bring(state, number, before)
    claim = state.studies.claim_study(key, stage)
    assert claim is not None
    assert state.studies.stop(claim, Event.REFUSE, reason)
    return key


@contextmanager
def short_runtime() -> Iterator[Path]:
    """A private runtime folder with a path short enough for a socket."""
    folder = Path(tempfile.mkdtemp(prefix="cn-"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_RUNTIME_DIR", str(folder))
        yield folder
    shutil.rmtree(folder)


@contextmanager
def serve(root: Path, *, accounts: Sequence[str] = ()) -> Iterator[Served]:
    """A node with studies 1 (ready), 2 (refused by QC), 3 (refused by convert), a plan, a model."""
    home = Home(root, "ms")
    home.create()
    settings = default_settings("hospital-t", "ms")
    state = NodeState(home.state_file)
    audit = AuditChain(home.audit_file)
    operations = InMemoryOperations(state, home, [FoundView(key_of(7), "MR", 40, known=False)])
    governance = Governance(state, audit, settings.governance)
    signed = sign(ms_lesion_demo_plan(2), Ed25519PrivateKey.generate())
    model = manifest_for(signed.plan, 2, ("ab" * 32, 10), ())
    governance.offer_plan(signed)
    governance.offer_model(model, "models/x")
    bring(state, 1, State.READY)
    refuse(state, 2, Stage.CHECK, "FLAIR noise is high")
    refuse(state, 3, Stage.CONVERT, "slices missing")
    state.results.add(held(HELD, key_of(1)))
    tickets = Tickets(home.root, login=lambda _pid, uid: uid)
    custodians = Custodians(tickets, accounts)
    control = NodeControl(state, governance, audit, settings, operations, home, custodians)
    server = ControlServer(home.root, control, tickets)
    server.start()
    try:
        yield Served(home, state, audit, operations, governance, signed, model)
    finally:
        server.stop()
        audit.close()
        state.close()
