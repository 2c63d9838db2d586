"""What share of a voxel a structure covers, against shapes whose volume is known."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from dicom_bridge.coverage import coverage, share_outside, whole_voxels


def grid(spacing: tuple[float, float, float], origin: tuple[float, ...]) -> NDArray[np.float64]:
    affine = np.diag([*spacing, 1.0])
    affine[:3, 3] = origin
    return affine


def turned(degrees: float) -> NDArray[np.float64]:
    a, b = np.radians(degrees), np.radians(degrees / 2)
    about_z = np.array([[np.cos(a), -np.sin(a), 0], [np.sin(a), np.cos(a), 0], [0, 0, 1]])
    about_x = np.array([[1, 0, 0], [0, np.cos(b), -np.sin(b)], [0, np.sin(b), np.cos(b)]])
    matrix = np.eye(4)
    matrix[:3, :3] = about_z @ about_x
    return matrix


def ball(
    affine: NDArray[np.float64], shape: tuple[int, int, int], radius: float
) -> NDArray[np.bool_]:
    index = np.indices(shape).reshape(3, -1)
    places = affine[:3, :3] @ index + affine[:3, 3:]
    inside: NDArray[np.bool_] = (np.linalg.norm(places, axis=0) < radius).reshape(shape)
    return inside


def dice(a: NDArray[np.bool_], b: NDArray[np.bool_]) -> float:
    return 2 * float(np.count_nonzero(a & b)) / float(np.count_nonzero(a) + np.count_nonzero(b))


FINE = grid((0.7, 0.7, 1.0), (-21.0, -21.0, -20.0)), (61, 61, 41)


@pytest.mark.parametrize(
    ("spacing", "degrees", "best"),
    [((1.0, 1.0, 3.0), 0.0, 0.97), ((0.5, 0.5, 0.5), 20.0, 0.97), ((1.0, 1.0, 5.0), 33.0, 0.95)],
)
def test_a_ball_keeps_shape_and_volume(
    spacing: tuple[float, float, float], degrees: float, best: float
) -> None:
    affine, shape = FINE
    fine = ball(affine, shape, 14.0)
    wanted = tuple(int(50 / s) + 1 for s in spacing)
    other = turned(degrees) @ grid(spacing, (-25.0, -25.0, -25.0))
    share = coverage(fine, np.linalg.inv(affine) @ other, wanted)
    found, truth = whole_voxels(share), ball(other, wanted, 14.0)
    assert dice(found, truth) > best
    volume = float(share.sum()) * float(np.prod(spacing))
    assert volume == pytest.approx(4 / 3 * np.pi * 14**3, rel=0.02)
    assert share.max() <= 1 + 1e-5


def test_whole_voxel_shifts_and_turned_axes_are_exact() -> None:
    random = np.random.default_rng(1)
    mask = random.random((7, 9, 5)) < 0.4
    index = np.eye(4)
    index[:3, 3] = [2, -1, 1]
    moved = whole_voxels(coverage(mask, index, (7, 9, 5)))
    expected = np.zeros_like(mask)
    expected[:5, 1:, :4] = mask[2:, :8, 1:]
    assert np.array_equal(moved, expected)
    swapped = np.array([[0, 0, 1, 0], [0, -1, 0, 8], [1, 0, 0, 0], [0, 0, 0, 1.0]])
    turned_back = whole_voxels(coverage(mask, swapped, (5, 9, 7)))
    assert np.array_equal(turned_back, mask.transpose(2, 1, 0)[:, ::-1])
    assert not coverage(np.zeros_like(mask), index, (7, 9, 5)).any()
    far = np.eye(4)
    far[:3, 3] = 100
    assert not coverage(mask, far, (7, 9, 5)).any()


def test_a_thin_sheet_does_not_come_and_go_with_the_grid() -> None:
    """Nearest neighbour keeps a sheet of 2 of 5 mm, or drops it, by where the slices lie."""
    mask = np.zeros((9, 9, 40), dtype=np.bool_)
    mask[:, :, 20:23] = True
    for start in np.arange(0.0, 5.0, 0.5):
        index = grid((1, 1, 5), (0.0, 0.0, float(start)))
        share = coverage(mask, index, (9, 9, 8))
        assert float(share[4, 4].sum()) * 5 == pytest.approx(3.0, abs=0.25)


def test_pieces_keep_their_volume_where_half_a_voxel_would_lose_it() -> None:
    random = np.random.default_rng(2)
    mask = np.zeros((80, 80, 60), dtype=np.bool_)
    for place in random.integers(6, 54, (25, 3)):
        size = random.integers(1, 4, 3)
        box = tuple(slice(p, p + s) for p, s in zip(place, size, strict=True))
        mask[box] = True
    index = grid((1, 1, 3), (0.3, 0.4, 0.5))
    share = coverage(mask, index, (80, 80, 20))
    kept, half = whole_voxels(share), share >= 0.5
    volume = np.count_nonzero(mask)
    assert np.count_nonzero(half) * 3 < 0.9 * volume
    assert np.count_nonzero(kept) * 3 == pytest.approx(volume, rel=0.1)
    assert np.all(kept[half])
    assert not whole_voxels(np.zeros((3, 3, 3), np.float32)).any()


def test_what_lies_outside() -> None:
    mask = np.zeros((10, 10, 10), dtype=np.bool_)
    mask[2:4, 2:4, 2:6] = True
    index = np.eye(4)
    assert share_outside(mask, index, (10, 10, 10)) == 0.0
    index[2, 3] = 4.0  # the grid begins at the fifth voxel
    assert share_outside(mask, index, (10, 10, 6)) == pytest.approx(0.25)
    assert share_outside(np.zeros_like(mask), index, (10, 10, 6)) == 0.0
    far = np.eye(4)
    far[0, 3] = 50
    assert share_outside(mask, far, (10, 10, 10)) == 1.0
