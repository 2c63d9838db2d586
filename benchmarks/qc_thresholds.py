"""The quality check's thresholds: figures of clean phantoms, and what is found of planted faults.

``python -m benchmarks.qc_thresholds calibrate`` measures seeds 0-99 (brain masks: the truth with a
wavy surface) and prints quantiles. ``... test`` sends seeds from 1000 on, clean and with every
fault at three severities, through masks, registration and check, the faults of files and headers
through the pipeline's own first stages, and prints what was decided. Figures are kept in a JSON
file beside the temporary files, so that a broken run goes on where it was.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy import ndimage

from appliance.demo.phantom import (
    STYLES,
    Fault,
    PhantomRequest,
    PhantomStudy,
    Severity,
    make_study,
    write_study,
)
from appliance.errors import ImageRefused
from appliance.home import Home, create_keys
from appliance.imaging.brain import fit_brain
from appliance.imaging.grid import grid_of, resample
from appliance.imaging.qc import ImageInput, QcReport, check_quality
from appliance.imaging.registration import Registration, RegistrationOptions, register_rigid
from appliance.imaging.volume import Volume
from appliance.pipeline.stages import run_stage
from appliance.pipeline.states import Stage
from appliance.pipeline.work import RECEIVED, StageWork
from appliance.settings import settings_from
from dicom_bridge.errors import DataRefused

CALIBRATION = range(100)
TEST = range(1000, 1030)
FAULTY = range(1000, 1006)
QUANTILES = (0.0, 0.01, 0.05, 0.5, 0.95, 0.99, 1.0)
FIRST_STAGES = (Stage.CLASSIFY, Stage.DEIDENTIFY, Stage.CONVERT, Stage.DEFACE)
IN_PIXELS = (Fault.MOTION, Fault.CROPPED)
"""Faults that only the check after the registration can find."""


@dataclass(frozen=True, slots=True)
class Found:
    """What was said of one phantom.

    Attributes:
        decision: pass, review, fail, or refused where a stage before the check refused it.
        where: The stage.
        words: The first reason.
        figures: Every figure that was measured.
    """

    decision: str
    where: str
    words: str
    figures: dict[str, float]


def request_of(
    seed: int, fault: Fault | None = None, severity: Severity = Severity.MEDIUM
) -> PhantomRequest:
    """The phantom of a seed: the three scanners in turn, half resolution."""
    style = sorted(STYLES)[seed % len(STYLES)]
    return PhantomRequest(index=0, style=style, seed=seed, fault=fault, severity=severity)


def wavy(mask: Volume, seed: int) -> Volume:
    """A true brain mask with a surface as uneven as a fitted one's (about 1 mm)."""
    rng = np.random.default_rng([seed, 5])
    soft = ndimage.gaussian_filter(
        (mask.data > 0).astype(np.float32), [3 / s for s in mask.spacing]
    )
    coarse = rng.normal(0.0, 1.0, [max(2, n // 6) for n in mask.shape]).astype(np.float32)
    waves = ndimage.zoom(coarse, np.array(mask.shape) / np.array(coarse.shape), order=1)
    return mask.with_data((soft + 0.08 * waves > 0.5).astype(np.uint8))


def cheap_report(request: PhantomRequest) -> QcReport:
    """The check with wavy true masks and the true registration."""
    study = make_study(request)
    back = np.asarray(np.linalg.inv(study.flair_to_t1w), dtype=np.float64)
    other = resample(study.brain, grid_of(study.t1w), matrix=back, interpolation="nearest")
    known = Registration(study.flair_to_t1w, 0.5, -1.0)
    return check_quality(
        [
            ImageInput("flair", study.flair, wavy(study.brain, request.seed)),
            ImageInput("t1w", study.t1w, wavy(other, request.seed + 1), registration=known),
        ]
    )


def whole_report(study: PhantomStudy) -> QcReport:
    """The check with the quick profile's masks and registration.

    Raises:
        ImageRefused: no head or brain is found.
    """
    flair, t1 = fit_brain(study.flair, profile="quick"), fit_brain(study.t1w, profile="quick")
    found = register_rigid(study.flair, study.t1w, options=RegistrationOptions(profile="quick"))
    first, second = flair.alignment, t1.alignment
    return check_quality(
        [
            ImageInput("flair", study.flair, flair.mask, first.score, first.matrix),
            ImageInput("t1w", study.t1w, t1.mask, second.score, second.matrix, found),
        ]
    )


def judge(request: PhantomRequest, work: Path) -> Found:
    """Send one phantom the way that its fault needs.

    Args:
        request: The phantom.
        work: An empty folder.
    """
    study = make_study(request)
    if request.fault is not None and request.fault not in IN_PIXELS:
        stopped = first_stages(study, work)
        if stopped is not None:
            return stopped
    try:
        report = whole_report(study)
    except ImageRefused as error:
        return Found("refused", "deface", str(error), {})
    figures = {m.name: m.value for m in report.metrics if m.value is not None}
    return Found(report.decision, "check", next(iter(report.reasons), ""), figures)


def first_stages(study: PhantomStudy, work: Path) -> Found | None:
    """The pipeline's own stages on the study's DICOM files up to the geometry's check."""
    home = Home(work, "p")
    home.create()
    create_keys(home)
    key = "st000000000001"
    folder = home.study(key)
    write_study(study, folder / RECEIVED, segmentation=False)
    settings = settings_from({"node": {"site": "a", "project": "p"}, "imaging": QUICK})
    for stage in FIRST_STAGES[:3]:
        out = folder / "stages" / f"{stage.value}.tmp"
        out.mkdir(parents=True)
        step = StageWork(stage, key, home, folder, out, settings, "s", "v")
        try:
            result = run_stage(step)
        except (DataRefused, ImageRefused) as error:
            return Found("refused", stage.value, str(error), {})
        if result.refused is not None:
            return Found("refused", stage.value, result.refused, {})
        out.rename(step.of(stage))
    return None


QUICK = {"profile": "quick"}


def calibrate(seeds: Iterable[int], cache: Path) -> dict[str, dict[str, float]]:
    """Figures of clean phantoms by seed, from the cache where they are there."""
    known: dict[str, dict[str, float]] = json.loads(cache.read_text()) if cache.exists() else {}
    for seed in seeds:
        if str(seed) not in known:
            report = cheap_report(request_of(seed))
            known[str(seed)] = {m.name: m.value for m in report.metrics if m.value is not None}
            cache.write_text(json.dumps(known))
    return known


def quantile_lines(known: dict[str, dict[str, float]]) -> list[str]:
    """A Markdown table of quantiles by figure."""
    names = sorted({name for figures in known.values() for name in figures})
    lines = ["| figure | n | " + " | ".join(f"{q:g}" for q in QUANTILES) + " |"]
    lines.append("|" + "---|" * (len(QUANTILES) + 2))
    for name in names:
        values = [figures[name] for figures in known.values() if name in figures]
        cells = " | ".join(f"{v:.4g}" for v in np.quantile(values, QUANTILES))
        lines.append(f"| {name} | {len(values)} | {cells} |")
    return lines


def run_test(
    clean: Sequence[int], faulty: Sequence[int], cache: Path
) -> dict[str, dict[str, object]]:
    """Decisions on clean and faulty phantoms by name ("motion mild 1000"), kept in the cache."""
    known: dict[str, dict[str, object]] = json.loads(cache.read_text()) if cache.exists() else {}
    asked = [("clean", None, Severity.MEDIUM, seed) for seed in clean]
    asked += [
        (f"{fault} {severity}", fault, severity, seed)
        for seed in faulty
        for fault in Fault
        for severity in Severity
    ]
    for name, fault, severity, seed in asked:
        key = f"{name} {seed}"
        if key in known:
            continue
        with tempfile.TemporaryDirectory() as work:
            found = judge(request_of(seed, fault, severity), Path(work))
        known[key] = {
            "decision": found.decision,
            "where": found.where,
            "words": found.words,
            "figures": found.figures,
        }
        cache.write_text(json.dumps(known))
    return known


def decision_lines(known: dict[str, dict[str, object]]) -> list[str]:
    """A Markdown table: how many of each kind were stopped, where and in which words."""
    groups: dict[str, list[dict[str, object]]] = {}
    for key, entry in known.items():
        groups.setdefault(key.rpartition(" ")[0], []).append(entry)
    lines = ["| phantom | n | passed | review | fail or refused | where | words of the first |"]
    lines.append("|" + "---|" * 7)
    for name, entries in groups.items():
        decisions = [str(entry["decision"]) for entry in entries]
        stopped = [entry for entry in entries if entry["decision"] != "pass"]
        where = ", ".join(sorted({str(entry["where"]) for entry in stopped}))
        words = str(stopped[0]["words"]) if stopped else ""
        hard = decisions.count("fail") + decisions.count("refused")
        counts = (len(entries), decisions.count("pass"), decisions.count("review"), hard)
        lines.append("| " + " | ".join([name, *map(str, counts), where, words]) + " |")
    return lines


def main() -> int:
    """Measure seeds 0-99, or test others."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.qc_thresholds", description=__doc__)
    parser.add_argument("what", choices=("calibrate", "test"))
    parser.add_argument("--cache", type=Path, default=Path(tempfile.gettempdir()))
    given = parser.parse_args()
    if given.what == "calibrate":
        lines = quantile_lines(calibrate(CALIBRATION, given.cache / "qc-calibration.json"))
    else:
        lines = decision_lines(run_test(TEST, FAULTY, given.cache / "qc-test.json"))
    sys.stdout.write("\n".join(lines) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
