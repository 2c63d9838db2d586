"""From the PACS and back: what ``clinode demo`` shows is true, looked at from outside."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import nibabel as nib
import numpy as np
import pydicom
import pytest

from dicom_bridge.convert import SourceSeries
from dicom_bridge.seg import read_seg
from federation.audit_chain import verify
from tests.system.conftest import Shown
from tests.system.leaks import headers_below, needles_of, search
from tests.tools import require_tool

pytestmark = [pytest.mark.system, pytest.mark.timeout(2700)]

HOSPITALS = ("hospital-a", "hospital-b", "hospital-c")
FAULT_WORDS = {
    "motion": ("motion", "ghost", "artefact", "noise", "SNR"),
    "cropped": ("crop", "field of view", "cut", "border"),
    "missing slice": ("slice",),
    "burned-in": ("burned",),
    "body part": ("body part", "knee", "head"),
    "truncated": ("truncat", "cut", "pixel data", "incomplete", "shorter"),
}


def test_all_of_it_came_true(shown: Shown) -> None:
    assert shown.outcome["problems"] == []
    assert shown.returncode == 0, shown.errors[-2000:]
    assert shown.outcome["ok"] is True


def test_each_hospital_came_the_whole_way(shown: Shown) -> None:
    assert [h["name"] for h in shown.outcome["hospitals"]] == list(HOSPITALS)
    for hospital in shown.outcome["hospitals"]:
        assert hospital["offered"] == hospital["fetched"] > shown.size.labelled
        assert hospital["trained"] >= shown.size.training
        assert hospital["dice_after"]["cases"] >= shown.size.held_out
        assert hospital["segs_found"] == hospital["segs_expected"] >= 1
        assert "policy" in hospital["approval"]


def test_training_really_learned(shown: Shown) -> None:
    for hospital in shown.outcome["hospitals"]:
        assert hospital["dice_before"]["mean"] < 0.1
        assert hospital["dice_after"]["mean"] >= shown.size.dice, hospital["name"]


def test_every_round_has_times_of_every_site(shown: Shown) -> None:
    rounds = shown.outcome["rounds"]
    assert [r["number"] for r in rounds] == list(range(1, shown.size.rounds + 1))
    for r in rounds:
        assert r["aggregate_s"] > 0
        assert all(s["train_s"] > 0 for s in r["sites"])
    complete = [r for r in rounds if len(r["sites"]) == len(HOSPITALS)]
    assert len(complete) >= shown.size.rounds - 2, (
        "only the killed services may cost a site its round"
    )


def test_planted_faults_are_named_in_words(shown: Shown) -> None:
    reasons = [reason.lower() for h in shown.outcome["hospitals"] for reason, _ in h["quarantined"]]
    for fault, words in FAULT_WORDS.items():
        assert any(w.lower() in r for r in reasons for w in words), f"{fault}: {reasons}"


def test_killed_services_came_back(shown: Shown) -> None:
    assert set(shown.killed) == {"hospital-b/node", "coordinator"}
    notes = " ".join(shown.outcome["notes"])
    assert "node of hospital-b was killed and started again 1 time(s)" in notes
    assert "coordinator was killed and started again 1 time(s)" in notes


def test_audit_chains_are_whole(shown: Shown) -> None:
    logs = [shown.workdir / "coordinator" / "audit.jsonl"]
    logs += [shown.workdir / name / "node" / "audit.jsonl" for name in HOSPITALS]
    for log in logs:
        found = verify(log)
        assert found.ok, found.words
        assert found.entries > 5


def test_bids_data_sets_are_valid(shown: Shown) -> None:
    validator = require_tool("bids-validator-deno")
    for name in HOSPITALS:
        bids = next((shown.workdir / name / "node" / "research").glob("*/bids"))
        done = subprocess.run(
            [str(validator), "--format", "json", str(bids)],
            capture_output=True,
            text=True,
            check=False,
        )
        issues = json.loads(done.stdout)["issues"]["issues"]
        errors = [i for i in issues if i["severity"] == "error"]
        assert errors == [], f"{name}: {errors}"
        assert len(list(bids.glob("sub-*"))) >= shown.size.labelled


def segs_of(shown: Shown) -> list[tuple[Path, list[Path]]]:
    """Every clinode SEG that the PACS gave back, with the files of its source series."""
    found = []
    for path in sorted((shown.workdir / "read-back").rglob("*.dcm")):
        header = pydicom.dcmread(path, stop_before_pixels=True)
        if header.Modality != "SEG" or "clinode" not in str(header.Manufacturer).lower():
            continue
        series = str(header.ReferencedSeriesSequence[0].SeriesInstanceUID)
        found.append((path, sorted((path.parent.parent / series).glob("*.dcm"))))
    return found


def test_every_seg_is_valid_dicom(shown: Shown) -> None:
    dciodvfy = require_tool("dciodvfy")
    segs = segs_of(shown)
    assert len(segs) >= len(HOSPITALS)
    for path, _ in segs:
        done = subprocess.run(
            [str(dciodvfy), "-new", str(path)], capture_output=True, text=True, check=False
        )
        errors = [line for line in done.stderr.splitlines() if line.startswith("Error")]
        assert errors == [], errors[:5]


def test_every_seg_carries_the_original_identity(shown: Shown) -> None:
    for path, sources in segs_of(shown):
        seg, source = pydicom.dcmread(path), pydicom.dcmread(sources[0])
        for keyword in (
            "PatientID",
            "PatientName",
            "StudyInstanceUID",
            "FrameOfReferenceUID",
            "AccessionNumber",
        ):
            if keyword in source:
                assert seg.get(keyword) == source.get(keyword), keyword
        assert "RESEARCH" in seg.SeriesDescription


def test_dcmqi_reads_the_identical_mask(shown: Shown, tmp_path: Path) -> None:
    tool = require_tool("segimage2itkimage")
    for number, (path, sources) in enumerate(segs_of(shown)):
        out = tmp_path / str(number)
        out.mkdir()
        command = [str(tool), "--inputDICOM", str(path), "--outputDirectory", str(out)]
        command += ["--outputType", "nifti"]
        subprocess.run(command, check=True, capture_output=True)
        content = read_seg(path, SourceSeries.from_files(sources))
        ours = world_points(content.segments[0].mask, np.asarray(content.affine))
        image = nib.load(next(out.glob("*.nii*")))
        theirs = world_points(np.asanyarray(image.dataobj), image.affine)
        assert ours.shape == theirs.shape
        np.testing.assert_allclose(ours, theirs, atol=1e-2)


def world_points(mask: np.ndarray, affine: np.ndarray) -> np.ndarray:  # type: ignore[type-arg]
    """Centres of the mask's voxels in RAS mm, in a fixed order."""
    points = np.argwhere(mask > 0) @ affine[:3, :3].T + affine[:3, 3]
    rounded = np.round(points, 1)
    return points[np.lexsort(rounded.T[::-1])]


def test_no_identifier_leaves_the_identified_zone(shown: Shown) -> None:
    needles = needles_of(headers_below(shown.workdir / "studies"))
    assert len(needles) > 200
    searched = [shown.capture, shown.workdir / "coordinator", shown.workdir / "coordinator.log"]
    for name in HOSPITALS:
        home = shown.workdir / name / "node"
        searched += [home / "research", home / "audit.jsonl", home / "state.sqlite"]
        searched.append(shown.workdir / name / "node.log")
    assert any(shown.capture.iterdir()), "no wire message was captured"
    planted = shown.workdir / "coordinator" / "planted.txt"
    planted.write_text(next(iter(needles)), encoding="utf-8")
    try:
        assert search([planted], needles), "the search does not find a leak planted on purpose"
    finally:
        planted.unlink()
    hits = search(searched, needles)
    assert hits == []


def test_pseudonyms_stay_in_the_hospital(shown: Shown) -> None:
    labels = {}
    for name in HOSPITALS:
        bids = next((shown.workdir / name / "node" / "research").glob("*/bids"))
        labels |= {p.name.removeprefix("sub-"): f"pseudonym of {name}" for p in bids.glob("sub-*")}
    assert len(labels) >= len(HOSPITALS) * shown.size.labelled
    assert search([shown.capture, shown.workdir / "coordinator"], labels) == []


def test_report_shows_every_hospital(shown: Shown) -> None:
    page = shown.report.read_text(encoding="utf-8")
    assert page.count("<figure>") == len(HOSPITALS)
    assert all(name in page for name in HOSPITALS)
    assert "<script" not in page


def test_real_studies_came_back_with_the_right_geometry(shown: Shown) -> None:
    if not shown.real:
        pytest.skip("shared data absent: set CLINODE_SHARED")
    rows = [s for h in shown.outcome["hospitals"] for s in h["unlabelled"] if s["source"] == "real"]
    wanted = [name for names in shown.size.real for name in names]
    assert len(rows) == len(wanted)
    outcomes = sorted(row["outcome"] for row in rows)
    # The MPRAGE has no FLAIR beside it.
    assert outcomes.count("input FLAIR missing") == wanted.count("prisma"), outcomes
    rest = [o for o in outcomes if o != "input FLAIR missing"]
    assert all(o in ("SEG in PACS", "no finding") for o in rest), outcomes
