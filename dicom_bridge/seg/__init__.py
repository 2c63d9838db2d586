"""DICOM segmentation objects: read labels, write results, check references."""

from dicom_bridge.seg.check import check_seg
from dicom_bridge.seg.codes import labels_of, load_labels, parse_labels
from dicom_bridge.seg.expert import (
    ExpertPolicy,
    OwnMarks,
    codes_of,
    edited_from_ours,
    is_expert,
    is_own_result,
    judge_header,
)
from dicom_bridge.seg.lesions import lesions_of
from dicom_bridge.seg.model import (
    BRAIN,
    LESION,
    MANUFACTURER,
    MORPHOLOGICALLY_ABNORMAL,
    Code,
    Finding,
    Lesion,
    NoFinding,
    SegContent,
    SegmentSpec,
    SegRequest,
    SegSegment,
    SegWritten,
)
from dicom_bridge.seg.read import read_labels, read_seg, read_seg_alone, referenced_series
from dicom_bridge.seg.write import write_seg

__all__ = [
    "BRAIN",
    "LESION",
    "MANUFACTURER",
    "MORPHOLOGICALLY_ABNORMAL",
    "Code",
    "ExpertPolicy",
    "Finding",
    "Lesion",
    "NoFinding",
    "OwnMarks",
    "SegContent",
    "SegRequest",
    "SegSegment",
    "SegWritten",
    "SegmentSpec",
    "check_seg",
    "codes_of",
    "edited_from_ours",
    "is_expert",
    "is_own_result",
    "judge_header",
    "labels_of",
    "lesions_of",
    "load_labels",
    "parse_labels",
    "read_labels",
    "read_seg",
    "read_seg_alone",
    "referenced_series",
    "write_seg",
]
