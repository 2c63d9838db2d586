"""Preparation on the plan's grid and the way back."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import ndimage

from appliance.errors import ImageRefused
from appliance.imaging.correction import correct_bias, remove_noise
from appliance.imaging.grid import Grid, grid_of, resample
from appliance.imaging.normalisation import zscore
from appliance.imaging.preparation import invert, prepare, resample_labels
from appliance.imaging.rigid import rigid_matrix
from appliance.imaging.volume import Volume, apply_affine
from federation.plan import Preparation
from federation.preparation import FixedIntensities
from tests.appliance.imaging.bodies import TILT, ellipsoid, study
from tests.appliance.imaging.heads import dice

PREPARATION = Preparation(spacing_mm=(2.0, 2.0, 2.0), profile="quick")


def test_a_study_stands_on_the_plans_grid() -> None:
    image, brain, label = study()
    motion = rigid_matrix((0, 0, 10), (3, -4, 5))
    moved = resample(image, grid_of(image), matrix=np.linalg.inv(motion), fill=50.0)
    case = prepare(
        {"FLAIR": image, "T1w": moved, "T2w": None},
        PREPARATION,
        label=label,
        transforms={"T1w": motion},
        brain=brain,
    )
    inside = case.brain > 0
    assert case.image.dtype == np.float32
    assert case.image.shape == (3, *case.brain.shape)
    assert case.present == (True, True, False)
    assert not case.image[2].any()
    np.testing.assert_allclose(case.affine[:3, :3], 2.0 * TILT[:3, :3], atol=1e-9)
    world = PREPARATION.model_copy(update={"axes": "world"})
    level = prepare({"FLAIR": image}, world, label=None, transforms={}, brain=brain)
    np.testing.assert_allclose(level.affine[:3, :3], np.diag([2.0, 2.0, 2.0]))
    for channel in case.image[:2]:
        assert float(channel[inside].mean()) == pytest.approx(0.0, abs=1e-3)
        assert float(channel[inside].std()) == pytest.approx(1.0, abs=1e-3)
        assert not channel[~inside].any()
    assert float(np.corrcoef(case.image[0][inside], case.image[1][inside])[0, 1]) > 0.9
    assert case.label is not None
    assert set(np.unique(case.label)) == {0, 2}
    ml = float((case.label > 0).sum()) * 8 / 1000
    assert ml == pytest.approx(float((label.data > 0).sum()) * label.voxel_ml, rel=0.03)


def test_crop_and_skull_are_the_plans_choice() -> None:
    image, brain, _ = study()
    whole = prepare(
        {"FLAIR": image},
        PREPARATION.model_copy(update={"crop": "none", "skull_strip": False}),
        label=None,
        transforms={},
        brain=brain,
    )
    part = prepare({"FLAIR": image}, PREPARATION, label=None, transforms={}, brain=brain)
    assert np.prod(part.brain.shape) < np.prod(whole.brain.shape)
    assert part.brain.sum() == whole.brain.sum()
    assert whole.image[0][whole.brain == 0].any()
    assert whole.label is None


def test_an_input_that_ends_early_is_zero_there() -> None:
    image, brain, _ = study()
    short = Volume(image.data[:, :, :14], image.affine)
    case = prepare({"FLAIR": short}, PREPARATION, label=None, transforms={}, brain=brain)
    beyond = apply_affine(np.linalg.inv(image.affine) @ case.affine, np.argwhere(case.brain > 0))
    values = case.image[0][case.brain > 0]
    assert not values[beyond[:, 2] > 14.0].any()
    assert values[beyond[:, 2] < 12.0].all()


@pytest.mark.parametrize("step", [1.0, 2.0])
@pytest.mark.parametrize("way", ["nearest", "linear"])
def test_a_mask_goes_back_to_the_source_grid(step: float, way: str) -> None:
    image, brain, label = study()
    wanted = PREPARATION.model_copy(update={"spacing_mm": (step,) * 3})
    case = prepare({"FLAIR": image}, wanted, label=label, transforms={}, brain=brain)
    assert case.label is not None
    back = invert(case.label, case.affine, grid_of(image), way)  # type: ignore[arg-type]
    assert back.data.dtype == np.uint8
    np.testing.assert_array_equal(back.affine, image.affine)
    score = dice(back.data == 2, label.data == 2)
    assert score > (0.95 if step == 1.0 else 0.90)
    assert dice(back.data > 0, label.data > 0) == score


@settings(max_examples=10, deadline=None)
@given(
    order=st.permutations([0, 1, 2]),
    flips=st.tuples(*[st.sampled_from([-1.0, 1.0])] * 3),
    thick=st.sampled_from([1.0, 3.0]),
)
def test_one_millimetre_round_trip_in_every_orientation(
    order: list[int], flips: tuple[float, float, float], thick: float
) -> None:
    """Prepared at 1 mm, taken to a source grid and read again: less than 2 % Dice is lost."""
    turn = np.zeros((4, 4))
    for axis, target in enumerate(order):
        turn[target, axis] = flips[axis] * (thick if axis == 2 else 1.0)
    turn[3, 3] = 1.0
    affine = TILT @ turn
    shape = (64, 64, int(64 / thick))
    affine[:3, 3] = -affine[:3, :3] @ ((np.array(shape) - 1) / 2)
    source = Grid(shape, np.asarray(affine))
    prepared = Grid((60, 60, 60), np.eye(4) + _offset(-29.5))
    mask = ellipsoid(prepared, (2.0, -3.0, 1.0), (15.0, 11.0, 18.0))
    there = invert(mask.astype(np.uint8), prepared.affine, source)
    np.testing.assert_array_equal(there.affine, source.affine)
    again = resample(there, prepared, interpolation="nearest").data > 0
    if thick == 1.0:
        assert dice(again, mask) > 0.98
    truth = ellipsoid(source, (2.0, -3.0, 1.0), (15.0, 11.0, 18.0))
    assert dice(there.data > 0, truth) > 0.96


def _offset(value: float) -> NDArray[np.float64]:
    matrix = np.zeros((4, 4))
    matrix[:3, 3] = value
    return matrix


def test_refusals_say_why() -> None:
    image, brain, _ = study()
    empty = brain.with_data(np.zeros(brain.shape, np.uint8))
    with pytest.raises(ImageRefused, match="empty"):
        prepare({"FLAIR": image}, PREPARATION, label=None, transforms={}, brain=empty)
    with pytest.raises(ImageRefused, match="none of the plan"):
        prepare({"FLAIR": None}, PREPARATION, label=None, transforms={}, brain=brain)
    flat = image.with_data(np.full(image.shape, 3.0, np.float32))
    with pytest.raises(ImageRefused, match="constant"):
        prepare({"FLAIR": flat}, PREPARATION, label=None, transforms={}, brain=brain)
    with pytest.raises(ImageRefused, match=r"needs a brain mask \(crop 'brain', skull_strip"):
        prepare({"FLAIR": image}, PREPARATION, label=None, transforms={}, brain=None)
    away = rigid_matrix((0, 0, 0), (900, 0, 0))
    with pytest.raises(ImageRefused, match="cover"):
        prepare({"FLAIR": image}, PREPARATION, label=None, transforms={"FLAIR": away}, brain=brain)
    with pytest.raises(ImageRefused, match="whole numbers"):
        resample_labels(image.with_data(image.data * 0 + 0.5), grid_of(image))
    with pytest.raises(ImageRefused, match="255"):
        invert(np.full((2, 2, 2), 300), np.eye(4), grid_of(image))


def test_zscore_has_its_known_answer() -> None:
    data = np.array([[[1.0, 3.0, 100.0]]], dtype=np.float32)
    inside = np.array([[[True, True, False]]])
    np.testing.assert_allclose(zscore(data, inside)[0, 0], [-1.0, 1.0, 98.0])
    with pytest.raises(ImageRefused, match="mask is empty"):
        zscore(data, np.zeros_like(inside))


def test_bias_correction_flattens_a_known_field() -> None:
    image, brain, _ = study()
    inside = brain.data > 0
    flat = np.where(inside, 500.0, 50.0)
    texture = ndimage.gaussian_filter(np.random.default_rng(1).normal(size=image.shape), 2) * 300
    clean = image.with_data((flat + texture * inside).astype(np.float32))
    x = np.linspace(-1, 1, image.shape[0])[:, None, None]
    shaded = image.with_data((clean.data * (1 + 0.4 * x)).astype(np.float32))
    fixed = correct_bias(shaded, brain)
    core = ndimage.binary_erosion(inside, iterations=3)
    before = float(shaded.data[core].std() / shaded.data[core].mean())
    after = float(fixed.data[core].std() / fixed.data[core].mean())
    truth = float(clean.data[core].std() / clean.data[core].mean())
    assert after - truth < 0.4 * (before - truth)
    assert float(fixed.data[inside].mean()) == pytest.approx(
        float(shaded.data[inside].mean()), rel=1e-3
    )
    with pytest.raises(ImageRefused, match="empty"):
        correct_bias(image, brain.with_data(np.zeros(brain.shape, np.uint8)))


def test_a_single_slice_is_prepared_but_has_no_bias_field() -> None:
    rng = np.random.default_rng(2)
    one = Volume(rng.normal(100, 10, (40, 40, 1)).astype(np.float32), np.diag([1.0, 1, 5, 1]))
    brain = one.with_data(np.ones(one.shape, np.uint8))
    case = prepare({"FLAIR": one}, Preparation(), label=brain, transforms={}, brain=brain)
    assert case.image.shape == (1, 40, 40, 5)
    assert case.label is not None
    assert case.label.all()
    assert remove_noise(one).shape == one.shape
    for mask in (brain, None):
        with pytest.raises(ImageRefused, match="two slices"):
            correct_bias(one, mask)


def test_without_a_mask_the_bias_field_is_found_in_the_foreground() -> None:
    image, brain, _ = study()
    x = np.linspace(-1, 1, image.shape[0])[:, None, None]
    shaded = image.with_data((image.data * (1 + 0.4 * x)).astype(np.float32))
    inside = ndimage.binary_erosion(brain.data > 0, iterations=3)
    fixed = correct_bias(shaded, None)
    spread = [float(v.data[inside].std() / v.data[inside].mean()) for v in (shaded, fixed)]
    assert spread[1] < 0.75 * spread[0]


def test_denoising_removes_noise_and_keeps_the_edge() -> None:
    rng = np.random.default_rng(4)
    step = np.zeros((40, 40, 10), np.float32)
    step[20:] = 1000.0
    noisy = Volume(
        (step + rng.normal(0, 30, step.shape)).astype(np.float32), np.diag([1.0, 1, 3, 1])
    )
    smooth = remove_noise(noisy)
    assert float(smooth.data[2:17].std()) < 0.6 * float(noisy.data[2:17].std())
    assert float(smooth.data[22].mean() - smooth.data[17].mean()) > 900


BODY = Preparation(
    spacing_mm=(1.0, 1.0, 3.0),
    normalisation="zscore-image",
    skull_strip=False,
    crop="centre",
    size=(48, 100, 16),
    interpolation="cubic",
)


def test_a_body_without_a_brain_mask_is_cut_about_its_centre() -> None:
    image, _, label = study()
    case = prepare({"T2w": image, "ADC": None}, BODY, label=label, transforms={}, brain=None)
    assert case.image.shape == (2, 48, 100, 16)
    assert case.image.dtype == np.float32
    centre = apply_affine(case.affine, (np.array(case.brain.shape) - 1) / 2)
    middle = apply_affine(image.affine, (np.array(image.shape) - 1) / 2)
    np.testing.assert_allclose(centre, middle, atol=0.51 * 3)
    assert int(case.brain.sum()) == 48 * 90 * 16, "padded by 5 voxels before and behind"
    assert not case.image[0][:, :5].any()
    assert not case.image[0][:, 95:].any()
    inside = case.brain > 0
    assert float(case.image[0][inside].mean()) == pytest.approx(0.0, abs=1e-3)
    assert float(case.image[0][inside].std()) == pytest.approx(1.0, abs=1e-3)
    flipped = label.data[::-1, ::-1][16:64, :, 6:22]
    np.testing.assert_array_equal(case.label[:, 5:95] if case.label is not None else None, flipped)
    with pytest.raises(ImageRefused, match="reference's world"):
        prepare({"T2w": image}, BODY, label=None, transforms={"T2w": np.eye(4)}, brain=None)


@pytest.mark.parametrize("method", ["zscore-foreground", "white-stripe", "percentile", "ct"])
def test_each_normalisation_has_its_meaning_on_a_study(method: str) -> None:
    image, brain, _ = study()
    changes: dict[str, object] = {"normalisation": method, "crop": "none", "skull_strip": False}
    if method == "ct":
        changes["intensities"] = {"low": 0, "high": 600, "mean": 100, "sd": 50}
    wanted = Preparation.model_validate_json(json.dumps({"spacing_mm": [2, 2, 2], **changes}))
    modality = "CT" if method == "ct" else "T1w"
    case = prepare({modality: image}, wanted, label=None, transforms={}, brain=brain)
    values, inside = case.image[0], case.brain > 0
    if method == "percentile":
        assert (float(values.min()), float(values.max())) == (0.0, 1.0)
    elif method == "ct":
        assert float(values.max()) == pytest.approx(10.0)
        assert float(np.median(values[inside])) == pytest.approx(8.0, abs=0.1)
    else:
        assert abs(float(np.median(values[inside]))) < (5 if method == "white-stripe" else 0.3)
        assert float(np.median(values[~inside])) < -3


def test_every_voxel_knows_where_it_is() -> None:
    """An image of its own world coordinates: what stands in a voxel is the voxel's place."""
    for order in ((0, 1, 2), (2, 0, 1)):
        turn = np.diag([0.9, 0.9, 3.0])[:, list(order)]
        affine = np.eye(4)
        affine[:3, :3] = TILT[:3, :3] @ turn
        grid = Grid((60, 50, 40), affine)
        index = np.moveaxis(np.indices(grid.shape), 0, -1)
        place = apply_affine(affine, index)
        for axis, name in enumerate("xyz"):
            wanted = Preparation(
                normalisation="ct",
                intensities=FixedIntensities(low=-2000, high=2000, mean=0, sd=1),
                crop="none",
                skull_strip=False,
            )
            image = Volume(place[..., axis].astype(np.float32), affine)
            case = prepare({"CT": image}, wanted, label=None, transforms={}, brain=None)
            own = apply_affine(case.affine, np.moveaxis(np.indices(case.brain.shape), 0, -1))
            deep = (slice(6, -6),) * 3
            gap = np.abs(case.image[0] - own[..., axis])[deep]
            assert float(gap.max()) < 1e-3, f"{name} is off"


def test_n4_and_denoising_run_when_the_plan_says_so() -> None:
    image, brain, _ = study()
    plain = prepare({"FLAIR": image}, PREPARATION, label=None, transforms={}, brain=brain)
    both = PREPARATION.model_copy(update={"n4": True, "denoise": True})
    other = prepare({"FLAIR": image}, both, label=None, transforms={}, brain=brain)
    inside = plain.brain > 0
    assert not np.array_equal(plain.image, other.image)
    assert float(np.corrcoef(plain.image[0][inside], other.image[0][inside])[0, 1]) > 0.9
