"""Phantom studies of the three scanner styles: truth is known for every step."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache

import numpy as np
import pytest

from appliance.demo.phantom.model import Fault, PhantomRequest, PhantomStudy
from appliance.demo.phantom.study import make_study
from appliance.imaging.brain import BrainFit, fit_brain
from appliance.imaging.defacing import deface
from appliance.imaging.grid import grid_of, resample
from appliance.imaging.qc import ImageInput, QcReport, check_quality
from appliance.imaging.registration import POOR, Registration, RegistrationOptions, register_rigid
from appliance.imaging.rigid import mean_displacement
from appliance.imaging.volume import apply_affine
from tests.appliance.imaging.heads import dice

pytestmark = pytest.mark.integration

STYLES = (
    "ge",
    pytest.param("siemens", marks=pytest.mark.long),
    pytest.param("philips", marks=pytest.mark.long),
)
QUICK = RegistrationOptions(profile="quick")


@lru_cache(maxsize=12)
def study(style: str, fault: Fault | None = None) -> PhantomStudy:
    return make_study(PhantomRequest(index=3, style=style, seed=41, fault=fault))


@lru_cache(maxsize=12)
def fits(style: str, fault: Fault | None = None) -> tuple[BrainFit, BrainFit]:
    made = study(style, fault)
    return fit_brain(made.flair, profile="quick"), fit_brain(made.t1w, profile="quick")


@lru_cache(maxsize=12)
def registered(style: str, fault: Fault | None = None) -> Registration:
    made = study(style, fault)
    return register_rigid(made.flair, made.t1w, options=QUICK)


def report(style: str, fault: Fault | None = None) -> QcReport:
    made, (flair, t1) = study(style, fault), fits(style, fault)
    fitted = (
        ImageInput("flair", made.flair, flair.mask, flair.alignment.score, flair.alignment.matrix),
        ImageInput("t1w", made.t1w, t1.mask, t1.alignment.score, t1.alignment.matrix),
    )
    return check_quality([fitted[0], replace(fitted[1], registration=registered(style, fault))])


@pytest.mark.parametrize("style", STYLES)
def test_registration_recovers_the_known_shift(style: str) -> None:
    made = study(style)
    points = apply_affine(made.flair.affine, np.argwhere(made.brain.data > 0)[::31])
    found = registered(style)
    error = mean_displacement(found.matrix, made.flair_to_t1w, points)
    start = mean_displacement(np.eye(4), made.flair_to_t1w, points)
    assert error < 0.6
    assert error < 0.5 * start
    assert found.quality > POOR


@pytest.mark.parametrize("style", STYLES)
def test_brain_masks_of_both_contrasts(style: str) -> None:
    made, (flair, t1) = study(style), fits(style)
    truth = made.brain.data > 0
    assert dice(flair.mask.data > 0, truth) > 0.95
    back = np.asarray(np.linalg.inv(made.flair_to_t1w), dtype=np.float64)
    on_t1 = resample(made.brain, grid_of(made.t1w), matrix=back, interpolation="nearest")
    assert dice(t1.mask.data > 0, on_t1.data > 0) > 0.95


@pytest.mark.parametrize("style", STYLES)
def test_no_voxel_of_the_face_survives_and_the_brain_is_untouched(style: str) -> None:
    made, (flair, t1) = study(style), fits(style)
    face, brain = made.face.data > 0, made.brain.data > 0
    assert face.any()
    clean = deface(made.flair, flair.mask, alignment=flair.alignment)
    assert (clean.data[face] == made.flair.data.min()).all()
    np.testing.assert_array_equal(clean.data[brain], made.flair.data[brain])
    back = np.asarray(np.linalg.inv(made.flair_to_t1w), dtype=np.float64)
    grid = grid_of(made.t1w)
    other = deface(made.t1w, t1.mask, alignment=t1.alignment)
    on_t1 = resample(made.face, grid, matrix=back, interpolation="nearest").data > 0
    kept = resample(made.brain, grid, matrix=back, interpolation="nearest").data > 0
    assert (other.data[on_t1] == made.t1w.data.min()).all()
    np.testing.assert_array_equal(other.data[kept], made.t1w.data[kept])


@pytest.mark.parametrize("style", STYLES)
def test_clean_studies_pass(style: str) -> None:
    found = report(style)
    assert found.decision == "pass", found.reasons


@pytest.mark.long
@pytest.mark.parametrize("style", STYLES)
def test_motion_fails_in_words(style: str) -> None:
    found = report(style, Fault.MOTION)
    assert found.decision == "fail"
    assert any("motion" in words for words in found.reasons)


@pytest.mark.long
@pytest.mark.parametrize("style", STYLES)
def test_cropping_fails_in_words(style: str) -> None:
    found = report(style, Fault.CROPPED)
    assert found.decision == "fail"
    assert any("cropped" in words for words in found.reasons)
