"""What the federation asks of a site. The appliance implements it; no other way leads in.

The agent calls these methods from its own thread. A method that cannot do its work raises
``federation.errors.SiteFailed`` with a sentence that may travel to the coordinator; of any other
exception only the class name travels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from federation.canonical import JSON

if TYPE_CHECKING:
    from federation.manifest import ModelManifest
    from federation.plan import SignedPlan
    from federation.trainer import Trainer, TrainerResources

EVALUATED = "model.evaluated"
"""Action of `SitePort.record` under which a site keeps the Dice of given weights on its cases."""


class Decision(StrEnum):
    """A custodian's word on a plan."""

    PENDING = "pending"
    APPROVED = "approved"
    REJECTED = "rejected"


@dataclass(frozen=True, slots=True)
class PlanDecision:
    """The decision and, where rejected, why (travels to the coordinator; names nobody)."""

    decision: Decision
    reason: str = ""

    @classmethod
    def pending(cls) -> PlanDecision:
        """Nobody has decided yet."""
        return cls(Decision.PENDING)

    @classmethod
    def approved(cls) -> PlanDecision:
        """The plan may run here."""
        return cls(Decision.APPROVED)

    @classmethod
    def rejected(cls, reason: str) -> PlanDecision:
        """The plan may not run here."""
        return cls(Decision.REJECTED, reason)


class Stand(StrEnum):
    """How a run stands at a site, whatever the plan's decision says."""

    TAKING_PART = "taking part"
    HALTED = "halted"
    """The custodian has halted all runs here, until she lets them go on."""
    LEFT = "left"
    """The custodian left this run for good."""


@dataclass(frozen=True, slots=True)
class Standing:
    """How a run stands at the site now.

    Attributes:
        stand: whether it may go on.
        words: why not; travels to the coordinator and names nobody.
        withdrawn: how many members of the plan's data were withdrawn so far. Work that began at a
            lower number may hold a withdrawn patient's data and does not leave the site.
    """

    stand: Stand = Stand.TAKING_PART
    words: str = ""
    withdrawn: int = 0


@dataclass(frozen=True, slots=True)
class Parting:
    """A run that the custodian left; the coordinator has not been told yet."""

    run_id: str
    words: str


@dataclass(frozen=True, slots=True)
class DataSummary:
    """The frozen data set in numbers: cases per split and the hash that names it.

    ``training`` is the upper limit of the weight that the coordinator accepts from this site.
    """

    training: int
    validation: int
    test: int
    unlabelled: int
    dataset_hash: str


@dataclass(frozen=True, slots=True)
class PublishCounts:
    """What inference with a published model gave: counts only.

    Attributes:
        studies: studies that the model was asked for.
        segmented: studies with a result.
        no_finding: studies in which the model found nothing.
        skipped: studies that could not be used (missing input, withdrawn, ...).
        failed: studies whose inference failed.
        held: results waiting for release.
        sent: results sent to the PACS.
    """

    studies: int
    segmented: int
    no_finding: int = 0
    skipped: int = 0
    failed: int = 0
    held: int = 0
    sent: int = 0


class SitePort(Protocol):
    """The site as the agent sees it. Every method may be called again after a restart."""

    def offer(self, plan: SignedPlan) -> None:
        """Keep a plan for the custodian's decision; a known plan changes nothing."""
        ...

    def decision(self, plan_hash: str) -> PlanDecision:
        """What the custodian has decided so far."""
        ...

    def standing(self, run_id: str, plan_hash: str) -> Standing:
        """Whether a run may go on here now; asked several times a second while work goes on."""
        ...

    def partings(self) -> Sequence[Parting]:
        """Runs that were left and of which the coordinator has not been told."""
        ...

    def parted(self, run_id: str, words: str) -> None:
        """The coordinator knows that the site left; ``words`` are its answer."""
        ...

    def summary(self, plan_hash: str) -> DataSummary:
        """The data that the plan would use."""
        ...

    def fingerprint(self, plan_hash: str) -> bytes:
        """The fingerprint of the plan's data, as canonical JSON (`federation.fingerprint`)."""
        ...

    def prepare(self, plan_hash: str) -> Path:
        """Make (once) and give the folder ``prepared-<hash>`` with ``manifest.json``."""
        ...

    def run_folder(self, run_id: str) -> Path:
        """The run's folder in the research zone; the agent keeps its journal there."""
        ...

    def resources(self) -> TrainerResources:
        """Threads and device that training may use."""
        ...

    def model_offered(self, manifest: ModelManifest, weights: Path) -> None:
        """Keep a finished model for the custodian's acceptance; a known one changes nothing."""
        ...

    def publish(
        self, manifest: ModelManifest, weights: Path, trainer: Trainer
    ) -> PublishCounts | None:
        """Run inference with an accepted model.

        Returns:
            Counts, or None while the custodian has not accepted the model: asked again later.
        """
        ...

    def record(self, action: str, detail: Mapping[str, JSON]) -> None:
        """Write an entry of the site's audit log and show progress."""
        ...
