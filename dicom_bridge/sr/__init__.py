"""Measurement reports (TID 1500) on what a segmentation holds."""

from dicom_bridge.sr.model import (
    Algorithm,
    KnownQuality,
    ReportRequest,
    ReportWritten,
    SegReference,
)
from dicom_bridge.sr.write import write_report

__all__ = [
    "Algorithm",
    "KnownQuality",
    "ReportRequest",
    "ReportWritten",
    "SegReference",
    "write_report",
]
