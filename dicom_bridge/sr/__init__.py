"""Measurement reports (TID 1500) on what a segmentation holds."""

from dicom_bridge.sr.model import (
    Algorithm,
    KnownQuality,
    ReportRequest,
    ReportWritten,
    SegReference,
)
from dicom_bridge.sr.read import Group, ReportContent, read_report
from dicom_bridge.sr.write import write_report

__all__ = [
    "Algorithm",
    "Group",
    "KnownQuality",
    "ReportContent",
    "ReportRequest",
    "ReportWritten",
    "SegReference",
    "read_report",
    "write_report",
]
