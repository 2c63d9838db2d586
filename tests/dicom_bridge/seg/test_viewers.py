"""What viewers were seen to need of a SEG, point by point (numbers as in the anchors' list)."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset

from dicom_bridge.convert import SourceSeries
from dicom_bridge.seg import SegWritten, read_labels, write_seg
from dicom_bridge.seg.codes import MS_LESIONS
from dicom_bridge.sop_classes import SEGMENTATION_STORAGE
from tests.dicom_bridge.convert import phantom
from tests.dicom_bridge.convert.phantom import Layout, cosines, series
from tests.dicom_bridge.seg.readers import dcmqi_masks, validator_errors
from tests.dicom_bridge.seg.test_write import TWO, blobs, request


class Case:
    """One SEG of an oblique series, its source files and what was asked for."""

    def __init__(self, folder: Path) -> None:
        self.files = series(folder / "in", Layout(orientation=cosines("oblique")))
        self.source = SourceSeries.from_files(self.files[::-1])
        self.mask = blobs(self.source)
        self.written: SegWritten = write_seg(request(self.source, self.mask, folder / "s.dcm"))
        self.seg: Dataset = pydicom.dcmread(self.written.path)
        self.images = {d.SOPInstanceUID: d for d in map(pydicom.dcmread, self.files)}


@pytest.fixture(scope="module")
def case(tmp_path_factory: pytest.TempPathFactory) -> Case:
    return Case(tmp_path_factory.mktemp("viewers"))


def test_0_the_one_form_that_opens_everywhere(case: Case) -> None:
    assert case.seg.SOPClassUID == SEGMENTATION_STORAGE
    assert case.seg.SegmentationType == "BINARY"
    assert case.seg.file_meta.TransferSyntaxUID == "1.2.840.10008.1.2.1"
    assert case.seg.BitsAllocated == 1


def test_1_same_study_and_patient(case: Case) -> None:
    assert case.seg.StudyInstanceUID == phantom.STUDY_UID
    assert case.seg.PatientID == phantom.PATIENT_ID


def test_2_the_series_is_referenced_once_with_every_instance(case: Case) -> None:
    (item,) = case.seg.ReferencedSeriesSequence
    assert item.SeriesInstanceUID == phantom.SERIES_UID
    named = [i.ReferencedSOPInstanceUID for i in item.ReferencedInstanceSequence]
    assert sorted(named) == sorted(case.images)


def test_3_pixel_measures_are_shared_and_in_no_frame(case: Case) -> None:
    (shared,) = case.seg.SharedFunctionalGroupsSequence
    assert len(shared.PixelMeasuresSequence) == 1
    assert len(shared.PlaneOrientationSequence) == 1
    for item in case.seg.PerFrameFunctionalGroupsSequence:
        assert "PixelMeasuresSequence" not in item


def test_4_spacing_between_slices_is_the_true_distance(case: Case) -> None:
    measures = case.seg.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0]
    assert float(measures.SpacingBetweenSlices) == pytest.approx(5.0, abs=1e-4)
    assert float(measures.SliceThickness) == 4.0  # a gap of 1 mm


def test_4_a_source_without_thickness_gets_one(tmp_path: Path) -> None:
    source = SourceSeries.from_files(series(tmp_path / "in", SliceThickness=None))
    written = write_seg(request(source, blobs(source), tmp_path / "s.dcm"))
    measures = pydicom.dcmread(written.path).SharedFunctionalGroupsSequence[0]
    assert float(measures.PixelMeasuresSequence[0].SliceThickness) == 5.0
    assert validator_errors(written.path) == []


def test_5_source_image_and_position_of_a_frame_agree(case: Case) -> None:
    for item in case.seg.PerFrameFunctionalGroupsSequence:
        (image,) = item.DerivationImageSequence[0].SourceImageSequence
        source = case.images[image.ReferencedSOPInstanceUID]
        assert list(item.PlanePositionSequence[0].ImagePositionPatient) == list(
            source.ImagePositionPatient
        )


def test_6_positions_and_orientation_are_copied_digit_for_digit(case: Case) -> None:
    texts = {tuple(map(str, image.ImagePositionPatient)) for image in case.images.values()}
    for item in case.seg.PerFrameFunctionalGroupsSequence:
        assert tuple(map(str, item.PlanePositionSequence[0].ImagePositionPatient)) in texts
    orientation = case.seg.SharedFunctionalGroupsSequence[0].PlaneOrientationSequence[0]
    first = next(iter(case.images.values()))
    assert list(map(str, orientation.ImageOrientationPatient)) == list(
        map(str, first.ImageOrientationPatient)
    )


def test_7_labels_codes_and_algorithm_of_every_segment(case: Case) -> None:
    for item, spec in zip(case.seg.SegmentSequence, TWO, strict=True):
        assert item.SegmentLabel == spec.label
        assert item.SegmentedPropertyTypeCodeSequence[0].CodeValue == spec.type.value
        assert item.SegmentedPropertyCategoryCodeSequence[0].CodeValue == spec.category.value
        assert item.SegmentAlgorithmType == "AUTOMATIC"
        assert item.SegmentAlgorithmName == spec.algorithm_name


def test_7_algorithm_identification_with_plan_and_tracking(tmp_path: Path) -> None:
    source = SourceSeries.from_files(series(tmp_path / "in"))
    spec = replace(
        MS_LESIONS[0],
        algorithm_name="ms-lesion",
        algorithm_version="f" * 64,
        algorithm_parameters=(("plan_hash", "ab" * 32),),
    )
    mask = (blobs(source) > 0).astype(np.uint8)
    base = replace(request(source, mask, tmp_path / "s.dcm"), segments=(spec,))
    segment = pydicom.dcmread(write_seg(base).path).SegmentSequence[0]
    (algorithm,) = segment.SegmentationAlgorithmIdentificationSequence
    assert algorithm.AlgorithmName == "ms-lesion"
    assert algorithm.AlgorithmVersion == "f" * 64
    assert algorithm.AlgorithmParameters == f"plan_hash={'ab' * 32}"
    assert segment.TrackingID == "clinode MS lesion"
    assert segment.TrackingUID.startswith("2.25.")
    assert segment.AnatomicRegionSequence[0].CodeValue == "12738006"
    assert validator_errors(base.out) == []


def test_8_dimension_indices_lead_with_the_segment(case: Case) -> None:
    first, second = case.seg.DimensionIndexSequence
    assert first.DimensionIndexPointer == 0x0062000B  # ReferencedSegmentNumber
    assert second.DimensionIndexPointer == 0x00200032  # ImagePositionPatient
    for item in case.seg.PerFrameFunctionalGroupsSequence:
        values = item.FrameContentSequence[0].DimensionIndexValues
        assert len(values) == 2
        number = item.SegmentIdentificationSequence[0].ReferencedSegmentNumber
        assert values[0] == number


def test_9_frame_of_reference_is_the_sources(case: Case) -> None:
    assert case.seg.FrameOfReferenceUID == phantom.FRAME_UID


def test_10_colours_come_out_as_declared(case: Case) -> None:
    from highdicom.color import CIELabColor

    for item, spec in zip(case.seg.SegmentSequence, TWO, strict=True):
        colour = CIELabColor.from_dicom_value(list(item.RecommendedDisplayCIELabValue))
        back = np.array(colour.to_rgb(clip=True))
        assert np.max(np.abs(back - np.array(spec.colour))) <= 2


def test_11_bits_run_lsb_first_across_frames(case: Case) -> None:
    pixels = case.seg.Rows * case.seg.Columns
    assert pixels % 8  # 45 x 53: a frame is no whole number of bytes
    bits = np.unpackbits(np.frombuffer(case.seg.PixelData, np.uint8), bitorder="little")
    frames = bits[: pixels * case.seg.NumberOfFrames].reshape(-1, case.seg.Rows, case.seg.Columns)
    order = {frame.SOPInstanceUID: k for k, frame in enumerate(case.source.frames)}
    for plane, item in zip(frames, case.seg.PerFrameFunctionalGroupsSequence, strict=True):
        image = item.DerivationImageSequence[0].SourceImageSequence[0]
        number = item.SegmentIdentificationSequence[0].ReferencedSegmentNumber
        k = order[image.ReferencedSOPInstanceUID]
        assert np.array_equal(plane, (case.mask[:, :, k] == number).T)


def test_12_and_13_no_empty_frame_and_no_empty_segment(case: Case) -> None:
    frames = case.seg.pixel_array.reshape(case.seg.NumberOfFrames, -1)
    assert frames.any(axis=1).all()
    used = {
        int(item.SegmentIdentificationSequence[0].ReferencedSegmentNumber)
        for item in case.seg.PerFrameFunctionalGroupsSequence
    }
    assert used == {1, 2} == {int(item.SegmentNumber) for item in case.seg.SegmentSequence}


def test_rules_beside_the_points(case: Case) -> None:
    assert "BurnedInAnnotation" not in case.seg
    assert case.seg.ContentLabel == case.seg.ContentLabel.upper()
    assert case.seg.ContentCreatorName == "CLINODE^RESEARCH"
    assert case.seg.SeriesNumber > 5
    assert case.seg.SeriesInstanceUID not in (phantom.SERIES_UID, "")
    assert case.seg.Manufacturer == case.seg.ManufacturerModelName == "clinode"
    assert case.seg.SeriesDescription.startswith("RESEARCH ")


def test_a_label_map_has_no_background_item_and_no_gap(case: Case, tmp_path: Path) -> None:
    base = request(case.source, np.where(case.mask == 2, 7, case.mask), tmp_path / "m.dcm")
    specs = (TWO[0], replace(TWO[1], number=7))
    written = write_seg(replace(base, form="labelmap", segments=specs))
    seg = pydicom.dcmread(written.path)
    assert [int(item.SegmentNumber) for item in seg.SegmentSequence] == [1, 2]
    assert seg.PixelPaddingValue == 0
    assert seg.SegmentationType == "LABELMAP"
    assert written.values == {1: 1, 2: 7}
    assert validator_errors(written.path) == []
    labels = read_labels(written.path, case.source)
    assert np.array_equal(labels, case.mask)
    qi = dcmqi_masks(written.path, tmp_path / "qi", case.source.geometry)
    for number in (1, 2):
        assert np.array_equal(qi[number], case.mask == number)


def test_each_lesion_its_own_segment_with_its_own_tracking(case: Case, tmp_path: Path) -> None:
    base = request(case.source, case.mask, tmp_path / "e.dcm")
    written = write_seg(replace(base, lesions="each"))
    again = write_seg(replace(base, lesions="each", out=tmp_path / "f.dcm"))
    assert written.path.read_bytes() == again.path.read_bytes()
    seg = pydicom.dcmread(written.path)
    uids = [item.TrackingUID for item in seg.SegmentSequence]
    assert len(set(uids)) == len(uids) == len(written.segments) > 2
    assert validator_errors(written.path) == []
    first, second = written.findings
    assert [lesion.tracking_uid for lesion in (*first.lesions, *second.lesions)] == uids
    assert (*first.segments, *second.segments) == tuple(range(1, len(uids) + 1))
    volumes = [lesion.volume_ml for lesion in first.lesions]
    assert volumes == sorted(volumes, reverse=True)
    assert sum(written.segments.values()) == int(np.count_nonzero(case.mask))
