"""The report that the check draws: from defaced images only, without identifiers; drawn anew."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from appliance.cli.app import run_command
from appliance.errors import ImageRefused, NotAllowed
from appliance.home import Home, create_keys
from appliance.imaging.itk import save_matrix
from appliance.imaging.qc import SiteDistribution
from appliance.imaging.volume import Volume, save_volume
from appliance.pipeline.settling import publish
from appliance.pipeline.stages import publish as publish_stage
from appliance.pipeline.stages.reporting import write_report
from appliance.pipeline.states import Stage
from appliance.pipeline.work import QC_FILE, REPORT_FILE, StageWork
from appliance.reports.files import ReportFiles, content_of
from appliance.reports.planes import Scene, three_planes
from appliance.reports.published import redraw_report
from appliance.reports.steps import acquisition, steps_of
from appliance.research import CaseFiles, erase_case
from appliance.settings import settings_from
from tests.appliance.reports.bodies import Page, ball, body
from tests.appliance.reports.test_study_report import DOCUMENT

KEY = "st000000000001"
CANARY = "DOE^JANE"
UID = "1.2.826.0.1.3680043.99.7"
FACE = (0.0, 26.0, -8.0)
WORDS = "7 attributes removed or replaced, profile abababababab"


def face_of(volume: Volume) -> np.ndarray:
    world = np.moveaxis(np.indices(volume.shape), 0, -1) + volume.affine[:3, 3]
    return ball(world, FACE, 8.0)


def study(tmp_path: Path, face: float) -> StageWork:
    """A study after `register`: with its face in `convert`, without in `deface`."""
    home = Home(tmp_path, "p")
    home.create()
    create_keys(home)
    made = body()
    where = face_of(made.image)
    images = {}
    pattern = np.where(np.indices(made.image.shape).sum(axis=0) % 2, face, face / 2)
    images["seen"] = made.image.with_data(np.where(where, pattern, made.image.data))
    images["gone"] = made.image.with_data(np.where(where, 0, made.image.data))
    out = home.study(KEY) / "stages" / "x.tmp"
    out.mkdir(parents=True)
    settings = settings_from({"node": {"site": "a", "project": "p"}})
    facts = {
        "engines": {"FLAIR": "dicom2nifti 2.6.2", "T1w": "dcm2niix 1.0"},
        "deid_series": [{"study": UID, "name": CANARY}],
        "rules": {"FLAIR": f"a\n{CANARY}"},
        "face": "deface",
        CANARY: UID,
    }
    work = StageWork(Stage.CHECK, KEY, home, home.study(KEY), out, settings, "s", "v", facts=facts)
    header = {"EchoTime": 0.09, "StationName": CANARY, "DeviceSerialNumber": UID}
    for kind in ("FLAIR", "T1w"):
        for stage, volume in ((Stage.CONVERT, images["seen"]), (Stage.DEFACE, images["gone"])):
            save_volume(volume, work.of(stage) / f"{kind}.nii")
        save_volume(made.brain, work.of(Stage.DEFACE) / f"{kind}-brain.nii")
        for stage in (Stage.DEIDENTIFY, Stage.CONVERT):
            work.of(stage).mkdir(exist_ok=True)
            (work.of(stage) / f"{kind}.json").write_text(json.dumps(header))
    save_matrix(np.eye(4), work.of(Stage.REGISTER) / "T1w.txt")
    return work


def drawn(work: StageWork) -> str:
    write_report(work, DOCUMENT, SiteDistribution({"flair_snr": [20.0 + n for n in range(9)]}, 9))
    return (work.out / REPORT_FILE).read_text(encoding="utf-8")


@pytest.fixture
def work(tmp_path: Path) -> StageWork:
    return study(tmp_path, 3000.0)


def test_the_face_is_nowhere_in_the_report(work: StageWork) -> None:
    page = Page(drawn(work))
    page.assert_sound()
    made = body()
    where = face_of(made.image).astype(np.uint8)
    cuts = three_planes(Scene.of(made.image, made.brain), height=300, width=1150)
    scene = Scene.of(made.image, made.brain)
    x = 0
    looked = 0
    for cut in cuts:
        region = scene.mask(cut, where)
        for number in (0, 2):
            tile = page.pictures("base")[number][: cut.size[1], x : x + cut.size[0]]
            inner = region.copy()
            inner[:20] = inner[-20:] = False  # letters stand there
            inner[:, :16] = inner[:, -16:] = False
            if inner.any():
                looked += 1
                assert tile[inner].mean() < 8, "what defacing took is black"
        x += cut.size[0] + 3
    assert looked >= 2, "the face lies on some of the cuts"


def test_another_face_changes_nothing(tmp_path: Path) -> None:
    one, two = study(tmp_path / "1", 3000.0), study(tmp_path / "2", 500.0)
    seen = [(w.of(Stage.CONVERT) / "FLAIR.nii").read_bytes() for w in (one, two)]
    assert seen[0] != seen[1]
    assert drawn(one) == drawn(two)


def test_the_check_with_an_eye_on_the_face_would_see_it(tmp_path: Path) -> None:
    """The tests above can fail: drawn from `convert`, the report shows the face."""
    one, two = study(tmp_path / "1", 3000.0), study(tmp_path / "2", 500.0)
    for w in (one, two):
        seen = (w.of(Stage.CONVERT) / "FLAIR.nii").read_bytes()
        (w.of(Stage.DEFACE) / "FLAIR.nii").write_bytes(seen)
    assert drawn(one) != drawn(two)


def test_no_identifier_crosses(work: StageWork) -> None:
    text = drawn(work)
    for canary in (CANARY, "DOE", UID, KEY, str(work.home.root)):
        assert canary not in text
    assert "dicom2nifti 2.6.2" in text
    assert "0.09 s" in text


def test_single_studies_of_the_site_are_not_shown(work: StageWork) -> None:
    odd = [20.0, 21.0, 22.0, 23.123456, 24.0, 25.0, 26.0, 27.0, 28.0]
    write_report(work, DOCUMENT, SiteDistribution({"flair_snr": odd}, 9))
    text = (work.out / REPORT_FILE).read_text()
    assert "23.12" not in text
    write_report(work, DOCUMENT, SiteDistribution({"flair_snr": odd[3:7]}, 4))
    assert "the site&#x27;s" not in (work.out / REPORT_FILE).read_text(), "four are too few"


def test_a_label_is_shown_as_it_will_be_published(work: StageWork) -> None:
    made = body()
    folder = work.of(Stage.CONVERT) / "labels"
    save_volume(made.label, folder / "label-1.nii")
    entry = {"File": "label-1.nii", "DrawnOn": "FLAIR", "Rater": "ab12", "Order": 1}
    (folder / "labels.json").write_text(json.dumps({"format": 1, "labels": [entry]}))
    page = Page(drawn(work))
    assert page.pictures("label")
    assert "SCT:52988006" in page.shown
    assert [path.name for path in work.out.iterdir()] == [REPORT_FILE], "nothing else stays"


def test_it_crosses_with_the_study_and_goes_with_it(work: StageWork) -> None:
    page = drawn(work)
    (work.out / QC_FILE).write_text(json.dumps(DOCUMENT))
    work.out.rename(work.of(Stage.CHECK))
    work.out.mkdir()
    publish_stage.run(replace(work, stage=Stage.PUBLISH))
    publish(work.home, work)
    files = CaseFiles("s", "v")
    lies = work.home.research / files.report()
    assert lies.read_text() == page
    before = Page(page)
    redraw_report(lies)
    after = Page(lies.read_text())
    after.assert_sound()
    for name in ("base", "brain", "edges"):
        for one, two in zip(before.pictures(name), after.pictures(name), strict=True):
            assert np.array_equal(one, two), "drawn anew from the published files"
    assert "dicom2nifti 2.6.2" in after.shown
    assert "0.09 s" in after.shown
    erase_case(work.home, files)
    assert not lies.exists()


def test_a_held_study_is_not_drawn_anew(work: StageWork) -> None:
    drawn(work)
    with pytest.raises(NotAllowed, match="ready study"):
        redraw_report(work.out / REPORT_FILE)


def test_a_study_without_register_or_mask_is_drawn(work: StageWork) -> None:
    (work.of(Stage.REGISTER) / "T1w.txt").unlink()
    for kind in ("FLAIR", "T1w"):
        (work.of(Stage.DEFACE) / f"{kind}-brain.nii").unlink()
        for stage in (Stage.DEIDENTIFY, Stage.CONVERT):
            (work.of(stage) / f"{kind}.json").unlink()
    (work.of(Stage.DEFACE) / "FLAIR.nii").unlink()
    page = Page(drawn(work))
    page.assert_sound()
    assert len(page.pictures("base")) == 2, "the T1w alone"


def test_a_stranger_draws_a_report_from_files(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made = body()
    for name, volume in (("DOE_JANE_flair", made.image), ("t1", made.image), ("m", made.brain)):
        save_volume(volume, tmp_path / f"{name}.nii.gz")
    save_volume(made.label, tmp_path / "label.nii.gz")
    save_matrix(np.eye(4), tmp_path / "t.txt")
    (tmp_path / "qc.json").write_text(json.dumps(DOCUMENT))
    out = tmp_path / "report.html"
    line = ["tools", "report", out, tmp_path / "DOE_JANE_flair.nii.gz", tmp_path / "t1.nii.gz"]
    line += ["--mask", tmp_path / "m.nii.gz", "--label", tmp_path / "label.nii.gz"]
    line += ["--transform", tmp_path / "t.txt", "--qc", tmp_path / "qc.json", "--title", "mine"]
    assert run_command([str(part) for part in line]) == 0
    page = Page(out.read_text())
    page.assert_sound()
    assert "nothing was defaced here" in page.shown
    assert "DOE" not in page.text, "names of files are not shown"
    assert page.pictures("edges")
    assert run_command([str(part) for part in [*line[:4], "--qc", tmp_path / "t.txt"]]) != 0
    assert "cannot be read as JSON" in capsys.readouterr().err


def test_too_many_masks_or_transforms_are_refused(tmp_path: Path) -> None:
    image = tmp_path / "a.nii"
    for files in (
        ReportFiles(()),
        ReportFiles((image,), masks=(image, image)),
        ReportFiles((image,), transforms=(image,)),
    ):
        with pytest.raises(ImageRefused):
            content_of(files)


def test_steps_take_known_forms_only() -> None:
    assert steps_of({}) == ()
    odd = {"engines": [CANARY], "face": "beard", "deid_actions": "7", "brain_ml": {"FLAIR": [1]}}
    assert steps_of(odd) == ()
    whole = steps_of(
        {
            "deid_actions": 7,
            "deid_profile": "ab" * 32,
            "brain_ml": {"FLAIR": 1240.5},
            "face": "none",
        }
    )
    assert dict(whole)["de-identify headers"] == WORDS
    assert dict(whole)["brain mask"] == "FLAIR 1240.5 ml"
    assert acquisition({"EchoTime": [1], "FlipAngle": True, "Manufacturer": "x\ny"}) == ()
