"""DICOM segmentation objects: read labels, write results, check references."""

from dicom_bridge.seg.model import (
    BRAIN,
    LESION,
    MANUFACTURER,
    MORPHOLOGICALLY_ABNORMAL,
    Code,
    NoFinding,
    SegContent,
    SegmentSpec,
    SegRequest,
    SegSegment,
    SegWritten,
)
from dicom_bridge.seg.read import read_seg, referenced_series
from dicom_bridge.seg.write import write_seg

__all__ = [
    "BRAIN",
    "LESION",
    "MANUFACTURER",
    "MORPHOLOGICALLY_ABNORMAL",
    "Code",
    "NoFinding",
    "SegContent",
    "SegRequest",
    "SegSegment",
    "SegWritten",
    "SegmentSpec",
    "read_seg",
    "referenced_series",
    "write_seg",
]
