"""The research zone as a BIDS data set: names, persons, withdrawal, the validator, PyBIDS."""

from __future__ import annotations

import json
import subprocess
import warnings
from pathlib import Path

import numpy as np
import pytest
from pydicom import config
from pydicom.datadict import dictionary_VR, tag_for_keyword
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset

from appliance.home import Home
from appliance.imaging.volume import Volume, save_volume
from appliance.participants import OLDEST, Policy, person_of, tables
from appliance.research import (
    DERIVATIVES,
    NAMES,
    CaseFiles,
    case_files,
    ensure_tree,
    erase_case,
    sidecar,
    write_participants,
)
from tests.tools import require_tool

CASES = (CaseFiles("a1", "x"), CaseFiles("a1", "y"), CaseFiles("b2", "x"))
SIDECAR = {
    "EchoTime": 0.1,
    "RepetitionTime": 5.0,
    "InversionTime": 1.8,
    "FlipAngle": 90,
    "MagneticFieldStrength": 3,
    "Manufacturer": "Siemens",
    "ConversionSoftware": "dicom2nifti",
    "ConversionSoftwareVersion": "2.6.2",
}


def header(**values: str) -> Dataset:
    made = Dataset()
    for keyword, value in values.items():
        tag, vr = tag_for_keyword(keyword), dictionary_VR(keyword)
        assert tag is not None
        made.add(DataElement(tag, vr, value, validation_mode=config.IGNORE))
    return made


def describe(path: Path, reference: str) -> None:
    words = {
        "Description": "made by the test",
        "SpatialReference": reference,
        "Sources": [reference],
        "Type": "Brain",
    }
    sidecar(path).write_text(json.dumps(words))


def make_case(home: Home, files: CaseFiles, person: dict[str, object]) -> None:
    """One session with every kind of file of the table of names."""
    rng = np.random.default_rng(1)
    image = Volume(rng.integers(1, 900, (8, 8, 8)).astype(np.int16), np.diag([1.0, 1, 1, 1]))
    mask = image.with_data((image.data > 300).astype(np.uint8))
    for kind in ("FLAIR", "T1w"):
        save_volume(image, home.research / files.image(kind))
        sidecar(home.research / files.image(kind)).write_text(json.dumps(SIDECAR))
    reference = "bids:raw:" + files.image("FLAIR").relative_to("bids").as_posix()
    for path in (files.mask("FLAIR"), files.label(), files.rater_label("1")):
        save_volume(mask, home.research / path)
        describe(home.research / path, reference)
    for path, text in (
        (files.transform("T1w"), "#Insight Transform File V1.0\n"),
        (files.qc(), "{}"),
        (files.person(), json.dumps(person)),
    ):
        (home.research / path).parent.mkdir(parents=True, exist_ok=True)
        (home.research / path).write_text(text)


@pytest.fixture
def home(tmp_path: Path) -> Home:
    made = Home(tmp_path / "home", "research")
    ensure_tree(made)
    make_case(made, CASES[0], {"sex": "F", "age": 40})
    make_case(made, CASES[1], {"sex": "F", "age": 45})
    make_case(made, CASES[2], {"age": 30})
    write_participants(made)
    return made


def table(path: Path) -> list[list[str]]:
    return [line.split("\t") for line in path.read_text().splitlines()]


def test_what_the_policy_lets_through_of_a_person() -> None:
    person = header(PatientSex="f ", PatientBirthDate="19700615", StudyDate="20200614")
    assert person_of(person, Policy()) == {}
    assert person_of(person, Policy(("sex",))) == {"sex": "F"}
    assert person_of(person, Policy(("sex", "age"), 1)) == {"sex": "F", "age": 49}
    assert person_of(person, Policy(("age",), 5)) == {"age": 45}
    old = header(PatientAge="094Y", PatientSex="unknown")
    assert person_of(old, Policy(("sex", "age"), 1)) == {"age": OLDEST}


@pytest.mark.parametrize(
    "odd",
    [
        header(PatientBirthDate="20210101", StudyDate="20200614"),
        header(PatientBirthDate="19700231", StudyDate="20200614"),
        header(PatientAge="44"),
        header(PatientSex="DOE"),
    ],
)
def test_an_odd_value_of_a_person_does_not_cross(odd: Dataset) -> None:
    assert person_of(odd, Policy(("sex", "age"), 1)) == {}


def test_an_infant_is_zero_years_old() -> None:
    assert person_of(header(PatientAge="011M"), Policy(("age",), 1)) == {"age": 0}


def test_a_sex_that_differs_between_visits_is_not_given() -> None:
    made = tables({"sub-a": {"ses-1": {"sex": "F"}, "ses-2": {"sex": "M"}}})
    assert made[Path("participants.tsv")] == "participant_id\tsex\tsessions\nsub-a\tn/a\t2\n"


def test_nothing_of_persons_without_a_policy() -> None:
    made = tables({"sub-a": {"ses-1": {}}})
    assert list(made) == [Path("participants.tsv")]
    assert made[Path("participants.tsv")] == "participant_id\tsessions\nsub-a\t1\n"


def test_participants_and_sessions_follow_the_files(home: Home) -> None:
    assert table(home.bids / "participants.tsv") == [
        ["participant_id", "age", "sex", "sessions"],
        ["sub-a1", "40", "F", "2"],
        ["sub-b2", "30", "n/a", "1"],
    ]
    assert table(home.bids / "sub-a1" / "sub-a1_sessions.tsv") == [
        ["session_id", "age"],
        ["ses-x", "40"],
        ["ses-y", "45"],
    ]


def test_a_withdrawn_session_leaves_no_name_and_no_value(home: Home) -> None:
    erase_case(home, CASES[2])
    assert not [path for path in home.research.rglob("*") if "b2" in path.name]
    assert "b2" not in (home.bids / "participants.tsv").read_text()
    erase_case(home, CASES[1])
    assert table(home.bids / "sub-a1" / "sub-a1_sessions.tsv")[1:] == [["ses-x", "40"]]
    erase_case(home, CASES[0])
    assert not list(home.research.rglob("*a1*"))


UNAVOIDABLE = {"HEDVersion", "SourceDatasets"}
"""Events are not tagged, and a PACS is no BIDS data set."""


def issues(root: Path) -> list[tuple[str, str]]:
    """What the validator says, but for fields of a side-car that a header may not have."""
    validator = require_tool("bids-validator-deno")
    done = subprocess.run(
        [str(validator), "--format", "json", str(root)], capture_output=True, text=True, check=False
    )
    found = json.loads(done.stdout)["issues"]["issues"]
    said = [(issue["severity"], issue["code"] + " " + issue.get("subCode", "")) for issue in found]
    raw = root.name == "bids"
    return [
        (severity, words)
        for severity, words in said
        if words.split(" ")[1] not in UNAVOIDABLE
        and not (raw and words.startswith("SIDECAR_KEY_RECOMMENDED"))
    ]


@pytest.mark.integration
def test_the_validator_has_no_word_against_raw_or_derived_data(home: Home) -> None:
    for root in (home.bids, *(home.derivatives / name for name in DERIVATIVES)):
        assert issues(root) == [], root.name
    erase_case(home, CASES[0])
    assert issues(home.bids) == []


@pytest.mark.integration
def test_the_validator_would_notice_a_wrong_name(home: Home) -> None:
    image = home.research / CASES[0].image("FLAIR")
    image.rename(image.with_name(image.name.replace("FLAIR", "FLARE")))
    assert "error" in {severity for severity, _ in issues(home.bids)}


@pytest.mark.integration
def test_pybids_reads_the_data_set(home: Home) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from bids import BIDSLayout

        layout = BIDSLayout(
            home.bids, derivatives=[home.derivatives / name for name in ("labels", "masks")]
        )
        images = layout.get(suffix="FLAIR", extension=".nii.gz", scope="raw")
        assert {(i.entities["subject"], i.entities["session"]) for i in images} == {
            (files.subject, files.session) for files in CASES
        }
        assert layout.get_metadata(images[0].path)["EchoTime"] == pytest.approx(0.1)
        masks = layout.get(suffix="mask", desc="brain", space="FLAIR", scope="derivatives")
        assert len([m for m in masks if m.entities["extension"] == ".nii.gz"]) == 3
        labels = layout.get(suffix="dseg", desc="expert", extension=".nii.gz")
        assert len(labels) == 3
        people = layout.get_collections(level="dataset")[0].to_df()
        assert set(people["subject"]) == {"a1", "b2"}


def test_what_bids_has_no_place_for_lies_beside_it(home: Home) -> None:
    prostate = CaseFiles("c3", "x", "T2w")
    volume = Volume(np.ones((4, 4, 4), np.int16), np.eye(4))
    for kind in ("T2w", "ADC"):
        save_volume(volume, home.research / prostate.image(kind, beyond=True))
    assert prostate.found_image(home.research, "ADC") == home.research / prostate.image("ADC")
    assert not (home.research / prostate.image("T2w")).exists()
    assert len([p for p in case_files(home, prostate) if p.suffix == ".gz"]) == 2
    write_participants(home)
    assert "c3" not in (home.bids / "participants.tsv").read_text()
    erase_case(home, prostate)
    assert not list(home.research.rglob("*c3*"))


def test_every_name_is_below_its_data_set() -> None:
    files = CaseFiles("s", "t")
    made = {
        "image": files.image("T1w"),
        "beyond": files.image("ADC"),
        "label": files.label(),
        "rater_label": files.rater_label("2"),
        "mask": files.mask("T1w"),
        "transform": files.transform("T1w"),
        "qc": files.qc(),
        "report": files.report(),
        "person": files.person(),
    }
    assert set(made) <= set(NAMES)
    for what, path in made.items():
        assert path.as_posix().startswith(NAMES[what].root + "/sub-s/ses-t/"), what
