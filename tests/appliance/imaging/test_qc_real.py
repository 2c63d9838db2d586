"""Complete structural series of real scanners pass under their protocol; short ones are refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from appliance.imaging.files import QcOptions, qc_files
from appliance.imaging.qc import Protocol, QcReport, check_grid
from appliance.imaging.volume import load_volume
from dicom_bridge.convert import convert_series
from tests.dicom_bridge.real import files_of, packed_series
from tests.tools import shared_dir

pytestmark = pytest.mark.integration

THICK = Protocol(spacing_mm=(0.82, 0.82, 6.0), mismatch="fail", matrix=(20, 200, 200))
FINE = Protocol(spacing_mm=(1.0, 1.0, 1.0), mismatch="fail", matrix=(150, 200, 200))
MS_PAIR = Protocol(spacing_mm=(0.8, 0.8, 3.5), tolerance_mm=0.6, mismatch="fail")
PAIRS = (
    ("patient01", 1),
    ("patient01", 2),
    ("patient03", 2),
    ("patient04", 1),
    ("patient19", 2),
    ("patient20", 2),
)


def converted(name: str, tmp_path: Path) -> Path:
    path = shared_dir("data", "dicom", "nema_enhanced_brain", "tumour_study") / name
    target = tmp_path / f"{name}.nii.gz"
    convert_series([path], target, work=tmp_path / "work")
    return target


def failed_by(report: QcReport) -> str:
    assert report.decision == "fail"
    return report.reasons[0]


@pytest.mark.long
def test_enhanced_flair_and_t1_pass(tmp_path: Path) -> None:
    options = QcOptions(profile="quick", protocols={"flair": THICK, "t1w": THICK})
    flair, t1 = converted("BRTUM003", tmp_path), converted("BRTUM005", tmp_path)
    report = qc_files(flair, t1, options=options)
    assert report.decision == "pass", report.reasons
    assert report.value("flair_spacing_gap") == pytest.approx(0.0, abs=0.01)


@pytest.mark.long
def test_siemens_mprage_passes(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    files = files_of(packed_series("siemens_prisma_mprage", tmp_path_factory))
    convert_series(files, tmp_path / "T1w.nii.gz", work=tmp_path / "work")
    options = QcOptions(profile="quick", protocols={"t1w": FINE})
    report = qc_files(tmp_path / "T1w.nii.gz", options=options)
    assert report.decision == "pass", report.reasons


@pytest.mark.long
@pytest.mark.parametrize(("patient", "study"), PAIRS)
def test_raw_pairs_pass(patient: str, study: int) -> None:
    folder = shared_dir("data", "ms", "longitudinal_raw", patient)
    options = QcOptions(protocols={"flair": MS_PAIR, "t1w": MS_PAIR})
    report = qc_files(
        folder / f"study{study}_FLAIR.nii.gz", folder / f"study{study}_T1W.nii.gz", options=options
    )
    assert report.decision == "pass", report.reasons


def test_a_localiser_is_refused_by_the_protocol_before_anything_is_computed(tmp_path: Path) -> None:
    options = QcOptions(profile="quick", protocols={"flair": THICK})
    report = qc_files(converted("BRTUM001", tmp_path), options=options)
    assert "15 x 256 x 256 voxels (sorted), at least 20 x 200 x 200" in failed_by(report)
    assert not any(metric.name.endswith("_snr") for metric in report.metrics)


def test_another_voxel_size_than_the_protocol_is_refused(tmp_path: Path) -> None:
    options = QcOptions(profile="quick", protocols={"flair": FINE})
    report = qc_files(converted("BRTUM003", tmp_path), options=options)
    assert any("differ from the protocol's 1.00 x 1.00 x 1.00 mm" in r for r in report.reasons)


@pytest.mark.parametrize("name", ["siemens__anatomical__001", "philips__anatomical__001"])
def test_short_stacks_are_refused_by_their_grid(name: str, tmp_path: Path) -> None:
    files = files_of(shared_dir("data", "dicom", "dicom2nifti_samples", name))
    convert_series(files, tmp_path / "short.nii.gz", work=tmp_path / "work")
    found = check_grid(load_volume(tmp_path / "short.nii.gz"))
    assert {finding.decision for finding in found} == {"fail"}
    assert "at least 12 x 64 x 64 are needed" in found[0].words
