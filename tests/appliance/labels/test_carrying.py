"""Labels on another grid, and what is refused of them."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from appliance.errors import ImageRefused
from appliance.imaging.grid import Grid
from appliance.labels.checks import check_carried, site_values, whole_values
from appliance.labels.consensus import dice
from appliance.labels.resampling import carry

Affine = NDArray[np.float64]


def affine(spacing: tuple[float, float, float], origin: tuple[float, float, float]) -> Affine:
    matrix = np.diag([*spacing, 1.0])
    matrix[:3, 3] = origin
    return matrix


def drawn(grid: Grid, matrix: Affine | None = None) -> NDArray[np.uint8]:
    """Two touching half-balls of 12 mm, values 1 and 3, seen through a rigid motion."""
    index = np.indices(grid.shape).reshape(3, -1)
    change = grid.affine if matrix is None else matrix @ grid.affine
    places = (change[:3, :3] @ index + change[:3, 3:]).reshape(3, *grid.shape)
    inside = np.linalg.norm(places, axis=0) < 12
    return np.where(inside, np.where(places[0] < 0, 1, 3), 0).astype(np.uint8)


def moved() -> Affine:
    angle = np.radians(7.0)
    matrix = np.eye(4)
    matrix[:2, :2] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    matrix[:3, 3] = [3.0, -5.0, 2.5]
    return matrix


T1 = Grid((50, 50, 50), affine((0.9, 0.9, 0.9), (-22.0, -22.0, -22.0)))
FLAIR = Grid((60, 70, 16), affine((0.8, 0.7, 3.0), (-24.0, -24.0, -24.0)))


def test_a_label_of_the_t1_is_carried_by_the_registration_not_by_the_header() -> None:
    label = drawn(T1)
    truth = drawn(FLAIR, moved())  # FLAIR points to T1 points
    carried = carry(label, T1.affine, FLAIR, moved())
    assert check_carried(carried, where="the FLAIR") == ()
    for value in (1, 3):
        assert dice(carried.values == value, truth == value) > 0.95
    assert carried.change == pytest.approx(1.0, abs=0.03)
    by_header = carry(label, T1.affine, FLAIR)
    assert dice(by_header.values == 1, truth == 1) < 0.8


def test_touching_values_leave_no_seam() -> None:
    grid = Grid((31, 31, 31), moved() @ affine((1.5, 1.5, 1.5), (-22.0, -22.0, -22.0)))
    whole = carry((drawn(T1) > 0).astype(np.uint8), T1.affine, grid)
    parts = carry(drawn(T1), T1.affine, grid)
    assert np.count_nonzero(whole.values) == np.count_nonzero(parts.values)


def test_the_same_grid_gives_the_same_voxels() -> None:
    label = drawn(FLAIR)
    assert np.array_equal(carry(label, FLAIR.affine, FLAIR).values, label)
    assert carry(np.zeros_like(label), FLAIR.affine, FLAIR).change == 1.0


def test_outside_tiny_and_changed() -> None:
    label = drawn(T1)
    far = np.eye(4)
    far[0, 3] = 30.0
    with pytest.raises(ImageRefused, match="lie outside the FLAIR"):
        check_carried(carry(label, T1.affine, FLAIR, far), where="the FLAIR")
    tiny = np.zeros(T1.shape, dtype=np.uint8)
    tiny[20, 20, 20] = 2
    tiny[30:36, 30:36, 30:36] = 1
    carried = carry(tiny, T1.affine, FLAIR)
    assert check_carried(carried, where="the FLAIR") == ()
    assert np.count_nonzero(carried.values == 2) == 1, "a lesion of one voxel stays one"
    specks = np.zeros(T1.shape, dtype=np.uint8)
    specks[8:40:8, 8:40:8, 8:40:8] = 1
    (note,) = check_carried(carry(specks, T1.affine, FLAIR), where="the FLAIR")
    assert "volume changed by +" in note


def test_values() -> None:
    stored = np.array([[[0.0, 1.0001, 2.0]]], dtype=np.float32)
    assert whole_values(stored).tolist() == [[[0, 1, 2]]]
    for wrong, words in (([[[0.5]]], "whole numbers"), ([[[-1]]], "below 0"), ([[[300]]], "255")):
        with pytest.raises(ImageRefused, match=words):
            whole_values(np.array(wrong))
    values = np.array([[[0, 1, 4]]], dtype=np.uint8)
    assert site_values(values, {1: 1, 4: 1}, {1}).tolist() == [[[0, 1, 1]]]
    assert site_values(values, {1: 1, 4: 0}, {1}).tolist() == [[[0, 1, 0]]]
    assert site_values(values, None, {1, 4}).tolist() == values.tolist()
    with pytest.raises(ImageRefused, match="not mapped: 4"):
        site_values(values, None, {1})
    with pytest.raises(ImageRefused, match="mapped to 9"):
        site_values(values, {1: 9, 4: 1}, {1})
