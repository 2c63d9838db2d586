"""Studies that fail on purpose fail for the reason they should."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pydicom
import pytest

from appliance.demo.phantom import Fault, PhantomStudy, Severity, WrittenStudy, write_study
from appliance.demo.phantom.burn import draw_text
from appliance.demo.phantom.headers import study_uid
from dicom_bridge.convert import SourceSeries, convert_series
from dicom_bridge.errors import DataRefused
from tests.appliance.phantom.conftest import StudyOf


def background(study: PhantomStudy) -> float:
    """Mean signal of the FLAIR far from the head, over white matter's."""
    data = study.flair.data.astype(np.float64)
    edge = np.ones(data.shape, dtype=bool)
    edge[8:-8, 8:-8] = False
    brain = data[study.brain.data > 0]
    return float(data[edge].mean() / np.median(brain))


def test_motion_spreads_ghosts_and_blurs(study_of: StudyOf) -> None:
    clean, moved = study_of(), study_of(fault=Fault.MOTION)
    assert np.array_equal(clean.lesions.data, moved.lesions.data)
    assert background(moved) > 1.4 * background(clean)
    brain = clean.brain.data > 0

    def detail(study: PhantomStudy) -> float:
        data = study.flair.data.astype(np.float64)
        step = np.abs(np.diff(data, axis=0))[brain[1:]]
        return float(np.percentile(step, 99) / np.median(data[brain]))

    assert detail(moved) < 0.9 * detail(clean)


@pytest.mark.parametrize("style", ["philips", "siemens"])
def test_a_cropped_field_of_view_cuts_the_brain(study_of: StudyOf, style: str) -> None:
    whole, cut = study_of(style), study_of(style, fault=Fault.CROPPED)
    borders = cut.brain.data[:, :, [0, -1]]
    assert borders.sum() * cut.brain.voxel_ml > 5.0
    assert cut.brain.data.sum() < 0.9 * whole.brain.data.sum()


def test_a_slice_is_missing(study_of: StudyOf, tmp_path: Path) -> None:
    study = study_of(fault=Fault.MISSING_SLICE)
    written = write_study(study, tmp_path, segmentation=True)
    assert len(written.flair) == study.flair.shape[2] - 1
    assert len(written.t1w) == study.t1w.shape[2]
    assert written.segmentation is not None
    assert all(path.exists() for path in written.files)
    with pytest.raises(DataRefused):
        SourceSeries.from_files(written.flair)


def test_the_name_is_in_the_pixels(study_of: StudyOf, tmp_path: Path) -> None:
    study = study_of("ge", fault=Fault.BURNED_IN_NAME)
    written = write_study(study, tmp_path, segmentation=False)
    dots = draw_text(study.identity.patient_name.replace("^", " "))
    dataset = pydicom.dcmread(written.flair[7])
    assert dataset.BurnedInAnnotation == "YES"
    corner = dataset.pixel_array.T[4 : 4 + dots.shape[0], 4:11]
    bright = corner > 0.5 * corner.max()
    assert np.array_equal(bright, dots[: bright.shape[0]])
    assert dots.sum() > 100


def test_clean_studies_say_nothing_of_burned_in_text(written: WrittenStudy) -> None:
    assert pydicom.dcmread(written.flair[0]).get("BurnedInAnnotation", "NO") == "NO"


def test_the_wrong_body_part_looks_and_reads_like_a_knee(study_of: StudyOf, tmp_path: Path) -> None:
    study = study_of(fault=Fault.WRONG_BODY_PART)
    written = write_study(study, tmp_path, segmentation=True)
    assert written.segmentation is None
    assert not study.brain.data.any()
    for path in (written.flair[0], written.t1w[0]):
        dataset = pydicom.dcmread(path, stop_before_pixels=True)
        assert dataset.BodyPartExamined == "KNEE"
        assert "KNEE" in dataset.StudyDescription
        assert "knee" in dataset.SeriesDescription
    middle = study.t1w.data[:, :, study.t1w.shape[2] // 2]
    assert middle[middle.shape[0] // 2, middle.shape[1] // 2] > 4 * np.median(middle[:8, :8])


def test_pixels_end_early(study_of: StudyOf, tmp_path: Path) -> None:
    study = study_of(fault=Fault.TRUNCATED)
    written = write_study(study, tmp_path / "dicom", segmentation=True)
    assert len(written.flair) == study.flair.shape[2]
    assert written.segmentation is not None
    sizes = []
    for path in written.flair:
        dataset = pydicom.dcmread(path)
        sizes.append(len(dataset.PixelData) / (dataset.Rows * dataset.Columns * 2))
    assert sorted(sizes)[0] < 0.5
    assert sorted(sizes)[1] == 1.0
    with pytest.raises(DataRefused):
        convert_series(written.flair, tmp_path / "out.nii.gz", work=tmp_path / "work")


def test_letters_differ() -> None:
    letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-"
    shapes = {draw_text(letter).tobytes() for letter in letters}
    assert len(shapes) == len(letters)
    assert np.array_equal(draw_text("ö"), draw_text("O"))


@pytest.mark.long
def test_faults_come_in_three_severities(study_of: StudyOf) -> None:
    clean = study_of()
    moved = [study_of(fault=Fault.MOTION, severity=severity) for severity in Severity]
    levels = [background(study) for study in (clean, *moved)]
    assert levels == sorted(levels)
    assert len(set(levels)) == 4
    cut = [study_of(fault=Fault.CROPPED, severity=severity) for severity in Severity]
    volumes = [int(study.brain.data.sum()) for study in (clean, *cut)]
    assert volumes == sorted(volumes, reverse=True)
    assert len(set(volumes)) == 4
    uids = {study_uid(study.request, "study") for study in (clean, *moved, *cut)}
    assert len(uids) == 7


@pytest.mark.parametrize("severity", list(Severity))
@pytest.mark.parametrize("fault", [Fault.MISSING_SLICE, Fault.TRUNCATED])
def test_broken_files_are_refused_at_every_severity(
    study_of: StudyOf, tmp_path: Path, fault: Fault, severity: Severity
) -> None:
    study = study_of(fault=fault, severity=severity)
    written = write_study(study, tmp_path / "dicom", segmentation=False)
    lost = {Severity.MILD: 1, Severity.MEDIUM: 1, Severity.SEVERE: 5}[severity]
    gone = study.flair.shape[2] - len(written.flair)
    assert gone == (lost if fault is Fault.MISSING_SLICE else 0)
    with pytest.raises(DataRefused):
        convert_series(written.flair, tmp_path / "out.nii.gz", work=tmp_path / "work")


def test_mild_faults_of_identity_and_body_part_hide_from_the_header(
    study_of: StudyOf, tmp_path: Path
) -> None:
    named = study_of(fault=Fault.BURNED_IN_NAME, severity=Severity.MILD)
    written = write_study(named, tmp_path / "named", segmentation=False)
    assert pydicom.dcmread(written.flair[0]).get("BurnedInAnnotation", "NO") == "NO"
    knee = study_of(fault=Fault.WRONG_BODY_PART, severity=Severity.MILD)
    written = write_study(knee, tmp_path / "knee", segmentation=False)
    header = pydicom.dcmread(written.flair[0], stop_before_pixels=True)
    assert header.BodyPartExamined == "BRAIN"
    assert "knee" not in str(header).lower()
    assert not knee.brain.data.any()
