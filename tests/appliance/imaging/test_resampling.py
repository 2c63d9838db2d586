"""Reading an image on another grid: aliasing, interpolation, borders, aligned and sized grids."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from appliance.errors import ImageRefused
from appliance.imaging.grid import (
    Grid,
    Interpolation,
    aligned_ras_grid,
    coarsening,
    covered,
    grid_of,
    resample,
    same_grid,
    sized_grid,
    to_ras,
)
from appliance.imaging.rigid import rigid_matrix
from appliance.imaging.volume import Volume, apply_affine, inverse

SMOOTH: tuple[Interpolation, ...] = ("linear", "cubic")


def places(grid: Grid) -> NDArray[np.float64]:
    return apply_affine(grid.affine, np.moveaxis(np.indices(grid.shape), 0, -1))


def wave(grid: Grid, cycles_per_mm: float, axis: int = 0) -> Volume:
    phase = 2 * np.pi * cycles_per_mm * places(grid)[..., axis]
    return Volume(np.cos(phase).astype(np.float32), grid.affine)


def centred(shape: tuple[int, int, int], affine: NDArray[np.float64]) -> Grid:
    moved = np.array(affine, dtype=np.float64)
    moved[:3, 3] = -moved[:3, :3] @ ((np.array(shape) - 1) / 2)
    return Grid(shape, moved)


FINE = centred((96, 12, 12), np.eye(4))


@pytest.mark.parametrize("way", SMOOTH)
@pytest.mark.parametrize("step", [2.0, 3.0, 4.0])
def test_detail_too_fine_for_the_grid_is_averaged_not_folded(
    way: Interpolation, step: float
) -> None:
    """A wave just under the fine grid's limit would fold to a slow one of full height."""
    coarse = centred((int(90 / step), 10, 10), np.diag([step, 1.0, 1.0, 1.0]))
    fast = wave(FINE, 1 / step - 0.02)
    folded = fast.data[:: int(step), 6, 6]
    assert float(np.abs(folded).max()) > 0.9, "picking voxels folds it"
    assert float(np.abs(resample(fast, coarse, interpolation=way).data).max()) < 0.15
    slow = wave(FINE, 0.1 / step)
    kept = float(np.abs(resample(slow, coarse, interpolation=way).data[3:-3]).max())
    assert 0.85 < kept <= 1.0, "what the grid can show stays"


@pytest.mark.parametrize("way", SMOOTH)
def test_the_low_pass_is_the_same_in_every_direction(way: Interpolation) -> None:
    fine = centred((80, 80, 4), np.eye(4))
    seen = []
    for angle in (0, 30, 45):
        turned = rigid_matrix((0, 0, angle), (0, 0, 0))
        coarse = centred((16, 16, 4), turned @ np.diag([2.0, 2.0, 1.0, 1.0]))
        seen.append(float(np.abs(resample(wave(fine, 0.21), coarse, interpolation=way).data).max()))
    assert max(seen) - min(seen) < 0.15, "axes at an angle are smoothed alike"
    assert max(seen) < 0.65


def test_what_a_voxel_spans_of_another_grid() -> None:
    turned = rigid_matrix((0, 0, 45), (0, 0, 0)) @ np.diag([2.0, 2.0, 1.0, 1.0])
    np.testing.assert_allclose(coarsening(turned), [2.0, 2.0, 1.0])
    np.testing.assert_allclose(coarsening(np.diag([3.0, 0.5, 1.0, 1.0])), [3.0, 0.5, 1.0])


def test_cubic_follows_a_curve_better_than_linear_and_never_overshoots() -> None:
    source = centred((40, 8, 8), np.eye(4))
    target = centred((120, 6, 6), np.diag([0.3, 1.0, 1.0, 1.0]))
    curve = wave(source, 0.12)
    truth = wave(target, 0.12).data
    errors = {
        way: float(np.abs(resample(curve, target, interpolation=way).data - truth)[9:-9].max())
        for way in SMOOTH
    }
    assert errors["cubic"] < 0.01
    assert errors["linear"] > 5 * errors["cubic"]
    edge = curve.with_data((places(source)[..., 0] > 0).astype(np.float32) * 1000)
    sharp = resample(edge, target, interpolation="cubic").data
    assert (float(sharp.min()), float(sharp.max())) == (0.0, 1000.0)


@pytest.mark.parametrize("way", SMOOTH)
def test_an_image_reaches_half_a_voxel_beyond_its_outermost_centres(way: Interpolation) -> None:
    """Thick slices: the outer half of the first and last slice is image, not background."""
    thick = centred((8, 8, 5), np.diag([1.0, 1.0, 3.0, 1.0]))
    image = Volume(np.full(thick.shape, 100.0, np.float32), thick.affine)
    thin = centred((8, 8, 21), np.eye(4))
    got = resample(image, thin, interpolation=way, fill=-1.0)
    assert (got.data[:, :, 3:18] == 100).all()
    assert (got.data[:, :, :3] == -1).all()
    assert (got.data[:, :, 18:] == -1).all()
    np.testing.assert_array_equal(covered(thick, thin), got.data == 100)


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
def test_axes_in_any_order_read_the_same_values(order: tuple[int, int, int]) -> None:
    """The quick way for axes that run along each other agrees with the general one."""
    turn = np.zeros((4, 4))
    for axis, target in enumerate(order):
        turn[target, axis] = (-1) ** axis * (1.0 + 0.25 * axis)
    turn[3, 3] = 1
    grid = centred((14, 15, 16), turn)
    rng = np.random.default_rng(0)
    image = Volume(rng.normal(size=grid.shape).astype(np.float32), grid.affine)
    out = centred((9, 8, 7), np.diag([1.1, 0.9, 1.3, 1.0]))
    nudge = rigid_matrix((0, 0, 1e-4), (0, 0, 0))
    for way in SMOOTH:
        quick = resample(image, out, interpolation=way).data
        general = resample(image, out, matrix=nudge, interpolation=way).data
        np.testing.assert_allclose(quick, general, atol=1e-3)


@settings(max_examples=25, deadline=None)
@given(
    order=st.permutations([0, 1, 2]),
    flips=st.tuples(*[st.sampled_from([-1.0, 1.0])] * 3),
    angles=st.tuples(*[st.floats(-20, 20)] * 3),
    step=st.tuples(*[st.floats(0.5, 3.0)] * 3),
)
def test_the_aligned_grid_runs_along_the_image_and_covers_it(
    order: list[int],
    flips: tuple[float, float, float],
    angles: tuple[float, float, float],
    step: tuple[float, float, float],
) -> None:
    turn = np.zeros((4, 4))
    for axis, target in enumerate(order):
        turn[target, axis] = flips[axis] * (0.7 + axis)
    turn[3, 3] = 1
    source = Grid((20, 15, 8), rigid_matrix(angles, (4, 5, 6)) @ turn)
    volume = Volume(np.zeros(source.shape, np.uint8), source.affine)
    own = to_ras(volume)
    assert same_grid(aligned_ras_grid(source, own.spacing), grid_of(own)), "its own lattice"
    grid = aligned_ras_grid(source, step)
    np.testing.assert_allclose(grid.spacing, step)
    cosines = grid.affine[:3, :3] / grid.spacing
    np.testing.assert_allclose(cosines, own.affine[:3, :3] / own.spacing, atol=1e-9)
    ends = np.array(list(itertools.product(*[(-0.5, n - 0.5) for n in source.shape])))
    index = apply_affine(inverse(grid.affine), apply_affine(source.affine, ends))
    assert (index >= -0.5 - 1e-6).all()
    assert (index <= np.array(grid.shape) - 0.5 + 1e-6).all()


def test_grids_that_cannot_be_are_refused() -> None:
    with pytest.raises(ImageRefused, match="above 0"):
        aligned_ras_grid(FINE, (1.0, 0.0, 1.0))
    with pytest.raises(ImageRefused, match="size limit"):
        aligned_ras_grid(FINE, (1e-4, 1e-4, 1e-4))


@given(have=st.integers(1, 40), want=st.integers(1, 40))
def test_cropped_and_padded_grids_share_voxels_and_centre(have: int, want: int) -> None:
    grid = Grid((have, 4, 4), np.diag([2.0, 1.0, 1.0, 1.0]))
    made = sized_grid(grid, (want, 4, 4))
    assert made.shape == (want, 4, 4)
    first = made.affine[0, 3] / 2
    assert first == int(first), "voxels keep their places"
    centre = first + (want - 1) / 2
    assert abs(centre - (have - 1) / 2) <= 0.5
