"""Several raters to one label, with planted raters whose faults are known."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from appliance.labels.consensus import agreement, consensus, dice, majority, staple

Labels = NDArray[np.uint8]


def row(*values: int) -> Labels:
    return np.array([[values]], dtype=np.uint8)


def balls(seed: int = 0, shape: tuple[int, int, int] = (48, 48, 24)) -> Labels:
    random = np.random.default_rng(seed)
    places = np.stack(np.indices(shape), -1)
    truth = np.zeros(shape, dtype=np.uint8)
    for value in (1, 1, 2, 1):
        centre = random.uniform(10, np.array(shape) - 8)
        truth[np.linalg.norm(places - centre, axis=-1) < random.uniform(3, 6)] = value
    return truth


def rater(truth: Labels, seed: int, missed: float, added: float) -> Labels:
    """A rater who misses a share of the voxels and adds a share around what is there."""
    random = np.random.default_rng(seed)
    drawn = truth.copy()
    drawn[(truth > 0) & (random.random(truth.shape) < missed)] = 0
    near = np.zeros(truth.shape, dtype=bool)
    near[8:40, 8:40, 4:20] = True
    drawn[near & (truth == 0) & (random.random(truth.shape) < added)] = 1
    return drawn


def test_votes_and_ties() -> None:
    a, b, c = row(1, 1, 0, 2, 1), row(1, 0, 0, 1, 2), row(0, 1, 1, 2, 3)
    assert majority([a, b, c]).tolist() == row(1, 1, 0, 2, 3).tolist()
    two = majority([row(1, 0, 1, 2, 0), row(0, 1, 1, 1, 0)])
    assert two.tolist() == row(0, 1, 1, 1, 0).tolist(), "the newest decides between two"
    tied = majority([row(2), row(2), row(1), row(1), row(0)])
    assert tied.tolist() == row(1).tolist(), "neither newest nor background is tied: the lowest"
    half = majority([row(2), row(0), row(2), row(0), row(5)])
    assert half.tolist() == row(0).tolist(), "background before a value"
    assert not majority([row(0, 0), row(0, 0)]).any()


def test_a_single_rater_and_the_newest() -> None:
    a, b = row(1, 0, 0), row(0, 0, 2)
    assert consensus([a], "staple").rule == "newest"
    made = consensus([a, b], "newest")
    assert (made.values.tolist(), made.rule, made.raters) == (b.tolist(), "newest", 2)
    assert consensus([a, b], "staple").rule == "majority", "two raters cannot be told apart"
    with pytest.raises(ValueError, match="shape"):
        consensus([], "newest")
    with pytest.raises(ValueError, match="shape"):
        consensus([a, row(1)], "majority")


def test_agreement() -> None:
    a, b, empty = row(1, 1, 0, 0), row(1, 0, 2, 0), row(0, 0, 0, 0)
    found = agreement([a, b, empty])
    assert found.mean == pytest.approx((0.5 + 0 + 0) / 3)
    assert found.least == 0.0
    assert found.values[1] == pytest.approx((2 / 3 + 0 + 0) / 3)
    assert found.values[2] == 0.0
    assert agreement([empty, empty]).mean == 1.0
    assert dice(empty > 0, empty > 0) == 1.0


@pytest.mark.parametrize("seed", range(3))
def test_staple_finds_out_who_is_careless(seed: int) -> None:
    """Three careless raters outvote two careful ones; STAPLE weighs them by what they do."""
    truth = (balls(seed) > 0).astype(np.uint8)
    careful = [rater(truth, 10 * seed + n, 0.03, 0.002) for n in range(2)]
    careless = [rater(truth, 10 * seed + n, 0.60, 0.05) for n in range(2, 5)]
    labels = [*careful, *careless]
    made = consensus(labels, "staple")
    assert made.rule == "staple"
    by_staple, by_votes = dice(made.values > 0, truth > 0), dice(majority(labels) > 0, truth > 0)
    assert by_staple > 0.95
    assert by_staple > by_votes + 0.1


def test_staple_of_several_values_and_its_degenerate_cases() -> None:
    truth = balls(4)
    labels = [rater(truth, n, 0.1, 0.005) for n in range(4)]
    found = staple(labels)
    assert found is not None
    for value in (1, 2):
        assert dice(found == value, truth == value) > 0.97
    empty = np.zeros_like(truth)
    nothing = staple([empty, empty, empty])
    assert nothing is not None
    assert not nothing.any()
    same = consensus([truth, truth, truth], "staple")
    assert np.array_equal(same.values, truth)
    assert same.agreement.least == 1.0
    one_empty = consensus([truth, truth, empty], "staple")
    assert dice(one_empty.values > 0, truth > 0) > 0.99
    two_empty = consensus([truth, empty, empty], "staple")
    assert two_empty.rule in ("staple", "majority")
    full = np.full((5, 5, 5), 255, dtype=np.uint8)
    assert staple([full, full, full]) is None, "no value is left to mark undecided voxels"
    assert consensus([full, full, full], "staple").rule == "majority"
