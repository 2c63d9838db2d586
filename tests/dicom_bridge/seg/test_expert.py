"""SEGs as viewers write them when somebody corrects a result of ours."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset

from dicom_bridge.convert import SourceSeries
from dicom_bridge.seg import (
    ExpertPolicy,
    OwnMarks,
    codes_of,
    edited_from_ours,
    is_own_result,
    judge_header,
    write_seg,
)
from tests.dicom_bridge.convert.phantom import series
from tests.dicom_bridge.seg.test_write import LESION, SEG_SERIES, SEG_UID, blobs, request
from tests.tools import shared_dir

Change = Callable[[Dataset], None]
CODE = ("SCT", "52988006")
POLICY = ExpertPolicy(frozenset({CODE}))
MARKS = OwnMarks(
    sop_uids=frozenset({SEG_UID}),
    algorithms=frozenset({"ms-lesion"}),
    labels={"MS lesion": CODE},
)
KNOWING = replace(POLICY, own=MARKS)


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("expert")
    source = SourceSeries.from_files(series(folder / "in"))
    mask = (blobs(source) > 0).astype(np.uint8)
    base = replace(request(source, mask, folder / "s.dcm"), segments=(LESION,))
    return write_seg(base).path


def ohif(seg: Dataset) -> None:
    """As OHIF 3.10 exports: type and name kept, codes, tracking and creator gone."""
    seg.SOPInstanceUID = "2.25.4040"
    seg.SeriesInstanceUID = "2.25.4041"
    seg.Manufacturer = seg.ManufacturerModelName = "Unspecified"
    del seg.ContentCreatorName
    for item in seg.SegmentSequence:
        for keyword in ("TrackingID", "TrackingUID", "SegmentationAlgorithmIdentificationSequence"):
            delattr(item, keyword)
        tissue = Dataset()
        tissue.CodeValue, tissue.CodingSchemeDesignator = "T-D0050", "SRT"
        tissue.CodeMeaning = "Tissue"
        item.SegmentedPropertyTypeCodeSequence = [tissue]
        item.SegmentedPropertyCategoryCodeSequence = [tissue]


def ohif_same_series(seg: Dataset) -> None:
    """As OHIF 3.11 stores into the series it loaded: the original is the predecessor."""
    ohif(seg)
    seg.SeriesInstanceUID = SEG_SERIES
    document, of_series, item = Dataset(), Dataset(), Dataset()
    item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = seg.SOPClassUID, SEG_UID
    of_series.SeriesInstanceUID, of_series.ReferencedSOPSequence = SEG_SERIES, [item]
    document.StudyInstanceUID = seg.StudyInstanceUID
    document.ReferencedSeriesSequence = [of_series]
    seg.PredecessorDocumentsSequence = [document]
    for segment in seg.SegmentSequence:
        segment.SegmentAlgorithmName = "OHIF Brush"


def old_ohif(seg: Dataset) -> None:
    """As OHIF 3.8: everything MANUAL and by the brush."""
    ohif(seg)
    for item in seg.SegmentSequence:
        item.SegmentAlgorithmType, item.SegmentAlgorithmName = "MANUAL", "OHIF Brush"


def slicer(seg: Dataset) -> None:
    """As 3D Slicer exports through dcmqi: terminology kept, MANUAL."""
    seg.SOPInstanceUID = "2.25.4050"
    seg.Manufacturer, seg.ManufacturerModelName = "QIICR", "https://github.com/QIICR/dcmqi.git"
    seg.ContentCreatorName = "Reader^One"
    for item in seg.SegmentSequence:
        item.SegmentAlgorithmType = "MANUAL"
        for keyword in ("TrackingID", "TrackingUID", "SegmentAlgorithmName"):
            delattr(item, keyword)


def slicer_keeping_tags(seg: Dataset) -> None:
    """As Slicer where the segment carried type, name and tracking along."""
    seg.SOPInstanceUID = "2.25.4051"
    seg.Manufacturer, seg.ManufacturerModelName = "QIICR", "https://github.com/QIICR/dcmqi.git"
    seg.ContentCreatorName = "Reader^One"


def kept_maker(seg: Dataset) -> None:
    """An editor that keeps the maker but says who corrected it."""
    seg.SOPInstanceUID = "2.25.4060"
    seg.ContentCreatorName = "Reader^Two"
    for item in seg.SegmentSequence:
        item.SegmentAlgorithmType = "SEMIAUTOMATIC"


@pytest.mark.parametrize(
    ("change", "policy", "how"),
    [
        (ohif, KNOWING, "algorithm"),
        (ohif_same_series, KNOWING, "predecessor"),
        (slicer, POLICY, ""),
        (slicer, KNOWING, ""),
        (slicer_keeping_tags, POLICY, "tracking"),
        (kept_maker, POLICY, "tracking"),
    ],
)
def test_a_corrected_copy_is_a_raters_label(
    result: Path, change: Change, policy: ExpertPolicy, how: str
) -> None:
    seg = pydicom.dcmread(result)
    change(seg)

    decision, reason = judge_header(seg, policy)

    assert decision is True, reason
    assert not is_own_result(seg, policy.own)
    assert edited_from_ours(seg, policy.own) == how
    assert codes_of(seg, policy) == {1: CODE}


def test_a_copy_in_the_series_of_our_result_is_told_by_it(result: Path) -> None:
    seg = pydicom.dcmread(result)
    ohif_same_series(seg)
    del seg.PredecessorDocumentsSequence
    assert edited_from_ours(seg, MARKS) == ""
    there = replace(MARKS, series_uids=frozenset({SEG_SERIES}))
    assert edited_from_ours(seg, there) == "series"
    assert judge_header(seg, replace(POLICY, own=there))[0] is True


@pytest.mark.parametrize("policy", [POLICY, KNOWING])
def test_ours_never_is_and_does_not_count_as_edited(result: Path, policy: ExpertPolicy) -> None:
    seg = pydicom.dcmread(result)
    assert is_own_result(seg, policy.own)
    assert judge_header(seg, policy) == (False, "a result of clinode's own is never a label")
    assert edited_from_ours(seg, policy.own) == ""
    seg.Manufacturer = seg.ManufacturerModelName = "Archive coerced it"
    assert is_own_result(seg, MARKS)  # known by its UID


def test_a_viewer_that_drops_the_code_needs_a_known_label(result: Path) -> None:
    seg = pydicom.dcmread(result)
    old_ohif(seg)
    decision, reason = judge_header(seg, KNOWING)
    assert decision is False  # nothing in it leads to a result of ours
    assert "mapped" in reason
    seg = pydicom.dcmread(result)
    ohif_same_series(seg)
    seg.SegmentSequence[0].SegmentLabel = "Something new"
    assert judge_header(seg, KNOWING)[0] is False


def test_another_algorithms_result_is_no_label(result: Path) -> None:
    seg = pydicom.dcmread(result)
    slicer_keeping_tags(seg)
    seg.Manufacturer = "Some Vendor"
    for item in seg.SegmentSequence:
        item.TrackingID, item.TrackingUID = "vendor 1", "2.25.1"
        item.SegmentAlgorithmName = "vendor-net"
    decision, reason = judge_header(seg, KNOWING)
    assert decision is False
    assert "neither MANUAL nor" in reason


def test_a_site_that_names_its_raters_decides_about_unnamed_copies(result: Path) -> None:
    seg = pydicom.dcmread(result)
    ohif_same_series(seg)
    named = replace(KNOWING, creators=frozenset({"Reader^One"}))
    assert judge_header(seg, named)[0] is False
    assert judge_header(seg, replace(named, unnamed=True))[0] is True
    seg.ContentCreatorName = "Somebody^Else"
    assert judge_header(seg, replace(named, unnamed=True))[0] is False


def test_a_real_manual_seg_of_slicer_is_an_experts() -> None:
    path = shared_dir("data", "seg", "slicer_qin_headneck") / "tumor_User1_Manual_Trial1.dcm"
    seg = pydicom.dcmread(path, stop_before_pixels=True)
    assert edited_from_ours(seg) == ""
    kinds = {
        (code.CodingSchemeDesignator, code.CodeValue)
        for item in seg.SegmentSequence
        for code in item.SegmentedPropertyTypeCodeSequence
    }
    decision, reason = judge_header(seg, ExpertPolicy(frozenset(kinds)))
    assert decision is True, reason
