"""Series of every shape: written, validated and read back by programs that are not ours."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pydicom
import pytest
import SimpleITK

from dicom_bridge.convert import SourceSeries
from dicom_bridge.errors import DataRefused, SegRefused
from dicom_bridge.seg import check_seg, read_labels, write_seg
from tests.dicom_bridge.convert.phantom import Layout, cosines, series
from tests.dicom_bridge.seg.readers import consistency_errors, dcmqi_masks, validator_errors
from tests.dicom_bridge.seg.test_write import blobs, request

SMALL = Layout(rows=19, columns=23, slices=8)


@dataclass(frozen=True)
class Shape:
    """A layout and how its files come in."""

    layout: Layout
    shuffle: bool = False


SHAPES = {
    "oblique, shuffled": Shape(replace(SMALL, orientation=cosines("oblique")), shuffle=True),
    "sagittal": Shape(replace(SMALL, orientation=cosines("sagittal"), distance=1.1, thickness=1.1)),
    "coronal, numbers reversed": Shape(
        replace(SMALL, orientation=cosines("coronal"), reverse_numbers=True)
    ),
    "thick slices with gaps": Shape(replace(SMALL, distance=9.75, thickness=6.5)),
    "overlapping slices": Shape(replace(SMALL, distance=2.0, thickness=4.0)),
    "rows of whole bytes": Shape(replace(SMALL, rows=16, columns=32)),
    "two slices": Shape(replace(SMALL, slices=2)),
}


def written_and_read(shape: Shape, folder: Path) -> SourceSeries:
    files = series(folder / "in", shape.layout)
    if shape.shuffle:
        files = [files[i] for i in np.random.default_rng(3).permutation(len(files))]
    source = SourceSeries.from_files(files)
    mask = blobs(source, seed=7)

    written = write_seg(request(source, mask, folder / "s.dcm"))

    assert validator_errors(written.path) == []
    assert check_seg(source, written.path) == []
    assert consistency_errors([*files, written.path]) == []
    assert np.array_equal(read_labels(written.path, source), mask)
    masks = dcmqi_masks(written.path, folder / "qi", source.geometry)
    for number in (1, 2):
        assert np.array_equal(masks[number], mask == number)
    return source


@pytest.mark.integration
@pytest.mark.parametrize("name", sorted(SHAPES))
def test_shapes(name: str, tmp_path: Path) -> None:
    written_and_read(SHAPES[name], tmp_path)


@pytest.mark.integration
def test_simpleitk_places_every_voxel_where_the_source_has_it(tmp_path: Path) -> None:
    source = written_and_read(SHAPES["oblique, shuffled"], tmp_path)
    mask = blobs(source, seed=7)
    inverse = np.linalg.inv(source.geometry.affine) @ np.diag([-1.0, -1.0, 1.0, 1.0])
    found = np.zeros_like(mask)
    for file in sorted((tmp_path / "qi").glob("s-*.nii*")):
        image = SimpleITK.ReadImage(str(file))
        values = SimpleITK.GetArrayFromImage(image)
        for k, j, i in np.argwhere(values > 0).tolist():
            point = image.TransformIndexToPhysicalPoint((i, j, k))  # LPS mm
            place = np.rint(inverse @ np.array([*point, 1.0]))[:3].astype(int)
            found[tuple(place)] = values[k, j, i]
    assert np.array_equal(found, mask)


@pytest.mark.integration
def test_a_single_slice(tmp_path: Path) -> None:
    files = series(tmp_path / "in", replace(SMALL, slices=1))
    source = SourceSeries.from_files(files)
    mask = np.zeros(source.geometry.shape, np.uint8)
    mask[3:9, 4:7, 0] = 1
    mask[12, 12, 0] = 2
    written = write_seg(request(source, mask, tmp_path / "s.dcm"))
    assert validator_errors(written.path) == []
    assert check_seg(source, written.path) == []
    assert np.array_equal(read_labels(written.path, source), mask)
    masks = dcmqi_masks(written.path, tmp_path / "qi", source.geometry)
    assert all(np.array_equal(masks[number], mask == number) for number in (1, 2))


def uneven_series(folder: Path) -> list[Path]:
    """Slices 5 mm apart, but a double gap after the third and 3 mm before the last."""
    heights = [0.0, 5.0, 10.0, 20.0, 25.0, 28.0]
    layout = replace(SMALL, slices=len(heights), orientation=cosines("oblique"))
    _, _, normal = layout.axes()
    paths = series(folder, layout)
    for path, height in zip(paths, heights, strict=True):
        dataset = pydicom.dcmread(path)
        place = layout.position(0) + normal * height
        dataset.ImagePositionPatient = [f"{value:.5f}" for value in place]
        dataset.save_as(path, enforce_file_format=True)
    return paths


def test_an_uneven_series_slice_by_slice(tmp_path: Path) -> None:
    files = uneven_series(tmp_path / "in")
    with pytest.raises(DataRefused, match=r"missing slice|uneven"):
        SourceSeries.from_files(files)
    source = SourceSeries.from_files(files[::-1], even=False)
    assert not source.even
    # a fine regular mask that covers it: a slab that holds slices 2 to 4 (10 to 25 mm)
    affine = source.slice_affine(0)
    affine[:3, 3] += affine[:3, 2] * -1
    mask = np.zeros((23, 19, 31), np.uint8)
    mask[4:9, 5:8, 10:27] = 1
    written = write_seg(replace(request(source, mask, tmp_path / "s.dcm"), affine=affine))

    expected = np.zeros((23, 19, 6), np.uint8)
    expected[4:9, 5:8, 2:5] = 1
    assert np.array_equal(read_labels(written.path, source), expected)
    assert validator_errors(written.path) == []
    seg = pydicom.dcmread(written.path)
    images = {pydicom.dcmread(path).SOPInstanceUID: path for path in files}
    assert seg.NumberOfFrames == 3
    for item in seg.PerFrameFunctionalGroupsSequence:
        image = item.DerivationImageSequence[0].SourceImageSequence[0]
        position = pydicom.dcmread(images[image.ReferencedSOPInstanceUID]).ImagePositionPatient
        assert list(item.PlanePositionSequence[0].ImagePositionPatient) == list(position)
    findings = check_seg(source, written.path)
    assert findings == [
        "the series' slices are not evenly apart: readers that build a volume misplace them"
    ]


def test_masks_that_cover_a_part_only(tmp_path: Path) -> None:
    source = SourceSeries.from_files(series(tmp_path / "in", SMALL))
    whole = np.zeros(source.geometry.shape, np.uint8)
    whole[5:9, 4:8, 3:5] = 1
    cut, affine = whole[2:, :, 2:6], source.geometry.affine.copy()
    affine[:3, 3] += affine[:3, :3] @ [2, 0, 2]
    base = replace(request(source, cut, tmp_path / "s.dcm"), affine=affine)
    with pytest.raises(SegRefused, match="does not cover"):
        write_seg(base)
    written = write_seg(replace(base, coverage="crop"))
    assert np.array_equal(read_labels(written.path, source), whole)

    turned = affine.copy()
    turned[:3, 3] += affine[:3, 0] * 0.3  # between the series' voxels
    off_grid = replace(base, affine=turned, coverage="crop")
    with pytest.raises(SegRefused, match="does not cover"):
        write_seg(off_grid)
    written = write_seg(replace(off_grid, coverage="part"))
    assert np.array_equal(read_labels(written.path, source), whole)

    elsewhere = affine.copy()
    elsewhere[:3, 3] += affine[:3, 2] * 5
    with pytest.raises(SegRefused, match="labels outside the series"):
        write_seg(replace(base, affine=elsewhere, coverage="part"))


@pytest.mark.long
@pytest.mark.timeout(600)
def test_400_slices_and_300_lesions(tmp_path: Path) -> None:
    layout = Layout(
        orientation=cosines("oblique"),
        rows=101,
        columns=99,
        slices=400,
        distance=0.7,
        thickness=0.7,
    )
    source = SourceSeries.from_files(series(tmp_path / "in", layout))
    mask = np.zeros(source.geometry.shape, np.uint8)
    for number in range(300):
        i, j = 4 + 9 * (number % 10), 4 + 9 * ((number // 10) % 10)
        k = 5 + 130 * (number // 100)
        mask[i : i + 3, j : j + 2, k : k + 1 + number % 7] = 1
    base = replace(request(source, mask, tmp_path / "s.dcm"))
    together = write_seg(base)
    each = write_seg(replace(base, lesions="each", out=tmp_path / "e.dcm"))
    assert len(each.segments) == len(each.findings[0].lesions) == 300
    for written in (together, each):
        assert validator_errors(written.path) == []
        assert check_seg(source, written.path) == []
        assert np.array_equal(read_labels(written.path, source) > 0, mask > 0)
    masks = dcmqi_masks(together.path, tmp_path / "qi", source.geometry)
    assert np.array_equal(masks[1], mask)
