"""Rows of the state as messages of the control API."""

from __future__ import annotations

import json
from pathlib import Path

from appliance.control import node_pb2 as pb
from appliance.control.operations import QcView
from appliance.governance import plan_of
from appliance.labels.importing import Imported
from appliance.pipeline.states import WAY
from appliance.store import (
    Commitment,
    DatasetRow,
    Decision,
    Funnel,
    ModelRow,
    PlanRow,
    ResultEvent,
    ResultObject,
    ResultRow,
    StageRun,
    StageTiming,
    StudyRow,
)
from federation.amendment import changes
from federation.audit_chain import AuditEntry
from federation.errors import FederationError
from federation.plan import SignedPlan

MODEL_STATES = {
    Decision.PENDING: "offered",
    Decision.APPROVED: "accepted",
    Decision.REJECTED: "rejected",
}


def study_message(row: StudyRow, runs: list[StageRun], split: str, reference: str) -> pb.Study:
    """A study; an input that is missing is said in ``reason`` when it is ready."""
    reason = row.reason
    if row.state is WAY[-1] and not reason and reference not in row.inputs:
        reason = f"input {reference} missing"
    return pb.Study(
        key=row.study_key,
        subject=f"sub-{row.subject}",
        session=f"ses-{row.session}",
        state=str(row.state),
        reason=reason,
        instances=row.received,
        inputs=row.inputs,
        labelled=row.labelled,
        split=split,
        version=row.version,
        late=row.late,
        updated=row.updated_at,
        stages=[
            pb.StageRecord(
                stage=str(run.stage),
                state=run.outcome,
                started=run.started,
                finished=run.finished or "",
                seconds=run.seconds,
                attempt=run.attempt,
                detail=run.detail,
            )
            for run in runs
        ],
    )


def detail_message(
    study: pb.Study, qc: QcView, files: list[str], results: list[ResultRow], report: Path | None
) -> pb.StudyDetail:
    """A study with QC, files, results and the place of its report."""
    return pb.StudyDetail(
        study=study,
        qc=[
            pb.Metric(
                name=m.name,
                value=m.value,
                unit=m.unit,
                direction=m.direction,
                decision=m.decision,
            )
            for m in qc.metrics
        ],
        qc_decision=qc.decision,
        qc_reasons=qc.reasons,
        files=files,
        results=[result_message(row) for row in results],
        report=str(report or ""),
    )


def imported_message(row: Imported) -> pb.ImportedLabel:
    """One row of an imported table."""
    return pb.ImportedLabel(
        line=row.line,
        study=row.study,
        modality=row.modality,
        outcome=row.outcome,
        reason=row.reason,
        notes=row.notes,
        volume_ml=row.volume_ml,
        lesions=row.lesions,
        total=row.total,
    )


def dataset_message(row: DatasetRow) -> pb.Dataset:
    """A data set."""
    return pb.Dataset(
        name=row.name,
        state=str(row.state),
        hash=row.hash,
        cases=row.cases,
        training=row.training,
        test=row.test,
        unlabelled=row.unlabelled,
        created=row.created_at,
        frozen=row.frozen_at or "",
        tags=row.tags,
        erased=row.erased,
    )


def plan_message(row: PlanRow, amended: PlanRow | None = None) -> pb.Plan:
    """A plan with the bytes that were signed; the signature is checked again here.

    Args:
        row: the plan.
        amended: the plan that it takes the place of in a run under way, or None.
    """
    message = pb.Plan(
        hash=row.hash,
        name=row.name,
        signer=row.signer,
        state=str(row.state),
        decided_by=row.decided_by,
        decided_at=row.decided_at or "",
        reason=row.reason,
        offered_at=row.offered_at,
        dataset=row.dataset or "",
    )
    try:
        signed = SignedPlan.from_json(row.document.encode("utf-8"))
    except FederationError:
        message.signature_valid = False
        return message
    message.signature_valid = signed.hash == row.hash
    message.canonical = signed.canonical.decode("utf-8")
    message.rounds = signed.plan.training.rounds
    message.sends.extend(signed.plan.update.leaving(signed.plan.sends))
    message.amends = signed.plan.amends or ""
    if amended is not None:
        found = changes(plan_of(amended), signed.plan)
        message.changes.extend(change.words for change in found)
    return message


def model_message(row: ModelRow) -> pb.Model:
    """A model."""
    return pb.Model(
        id=row.id,
        plan=row.plan_hash,
        state=MODEL_STATES[row.state],
        round=row.round,
        manifest=row.manifest,
        offered_at=row.offered_at,
        decided_by=row.decided_by,
        reason=row.reason,
    )


def result_message(row: ResultRow, commitment: str = "") -> pb.Result:
    """A result.

    Args:
        row: the result.
        commitment: where storage commitment is, as `commitment_words` says it.
    """
    return pb.Result(
        key=row.key,
        study=row.study_key,
        model=row.model_id,
        state=str(row.state),
        reason=row.reason,
        destination=row.destination,
        volume_ml=row.volume_ml,
        lesions=row.lesions,
        created=row.created_at,
        sent=row.sent_at or "",
        no_finding=not row.found,
        algorithm=row.algorithm,
        predecessor=row.predecessor,
        commitment=commitment,
        committed=row.committed_at or "",
        attempt=row.attempt,
        next_try=row.not_before or "",
        decided_by=row.decided_by,
    )


def result_detail(
    row: ResultRow,
    commitment: str,
    objects: list[ResultObject],
    history: list[ResultEvent],
) -> pb.Result:
    """A result with its objects, findings and history."""
    message = result_message(row, commitment)
    message.objects.extend(
        pb.ResultObject(
            form=item.form,
            key=item.object_key,
            state=item.state,
            reason=item.reason,
            bytes=item.size,
        )
        for item in objects
    )
    message.findings.extend(pb.ResultFinding(**finding) for finding in json.loads(row.findings))
    message.history.extend(
        pb.ResultStep(time=event.at, state=str(event.state), detail=event.detail)
        for event in history
    )
    return message


def commitment_words(row: ResultRow, transactions: list[Commitment], *, wanted: bool) -> str:
    """Where storage commitment of a result is: off, waiting, asked, expired or committed."""
    if row.committed_at:
        return "committed"
    if not wanted:
        return "off"
    last = transactions[-1].state if transactions else ""
    return {"pending": "asked", "planned": "asked", "expired": "expired"}.get(last, "waiting")


def funnel_message(funnel: Funnel, late: int = 0) -> pb.Funnel:
    """How many studies got how far, and how many have late images in the PACS."""
    return pb.Funnel(
        late=late,
        offered=funnel.offered,
        fetched=funnel.fetched,
        converted=funnel.converted,
        passed_qc=funnel.passed_qc,
        quarantined=funnel.quarantined,
        trained=funnel.trained,
        ready=funnel.ready,
        quarantine_reasons=[
            pb.ReasonCount(reason=reason, count=count)
            for reason, count in sorted(funnel.quarantine_reasons.items())
        ],
    )


def timing_message(timing: StageTiming) -> pb.StageSeconds:
    """Seconds of one stage."""
    return pb.StageSeconds(
        stage=str(timing.stage),
        studies=timing.studies,
        seconds_total=timing.seconds_total,
        seconds_median=timing.seconds_median,
    )


def audit_message(entry: AuditEntry) -> pb.AuditEntry:
    """One entry of the audit log."""
    return pb.AuditEntry(
        sequence=entry.seq,
        time=entry.at,
        actor=entry.actor,
        action=entry.action,
        object=entry.object,
        detail=json.dumps(dict(entry.detail), sort_keys=True),
        hash=entry.hash,
    )
