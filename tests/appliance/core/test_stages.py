"""Single steps of the stages on files, and what never crosses into the research zone."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest

from appliance.errors import StageFailed
from appliance.home import Home, create_keys
from appliance.imaging.volume import Volume, load_volume, save_volume
from appliance.labels.making import rater_document
from appliance.labels.reading import LabelRules, label_values
from appliance.pipeline.settling import publish, settlers
from appliance.pipeline.stages import WORKER_STAGES, run_stage
from appliance.pipeline.stages import publish as publish_stage
from appliance.pipeline.stages.check import refusal
from appliance.pipeline.stages.deface import skull_strip
from appliance.pipeline.stages.deidentify import PERSON_FILE, profile_of, read_header
from appliance.pipeline.stages.selection import Selection, read_selection, write_selection
from appliance.pipeline.states import Stage
from appliance.pipeline.work import QC_FILE, SOURCE_PREFIX, TREE, StageResult, StageWork
from appliance.research import (
    CaseFiles,
    case_files,
    ensure_tree,
    sidecar,
    software_version,
)
from appliance.settings import Settings, settings_from
from appliance.settings_imaging import LabelsSection, QcSection
from dicom_bridge.errors import DataRefused
from dicom_bridge.seg.model import LESION, Code, SegContent, SegSegment

KEY = "st000000000001"


def settings(**sections: object) -> Settings:
    return settings_from({"node": {"site": "a", "project": "p"}, **sections})


@pytest.fixture
def work(tmp_path: Path) -> StageWork:
    home = Home(tmp_path, "p")
    home.create()
    create_keys(home)
    out = home.study(KEY) / "stages" / "x.tmp"
    out.mkdir(parents=True)
    return StageWork(Stage.CLASSIFY, KEY, home, home.study(KEY), out, settings(), "s", "v")


def image(shape: tuple[int, int, int] = (4, 5, 6)) -> Volume:
    data = np.arange(np.prod(shape), dtype=np.int16).reshape(shape)
    return Volume(data, np.diag([2.0, 2.0, 2.0, 1.0]))


def at(work: StageWork, stage: Stage) -> Path:
    folder = work.of(stage)
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def test_the_selection_survives_its_file(work: StageWork) -> None:
    selection = Selection({"FLAIR": ("a/1.dcm", "a/2.dcm")}, ("s/1.dcm",), ("why",))
    write_selection(work, selection)
    work.out.rename(work.of(Stage.CLASSIFY))
    assert read_selection(work) == selection
    assert selection.files(work, "FLAIR")[0] == work.received / "a" / "1.dcm"


@pytest.mark.parametrize("text", [None, "{", '{"format": 9}'])
def test_a_selection_that_cannot_be_read(work: StageWork, text: str | None) -> None:
    if text is not None:
        (at(work, Stage.CLASSIFY) / "selection.json").write_text(text)
    with pytest.raises(StageFailed, match="retry classify"):
        read_selection(work)


def test_an_empty_study_is_refused(work: StageWork) -> None:
    work.received.mkdir(parents=True)
    with pytest.raises(DataRefused):
        run_stage(work)
    (work.received / "1.dcm").write_bytes(b"no dicom at all")
    with pytest.raises(DataRefused, match="cannot be read"):
        run_stage(work)
    with pytest.raises(DataRefused):
        read_header(work.received / "1.dcm")


def test_every_worker_stage_has_its_module() -> None:
    for stage in WORKER_STAGES:
        module = __import__(f"appliance.pipeline.stages.{stage.value}", fromlist=["run"])
        assert callable(module.run)


def segment(number: int, code: Code | None, mask: np.ndarray) -> SegSegment:
    return SegSegment(number, "l", "MANUAL", "", None, code, mask.astype(np.uint8))


def test_a_label_that_cannot_be_brought_to_the_reference_is_told(work: StageWork) -> None:
    fill(work, label=False)
    stage_label(at(work, Stage.CONVERT), "T1w")
    result = publish_stage.run(work)
    assert result.labelled is False
    told = result.facts["label_agreement"]
    assert isinstance(told, dict)
    assert "not registered" in str(told["notes"])
    (work.of(Stage.CONVERT) / "labels" / "labels.json").write_text('{"format": 9}')
    with pytest.raises(StageFailed, match="retry convert"):
        publish_stage.run(work)


def test_labels_map_by_code() -> None:
    masks = [np.zeros((2, 2, 2)) for _ in range(3)]
    masks[0][0] = 1
    masks[1][0, 0] = 1
    masks[2][:] = 1
    content = SegContent(
        segments=(
            segment(1, LESION, masks[0]),
            segment(2, Code("1", "SCT", "other"), masks[1]),
            segment(3, None, masks[2]),
        ),
        affine=np.eye(4),
        segmentation_type="BINARY",
        creator="",
        manufacturer="",
        series_description="",
        ReferencedSeriesInstanceUID="",
        SOPInstanceUID="",
    )
    values = label_values(content, {"SCT:52988006": 3}, {1: ("SCT", "52988006")})
    assert values is not None
    assert values.tolist() == (masks[0] * 3).tolist()
    assert label_values(content, {"SCT:2": 3}, {1: ("SCT", "52988006")}) is None
    policy = LabelRules(LabelsSection(creators=("A",), codes={"SCT:52988006": 3})).policy
    assert policy.codes == {("SCT", "52988006")}


def test_skull_stripping_leaves_the_brain_only() -> None:
    volume = image()
    mask = volume.with_data((volume.data > 50).astype(np.uint8))
    stripped = skull_strip(volume, mask)
    assert stripped.data.dtype == volume.data.dtype
    assert np.array_equal(stripped.data > 0, volume.data > 50)


@pytest.mark.parametrize(
    ("decision", "review", "released", "stops"),
    [
        ("pass", "hold", False, False),
        ("review", "hold", False, True),
        ("review", "pass", False, False),
        ("review", "hold", True, False),
        ("fail", "pass", False, True),
        ("fail", "pass", True, False),
    ],
)
def test_what_quality_decides(decision: str, review: str, released: bool, stops: bool) -> None:
    section = QcSection.model_validate({"review": review})
    words = refusal(decision, ("motion",), section, released=released)
    assert (words is not None) == stops
    assert words is None or "motion" in words


def test_profiles_come_from_the_settings(work: StageWork) -> None:
    basic = profile_of(work.settings.deidentification)
    chosen = settings(deidentification={"options": ["retain-device-identity"]})
    assert profile_of(chosen.deidentification).hash != basic.hash


def stage_label(folder: Path, kind: str) -> None:
    """One rater's label as conversion leaves it."""
    save_volume(image(), folder / "labels" / "label-1.nii")
    entry = rater_document("abcd1234", 1, "SEG", kind, 119)
    listing = {"format": 1, "labels": [{**entry, "File": "label-1.nii"}]}
    (folder / "labels" / "labels.json").write_text(json.dumps(listing))


def fill(work: StageWork, *, label: bool) -> None:
    """Finished folders of the earlier stages, as small as they can be."""
    save_volume(image(), at(work, Stage.DEFACE) / "FLAIR.nii")
    save_volume(image(), at(work, Stage.DEFACE) / "FLAIR-brain.nii")
    if label:
        stage_label(at(work, Stage.CONVERT), "FLAIR")
    (at(work, Stage.CONVERT) / "FLAIR.json").write_text("{}")
    (at(work, Stage.CHECK) / QC_FILE).write_text("{}")
    (at(work, Stage.REGISTER)).mkdir(exist_ok=True)


def test_a_case_crosses_by_rename_and_may_cross_again(work: StageWork) -> None:
    files = CaseFiles("s", "v")
    for label in (True, True, False):
        fill(work, label=label)
        if not label:
            shutil.rmtree(work.of(Stage.CONVERT) / "labels")
        work.out.mkdir(exist_ok=True)
        result = publish_stage.run(work)
        assert result.detail == "1 images published"
        assert result.labelled == label
        publish(work.home, work)
        names = [path.as_posix() for path in case_files(work.home, files)]
        assert files.image("FLAIR").as_posix() in names
        assert (files.label().as_posix() in names) == label
        kept = work.home.research / files.rater_label("abcd1234")
        assert kept.exists(), "a rater's label stays where it is"
        assert json.loads(sidecar(kept).read_bytes())["Order"] == 1
        assert not list((work.out / TREE).rglob("*.nii.gz"))
    published = load_volume(work.home.research / files.image("FLAIR"))
    assert np.array_equal(published.data, image().data)
    lines = (work.home.bids / "participants.tsv").read_text().splitlines()
    assert lines == ["participant_id\tsessions", "sub-s\t1"]


def test_what_the_policy_lets_through_crosses_with_the_case(work: StageWork) -> None:
    fill(work, label=False)
    (at(work, Stage.DEIDENTIFY) / PERSON_FILE).write_text('{"sex": "F", "age": 45}')
    publish_stage.run(work)
    publish(work.home, work)
    lines = (work.home.bids / "participants.tsv").read_text().splitlines()
    assert lines == ["participant_id\tage\tsex\tsessions", "sub-s\t45\tF\t1"]


def test_the_same_image_gives_the_same_bytes(tmp_path: Path) -> None:
    save_volume(image(), tmp_path / "a.nii")
    publish_stage.compress(tmp_path / "a.nii", tmp_path / "1.nii.gz")
    publish_stage.compress(tmp_path / "a.nii", tmp_path / "2.nii.gz")
    assert (tmp_path / "1.nii.gz").read_bytes() == (tmp_path / "2.nii.gz").read_bytes()


def test_header_text_does_not_cross(tmp_path: Path) -> None:
    make: Any = nibabel.Nifti1Image
    nifti = make(image().data, image().affine)
    nifti.header["descrip"] = b"DOE^JANE"
    nibabel.save(nifti, tmp_path / "named.nii")
    with pytest.raises(StageFailed, match="text in its header"):
        publish_stage.compress(tmp_path / "named.nii", tmp_path / "out.nii.gz")
    extended = make(image().data, image().affine)
    extended.header.extensions.append(nibabel.nifti1.Nifti1Extension(6, b"DOE^JANE"))
    nibabel.save(extended, tmp_path / "extended.nii")
    with pytest.raises(StageFailed):
        publish_stage.compress(tmp_path / "extended.nii", tmp_path / "out.nii.gz")


def test_original_headers_go_to_the_vault_and_nowhere_else(work: StageWork) -> None:
    from appliance.identity import Identities

    identities = Identities(work.home, create_keys(work.home))
    settle = settlers(work.home, identities)[Stage.CONVERT]
    (work.out / f"{SOURCE_PREFIX}FLAIR.json").write_text(json.dumps({"PatientName": "DOE^JANE"}))
    settle(work, StageResult())
    settle(work, StageResult())
    assert not list(work.out.glob("*.json"))
    for path in work.home.identified.rglob("*"):
        assert not path.is_file() or b"DOE" not in path.read_bytes()


def test_the_tree_is_written_once(work: StageWork) -> None:
    ensure_tree(work.home)
    description = work.home.bids / "dataset_description.json"
    before = description.stat().st_mtime_ns
    ensure_tree(work.home)
    assert description.stat().st_mtime_ns == before
    assert json.loads(description.read_bytes())["GeneratedBy"][0]["Version"] == software_version()
