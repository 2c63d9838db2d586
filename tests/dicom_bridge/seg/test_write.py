from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import nibabel
import numpy as np
import pydicom
import pytest
from numpy.typing import NDArray

from dicom_bridge.convert import SourceSeries
from dicom_bridge.errors import DataRefused, SegRefused
from dicom_bridge.seg import (
    Code,
    ExpertPolicy,
    NoFinding,
    SegmentSpec,
    SegRequest,
    check_seg,
    is_expert,
    read_seg,
    read_seg_alone,
    referenced_series,
    write_seg,
)
from dicom_bridge.seg.files import (
    WriteOptions,
    check_seg_files,
    read_seg_files,
    write_seg_files,
)
from tests.dicom_bridge.convert import phantom
from tests.dicom_bridge.convert.phantom import Layout, cosines, series
from tests.dicom_bridge.seg.readers import dcmqi_masks, validator_errors

SEG_UID = "2.25.100200300"
SEG_SERIES = "2.25.100200301"
WHEN = datetime(2026, 2, 3, 4, 5, 6, tzinfo=UTC)
LESION = SegmentSpec(1, "MS lesion", algorithm_name="ms-lesion", algorithm_version="f" * 64)
TWO = (LESION, replace(LESION, number=2, label="Other", colour=(0, 200, 0)))


def blobs(source: SourceSeries, seed: int = 0) -> NDArray[np.uint8]:
    """A ragged, asymmetric two-label mask on the series' grid."""
    random = np.random.default_rng(seed)
    shape = source.geometry.shape
    mask = np.zeros(shape, np.uint8)
    low = [size // 5 for size in shape]
    high = [size // 2 for size in shape]
    box = tuple(slice(a, max(b, a + 1)) for a, b in zip(low, high, strict=True))
    mask[box] = random.random(mask[box].shape) < 0.4
    mask[-3:, 1:5, -2] = 2
    mask[0, 0, 0] = 1
    return mask


def request(source: SourceSeries, mask: NDArray[np.uint8], out: Path) -> SegRequest:
    return SegRequest(
        source=source,
        mask=mask,
        affine=source.geometry.affine,
        segments=TWO,
        out=out,
        sop_instance_uid=SEG_UID,
        series_instance_uid=SEG_SERIES,
        written_at=WHEN,
    )


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("kind", ["axial", "oblique", "sagittal", "coronal", "axial-mirrored"])
def test_every_reader_gives_the_mask_back(tmp_path: Path, kind: str, reverse: bool) -> None:
    # 45 x 53 is no multiple of 8: frames are not whole bytes
    layout = Layout(orientation=cosines(kind), reverse_numbers=reverse)
    source = SourceSeries.from_files(series(tmp_path / "in", layout)[::-1])
    mask = blobs(source)

    written = write_seg(request(source, mask, tmp_path / "seg.dcm"))

    assert written.segments == {1: int((mask == 1).sum()), 2: int((mask == 2).sum())}
    assert validator_errors(written.path) == []
    assert check_seg(source, written.path) == []
    content = read_seg(written.path, source)
    qi = dcmqi_masks(written.path, tmp_path / "qi", source.geometry)
    for segment in content.segments:
        assert np.array_equal(segment.mask, mask == segment.number)
        assert np.array_equal(qi[segment.number], segment.mask)
    assert np.array_equal(content.affine, source.geometry.affine)


def test_the_original_study_and_the_exact_positions_are_in_it(tmp_path: Path) -> None:
    files = series(tmp_path / "in", Layout(orientation=cosines("oblique")))
    source = SourceSeries.from_files(files)
    written = write_seg(request(source, blobs(source), tmp_path / "seg.dcm"))
    seg, first = pydicom.dcmread(written.path), pydicom.dcmread(files[0])

    for keyword in (
        *("PatientName", "PatientID", "PatientBirthDate", "PatientSex", "StudyInstanceUID"),
        *("StudyID", "StudyDate", "StudyTime", "AccessionNumber", "ReferringPhysicianName"),
        *("FrameOfReferenceUID", "BodyPartExamined"),
    ):
        assert seg[keyword].value == first[keyword].value, keyword
    assert seg.SeriesNumber == written.series_number == 1005
    assert seg.SeriesDescription.startswith("RESEARCH")
    assert seg.Manufacturer == "clinode"
    assert seg.ContentLabel == "SEGMENTATION"
    assert "BurnedInAnnotation" not in seg
    assert seg.file_meta.TransferSyntaxUID == "1.2.840.10008.1.2.1"
    referenced = seg.ReferencedSeriesSequence[0].ReferencedInstanceSequence
    assert {item.ReferencedSOPInstanceUID for item in referenced} == {
        frame.SOPInstanceUID for frame in source.frames
    }
    positions = {d.SOPInstanceUID: d for d in map(pydicom.dcmread, files)}
    for item in seg.PerFrameFunctionalGroupsSequence:
        derivation = item.DerivationImageSequence[0]
        image = derivation.SourceImageSequence[0]
        assert derivation.DerivationCodeSequence[0].CodeValue == "113076"
        assert image.PurposeOfReferenceCodeSequence[0].CodeValue == "121322"
        assert image.SpatialLocationsPreserved == "YES"
        original = positions[image.ReferencedSOPInstanceUID].ImagePositionPatient
        stored = item.PlanePositionSequence[0].ImagePositionPatient
        assert [str(v) for v in stored] == [str(v) for v in original]
    shared = seg.SharedFunctionalGroupsSequence[0]
    assert float(shared.PixelMeasuresSequence[0].SpacingBetweenSlices) == pytest.approx(5, abs=1e-4)
    assert float(shared.PixelMeasuresSequence[0].SliceThickness) == 4
    segment = seg.SegmentSequence[0]
    assert segment.SegmentAlgorithmType == "AUTOMATIC"
    assert segment.SegmentAlgorithmName == "ms-lesion"
    algorithm = segment.SegmentationAlgorithmIdentificationSequence[0]
    assert algorithm.AlgorithmVersion == "f" * 64
    assert len(segment.RecommendedDisplayCIELabValue) == 3
    mask = blobs(source)
    assert seg.NumberOfFrames == sum(
        int(np.any(mask[:, :, k] == value)) for value in (1, 2) for k in range(mask.shape[2])
    )


def test_same_request_same_bytes(tmp_path: Path) -> None:
    source = SourceSeries.from_files(series(tmp_path / "in"))
    one = write_seg(request(source, blobs(source), tmp_path / "a.dcm"))
    two = write_seg(request(source, blobs(source), tmp_path / "b.dcm"))
    assert one.path.read_bytes() == two.path.read_bytes()


def test_numbers_without_gaps_and_no_empty_segment(tmp_path: Path) -> None:
    source = SourceSeries.from_files(series(tmp_path / "in"))
    mask = np.where(blobs(source) == 2, 7, 0).astype(np.uint8)
    specs = (LESION, replace(LESION, number=7, label="Seven"))
    written = write_seg(replace(request(source, mask, tmp_path / "s.dcm"), segments=specs))
    assert written.values == {1: 7}
    content = read_seg(written.path, source)
    assert [(s.number, s.label) for s in content.segments] == [(1, "Seven")]
    assert validator_errors(written.path) == []


@pytest.mark.parametrize("axes", [(0, 1, 2), (2, 0, 1), (1, 2, 0)])
def test_masks_on_turned_and_finer_grids(tmp_path: Path, axes: tuple[int, int, int]) -> None:
    layout = Layout(orientation=cosines("oblique"))
    source = SourceSeries.from_files(series(tmp_path / "in", layout))
    mask = blobs(source)
    affine = source.geometry.affine.copy()
    affine[:3, 3] += affine[:3, 0] * (mask.shape[0] - 1)
    affine[:3, 0] *= -1
    turned = np.transpose(mask[::-1], axes)
    affine[:3, :3] = affine[:3, list(axes)]
    base = request(source, mask, tmp_path / "s.dcm")
    content = read_seg(write_seg(replace(base, mask=turned, affine=affine)).path, source)
    assert all(np.array_equal(s.mask, mask == s.number) for s in content.segments)

    finer = np.repeat(np.repeat(np.repeat(mask, 2, 0), 3, 1), 2, 2)
    scale = np.diag([1 / 2, 1 / 3, 1 / 2, 1.0])
    scale[:3, 3] = [-1 / 4, -1 / 3, -1 / 4]
    fine = replace(base, mask=finer, affine=source.geometry.affine @ scale)
    content = read_seg(write_seg(fine).path, source)
    assert all(np.array_equal(s.mask, mask == s.number) for s in content.segments)


def test_patient_values_fresh_from_the_archive(tmp_path: Path) -> None:
    source = SourceSeries.from_files(series(tmp_path / "in"))
    fresh = {"PatientName": "Jürgens^Łucja", "AccessionNumber": "NEW1"}
    base = replace(request(source, blobs(source), tmp_path / "s.dcm"), patient_overrides=fresh)
    seg = pydicom.dcmread(write_seg(base).path)
    assert str(seg.PatientName) == "Jürgens^Łucja"
    assert seg.AccessionNumber == "NEW1"
    assert seg.PatientID == phantom.PATIENT_ID
    assert validator_errors(base.out) == []
    with pytest.raises(DataRefused, match="not patient or study"):
        write_seg(replace(base, patient_overrides={"Modality": "CT"}))


def test_nothing_found_writes_nothing(tmp_path: Path) -> None:
    source = SourceSeries.from_files(series(tmp_path / "in"))
    empty = np.zeros(source.geometry.shape, np.uint8)
    with pytest.raises(NoFinding, match="no finding"):
        write_seg(request(source, empty, tmp_path / "s.dcm"))
    assert list(tmp_path.glob("*s.dcm*")) == []


def test_wrong_requests_are_refused_in_words(tmp_path: Path) -> None:
    source = SourceSeries.from_files(series(tmp_path / "in"))
    good = request(source, blobs(source), tmp_path / "s.dcm")
    no_frame = replace(source, series={**source.series, "FrameOfReferenceUID": ""})
    far = good.affine.copy()
    far[:3, 3] += 30
    cases = [
        (replace(good, sop_instance_uid="no.uid"), "not a valid UID"),
        (replace(good, series_instance_uid=source.SeriesInstanceUID), "series of its own"),
        (replace(good, source=no_frame), "FrameOfReferenceUID"),
        (replace(good, segments=(LESION,)), r"without a meaning in the mask: \[2\]"),
        (replace(good, segments=(*TWO, LESION)), "same number"),
        (replace(good, affine=far), "does not cover"),
        (replace(good, affine=np.zeros((4, 4))), "inverted"),
        (replace(good, mask=good.mask[..., 0]), "3-D"),
        (replace(good, series_number=0), "SeriesNumber"),
        (replace(good, segments=(replace(LESION, label=""), TWO[1])), "label"),
        (replace(good, segments=(replace(LESION, algorithm_name=""), TWO[1])), "name and version"),
        (replace(good, segments=(replace(LESION, tracking_id="a"), TWO[1])), "TrackingUID"),
    ]
    for wrong, words in cases:
        with pytest.raises(SegRefused, match=words) as caught:
            write_seg(wrong)
        assert "4711" not in str(caught.value)
        assert not good.out.exists()
    with pytest.raises(SegRefused, match="meaning"):
        Code("1", "SCT", "")


def test_tracking_region_and_manual_segments(tmp_path: Path) -> None:
    source = SourceSeries.from_files(series(tmp_path / "in"))
    spec = SegmentSpec(
        1,
        "Lesion",
        algorithm_type="MANUAL",
        region=Code("12738006", "SCT", "Brain"),
        tracking_id="lesion 1",
        tracking_uid="2.25.77",
    )
    mask = (blobs(source) > 0).astype(np.uint8)
    base = replace(
        request(source, mask, tmp_path / "s.dcm"),
        segments=(spec,),
        manufacturer="Reading Room",
        creator="EXPERT^READER",
        series_description="MS lesions",
    )
    seg = pydicom.dcmread(write_seg(base).path)
    assert validator_errors(base.out) == []
    assert seg.SegmentSequence[0].TrackingUID == "2.25.77"
    assert seg.SegmentSequence[0].AnatomicRegionSequence[0].CodeValue == "12738006"
    assert seg.SeriesDescription == "MS lesions"
    assert "SegmentAlgorithmName" not in seg.SegmentSequence[0]


class TestExpert:
    policy = ExpertPolicy(frozenset({("SCT", "52988006")}), frozenset({"Expert^Reader"}))

    def write(self, tmp_path: Path, **changes: object) -> Path:
        source = SourceSeries.from_files(series(tmp_path / "in"))
        manual = replace(LESION, algorithm_type="MANUAL")
        base = replace(
            request(source, (blobs(source) > 0).astype(np.uint8), tmp_path / "s.dcm"),
            segments=(manual,),
            manufacturer="Reading Room",
            creator="EXPERT^READER",
        )
        return write_seg(replace(base, **changes)).path  # type: ignore[arg-type]

    def test_an_experts_is(self, tmp_path: Path) -> None:
        assert is_expert(self.write(tmp_path), self.policy)[0] is True

    @pytest.mark.parametrize(
        ("changes", "words"),
        [
            ({"manufacturer": "clinode", "creator": "CLINODE^RESEARCH"}, "own"),
            ({"manufacturer": "clinode", "segments": (LESION,)}, "own"),
            ({"segments": (LESION,)}, "neither MANUAL"),
            ({"creator": "SOMEBODY^ELSE"}, "creator"),
            (
                {"segments": (replace(LESION, algorithm_type="MANUAL", type=Code("9", "X", "y")),)},
                "mapped",
            ),
        ],
    )
    def test_others_are_not(self, tmp_path: Path, changes: dict[str, object], words: str) -> None:
        decision, reason = is_expert(self.write(tmp_path, **changes), self.policy)
        assert decision is False
        assert words in reason

    def test_without_codes_nothing_is_mapped(self, tmp_path: Path) -> None:
        assert is_expert(self.write(tmp_path), ExpertPolicy(frozenset()))[0] is False


class TestFiles:
    def test_there_and_back(self, tmp_path: Path) -> None:
        folder = tmp_path / "in"
        source = SourceSeries.from_files(series(folder, Layout(orientation=cosines("sagittal"))))
        mask = blobs(source)
        path = tmp_path / "mask.nii.gz"
        nibabel.save(nibabel.Nifti1Image(mask, source.geometry.affine), path)  # type: ignore[no-untyped-call]
        (folder / "notes.txt").write_text("not DICOM")

        written = write_seg_files(folder, path, tmp_path / "s.dcm", WriteOptions(written_at=WHEN))

        assert check_seg_files(folder, written.path) == []
        assert referenced_series(written.path) == source.SeriesInstanceUID
        files = read_seg_files(written.path, tmp_path / "out")
        assert [file.name for file in files] == ["1.nii.gz", "2.nii.gz"]
        qi = dcmqi_masks(written.path, tmp_path / "qi", source.geometry)
        alone = read_seg_alone(written.path)
        for segment in alone.segments:
            index = np.argwhere(segment.mask)
            change = np.linalg.inv(source.geometry.affine) @ alone.affine
            there = np.rint(np.c_[index, np.ones(len(index))] @ change.T)[:, :3].astype(int)
            back = np.zeros_like(mask)
            back[tuple(there.T)] = 1
            assert np.array_equal(back, qi[segment.number])
            assert np.array_equal(back, mask == segment.number)
        listing = (tmp_path / "out" / "segments.json").read_text()
        assert '"SegmentLabel": "Lesion"' in listing
        assert "4711" not in listing

    def test_unusable_masks(self, tmp_path: Path) -> None:
        folder = tmp_path / "in"
        shape = SourceSeries.from_files(series(folder)).geometry.shape
        bad = {
            "negative": np.full(shape, -1, np.int16),
            "fraction": np.full(shape, 0.5, np.float32),
            "large": np.full(shape, 300, np.int16),
            "nan": np.full(shape, np.nan, np.float32),
            "flat": np.ones(shape[:2], np.uint8),
        }
        for name, values in bad.items():
            path = tmp_path / f"{name}.nii"
            nibabel.save(nibabel.Nifti1Image(values, np.eye(4)), path)  # type: ignore[no-untyped-call]
            with pytest.raises(DataRefused, match="mask"):
                write_seg_files(folder, path, tmp_path / "s.dcm")
        (tmp_path / "text.nii").write_text("no image")
        with pytest.raises(DataRefused, match="NIfTI"):
            write_seg_files(folder, tmp_path / "text.nii", tmp_path / "s.dcm")
        assert not (tmp_path / "s.dcm").exists()
