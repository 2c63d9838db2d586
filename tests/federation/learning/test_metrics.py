"""Metrics: known answers, degenerate cases, invariants."""

from __future__ import annotations

from typing import get_args

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from federation.metrics import (
    dice,
    lesion_f1,
    lesions,
    precision,
    score,
    sensitivity,
    volume_difference_ml,
)
from federation.plan import MetricKey

ALL = get_args(MetricKey)
VOXEL_ML = 0.008
MASKS = hnp.arrays(np.uint8, (4, 5, 3), elements=st.integers(0, 1))
EMPTY = np.zeros((6, 6, 6), dtype=np.uint8)


def boxes(*corners: tuple[int, int, int], edge: int = 2) -> np.ndarray:
    """A mask of cubes in a grid of 20 voxels edge."""
    mask = np.zeros((20, 20, 20), dtype=np.uint8)
    for x, y, z in corners:
        mask[x : x + edge, y : y + edge, z : z + edge] = 1
    return mask


def test_known_overlap() -> None:
    reference = np.zeros((10, 10, 10))
    reference[:4, :5, 0] = 1  # 20 voxels
    prediction = np.zeros((10, 10, 10))
    prediction[2:6, :5, :2] = 7  # 40 voxels, 10 of them right
    assert score(prediction, reference, VOXEL_ML, ALL) == pytest.approx(
        {
            "dice": 2 * 10 / 60,
            "sensitivity": 10 / 20,
            "precision": 10 / 40,
            "lesion_f1": 1.0,
            "volume_difference_ml": 20 * VOXEL_ML,
        }
    )


@pytest.mark.parametrize(
    ("prediction", "reference", "expected"),
    [
        (EMPTY, EMPTY, (1.0, 1.0, 1.0, 1.0, 0.0)),
        (EMPTY + 1, EMPTY, (0.0, 1.0, 0.0, 0.0, 216 * VOXEL_ML)),
        (EMPTY, EMPTY + 1, (0.0, 0.0, 1.0, 0.0, 216 * VOXEL_ML)),
        (EMPTY + 1, EMPTY + 1, (1.0, 1.0, 1.0, 1.0, 0.0)),
    ],
)
def test_empty_masks_follow_one_rule(
    prediction: np.ndarray, reference: np.ndarray, expected: tuple[float, ...]
) -> None:
    found = score(prediction, reference, VOXEL_ML, ALL)
    assert tuple(found[name] for name in ALL) == pytest.approx(expected)


def test_lesions_are_counted_one_by_one() -> None:
    reference = boxes((0, 0, 0), (6, 6, 6), (12, 12, 12))
    prediction = boxes((1, 0, 0), (6, 6, 6), (0, 12, 0), (0, 0, 12))
    counts = lesions(prediction, reference, VOXEL_ML).all
    assert (counts.references, counts.detected) == (3, 2)
    assert (counts.predictions, counts.confirmed) == (4, 2)
    assert counts.f1 == pytest.approx((2 + 2) / (3 + 4))
    assert counts.sensitivity == pytest.approx(2 / 3)
    assert counts.precision == pytest.approx(1 / 2)


def test_voxels_that_touch_by_a_corner_are_one_lesion() -> None:
    mask = boxes((0, 0, 0), (2, 2, 2))
    assert lesions(mask, mask, VOXEL_ML).all.references == 1
    assert lesions(boxes((0, 0, 0), (3, 2, 2)), mask, VOXEL_ML).all.predictions == 2


def test_a_touching_voxel_is_not_enough_to_detect_a_large_lesion() -> None:
    reference = boxes((0, 0, 0), edge=5)
    prediction = boxes((4, 4, 4), edge=1)
    counts = lesions(prediction, reference, VOXEL_ML).all
    assert (counts.detected, counts.confirmed) == (0, 1)


def test_one_blob_over_everything_does_not_win() -> None:
    reference = boxes((0, 0, 0), (6, 6, 6), (12, 12, 12))
    assert lesion_f1(np.ones_like(reference), reference, VOXEL_ML) < lesion_f1(
        reference, reference, VOXEL_ML
    )
    assert lesions(np.ones_like(reference), reference, VOXEL_ML).all.confirmed == 0


def test_sizes_are_classed_by_each_lesions_own_volume() -> None:
    reference = boxes((0, 0, 0), edge=2) | boxes((6, 6, 6), edge=3) | boxes((12, 12, 12), edge=6)
    found = lesions(reference, reference, VOXEL_ML)  # 0.064, 0.216 and 1.728 ml
    assert (found.small.references, found.medium.references, found.large.references) == (1, 1, 1)
    assert found.all.references == 3
    assert found.small.f1 == found.medium.f1 == found.large.f1 == 1.0


@given(prediction=MASKS, reference=MASKS)
def test_metrics_stay_in_range_and_dice_is_symmetric(
    prediction: np.ndarray, reference: np.ndarray
) -> None:
    found = score(prediction, reference, VOXEL_ML, ALL)
    assert all(0.0 <= found[name] <= 1.0 for name in ALL if name != "volume_difference_ml")
    assert found["volume_difference_ml"] >= 0.0
    assert dice(prediction, reference) == dice(reference, prediction)
    assert sensitivity(prediction, reference) == precision(reference, prediction)
    if found["sensitivity"] + found["precision"] > 0 and prediction.any() and reference.any():
        harmonic = 2 * found["sensitivity"] * found["precision"]
        harmonic /= found["sensitivity"] + found["precision"]
        assert found["dice"] == pytest.approx(harmonic)


@given(mask=MASKS)
def test_a_mask_agrees_with_itself(mask: np.ndarray) -> None:
    assert score(mask, mask, VOXEL_ML, ALL) == {
        "dice": 1.0,
        "sensitivity": 1.0,
        "precision": 1.0,
        "lesion_f1": 1.0,
        "volume_difference_ml": 0.0,
    }


def test_shapes_and_names_are_checked() -> None:
    with pytest.raises(ValueError, match="differ in shape"):
        dice(EMPTY, EMPTY[1:])
    with pytest.raises(ValueError, match="hausdorff"):
        score(EMPTY, EMPTY, 1.0, ["hausdorff"])
    assert volume_difference_ml(EMPTY, EMPTY, 1.0) == 0.0
