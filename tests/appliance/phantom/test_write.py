"""Studies and cohorts on disk."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.uid import ExplicitVRLittleEndian, MRImageStorage

from appliance.demo.phantom import (
    EXPERT,
    STYLES,
    CohortRequest,
    Fault,
    PhantomRefused,
    PhantomRequest,
    WrittenStudy,
    write_cohort,
    write_study,
)
from appliance.demo.phantom.headers import study_uid
from appliance.imaging.volume import load_volume
from dicom_bridge.convert import SourceSeries, convert_series
from dicom_bridge.seg import ExpertPolicy, is_expert, read_seg
from tests.appliance.phantom.conftest import StudyOf, WrittenOf
from tests.studies import raw_ms_pairs, write_raw_ms_study
from tests.tools import require_tool

LESION = ExpertPolicy(codes=frozenset({("SCT", "52988006")}), creators=frozenset({EXPERT}))


def everything(path: Path) -> str:
    """All text of a data set, nested and private elements included."""
    return str(pydicom.dcmread(path, stop_before_pixels=True)) + path.read_bytes().decode("latin-1")


@pytest.mark.parametrize("style", sorted(STYLES))
def test_headers_are_the_makers_and_the_series_belong_together(
    study_of: StudyOf, written_of: WrittenOf, style: str
) -> None:
    study, scanner, written = study_of(style), STYLES[style], written_of(style)
    assert set(written.files) - {written.segmentation} == {*written.flair, *written.t1w}
    sets = [pydicom.dcmread(p, stop_before_pixels=True) for p in (*written.flair, *written.t1w)]
    assert {d.StudyInstanceUID for d in sets} == {written.StudyInstanceUID}
    assert len({d.FrameOfReferenceUID for d in sets}) == 1
    assert len({d.SeriesInstanceUID for d in sets}) == 2
    assert len({d.SOPInstanceUID for d in sets}) == len(sets)
    first = sets[0]
    assert first.SOPClassUID == MRImageStorage
    assert first.file_meta.TransferSyntaxUID == ExplicitVRLittleEndian
    assert first.Manufacturer == scanner.manufacturer
    assert first.ManufacturerModelName == scanner.model
    assert float(first.MagneticFieldStrength) == scanner.field_t
    flair = pydicom.dcmread(written.flair[0], stop_before_pixels=True)
    assert float(flair.InversionTime) > 1700
    assert float(flair.EchoTime) > 100
    assert str(flair.PatientName) == study.identity.patient_name


@pytest.mark.parametrize("style", sorted(STYLES))
def test_dciodvfy_finds_no_error(written_of: WrittenOf, style: str) -> None:
    tool = require_tool("dciodvfy")
    written = written_of(style)
    assert written.segmentation is not None
    for path in (written.flair[0], written.flair[-1], written.t1w[9], written.segmentation):
        done = subprocess.run([str(tool), str(path)], capture_output=True, text=True, check=False)
        said = done.stdout + done.stderr
        assert "Error" not in said
        assert "MRImage" in said or "Segmentation" in said


def test_conversion_gives_the_images_back(
    written: WrittenStudy, study_of: StudyOf, tmp_path: Path
) -> None:
    study = study_of()
    for files, source, name in (
        (written.flair, study.flair, "flair"),
        (written.t1w, study.t1w, "t1w"),
    ):
        converted = convert_series(files, tmp_path / f"{name}.nii.gz", work=tmp_path / name)
        image = load_volume(converted.image)
        for corner in ((0, 0, 0), (10, 3, 7), (source.shape[0] - 1, 20, source.shape[2] - 1)):
            world = source.affine @ np.array([*corner, 1.0])
            index = np.rint(np.linalg.inv(image.affine) @ world)[:3].astype(int)
            there = image.affine @ np.array([*index, 1.0])
            assert np.abs(there - world).max() < 0.01
            value = float(source.data[corner]) * study.rescale[name]
            assert float(image.data[tuple(index)]) == pytest.approx(value, rel=1e-4, abs=1e-3)


def test_the_experts_outline_reads_back(written: WrittenStudy, study_of: StudyOf) -> None:
    assert written.segmentation is not None
    source = SourceSeries.from_files(written.flair)
    content = read_seg(written.segmentation, source)
    (segment,) = content.segments
    expected = study_of().lesions
    assert segment.algorithm_type == "MANUAL"
    index = np.argwhere(segment.mask) @ content.affine[:3, :3].T + content.affine[:3, 3]
    back = (index - expected.affine[:3, 3]) @ np.linalg.inv(expected.affine[:3, :3]).T
    found = np.zeros(expected.shape, dtype=np.uint8)
    found[tuple(np.rint(back).astype(int).T)] = 1
    assert np.array_equal(found, expected.data)
    good, _ = is_expert(written.segmentation, LESION)
    assert good
    bad, reason = is_expert(
        written.segmentation, ExpertPolicy(LESION.codes, frozenset({"SOMEBODY^ELSE"}))
    )
    assert not bad
    assert reason


def test_every_planted_identifier_is_in_the_headers(written: WrittenStudy) -> None:
    text = everything(written.flair[0]) + everything(written.t1w[0])
    for kind, values in written.planted.items():
        for value in values:
            assert value in text, kind
    assert not any(
        value in str(path.relative_to(written.folder))
        for path in written.files
        for values in written.planted.values()
        for value in values
    )
    assert "planted" not in repr(written)
    assert written.planted["names"][0] not in repr(written)


def test_the_same_study_is_written_byte_for_byte_again(
    written: WrittenStudy, study_of: StudyOf, tmp_path: Path
) -> None:
    again = write_study(study_of(), tmp_path, segmentation=True)
    for one, two in zip(written.files[:-1], again.files[:-1], strict=True):
        assert one.read_bytes() == two.read_bytes()
    assert again.segmentation is not None
    assert written.segmentation is not None
    first, second = (pydicom.dcmread(p) for p in (written.segmentation, again.segmentation))
    assert first.SOPInstanceUID == second.SOPInstanceUID
    assert first.PixelData == second.PixelData


@pytest.mark.integration
def test_a_cohort_has_faults_unlabelled_studies_and_truth(tmp_path: Path) -> None:
    cohort = CohortRequest(
        patients=3, style="philips", seed=4, unlabelled=1, faults=(Fault.CROPPED,)
    )
    heard: list[WrittenStudy] = []
    studies = write_cohort(cohort, tmp_path / "out", done=heard.append)
    assert heard == studies
    assert [s.segmentation is not None for s in studies] == [True, False, True]
    assert [s.request.fault for s in studies] == [None, None, Fault.CROPPED]
    assert len({s.StudyInstanceUID for s in studies}) == 3
    for study in studies:
        folder = tmp_path / "out" / "truth" / f"{study.request.index:04d}"
        truth = json.loads((folder / "truth.json").read_text(encoding="utf-8"))
        assert truth["planted_identifiers"]["names"][0] == study.planted["names"][0]
        lesions = load_volume(folder / "lesions.nii.gz")
        assert lesions.data.sum() * lesions.voxel_ml == pytest.approx(
            truth["lesion_volume_on_grid_ml"]
        )
        matrix = np.array(truth["t1w_to_flair_ras_mm"])
        assert np.abs(matrix[:3, :3] @ matrix[:3, :3].T - np.eye(3)).max() < 1e-9
        assert truth["labelled"] is (study.segmentation is not None)
    with pytest.raises(PhantomRefused, match="empty"):
        write_cohort(cohort, tmp_path / "out")


@pytest.mark.parametrize(
    "wrong",
    [
        {"patients": 0},
        {"patients": 2, "unlabelled": 3},
        {"patients": 1, "unlabelled": 1, "faults": (Fault.MOTION,)},
    ],
)
def test_an_impossible_cohort_is_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(PhantomRefused):
        CohortRequest(**({"style": "ge"} | wrong))  # type: ignore[arg-type]


def test_other_content_never_bears_the_same_uid(tmp_path: Path) -> None:
    base = PhantomRequest(index=0)
    others = [
        PhantomRequest(index=1),
        PhantomRequest(index=0, seed=1),
        PhantomRequest(index=0, style="ge"),
        PhantomRequest(index=0, half_resolution=False),
        PhantomRequest(index=0, lesions=False),
        PhantomRequest(index=0, fault=Fault.MOTION),
    ]
    uids = {study_uid(r, "study") for r in [base, *others]}
    assert len(uids) == 7


@pytest.mark.integration
def test_raw_ms_pairs_become_dicom_studies_with_exact_geometry(tmp_path: Path) -> None:
    pairs = raw_ms_pairs()
    assert {p.patient for p in pairs} >= {"patient01"}
    pair = pairs[0]
    study = write_raw_ms_study(pair, tmp_path / "dicom")
    for contrast, files in study.series.items():
        source = study.volumes[contrast]
        assert len(files) == source.shape[2]
        converted = convert_series(files, tmp_path / f"{contrast}.nii.gz", work=tmp_path / contrast)
        image = load_volume(converted.image)
        to_image = np.linalg.inv(image.affine) @ source.affine
        corners = np.array([[0, 0, 0], [5, 9, 3], [source.shape[0] - 1, 0, 20]])
        index = corners @ to_image[:3, :3].T + to_image[:3, 3]
        assert np.abs(index - np.rint(index)).max() < 0.005
        for corner, place in zip(corners, np.rint(index).astype(int), strict=True):
            assert image.data[tuple(place)] == source.data[tuple(corner)]
