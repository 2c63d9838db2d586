"""Planted faults are found at three severities, clean phantoms raise no alarm.

Seeds here are from 1000 on; the default bounds were checked on seeds 0-63. The benchmark
`benchmarks.qc_thresholds` also sends them through masks and registration.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from appliance.demo.phantom import Fault, Severity, make_study
from appliance.imaging.qc import QcReport
from benchmarks.qc_thresholds import cheap_report, first_stages, request_of

pytestmark = pytest.mark.integration

PHILIPS = 1000
"""The seed whose scanner makes the smallest images."""
WORDS = {Fault.MOTION: "motion or ghosts", Fault.CROPPED: "the field of view is cropped"}


def says(report: QcReport, fault: Fault) -> bool:
    return any(WORDS[fault] in reason for reason in report.reasons)


@pytest.mark.parametrize("fault", list(WORDS))
def test_the_mildest_fault_is_found_in_words(fault: Fault) -> None:
    report = cheap_report(request_of(PHILIPS, fault, Severity.MILD))
    assert report.decision != "pass"
    assert says(report, fault)


def test_a_clean_phantom_passes() -> None:
    report = cheap_report(request_of(PHILIPS))
    assert report.decision == "pass", report.reasons


@pytest.mark.long
@pytest.mark.parametrize("seed", range(1001, 1009))
def test_clean_phantoms_pass(seed: int) -> None:
    report = cheap_report(request_of(seed))
    assert report.decision == "pass", report.reasons


@pytest.mark.long
@pytest.mark.parametrize("severity", list(Severity))
@pytest.mark.parametrize("fault", list(WORDS))
@pytest.mark.parametrize("seed", [1001, 1002])
def test_faults_of_pixels_are_found(seed: int, fault: Fault, severity: Severity) -> None:
    report = cheap_report(request_of(seed, fault, severity))
    assert says(report, fault)
    assert report.decision == "fail" or severity is Severity.MILD
    assert report.decision != "pass"


@pytest.mark.long
@pytest.mark.parametrize("severity", list(Severity))
@pytest.mark.parametrize(
    ("fault", "stage", "words"),
    [
        (Fault.MISSING_SLICE, "convert", "missing slice"),
        (Fault.BURNED_IN_NAME, "deidentify", "burned-in"),
        (Fault.TRUNCATED, "convert", ""),
    ],
)
def test_faults_of_files_stop_before_the_check(
    fault: Fault, stage: str, words: str, severity: Severity, tmp_path: Path
) -> None:
    found = first_stages(make_study(request_of(PHILIPS, fault, severity)), tmp_path)
    assert found is not None
    assert found.decision == "refused"
    if words:
        assert (found.where, words in found.words) == (stage, True)
