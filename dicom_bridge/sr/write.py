"""Writing a TID 1500 measurement report (PS3.16 annex A, Comprehensive 3D SR)."""

from __future__ import annotations

from dicom_bridge.sr.model import ReportRequest, ReportWritten


def write_report(request: ReportRequest) -> ReportWritten:
    """Write a measurement report and prove it by reading it back.

    Args:
        request: see `ReportRequest`.

    Returns:
        What was written.

    Raises:
        ReportRefused: a wrong request, or a file that does not read back.
    """
    raise NotImplementedError
