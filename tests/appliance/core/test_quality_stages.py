"""Geometry before the expensive stages, and the check on a study's files."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from appliance.errors import ImageRefused
from appliance.home import Home, create_keys
from appliance.imaging.alignment import Alignment
from appliance.imaging.qc import Metric, QcReport, report_from_json, report_json
from appliance.imaging.volume import Volume, save_volume
from appliance.pipeline.stages import check, run_stage
from appliance.pipeline.stages.deface import read_alignment, write_alignment
from appliance.pipeline.stages.geometry import protocol_of, refuse_geometry
from appliance.pipeline.states import Stage
from appliance.pipeline.work import QC_FILE, StageWork
from appliance.research import CaseFiles
from appliance.settings import Settings, settings_from
from tests.appliance.imaging.test_qc import head

KEY = "st000000000001"


def settings(**sections: object) -> Settings:
    return settings_from({"node": {"site": "a", "project": "p"}, **sections})


def work_of(tmp_path: Path, stage: Stage, chosen: Settings) -> StageWork:
    home = Home(tmp_path, "p")
    home.create()
    create_keys(home)
    out = home.study(KEY) / "stages" / "x.tmp"
    out.mkdir(parents=True, exist_ok=True)
    return StageWork(stage, KEY, home, home.study(KEY), out, chosen, "s", "v")


def put(work: StageWork, stage: Stage, name: str, volume: Volume) -> None:
    work.of(stage).mkdir(parents=True, exist_ok=True)
    save_volume(volume, work.of(stage) / name)


def test_a_hopeless_geometry_stops_before_the_brain_is_looked_for(tmp_path: Path) -> None:
    """The image holds no head at all: had the mask been tried, the reason would be another."""
    work = work_of(tmp_path, Stage.DEFACE, settings())
    few = Volume(np.ones((128, 128, 3), np.int16), np.diag([1.5, 1.5, 5.0, 1.0]))
    put(work, Stage.CONVERT, "FLAIR.nii", few)
    with pytest.raises(ImageRefused, match="geometry of the FLAIR: the image has 3 x 128 x 128"):
        run_stage(work)


def test_the_protocol_of_the_settings_decides(tmp_path: Path) -> None:
    image = Volume(np.ones((128, 128, 40), np.int16), np.diag([1.5, 1.5, 4.0, 1.0]))
    declared = {"spacing_mm": [1, 1, 1], "mismatch": "fail", "matrix": [50, 64, 64]}
    for qc, words in (
        ({}, None),
        ({"voxel_size_mm": [0.5, 3.0]}, "outside of the allowed 0.5 to 3 mm"),
        ({"protocol": {"FLAIR": declared}}, "at least 50 x 64 x 64 are needed"),
        ({"protocol": {"FLAIR": {"spacing_mm": [4, 1.5, 1.5]}}}, None),
        ({"protocol": {"T1w": declared}}, None),
    ):
        work = work_of(tmp_path, Stage.DEFACE, settings(qc=qc))
        put(work, Stage.CONVERT, "FLAIR.nii", image)
        if words is None:
            refuse_geometry(work)
            continue
        with pytest.raises(ImageRefused, match=words):
            refuse_geometry(work)


def test_other_body_parts_are_bounded_by_the_site_alone() -> None:
    other = settings(imaging={"body_part": "other", "reference": "T2w", "inputs": ["T2w"]})
    protocol = protocol_of(other, "T2w")
    assert not protocol.head
    assert protocol.matrix == (3, 16, 16)
    assert protocol_of(settings(), "T2w").head


def test_the_atlas_is_kept_with_the_mask(tmp_path: Path) -> None:
    write_alignment(Alignment(np.diag([1.1, 1.0, 0.9, 1.0]), 1.3, 0.99), tmp_path / "a.json")
    found = read_alignment(tmp_path / "a.json")
    assert found is not None
    assert found.score == 1.3
    assert found.matrix[0, 0] == 1.1
    assert read_alignment(tmp_path / "b.json") is None


def publish_others(work: StageWork, count: int, value: float) -> None:
    """Reports of other ready studies of the site."""
    for number in range(count):
        files = CaseFiles(f"other{number}", "v")
        path = work.home.research / files.qc()
        path.parent.mkdir(parents=True, exist_ok=True)
        metric = Metric("flair_snr", value + number, "ratio", "higher")
        path.write_text(json.dumps(report_json(QcReport((metric,), "pass"))))


def checked(work: StageWork) -> QcReport:
    image, brain = head()
    put(work, Stage.CONVERT, "FLAIR.nii", image)
    put(work, Stage.DEFACE, "FLAIR-brain.nii", brain)
    check.run(work)
    return report_from_json(json.loads((work.out / QC_FILE).read_bytes()))


def test_the_check_judges_by_bounds_and_by_the_sites_own_studies(tmp_path: Path) -> None:
    work = work_of(tmp_path, Stage.CHECK, settings(qc={"site": {"least": 10}}))
    alone = checked(work)
    assert alone.decision == "pass", alone.reasons
    assert alone.site_studies == 0
    publish_others(work, 12, 500.0)
    among = checked(work)
    assert among.site_studies == 12
    assert among.decision == "review"
    assert "unlike this site's other studies" in among.reasons[0]
    strict = settings(qc={"thresholds": {"flair_snr": ["off", 900.0]}, "site": {"z": 0}})
    refused = checked(work_of(tmp_path, Stage.CHECK, strict))
    assert refused.decision == "fail"
    assert [found.metric for found in refused.findings] == ["flair_snr"]
