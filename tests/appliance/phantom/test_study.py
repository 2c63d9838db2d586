"""One study: what a reader would see, what the truth says, and that it repeats."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from appliance.demo.phantom import STYLES, PhantomRefused, PhantomRequest, PhantomStudy, make_study
from appliance.demo.phantom.warp import make_bend
from appliance.imaging.grid import grid_of, resample
from appliance.imaging.volume import Volume
from tests.appliance.phantom.conftest import StudyOf

ALL = sorted(STYLES)


def t1_on_flair(study: PhantomStudy, matrix: np.ndarray) -> np.ndarray:
    return resample(study.t1w, grid_of(study.flair), matrix).data


def test_equal_requests_give_equal_bits_and_other_seeds_other_people(study_of: StudyOf) -> None:
    one = study_of()
    two = make_study(PhantomRequest(index=0, style="philips", seed=11))
    assert one is not two
    assert np.array_equal(one.flair.data, two.flair.data)
    assert np.array_equal(one.t1w.data, two.t1w.data)
    assert np.array_equal(one.lesions.data, two.lesions.data)
    assert np.array_equal(one.t1w_to_flair, two.t1w_to_flair)
    assert one.identity == two.identity
    other = make_study(PhantomRequest(index=0, style="philips", seed=12))
    assert not np.array_equal(one.flair.affine, other.flair.affine)
    assert one.identity.patient_id != other.identity.patient_id


@pytest.mark.parametrize("style", ALL)
def test_grids_are_the_scanners(study_of: StudyOf, style: str) -> None:
    study = study_of(style)
    spacing, shape = STYLES[style].geometry(half=True)
    assert study.flair.shape == shape
    assert study.t1w.shape == shape
    assert study.flair.spacing == pytest.approx(spacing)
    assert study.flair.spacing == pytest.approx([2 * s for s in STYLES[style].spacing_mm])
    direction = study.flair.affine[:3, :3] / spacing
    assert np.abs(direction.T @ direction - np.eye(3)).max() < 1e-9
    assert np.abs(direction).max(axis=0).min() < 0.99999  # oblique
    assert not np.allclose(study.flair.affine, study.t1w.affine)


@pytest.mark.parametrize("style", ALL)
def test_the_whole_brain_is_in_the_picture(study_of: StudyOf, style: str) -> None:
    study = study_of(style)
    brain = study.brain.data
    assert 1400 < brain.sum() * study.brain.voxel_ml < 2300
    for axis in range(3):
        faces = np.take(brain, [0, -1], axis=axis)
        assert not faces.any()


@pytest.mark.parametrize("style", ALL)
def test_lesions_are_bright_on_flair_and_dark_on_t1(study_of: StudyOf, style: str) -> None:
    study = study_of(style, 1)
    flair = study.flair.data.astype(np.float32)
    t1 = t1_on_flair(study, study.flair_to_t1w)
    lesion = study.lesions.data > 0
    inner = ndimage.binary_erosion(lesion) if lesion.sum() > 5000 else lesion
    shell = ndimage.binary_dilation(lesion, iterations=3) & ~ndimage.binary_dilation(lesion)
    shell &= (study.brain.data > 0) & (study.mimics.data == 0)
    assert flair[inner].mean() > 1.25 * flair[shell].mean()
    assert t1[inner].mean() < 0.9 * t1[shell].mean()
    planted = study.lesion_ml
    assert lesion.sum() * study.lesions.voxel_ml == pytest.approx(planted, rel=0.2)


@pytest.mark.parametrize("style", ALL)
def test_mimics_are_as_bright_as_lesions_and_not_dark_on_t1(study_of: StudyOf, style: str) -> None:
    study = study_of(style, 1)
    flair = study.flair.data.astype(np.float32)
    lesion, mimic = study.lesions.data > 0, study.mimics.data > 0
    assert not (lesion & mimic).any()
    assert np.percentile(flair[mimic], 80) > 0.9 * np.median(flair[lesion])
    assert mimic.sum() * study.mimics.voxel_ml > 25.0
    t1 = t1_on_flair(study, study.flair_to_t1w)
    rim = ndimage.binary_dilation(mimic, iterations=2) & ~mimic & ~ndimage.binary_dilation(lesion)
    rim &= study.brain.data > 0
    # against their own surroundings: lesions are below 0.9 (above), mimics do not stand out
    assert t1[mimic].mean() > 0.95 * t1[rim].mean()


@pytest.mark.parametrize("style", ALL)
def test_the_true_transform_matches_the_series_best(study_of: StudyOf, style: str) -> None:
    study = study_of(style)
    brain = ndimage.binary_dilation(study.brain.data > 0, iterations=2)
    flair = study.flair.data[brain].astype(np.float64)

    def agreement(shift: tuple[float, float, float]) -> float:
        moved = study.flair_to_t1w.copy()
        moved[:3, 3] += shift
        t1 = t1_on_flair(study, moved)[brain].astype(np.float64)
        table = np.histogram2d(flair, t1, bins=40)[0] / flair.size
        outer = table.sum(1, keepdims=True) * table.sum(0, keepdims=True)
        used = table > 0
        return float((table[used] * np.log(table[used] / outer[used])).sum())

    best = agreement((0, 0, 0))
    for axis in range(3):
        for size in (-2.0, 2.0):
            shift = [0.0, 0.0, 0.0]
            shift[axis] = size
            assert agreement((shift[0], shift[1], shift[2])) < best
    rigid = study.t1w_to_flair[:3, :3]
    assert np.abs(rigid @ rigid.T - np.eye(3)).max() < 1e-9
    assert not np.allclose(study.t1w_to_flair, np.eye(4))


@pytest.mark.parametrize("style", ALL)
def test_a_face_stands_in_front_and_clear_of_the_brain(study_of: StudyOf, style: str) -> None:
    study = study_of(style)
    face, brain = study.face.data > 0, study.brain.data > 0
    assert 80 < face.sum() * study.face.voxel_ml < 400
    away = ndimage.distance_transform_edt(~brain, sampling=study.brain.spacing)
    assert away[face].min() > 4.0
    world = np.argwhere(face) @ study.face.affine[:3, :3].T + study.face.affine[:3, 3]
    middle = np.argwhere(brain) @ study.brain.affine[:3, :3].T + study.brain.affine[:3, 3]
    assert world[:, 1].mean() > middle[:, 1].mean() + 55
    assert world[:, 2].mean() < middle[:, 2].mean() - 25
    signal = study.t1w.data
    noise = np.median(signal[:6, :6])
    on_t1 = resample(Volume(face.astype(np.float32), study.face.affine), grid_of(study.t1w))
    assert np.median(signal[on_t1.data > 0.5]) > 4 * noise


def test_a_patient_without_lesions_has_none() -> None:
    study = make_study(PhantomRequest(index=0, style="philips", lesions=False))
    assert not study.lesions.data.any()
    assert study.lesion_count == 0
    assert study.mimics.data.any()


def test_bends_do_not_fold() -> None:
    axis = np.arange(-60.0, 61.0, 6.0)
    points = np.stack(np.meshgrid(axis, axis - 20, axis, indexing="ij"), axis=-1)
    for seed in range(6):
        mapped = make_bend(np.random.default_rng(seed)).to_template(points)
        rows = [np.diff(mapped, axis=a) / 6.0 for a in range(3)]
        size = min(r.shape[i] for i, r in enumerate(rows)) - 1
        jacobian = np.stack([r[:size, :size, :size] for r in rows], axis=-1)
        assert np.linalg.det(jacobian).min() > 0.25


@pytest.mark.parametrize(
    "wrong", [{"style": "toshiba"}, {"index": -1}, {"seed": -4}, {"index": 10_000}]
)
def test_a_wrong_request_is_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(PhantomRefused):
        PhantomRequest(**({"index": 0} | wrong))  # type: ignore[arg-type]
