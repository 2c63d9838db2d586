"""Image quality of a FLAIR and T1 pair after registration, and the decision."""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np

from appliance.imaging.grid import grid_of, resample
from appliance.imaging.qc.geometry import check_geometry, geometry_metrics
from appliance.imaging.qc.model import (
    Bounds,
    Direction,
    Finding,
    Metric,
    Protocol,
    QcReport,
    QualityInput,
    decide,
)
from appliance.imaging.qc.signal import (
    air_mask,
    entropy_focus,
    ghosting,
    mean_inside,
    noise_level,
    signal_to_noise,
    slice_axis_of,
    slice_jumps,
    thinned,
    tissue_and_fluid,
)
from appliance.imaging.volume import Mask, Volume


@dataclass(frozen=True, slots=True)
class Thresholds:
    """Bounds (review, fail) by metric name; defaults from phantoms and raw clinical MS pairs.

    A bound on a "higher is better" metric is a minimum, on a "lower is better" one a maximum.
    None switches a bound off.
    """

    t1w_snr: Bounds = (10.0, 5.0)
    flair_snr: Bounds = (10.0, 5.0)
    flair_snr_fluid: Bounds = (1.5, None)
    flair_ghosting: Bounds = (0.001, 0.002)
    t1w_ghosting: Bounds = (0.001, 0.002)
    flair_slice_jumps: Bounds = (0.06, 0.15)
    t1w_slice_jumps: Bounds = (0.06, 0.15)
    flair_head_likeness: Bounds = (1.0, None)
    t1w_head_likeness: Bounds = (1.0, None)
    flair_brain_volume: Bounds = (700.0, 300.0)
    t1w_brain_volume: Bounds = (700.0, 300.0)
    brain_volume_agreement: Bounds = (0.88, 0.75)
    brain_overlap: Bounds = (0.90, 0.80)
    registration_quality: Bounds = (0.22, 0.12)
    registration_overlap: Bounds = (0.75, 0.5)


WORDS = {
    "t1w_snr": "the T1 is noisy",
    "flair_snr": "the FLAIR is noisy",
    "flair_snr_fluid": "the FLAIR's fluid drowns in noise",
    "flair_ghosting": "the FLAIR shows motion or ghosts",
    "t1w_ghosting": "the T1 shows motion or ghosts",
    "flair_slice_jumps": "the FLAIR's slices jump in brightness (motion between slices)",
    "t1w_slice_jumps": "the T1's slices jump in brightness (motion between slices)",
    "flair_head_likeness": "the FLAIR does not look like a whole head",
    "t1w_head_likeness": "the T1 does not look like a whole head",
    "flair_brain_volume": "the FLAIR shows too little brain",
    "t1w_brain_volume": "the T1 shows too little brain",
    "brain_volume_agreement": "the brain volumes of T1 and FLAIR disagree",
    "brain_overlap": "the brains of T1 and FLAIR do not lie on each other after registration",
    "registration_quality": "the registration of T1 to FLAIR is doubtful",
    "registration_overlap": "the T1 covers too little of the FLAIR's head",
}
"""What a value beyond its bound means."""


def check_quality(
    given: QualityInput,
    thresholds: Thresholds | None = None,
    protocol: Protocol | None = None,
) -> QcReport:
    """Measure everything that the given images allow and decide.

    Args:
        given: Images, masks and registration; what is None is not measured.
        thresholds: Bounds; the defaults when left out.
        protocol: Geometry to compare with; the defaults when left out.

    Returns:
        Metrics, decision and reasons. A metric that cannot be measured has the value None and
        speaks neither for nor against the image.
    """
    metrics: list[Metric] = []
    findings: list[Finding] = []
    pairs = (
        ("flair", given.flair, given.flair_brain, given.flair_head),
        ("t1w", given.t1, given.t1_brain, given.t1_head),
    )
    for prefix, volume, brain, head in pairs:
        if volume is None:
            continue
        metrics.append(Metric(f"{prefix}_head_likeness", head, "1", "higher"))
        metrics += geometry_metrics(prefix, volume, brain)
        title = {"flair": "FLAIR", "t1w": "T1"}[prefix]
        findings += [
            Finding(found.decision, f"{title}: {found.words}")
            for found in check_geometry(volume, protocol, brain)
        ]
        if brain is not None:
            metrics += image_metrics(prefix, volume, brain.data > 0)
    metrics += agreement_metrics(given)
    findings += judge_metrics(metrics, thresholds or Thresholds())
    return decide(tuple(metrics), findings)


def image_metrics(prefix: str, volume: Volume, brain: Mask) -> list[Metric]:
    """Signal, noise and artefact figures of one image.

    Args:
        prefix: Start of the names.
        volume: The image.
        brain: Its brain mask, same grid.

    Returns:
        snr: mean of brain tissue over noise (`noise_level`), after study D's T1 figure.
        snr_fluid: mean of cerebrospinal fluid over noise, after study D's FLAIR figure.
        fluid_ratio: mean of fluid over mean of tissue (suppression in FLAIR).
        ghosting, entropy_focus, slice_jumps: see the functions of these names.
    """
    data = np.asarray(volume.data, dtype=np.float32)
    axis = slice_axis_of(volume)
    tissue, fluid = tissue_and_fluid(data, brain)
    noise = noise_level(data, tissue, axis)
    bright, dark = mean_inside(data, tissue), mean_inside(data, fluid)
    thin, thin_brain = thinned(volume, brain)
    ghosts = ghosting(thin.data, air_mask(thin, thin_brain), thin_brain, axis)
    ratio = None if bright is None or dark is None or bright <= 0 else dark / bright
    better: Direction = "lower" if prefix == "flair" else "none"
    return [
        Metric(f"{prefix}_snr", signal_to_noise(bright, noise), "ratio", "higher"),
        Metric(f"{prefix}_snr_fluid", signal_to_noise(dark, noise), "ratio", "higher"),
        Metric(f"{prefix}_fluid_ratio", ratio, "ratio", better),
        Metric(f"{prefix}_ghosting", ghosts, "share", "lower"),
        Metric(f"{prefix}_entropy_focus", entropy_focus(thin.data), "1", "lower"),
        Metric(f"{prefix}_slice_jumps", slice_jumps(data, tissue, axis), "share", "lower"),
    ]


def agreement_metrics(given: QualityInput) -> list[Metric]:
    """Registration quality and how T1 and FLAIR brain masks agree within what both images show.

    brain_volume_agreement = smaller over larger mask volume (study D); brain_overlap = Dice of the
    FLAIR's mask and the T1's mask brought through the registration.
    """
    found = given.registration
    if found is None or given.flair_brain is None:
        return []
    metrics = [
        Metric("registration_quality", found.quality, "1", "higher"),
        Metric("registration_overlap", found.overlap, "share", "higher"),
        Metric("registration_agreement", found.agreement, "1", "none"),
    ]
    if given.t1_brain is None:
        return metrics
    grid = grid_of(given.flair_brain)
    other = resample(given.t1_brain, grid, matrix=found.matrix, interpolation="nearest").data > 0
    everywhere = given.t1_brain.with_data(np.ones(given.t1_brain.shape, dtype=np.uint8))
    seen = resample(everywhere, grid, matrix=found.matrix, interpolation="nearest").data > 0
    first = int(((given.flair_brain.data > 0) & seen).sum())
    second = int((other & seen).sum())
    common = int(((given.flair_brain.data > 0) & other).sum())
    empty = min(first, second) == 0
    agreement = 0.0 if empty else min(first, second) / max(first, second)
    overlap = 0.0 if empty else 2.0 * common / (first + second)
    metrics.append(Metric("brain_volume_agreement", agreement, "ratio", "higher"))
    metrics.append(Metric("brain_overlap", overlap, "share", "higher"))
    return metrics


def judge_metrics(metrics: list[Metric], thresholds: Thresholds) -> list[Finding]:
    """Findings of all metrics that have a threshold and a value."""
    bounds = {part.name: getattr(thresholds, part.name) for part in fields(thresholds)}
    findings = []
    for metric in metrics:
        bound: Bounds | None = bounds.get(metric.name)
        if bound is None or metric.value is None:
            continue
        upper = metric.direction == "lower"
        for decision, limit in (("fail", bound[1]), ("review", bound[0])):
            if limit is None or not _worse(metric.value, limit, upper=upper):
                continue
            side = "above" if upper else "below"
            words = f"{WORDS[metric.name]}: {metric.name} is {metric.value:.3g}, {side} {limit:.3g}"
            findings.append(Finding("fail" if decision == "fail" else "review", words))
            break
    return findings


def _worse(value: float, limit: float, *, upper: bool) -> bool:
    return value > limit if upper else value < limit
