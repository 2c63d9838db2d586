"""The answer key: MIDI-B's ten actions on generated objects of ten kinds."""

from __future__ import annotations

import io
import re
import subprocess
from pathlib import Path

import pytest
from pydicom import dcmread

from dicom_bridge.deid import Profile, Pseudonymizer, deidentify_bytes
from dicom_bridge.errors import DataRefused
from tests.dicom_bridge.deid.answers.cohort import MAKERS, as_file, make_cohort
from tests.dicom_bridge.deid.answers.key import HIPAA, Action
from tests.dicom_bridge.deid.answers.run import PROFILE, SECRET, score_cohort
from tests.dicom_bridge.deid.answers.score import Scores
from tests.tools import require_tool

KINDS = {"MR", "CT", "PET", "US", "CR", "SC", "SR text", "SR TID 1500", "SEG", "PDF", "Enhanced MR"}


def check(scores: Scores, patients: int) -> None:
    """At least 99.9 % as expected, nothing leaked, everything clean came out, nothing burned."""
    wrong = [(v.kind, str(v.expected.action), v.expected.place, v.found) for v in scores.wrong]
    assert scores.share >= 0.999, wrong[:20]
    assert scores.over_removed <= 0.001 * len(scores.verdicts), wrong[:20]
    leaks = (Action.TEXT_REMOVED, Action.PIXELS_HIDDEN, Action.UID_CHANGED, Action.DATE_SHIFTED)
    assert [w for v, w in zip(scores.wrong, wrong, strict=True) if v.expected.action in leaks] == []
    assert scores.leaks == []
    assert scores.over_held == []
    assert scores.collisions() == 0
    assert scores.held == 3 * patients
    assert scores.out == (len(MAKERS) - 3) * patients


def test_objects_of_two_patients_are_scored_right() -> None:
    scores = score_cohort(2)
    assert {verdict.kind for verdict in scores.verdicts} == KINDS
    assert {verdict.expected.action for verdict in scores.verdicts} == set(Action)
    letters = {verdict.expected.hipaa for verdict in scores.verdicts} - {""}
    assert letters == set(HIPAA) - {"Q"}  # faces are taken out after conversion
    check(scores, 2)


@pytest.mark.long
@pytest.mark.timeout(900)
def test_objects_of_sixty_patients_are_scored_right() -> None:
    scores = score_cohort(60, seed=1)
    assert scores.files == 60 * len(MAKERS)
    check(scores, 60)


def test_the_scorer_sees_what_is_wrong() -> None:
    scores = Scores()
    answers = {(a.kind, a.variant): a for a in make_cohort(1)}
    untouched = answers["CR", "masked"]
    scores.take(untouched, as_file(untouched))
    failed = {verdict.expected.action for verdict in scores.wrong}
    assert failed == {
        *(Action.TEXT_REMOVED, Action.DATE_SHIFTED, Action.UID_CHANGED, Action.PIXELS_HIDDEN),
    }
    assert scores.leaks
    emptied = answers["MR", "clean"]
    ds = dcmread(io.BytesIO(as_file(emptied)))
    for element in list(ds):
        if element.keyword not in ("Rows", "Columns", "SamplesPerPixel", "BitsAllocated"):
            del ds[element.tag]
    buffer = io.BytesIO()
    ds.save_as(buffer)
    nothing = Scores()
    nothing.take(emptied, buffer.getvalue())
    assert nothing.over_removed > 50
    assert {v.expected.action for v in nothing.verdicts if v.passed} >= {Action.TEXT_REMOVED}
    held = Scores()
    held.take(emptied, None, "why")
    assert held.over_held == [("MR", "clean", "why")]
    scores.take(answers["SC", "burned"], None)
    assert scores.held == 1
    assert "| pixels_hidden | 1 | 0 | 0.00 % |" in scores.table()


def errors(path: Path) -> set[str]:
    """What dciodvfy calls an error, without values and item numbers."""
    command = [str(require_tool("dciodvfy")), "-new", str(path)]
    done = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
    lines = (done.stdout + done.stderr).splitlines()
    return {re.sub(r"= <[^>]*>|\[\d+\]", "", line) for line in lines if line.startswith("Error")}


@pytest.mark.integration
def test_every_kind_is_valid_before_and_after(tmp_path: Path) -> None:
    profile, pseudonymizer = Profile.load(PROFILE), Pseudonymizer(SECRET, "answers")
    for number, answer in enumerate(make_cohort(1)):
        before, after = tmp_path / f"{number}.dcm", tmp_path / f"{number}-out.dcm"
        before.write_bytes(as_file(answer))
        assert errors(before) == set(), answer.kind
        try:
            encoded = deidentify_bytes(before.read_bytes(), profile, pseudonymizer)
        except DataRefused:
            assert answer.variant == "burned"
            continue
        after.write_bytes(b"".join(encoded.parts))
        assert errors(after) == set(), answer.kind
