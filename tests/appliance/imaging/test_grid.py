"""Orientation and resampling with known answers."""

from __future__ import annotations

import itertools

import nibabel as nib
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import ndimage

from appliance.errors import ImageRefused
from appliance.imaging.grid import (
    Grid,
    crop_grid,
    from_ras,
    grid_of,
    isotropic_ras_grid,
    resample,
    same_grid,
    to_ras,
)
from appliance.imaging.rigid import best_rigid, mean_displacement, rigid_matrix
from appliance.imaging.volume import Volume, apply_affine

CODES = ["".join(c) for c in itertools.product("RL", "AP", "SI")]
ORDERS = list(itertools.permutations(range(3)))


def oriented(order: tuple[int, ...], flips: tuple[int, ...]) -> NDArray[np.float64]:
    """An affine whose axes are a permutation with flips, anisotropic, a little oblique."""
    turn = np.zeros((4, 4))
    for axis, (target, flip) in enumerate(zip(order, flips, strict=True)):
        turn[target, axis] = flip * (0.8 + 0.5 * axis)
    turn[3, 3] = 1.0
    return np.asarray(rigid_matrix((3, -4, 5), (10, 20, -30)) @ turn)


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("flips", list(itertools.product((1, -1), repeat=3)))
def test_every_orientation_goes_to_ras_and_back(
    order: tuple[int, ...], flips: tuple[int, ...]
) -> None:
    data = np.random.default_rng(1).integers(0, 999, (4, 5, 6)).astype(np.int16)
    volume = Volume(data, oriented(order, flips))
    ras = to_ras(volume)
    assert nib.aff2axcodes(ras.affine) == ("R", "A", "S")
    values = sorted(zip(ras.data.ravel().tolist(), _places(ras), strict=True))
    for (a, place), (b, old) in zip(
        values, sorted(zip(data.ravel().tolist(), _places(volume), strict=True)), strict=True
    ):
        assert a == b
        np.testing.assert_allclose(place, old, atol=1e-6)
    back = from_ras(ras, grid_of(volume))
    np.testing.assert_array_equal(back.data, data)
    np.testing.assert_array_equal(back.affine, volume.affine)


def _places(volume: Volume) -> list[tuple[float, ...]]:
    index = np.argwhere(np.ones(volume.shape, dtype=bool))
    return [tuple(p) for p in apply_affine(volume.affine, index).round(6)]


def test_from_ras_refuses_another_grid() -> None:
    volume = Volume(np.zeros((4, 5, 6)), np.diag([2.0, 2, 2, 1]))
    with pytest.raises(ImageRefused, match="reoriented grid"):
        from_ras(volume, Grid((4, 5, 7), np.diag([2.0, 2, 2, 1])))


@settings(max_examples=25, deadline=None)
@given(
    spacing=st.tuples(*[st.floats(0.5, 4.0)] * 3),
    angles=st.tuples(*[st.floats(-25, 25)] * 3),
    step=st.floats(0.8, 3.0),
)
def test_the_isotropic_grid_covers_the_source(
    spacing: tuple[float, float, float], angles: tuple[float, float, float], step: float
) -> None:
    affine = rigid_matrix(angles, (5, 6, 7)) @ np.diag([*spacing, 1.0])
    source = Grid((9, 11, 8), affine)
    grid = isotropic_ras_grid(source, (step, step, step))
    corners = np.array(list(itertools.product(*[(-0.5, n - 0.5) for n in source.shape])))
    index = apply_affine(np.linalg.inv(grid.affine), apply_affine(affine, corners))
    assert (index >= -0.5 - 1e-5).all()
    assert (index <= np.array(grid.shape) - 0.5 + 1e-5).all()
    np.testing.assert_allclose(grid.spacing, step)


def test_linear_resampling_reproduces_a_linear_image() -> None:
    index = np.argwhere(np.ones((20, 22, 18), dtype=bool))
    affine = rigid_matrix((5, 8, -6), (-10, 3, 4)) @ np.diag([1.0, 1.2, 1.5, 1.0])
    world = apply_affine(affine, index)
    slope = np.array([0.3, -1.1, 0.7])
    volume = Volume((world @ slope + 5).reshape(20, 22, 18).astype(np.float32), affine)
    inner = rigid_matrix((0, 0, 30), (0, 0, 0), apply_affine(affine, np.array([10, 11, 9])))
    grid = Grid((6, 6, 6), inner @ affine @ _moved((7, 8, 6)))
    motion = rigid_matrix((1, 0, 2), (0.4, -0.3, 0.2), apply_affine(affine, np.array([10, 11, 9])))
    got = resample(volume, grid, matrix=motion)
    places = apply_affine(motion @ grid.affine, np.argwhere(np.ones((6, 6, 6), dtype=bool)))
    np.testing.assert_allclose(got.data.ravel(), places @ slope + 5, atol=2e-3)


def _moved(shift: tuple[int, int, int]) -> NDArray[np.float64]:
    matrix = np.eye(4)
    matrix[:3, 3] = shift
    return matrix


def test_nearest_keeps_type_and_values_and_fills_outside() -> None:
    volume = Volume(np.arange(27, dtype=np.uint8).reshape(3, 3, 3), np.eye(4))
    grid = Grid((5, 3, 3), _moved((-1, 0, 0)))
    got = resample(volume, grid, interpolation="nearest", fill=9)
    assert got.data.dtype == np.uint8
    np.testing.assert_array_equal(got.data[1:4], volume.data)
    assert (got.data[[0, 4]] == 9).all()
    turned = resample(
        volume, Grid((3, 3, 3), np.eye(4)), rigid_matrix((0, 0, 90), (2, 0, 0)), "nearest"
    )
    np.testing.assert_array_equal(turned.data[0, 1], volume.data[1, 0])


def test_coarser_sampling_averages_noise() -> None:
    noise = np.random.default_rng(3).normal(0, 1, (60, 60, 60)).astype(np.float32)
    volume = Volume(noise, np.eye(4))
    grid = Grid((18, 18, 18), np.diag([3.0, 3.0, 3.0, 1.0]) + 0.0)
    assert 0.1 < float(resample(volume, grid).data.std()) < 0.35


def test_a_rigid_motion_there_and_back_is_the_image_again() -> None:
    rng = np.random.default_rng(5)
    smooth = ndimage.gaussian_filter(rng.normal(size=(30, 30, 30)), 3).astype(np.float32)
    volume = Volume(smooth, np.eye(4))
    motion = rigid_matrix((4, -3, 5), (0.5, 0.2, -0.4), (15, 15, 15))
    there = resample(volume, grid_of(volume), matrix=motion)
    back = resample(there, grid_of(volume), matrix=np.linalg.inv(motion))
    core = (slice(6, -6),) * 3
    assert float(np.abs(back.data[core] - smooth[core]).mean()) < 0.1 * float(smooth.std())


def test_crop_keeps_places_and_clips_margins() -> None:
    mask = np.zeros((10, 10, 10), dtype=bool)
    mask[2:4, 5:9, 9] = True
    grid, box = crop_grid(Grid((10, 10, 10), np.diag([2.0, 2, 2, 1])), mask, 1)
    assert box == (slice(1, 5), slice(4, 10), slice(8, 10))
    np.testing.assert_allclose(grid.affine[:3, 3], [2, 8, 16])
    whole, _ = crop_grid(Grid((10, 10, 10), np.eye(4)), np.zeros((10, 10, 10), dtype=bool))
    assert whole.shape == (10, 10, 10)


def test_grids_are_compared_by_place() -> None:
    grid = Grid((4, 4, 4), np.eye(4))
    assert same_grid(grid, Grid((4, 4, 4), np.eye(4) + 1e-5))
    assert not same_grid(grid, Grid((4, 4, 4), np.diag([1.01, 1, 1, 1])))
    assert not same_grid(grid, Grid((4, 4, 5), np.eye(4)))


def test_the_nearest_rigid_of_an_affine() -> None:
    points = np.random.default_rng(0).normal(0, 40, (200, 3))
    motion = rigid_matrix((3, 5, -8), (1, 2, 3))
    np.testing.assert_allclose(best_rigid(motion, points), motion, atol=1e-9)
    grown = motion @ np.diag([1.02, 1.0, 0.98, 1.0])
    assert mean_displacement(best_rigid(grown, points), grown, points) < 1.0
