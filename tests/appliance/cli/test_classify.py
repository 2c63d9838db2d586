"""`clinode tools classify` with a site's own names, as a stranger would try them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from appliance.cli.app import run_command
from appliance.pipeline.stages.classify import site_names
from appliance.settings import SettingsInvalid, parse_settings
from appliance.tools.series import classify_folder, trial_settings
from dicom_bridge.classify import SeriesKind
from dicom_bridge.errors import DataRefused
from tests.dicom_bridge.classify.test_study import T1, put

PLANTED = "ZZYZX PRIVATE"
NAMES = """
[imaging]
inputs = ["T1w"]

[[series.names]]
pattern = "zzyzx*"
kind = "ignore"

[[series.names]]
pattern = "*mprage"
attribute = "SeriesDescription"
kind = "T2w"
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    put(tmp_path / "dicom" / "one", 3)
    put(tmp_path / "dicom" / "one", 4, SeriesDescription=PLANTED)
    put(tmp_path / "dicom" / "two", 5, StudyInstanceUID="1.2.3", **T1)
    (tmp_path / "names.toml").write_text(NAMES)
    return tmp_path


def test_names_are_tried_without_a_node(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    settings = str(folder / "names.toml")
    assert (
        run_command(["tools", "classify", str(folder / "dicom"), "--settings", settings, "--json"])
        == 0
    )
    said = capsys.readouterr().out
    assert PLANTED not in said
    assert "zzyzx" not in said
    document = json.loads(said)
    one, two = document["studies"]
    assert [(row["series"], row["kind"]) for row in one["series"]] == [(3, "FLAIR"), (4, "ignore")]
    assert one["series"][1]["rule"] == "site-name-1"
    assert one["chosen"] == [
        {"kind": "FLAIR", "series": 3, "candidates": 1, "input": False, "why": "the only one"}
    ]
    (row,) = two["series"]
    assert (row["kind"], row["confidence"]) == ("T2w", 0.5)
    assert "which says T1w" in row["remark"]
    asked = {row["kind"]: row for row in two["chosen"]}
    assert asked["T1w"]["series"] is asked["T2w"]["series"] is None
    assert "the site's rule contradict" in asked["T1w"]["why"]


def test_the_table_for_people(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(["tools", "classify", str(folder / "dicom")]) == 0
    said = capsys.readouterr().out
    assert "study 1 of 2" in said
    assert "FLAIR: series 4: the last complete one of 2 runs (series 3, 4)" in said
    assert PLANTED not in said


def test_bad_settings_say_what_is_wrong(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(SettingsInvalid, match="cannot be read"):
        trial_settings(tmp_path / "absent.toml")
    for text, words in (
        ("[series", "not valid TOML"),
        ('[[series.names]]\npattern = "a"\nkind = "SEG"', "kind"),
        ('[[series.names]]\npattern = ""\nkind = "FLAIR"', "pattern"),
        ('[[series.names]]\npattern = "a"\nkind = "FLAIR"\nattribute = "PatientName"', "attribute"),
    ):
        bad = tmp_path / "bad.toml"
        bad.write_text(text)
        with pytest.raises(SettingsInvalid, match=words):
            trial_settings(bad)
    (tmp_path / "none").mkdir()
    with pytest.raises(DataRefused, match="no DICOM series"):
        classify_folder(tmp_path / "none", trial_settings(None))


def test_a_node_file_works_too() -> None:
    settings = parse_settings('[node]\nsite = "a"\nproject = "b"\n' + NAMES)
    first, second = site_names(settings.series)
    assert (first.kind, second.kind) == (SeriesKind.IGNORED, SeriesKind.T2W)
