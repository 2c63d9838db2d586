"""What a demonstration found out: plain data that the table, the JSON and the report share."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Dice:
    """Dice over a site's held-out cases: mean and SD over ``cases`` cases, each in 0..1."""

    mean: float
    sd: float
    cases: int

    def words(self) -> str:
        """Mean and SD for a table.

        >>> Dice(0.61, 0.052, 2).words()
        '0.61 ± 0.05'
        """
        return f"{self.mean:.2f} ± {self.sd:.2f}"


@dataclass(frozen=True, slots=True)
class UnlabelledStudy:
    """One study without an expert's label and what became of it.

    Attributes:
        key: the node's pseudonymous study key.
        source: ``phantom`` or ``real``.
        state: the study's state at the node.
        outcome: ``SEG in PACS``, ``no finding``, ``input FLAIR missing``, or why there is none.
        volume_ml: what the model segmented, in ml.
        proof: how the result was checked, in words.
    """

    key: str
    source: str
    state: str
    outcome: str
    volume_ml: float = 0.0
    proof: str = ""


@dataclass(frozen=True, slots=True)
class Picture:
    """One FLAIR slice with contours, as PNG bytes in base64, and its caption."""

    png_base64: str
    caption: str
    expert_ml: float
    model_ml: float
    dice: float


@dataclass(frozen=True, slots=True)
class Hospital:
    """One hospital's line of the final table."""

    name: str
    scanner: str
    pacs: str
    offered: int
    fetched: int
    converted: int
    passed_qc: int
    quarantined: tuple[tuple[str, int], ...]
    trained: int
    dice_before: Dice | None
    dice_after: Dice | None
    segs_expected: int
    segs_found: int
    no_finding: int
    unlabelled: tuple[UnlabelledStudy, ...]
    stage_seconds: tuple[tuple[str, float], ...]
    approval: str
    release: str
    picture: Picture | None = None


@dataclass(frozen=True, slots=True)
class SiteRound:
    """One site's part of one round; seconds."""

    site: str
    train_s: float
    wait_s: float
    transfer_s: float
    loss: float | None = None
    dice: float | None = None


@dataclass(frozen=True, slots=True)
class Round:
    """One round; seconds."""

    number: int
    aggregate_s: float
    total_s: float
    sites: tuple[SiteRound, ...]


@dataclass(frozen=True, slots=True)
class Outcome:
    """The whole demonstration; ``problems`` is empty exactly when all of it is true."""

    version: str
    started: str
    seconds: float
    phases: tuple[tuple[str, float], ...]
    hospitals: tuple[Hospital, ...]
    rounds: tuple[Round, ...]
    plan_name: str
    plan_hash: str
    model_id: str
    problems: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    peak_memory_bytes: int = 0
    format: int = field(default=1)

    def document(self) -> dict[str, Any]:
        """JSON-able data; the pictures are left out, they are in the report."""
        document = asdict(self)
        for hospital in document["hospitals"]:
            hospital.pop("picture")
        document["ok"] = not self.problems
        return document
