"""Labels on other grids: volumes are kept, nothing is lost, and the way back costs little."""

from __future__ import annotations

import sys
from functools import lru_cache
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import ndimage

from appliance.errors import ImageRefused
from appliance.imaging.grid import (
    Grid,
    aligned_ras_grid,
    crop_grid,
    grid_of,
    isotropic_ras_grid,
    same_grid,
)
from appliance.imaging.masks import EVERY_NEIGHBOUR, resample_labels
from appliance.imaging.preparation import invert
from appliance.imaging.rigid import rigid_matrix
from appliance.imaging.volume import Volume, apply_affine, load_volume
from tests.appliance.imaging.bodies import ellipsoid
from tests.appliance.imaging.heads import dice
from tests.tools import shared_dir

OBLIQUE = rigid_matrix((8, -6, 11), (3, -2, 5))
SAGITTAL = np.array([[0.0, 0, 1, 0], [-1, 0, 0, 0], [0, -1, 0, 0], [0, 0, 0, 1]])


def centred(shape: tuple[int, int, int], affine: NDArray[np.float64]) -> Grid:
    moved = np.array(affine, dtype=np.float64)
    moved[:3, 3] = -moved[:3, :3] @ ((np.array(shape) - 1) / 2)
    return Grid(shape, moved)


PREPARED = centred((60, 60, 60), np.eye(4))
SOURCES = {
    "1 mm": centred((64, 64, 64), np.eye(4)),
    "1 mm oblique": centred((64, 64, 64), OBLIQUE),
    "thick": centred((90, 90, 20), np.diag([0.7, 0.7, 3.0, 1.0])),
    "thick oblique": centred((90, 90, 20), OBLIQUE @ np.diag([0.7, 0.7, 3.0, 1.0])),
    "sagittal 4 mm": centred((70, 70, 16), SAGITTAL @ np.diag([0.9, 0.9, 4.0, 1.0])),
}


@pytest.mark.parametrize("name", SOURCES)
def test_what_goes_back_stands_on_the_source_and_at_its_place(name: str) -> None:
    """The affine is the source's own; a ball's centre stays within 5 % of a voxel."""
    source = SOURCES[name]
    centre = np.array([2.3, -3.7, 1.1])
    ball = ellipsoid(PREPARED, tuple(centre), (15, 13, 14))
    back = invert(ball.astype(np.uint8), PREPARED.affine, source)
    assert same_grid(grid_of(back), source, 1e-9)
    drawn = apply_affine(PREPARED.affine, np.argwhere(ball)).mean(axis=0)
    found = apply_affine(source.affine, np.argwhere(back.data)).mean(axis=0)
    np.testing.assert_allclose(found, drawn, atol=0.05 * max(source.spacing))
    truth = ellipsoid(source, tuple(centre), (15, 13, 14))
    assert dice(back.data > 0, truth) > 0.95


@pytest.mark.parametrize("name", SOURCES)
def test_a_lesion_thinner_than_a_slice_is_not_lost(name: str) -> None:
    source = SOURCES[name]
    thin = np.zeros(PREPARED.shape, np.uint8)
    thin[20:26, 20:26, 31] = 1
    thin[40, 40, 40] = 1
    back = invert(thin, PREPARED.affine, source)
    for piece in ((slice(18, 28), slice(18, 28), slice(29, 34)), (slice(38, 43),) * 3):
        drawn = np.zeros(PREPARED.shape, np.uint8)
        drawn[piece] = thin[piece]
        alone = invert(drawn, PREPARED.affine, source)
        assert alone.data.any()
        assert back.data[alone.data > 0].all(), "each piece as if it were alone"
    ml = float(back.data.sum()) * back.voxel_ml
    assert ml == pytest.approx(37e-3, abs=back.voxel_ml * 1.01)


@settings(max_examples=15, deadline=None)
@given(
    centre=st.tuples(*[st.floats(-8, 8)] * 3),
    radii=st.tuples(*[st.floats(1.5, 9)] * 3),
    angles=st.tuples(*[st.floats(-25, 25)] * 3),
    spacing=st.tuples(st.floats(0.5, 1.2), st.floats(0.5, 1.2), st.floats(0.8, 4.0)),
)
def test_a_lesion_keeps_its_volume_on_any_grid(
    centre: tuple[float, float, float],
    radii: tuple[float, float, float],
    angles: tuple[float, float, float],
    spacing: tuple[float, float, float],
) -> None:
    mask = ellipsoid(PREPARED, centre, radii)
    if not mask.any():
        return
    shape = tuple(int(np.ceil(50 / step)) for step in spacing)
    affine = rigid_matrix(angles, (0, 0, 0)) @ np.diag([*spacing, 1.0])
    back = invert(mask.astype(np.uint8), PREPARED.affine, centred(shape, affine))  # type: ignore[arg-type]
    whole = float(mask.sum()) / 1000
    assert float(back.data.sum()) * back.voxel_ml == pytest.approx(whole, abs=back.voxel_ml)


@settings(max_examples=15, deadline=None)
@given(
    angles=st.tuples(*[st.floats(-20, 20)] * 3),
    order=st.permutations([0, 1, 2]),
    flips=st.tuples(*[st.sampled_from([-1.0, 1.0])] * 3),
    seed=st.integers(0, 1000),
)
def test_one_millimetre_data_come_back_exactly_on_their_own_axes(
    angles: tuple[float, float, float],
    order: list[int],
    flips: tuple[float, float, float],
    seed: int,
) -> None:
    """Whatever the patient's pose and the scan's plane: no voxel is interpolated."""
    turn = np.zeros((4, 4))
    for axis, target in enumerate(order):
        turn[target, axis] = flips[axis]
    turn[3, 3] = 1
    source = Grid((13, 11, 9), rigid_matrix(angles, (3, 4, 5)) @ turn)
    data = np.random.default_rng(seed).integers(0, 4, source.shape).astype(np.uint8)
    prepared = aligned_ras_grid(source, (1.0, 1.0, 1.0))
    there = resample_labels(Volume(data, source.affine), prepared)
    assert sorted(there.ravel().tolist()) == sorted(data.ravel().tolist())
    np.testing.assert_array_equal(invert(there, prepared.affine, source).data, data)


def test_values_that_meet_share_the_border_without_holes() -> None:
    zones = np.zeros((40, 40, 40), np.uint8)
    zones[8:20, 8:32, 8:32] = 1
    zones[20:32, 8:32, 8:32] = 2
    zones[24, 20, 20] = 3
    fine = centred((40, 40, 40), np.eye(4))
    coarse = centred((14, 16, 10), OBLIQUE @ np.diag([2.5, 2.2, 4.0, 1.0]))
    made = resample_labels(Volume(zones, fine.affine), coarse)
    for value, count in zip(*np.unique(made[made > 0], return_counts=True), strict=True):
        whole = float((zones == value).sum()) / 22.0
        assert count == pytest.approx(whole, rel=0.08, abs=1.5), value
    assert set(np.unique(made)) == {0, 1, 2, 3}
    solid = made > 0
    np.testing.assert_array_equal(ndimage.binary_fill_holes(solid), solid)


def test_pieces_beyond_the_grid_are_left_out_and_cut_ones_are_cut() -> None:
    mask = np.zeros((30, 10, 10), np.uint8)
    mask[1:3, 4:6, 4:6] = 1
    mask[10:20, 4:6, 4:6] = 1
    grid = Grid((10, 10, 10), rigid_matrix((0, 0, 0), (14.5, 0, 0)))
    made = resample_labels(Volume(mask, np.eye(4)), grid)
    assert 16 <= int(made.sum()) <= 24, "the half that lies on it"
    away = Grid((5, 5, 5), rigid_matrix((0, 0, 0), (500, 0, 0)))
    assert not resample_labels(Volume(mask, np.eye(4)), away).any()


def test_degenerate_masks() -> None:
    empty = np.zeros((5, 5, 5), np.uint8)
    assert not resample_labels(Volume(empty, np.eye(4)), PREPARED).any()
    slab = np.ones((6, 6, 1), np.uint8)
    one = resample_labels(Volume(slab, np.diag([1.0, 1, 5, 1])), Grid((6, 6, 5), _slab_affine()))
    assert one.all(), "one thick slice fills its five thin ones"
    for wrong in (np.full((3, 3, 3), 256), np.full((3, 3, 3), -1), np.full((3, 3, 3), 0.5)):
        with pytest.raises(ImageRefused):
            resample_labels(Volume(wrong, np.eye(4)), PREPARED)


def _slab_affine() -> NDArray[np.float64]:
    affine = np.eye(4)
    affine[2, 3] = -2
    return affine


SIZES = ((1, 10), (10, 30), (30, 100), (100, 10**9))
"""Lesions by volume in mm3."""


@lru_cache(maxsize=40)
def real_mask(path: Path) -> Volume:
    """A consensus mask at 1 mm, cut to its lesions with a border."""
    whole = load_volume(path)
    part, box = crop_grid(grid_of(whole), whole.data > 0, 10)
    return Volume((whole.data[box] > 0).astype(np.uint8), part.affine)


def masks() -> list[Path]:
    folder = shared_dir("data", "ms", "flair_1mm_masks")
    found = sorted(folder.glob("*/consensus_gt.nii.gz"))
    return [*found, *sorted(shared_dir("data", "ms", "mni_lesion_masks").rglob("*.nii.gz"))]


def there_and_back(mask: Volume, prepared: Grid) -> NDArray[np.bool_]:
    made = resample_labels(mask, prepared)
    return invert(made, prepared.affine, grid_of(mask)).data > 0


def lost(mask: NDArray[np.bool_], back: NDArray[np.bool_]) -> int:
    pieces, count = ndimage.label(mask, EVERY_NEIGHBOUR)
    near = ndimage.binary_dilation(back, EVERY_NEIGHBOUR)
    return count - len(set(np.unique(pieces[near])) - {0})


@pytest.mark.parametrize("number", [6])
def test_real_lesions_come_back(number: int) -> None:
    mask = real_mask(masks()[number])
    own = grid_of(mask)
    turned = Volume(mask.data, OBLIQUE @ own.affine)
    exact = there_and_back(turned, aligned_ras_grid(grid_of(turned), (1.0, 1.0, 1.0)))
    np.testing.assert_array_equal(exact, mask.data > 0)
    world = there_and_back(turned, isotropic_ras_grid(grid_of(turned), (1.0, 1.0, 1.0)))
    assert dice(world, mask.data > 0) > 0.93
    assert lost(mask.data > 0, world) == 0


@pytest.mark.long
@pytest.mark.timeout(1800)
def test_all_real_lesions_come_back_by_size(capsys: pytest.CaptureFixture[str]) -> None:
    """The table of docs/imaging.md: Dice after there and back, by lesion volume."""
    ways = {
        "1 mm oblique, own axes": (OBLIQUE, True, (1.0, 1.0, 1.0)),
        "1 mm oblique, world axes": (OBLIQUE, False, (1.0, 1.0, 1.0)),
        "to 0.7 mm and back": (OBLIQUE, True, (0.7, 0.7, 0.7)),
        "to 2 mm and back": (OBLIQUE, True, (2.0, 2.0, 2.0)),
    }
    table = []
    for name, (turn, own, spacing) in ways.items():
        sums = np.zeros((len(SIZES), 3))
        scores, gone = [], 0
        for path in masks()[::7]:
            mask = real_mask(path)
            turned = Volume(mask.data, turn @ mask.affine)
            make = aligned_ras_grid if own else isotropic_ras_grid
            back = there_and_back(turned, make(grid_of(turned), spacing))
            truth = mask.data > 0
            scores.append(dice(back, truth))
            gone += lost(truth, back)
            sums += by_size(truth, back)
        cells = [f"{2 * a / max(1, b + c):.3f}" for a, b, c in sums]
        table.append((name, f"{np.mean(scores):.3f}", f"{min(scores):.3f}", *cells, str(gone)))
        if own and spacing == (1.0, 1.0, 1.0):
            assert min(scores) == 1.0
        assert gone == 0
    with capsys.disabled():
        sys.stdout.write("\nway | mean | worst | <10 | 10-30 | 30-100 | >100 mm3 | lost\n")
        sys.stdout.writelines(" | ".join(line) + "\n" for line in table)


def by_size(truth: NDArray[np.bool_], back: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Common, true and found voxels by size of the lesion."""
    pieces, count = ndimage.label(truth | back, EVERY_NEIGHBOUR)
    common, true, found = (
        np.bincount(pieces[where], minlength=count + 1)[1:] for where in (truth & back, truth, back)
    )
    rows = []
    for low, high in SIZES:
        these = (true >= low) & (true < high)
        rows.append([common[these].sum(), true[these].sum(), found[these].sum()])
    return np.array(rows, dtype=np.float64)
