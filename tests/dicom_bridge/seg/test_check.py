from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pydicom
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom.dataset import Dataset
from pydicom.uid import RLELossless

from dicom_bridge.convert import SourceSeries
from dicom_bridge.errors import SegRefused
from dicom_bridge.seg import check_seg, read_seg, read_seg_alone, write_seg
from tests.dicom_bridge.convert import phantom
from tests.dicom_bridge.convert.phantom import Layout, cosines, series
from tests.dicom_bridge.seg.test_write import blobs, request

Change = Callable[[Dataset], None]


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> tuple[SourceSeries, Path]:
    folder = tmp_path_factory.mktemp("check")
    layout = Layout(orientation=cosines("oblique"))
    source = SourceSeries.from_files(series(folder / "in", layout))
    return source, write_seg(request(source, blobs(source), folder / "s.dcm")).path


def put(keyword: str, value: object) -> Change:
    return lambda seg: setattr(seg, keyword, value)


def drop(keyword: str) -> Change:
    return lambda seg: delattr(seg, keyword)


def _shift_positions(seg: Dataset) -> None:
    for item in seg.PerFrameFunctionalGroupsSequence:
        place = item.PlanePositionSequence[0]
        place.ImagePositionPatient = [f"{v + 0.001:.4f}" for v in place.ImagePositionPatient]


def _swap_source_images(seg: Dataset) -> None:
    items = seg.PerFrameFunctionalGroupsSequence
    first = items[0].DerivationImageSequence
    items[0].DerivationImageSequence = items[-1].DerivationImageSequence
    items[-1].DerivationImageSequence = first


def _per_frame_measures(seg: Dataset) -> None:
    shared = seg.SharedFunctionalGroupsSequence[0]
    for item in seg.PerFrameFunctionalGroupsSequence:
        item.PixelMeasuresSequence = shared.PixelMeasuresSequence
    del shared.PixelMeasuresSequence


def _no_spacing_between(seg: Dataset) -> None:
    del seg.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0].SpacingBetweenSlices


def _no_thickness(seg: Dataset) -> None:
    del seg.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0].SliceThickness


def _no_label(seg: Dataset) -> None:
    seg.SegmentSequence[0].SegmentLabel = ""


def _no_type(seg: Dataset) -> None:
    del seg.SegmentSequence[0].SegmentedPropertyTypeCodeSequence


def _no_algorithm_name(seg: Dataset) -> None:
    del seg.SegmentSequence[1].SegmentAlgorithmName


def _gap_in_numbers(seg: Dataset) -> None:
    seg.SegmentSequence[1].SegmentNumber = 5


def _no_dimension_values(seg: Dataset) -> None:
    del seg.PerFrameFunctionalGroupsSequence[0].FrameContentSequence[0].DimensionIndexValues


def _no_derivation(seg: Dataset) -> None:
    for item in seg.PerFrameFunctionalGroupsSequence:
        del item.DerivationImageSequence


def _other_series(seg: Dataset) -> None:
    seg.ReferencedSeriesSequence[0].SeriesInstanceUID = "1.2.3"


def _unknown_instance(seg: Dataset) -> None:
    item = seg.ReferencedSeriesSequence[0].ReferencedInstanceSequence[0]
    item.ReferencedSOPInstanceUID = "1.2.3"


def _empty_frames(seg: Dataset) -> None:
    seg.PixelData = bytes(len(seg.PixelData))


def _lost_group(seg: Dataset) -> None:
    seg.PerFrameFunctionalGroupsSequence = list(seg.PerFrameFunctionalGroupsSequence)[:-1]


DAMAGES: list[tuple[Change, str]] = [
    (put("StudyInstanceUID", "1.2.3"), "two studies"),
    (put("PatientID", "SOMEBODY"), "PatientID"),
    (put("PatientName", "A^B"), "PatientName"),
    (put("FrameOfReferenceUID", "1.2.3"), "FrameOfReferenceUID"),
    (put("SeriesInstanceUID", phantom.SERIES_UID), "new series"),
    (put("Modality", "OT"), "Modality"),
    (drop("ReferencedSeriesSequence"), "unsupported"),
    (_other_series, "another series"),
    (_unknown_instance, "does not have"),
    (_shift_positions, "on no slice"),
    (_swap_source_images, "not the slice at the frame's position"),
    (_per_frame_measures, "crashes"),
    (_no_spacing_between, "SpacingBetweenSlices"),
    (_no_thickness, "SliceThickness"),
    (_no_label, "segment 1 has no SegmentLabel"),
    (_no_type, "SegmentedPropertyTypeCodeSequence"),
    (_no_algorithm_name, "segment 2 was made by an algorithm"),
    (_gap_in_numbers, "without gaps"),
    (_no_dimension_values, "DimensionIndexValues"),
    (_no_derivation, "names no source image"),
    (_empty_frames, "empty"),
    (_lost_group, "number of per-frame"),
    (drop("PixelData"), "cannot be decoded"),
    (drop("Rows"), "not read"),
]


@pytest.mark.parametrize(("damage", "words"), DAMAGES)
def test_every_damage_is_found(
    written: tuple[SourceSeries, Path], tmp_path: Path, damage: Change, words: str
) -> None:
    source, path = written
    seg = pydicom.dcmread(path)
    damage(seg)
    broken = tmp_path / "broken.dcm"
    seg.save_as(broken, enforce_file_format=True)

    findings = check_seg(source, broken)

    assert any(words in finding for finding in findings), findings
    said = " ".join(findings)
    assert "4711" not in said
    assert "PHANTOMIUS" not in said


def test_undamaged_has_no_finding(written: tuple[SourceSeries, Path]) -> None:
    assert check_seg(*written) == []


def test_compressed_syntax_and_no_seg_at_all(
    written: tuple[SourceSeries, Path], tmp_path: Path
) -> None:
    source, path = written
    image = phantom.save(phantom.instance(Layout(), 0), tmp_path / "image.dcm")
    assert check_seg(source, image) == ["the object is no DICOM segmentation (SEG)"]
    seg = pydicom.dcmread(path)
    seg.file_meta.TransferSyntaxUID = RLELossless
    seg["PixelData"].is_undefined_length = True
    seg.PixelData = pydicom.encaps.encapsulate([b"\0\0"])
    broken = tmp_path / "rle.dcm"
    seg.save_as(broken, enforce_file_format=True)
    assert any("uncompressed" in finding for finding in check_seg(source, broken))


HOSTILE: list[tuple[Change, str]] = [
    (put("NumberOfFrames", 2_000_000_000), "not read"),
    (put("Rows", 65535), "cannot be decoded|not read"),
    (drop("SegmentSequence"), "describes no segment"),
    (drop("ReferencedSeriesSequence"), "names 0 referenced series"),
    (_other_series, "another series"),
    (put("SegmentationType", "MAGIC"), "BINARY, FRACTIONAL or LABELMAP"),
    (drop("PerFrameFunctionalGroupsSequence"), "no position|which segment"),
]


@pytest.mark.parametrize(("damage", "words"), HOSTILE)
def test_hostile_segs_are_refused(
    written: tuple[SourceSeries, Path], tmp_path: Path, damage: Change, words: str
) -> None:
    source, path = written
    seg = pydicom.dcmread(path)
    damage(seg)
    broken = tmp_path / "broken.dcm"
    seg.save_as(broken, enforce_file_format=True)
    with pytest.raises(SegRefused, match=words):
        read_seg(broken, source)


def test_frames_off_the_grid_or_outside_are_refused(
    written: tuple[SourceSeries, Path], tmp_path: Path
) -> None:
    source, path = written
    for offset in (2.0, 1000.0):
        seg = pydicom.dcmread(path)
        for item in seg.PerFrameFunctionalGroupsSequence:
            place = item.PlanePositionSequence[0]
            moved = np.array(place.ImagePositionPatient, float) + offset * source.normal()
            place.ImagePositionPatient = [f"{value:.4f}" for value in moved]
        broken = tmp_path / "moved.dcm"
        seg.save_as(broken, enforce_file_format=True)
        with pytest.raises(SegRefused, match=r"another grid|outside its series"):
            read_seg(broken, source)


@settings(max_examples=25, deadline=None)
@given(st.lists(st.tuples(st.integers(132, 12000), st.integers(0, 255)), min_size=1, max_size=5))
def test_damaged_bytes_are_refused_or_harmless(
    written: tuple[SourceSeries, Path],
    tmp_path_factory: pytest.TempPathFactory,
    changes: list[tuple[int, int]],
) -> None:
    source, path = written
    content = bytearray(path.read_bytes())
    for place, value in changes:
        content[place % len(content)] = value
    broken = tmp_path_factory.mktemp("fuzz") / "s.dcm"
    broken.write_bytes(bytes(content))
    findings = check_seg(source, broken)
    said = " ".join(findings)
    for read in (lambda: read_seg(broken, source), lambda: read_seg_alone(broken)):
        try:
            read()
        except SegRefused as refusal:
            said += str(refusal)
    assert "4711" not in said
