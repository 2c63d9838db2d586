"""Kept results of preparation: found by content, whole or made again, bounded, erased."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from appliance.home import Home
from appliance.imaging.preparation import StudyImages, prepare_study
from appliance.imaging.sources import Source, Step, file_source, memory_source
from appliance.imaging.volume import Volume, save_volume
from appliance.preparation import CaseWork, prepare_case, remove_prepared
from appliance.research import CACHE, CaseFiles, erase_case
from appliance.step_cache import SUFFIX, StepCache, trim
from federation.learning.prepared import read_case
from federation.plan import Preparation
from tests.appliance.imaging.bodies import study

CASE = "sub-a_ses-b"
PLENTY = 2**30
COARSE = Preparation(spacing_mm=(3.0, 3.0, 3.0), n4=True, denoise=True)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """FLAIR, T1w and brain mask as files."""
    folder = tmp_path_factory.mktemp("study")
    image, brain, _ = study()
    small = (slice(10, 70), slice(5, 85), slice(None))
    for name, volume in (("FLAIR", image), ("T1w", image), ("brain", brain)):
        noise = 2.0 if name == "T1w" else 1.0
        data = volume.data[small] * (noise if name != "brain" else 1)
        affine = volume.affine.copy()
        affine[:3, 3] += affine[:3, :3] @ (10, 5, 0)
        save_volume(
            Volume(np.asarray(data, dtype=volume.data.dtype), affine), folder / f"{name}.nii"
        )
    return folder


def images(folder: Path) -> StudyImages:
    flair = file_source(folder / "FLAIR.nii")
    return StudyImages(
        inputs={"FLAIR": flair, "T1w": file_source(folder / "T1w.nii")},
        reference=flair.grid,
        brain=file_source(folder / "brain.nii"),
        transforms={"T1w": np.eye(4)},
    )


def test_another_grid_takes_the_same_bias_correction(files: Path, tmp_path: Path) -> None:
    first = StepCache(tmp_path, CASE, PLENTY)
    made = prepare_study(images(files), COARSE, results=first)
    assert first.made == {"n4": 2, "denoise": 2, "resample": 2}
    assert not first.found
    finer = StepCache(tmp_path, CASE, PLENTY)
    other = COARSE.model_copy(update={"spacing_mm": (2.5, 2.5, 2.5)})
    prepare_study(images(files), other, results=finer)
    assert finer.made == {"resample": 2}
    assert finer.found == {"denoise": 2}, "what lies before is not even read"
    scaled = StepCache(tmp_path, CASE, PLENTY)
    percent = COARSE.model_copy(update={"normalisation": "percentile"})
    prepare_study(images(files), percent, results=scaled)
    assert (scaled.made, scaled.found) == ({}, {"resample": 2})
    undenoised = StepCache(tmp_path, CASE, PLENTY)
    prepare_study(images(files), COARSE.model_copy(update={"denoise": False}), results=undenoised)
    assert (undenoised.made, undenoised.found) == ({"resample": 2}, {"n4": 2})
    again = prepare_study(images(files), COARSE, results=StepCache(tmp_path, CASE, PLENTY))
    plain = prepare_study(images(files), COARSE)
    for case in (again, plain):
        np.testing.assert_array_equal(case.image, made.image)


def step(name: str = "n4", **parameters: int) -> Step:
    return Step(name, 1, ("aa", "bb"), parameters)


def volume(value: float = 1.0, size: int = 4) -> Volume:
    data = np.full((size, size, size), value, np.float32)
    return Volume(data, np.diag([1.0, 2.0, 3.0, 1.0]))


def never() -> Volume:
    raise AssertionError("it is there already")


def test_everything_that_shapes_a_result_is_in_its_key() -> None:
    keys = {
        step().key,
        step(a=1).key,
        step(a=2).key,
        step("denoise").key,
        Step("n4", 2, ("aa", "bb")).key,
        Step("n4", 1, ("aa", "bc")).key,
        Step("n4", 1, ("bb", "aa")).key,
    }
    assert len(keys) == 7
    assert step(a=1, b=2).key == Step("n4", 1, ("aa", "bb"), {"b": 2, "a": 1}).key


def test_images_in_memory_are_never_taken_for_each_other(tmp_path: Path) -> None:
    cache = StepCache(tmp_path, CASE, PLENTY)
    nameless = Step("n4", 1, ("", "no mask"))
    assert nameless.key == ""
    assert (cache.volume(nameless, lambda: volume(1)).data == 1).all()
    assert (cache.volume(nameless, lambda: volume(2)).data == 2).all()
    image, brain, _ = study()
    plan = Preparation(spacing_mm=(4.0, 4.0, 4.0), denoise=True)
    made = []
    for gain in (1.0, -1.0):
        flair = memory_source(image.with_data(image.data * np.float32(gain)))
        given = StudyImages({"FLAIR": flair}, flair.grid, memory_source(brain))
        made.append(prepare_study(given, plan, results=cache).image)
    assert not np.allclose(made[0], made[1])
    assert not list(tmp_path.rglob("*.safetensors"))


def test_a_changed_file_is_another_source(files: Path, tmp_path: Path) -> None:
    copy = tmp_path / "image.nii"
    copy.write_bytes((files / "FLAIR.nii").read_bytes())
    before = file_source(copy).key
    raw = bytearray(copy.read_bytes())
    raw[-1] ^= 1
    copy.write_bytes(raw)
    assert file_source(copy).key != before


@pytest.mark.parametrize("damage", ["flip", "truncate", "empty", "swap", "garbage"])
def test_a_damaged_result_is_made_again(damage: str, tmp_path: Path) -> None:
    cache = StepCache(tmp_path, CASE, PLENTY)
    cache.volume(step(), lambda: volume(1))
    cache.volume(step(a=1), lambda: volume(2))
    folder = tmp_path / CACHE / CASE
    path = folder / f"{step().key}{SUFFIX}"
    raw = bytearray(path.read_bytes())
    if damage == "flip":
        raw[-3] ^= 4
        path.write_bytes(raw)
    elif damage == "truncate":
        path.write_bytes(raw[:-7])
    elif damage == "empty":
        path.write_bytes(b"")
    elif damage == "swap":
        path.write_bytes((folder / f"{step(a=1).key}{SUFFIX}").read_bytes())
    else:
        path.write_bytes(b"\xff" * 100)
    got = cache.volume(step(), lambda: volume(1))
    assert (got.data == 1).all()
    assert cache.made["n4"] == 3
    assert (cache.volume(step(), never).data == 1).all(), "and kept whole"
    np.testing.assert_array_equal(cache.volume(step(), never).affine, volume().affine)


def test_the_least_recently_used_go_first(tmp_path: Path) -> None:
    cache = StepCache(tmp_path, CASE, PLENTY)
    for number in range(4):
        cache.volume(step(n=number), volume)
    paths = [tmp_path / CACHE / CASE / f"{step(n=n).key}{SUFFIX}" for n in range(4)]
    for age, path in enumerate(paths):
        os.utime(path, (1000 + age, 1000 + age))
    os.utime(paths[0], (2000, 2000))
    size = paths[0].stat().st_size
    (tmp_path / CACHE / "sub-x_ses-y").mkdir()
    part = tmp_path / CACHE / "sub-x_ses-y" / ".dead.1.part"
    part.write_bytes(b"x")
    os.utime(part, (1, 1))
    trim(tmp_path / CACHE, 2 * size + 10)
    assert [path.exists() for path in paths] == [True, False, False, True]
    assert part.exists(), "younger than an hour beside the newest"
    os.utime(paths[0], (9000, 9000))
    trim(tmp_path / CACHE, 2 * size + 10)
    assert not part.exists()


def test_nothing_is_kept_where_the_settings_say_so(tmp_path: Path) -> None:
    for limit in (0, 100):
        cache = StepCache(tmp_path, CASE, limit)
        cache.volume(step(), volume)
        cache.volume(step(), volume)
        assert cache.made["n4"] == 2
    assert not list(tmp_path.rglob("*.safetensors"))


def test_a_full_disk_costs_no_result(tmp_path: Path) -> None:
    (tmp_path / CACHE).write_text("a file where the folder should be")
    assert (StepCache(tmp_path, CASE, PLENTY).volume(step(), volume).data == 1).all()


def published(home: Home, folder: Path) -> CaseFiles:
    case = CaseFiles.of(CASE)
    for name, target in (
        ("FLAIR", case.image("FLAIR")),
        ("T1w", case.image("T1w")),
        ("brain", case.mask("FLAIR")),
    ):
        path = home.research / target
        path.parent.mkdir(parents=True, exist_ok=True)
        save_volume(Volume(*_read(folder / f"{name}.nii")), path)
    return case


def _read(path: Path) -> tuple[np.ndarray, np.ndarray]:
    source: Source = file_source(path)
    return source.load().data, source.grid.affine


def test_erasing_a_case_erases_what_was_kept_of_it(files: Path, tmp_path: Path) -> None:
    home = Home(tmp_path, "p")
    home.create()
    case = published(home, files)
    work = CaseWork(
        research=home.research,
        files=case,
        inputs=("FLAIR", "T1w"),
        preparation=COARSE.model_copy(update={"n4": False}),
        labels=None,
        out=home.derivatives / "prepared-0",
        threads=1,
        cache_bytes=PLENTY,
    )
    for erase in (lambda: erase_case(home, case), lambda: remove_prepared(home, CASE)):
        published(home, files)
        prepare_case(work)
        assert read_case(work.out / f"{CASE}.safetensors").image.shape[0] == 2
        assert len(list((home.derivatives / CACHE / CASE).iterdir())) == 4
        erase()
        assert not (home.derivatives / CACHE / CASE).exists()
