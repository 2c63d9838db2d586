from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
import SimpleITK
from numpy.typing import NDArray

from dicom_bridge.convert import SourceSeries, convert_series
from dicom_bridge.errors import SegRefused
from dicom_bridge.sc import CaptureRequest, write_captures
from dicom_bridge.sc.source import source_pixels
from dicom_bridge.seg import check_seg, read_seg, read_seg_alone, write_seg
from dicom_bridge.seg.read import referenced_series
from dicom_bridge.sr import (
    Algorithm,
    ReportRequest,
    SegReference,
    read_report,
    write_report,
)
from tests.dicom_bridge.real import files_of, packed_series
from tests.dicom_bridge.seg.readers import (
    consistency_errors,
    dcmqi_masks,
    object_errors,
    validator_errors,
)
from tests.dicom_bridge.seg.test_write import TWO, blobs, request
from tests.tools import shared_dir

pytestmark = pytest.mark.integration


def known_mask_comes_back(files: list[Path], tmp_path: Path) -> SourceSeries:
    converted = convert_series(files, tmp_path / "i.nii", work=tmp_path / "work")
    source = SourceSeries.from_files(files[::-1])
    assert source == converted.source
    mask = blobs(source, seed=5)
    written = write_seg(request(source, mask, tmp_path / "s.dcm"))
    assert validator_errors(written.path) == []
    assert check_seg(source, written.path) == []
    qi = dcmqi_masks(written.path, tmp_path / "qi", source.geometry)
    for segment in read_seg(written.path, source).segments:
        assert np.array_equal(segment.mask, mask == segment.number)
        assert np.array_equal(qi[segment.number], segment.mask)
    return source


def test_enhanced_flair_with_interleaved_frames(tmp_path: Path) -> None:
    study = shared_dir("data", "dicom", "nema_enhanced_brain", "tumour_study")
    source = known_mask_comes_back([study / "BRTUM003"], tmp_path)
    numbers = [frame.FrameNumber for frame in source.frames]
    assert len(numbers) == 24
    assert numbers != sorted(numbers)


def test_report_and_pictures_of_an_enhanced_flair(tmp_path: Path) -> None:
    study = shared_dir("data", "dicom", "nema_enhanced_brain", "tumour_study")
    files = [study / "BRTUM003"]
    source = SourceSeries.from_files(files)
    mask = np.zeros(source.geometry.shape, np.uint8)
    mask[60:90, 70:100, 9:14] = 1
    mask[150:160, 70:75, 20] = 2
    seg = write_seg(request(source, mask, tmp_path / "s.dcm"))
    report = write_report(
        ReportRequest(
            source=source,
            seg=SegReference.of(seg),
            findings=seg.findings,
            algorithm=Algorithm("plan", "f" * 64),
            out=tmp_path / "r.dcm",
            sop_instance_uid="2.25.500",
            series_instance_uid="2.25.501",
        )
    )
    pixels, window = source_pixels(files)
    pictures = write_captures(
        CaptureRequest(
            source=source,
            pixels=pixels,
            mask=mask,
            affine=source.geometry.affine,
            segments=TWO,
            out=tmp_path / "sc",
            series_instance_uid="2.25.600",
            window=window,
        )
    )
    assert object_errors(report.path, "Comprehensive3DSR") == []
    assert object_errors(pictures.paths[0], "SCImage") == []
    assert pictures.slices == (9, 10, 11, 12, 13, 20)
    numbers = [
        pydicom.dcmread(path).SourceImageSequence[0].ReferencedFrameNumber
        for path in pictures.paths
    ]
    assert numbers == [source.frames[k].FrameNumber for k in pictures.slices]
    values = [group.volume_ml for group in read_report(report.path).groups]
    voxel_ml = float(np.prod(source.geometry.spacing)) / 1000
    expected = [4500 * voxel_ml, 4500 * voxel_ml, 50 * voxel_ml, 50 * voxel_ml]
    assert values == pytest.approx(expected, abs=1e-6)
    errors = consistency_errors([*files, seg.path, report.path, *pictures.paths])
    assert errors == consistency_errors(files)


@pytest.mark.parametrize("name", ["BRTUM004", "BRTUM005", "BRTUM008"])
def test_other_enhanced_contrasts(tmp_path: Path, name: str) -> None:
    study = shared_dir("data", "dicom", "nema_enhanced_brain", "tumour_study")
    known_mask_comes_back([study / name], tmp_path)


def test_enhanced_siemens_t1(tmp_path: Path) -> None:
    folder = shared_dir("data", "dicom", "siemens_xa30_enhanced", "5_anat-T1w_acq-tfl")
    known_mask_comes_back(files_of(folder), tmp_path)


def test_sagittal_3d_t1(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    source = known_mask_comes_back(
        files_of(packed_series("siemens_prisma_mprage", tmp_path_factory)), tmp_path
    )
    assert source.geometry.shape == (256, 256, 192)


def test_prone_and_supine_2d(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = packed_series("siemens_prisma_positions", tmp_path_factory)
    for part in sorted(path for path in folder.iterdir() if path.is_dir()):
        known_mask_comes_back(files_of(part), tmp_path / part.name)


def _reference(path: Path) -> tuple[NDArray[Any], NDArray[np.float64]]:
    """A NRRD label image: (X, Y, Z) values and affine to RAS mm."""
    image = SimpleITK.ReadImage(str(path))
    affine = np.eye(4)
    directions = np.array(image.GetDirection()).reshape(3, 3)
    affine[:3, :3] = directions * np.array(image.GetSpacing())
    affine[:3, 3] = image.GetOrigin()
    values = SimpleITK.GetArrayFromImage(image).transpose(2, 1, 0)
    return values, np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine


@pytest.mark.parametrize("size", ["23x38x3", "24x38x3"])
def test_dcmqis_own_segs_with_rows_of_odd_length(size: str) -> None:
    folder = shared_dir("data", "seg", "dcmqi", size)
    labels, affine = _reference(folder / "nrrd" / "label.nrrd")
    source = SourceSeries.from_files(files_of(folder / "image"))
    path = folder / "seg" / "label.seg"
    content = read_seg(path, source)
    assert referenced_series(path) == source.SeriesInstanceUID
    total = sum(int(segment.mask.sum()) for segment in content.segments)
    assert total == int((labels > 0).sum()) > 0
    for segment in content.segments:
        index = np.argwhere(segment.mask)
        change = np.linalg.inv(affine) @ content.affine
        there = np.rint(np.c_[index, np.ones(len(index))] @ change.T)[:, :3].astype(int)
        assert np.all(labels[tuple(there.T)] > 0)


def test_dcmqis_segs_of_a_ct() -> None:
    folder = shared_dir("data", "seg", "dcmqi")
    source = SourceSeries.from_files(files_of(folder / "ct-3slice"))
    liver = read_seg(folder / "liver.dcm", source)
    assert liver.segments[0].algorithm_type in ("SEMIAUTOMATIC", "MANUAL", "AUTOMATIC")
    assert liver.segments[0].mask.any()
    several = read_seg(folder / "partial_overlaps.dcm", source)
    assert len(several.segments) > 1
    stacked = np.stack([segment.mask for segment in several.segments])
    assert int(stacked.sum(axis=0).max()) > 1  # they do overlap


def test_every_kind_of_seg_of_highdicom_is_read_or_refused_in_words() -> None:
    read, refused = 0, []
    for path in files_of(shared_dir("data", "seg", "highdicom")):
        try:
            content = read_seg_alone(path)
            assert all(segment.mask.ndim == 3 for segment in content.segments)
            read += 1
        except SegRefused as error:
            refused.append(str(error))
    assert read >= 5
    assert refused.count("the object is no DICOM segmentation (SEG)") == 2  # the CT, the SR


def test_every_other_real_seg_and_report_is_read() -> None:
    root = shared_dir("data", "seg")
    for path in (
        root / "dcmqi" / "sparse-labelmap-noppv.dcm",
        root / "dcmqi" / "sparse-labelmap-ppv5.dcm",
        root / "dcmqi_sr_example" / "seg.dcm",
        root / "slicer_qin_headneck" / "tumor_User1_Manual_Trial1.dcm",
    ):
        content = read_seg_alone(path)
        assert all(segment.mask.any() for segment in content.segments), path.name
        assert all(segment.label for segment in content.segments), path.name
    report = read_report(root / "dcmqi_sr_example" / "sr.dcm")
    assert report.groups[0].tracking_id == "primary tumor"
    assert all(group.segment and group.seg_uid for group in report.groups)
