"""The figures that MRIQC's users know, each on an image whose answer is known beforehand."""

from __future__ import annotations

import math

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import ndimage

from appliance.imaging.qc.air import (
    artefact_share,
    chi_misfit,
    dietrich_snr,
    foreground_energy,
    noise_of_air,
)
from appliance.imaging.qc.quality import image_metrics
from appliance.imaging.qc.signal import boxed, smoothness, thinned
from appliance.imaging.qc.tissue import (
    atlas_priors,
    bias_field,
    box_placement,
    classify,
    contrast_to_noise,
    find_tissues,
    joint_variation,
    map_overlap,
    snr_within,
    tissue_maps,
)
from appliance.imaging.volume import Volume, apply_affine

RNG = 20


def normal(middle: float, spread: float, count: int = 20_000) -> NDArray[np.float32]:
    return np.random.default_rng(RNG).normal(middle, spread, count).astype(np.float32)


def air(level: float, shape: tuple[int, int, int] = (40, 40, 20)) -> NDArray[np.float64]:
    """Magnitude of pure noise: Rayleigh-distributed."""
    rng = np.random.default_rng(RNG)
    return np.hypot(rng.normal(0, level, shape), rng.normal(0, level, shape))


EVERYWHERE = np.ones((40, 40, 20), dtype=bool)
NOWHERE = np.zeros((40, 40, 20), dtype=bool)


def test_dietrich_snr_gives_the_noise_back_that_was_put_in() -> None:
    level = noise_of_air(air(25.0), EVERYWHERE)
    assert level == pytest.approx(25.0 * math.sqrt((4 - math.pi) / 2), rel=0.02)
    assert dietrich_snr(1000.0, level) == pytest.approx(40.0, rel=0.02)
    assert noise_of_air(air(25.0), NOWHERE) is None
    assert noise_of_air(np.zeros((40, 40, 20)), EVERYWHERE) is None
    assert dietrich_snr(None, level) is None
    assert dietrich_snr(10.0, None) is None


def test_foreground_energy_is_the_ratio_of_squares() -> None:
    data = np.full((50, 60, 50), 10.0)
    data[10:40, 10:50, 10:40] = 200.0
    volume = Volume(data, np.diag([4.0, 4.0, 4.0, 1.0]))
    assert foreground_energy(volume) == pytest.approx(400.0)
    data[data == 10.0] = 0.0
    assert foreground_energy(volume.with_data(data)) is None
    assert foreground_energy(volume.with_data(np.full(data.shape, 7.0))) is None


def test_artefact_share_counts_the_bright_block_and_no_noise() -> None:
    data = air(5.0)
    assert artefact_share(data, EVERYWHERE) == 0.0
    data[5:15, 5:15, 5:15] = 500.0
    found = artefact_share(data, EVERYWHERE)
    corners = 1000 - 8 - 12 * 8  # opening by a cross takes the block's edges
    assert found == pytest.approx(corners / EVERYWHERE.size, rel=0.02)
    assert artefact_share(data, NOWHERE) is None
    assert artefact_share(np.ones((40, 40, 20)), EVERYWHERE) is None


def test_chi_misfit_tells_noise_from_ghosts() -> None:
    assert chi_misfit(air(5.0), EVERYWHERE) == pytest.approx(0.0, abs=0.006)
    rng = np.random.default_rng(3)
    coils = np.sqrt(sum(rng.normal(0, 5.0, (40, 40, 20)) ** 2 for _ in range(8)))
    assert chi_misfit(coils, EVERYWHERE) == pytest.approx(0.0, abs=0.006)
    ghosts = air(5.0)
    ghosts[:, ::5] += 15.0
    spread = chi_misfit(ghosts, EVERYWHERE)
    assert spread is not None
    assert spread > 0.03
    assert chi_misfit(ghosts, NOWHERE) is None
    assert chi_misfit(np.zeros((40, 40, 20)), EVERYWHERE) is None


def test_contrast_and_joint_variation_of_two_known_tissues() -> None:
    grey, white = normal(100.0, 3.0), normal(150.0, 4.0)
    assert contrast_to_noise(grey, white, 0.0) == pytest.approx(50.0 / 5.0, rel=0.02)
    assert contrast_to_noise(grey, white, 12.0) == pytest.approx(50.0 / 13.0, rel=0.02)
    assert joint_variation(grey, white) == pytest.approx(7.0 / 50.0, rel=0.03)
    assert joint_variation(grey, grey) is None
    few = grey[:100]
    assert contrast_to_noise(few, white, 1.0) is None
    assert joint_variation(few, white) is None
    flat = np.full(500, 5.0, dtype=np.float32)
    assert contrast_to_noise(flat, flat, 0.0) is None
    assert contrast_to_noise(flat, flat, 1.0) == 0.0


def test_snr_within_a_tissue() -> None:
    assert snr_within(normal(100.0, 5.0)) == pytest.approx(20.0, rel=0.02)
    assert snr_within(np.full(500, 5.0, dtype=np.float32)) is None
    assert snr_within(normal(1.0, 1.0, 50)) is None


@pytest.mark.parametrize("width", [3.0, 5.0])
def test_smoothness_gives_the_width_of_the_blur_back(width: float) -> None:
    noise = np.random.default_rng(RNG).normal(0, 1, (70, 70, 40))
    sigma = width / math.sqrt(8 * math.log(2))
    data = ndimage.gaussian_filter(noise, [sigma, sigma, 0], mode="wrap").astype(np.float32)
    inside = np.ones(data.shape, dtype=bool)
    x, y, z = smoothness(data, inside, (1.5, 2.0, 1.0))
    assert x == pytest.approx(1.5 * width, rel=0.05)
    assert y == pytest.approx(2.0 * width, rel=0.05)
    assert z is None or z < 1.0  # neighbours do not correlate
    assert smoothness(data, np.zeros_like(inside), (1, 1, 1)) == (None, None, None)
    assert smoothness(np.ones_like(data), inside, (1, 1, 1)) == (None, None, None)


def places() -> NDArray[np.float64]:
    """MNI places of the atlas' tissue, every second voxel of the 2 mm maps."""
    maps = tissue_maps()
    index = np.argwhere(maps.data[..., 1:].sum(axis=-1) > 0.5)
    return apply_affine(maps.affine, index[::2])


def test_the_bias_field_is_found() -> None:
    world = places()
    white = atlas_priors(world)[:, 2]
    field = np.exp(0.002 * world[:, 0] - 0.00001 * world[:, 1] ** 2)
    found = bias_field(world, (500.0 * field).astype(np.float32), white)
    assert found is not None
    ratio = found / field
    assert ratio.std() / ratio.mean() < 1e-3
    low, high = np.percentile(field / np.median(field[white > 0.8]), (5, 95))
    assert np.subtract(*np.percentile(found, (95, 5))) == pytest.approx(high - low, rel=0.01)
    flat = bias_field(world, np.full(len(world), 3.0, dtype=np.float32), white)
    assert flat is not None
    assert np.ptp(flat) == pytest.approx(0.0, abs=1e-4)
    assert bias_field(world, np.zeros(len(world), dtype=np.float32), white) is None
    assert bias_field(world, np.ones(len(world), np.float32), np.zeros_like(white)) is None


@pytest.mark.parametrize("levels", [(40.0, 100.0, 150.0), (30.0, 150.0, 120.0)])
def test_three_tissues_are_told_apart(levels: tuple[float, float, float]) -> None:
    """T1-like (white brightest) and FLAIR-like (grey brightest)."""
    prior = atlas_priors(places())
    rng = np.random.default_rng(RNG)
    truth = (prior.cumsum(axis=1) > rng.random(len(prior))[:, None]).argmax(axis=1)
    values = np.array(levels)[truth] + rng.normal(0, 6.0, len(truth))
    share = classify(values.astype(np.float32), prior)
    assert np.allclose(share.sum(axis=1), 1.0, atol=1e-5)
    assert (share.argmax(axis=1) == truth).mean() > 0.95
    assert share.mean(axis=0) == pytest.approx(np.bincount(truth) / len(truth), abs=0.02)
    same = classify(np.ones(len(prior), np.float32), prior)
    assert np.abs(same - prior).max() < 0.16


def test_map_overlap_ends() -> None:
    one, none = np.ones(10, np.float32), np.zeros(10, np.float32)
    assert map_overlap(one, one) == 1.0
    assert map_overlap(one, none) == 0.0
    assert map_overlap(none, none) is None


def atlas_image(step: float = 2.0) -> tuple[Volume, NDArray[np.bool_]]:
    """The atlas' own tissue as a T1 with noise in a box of air, shifted and enlarged."""
    maps = tissue_maps()
    signal = maps.data @ np.array([300.0, 700.0, 1000.0], dtype=np.float32)
    brain = maps.data[..., 1:].sum(axis=-1) > 0.3
    pad = ((14, 14), (14, 14), (2, 14))
    signal, brain = np.pad(np.where(brain, signal, 0), pad), np.pad(brain, pad)
    rng = np.random.default_rng(RNG)
    data = np.hypot(signal + rng.normal(0, 20, signal.shape), rng.normal(0, 20, signal.shape))
    affine = np.diag([1.1 * step, 1.0 * step, 0.95 * step, 1.0])
    return Volume(data.astype(np.float32), affine), brain


def test_the_box_lays_the_atlas_over_a_brain() -> None:
    image, brain = atlas_image()
    world = apply_affine(image.affine, np.argwhere(brain))
    matrix = box_placement(world)
    np.testing.assert_allclose(np.diag(matrix)[:3], (1.1, 1.0, 0.95), atol=0.03)
    found = find_tissues(image, brain)
    assert found is not None
    for tissue, level in ((1, 700.0), (2, 1000.0)):
        assert np.median(found.values(tissue)) == pytest.approx(level, rel=0.12)
    assert find_tissues(image, np.zeros(image.shape, dtype=bool)) is None
    assert find_tissues(image.with_data(np.zeros(image.shape)), brain) is None


def test_all_figures_of_one_image_together() -> None:
    image, brain = atlas_image()
    figures = {m.name.removeprefix("t1w_"): m.value for m in image_metrics("t1w", image, brain)}
    assert figures["snr_wm"] is not None
    assert figures["snrd"] == pytest.approx(700.0 / 20.0, rel=0.25)
    assert figures["qi1"] == 0.0
    assert figures["qi2"] == pytest.approx(0.0, abs=0.01)
    assert figures["wm2max"] == pytest.approx(0.95, abs=0.07)
    assert figures["inu_range"] == pytest.approx(0.05, abs=0.06)
    shares = [figures[f"icvs_{tissue}"] for tissue in ("csf", "gm", "wm")]
    assert sum(share for share in shares if share is not None) == pytest.approx(1.0, abs=1e-3)
    for tissue in ("gm", "wm"):
        overlap = figures[f"tpm_overlap_{tissue}"]
        assert overlap is not None
        assert overlap > 0.55
    masked = image.with_data(np.where(brain, image.data, 0))
    bare = {m.name.removeprefix("t1w_"): m.value for m in image_metrics("t1w", masked, brain)}
    assert [bare[name] for name in ("ghosting", "snrd", "qi1", "qi2", "fber")] == [None] * 5
    nothing = image_metrics("t1w", image, np.zeros(image.shape, dtype=bool))
    assert all(m.value is None for m in nothing if m.name[4:] not in ("entropy_focus", "fber"))


def test_boxes_and_thinned_axes_keep_places() -> None:
    image, brain = atlas_image()
    part, inside = boxed(image, brain)
    assert inside.sum() == brain.sum()
    corner = np.argwhere(brain).min(axis=0) - 2
    np.testing.assert_allclose(part.affine[:3, 3], apply_affine(image.affine, corner[None])[0])
    thin, _ = thinned(image.with_data(image.data), brain, 4.0, axes=(2,))
    assert thin.shape[:2] == image.shape[:2]
    assert thin.shape[2] == (image.shape[2] + 1) // 2
