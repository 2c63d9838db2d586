from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from numpy.typing import NDArray
from scipy import ndimage

from dicom_bridge.seg import lesions_of
from dicom_bridge.seg.lesions import labelled

AFFINE = np.array([[-2.0, 0, 0, 10], [0, -3, 0, 20], [0, 0, 4, -30], [0, 0, 0, 1]])


def test_number_volume_and_centroid_in_lps() -> None:
    mask = np.zeros((10, 10, 10), np.uint8)
    mask[1, 1, 1] = 1
    mask[4:7, 5, 5] = 1
    large, small = lesions_of(mask, AFFINE, seed="2.25.9", name="MS lesion")
    assert (large.number, large.voxels) == (1, 3)
    assert large.volume_ml == pytest.approx(3 * 24 / 1000)
    assert large.centroid == pytest.approx((0.0, -5.0, -10.0))  # LPS: x and y of RAS reversed
    assert small.centroid == pytest.approx((-8.0, -17.0, -26.0))
    assert small.tracking_id == "MS lesion 2"
    assert small.tracking_uid.startswith("2.25.")
    assert small.tracking_uid != large.tracking_uid


def test_corners_connect_and_nothing_gives_nothing() -> None:
    mask = np.zeros((4, 4, 4), np.uint8)
    assert lesions_of(mask, AFFINE) == ()
    mask[0, 0, 0] = mask[1, 1, 1] = 1
    assert len(lesions_of(mask, AFFINE)) == 1


def test_tracking_follows_from_seed_or_content() -> None:
    mask = np.zeros((4, 4, 4), np.uint8)
    mask[1, 1, 1] = 1
    assert lesions_of(mask, AFFINE) == lesions_of(mask, AFFINE)
    moved = np.roll(mask, 1, axis=0)
    uids = {
        lesions_of(mask, AFFINE)[0].tracking_uid,
        lesions_of(moved, AFFINE)[0].tracking_uid,
        lesions_of(mask, AFFINE, seed="a")[0].tracking_uid,
        lesions_of(mask, AFFINE, seed="b")[0].tracking_uid,
    }
    assert len(uids) == 4


@settings(max_examples=40, deadline=None)
@given(arrays.arrays(np.uint8, (6, 5, 4), elements=st.integers(0, 1)))
def test_pieces_partition_the_mask(mask: NDArray[np.uint8]) -> None:
    numbered, sizes = labelled(mask)
    assert np.array_equal(numbered > 0, mask > 0)
    assert np.all(np.diff(sizes) <= 0)
    for number, size in enumerate(sizes, start=1):
        piece = numbered == number
        assert int(piece.sum()) == size
        assert ndimage.label(piece, structure=np.ones((3, 3, 3)))[1] == 1
    assert sum(lesion.voxels for lesion in lesions_of(mask, AFFINE)) == int(mask.sum())
