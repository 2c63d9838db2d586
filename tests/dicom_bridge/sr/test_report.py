from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest

from dicom_bridge.convert import SourceSeries
from dicom_bridge.errors import DataRefused, ReportRefused
from dicom_bridge.seg import SegWritten, is_own_result, write_seg
from dicom_bridge.seg.codes import MS_LESIONS
from dicom_bridge.seg.model import LesionForm
from dicom_bridge.sr import (
    Algorithm,
    KnownQuality,
    ReportRequest,
    SegReference,
    read_report,
    write_report,
)
from tests.dicom_bridge.convert import phantom
from tests.dicom_bridge.convert.phantom import Layout, cosines, series
from tests.dicom_bridge.seg.readers import consistency_errors, object_errors
from tests.dicom_bridge.seg.test_write import WHEN, blobs, request
from tests.pacs import dcmtk
from tests.tools import require_tool

SPEC = replace(MS_LESIONS[0], algorithm_name="ms-lesion", algorithm_version="f" * 64)
ALGORITHM = Algorithm("ms-lesion", "f" * 64, (("plan_hash", "ab" * 32),))
QUALITY = KnownQuality(mean=0.712, cases=12, deviation=0.08)
SR_UID, SR_SERIES = "2.25.500", "2.25.501"


@dataclass(frozen=True)
class Made:
    files: Sequence[Path]
    source: SourceSeries
    seg: SegWritten


def made(folder: Path, lesions: LesionForm = "together") -> Made:
    layout = Layout(orientation=cosines("oblique"), rows=19, columns=23, slices=8)
    files = series(folder / "in", layout)
    source = SourceSeries.from_files(files)
    mask = (blobs(source) > 0).astype(np.uint8)
    base = replace(request(source, mask, folder / "s.dcm"), segments=(SPEC,), lesions=lesions)
    return Made(files, source, write_seg(base))


def asked(work: Made, out: Path) -> ReportRequest:
    return ReportRequest(
        source=work.source,
        seg=SegReference.of(work.seg),
        findings=work.seg.findings,
        algorithm=ALGORITHM,
        out=out,
        sop_instance_uid=SR_UID,
        series_instance_uid=SR_SERIES,
        quality=QUALITY,
        written_at=WHEN,
    )


def nothing(source: SourceSeries, out: Path) -> ReportRequest:
    return ReportRequest(
        source=source,
        seg=None,
        findings=(),
        algorithm=ALGORITHM,
        out=out,
        sop_instance_uid=SR_UID,
        series_instance_uid=SR_SERIES,
        looked_for=("MS lesion",),
        written_at=WHEN,
    )


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Made:
    return made(tmp_path_factory.mktemp("report"))


def through_dcmqi(path: Path, folder: Path) -> list[dict[str, Any]]:
    """Measurement groups as dcmqi's tid1500reader gives them."""
    out = folder / "sr.json"
    done = subprocess.run(
        [require_tool("tid1500reader"), "--inputDICOM", path, "--outputMetadata", out],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    groups: list[dict[str, Any]] = json.loads(out.read_text(encoding="utf-8"))["Measurements"]
    return groups


def values_of(group: dict[str, Any]) -> dict[str, float]:
    return {
        item["quantity"]["CodeValue"]: float(item["value"]) for item in group["measurementItems"]
    }


@pytest.mark.integration
@pytest.mark.parametrize("form", ["together", "each"])
def test_dcmqi_reads_the_values_and_validators_find_nothing(
    tmp_path: Path, form: LesionForm
) -> None:
    work = made(tmp_path, form)
    (finding,) = work.seg.findings
    report = write_report(asked(work, tmp_path / "r.dcm"))

    assert report.lesions == report.reported == len(finding.lesions) > 2
    assert object_errors(report.path, "Comprehensive3DSR") == []
    assert consistency_errors([*work.files, work.seg.path, report.path]) == []
    whole, *ones = through_dcmqi(report.path, tmp_path)
    assert values_of(whole) == {
        "118565006": pytest.approx(finding.volume_ml, abs=1e-5),
        "111406": len(finding.lesions),
    }
    assert whole["TrackingUniqueIdentifier"] == finding.tracking_uid
    assert whole["Finding"]["CodeValue"] == "110702"
    assert whole["FindingSite"]["CodeValue"] == "12738006"
    assert whole["measurementAlgorithmIdentification"]["AlgorithmVersion"] == "f" * 64
    assert whole.get("ReferencedSegment") == (1 if form == "together" else None)
    for one, lesion, segment in zip(ones, finding.lesions, finding.segments, strict=True):
        assert values_of(one)["118565006"] == pytest.approx(lesion.volume_ml, abs=1e-5)
        assert one["TrackingUniqueIdentifier"] == lesion.tracking_uid
        assert one["TrackingIdentifier"] == lesion.tracking_id
        assert one["ReferencedSegment"] == segment
        assert one["SourceSeriesForImageSegmentation"] == phantom.SERIES_UID
    assert sum(values_of(one)["118565006"] for one in ones) == pytest.approx(
        finding.volume_ml, abs=1e-4
    )


@pytest.mark.integration
def test_dcmtk_reads_it_and_the_words_are_in_it(work: Made, tmp_path: Path) -> None:
    report = write_report(asked(work, tmp_path / "r.dcm"))
    done = subprocess.run(
        [dcmtk("dsrdump"), "+Pl", report.path], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    (finding,) = work.seg.findings
    for words in (
        "Research result of clinode. Not for diagnostic use.",
        f"MS lesion: {len(finding.lesions)} lesions, {finding.volume_ml:.3f} ml in all.",
        "Dice of this model on 12 test cases of this site: mean 0.712 (standard deviation 0.080).",
        "site_test_dice_mean=0.7120",
        f"plan_hash={'ab' * 32}",
        '(121007,DCM,"Device")',
    ):
        assert words in done.stdout
    assert len(re.findall(r"Center of Mass", done.stdout)) == len(finding.lesions)


def test_same_request_same_bytes_and_marked_as_ours(work: Made, tmp_path: Path) -> None:
    one = write_report(asked(work, tmp_path / "a.dcm"))
    two = write_report(asked(work, tmp_path / "b.dcm"))
    assert one.path.read_bytes() == two.path.read_bytes()
    document = pydicom.dcmread(one.path)
    assert is_own_result(document)
    assert document.CompletionFlag == "COMPLETE"
    assert document.VerificationFlag == "UNVERIFIED"
    assert document.PatientID == phantom.PATIENT_ID
    assert document.StudyInstanceUID == phantom.STUDY_UID
    assert document.SeriesDescription == "RESEARCH Measurements"
    assert document.SeriesNumber == 1006
    evidence = document.CurrentRequestedProcedureEvidenceSequence[0].ReferencedSeriesSequence
    named = {item.SeriesInstanceUID: len(item.ReferencedSOPSequence) for item in evidence}
    assert named[work.seg.series_instance_uid] == 1


@pytest.mark.integration
def test_without_a_segmentation_nothing_refers_to_one(work: Made, tmp_path: Path) -> None:
    report = write_report(replace(asked(work, tmp_path / "r.dcm"), seg=None))
    assert object_errors(report.path, "Comprehensive3DSR") == []
    assert consistency_errors([*work.files, report.path]) == []
    groups = read_report(report.path).groups
    (finding,) = work.seg.findings
    assert [group.segment for group in groups] == [0] * (1 + len(finding.lesions))
    assert groups[0].volume_ml == pytest.approx(finding.volume_ml, abs=1e-5)


@pytest.mark.integration
def test_nothing_found_is_said(work: Made, tmp_path: Path) -> None:
    report = write_report(nothing(work.source, tmp_path / "n.dcm"))
    assert (report.lesions, report.volume_ml) == (0, 0)
    assert object_errors(report.path, "Comprehensive3DSR") == []
    content = read_report(report.path)
    assert content.notes == (
        "Research result of clinode. Not for diagnostic use.",
        "No finding: the model did not find MS lesion.",
    )
    (group,) = content.groups
    assert (group.volume_ml, group.count, group.segment) == (0.0, 0, 0)
    text = pydicom.dcmread(report.path).to_json()
    assert "272519000" in text  # absent


def test_many_lesions_are_capped_and_the_text_says_so(work: Made, tmp_path: Path) -> None:
    (finding,) = work.seg.findings
    base = replace(asked(work, tmp_path / "r.dcm"), most_lesions=2, quality=None)
    report = write_report(base)
    assert (report.lesions, report.reported) == (len(finding.lesions), 2)
    content = read_report(report.path)
    total, *ones = content.groups
    assert total.count == len(finding.lesions)
    assert [one.tracking_uid for one in ones] == [x.tracking_uid for x in finding.lesions[:2]]
    assert content.notes[-1].startswith(f"Only the 2 largest of {len(finding.lesions)} lesions")


def test_a_newer_report_names_the_one_it_replaces(work: Made, tmp_path: Path) -> None:
    base = replace(asked(work, tmp_path / "r.dcm"), predecessor=("2.25.77", "2.25.78"))
    document = pydicom.dcmread(write_report(base).path)
    (item,) = document.PredecessorDocumentsSequence[0].ReferencedSeriesSequence
    assert item.SeriesInstanceUID == "2.25.78"
    assert item.ReferencedSOPSequence[0].ReferencedSOPInstanceUID == "2.25.77"


def test_fresh_patient_values_in_any_script(work: Made, tmp_path: Path) -> None:
    fresh = {"PatientName": "Jürgens^Łucja", "AccessionNumber": "NEW1"}
    base = replace(asked(work, tmp_path / "r.dcm"), patient_overrides=fresh)
    document = pydicom.dcmread(write_report(base).path)
    assert str(document.PatientName) == "Jürgens^Łucja"
    assert document.AccessionNumber == "NEW1"
    with pytest.raises(DataRefused, match="not patient or study"):
        write_report(replace(base, patient_overrides={"Modality": "CT"}))


def test_wrong_requests_are_refused_in_words(work: Made, tmp_path: Path) -> None:
    good = asked(work, tmp_path / "r.dcm")
    cases = [
        (replace(good, sop_instance_uid="no"), "not a valid UID"),
        (replace(good, series_instance_uid=phantom.SERIES_UID), "series of its own"),
        (replace(good, series_instance_uid=work.seg.series_instance_uid), "segmentation's"),
        (replace(good, findings=()), "without findings"),
        (replace(good, disclaimer=" "), "not for diagnosis"),
        (replace(good, algorithm=Algorithm("", "1")), "1 to 64"),
        (replace(good, quality=KnownQuality(1.2, 3)), "from 0 to 1"),
        (replace(good, most_lesions=-1), "below 0"),
    ]
    for wrong, words in cases:
        with pytest.raises(ReportRefused, match=words) as caught:
            write_report(wrong)
        assert "4711" not in str(caught.value)
        assert list(tmp_path.glob("*r.dcm*")) == []


def test_other_objects_and_damaged_reports_are_no_reports(work: Made, tmp_path: Path) -> None:
    with pytest.raises(ReportRefused, match="no structured report"):
        read_report(work.seg.path)
    report = write_report(asked(work, tmp_path / "r.dcm")).path
    cut = tmp_path / "cut.dcm"
    cut.write_bytes(report.read_bytes()[:400])
    with pytest.raises(ReportRefused):
        read_report(cut)
