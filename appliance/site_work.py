"""The node as the federation sees it: implements `federation.node.site_port.SitePort`.

Decisions are the custodian's (`appliance.governance`), data are the frozen data set's, results go
through `appliance.results`. Called from the agent's thread; every method may be called again.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import structlog

from appliance.errors import ApplianceError, NotFound
from appliance.fingerprint import fingerprint_of, rules_of
from appliance.governance import Governance
from appliance.home import Home
from appliance.participation import Participation
from appliance.preparation import Preparer
from appliance.result_states import IN_PACS
from appliance.results import Results
from appliance.settings import Settings
from appliance.store import DatasetState, Decision, NodeState, PlanRow, StudyRow
from dicom_bridge.errors import DicomBridgeError
from federation.audit_chain import AuditChain
from federation.canonical import JSON
from federation.errors import SiteFailed
from federation.learning.prepared import Split, read_manifest
from federation.manifest import ModelManifest
from federation.node.site_port import (
    DataSummary,
    Parting,
    PlanDecision,
    PublishCounts,
    Standing,
)
from federation.plan import SignedPlan
from federation.trainer import InferJob, Trainer, TrainerResources

_log = structlog.get_logger(__name__)

AGENT = "coordinator"
WEIGHTS_FILE = "weights.safetensors"
MANIFEST_FILE = "manifest.json"
_AUDITED = frozenset(
    {
        "federation.connected",
        "federation.refused",
        "task.reported",
        "task.waits",
        "task.repeated",
    }
)


@dataclass(frozen=True, slots=True)
class SiteParts:
    """What the site's work needs.

    Attributes:
        state: the node's state.
        home: the node home.
        settings: the node's settings.
        governance: decisions.
        preparer: prepared folders.
        results: segmentations.
        audit: the node's audit log.
        participation: runs left and halted.
    """

    state: NodeState
    home: Home
    settings: Settings
    governance: Governance
    preparer: Preparer
    results: Results
    audit: AuditChain
    participation: Participation


class SiteWork:
    """The site's side of the federation (see `SitePort` for what each method promises)."""

    def __init__(self, parts: SiteParts) -> None:
        self._parts = parts
        self._state = parts.state
        self._run = ""
        self._prepared: Path | None = None

    def offer(self, plan: SignedPlan) -> None:
        """Keep a plan for the custodian's decision."""
        if plan.plan.project != self._parts.settings.node.project:
            _log.info("plan_of_another_project", plan=plan.hash[:12])
        self._parts.governance.offer_plan(plan)

    def decision(self, plan_hash: str) -> PlanDecision:
        """What the custodian has decided so far; a revoked data set takes the approval back."""
        row = self._state.plans.find(plan_hash)
        if row is None or row.state is Decision.PENDING:
            return PlanDecision.pending()
        if row.state is Decision.REJECTED:
            return PlanDecision.rejected(row.reason)
        if self._state.datasets.get(row.dataset or "").state is not DatasetState.APPROVED:
            return PlanDecision.rejected("the data set of this plan was revoked")
        if self._parts.governance.approval_ended(row):
            return PlanDecision.rejected("the approval of this plan has ended")
        return PlanDecision.approved()

    def standing(self, run_id: str, plan_hash: str) -> Standing:
        """Whether a run may go on here now."""
        return self._parts.participation.standing(run_id, plan_hash)

    def partings(self) -> Sequence[Parting]:
        """Left runs of which the coordinator has not been told."""
        return self._parts.participation.partings()

    def parted(self, run_id: str, words: str) -> None:
        """The coordinator knows that the site left a run."""
        self._parts.participation.parted(run_id, words)

    def summary(self, plan_hash: str) -> DataSummary:
        """The plan's data in numbers.

        Raises:
            SiteFailed: the plan is not approved.
        """
        return self._parts.preparer.summary(self._approved(plan_hash))

    def fingerprint(self, plan_hash: str) -> bytes:
        """The fingerprint of the plan's data set, of the plan's inputs only.

        Raises:
            SiteFailed: the plan is not approved, or an image cannot be read.
        """
        row = self._approved(plan_hash)
        plan = SignedPlan.from_json(row.document.encode()).plan
        try:
            found = fingerprint_of(
                self._state,
                self._parts.home,
                row.dataset or "",
                rules_of(self._parts.settings.fingerprint),
                frozenset(entry.modality for entry in plan.inputs),
            )
        except ApplianceError as error:
            raise SiteFailed(f"no fingerprint could be made: {error}") from error
        return found.to_json()

    def prepare(self, plan_hash: str) -> Path:
        """The prepared folder of an approved plan.

        Raises:
            SiteFailed: the plan is not approved, or no case can be prepared.
        """
        self._prepared = self._parts.preparer.prepare(self._approved(plan_hash))
        return self._prepared

    def run_folder(self, run_id: str) -> Path:
        """The run's folder in the research zone."""
        folder = self._parts.home.run(run_id)
        folder.mkdir(parents=True, exist_ok=True)
        self._run = run_id
        return folder

    def resources(self) -> TrainerResources:
        """Threads and device of the site's budget."""
        section = self._parts.settings.resources
        return TrainerResources(threads=section.threads, device=section.device)

    def model_offered(self, manifest: ModelManifest, weights: Path) -> None:
        """Keep a finished model with its manifest and offer it to the custodian.

        Raises:
            SiteFailed: the weights are not the manifest's.
        """
        folder = self._parts.home.models / manifest.id
        kept = folder / WEIGHTS_FILE
        if not kept.exists():
            folder.mkdir(parents=True, exist_ok=True)
            part = kept.with_name(f"{WEIGHTS_FILE}.part")
            shutil.copyfile(weights, part)
            if not manifest.describes(part):
                part.unlink()
                raise SiteFailed("the model's weights are not those that its manifest names")
            (folder / MANIFEST_FILE).write_bytes(manifest.to_json())
            _sync(part)
            part.replace(kept)
        relative = kept.relative_to(self._parts.home.research).as_posix()
        self._parts.governance.offer_model(manifest, relative)

    def publish(
        self, manifest: ModelManifest, weights: Path, trainer: Trainer
    ) -> PublishCounts | None:
        """Segment the site's unlabelled studies with an accepted model; None while it is not.

        Raises:
            SiteFailed: the custodian rejected the model, or the plan's approval does not stand.
        """
        model = self._state.models.get(manifest.id)
        if model.state is Decision.REJECTED:
            raise SiteFailed(f"the custodian rejected the model: {model.reason}")
        if model.state is Decision.PENDING:
            return None
        row = self._approved(manifest.plan_hash)
        plan = SignedPlan.from_json(row.document.encode()).plan
        prepared = self.prepare(row.hash)
        studies = self._studies(prepared)
        waiting = [s for s in studies if not self._parts.results.known(s.version_key, manifest.id)]
        failed = 0
        if waiting:
            out = self._parts.home.models / manifest.id / "masks"
            out.mkdir(parents=True, exist_ok=True)
            cases = tuple(study.case for study in waiting)
            masks = trainer.infer(InferJob(plan, prepared, weights, cases, out)).masks
            for study in waiting:
                failed += not self._enter(study, manifest, masks.get(study.case))
            shutil.rmtree(out, ignore_errors=True)
        self._parts.results.send_due()
        return self._counts(row, manifest, studies, failed)

    def record(self, action: str, detail: Mapping[str, JSON]) -> None:
        """Write the audit log and the activity; a finished training task marks its cases."""
        self._state.activity.record(action, detail)
        if action in _AUDITED:
            self._parts.audit.append(AGENT, action, self._run, dict(detail))
        done = detail.get("outcome") == "done" and detail.get("accepted") is True
        if action == "task.reported" and done and detail.get("cases") and self._prepared:
            entries = read_manifest(self._prepared).of_split(Split.TRAIN)
            self._state.activity.trained(self._run, [entry.case for entry in entries])

    def rounds(self) -> int:
        """Rounds of the newest approved plan, 0 where there is none."""
        approved = [p for p in self._state.plans.select() if p.state is Decision.APPROVED]
        if not approved:
            return 0
        return SignedPlan.from_json(approved[-1].document.encode()).plan.training.rounds

    def _approved(self, plan_hash: str) -> PlanRow:
        try:
            row = self._state.plans.get(plan_hash)
        except NotFound as error:
            raise SiteFailed("this plan was never offered to this site") from error
        decision = self.decision(plan_hash)
        if decision != PlanDecision.approved():
            raise SiteFailed("the custodian's approval of this plan does not stand")
        return row

    def _studies(self, prepared: Path) -> list[StudyRow]:
        """The studies to segment: those of the prepared folder that have no label."""
        wanted = {entry.case for entry in read_manifest(prepared).of_split(Split.INFER)}
        everything = self._state.studies.select(limit=1_000_000)
        return [study for study in everything if study.case in wanted]

    def _enter(self, study: StudyRow, manifest: ModelManifest, mask: Path | None) -> bool:
        if mask is None:
            return False
        try:
            self._parts.results.enter(study, manifest, mask)
        except (ApplianceError, DicomBridgeError) as error:
            _log.warning("result_not_made", study=study.study_key, reason=str(error))
            self._state.activity.record(
                "result.failed", {"study": study.study_key, "reason": str(error)}
            )
            return False
        return True

    def _counts(
        self, row: PlanRow, manifest: ModelManifest, studies: list[StudyRow], failed: int
    ) -> PublishCounts:
        results = [
            result
            for study in studies
            for result in self._state.results.select(study_key=study.study_key)
            if result.model_id == manifest.id
        ]
        states = [result.state for result in results]
        empty = sum(not result.found for result in results)
        sent = sum(result.found and result.state in IN_PACS for result in results)
        members = self._state.datasets.members(row.dataset or "")
        unlabelled = sum(not member.labelled for member in members)
        return PublishCounts(
            studies=len(studies),
            segmented=len(states) - empty,
            no_finding=empty,
            skipped=max(0, unlabelled - len(studies)),
            failed=failed,
            held=len(states) - empty - sent,
            sent=sent,
        )


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
