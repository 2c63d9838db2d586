"""SEGs that refer to a series but stand on another grid."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pydicom
import pytest
from numpy.typing import NDArray
from pydicom.dataset import Dataset

from dicom_bridge.convert import SourceSeries
from dicom_bridge.errors import SegRefused
from dicom_bridge.seg import read_seg, write_seg
from dicom_bridge.seg.read import OffGrid, open_seg, shares_on_own_grid
from tests.dicom_bridge.convert.phantom import SERIES_UID, Layout, cosines, series
from tests.dicom_bridge.real import files_of
from tests.dicom_bridge.rtstruct.structures import voxel_places
from tests.dicom_bridge.seg.test_shapes import uneven_series
from tests.dicom_bridge.seg.test_write import LESION, request
from tests.tools import shared_dir

pytestmark = pytest.mark.integration

COARSE = Layout(rows=40, columns=44, slices=14, distance=4.0)
FINE = Layout(rows=48, columns=54, slices=40, spacing=(1.0, 0.9), distance=1.1)


def inside(source: SourceSeries, radius: float = 15.0) -> NDArray[np.bool_]:
    found: NDArray[np.bool_] = np.linalg.norm(voxel_places(source), axis=-1) < radius
    return found


def drawn_on_another_grid(folder: Path, other: Layout, mask_radius: float = 15.0) -> Path:
    """A SEG on a second grid of the phantom that says that it segments the first series."""
    source = SourceSeries.from_files(series(folder / "other", other))
    mask = inside(source, mask_radius).astype(np.uint8)
    wanted = replace(request(source, mask, folder / "s.dcm"), segments=(LESION,))
    path = write_seg(wanted).path
    dataset = pydicom.dcmread(path)
    dataset.ReferencedSeriesSequence[0].SeriesInstanceUID = SERIES_UID
    dataset.save_as(path, enforce_file_format=True)
    return path


@pytest.mark.parametrize("orientation", ["axial", "sagittal", "oblique"])
def test_a_ball_drawn_on_a_finer_view(tmp_path: Path, orientation: str) -> None:
    source = SourceSeries.from_files(series(tmp_path / "in", COARSE))
    path = drawn_on_another_grid(tmp_path, replace(FINE, orientation=cosines(orientation)))
    with pytest.raises(OffGrid, match="another grid"):
        read_seg(path, source)
    content = read_seg(path, source, resample=True)
    assert content.resampled
    mask, truth = content.segments[0].mask > 0, inside(source)
    assert np.array_equal(content.affine, source.geometry.affine)
    assert 2 * np.sum(mask & truth) / (mask.sum() + truth.sum()) > 0.97
    assert mask.sum() * 2.0 * 1.7 * 4.0 == pytest.approx(4 / 3 * np.pi * 15**3, rel=0.02)


def test_an_uneven_series_and_what_does_not_fit(tmp_path: Path) -> None:
    uneven = SourceSeries.from_files(uneven_series(tmp_path / "uneven"), even=False)
    path = drawn_on_another_grid(tmp_path, FINE, 9.0)
    mask = read_seg(path, uneven, resample=True).segments[0].mask > 0
    truth = inside(uneven, 9.0)
    assert 2 * np.sum(mask & truth) / (mask.sum() + truth.sum()) > 0.9

    source = SourceSeries.from_files(series(tmp_path / "in", replace(COARSE, slices=5)))
    with pytest.raises(SegRefused, match="lie outside its series"):
        read_seg(drawn_on_another_grid(tmp_path / "b", FINE, 19.0), source, resample=True)
    tiny = read_seg(drawn_on_another_grid(tmp_path / "c", FINE, 1.2), source, resample=True)
    assert tiny.segments[0].mask.sum() == 1, "nothing vanishes"
    dataset = pydicom.dcmread(path)
    dataset.FrameOfReferenceUID = "2.25.3"
    dataset.save_as(path, enforce_file_format=True)
    with pytest.raises(SegRefused, match="another frame of reference"):
        read_seg(path, source, resample=True)


def test_fractional_shares_are_the_files_values() -> None:
    path = shared_dir("data", "seg", "highdicom") / "seg_image_ct_true_fractional.dcm"
    dataset = open_seg(path, pixels=True)
    shares, geometry = shares_on_own_grid(dataset)
    values = np.concatenate([share[share > 0] for share in shares.values()])
    stored = dataset.pixel_array[dataset.pixel_array > 0] / dataset.MaximumFractionalValue
    assert np.allclose(np.sort(values / 255), np.sort(stored), atol=1 / 255)
    assert all(share.shape == geometry.shape for share in shares.values())


def test_real_segs_of_a_ct_read_the_same_through_the_resampler() -> None:
    from dicom_bridge.seg.resampling import resampled

    folder = shared_dir("data", "seg", "dcmqi")
    source = SourceSeries.from_files(files_of(folder / "ct-3slice"))
    for name in ("liver.dcm", "partial_overlaps.dcm"):
        dataset: Dataset = open_seg(folder / name, pixels=True)
        plain, through = read_seg(folder / name, source), resampled(dataset, source)
        for a, b in zip(plain.segments, through.segments, strict=True):
            assert np.array_equal(a.mask, b.mask), name
