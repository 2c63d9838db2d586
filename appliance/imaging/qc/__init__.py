"""Quality checks: geometry before registration, image quality after it, one decision in words."""

from __future__ import annotations

from appliance.imaging.qc.geometry import border_shares, check_geometry
from appliance.imaging.qc.model import (
    Bounds,
    Finding,
    Metric,
    Protocol,
    QcReport,
    QualityInput,
)
from appliance.imaging.qc.quality import Thresholds, check_quality

__all__ = [
    "Bounds",
    "Finding",
    "Metric",
    "Protocol",
    "QcReport",
    "QualityInput",
    "Thresholds",
    "border_shares",
    "check_geometry",
    "check_quality",
]
