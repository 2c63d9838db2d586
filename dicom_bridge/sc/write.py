"""Writing secondary captures (PS3.3 A.8.1 and A.8.5)."""

from __future__ import annotations

from dicom_bridge.sc.model import CaptureRequest, CaptureWritten


def write_captures(request: CaptureRequest) -> CaptureWritten:
    """Draw a mask's contours on slices and write them as a series of their own.

    Args:
        request: see `CaptureRequest`.

    Returns:
        What was written.

    Raises:
        NoFinding: the mask is empty and `all_slices` is not asked for.
        CaptureRefused: a wrong request.
    """
    raise NotImplementedError
