"""The stage `classify`: the site's names, the choice by rule, and what it says about both."""

from __future__ import annotations

from pathlib import Path

import pytest

from appliance.home import Home, create_keys
from appliance.pipeline.stages import run_stage
from appliance.pipeline.stages.selection import FILE
from appliance.pipeline.states import Stage
from appliance.pipeline.work import StageWork
from appliance.settings import settings_from
from dicom_bridge.errors import DataRefused
from tests.dicom_bridge.classify.test_study import T1, put

KEY = "st000000000001"
PLANTED = "ZZYZX PRIVATE"


@pytest.fixture
def work(tmp_path: Path) -> StageWork:
    home = Home(tmp_path, "p")
    home.create()
    create_keys(home)
    rules = [
        {"pattern": f"{PLANTED.lower()}*", "kind": "ignore"},
        {"pattern": "odd t1", "kind": "T1w"},
    ]
    settings = settings_from({"node": {"site": "a", "project": "p"}, "series": {"names": rules}})
    out = home.study(KEY) / "stages" / "x.tmp"
    out.mkdir(parents=True)
    return StageWork(Stage.CLASSIFY, KEY, home, home.study(KEY), out, settings, "s", "v")


def test_rules_and_reasons_are_facts(work: StageWork) -> None:
    put(work.received, 3, AcquisitionTime="101500")
    put(work.received, 4, AcquisitionTime="102500")
    put(work.received, 5, AcquisitionTime="103500", SeriesDescription=f"{PLANTED} 7")
    put(work.received, 6, **{**T1, "SeriesDescription": "odd t1"})
    result = run_stage(work)
    assert result.inputs == ("FLAIR", "T1w")
    assert result.facts["series_kinds"] == {"FLAIR": 2, "T1w": 1, "ignore": 1}
    assert result.facts["chosen"] == {
        "FLAIR": "the last complete one of 2 runs (series 3, 4)",
        "T1w": "the only one",
    }
    assert result.facts["rules"] == {
        "FLAIR": "fluid-attenuated+name",
        "T1w": "site-name-2+inversion-prepared-t1",
    }
    assert "4/0.dcm" in (work.out / FILE).read_text()
    assert PLANTED.lower() not in f"{result}".lower()


def test_a_rule_against_physics_sends_the_study_to_a_person(work: StageWork) -> None:
    put(work.received, 3, SeriesDescription="odd t1")
    with pytest.raises(DataRefused, match="site's rule contradict") as caught:
        run_stage(work)
    assert "odd t1" not in str(caught.value)
