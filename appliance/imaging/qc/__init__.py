"""Quality checks: geometry before registration, image quality after it, one decision in words."""

from __future__ import annotations

from appliance.imaging.qc.geometry import border_shares, check_geometry, check_grid
from appliance.imaging.qc.judge import SiteDistribution, robust_z
from appliance.imaging.qc.label import label_figures
from appliance.imaging.qc.model import Finding, ImageInput, Metric, Protocol, QcReport
from appliance.imaging.qc.quality import check_quality
from appliance.imaging.qc.record import report_from_json, report_json
from appliance.imaging.qc.site import read_site

__all__ = [
    "Finding",
    "ImageInput",
    "Metric",
    "Protocol",
    "QcReport",
    "SiteDistribution",
    "border_shares",
    "check_geometry",
    "check_grid",
    "check_quality",
    "label_figures",
    "read_site",
    "report_from_json",
    "report_json",
    "robust_z",
]
