"""Secondary captures: contours drawn on slices, for viewers that cannot show a SEG."""

from dicom_bridge.sc.model import CaptureRequest, CaptureWritten, Window
from dicom_bridge.sc.write import write_captures

__all__ = ["CaptureRequest", "CaptureWritten", "Window", "write_captures"]
