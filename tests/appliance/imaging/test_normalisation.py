"""Normalisations with known answers, and what they say where there is none."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from appliance.errors import ImageRefused
from appliance.imaging.normalisation import (
    CHUNK,
    Regions,
    Scaling,
    fixed_scaling,
    moments,
    otsu_threshold,
    percentile_scaling,
    scaling_for,
    stripe_scaling,
    white_matter_peak,
    zscore_scaling,
)
from federation.preparation import FixedIntensities, Preparation

RNG = np.random.default_rng(7)
CSF, GREY, WHITE = 300.0, 600.0, 900.0


def brain(*, inverted: bool = False, lesions: int = 0) -> NDArray[np.float32]:
    """Values of a brain: 15 % fluid, 45 % grey, 40 % white matter; FLAIR turns grey and white."""
    white, grey = (GREY, GREY + 120) if inverted else (WHITE, GREY)
    counts = ((CSF, 15_000), (grey, 40_000), (white, 45_000), (1500.0, lesions))
    parts = [RNG.normal(level, 30, count) for level, count in counts]
    return np.concatenate(parts).astype(np.float32)


def test_zscore_of_the_numbers_one_to_five() -> None:
    scaling = zscore_scaling(np.arange(1, 6, dtype=np.float32))
    assert (scaling.offset, scaling.divisor) == (3.0, pytest.approx(np.sqrt(2.0)))
    np.testing.assert_allclose(
        scaling.apply(np.array([3.0, 5.0], np.float32)), [0.0, np.sqrt(2.0)], rtol=1e-6
    )


def test_moments_do_not_depend_on_the_pieces() -> None:
    values = RNG.normal(1000, 3, 2 * CHUNK + 17).astype(np.float32)
    mean, sd = moments(values)
    assert mean == pytest.approx(float(values.mean(dtype=np.float64)), rel=1e-9)
    assert sd == pytest.approx(float(values.std(dtype=np.float64)), rel=1e-6)


def test_percentiles_become_zero_and_one_and_nothing_lies_beyond() -> None:
    values = np.linspace(0, 1000, 1001).astype(np.float32)
    scaling = percentile_scaling(values, (10.0, 90.0))
    result = scaling.apply(np.array([0, 100, 500, 900, 1000], np.float32))
    np.testing.assert_allclose(result, [0, 0, 0.5, 1, 1], atol=1e-6)


def test_fixed_values_clip_then_scale() -> None:
    scaling = fixed_scaling(FixedIntensities(low=-100, high=300, mean=100, sd=50))
    data = np.array([-1000, 100, 3000], np.float32)
    np.testing.assert_allclose(scaling.apply(data, out=data), [-4, 0, 4])
    assert data[0] == -4, "in place where asked"


@pytest.mark.parametrize("lesions", [0, 3000])
def test_the_white_stripe_finds_white_matter_in_t1(lesions: int) -> None:
    values = brain(lesions=lesions)
    assert white_matter_peak(values, last_peak=True) == pytest.approx(WHITE, abs=15)
    scaling = stripe_scaling(values, last_peak=True)
    assert scaling.offset == pytest.approx(WHITE, abs=15)
    stripe = scaling.apply(values)
    assert 0.07 < float((np.abs(stripe) < 1.8).mean()) < 0.13, "a tenth of the brain"


def test_the_white_stripe_finds_the_highest_peak_in_flair() -> None:
    values = brain(inverted=True, lesions=2000)
    assert white_matter_peak(values, last_peak=False) == pytest.approx(GREY, abs=20)
    assert white_matter_peak(values, last_peak=True) == pytest.approx(GREY + 120, abs=20)


@settings(max_examples=20, deadline=None)
@given(gain=st.floats(0.01, 100.0), shift=st.floats(-500.0, 500.0))
def test_scanners_that_differ_by_gain_and_offset_agree_afterwards(
    gain: float, shift: float
) -> None:
    """Invariance is the point of all of them."""
    values = np.random.default_rng(3).normal(500, 100, 5000).astype(np.float32)
    other = (values * np.float32(gain) + np.float32(shift * gain)).astype(np.float32)
    for make in (
        zscore_scaling,
        lambda v: percentile_scaling(v, (1.0, 99.0)),
        lambda v: stripe_scaling(v, last_peak=False, width=0.1),
    ):
        np.testing.assert_allclose(
            make(values).apply(values), make(other).apply(other), atol=0.25, rtol=2e-2
        )


def test_otsu_separates_two_classes() -> None:
    values = np.concatenate([RNG.normal(20, 5, 9000), RNG.normal(200, 30, 1000)])
    assert 40 < otsu_threshold(values.astype(np.float32)) < 140
    two = np.array([0.0] * 50 + [10.0] * 50, np.float32)
    assert 0 < otsu_threshold(two) < 10


@pytest.mark.parametrize("value", [0.0, 7.0, -3000.0])
def test_a_constant_image_is_refused_in_words(value: float) -> None:
    flat = np.full(5000, value, np.float32)
    for make in (
        zscore_scaling,
        lambda v: percentile_scaling(v, (1.0, 99.0)),
        lambda v: stripe_scaling(v, last_peak=True),
        otsu_threshold,
    ):
        with pytest.raises(ImageRefused, match=r"constant|same value"):
            make(flat)


def test_nothing_inside_is_refused_in_words() -> None:
    nothing = np.zeros(0, np.float32)
    for make in (
        zscore_scaling,
        lambda v: percentile_scaling(v, (1.0, 99.0)),
        lambda v: stripe_scaling(v, last_peak=True),
        otsu_threshold,
    ):
        with pytest.raises(ImageRefused, match="mask is empty"):
            make(nothing)


def test_no_peak_and_too_few_voxels_are_said() -> None:
    falling = RNG.exponential(100, 100_000).astype(np.float32)
    with pytest.raises(ImageRefused, match="no peak"):
        stripe_scaling(falling[falling > 20], last_peak=False)
    few = RNG.normal(100, 10, 300).astype(np.float32)
    with pytest.raises(ImageRefused, match="100 are needed"):
        stripe_scaling(few, last_peak=True)


def test_where_an_image_counts_is_the_methods_choice() -> None:
    data = np.zeros((10, 10, 10), np.float32)
    data[2:8] = RNG.normal(100, 10, (6, 10, 10))
    inside = np.zeros(data.shape, bool)
    inside[4:6] = True
    reach = np.zeros(data.shape, bool)
    reach[:9] = True
    regions = Regions(inside, reach)

    def found(method: str) -> Scaling:
        wanted = Preparation.model_validate({"normalisation": method})
        return scaling_for(data, regions, wanted, "T2w")

    assert found("zscore-brain").offset == pytest.approx(float(data[4:6].mean()), rel=1e-5)
    assert found("zscore-image").offset == pytest.approx(float(data[:9].mean()), rel=1e-5)
    assert found("zscore-foreground").offset == pytest.approx(100, abs=2)
