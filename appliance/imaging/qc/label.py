"""Plausibility of an expert's label as figures of the quality check."""

from __future__ import annotations

from appliance.imaging.qc.model import Metric
from appliance.imaging.volume import Volume
from appliance.labels.plausibility import label_metrics
from appliance.quality_table import METRICS

PREFIX = "label_"


def label_figures(label: Volume, brain: Volume | None) -> list[Metric]:
    """Volume, pieces and place of a label; see `label_metrics`.

    Args:
        label: Label values, 0 background.
        brain: Brain mask on the same grid; None where there is none or its grid is another.

    Returns:
        The figures that the table knows.
    """
    same = brain is not None and brain.shape == label.shape
    inside = brain.data if brain is not None and same else None
    found = label_metrics(label.data, inside, label.spacing)
    return [
        Metric(info.name, found[name], info.unit, info.direction)
        for name, info in ((key, METRICS.get(f"{PREFIX}{key}")) for key in found)
        if info is not None
    ]
