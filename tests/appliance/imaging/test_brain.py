"""Brain masks and defacing on drawn heads and real images."""

from __future__ import annotations

import numpy as np
import pytest

from appliance.demo.phantom.model import PhantomRequest
from appliance.demo.phantom.study import make_study
from appliance.errors import ImageRefused, StageFailed
from appliance.imaging import atlas as atlas_module
from appliance.imaging.atlas import AtlasMissing, load_atlas
from appliance.imaging.brain import brain_mask, fit_brain
from appliance.imaging.defacing import deface, face_region, removed_ml, verify_defaced
from appliance.imaging.grid import grid_of, resample
from appliance.imaging.volume import Volume, apply_affine
from tests.appliance.imaging.heads import RAW, dice, drawn_head, raw_pair, tilted_fit, tilted_head


def test_the_drawn_head_is_found_where_it_was_drawn() -> None:
    head = tilted_head()
    fit = tilted_fit()
    points = apply_affine(head.image.affine, np.argwhere(head.brain)[::50])
    inward = apply_affine(np.linalg.inv(head.pose), points)
    laid = apply_affine(fit.alignment.matrix, inward)
    assert float(np.linalg.norm(laid - points, axis=1).mean()) < 4.0
    assert dice(fit.mask.data > 0, head.brain) > 0.95
    assert fit.mask.data.dtype == np.uint8
    assert fit.alignment.score > 1.0
    assert fit.alignment.coverage == 1.0


def test_the_other_contrast_gives_the_same_brain() -> None:
    head = drawn_head(tilted_head().pose, inverted=True)
    assert dice(brain_mask(head.image, profile="quick").data > 0, head.brain) > 0.93


def test_noise_alone_is_no_head() -> None:
    noise = np.random.default_rng(0).normal(100, 10, (60, 60, 60)).astype(np.float32)
    volume = Volume(noise, np.diag([3.0, 3, 3, 1]))
    with pytest.raises(ImageRefused, match=r"not look like a head|no head"):
        fit_brain(volume, profile="quick")


def test_a_mask_that_no_brain_fits_into_is_refused() -> None:
    head = tilted_head().image
    half = Volume(head.data, head.affine @ np.diag([0.7, 0.7, 0.7, 1.0]))
    with pytest.raises(ImageRefused, match=r"no brain|not look like a head"):
        fit_brain(half, profile="quick")


def test_computed_tomography_is_refused_in_words() -> None:
    head = tilted_head().image
    units = head.with_data((head.data.astype(np.int32) * 2 - 1024).astype(np.int16))
    with pytest.raises(ImageRefused, match="computed tomography"):
        fit_brain(units, profile="quick")


def test_a_skull_stripped_brain_is_found() -> None:
    head = tilted_head()
    bare = head.image.with_data(np.where(head.brain, head.image.data, 0).astype(np.int16))
    fit = fit_brain(bare, profile="quick")
    assert dice(fit.mask.data > 0, head.brain) > 0.95
    clean = deface(bare, fit.mask, alignment=fit.alignment)
    np.testing.assert_array_equal(clean.data[head.brain], bare.data[head.brain])


@pytest.mark.parametrize("value", [0, 50])
def test_an_empty_image_is_refused(value: int) -> None:
    flat = Volume(np.full((50, 50, 50), value, dtype=np.int16), np.diag([4.0, 4, 4, 1]))
    with pytest.raises(ImageRefused):
        brain_mask(flat, profile="quick")


def test_defacing_empties_the_face_and_leaves_the_brain() -> None:
    head = tilted_head()
    fit = tilted_fit()
    clean = deface(head.image, fit.mask, alignment=fit.alignment)
    np.testing.assert_array_equal(clean.data[head.brain], head.image.data[head.brain])
    eyes = apply_affine(head.pose, np.array([[-31.0, 62.0, -38.0], [31.0, 62.0, -38.0]]))
    place = np.rint(apply_affine(np.linalg.inv(head.image.affine), eyes)).astype(int)
    assert (clean.data[tuple(place.T)] == head.image.data.min()).all()
    crown = apply_affine(head.pose, np.array([[0.0, -20.0, 90.0], [0.0, -110.0, 10.0]]))
    kept = np.rint(apply_affine(np.linalg.inv(head.image.affine), crown)).astype(int)
    np.testing.assert_array_equal(clean.data[tuple(kept.T)], head.image.data[tuple(kept.T)])
    assert clean.data.dtype == head.image.data.dtype
    assert removed_ml(head.image, clean) > 5.0


def test_defacing_checks_its_own_result() -> None:
    head = tilted_head()
    brain = head.brain
    touched = head.image.data.copy()
    touched[tuple(np.argwhere(brain)[0])] += 1
    region = np.zeros_like(brain)
    with pytest.raises(StageFailed, match="1 voxels of the brain"):
        verify_defaced(head.image, head.image.with_data(touched), brain, region)
    region[tuple(np.argwhere(head.image.data > head.image.data.min())[0])] = True
    with pytest.raises(StageFailed, match="left 1 voxels"):
        verify_defaced(head.image, head.image, brain, region)


def test_defacing_without_a_mask_is_refused() -> None:
    head = tilted_head()
    with pytest.raises(ImageRefused, match="empty"):
        deface(head.image, head.image.with_data(np.zeros(head.image.shape, np.uint8)))
    with pytest.raises(ImageRefused, match="another grid"):
        deface(head.image, Volume(np.ones((3, 3, 3), np.uint8), np.eye(4)))


def test_the_face_region_lies_outside_of_the_brain() -> None:
    head = tilted_head()
    fit = tilted_fit()
    region = face_region(grid_of(head.image), fit.alignment, fit.mask.data > 0)
    assert region.any()
    assert not (region & head.brain).any()


def test_a_missing_template_is_said_in_words(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(atlas_module, "TEMPLATE", "absent.nii.gz")  # edge: nilearn's files stay
    load_atlas.cache_clear()
    with pytest.raises(AtlasMissing, match="nilearn"):
        load_atlas(4.0)
    load_atlas.cache_clear()


@pytest.mark.long
def test_real_images_against_the_published_masks() -> None:
    found = {}
    for patient, study in RAW:
        pair = raw_pair(patient, study)
        truth = pair.flair.with_data(pair.brain.astype(np.uint8))
        back = np.asarray(np.linalg.inv(pair.transform), dtype=np.float64)
        on_t1 = resample(truth, grid_of(pair.t1), matrix=back, interpolation="nearest").data > 0
        for kind, image, brain in (("flair", pair.flair, pair.brain), ("t1", pair.t1, on_t1)):
            fit = fit_brain(image)
            found[patient, study, kind] = dice(fit.mask.data > 0, brain)
            clean = deface(image, fit.mask, alignment=fit.alignment)
            lost = float((clean.data[brain] != image.data[brain]).sum()) * image.voxel_ml
            # drawn by hand: a few voxels of a published outline may lie on an orbit's roof
            assert lost < 0.05, (patient, study, kind, lost)
    # patient03's published mask leaves out frontal cortex and cerebellum that are plainly brain
    usable = [value for key, value in found.items() if key[0] != "patient03"]
    assert min(usable) > 0.95, found
    assert float(np.mean(usable)) > 0.957, found
    assert min(found.values()) > 0.86, found


@pytest.mark.long
def test_twenty_patients_lose_their_faces_and_hardly_a_voxel_of_the_brain() -> None:
    for seed in range(20):
        style = ("ge", "siemens", "philips")[seed % 3]
        made = make_study(PhantomRequest(index=seed, style=style, seed=100 + seed))
        back = np.asarray(np.linalg.inv(made.flair_to_t1w), dtype=np.float64)
        for image, matrix in ((made.flair, np.eye(4)), (made.t1w, back)):
            grid = grid_of(image)
            brain, face = (
                resample(part, grid, matrix=matrix, interpolation="nearest").data > 0
                for part in (made.brain, made.face)
            )
            fit = fit_brain(image, profile="quick")
            clean = deface(image, fit.mask, alignment=fit.alignment)
            assert dice(fit.mask.data > 0, brain) > 0.97
            assert int((clean.data[face] != image.data.min()).sum()) == 0, (seed, style)
            lost = float((clean.data[brain] != image.data[brain]).sum()) * image.voxel_ml
            # what the mask leaves out below a temporal pole is kept by the atlas's margin alone
            assert lost < 0.2, (seed, style, lost)


@pytest.mark.integration
def test_real_t1_and_flair_masks_agree() -> None:
    pair = raw_pair("patient20", 2)
    flair = fit_brain(pair.flair, profile="quick").mask
    t1 = fit_brain(pair.t1, profile="full").mask
    other = resample(t1, grid_of(flair), matrix=pair.transform, interpolation="nearest")
    assert dice(flair.data > 0, other.data > 0) > 0.95
