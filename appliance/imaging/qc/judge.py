"""From figures to findings: bounds of the settings, and the site's own distribution."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from appliance.imaging.qc.model import Decision, Finding, Metric, Origin
from appliance.quality_table import METRICS, Bounds, complaint_of, default_bounds, split_name

MAD_TO_SIGMA = 1.4826
"""Median absolute deviation to standard deviation for normal values."""


@dataclass(frozen=True, slots=True)
class SiteDistribution:
    """Figures of a site's ready studies, without the study that is judged.

    Attributes:
        values: Figures by name; one of each study that has it.
        studies: How many studies were read.
        least: With fewer figures than this, no z is computed.
        limit: A robust z beyond this in the bad direction asks for a person; 0 switches it off.
    """

    values: Mapping[str, Sequence[float]]
    studies: int
    least: int = 20
    limit: float = 6.0


def robust_z(value: float, others: Sequence[float], least: int) -> float | None:
    """Z = (x - median) / (1.4826 MAD) against other studies.

    None with fewer than `least` others, and where their MAD is 0 (more than half are equal: the
    figure has no spread to measure by).

    Source: Iglewicz and Hoaglin, How to Detect and Handle Outliers (1993).

    Examples:
        >>> round(robust_z(7.0, [1.0, 2.0, 3.0, 4.0, 5.0], 5), 4)
        2.698
        >>> robust_z(7.0, [1.0, 2.0], 5) is None, robust_z(7.0, [1.0] * 9, 5) is None
        (True, True)
    """
    if len(others) < max(2, least):
        return None
    known = np.asarray(others, dtype=np.float64)
    middle = float(np.median(known))
    spread = MAD_TO_SIGMA * float(np.median(np.abs(known - middle)))
    return (value - middle) / spread if spread > 0 else None


def judge_metrics(
    metrics: Sequence[Metric],
    own: Mapping[str, Bounds],
    geometry: Mapping[str, Bounds] | None = None,
) -> tuple[list[Metric], list[Finding]]:
    """Judge every figure that has bounds and a value.

    Args:
        metrics: The figures.
        own: Bounds that take the place of the defaults.
        geometry: Bounds by which the geometry's own findings were made; they only set verdicts.

    Returns:
        The figures with threshold and verdict, and the findings.
    """
    judged: list[Metric] = []
    findings: list[Finding] = []
    known = geometry or {}
    for metric in metrics:
        bound = own.get(metric.name, known.get(metric.name, _default(metric.name)))
        if bound is None or bound == (None, None):
            judged.append(metric)
            continue
        decision, limit = _decision(metric, bound)
        judged.append(replace(metric, threshold=bound, verdict=decision))
        if decision is None or limit is None or (metric.name in known and metric.name not in own):
            continue
        side = "above" if metric.direction == "lower" else "below"
        words = (
            f"{complaint_of(metric.name)}: {metric.name} is {metric.value:.3g}, {side} {limit:.3g}"
        )
        origin: Origin = "label" if metric.name.startswith("label_") else "threshold"
        findings.append(Finding(decision, words, metric.name, origin))
    return judged, findings


def compare_site(
    metrics: Sequence[Metric], site: SiteDistribution
) -> tuple[list[Metric], list[Finding]]:
    """Compare figures with the site's own studies; a far outlier asks for a person, never more.

    Only the bad direction counts; both do where neither is better.

    Returns:
        The figures with z, and the findings.
    """
    compared: list[Metric] = []
    findings: list[Finding] = []
    for metric in metrics:
        others = site.values.get(metric.name, ())
        z = None
        if metric.value is not None and _info_site(metric.name):
            z = robust_z(metric.value, others, site.least)
        compared.append(metric if z is None else replace(metric, z=z))
        if z is None or site.limit <= 0 or not _far(z, metric.direction, site.limit):
            continue
        words = (
            f"{complaint_of(metric.name)}: {metric.name} is {metric.value:.3g}, unlike this site's"
            f" other studies (median {float(np.median(others)):.3g}, robust z {z:+.1f},"
            f" allowed {site.limit:g})"
        )
        findings.append(Finding("review", words, metric.name, "site"))
    return compared, findings


def _decision(metric: Metric, bound: Bounds) -> tuple[Decision | None, float | None]:
    """What follows from one figure and the limit that it broke."""
    if metric.value is None:
        return None, None
    upper = metric.direction == "lower"
    review, fail = bound
    for limit, decision in ((fail, "fail"), (review, "review")):
        if limit is not None and (metric.value > limit if upper else metric.value < limit):
            return ("fail" if decision == "fail" else "review"), limit
    return "pass", None


def _far(z: float, direction: str, limit: float) -> bool:
    if direction == "higher":
        return z < -limit
    return z > limit if direction == "lower" else abs(z) > limit


def _default(name: str) -> Bounds | None:
    try:
        return default_bounds(name)
    except KeyError:
        return None


def _info_site(name: str) -> bool:
    try:
        return METRICS[split_name(name)[1]].site
    except KeyError:
        return False
