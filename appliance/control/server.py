"""The control API's answers; :mod:`appliance.control.listening` has the socket."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

import grpc
import structlog

from appliance.control import node_pb2 as pb
from appliance.control.answering import actor_of, answering, answering_each
from appliance.control.custody import Custody
from appliance.control.node_pb2_grpc import NodeControlServicer
from appliance.control.operations import NodeOperations
from appliance.control.peers import Custodians
from appliance.control.running import Running
from appliance.control.views import (
    audit_message,
    commitment_words,
    dataset_message,
    detail_message,
    funnel_message,
    imported_message,
    model_message,
    plan_message,
    result_detail,
    result_message,
    study_message,
    timing_message,
)
from appliance.errors import ControlError, NotAllowed, NotFound
from appliance.governance import Governance
from appliance.home import Home
from appliance.labels.importing import ImportOptions
from appliance.labels.table import DOUBTFUL, EMPTY
from appliance.participation import Participation
from appliance.pipeline.states import Event, State
from appliance.settings import Settings
from appliance.store import DatasetState, Decision, NodeState, ResultRow, ResultState
from federation.audit_chain import AuditChain, AuditEntry, ChainWatch, read_entries, tail, verify
from federation.canonical import JSON
from federation.clock import stamp, utc_now

MOST_STUDIES = 100_000

log = structlog.get_logger(__name__)


class NodeControl(NodeControlServicer):
    """Answers the control calls.

    Args:
        state: the node's state.
        governance: decisions on plans, models and data sets.
        audit: the node's audit log.
        settings: the node's settings.
        operations: the verbs of the running node.
        home: the node's home.
        custodians: who may see identities; None admits nobody.
        participation: the custodian's word on runs; None makes one that wakes nobody.
    """

    def __init__(
        self,
        state: NodeState,
        governance: Governance,
        audit: AuditChain,
        settings: Settings,
        operations: NodeOperations,
        home: Home,
        custodians: Custodians | None = None,
        participation: Participation | None = None,
    ) -> None:
        self._state = state
        self._governance = governance
        self._audit = audit
        self._chain = ChainWatch(audit.path)
        self._settings = settings
        self._operations = operations
        self._home = home
        self._custody = Custody(state, audit, operations, custodians)
        self._running = Running(state, participation or Participation(state, audit))

    @answering
    def GetStatus(self, request: pb.StatusRequest, context: grpc.ServicerContext) -> pb.Status:
        """The node at a glance."""
        del request, context
        federation = self._operations.federation()
        counts = self._state.state_counts()
        dicom = self._settings.dicom
        checked = self._chain.check()
        return pb.Status(
            site=self._settings.node.site,
            project=self._settings.node.project,
            version=version("clinode"),
            time=stamp(utc_now()),
            components=[
                pb.Component(name=c.name, state=c.state, detail=c.detail, since=c.since)
                for c in self._operations.components()
            ],
            studies=[pb.StateCount(state=str(s), count=n) for s, n in counts.items() if n],
            funnel=funnel_message(
                self._state.funnel((self._settings.imaging.reference,)),
                self._state.studies.count_late(),
            ),
            federation=pb.FederationStatus(
                coordinator=federation.coordinator,
                state=federation.state,
                last_contact=federation.last_contact,
                run=federation.run,
                round=federation.round,
                rounds=federation.rounds,
                task=federation.task,
                certificate_expires=federation.certificate_expires,
                detail=federation.detail,
                waits=federation.waits,
                halted=self._state.runs.halted() is not None,
            ),
            stages=[timing_message(t) for t in self._state.stage_timings()],
            disk_free_bytes=shutil.disk_usage(self._home.root).free,
            open_items=self._open_items(counts),
            audit_intact=checked.ok,
            recent=[audit_message(entry) for entry in self._recent()],
            dicom_address=f"{dicom.ae_title} @ {dicom.host}:{dicom.port}",
            warnings=federation.warnings,
        )

    def _recent(self) -> list[AuditEntry]:
        """The newest entries; none where the log is damaged, which ``audit_intact`` says."""
        try:
            return tail(self._audit.path, 20)
        except ValueError:
            return []

    def _open_items(self, counts: dict[State, int]) -> int:
        """Plans, models, results and studies that wait for a person."""
        plans = sum(p.state is Decision.PENDING for p in self._state.plans.select())
        models = sum(m.state is Decision.PENDING for m in self._state.models.select())
        waiting = (ResultState.HELD, ResultState.REFUSED)
        held = sum(r.state in waiting for r in self._state.results.select())
        return plans + models + held + counts[State.QUARANTINED]

    @answering
    def EchoPacs(self, request: pb.PacsRequest, context: grpc.ServicerContext) -> pb.PacsEcho:
        """C-ECHO."""
        del context
        view = self._operations.echo(request.pacs)
        return pb.PacsEcho(
            pacs=view.pacs, ok=view.ok, message=view.message, milliseconds=view.milliseconds
        )

    @answering
    def FindStudies(self, request: pb.FindRequest, context: grpc.ServicerContext) -> pb.FindReply:
        """C-FIND; revealing identifiers is written to the audit log."""
        found = self._operations.find(request.pacs, reveal=request.reveal)
        if request.reveal:
            self._audit.append(
                actor_of(context), "pacs.revealed", request.pacs or "first", {"count": len(found)}
            )
        return pb.FindReply(
            studies=[
                pb.FoundStudy(
                    key=f.key,
                    modalities=f.modalities,
                    instances=f.instances,
                    known=f.known,
                    patient=f.patient,
                    date=f.date,
                    description=f.description,
                )
                for f in found
            ]
        )

    @answering
    def PullStudies(self, request: pb.PullRequest, context: grpc.ServicerContext) -> pb.PullReply:
        """Take in studies."""
        view = self._operations.pull(request.pacs, tuple(request.keys))
        self._audit.append(
            actor_of(context),
            "pacs.pulled",
            request.pacs or "first",
            {"matched": view.matched, "added": view.added, "refused": view.refused},
        )
        return pb.PullReply(matched=view.matched, added=view.added, message=view.words)

    @answering
    def ListStudies(
        self, request: pb.ListStudiesRequest, context: grpc.ServicerContext
    ) -> pb.StudyList:
        """Studies, optionally of one state."""
        del context
        state = _state_named(request.state)
        rows = self._state.studies.select(
            state=state, limit=request.limit or MOST_STUDIES, offset=request.offset
        )
        splits = self._splits()
        studies = [
            study_message(
                row,
                self._state.studies.runs(row.study_key),
                splits.get(row.study_key, ""),
                self._settings.imaging.reference,
            )
            for row in rows
        ]
        return pb.StudyList(studies=studies, total=self._state.studies.count(state))

    def _splits(self) -> dict[str, str]:
        frozen = [
            d
            for d in self._state.datasets.select()
            if d.state in (DatasetState.FROZEN, DatasetState.APPROVED)
        ]
        return {m.study_key: m.split for d in frozen for m in self._state.datasets.members(d.name)}

    @answering
    def ShowStudy(self, request: pb.ItemRequest, context: grpc.ServicerContext) -> pb.StudyDetail:
        """One study."""
        del context
        key = self._state.studies.resolve(request.key)
        study = study_message(
            self._state.studies.get(key),
            self._state.studies.runs(key),
            self._splits().get(key, ""),
            self._settings.imaging.reference,
        )
        results = self._state.results.select(study_key=key)
        files, report = list(self._operations.files(key)), self._operations.report(key)
        return detail_message(study, self._operations.qc(key), files, results, report)

    @answering
    def ReportStudy(self, request: pb.ItemRequest, context: grpc.ServicerContext) -> pb.Report:
        """Where a study's report lies."""
        del context
        row = self._state.studies.get(self._state.studies.resolve(request.key))
        path = self._operations.report(row.study_key)
        if path is None:
            raise NotFound(
                f"the study has no report yet: the check draws it, and the study is {row.state}"
                + (f" ({row.reason})" if row.reason else "")
            )
        return pb.Report(key=row.study_key, path=str(path.absolute()), state=str(row.state))

    @answering
    def RetryStudy(
        self, request: pb.ActionRequest, context: grpc.ServicerContext
    ) -> pb.ActionReply:
        """Try again."""
        return self._study_event(request, context, Event.RETRY, "it will be tried again")

    @answering
    def ReleaseStudy(
        self, request: pb.ActionRequest, context: grpc.ServicerContext
    ) -> pb.ActionReply:
        """Go on past the check that stopped it."""
        if not request.reason.strip():
            raise NotAllowed("say why with --reason: a release overrules a check")
        return self._study_event(request, context, Event.RELEASE, "it goes on")

    def _study_event(
        self,
        request: pb.ActionRequest,
        context: grpc.ServicerContext,
        event: Event,
        words: str,
    ) -> pb.ActionReply:
        key = self._state.studies.resolve(request.key)
        row = self._state.studies.apply(key, event, reason=request.reason)
        self._audit.append(actor_of(context), f"study.{event}", key, {"reason": request.reason})
        self._operations.wake()
        return pb.ActionReply(key=key, state=str(row.state), message=f"{key}: {words}")

    @answering
    def ReopenStudy(
        self, request: pb.ActionRequest, context: grpc.ServicerContext
    ) -> pb.ActionReply:
        """Fetch and process it once more."""
        key = self._state.studies.resolve(request.key)
        row = self._operations.reopen(key, actor=actor_of(context), reason=request.reason)
        self._operations.wake()
        words = f"{key}: it is fetched again as version {row.version}"
        return pb.ActionReply(key=key, state=str(row.state), message=words)

    @answering
    def WithdrawPatient(
        self, request: pb.ActionRequest, context: grpc.ServicerContext
    ) -> pb.ActionReply:
        """Erase all of a patient."""
        return self._custody.withdraw_patient(request, actor_of(context))

    @answering
    def RevealIdentity(
        self, request: pb.ActionRequest, context: grpc.ServicerContext
    ) -> pb.Identity:
        """Who a study's patient is; for a custodian, audited."""
        return self._custody.reveal(request, context)

    @answering
    def WithdrawStudy(
        self, request: pb.ActionRequest, context: grpc.ServicerContext
    ) -> pb.ActionReply:
        """Erase for every later use."""
        key = self._state.studies.resolve(request.key)
        row = self._operations.withdraw(key, reason=request.reason)
        self._audit.append(actor_of(context), "study.withdraw", key, {"reason": request.reason})
        self._operations.wake()
        words = f"{key}: withdrawn, its files are erased for every later use"
        return pb.ActionReply(key=key, state=str(row.state), message=words)

    @answering
    def ListDatasets(
        self, request: pb.ListRequest, context: grpc.ServicerContext
    ) -> pb.DatasetList:
        """Data sets."""
        del request, context
        return pb.DatasetList(datasets=[dataset_message(d) for d in self._state.datasets.select()])

    @answering
    def ShowDataset(self, request: pb.ItemRequest, context: grpc.ServicerContext) -> pb.Dataset:
        """One data set."""
        del context
        return dataset_message(self._state.datasets.get(request.key))

    @answering
    def ReportDataset(self, request: pb.ItemRequest, context: grpc.ServicerContext) -> pb.Report:
        """Draw a data set's report."""
        del context
        path = self._operations.dataset_report(request.key)
        state = self._state.datasets.get(request.key).state
        return pb.Report(key=request.key, path=str(path.absolute()), state=str(state))

    @answering
    def CreateDataset(
        self, request: pb.CreateDatasetRequest, context: grpc.ServicerContext
    ) -> pb.Dataset:
        """An open data set."""
        row = self._operations.create_dataset(request.name, tuple(request.tags))
        self._audit.append(actor_of(context), "dataset.created", row.name, {})
        return dataset_message(row)

    @answering
    def FreezeDataset(self, request: pb.ActionRequest, context: grpc.ServicerContext) -> pb.Dataset:
        """Fix members and split."""
        row = self._operations.freeze_dataset(request.key)
        self._audit.append(
            actor_of(context),
            "dataset.frozen",
            row.name,
            {"hash": row.hash, "cases": row.cases, "reason": request.reason},
        )
        return dataset_message(row)

    @answering
    def FingerprintDataset(
        self, request: pb.ItemRequest, context: grpc.ServicerContext
    ) -> pb.DatasetFingerprint:
        """What would leave the site."""
        del context
        found = self._operations.fingerprint(request.key)
        return pb.DatasetFingerprint(name=request.key, document=found.to_json())

    @answering_each
    def ImportLabels(
        self, request: pb.ImportLabelsRequest, context: grpc.ServicerContext
    ) -> Iterator[pb.ImportedLabel]:
        """Masks that a table names, row by row; what was done is in the audit log at the end."""
        accepted = {EMPTY: request.accept_empty, DOUBTFUL: request.accept_doubtful}
        options = ImportOptions(
            frozenset(word for word, given in accepted.items() if given), request.dry_run
        )
        counts: Counter[str] = Counter()
        try:
            for row in self._operations.import_labels(Path(request.table), options):
                counts[row.outcome] += 1
                yield imported_message(row)
        finally:
            if counts:
                detail: dict[str, JSON] = {**counts, "dry_run": request.dry_run}
                detail |= {"accepted": sorted(options.accept), "reason": request.reason}
                self._audit.append(actor_of(context), "labels.imported", "table", detail)
                self._operations.wake()

    @answering
    def ApproveDataset(
        self, request: pb.ActionRequest, context: grpc.ServicerContext
    ) -> pb.ActionReply:
        """Let plans use it."""
        row = self._governance.approve_dataset(
            request.key, actor=actor_of(context), reason=request.reason
        )
        words = f"{row.name}: approved plans may use it"
        return pb.ActionReply(key=row.name, state=str(row.state), message=words)

    @answering
    def RevokeDataset(
        self, request: pb.ActionRequest, context: grpc.ServicerContext
    ) -> pb.ActionReply:
        """Forbid later use."""
        row = self._governance.revoke_dataset(
            request.key, actor=actor_of(context), reason=request.reason
        )
        words = f"{row.name}: no plan may use it any more"
        return pb.ActionReply(key=row.name, state=str(row.state), message=words)

    @answering
    def ListPlans(self, request: pb.ListRequest, context: grpc.ServicerContext) -> pb.PlanList:
        """Plans."""
        del request, context
        rows = self._state.plans.select()
        return pb.PlanList(plans=[plan_message(p, self._governance.amended(p)) for p in rows])

    @answering
    def ShowPlan(self, request: pb.ItemRequest, context: grpc.ServicerContext) -> pb.Plan:
        """One plan."""
        del context
        row = self._state.plans.get(self._state.plans.resolve(request.key))
        return plan_message(row, self._governance.amended(row))

    @answering
    def ApprovePlan(
        self, request: pb.ActionRequest, context: grpc.ServicerContext
    ) -> pb.ActionReply:
        """Approve."""
        key = self._state.plans.resolve(request.key)
        row = self._governance.approve_plan(key, actor=actor_of(context), reason=request.reason)
        words = f"plan {row.name} is approved for data set {row.dataset}"
        return pb.ActionReply(key=key, state=str(row.state), message=words)

    @answering
    def RejectPlan(
        self, request: pb.ActionRequest, context: grpc.ServicerContext
    ) -> pb.ActionReply:
        """Reject."""
        key = self._state.plans.resolve(request.key)
        row = self._governance.reject_plan(key, actor=actor_of(context), reason=request.reason)
        words = f"plan {row.name} is rejected"
        return pb.ActionReply(key=key, state=str(row.state), message=words)

    @answering
    def ListRuns(self, request: pb.ListRequest, context: grpc.ServicerContext) -> pb.RunList:
        """Federated runs."""
        del request, context
        return self._running.runs()

    @answering
    def LeaveRun(self, request: pb.ActionRequest, context: grpc.ServicerContext) -> pb.ActionReply:
        """Take no further part in a run."""
        return self._running.leave(request, actor_of(context))

    @answering
    def HaltRuns(self, request: pb.ActionRequest, context: grpc.ServicerContext) -> pb.ActionReply:
        """Take part in nothing."""
        return self._running.halt(request, actor_of(context))

    @answering
    def ResumeRuns(
        self, request: pb.ActionRequest, context: grpc.ServicerContext
    ) -> pb.ActionReply:
        """Take part again."""
        return self._running.resume(request, actor_of(context))

    @answering
    def ListModels(self, request: pb.ListRequest, context: grpc.ServicerContext) -> pb.ModelList:
        """Models."""
        del request, context
        return pb.ModelList(models=[model_message(m) for m in self._state.models.select()])

    @answering
    def ShowModel(self, request: pb.ItemRequest, context: grpc.ServicerContext) -> pb.Model:
        """One model."""
        del context
        return model_message(self._state.models.get(self._state.models.resolve(request.key)))

    @answering
    def AcceptModel(
        self, request: pb.ActionRequest, context: grpc.ServicerContext
    ) -> pb.ActionReply:
        """Accept."""
        key = self._state.models.resolve(request.key)
        self._governance.accept_model(key, actor=actor_of(context), reason=request.reason)
        self._operations.wake()
        words = f"model {key[:12]} is accepted: it segments this hospital's studies"
        return pb.ActionReply(key=key, state="accepted", message=words)

    @answering
    def RejectModel(
        self, request: pb.ActionRequest, context: grpc.ServicerContext
    ) -> pb.ActionReply:
        """Reject."""
        key = self._state.models.resolve(request.key)
        self._governance.reject_model(key, actor=actor_of(context), reason=request.reason)
        words = f"model {key[:12]} is rejected"
        return pb.ActionReply(key=key, state="rejected", message=words)

    @answering
    def ListResults(self, request: pb.ListRequest, context: grpc.ServicerContext) -> pb.ResultList:
        """Results."""
        del request, context
        rows = self._state.results.select()
        return pb.ResultList(results=[result_message(r, self._commitment(r)) for r in rows])

    def _commitment(self, row: ResultRow) -> str:
        wanted = any(p.name == row.destination and p.commitment for p in self._settings.pacs)
        return commitment_words(row, self._state.results.commitments(row.key), wanted=wanted)

    @answering
    def ShowResult(self, request: pb.ItemRequest, context: grpc.ServicerContext) -> pb.Result:
        """One result."""
        del context
        key = self._state.results.resolve(request.key)
        row = self._state.results.get(key)
        objects, history = self._state.results.objects(key), self._state.results.events(key)
        return result_detail(row, self._commitment(row), objects, history)

    @answering
    def ReleaseResult(
        self, request: pb.ActionRequest, context: grpc.ServicerContext
    ) -> pb.ActionReply:
        """Release to a destination."""
        key = self._state.results.resolve(request.key)
        row = self._operations.release_result(
            key, actor=actor_of(context), destination=request.destination
        )
        detail = {"destination": row.destination, "reason": request.reason}
        self._audit.append(actor_of(context), "result.released", key, dict(detail))
        words = f"{key}: released to {row.destination}"
        return pb.ActionReply(key=key, state=str(row.state), message=words)

    @answering
    def HoldResult(
        self, request: pb.ActionRequest, context: grpc.ServicerContext
    ) -> pb.ActionReply:
        """Hold."""
        key = self._state.results.resolve(request.key)
        row = self._operations.hold_result(key, reason=request.reason)
        self._audit.append(actor_of(context), "result.held", key, {"reason": request.reason})
        return pb.ActionReply(key=key, state=str(row.state), message=f"{key}: held")

    @answering
    def SendResult(
        self, request: pb.ActionRequest, context: grpc.ServicerContext
    ) -> pb.ActionReply:
        """Send now."""
        key = self._state.results.resolve(request.key)
        row = self._operations.send_result(key)
        self._audit.append(actor_of(context), "result.send-asked", key, {"reason": request.reason})
        return pb.ActionReply(key=key, state=str(row.state), message=f"{key}: {row.state}")

    @answering
    def ListAudit(
        self, request: pb.ListAuditRequest, context: grpc.ServicerContext
    ) -> pb.AuditList:
        """The newest entries."""
        del context
        try:
            entries = list(read_entries(self._audit.path))
        except ValueError as error:
            raise ControlError(
                "the audit log is damaged: `clinode audit verify` names the line"
            ) from error
        chosen = [e for e in entries if not request.action or e.action == request.action]
        return pb.AuditList(
            entries=[audit_message(e) for e in chosen[-(request.limit or 100) :]],
            total=len(entries),
        )

    @answering
    def VerifyAudit(
        self, request: pb.ListRequest, context: grpc.ServicerContext
    ) -> pb.AuditVerification:
        """The hash chain from the first entry on."""
        del request, context
        found = verify(self._audit.path)
        words = found.words or f"the chain of {found.entries} entries is intact"
        return pb.AuditVerification(intact=found.ok, entries=found.entries, message=words)


def _state_named(name: str) -> State | None:
    if not name:
        return None
    try:
        return State(name)
    except ValueError:
        known = ", ".join(State)
        raise NotAllowed(f"there is no study state {name!r}; the states are {known}") from None
