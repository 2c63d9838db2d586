"""Registration fit for use: error, quality figure, planted failures, headers that lie."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import pytest

from appliance.demo.phantom import PhantomRequest, PhantomStudy, make_study
from appliance.errors import ImageRefused
from appliance.imaging.information import Information, Samples, trilinear
from appliance.imaging.pyramid import core_mask, pooled
from appliance.imaging.registration import (
    POOR,
    Registration,
    RegistrationOptions,
    judge,
    register_rigid,
)
from appliance.imaging.rigid import mean_displacement, rigid_matrix
from appliance.imaging.volume import Volume, apply_affine

QUICK = RegistrationOptions(profile="quick")
OVERLAP = 0.75
"""Below this overlap the quality check holds a study."""


@lru_cache(maxsize=8)
def study(style: str, seed: int) -> PhantomStudy:
    return make_study(PhantomRequest(index=1, style=style, seed=seed))


@lru_cache(maxsize=8)
def found(style: str, seed: int) -> Registration:
    made = study(style, seed)
    return register_rigid(made.flair, made.t1w, options=QUICK)


def error_mm(made: PhantomStudy, matrix: np.ndarray, lie: np.ndarray | None = None) -> float:
    truth = made.flair_to_t1w if lie is None else lie @ made.flair_to_t1w
    points = apply_affine(made.flair.affine, np.argwhere(made.brain.data > 0)[::101])
    return mean_displacement(matrix, truth, points)


def noticed(result: Registration) -> bool:
    return result.quality < POOR or result.overlap < OVERLAP


def mirrored(image: Volume) -> Volume:
    axis = int(np.abs(image.affine[0, :3]).argmax())
    return image.with_data(np.ascontiguousarray(np.flip(image.data, axis)))


def upper_half(image: Volume) -> Volume:
    axis = int(np.abs(image.affine[2, :3]).argmax())
    first = np.zeros(3)
    first[axis] = image.shape[axis] // 2
    affine = image.affine.copy()
    affine[:3, 3] = apply_affine(image.affine, first)
    return Volume(np.take(image.data, range(int(first[axis]), image.shape[axis]), axis), affine)


def test_linear_reading_and_its_slope() -> None:
    x, y, z = np.meshgrid(range(4), range(5), range(6), indexing="ij")
    ramp = (2.0 * x - 3.0 * y + 0.5 * z + x * y).astype(np.float32)
    places = np.array([[0.5, 3.0, 0.0], [1.25, 4.0, 0.0], [2.0, 5.0, 0.0]], dtype=np.float32)
    values, slopes = trilinear(ramp, places)
    np.testing.assert_allclose(values[0], 1.0 - 3.75 + 1.0 + 0.625, atol=1e-5)
    np.testing.assert_allclose(values[1], 6.0 - 12.0 + 2.5 + 12.0, atol=1e-5)
    np.testing.assert_allclose(slopes[:, 0], [2.0 + 1.25, -3.0 + 0.5, 0.5], atol=1e-5)


def test_the_gradient_is_the_slope_of_the_agreement() -> None:
    rng = np.random.default_rng(4)
    grid = np.stack(np.meshgrid(*[np.arange(24.0)] * 3, indexing="ij"))
    blob = np.exp(-((grid - 12) ** 2 / np.array([60, 30, 90])[:, None, None, None]).sum(axis=0))
    moving = Volume(blob * 900, np.diag([2.0, 2.0, 2.0, 1.0]))
    points = rng.uniform(12, 34, (40_000, 3))
    values, _ = trilinear(blob.astype(np.float32), (points.T / 2).astype(np.float32))
    information = Information(Samples(points, 1 - values, points.mean(axis=0)), moving)
    start = rigid_matrix((2, -3, 4), (1.1, -0.7, 0.4), points.mean(axis=0))
    _, gradient = information(np.zeros(6), start)
    for axis in range(6):
        step = np.zeros(6)
        step[axis] = 0.2
        slope = (information(step, start)[0] - information(-step, start)[0]) / 0.4
        assert gradient[axis] == pytest.approx(slope, abs=0.05 * np.abs(gradient).max())


def test_pooling_keeps_the_place_and_the_mean() -> None:
    x = np.arange(10, dtype=np.int16)[:, None, None] * np.ones((10, 7, 3), dtype=np.int16)
    small = pooled(Volume(x, np.diag([1.0, 1.0, 4.0, 1.0])), 2.0)
    assert small.shape == (5, 3, 3)
    assert small.spacing == (2.0, 2.0, 4.0)
    places = apply_affine(small.affine, np.argwhere(np.ones(small.shape)))
    np.testing.assert_allclose(small.data.ravel(), places[:, 0])
    with pytest.raises(ImageRefused, match="2 voxels"):
        pooled(Volume(x[:, :, :1], np.eye(4)), 2.0)


def test_a_thin_head_is_its_own_core() -> None:
    head = np.zeros((20, 20, 20), dtype=bool)
    head[5:9] = True
    image = Volume(head.astype(np.float32), np.diag([3.0, 3.0, 3.0, 1.0]))
    np.testing.assert_array_equal(core_mask(image, head, 12.0), head)


@pytest.mark.integration
def test_a_phantom_within_a_third_of_a_millimetre_whatever_the_threads() -> None:
    made, first = study("siemens", 61), found("siemens", 61)
    assert error_mm(made, first.matrix) < 0.3
    assert not noticed(first)
    assert not first.widened
    two = RegistrationOptions(profile="quick", threads=2)
    again = register_rigid(made.flair, made.t1w, options=two)
    assert again.matrix.tobytes() == first.matrix.tobytes()
    assert again.quality == first.quality


@pytest.mark.integration
@pytest.mark.parametrize("step", [4.0, 8.0, 20.0])
def test_a_shift_is_noticed(step: float) -> None:
    made, right = study("siemens", 61), found("siemens", 61).matrix
    wrong = right @ rigid_matrix((0, 0, 0), (step * 0.6, -step * 0.64, step * 0.48))
    assert judge(made.flair, made.t1w, wrong).quality < 0.12


@pytest.mark.integration
def test_headers_that_lie_by_60_mm_and_30_degrees() -> None:
    made = study("siemens", 61)
    lie = rigid_matrix((30, 0, 0), (40, -35, 28))
    moved = Volume(made.t1w.data, lie @ made.t1w.affine)
    assert error_mm(made, register_rigid(made.flair, moved, options=QUICK).matrix, lie) < 0.5


@pytest.mark.integration
def test_a_mirrored_head_is_noticed() -> None:
    made = study("siemens", 61)
    result = register_rigid(made.flair, mirrored(made.t1w), options=QUICK)
    assert result.mirrored
    assert result.widened
    assert noticed(result)


@pytest.mark.long
@pytest.mark.parametrize("style", ["siemens", "ge", "philips"])
def test_every_style_is_found_and_every_planted_failure_noticed(style: str) -> None:
    made, right = study(style, 62), found(style, 62)
    assert error_mm(made, right.matrix) < 0.4
    assert not noticed(right)
    turned = right.matrix @ rigid_matrix((0, 15, 0), (0, 0, 0))
    assert noticed(judge(made.flair, made.t1w, turned))
    noise = np.random.default_rng(1).normal(1000, 200, made.t1w.shape).astype(np.float32)
    moved = (
        study(style, 63).t1w,
        mirrored(made.t1w),
        upper_half(made.t1w),
        made.t1w.with_data(noise),
    )
    for image in moved:
        assert noticed(register_rigid(made.flair, image, options=QUICK))


@pytest.mark.long
def test_the_mean_error_on_phantoms() -> None:
    errors = [
        error_mm(study(style, seed), found(style, seed).matrix)
        for style in ("siemens", "ge", "philips")
        for seed in (62, 64)
    ]
    assert float(np.mean(errors)) < 0.3
