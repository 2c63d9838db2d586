"""Masks of a custodian's table over a node's state and vault."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from appliance.errors import NotAllowed
from appliance.identity import REFUSAL
from appliance.labels.consensus import dice
from appliance.labels.importing import FOLDER, Imported, ImportOptions
from appliance.labels.keeping import FreshLabel
from appliance.pipeline.pool import WorkerPool
from appliance.pipeline.states import Event, State
from appliance.research import CaseFiles
from appliance.store import Member
from tests.appliance.core.test_bids import issues
from tests.appliance.core.values import MATCH
from tests.appliance.labels.site import FLAIR, MOTION, PATIENTS, T1, ball, site, write_mask

UIDS = "mask,StudyInstanceUID,SeriesInstanceUID,rater\n"
CENTRE = (3.0, 2.0, 1.0)
MOVED = tuple(float(v) for v in np.array(CENTRE) + MOTION[:3, 3])


def outcomes(rows: list[Imported]) -> list[str]:
    return [row.outcome for row in rows]


def test_every_way_of_naming_a_study_and_series(tmp_path: Path) -> None:
    mask = write_mask(tmp_path / "m.nii.gz", ball(FLAIR, CENTRE, 6.0), FLAIR)
    with site(tmp_path / "home") as here:
        studies = [here.add(match) for match in PATIENTS]
        key = studies[0].study_key
        tables = (
            f"{UIDS}m.nii.gz,1.2.3,1.2.3.1,A\n",
            "mask;PatientID;StudyDate;modality\nm.nii.gz;P1;2026-01-01;flair\n",
            f"mask\tstudy\tmodality\n{mask}\t{key}\tFLAIR\n",
            f"mask,study,modality\n{mask},{key[:8]},FLAIR\n",
            f"mask,study,modality\n{mask},{studies[0].case},FLAIR\n",
            f"mask,study,PatientID,SeriesInstanceUID,modality\n{mask},{key},P1,1.2.3.1,FLAIR\n",
        )
        for text in tables:
            (row,) = here.run(text, tmp_path)
            assert (row.outcome, row.study, row.modality) == ("taken", key, "FLAIR"), row
        assert np.array_equal(here.label(studies[0]), nib.load(mask).dataobj)
        assert here.state.studies.get(key).labelled
        assert not here.state.studies.get(studies[1].study_key).labelled
        assert not (here.home.identified / FOLDER).exists()
        volume = float(np.count_nonzero(nib.load(mask).dataobj)) * 3 / 1000
        assert (row.lesions, row.volume_ml) == (1, pytest.approx(volume, abs=1e-4))


def test_a_label_of_the_t1_goes_to_the_flair_by_the_registration(tmp_path: Path) -> None:
    fine = replace(T1, shape=(80, 80, 80), affine=T1.affine @ np.diag([0.55, 0.55, 0.55, 1.0]))
    write_mask(tmp_path / "fine.nii", ball(fine, MOVED, 6.0).astype(np.float32), fine)
    with site(tmp_path / "home") as here:
        study = here.add(MATCH)
        (row,) = here.run(f"{UIDS}fine.nii,1.2.3,1.2.3.2,A\n", tmp_path)
        assert (row.outcome, row.modality) == ("taken", "T1w")
        assert "resampled" in " ".join(row.notes)
        assert "carried from the T1w" in " ".join(row.notes)
        truth = ball(FLAIR, CENTRE, 6.0)
        assert dice(here.label(study) > 0, truth > 0) > 0.95
        raters = here.home.research / "derivatives" / "raters"
        (document,) = [json.loads(p.read_bytes()) for p in raters.rglob("*_dseg.json")]
        assert (document["Form"], document["DrawnOn"]) == ("NIfTI", "T1w")
        assert document["LabelMap"] == {"1": "SCT:52988006", "3": "SCT:1"}


def test_what_is_refused_is_refused_row_by_row_with_its_reason(tmp_path: Path) -> None:
    write_mask(tmp_path / "good.nii", ball(FLAIR, CENTRE, 5.0), FLAIR)
    write_mask(tmp_path / "far.nii", ball(FLAIR, CENTRE, 5.0), replace(FLAIR, affine=T1.affine * 3))
    write_mask(tmp_path / "seven.nii", ball(FLAIR, CENTRE, 5.0, 7), FLAIR)
    write_mask(tmp_path / "half.nii", ball(FLAIR, CENTRE, 5.0).astype(np.float32) / 2, FLAIR)
    write_mask(tmp_path / "four.nii", np.zeros((4, 4, 4, 2), np.uint8), FLAIR)
    (tmp_path / "broken.nii.gz").write_bytes(b"\x1f\x8b" + b"0" * 40)
    (tmp_path / "text.txt").write_text("no mask")
    unset = nib.Nifti1Image(ball(FLAIR, CENTRE, 5.0), FLAIR.affine)
    unset.set_sform(FLAIR.affine, 0)
    unset.set_qform(None, 0)
    nib.save(unset, tmp_path / "unset.nii")
    two = nib.Nifti1Image(ball(FLAIR, CENTRE, 5.0), FLAIR.affine)
    two.set_sform(FLAIR.affine, 1)
    two.set_qform(T1.affine, 1)
    nib.save(two, tmp_path / "two.nii")
    cases = {
        "good.nii,1.2.3,1.2.3.1,A": "",
        "far.nii,1.2.3,1.2.3.1,B": "lie outside the FLAIR",
        "seven.nii,1.2.3,1.2.3.1,B": "not mapped: 7",
        "half.nii,1.2.3,1.2.3.1,B": "no whole numbers",
        "four.nii,1.2.3,1.2.3.1,B": "three-dimensional",
        "broken.nii.gz,1.2.3,1.2.3.1,B": "cannot be read",
        "text.txt,1.2.3,1.2.3.1,B": "no NIfTI",
        "absent.nii,1.2.3,1.2.3.1,B": "does not exist",
        "unset.nii,1.2.3,1.2.3.1,B": "no orientation",
        "two.nii,1.2.3,1.2.3.1,B": "sform and qform disagree",
        "good.nii,1.2.99,1.2.3.1,B": "no study of this node",
        "good.nii,1.2.3,1.2.3.7,B": "none of the study's inputs",
        "good.nii,1.2.4,1.2.4.1,C": "import again once it is ready",
    }
    lines = [*cases, "good.nii,1.2.3,1.2.3.1,A"]
    with site(tmp_path / "home") as here:
        here.add(MATCH)
        here.add(PATIENTS[1], until=State.RECEIVED)
        rows = here.run(UIDS + "\n".join(lines), tmp_path)
        for row, words in zip(rows, [*cases.values(), "line 2 gives"], strict=True):
            assert (row.outcome == "taken") == (words == ""), row
            assert words in row.reason, row
        raters = list((here.home.derivatives / "raters").rglob("*.nii.gz"))
        assert len(raters) == 1
        with pytest.raises(NotAllowed, match="names no study"):
            here.run("mask,modality\nx,FLAIR\n", tmp_path)


def test_values_are_mapped_and_columns_must_agree(tmp_path: Path) -> None:
    write_mask(tmp_path / "m.nii", ball(FLAIR, CENTRE, 5.0, 7), FLAIR)
    head = "mask,StudyInstanceUID,PatientID,StudyDate,modality,SeriesInstanceUID,values\n"
    lines = {
        "m.nii,1.2.3,P2,20260101,FLAIR,,7=3": "another PatientID",
        "m.nii,1.2.3,P1,20260102,FLAIR,,7=3": "another StudyDate",
        "m.nii,1.2.3,,,T2w,,7=3": "no input of this modality",
        "m.nii,1.2.3,,,T1w,1.2.3.1,7=3": "the study's FLAIR",
        "m.nii,1.2.3,,,FLAIR,,7=2": "mapped to 2",
        "m.nii,,P2,20260102,FLAIR,,7=3": "several",
        "m.nii,,P9,20260102,FLAIR,,7=3": "no study",
        "m.nii,1.2.3,P1,20260101,FLAIR,,7=3": "",
    }
    twin = replace(PATIENTS[1], StudyInstanceUID="1.2.6")
    with site(tmp_path / "home") as here:
        study = here.add(MATCH)
        for match in (PATIENTS[1], twin):
            here.add(match)
        rows = here.run(head + "\n".join(lines), tmp_path)
        for row, words in zip(rows, lines.values(), strict=True):
            assert (row.outcome == "taken") == (words == ""), row
            assert words in row.reason, row
        assert set(np.unique(here.label(study))) == {0, 3}


def test_a_withdrawn_patients_mask_is_refused(tmp_path: Path) -> None:
    write_mask(tmp_path / "m.nii", ball(FLAIR, CENTRE, 5.0), FLAIR)
    with site(tmp_path / "home") as here:
        study = here.add(MATCH)
        here.state.studies.apply(study.study_key, Event.WITHDRAW, reason="asked")
        (row,) = here.run(f"mask,study,modality\nm.nii,{study.study_key},FLAIR\n", tmp_path)
        assert (row.outcome, row.reason) == ("refused", REFUSAL)
        here.identities.forget_patient([study.study_key])
        by_uid = f"{UIDS}m.nii,1.2.3,1.2.3.1,A\n"
        by_patient = "mask,PatientID,StudyDate,modality\nm.nii,P1,20260101,FLAIR\n"
        for text in (by_uid, by_patient):
            (row,) = here.run(text, tmp_path)
            assert (row.outcome, row.reason) == ("refused", REFUSAL)


def test_an_empty_or_doubtful_mask_waits_for_a_person(tmp_path: Path) -> None:
    write_mask(tmp_path / "empty.nii", np.zeros(FLAIR.shape, np.uint8), FLAIR)
    write_mask(tmp_path / "skull.nii", ball(FLAIR, (0.0, -23.0, 0.0), 3.0), FLAIR)
    head = "mask,StudyInstanceUID,modality,accept\n"
    with site(tmp_path / "home") as here:
        study = here.add(MATCH)
        rows = here.run(f"{head}empty.nii,1.2.3,FLAIR,\nskull.nii,1.2.4,FLAIR,empty\n", tmp_path)
        assert outcomes(rows) == ["review", "refused"]
        here.add(PATIENTS[1])
        rows = here.run(f"{head}skull.nii,1.2.4,FLAIR,empty\n", tmp_path)
        assert "outside the brain" in rows[0].reason
        assert not here.state.studies.get(study.study_key).labelled
        told = [event.action for event in here.state.activity.select()]
        assert told.count("study.label_review") == 2
        rows = here.run(f"{head}empty.nii,1.2.3,FLAIR,empty\n", tmp_path)
        assert outcomes(rows) == ["taken"]
        assert not here.label(study).any()
        assert here.state.studies.get(study.study_key).labelled, "a true negative is a label"
        rows = here.run(
            f"{head}skull.nii,1.2.4,FLAIR,\n", tmp_path, ImportOptions(frozenset({"doubtful"}))
        )
        assert outcomes(rows) == ["taken"]


def test_a_dry_run_keeps_nothing(tmp_path: Path) -> None:
    write_mask(tmp_path / "m.nii", ball(FLAIR, CENTRE, 5.0), FLAIR)
    with site(tmp_path / "home") as here:
        study = here.add(MATCH)
        before = sorted(here.home.root.rglob("*"))
        (row,) = here.run(f"{UIDS}m.nii,1.2.3,1.2.3.1,A\n", tmp_path, ImportOptions(dry_run=True))
        assert row.outcome == "fits"
        assert sorted(here.home.root.rglob("*")) == before
        assert not here.state.studies.get(study.study_key).labelled
        assert here.audited == []


def fresh(folder: Path, radius: float, rater: str) -> FreshLabel:
    path = write_mask(folder / f"{rater}.nii", ball(FLAIR, CENTRE, radius), FLAIR)
    return FreshLabel(path, rater, "SEG", "FLAIR", 1)


def test_several_raters_agree_by_the_sites_rule_and_a_later_label_counts(tmp_path: Path) -> None:
    for number, radius in enumerate((5.0, 6.0, 9.0), start=1):
        write_mask(tmp_path / f"{number}.nii", ball(FLAIR, CENTRE, radius), FLAIR)
    text = UIDS + "".join(f"{n}.nii,1.2.3,1.2.3.1,rater {n}\n" for n in (1, 2, 3))
    with site(tmp_path / "home", consensus="majority") as here:
        study = here.add(MATCH)
        assert outcomes(here.run(text, tmp_path)) == ["taken"] * 3
        assert np.array_equal(here.label(study), ball(FLAIR, CENTRE, 6.0))
        found = here.document(study)["Consensus"]
        assert (found["Rule"], found["Asked"], len(found["Raters"])) == ("majority", "majority", 3)
        assert 0 < found["LeastDice"] < found["MeanDice"] < 1
        words = here.keeper.keep(study, [fresh(tmp_path, 9.0, "rater 1")], tmp_path / "x")
        assert words == "taken as the study's label"
        assert np.array_equal(here.label(study), ball(FLAIR, CENTRE, 9.0)), "two of three now"
        assert len(here.document(study)["Consensus"]["Raters"]) == 3
    with site(tmp_path / "other") as here:
        study = here.add(MATCH)
        here.run(text, tmp_path)
        assert np.array_equal(here.label(study), ball(FLAIR, CENTRE, 9.0)), "the newest"
        assert here.document(study)["Consensus"]["Rule"] == "newest"


def test_a_frozen_data_set_stays_as_it_is(tmp_path: Path) -> None:
    write_mask(tmp_path / "m.nii", ball(FLAIR, CENTRE, 5.0), FLAIR)
    with site(tmp_path / "home") as here:
        study = here.add(MATCH)
        member = Member(study.study_key, study.case, "infer", False, ("FLAIR",), "")
        here.state.datasets.create("a")
        here.state.datasets.freeze("a", [member], content_hash="1" * 64, splits={})
        (row,) = here.run(f"{UIDS}m.nii,1.2.3,1.2.3.1,A\n", tmp_path)
        assert row.outcome == "kept"
        assert "frozen" in row.reason
        files = CaseFiles(study.subject, study.session)
        assert not (here.home.research / files.label()).exists()
        assert len(list((here.home.derivatives / "raters").rglob("*.nii.gz"))) == 1


def test_no_identifier_leaves_the_table(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    secret = "GEHEIM-4711"
    write_mask(tmp_path / f"{secret}.nii", ball(FLAIR, CENTRE, 5.0), FLAIR)
    match = replace(MATCH, PatientID=secret)
    head = "mask,PatientID,StudyDate,modality,rater\n"
    lines = (
        f"{secret}.nii,{secret},20260101,FLAIR,{secret}\n"
        f"absent-{secret}.nii,{secret},20260101,FLAIR,B\n{secret}.nii,{secret}x,20260101,FLAIR,\n"
    )
    with site(tmp_path / "home") as here:
        here.add(match)
        rows = here.run(head + lines, tmp_path)
        assert outcomes(rows) == ["taken", "refused", "refused"]
        assert secret not in repr(rows)
        events = json.dumps([str(event) for event in here.state.activity.select()])
        assert secret not in events
        for path in here.home.root.rglob("*"):
            assert secret not in path.name
            if path.is_file():
                assert secret.encode() not in path.read_bytes()
    said = capfd.readouterr()
    assert secret not in said.out + said.err + caplog.text


@pytest.mark.integration
def test_in_a_real_worker_process(tmp_path: Path) -> None:
    write_mask(tmp_path / "m.nii", ball(FLAIR, CENTRE, 5.0), FLAIR)
    pool = WorkerPool(workers=1, threads=1)
    try:
        with site(tmp_path / "home", pool) as here:
            here.add(MATCH)
            rows = here.run(f"{UIDS}m.nii,1.2.3,1.2.3.1,A\nx.nii,1.2.3,1.2.3.1,B\n", tmp_path)
            assert outcomes(rows) == ["taken", "refused"]
    finally:
        pool.close()


@pytest.mark.integration
def test_the_validator_has_no_word_against_the_labels(tmp_path: Path) -> None:
    for number, radius in enumerate((5.0, 6.0), start=1):
        write_mask(tmp_path / f"{number}.nii", ball(FLAIR, CENTRE, radius), FLAIR)
    with site(tmp_path / "home") as here:
        here.add(MATCH)
        here.run(UIDS + "".join(f"{n}.nii,1.2.3,1.2.3.1,r{n}\n" for n in (1, 2)), tmp_path)
        for name in ("labels", "raters"):
            assert issues(here.home.derivatives / name) == []
