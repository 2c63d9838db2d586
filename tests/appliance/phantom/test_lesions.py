"""Lesion load, places and shapes."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import ndimage

from appliance.demo.phantom import STYLES
from appliance.demo.phantom.anatomy import load_head
from appliance.demo.phantom.lesions import (
    count_lesions,
    lesion_target,
    make_lesions,
    place_weight,
    quantile,
)

SPACING = 1.25


@pytest.mark.parametrize("style", sorted(STYLES))
def test_volumes_of_many_patients_have_the_sites_quartiles(style: str) -> None:
    load = STYLES[style].load
    targets = [lesion_target(load, i, np.random.default_rng(i)) for i in range(400)]
    volumes = np.array([t.volume_ml for t in targets])
    low, middle, high = load.volume_ml
    assert np.median(volumes) == pytest.approx(middle, rel=0.06)
    # the tails beyond 10 and 90 % are drawn in, so the quartiles lie a little inside the site's
    assert low * 0.9 < np.quantile(volumes, 0.25) < middle * 0.8
    assert middle * 1.25 < np.quantile(volumes, 0.75) < high * 1.1
    counts = np.array([t.count for t in targets])
    assert load.count[0] * 0.8 < np.median(counts) < load.count[2]
    assert counts.min() >= 3


def test_a_few_patients_already_look_like_the_site() -> None:
    for style in STYLES.values():
        volumes = [
            lesion_target(style.load, i, np.random.default_rng(i)).volume_ml for i in range(9)
        ]
        assert style.load.volume_ml[0] < np.median(volumes) < style.load.volume_ml[2]
        assert min(volumes) < style.load.volume_ml[0] * 1.1
        assert max(volumes) > style.load.volume_ml[2] * 0.9


@given(st.floats(0.001, 0.998), st.floats(0.0005, 0.001))
def test_quantile_rises(u: float, step: float) -> None:
    quartiles = (2.35, 4.54, 9.36)
    assert quantile(quartiles, u + step) > quantile(quartiles, u)


def test_most_lesions_begin_near_the_ventricles_or_the_cortex() -> None:
    brain = load_head(SPACING).brain
    weight = place_weight(brain)
    total = float(weight.sum())
    near = float(weight[brain.to_ventricles < 10].sum()) / total
    cortex = float(weight[(brain.to_grey < 5) & (brain.to_ventricles > 14)].sum()) / total
    assert 0.45 < near < 0.75
    assert 0.15 < cortex < 0.45
    assert float(weight[brain.grey > 0.5].sum()) == 0.0


@pytest.mark.parametrize("index", [0, 1])
def test_planted_volume_is_the_targets(index: int) -> None:
    brain = load_head(SPACING).brain
    rng = np.random.default_rng(index)
    target = lesion_target(STYLES["ge"].load, index, rng)
    lesions = make_lesions(brain, target, rng, spacing=SPACING, shrink=1.0)
    inside = lesions.cover >= 0.5
    volume = float(inside.sum()) * SPACING**3 / 1000.0
    assert volume == pytest.approx(target.volume_ml, rel=0.03)
    assert lesions.count == target.count
    seen = count_lesions(inside.astype(np.uint8))
    assert 0.5 * target.count <= seen <= 1.15 * target.count
    assert float(brain.white[inside].mean()) > 0.75
    assert not (inside & brain.ventricles).any()


def test_large_lesions_stand_apart_from_small_ones_in_size() -> None:
    brain = load_head(SPACING).brain
    rng = np.random.default_rng(4)
    target = lesion_target(STYLES["siemens"].load, 1, rng)
    lesions = make_lesions(brain, target, rng, spacing=SPACING, shrink=1.0)
    labels, count = ndimage.label(lesions.cover >= 0.5, np.ones((3, 3, 3)))
    sizes = np.sort(np.bincount(labels.ravel())[1:])
    assert count > 20
    assert sizes[-1] > 15 * np.median(sizes)
