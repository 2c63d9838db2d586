"""What the quality check measures against and what it says."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from appliance.imaging.registration import Registration
from appliance.imaging.volume import Affine, Volume
from appliance.quality_table import Bounds, Direction

Decision = Literal["pass", "review", "fail"]
Origin = Literal["threshold", "site", "geometry", "label"]

SEVERITY: dict[Decision, int] = {"pass": 0, "review": 1, "fail": 2}


@dataclass(frozen=True, slots=True)
class Metric:
    """One measured figure.

    Attributes:
        name: Stable name, image first ("t1w_snr", "flair_ghosting").
        value: The figure, or None where it cannot be measured on this image.
        unit: "mm", "ml", "ratio", "share" or "1".
        direction: Which way is better; "none" for figures that are only described.
        threshold: Bounds (review, fail) that it was judged by; None where it is not judged by any.
        verdict: What follows from this figure alone; None where nothing judges it.
        z: Robust z against the site's own studies; None where there are too few, where they do
            not vary, or where the figure is not compared.
    """

    name: str
    value: float | None
    unit: str
    direction: Direction
    threshold: Bounds | None = None
    verdict: Decision | None = None
    z: float | None = None


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that speaks against an image.

    Attributes:
        decision: "review" (a person should look) or "fail".
        words: One sentence for a person: what was expected and what came.
        metric: Name of the figure that it is about, or empty.
        origin: What found it: a threshold, the site's distribution, the geometry or the label.
    """

    decision: Decision
    words: str
    metric: str = ""
    origin: Origin = "geometry"


@dataclass(frozen=True, slots=True)
class Protocol:
    """What an image's geometry should be.

    Attributes:
        spacing_mm: Expected voxel size, in any order of axes; None accepts any within the limits.
        tolerance_mm: Allowed difference from `spacing_mm` per axis.
        mismatch: What a larger difference means.
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
        head: Whether a head is expected; without it nothing is said of head and brain.
    """

    spacing_mm: tuple[float, float, float] | None = None
    tolerance_mm: float = 0.1
    mismatch: Decision = "review"
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
    head: bool = True


@dataclass(frozen=True, slots=True, eq=False)
class ImageInput:
    """One image whose quality is judged.

    Attributes:
        prefix: Start of its figures' names: its canonical modality in lower case.
        volume: The image, native grid, before or after defacing.
        brain: Brain mask on the image's grid; None where there is none.
        head: Score of the atlas laid over it (`Alignment.score`); None where it was not kept.
        atlas: 4 x 4 affine, MNI to the image's RAS world, mm (`Alignment.matrix`); without it the
            atlas is laid over the brain mask's box.
        registration: Reference (fixed) to this image (moving); None for the reference itself.
        protocol: Geometry to compare with.
    """

    prefix: str
    volume: Volume
    brain: Volume | None = None
    head: float | None = None
    atlas: Affine | None = None
    registration: Registration | None = None
    protocol: Protocol = field(default_factory=Protocol)


@dataclass(frozen=True, slots=True)
class QcReport:
    """The outcome.

    Attributes:
        metrics: Every figure.
        decision: The worst of all findings.
        reasons: The findings in words, worst first; empty where all is well.
        findings: The findings themselves, in the order of the reasons.
        site_studies: How many of the site's studies the figures were compared with.
    """

    metrics: tuple[Metric, ...]
    decision: Decision
    reasons: tuple[str, ...] = field(default=())
    findings: tuple[Finding, ...] = field(default=())
    site_studies: int = 0

    def value(self, name: str) -> float | None:
        """A metric's value by name.

        Raises:
            KeyError: no such metric.
        """
        return {metric.name: metric.value for metric in self.metrics}[name]


def decide(
    metrics: Sequence[Metric], findings: Sequence[Finding], *, site_studies: int = 0
) -> QcReport:
    """Put metrics and findings together; the worst finding decides.

    A figure's verdict becomes the worst finding about it.
    """
    ordered = sorted(findings, key=lambda finding: -SEVERITY[finding.decision])
    worst = {found.metric: found.decision for found in reversed(ordered)}
    judged = tuple(
        replace(metric, verdict=worst[metric.name]) if metric.name in worst else metric
        for metric in metrics
    )
    return QcReport(
        metrics=judged,
        decision=ordered[0].decision if ordered else "pass",
        reasons=tuple(finding.words for finding in ordered),
        findings=tuple(ordered),
        site_studies=site_studies,
    )
