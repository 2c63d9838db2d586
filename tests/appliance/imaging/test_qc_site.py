"""The site's own distribution: robust z, who counts, and the reports it is read from."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from appliance.errors import ImageRefused
from appliance.imaging.qc import (
    ImageInput,
    Metric,
    QcReport,
    SiteDistribution,
    check_quality,
    read_site,
    report_from_json,
    report_json,
    robust_z,
)
from appliance.imaging.qc import site as site_module
from appliance.imaging.qc.judge import compare_site
from appliance.imaging.qc.model import Finding, decide
from appliance.imaging.qc.record import metric_rows
from tests.appliance.imaging.test_qc import head

VALUES = [20.0, 21.0, 22.0, 23.0, 24.0]


def metric(name: str, value: float | None, direction: str = "higher") -> Metric:
    return Metric(name, value, "ratio", "higher" if direction == "higher" else "none")


def publish(folder: Path, case: str, **figures: float | None) -> Path:
    """A published report with these figures."""
    subject, session = case.split("_")
    path = folder / subject / session / "anat" / f"{case}_qc.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    report = QcReport(tuple(metric(name, value) for name, value in figures.items()), "pass")
    path.write_text(json.dumps(report_json(report)))
    return path


def test_robust_z_against_the_definition() -> None:
    assert robust_z(22.0, VALUES, 5) == 0.0
    assert robust_z(22.0 + 3 * 1.4826, VALUES, 5) == pytest.approx(3.0)
    assert robust_z(9.0, VALUES, 6) is None
    assert robust_z(9.0, [5.0, 5.0, 5.0, 7.0, 9.0], 5) is None


def test_only_the_bad_direction_counts_and_both_where_neither_is_better() -> None:
    site = SiteDistribution({"flair_snr": VALUES, "flair_wm2max": VALUES}, 5, least=5, limit=4.0)
    low, high = metric("flair_snr", 10.0), metric("flair_snr", 40.0)
    far = metric("flair_wm2max", 40.0, "none")
    compared, findings = compare_site([low, high, far], site)
    assert [(f.metric, f.decision, f.origin) for f in findings] == [
        ("flair_snr", "review", "site"),
        ("flair_wm2max", "review", "site"),
    ]
    assert "unlike this site's other studies (median 22" in findings[0].words
    assert [m.z is not None for m in compared] == [True, True, True]
    silent = SiteDistribution(site.values, 5, least=5, limit=0.0)
    assert compare_site([low], silent)[1] == []
    few = SiteDistribution(site.values, 5, least=20)
    assert compare_site([low], few)[0][0].z is None


def test_what_is_not_compared() -> None:
    site = SiteDistribution({"flair_spacing_x": VALUES, "new_figure": VALUES}, 5, least=5)
    metrics = [metric("flair_spacing_x", 99.0), metric("new_figure", 99.0), metric("t1w_snr", None)]
    compared, findings = compare_site(metrics, site)
    assert findings == []
    assert all(m.z is None for m in compared)


def test_a_study_unlike_the_others_of_its_site_goes_to_review() -> None:
    image, brain = head()
    values = [200.0 + number for number in range(30)]
    site = SiteDistribution({"flair_snr": values}, 30)
    report = check_quality([ImageInput("flair", image, brain)], None, site)
    assert report.decision == "review"
    assert report.site_studies == 30
    found = next(m for m in report.metrics if m.name == "flair_snr")
    assert found.z is not None
    assert found.z < -6
    assert found.verdict == "review"
    assert check_quality([ImageInput("flair", image, brain)]).decision == "pass"


def test_reports_are_read_once_and_a_study_never_counts_against_itself(tmp_path: Path) -> None:
    assert read_site(tmp_path / "absent", "sub-a_ses-b").studies == 0
    publish(tmp_path, "sub-a_ses-b", flair_snr=20.0, t1w_cnr=None)
    publish(tmp_path, "sub-a_ses-bv2", flair_snr=21.0)
    publish(tmp_path, "sub-a_ses-c", flair_snr=22.0)
    other = publish(tmp_path, "sub-d_ses-e", flair_snr=23.0)
    (other.parent / "sub-d_ses-f_qc.json").write_text("{")
    site = read_site(tmp_path, "sub-a_ses-b")
    assert sorted(site.values["flair_snr"]) == [22.0, 23.0]
    assert site.studies == 2
    assert read_site(tmp_path, "sub-a_ses-bv3").studies == 2
    known = dict(site_module._parsed)
    publish(tmp_path, "sub-g_ses-h", flair_snr=24.0)
    assert read_site(tmp_path, "sub-a_ses-b").studies == 3
    assert all(site_module._parsed[key][1] is entry[1] for key, entry in known.items())


def test_withdrawn_studies_leave_the_distribution(tmp_path: Path) -> None:
    publish(tmp_path, "sub-a_ses-b", flair_snr=20.0)
    gone = publish(tmp_path, "sub-c_ses-d", flair_snr=90.0)
    assert len(read_site(tmp_path, "sub-x_ses-y").values["flair_snr"]) == 2
    shutil.rmtree(tmp_path / "sub-c")
    assert read_site(tmp_path, "sub-x_ses-y").values["flair_snr"] == [20.0]
    assert str(gone) not in site_module._parsed


def test_the_report_survives_its_file_and_older_ones_are_read() -> None:
    found = Finding("review", "words", "flair_snr", "site")
    judged = Metric("flair_snr", 9.0, "ratio", "higher", (10.0, None), "pass", -7.0)
    report = decide([judged, metric("t1w_cnr", None)], [found], site_studies=30)
    assert report.metrics[0].verdict == "review"
    text = json.dumps(report_json(report, released=True), allow_nan=False)
    assert report_from_json(json.loads(text)) == report
    assert json.loads(text)["released"] is True
    old = {
        "format": 1,
        "decision": "pass",
        "reasons": [],
        "released": False,
        "metrics": [{"name": "flair_snr", "value": 2.0, "unit": "1", "direction": "higher"}],
    }
    assert report_from_json(old).metrics == (Metric("flair_snr", 2.0, "1", "higher"),)
    for damaged in ({"format": 1}, {"format": 1, "metrics": [{}]}, {"format": 9}):
        with pytest.raises(ImageRefused):
            report_from_json(damaged)


def test_rows_for_a_table() -> None:
    judged = Metric("flair_snr", 9.0, "ratio", "higher", (10.0, None), "review")
    rows = metric_rows(QcReport((judged, metric("of_tomorrow", None)), "review"))
    assert rows[0][:7] == ("flair_snr", "9", "ratio", "higher", "10", "-", "review")
    assert rows[0][7] == "signal-to-noise ratio of brain tissue"
    assert rows[1][1] == rows[1][6] == "-"
