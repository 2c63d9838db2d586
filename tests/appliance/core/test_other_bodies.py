"""A prostate study through every stage, its plan's preparation, and heads that are refused."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pydicom
import pytest

from appliance.errors import ImageRefused
from appliance.home import Home, create_keys
from appliance.identity import Identities
from appliance.imaging.grid import grid_of
from appliance.imaging.preparation import invert
from appliance.imaging.volume import Volume, apply_affine, load_volume, save_volume
from appliance.pipeline.settling import settlers
from appliance.pipeline.stages import WORKER_STAGES, run_stage
from appliance.pipeline.stages.classify import FACELESS, refuse_faces
from appliance.pipeline.stages.deface import refuse_head
from appliance.pipeline.stages.register import expect_one_frame
from appliance.pipeline.states import Stage
from appliance.pipeline.work import RECEIVED, STAGES, StageResult, StageWork
from appliance.preparation import CaseWork, prepare_case
from appliance.research import CaseFiles
from appliance.settings import SettingsInvalid, settings_from
from dicom_bridge.classify import SeriesKind
from dicom_bridge.classify.bodypart import OTHER_PARTS
from dicom_bridge.errors import DataRefused
from federation.learning.prepared import read_case
from federation.plan import Preparation
from tests.appliance.imaging.heads import drawn_head
from tests.dicom_bridge.real import packed_series

KEY = "st000000000001"
PROSTATE = {"body_part": "other", "reference": "T2w", "inputs": ["T2w", "ADC"]}


@dataclass(frozen=True)
class Case:
    """A study's folder and how to run a stage on it."""

    work: StageWork
    identities: Identities

    def run(self, stage: Stage) -> StageResult:
        """One stage as the runner does it: worker's part, settling, rename."""
        work = replace(self.work, stage=stage, out=self.work.study_dir / STAGES / f"{stage}.tmp")
        work.out.mkdir(parents=True)
        result = run_stage(work)
        settle = settlers(work.home, self.identities).get(stage)
        if settle is not None:
            settle(work, result)
        work.out.rename(work.of(stage))
        return result


def case_of(root: Path, series: Path, keep: Callable[[Path], bool], imaging: object) -> Case:
    home = Home(root, "p")
    home.create()
    keys = create_keys(home)
    folder = home.study(KEY)
    for number, path in enumerate(sorted(p for p in series.rglob("*") if p.is_file() and keep(p))):
        target = folder / RECEIVED / f"{number:04d}.dcm"
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, target)
    settings = settings_from({"node": {"site": "a", "project": "p"}, "imaging": imaging})
    work = StageWork(Stage.CLASSIFY, KEY, home, folder, folder, settings, "s", "v", threads=2)
    return Case(work, Identities(home, keys))


@pytest.mark.integration
def test_a_prostate_study_goes_all_the_way(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """T2w and ADC of other grids; the T2w in two planes, of which the axial one is taken."""
    series = packed_series("prostatex", tmp_path_factory) / "ProstateX-0000"
    case = case_of(tmp_path, series, lambda path: "bval" not in path.parent.name, PROSTATE)
    results = {stage: case.run(stage) for stage in WORKER_STAGES}
    assert results[Stage.CLASSIFY].inputs == ("ADC", "T2w")
    assert results[Stage.DEFACE].facts["face"] == "none"
    likeness = results[Stage.DEFACE].facts["head_likeness"]
    assert isinstance(likeness, dict)
    assert max(float(str(score)) for score in likeness.values()) < 0.8
    assert results[Stage.CHECK].qc_decision == "pass", results[Stage.CHECK].detail
    files = CaseFiles("s", "v", "T2w")
    research = case.work.home.research
    assert not (research / files.mask("T2w")).exists()
    assert files.transform("ADC").name.endswith("_from-ADC_to-T2w_mode-image_xfm.txt")
    assert not (research / "bids" / "sub-s").exists()
    assert files.found_image(research, "T2w") == research / files.image("T2w", beyond=True)
    image = load_volume(files.found_image(research, "T2w"))
    assert image.shape == (384, 384, 19)

    seat = apply_affine(image.affine, np.array([190, 200, 9]))
    lesion = np.moveaxis(np.indices(image.shape), 0, -1)
    distance = np.linalg.norm(apply_affine(image.affine, lesion) - seat, axis=-1)
    truth = Volume((distance < 8).astype(np.uint8), image.affine)
    save_volume(truth, research / files.label())
    plan = Preparation(
        spacing_mm=(0.3, 0.3, 1.0),
        normalisation="zscore-image",
        crop="centre",
        size=(320, 320, 16),
        skull_strip=False,
        interpolation="cubic",
    )
    work = CaseWork(research, files, ("T2w", "ADC"), plan, {1: 1}, tmp_path / "prepared", 2)
    prepare_case(work)
    made = read_case(tmp_path / "prepared" / "sub-s_ses-v.safetensors")
    assert made.image.shape == (2, 320, 320, 16)
    assert np.allclose(np.linalg.norm(made.affine[:3, :3], axis=0), (0.3, 0.3, 1.0))
    for channel in made.image:
        assert abs(float(channel.mean())) < 0.01
        assert abs(float(channel.std()) - 1) < 0.01
    assert made.label is not None
    adc = made.image[1]
    away = max(_overlap(made.image[0], np.roll(adc, shift, axis=0)) for shift in (-40, 40))
    assert _overlap(made.image[0], adc) > 1.2 * away, "T2w and ADC lie on each other"
    back = invert(made.label, made.affine, grid_of(image))
    both = 2 * int((back.data & truth.data).sum()) / int(back.data.sum() + truth.data.sum())
    assert both > 0.97
    with pytest.raises(ImageRefused, match="needs a brain mask"):
        prepare_case(replace(work, preparation=Preparation()))


def _overlap(first: np.ndarray, second: np.ndarray) -> float:
    """Share of information in common, 0 to 1 (entropy of 32 x 32 bins)."""
    joint, _, _ = np.histogram2d(first.ravel(), second.ravel(), bins=32)
    joint /= joint.sum()
    alone = joint.sum(axis=1), joint.sum(axis=0)
    entropy = [-float((p[p > 0] * np.log(p[p > 0])).sum()) for p in (*alone, joint)]
    return 2 * (1 - entropy[2] / (entropy[0] + entropy[1]))


@pytest.mark.long
def test_a_head_is_refused_where_nothing_is_defaced(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """By its header; and where that lies, by the image."""
    series = packed_series("siemens_prisma_mprage", tmp_path_factory)
    imaging = {"body_part": "other", "reference": "T1w", "inputs": ["T1w"], "profile": "quick"}
    honest = case_of(tmp_path / "honest", series, lambda path: path.suffix != ".json", imaging)
    with pytest.raises(DataRefused, match="a face may be in the images"):
        honest.run(Stage.CLASSIFY)
    lying = case_of(tmp_path / "lying", series, lambda path: path.suffix != ".json", imaging)
    for path in lying.work.received.iterdir():
        dataset = pydicom.dcmread(path)
        dataset.BodyPartExamined = "PROSTATE"
        dataset.save_as(path)
    for stage in (Stage.CLASSIFY, Stage.DEIDENTIFY, Stage.CONVERT):
        lying.run(stage)
    with pytest.raises(ImageRefused, match="looks like a head"):
        lying.run(Stage.DEFACE)


def test_only_parts_without_a_face_are_accepted() -> None:
    known = {part for part, _ in OTHER_PARTS}
    assert known >= FACELESS
    assert not FACELESS & {"neck", "spine", "whole body"}
    refuse_faces(dict.fromkeys([SeriesKind.T2W, SeriesKind.ADC], "prostate"))
    for part in ("head", "unknown", "another body part", "neck", "spine", "whole body"):
        with pytest.raises(DataRefused, match=f"T2w: {part}"):
            refuse_faces({SeriesKind.T2W: part, SeriesKind.ADC: "prostate"})


def test_a_drawn_head_looks_like_one_and_noise_does_not() -> None:
    head = drawn_head(np.eye(4)).image
    with pytest.raises(ImageRefused, match="the T2w looks like a head"):
        refuse_head(head, "T2w")
    noise = np.random.default_rng(0).normal(100, 10, (40, 40, 20)).astype(np.float32)
    assert refuse_head(Volume(noise, np.diag([2.0, 2.0, 3.0, 1.0])), "T2w") < 0.75


def test_images_of_other_frames_are_not_laid_over_each_other() -> None:
    expect_one_frame({"T2w": 1, "ADC": 1}, "T2w", "ADC")
    for frames in ({"T2w": 1, "ADC": 2}, {"T2w": 0, "ADC": 0}):
        with pytest.raises(ImageRefused, match="another frame of reference"):
            expect_one_frame(frames, "T2w", "ADC")


def test_another_body_names_its_reference() -> None:
    base = {"node": {"site": "a", "project": "p"}}
    with pytest.raises(SettingsInvalid, match="reference FLAIR among inputs"):
        settings_from({**base, "imaging": {"body_part": "other", "inputs": ["T2w"]}})
    for imaging, by_scanner in (
        ({}, False),
        ({"registration": "scanner"}, True),
        (PROSTATE, True),
        ({**PROSTATE, "registration": "rigid"}, False),
    ):
        assert settings_from({**base, "imaging": imaging}).imaging.by_scanner is by_scanner
