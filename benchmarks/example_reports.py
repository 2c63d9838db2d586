"""Write docs/examples: a study's and a data set's report of phantoms, and a picture of the first.

``python -m benchmarks.example_reports [FOLDER]``; about three minutes. The study is a phantom that
goes through the stages' own functions; the other studies of its site and of the data set are
invented figures around its own, drawn from a fixed seed.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image

from appliance.demo.phantom import PhantomRequest, make_study
from appliance.imaging.brain import fit_brain
from appliance.imaging.defacing import deface
from appliance.imaging.qc import ImageInput, QcReport, SiteDistribution, check_quality, report_json
from appliance.imaging.registration import RegistrationOptions, register_rigid
from appliance.reports.group import Case, GroupContent, render_group
from appliance.reports.metrics import Quality, SiteFigures, is_compared, read_quality
from appliance.reports.steps import versions
from appliance.reports.study import StudyContent, render_study
from appliance.reports.views import Input, Marked

FOLDER = Path(__file__).resolve().parent.parent / "docs" / "examples"
STUDIES = 48
SHOT = (1240, 1130)
NOTE = "An example: a synthetic head (phantom), faces taken out as for any study. No patient."


def main() -> int:
    """Write the examples into a folder (default ``docs/examples``)."""
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    study = example_study()
    (folder / "study-report.html").write_text(render_study(study), encoding="utf-8")
    group = example_group(study.quality)
    (folder / "group-report.html").write_text(render_group(group), encoding="utf-8")
    for name in ("study-report", "group-report"):
        photograph(folder / f"{name}.html", folder / f"{name}.jpg")
        print(f"wrote {name}: {(folder / f'{name}.html').stat().st_size / 1000:.0f} kB")
    return 0


def example_study() -> StudyContent:
    """One phantom through masks, defacing, registration and the check."""
    made = make_study(PhantomRequest(index=0, style="siemens", seed=5, half_resolution=False))
    volumes = {"FLAIR": made.flair, "T1w": made.t1w}
    fits = {kind: fit_brain(volume, profile="quick") for kind, volume in volumes.items()}
    found = register_rigid(made.flair, made.t1w, options=RegistrationOptions(profile="full"))
    images = [
        ImageInput(
            prefix=kind.lower(),
            volume=volume,
            brain=fits[kind].mask,
            head=fits[kind].alignment.score,
            atlas=fits[kind].alignment.matrix,
            registration=found if kind == "T1w" else None,
        )
        for kind, volume in volumes.items()
    ]
    others = invented(check_quality(images))
    site = SiteDistribution(others, STUDIES)
    report = check_quality(images, site=site)
    inputs = tuple(
        Input(
            kind=kind,
            volume=deface(volume, fits[kind].mask, alignment=fits[kind].alignment),
            brain=fits[kind].mask,
            matrix=found.matrix if kind == "T1w" else None,
        )
        for kind, volume in volumes.items()
    )
    return StudyContent(
        title="sub-example01 ses-a",
        inputs=inputs,
        label=Marked(made.lesions, {1: "lesion (phantom's truth)"}),
        quality=read_quality(report_json(report)),
        site=SiteFigures.of(others, STUDIES, site.limit),
        steps=(
            ("make", "phantom, Siemens style, seed 5"),
            ("deface", "face taken out"),
            ("register", f"T1w to FLAIR with quality {found.quality:.2f}"),
        ),
        versions=versions(),
        note=NOTE,
    )


def invented(report: QcReport) -> Mapping[str, list[float]]:
    """Figures of other studies: this study's, varied by 9 %; figures of geometry stay."""
    rng = np.random.default_rng(2026)
    found: dict[str, list[float]] = {}
    for metric in report.metrics:
        if metric.value is None:
            continue
        spread = 0.09 if is_compared(metric.name) else 0.02
        values = metric.value * rng.normal(1.0, spread, STUDIES)
        top = 1.0 if metric.unit == "share" else np.inf
        found[metric.name] = [float(v) for v in np.clip(values, 0.0, top)]
    return found


def example_group(quality: Quality) -> GroupContent:
    """A data set of invented studies around the example, four of which stand out."""
    rng = np.random.default_rng(7)
    planted = {5: ("flair_ghosting", 0.0016), 17: ("t1w_cjv", 1.9), 29: ("t1w_snr", 4.0)}
    cases = [Case("sub-example01_ses-a", quality, "study-report.html", "train", True)]
    for number in range(2, STUDIES + 1):
        name, value = planted.get(number, ("", 0.0))
        rows = []
        for row in quality.rows:
            # Agreements lie near 1 at any site: varied like the rest all would be out of bounds.
            near = row.name.startswith("brain_") or row.name.endswith("_likeness")
            factor = float(rng.normal(1.0, 0.01 if near else 0.06))
            varied = None if row.value is None else abs(row.value * factor)
            if varied is not None and row.unit == "share":
                varied = min(varied, 1.0)
            varied = value if row.name == name else varied
            rows.append(replace(row, value=varied, decision="", score=None))
        verdicts = {row.verdict for row in rows if row.name == name}
        decision = next((v for v in ("fail", "review") if v in verdicts), "pass")
        reasons = (f"planted for this example: {name} is {value:g}",) if decision != "pass" else ()
        part = "test" if number % 5 == 0 else "train"
        case = f"sub-example{number:02d}_ses-a"
        cases.append(Case(case, Quality(decision, reasons, tuple(rows)), "", part, True))
    return GroupContent(
        title="example",
        cases=tuple(cases),
        facts=(("state", "frozen"), ("studies by part", "39 train, 9 test")),
        funnel=(
            ("offered by the PACS", 61),
            ("fetched", 60),
            ("converted", 56),
            ("passed the check", 50),
            ("ready", 48),
            ("in this data set", STUDIES),
        ),
        excluded=(
            ("quality: the FLAIR shows motion or ghosts", 4),
            ("quality, to be reviewed: the T1 is noisy", 2),
            ("slices are missing: ask the PACS for them again", 3),
            ("the study has none of the wanted series (FLAIR, T1w)", 1),
            ("withdrawn", 2),
        ),
        limit=6.0,
        note="An example: invented studies around a phantom. No patient.",
    )


def photograph(page: Path, target: Path) -> None:
    """A small picture of the top of a page, where a Chromium is installed."""
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    if browser is None:
        return
    with tempfile.TemporaryDirectory() as scratch:
        shot = Path(scratch) / "shot.png"
        subprocess.run(
            [
                browser,
                "--headless",
                "--no-sandbox",
                "--disable-gpu",
                "--hide-scrollbars",
                f"--window-size={SHOT[0]},{SHOT[1]}",
                f"--screenshot={shot}",
                page.as_uri(),
            ],
            check=True,
            capture_output=True,
            timeout=120,
        )
        image = Image.open(shot).convert("RGB")
        small = image.resize((SHOT[0] * 3 // 4, SHOT[1] * 3 // 4), Image.Resampling.LANCZOS)
        small.save(target, "JPEG", quality=72, optimize=True)


if __name__ == "__main__":
    sys.exit(main())
