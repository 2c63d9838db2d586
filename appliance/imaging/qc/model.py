"""What the quality check measures against and what it says."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from appliance.imaging.registration import Registration
from appliance.imaging.volume import Volume

Direction = Literal["higher", "lower", "none"]
Decision = Literal["pass", "review", "fail"]

SEVERITY: dict[Decision, int] = {"pass": 0, "review": 1, "fail": 2}


@dataclass(frozen=True, slots=True)
class Metric:
    """One measured figure.

    Attributes:
        name: Stable name, image first ("t1w_snr", "flair_ghosting").
        value: The figure, or None where it cannot be measured on this image.
        unit: "mm", "ml", "ratio", "share" or "1".
        direction: Which way is better; "none" for figures that are only described.
    """

    name: str
    value: float | None
    unit: str
    direction: Direction


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that speaks against an image.

    Attributes:
        decision: "review" (a person should look) or "fail".
        words: One sentence for a person: what was expected and what came.
    """

    decision: Decision
    words: str


@dataclass(frozen=True, slots=True)
class Protocol:
    """What an image's geometry should be.

    Attributes:
        spacing_mm: Expected voxel size along the image's axes; None accepts any within the limits.
        tolerance_mm: Allowed difference from `spacing_mm` per axis.
        voxel_size_mm: Smallest and largest allowed voxel edge; beyond is "fail".
        in_plane_mm: Largest edge within the slice plane (the two smaller ones) before "review".
        anisotropy: Largest ratio of the longest to the shortest edge before "review".
        matrix: Fewest voxels along each axis, sorted ascending, before "fail".
        extent_mm: Shortest field of view along each axis, sorted ascending, before "fail".
        border_share: Share of the brain's largest cross-section that may lie on an image border
            before "review", for every border but the lowest.
        border_share_fail: The same before "fail".
        lower_border_share: The same for the lowest border, where the brain stem leaves.
        lower_border_share_fail: The same before "fail".
        head_top_share: Share of the head's largest section on the top border: (review, fail).
        head_side_share: The same on the left and right borders.
    """

    spacing_mm: tuple[float, float, float] | None = None
    tolerance_mm: float = 0.1
    voxel_size_mm: tuple[float, float] = (0.2, 7.0)
    in_plane_mm: float = 2.6
    anisotropy: float = 10.0
    matrix: tuple[int, int, int] = (12, 64, 64)
    extent_mm: tuple[float, float, float] = (60.0, 120.0, 120.0)
    border_share: float = 0.25
    border_share_fail: float = 0.5
    lower_border_share: float = 0.4
    lower_border_share_fail: float = 0.7
    head_top_share: tuple[float, float] = (0.65, 0.8)
    head_side_share: tuple[float, float] = (0.3, 0.6)


Bounds = tuple[float | None, float | None]
"""Where a figure asks for a person (first) and where it refuses (second); None: not checked."""


@dataclass(frozen=True, slots=True, eq=False)
class QualityInput:
    """Images and masks whose quality is judged.

    Attributes:
        flair: The FLAIR, native grid, before or after defacing; None where there is none.
        t1: The T1, native grid; None where there is none.
        flair_brain: Brain mask on the FLAIR's grid.
        t1_brain: Brain mask on the T1's grid.
        registration: FLAIR (fixed) to T1 (moving); None where not registered.
        flair_head: Score of the atlas laid over the FLAIR (`Alignment.score`).
        t1_head: The same for the T1.
    """

    flair: Volume | None = None
    t1: Volume | None = None
    flair_brain: Volume | None = None
    t1_brain: Volume | None = None
    registration: Registration | None = None
    flair_head: float | None = None
    t1_head: float | None = None


@dataclass(frozen=True, slots=True)
class QcReport:
    """The outcome.

    Attributes:
        metrics: Every figure.
        decision: The worst of all findings.
        reasons: The findings in words, worst first; empty where all is well.
    """

    metrics: tuple[Metric, ...]
    decision: Decision
    reasons: tuple[str, ...] = field(default=())

    def value(self, name: str) -> float | None:
        """A metric's value by name.

        Raises:
            KeyError: no such metric.
        """
        return {metric.name: metric.value for metric in self.metrics}[name]


def decide(metrics: tuple[Metric, ...], findings: list[Finding]) -> QcReport:
    """Put metrics and findings together; the worst finding decides."""
    ordered = sorted(findings, key=lambda finding: -SEVERITY[finding.decision])
    decision: Decision = ordered[0].decision if ordered else "pass"
    return QcReport(metrics, decision, tuple(finding.words for finding in ordered))
