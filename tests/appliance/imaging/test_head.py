"""Head images made small, and smooth fields read at fine grids."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from appliance.errors import ImageRefused
from appliance.imaging.grid import Grid, resample
from appliance.imaging.head import above, shrunk, tones_of
from appliance.imaging.rigid import rigid_matrix
from appliance.imaging.volume import Affine, Volume, apply_affine


def smooth_field() -> Volume:
    noise = np.random.default_rng(0).normal(size=(40, 50, 45))
    affine = np.diag([1.5, 1.5, 1.5, 1.0])
    affine[:3, 3] = (-30, -40, -20)
    return Volume(ndimage.gaussian_filter(noise, 3).astype(np.float32), affine)


def oblique_grid(step: float) -> Grid:
    turn: Affine = rigid_matrix((20, -10, 5), (3, 4, 5), np.zeros(3))
    affine = turn @ np.diag([step, -step, step, 1.0])
    affine[:3, 3] += (-25, 20, -15)
    count = int(60 / step)
    return Grid((count, count, count), affine)


@pytest.mark.parametrize("step", [0.8, 2.5])
@pytest.mark.parametrize("threads", [1, 2])
def test_a_field_is_read_as_resampling_reads_it(step: float, threads: int) -> None:
    field, grid = smooth_field(), oblique_grid(step)
    expected = resample(field, grid, fill=-9.0).data > 0.02
    assert expected.any()
    # the border, where the field ends, belongs to neither side
    inner = resample(field.with_data(np.ones_like(field.data)), grid).data > 0.999
    found = above(field, grid, 0.02, threads=threads)
    # float32 sums in another order: a few voxels lie on the level itself
    assert int((found ^ expected)[inner].sum()) <= inner.sum() / 1000


def test_nothing_above_the_level_is_nowhere() -> None:
    assert not above(smooth_field(), oblique_grid(2.5), 99.0).any()
    far = Grid((10, 10, 10), np.diag([1.0, 1.0, 1.0, 1.0]) + np.eye(4, k=3) * 9000)
    assert not above(smooth_field(), far, 0.0).any()


def test_blocks_are_averaged_and_lie_where_their_voxels_lay() -> None:
    data = np.random.default_rng(1).integers(0, 1000, (11, 7, 9)).astype(np.int16)
    image = Volume(data, np.diag([0.5, 2.0, 0.9, 1.0]))
    small = shrunk(image, 2.0)
    assert small.shape == (3, 7, 5)
    np.testing.assert_allclose(small.data[1, 3, 2], data[4:8, 3, 4:6].mean(), rtol=1e-6)
    np.testing.assert_allclose(small.data[2, 0, 4], data[8:, 0, 8:].mean(), rtol=1e-6)
    place = apply_affine(small.affine, np.array([1.0, 3.0, 2.0]))
    np.testing.assert_allclose(place, (5.5 * 0.5, 3 * 2.0, 4.5 * 0.9))
    assert shrunk(image, 0.4) is image


def test_a_constant_image_has_no_tones() -> None:
    with pytest.raises(ImageRefused, match="constant"):
        tones_of(Volume(np.full((40, 40, 40), 7, np.int16), np.diag([4.0, 4.0, 4.0, 1.0])))
