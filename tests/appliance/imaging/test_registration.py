"""Rigid registration: known motions, real pairs, and noticing failure."""

from __future__ import annotations

import numpy as np
import pytest

from appliance.errors import ImageRefused
from appliance.imaging.itk import itk_threads, sitk
from appliance.imaging.registration import RegistrationOptions, judge, register_rigid
from appliance.imaging.rigid import best_rigid, mean_displacement, rigid_matrix
from appliance.imaging.similarity import entropy_correlation
from appliance.imaging.volume import Volume, apply_affine
from tests.appliance.imaging.heads import RAW, drawn_head, raw_pair, tilted_head

QUICK = RegistrationOptions(profile="quick")
MOTION = rigid_matrix((5, -3, 7), (6, -9, 4))


def test_a_known_motion_is_found_across_contrasts() -> None:
    fixed = tilted_head()
    moving = drawn_head(MOTION @ fixed.pose, inverted=True, seed=1)
    found = register_rigid(fixed.image, moving.image, options=QUICK)
    points = apply_affine(fixed.image.affine, np.argwhere(fixed.brain)[::50])
    assert mean_displacement(found.matrix, MOTION, points) < 0.6
    assert found.converged
    assert found.quality > 0.3
    again = register_rigid(fixed.image, moving.image, options=QUICK)
    np.testing.assert_array_equal(again.matrix, found.matrix)


def test_a_wrong_transform_has_a_low_quality() -> None:
    fixed = tilted_head()
    moving = drawn_head(MOTION @ fixed.pose, inverted=True, seed=1)
    right = judge(fixed.image, moving.image, MOTION)
    shifted = judge(fixed.image, moving.image, rigid_matrix((0, 0, 0), (12, 0, 0)) @ MOTION)
    turned = judge(fixed.image, moving.image, rigid_matrix((25, 0, 0), (0, 0, 0)) @ MOTION)
    away = judge(fixed.image, moving.image, rigid_matrix((0, 0, 0), (0, 900, 0)))
    assert right.quality > 0.3
    assert right.converged
    for wrong in (shifted, turned):
        assert wrong.quality < 0.12
        assert not wrong.converged
    assert away.quality == 0.0
    assert away.overlap == 0.0


def test_a_constant_image_is_refused() -> None:
    flat = Volume(np.full((20, 20, 20), 7, dtype=np.int16), np.diag([5.0, 5, 5, 1]))
    with pytest.raises(ImageRefused, match="constant"):
        register_rigid(tilted_head().image, flat, options=QUICK)


def test_entropy_correlation_has_its_known_values() -> None:
    rng = np.random.default_rng(2)
    values = rng.normal(size=40_000)
    assert entropy_correlation(values, -3 * values + 1) == pytest.approx(1.0)
    assert entropy_correlation(values, rng.normal(size=40_000)) < 0.02
    assert entropy_correlation(np.array([]), np.array([])) == 0.0


def test_the_thread_count_is_set_for_the_call_alone() -> None:
    before = sitk.ProcessObject.GetGlobalDefaultNumberOfThreads()
    with itk_threads(1):
        assert sitk.ProcessObject.GetGlobalDefaultNumberOfThreads() == 1
    assert sitk.ProcessObject.GetGlobalDefaultNumberOfThreads() == before
    with pytest.raises(ValueError, match="thread"), itk_threads(0):
        pass


@pytest.mark.long
def test_real_pairs_against_the_authors_transforms() -> None:
    errors = []
    for patient, study in RAW:
        pair = raw_pair(patient, study)
        found = register_rigid(pair.flair, pair.t1, options=QUICK)
        points = apply_affine(pair.flair.affine, np.argwhere(pair.brain)[::97])
        error = mean_displacement(found.matrix, pair.transform, points)
        floor = mean_displacement(best_rigid(pair.transform, points), pair.transform, points)
        assert found.quality > 0.25
        assert floor < 0.4
        errors.append(error)
    assert max(errors) < 1.0
    assert float(np.mean(errors)) < 0.8
