"""registered -> checked: figures of image quality and geometry, and what follows from them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from appliance.imaging.qc import (
    ImageInput,
    Metric,
    check_quality,
    label_figures,
    read_site,
    report_json,
)
from appliance.imaging.registration import Registration
from appliance.imaging.volume import load_volume
from appliance.labels.staged import staged_labels
from appliance.pipeline.stages.deface import read_alignment
from appliance.pipeline.stages.geometry import protocol_of
from appliance.pipeline.stages.reporting import write_report
from appliance.pipeline.states import Stage
from appliance.pipeline.work import QC_FILE, StageResult, StageWork
from appliance.research import QC
from appliance.settings_imaging import QcSection


def run(work: StageWork) -> StageResult:
    """Measure and decide; a refusal keeps its report for the person who looks at it.

    The images are those of `convert`, with their faces: the air around the head is undisturbed.
    """
    section = work.settings.qc
    site = read_site(
        work.home.derivatives / QC, work.case, least=section.site.least, limit=section.site.z
    )
    images = _images(work)
    report = check_quality(images, section.bounds(), site, extra=_label(work, images))
    document = report_json(report, released=work.qc_released)
    (work.out / QC_FILE).write_text(json.dumps(document, indent=1), encoding="utf-8")
    write_report(work, document, site)
    return StageResult(
        qc_decision=report.decision,
        detail="; ".join(report.reasons) or "no finding",
        refused=refusal(report.decision, report.reasons, section, released=work.qc_released),
    )


def refusal(
    decision: str, reasons: tuple[str, ...], section: QcSection, *, released: bool
) -> str | None:
    """Why a study stops here, or None where it goes on.

    Examples:
        >>> refusal("fail", ("motion",), QcSection(), released=False)
        'quality: motion'
        >>> refusal("review", ("motion",), QcSection(review="pass"), released=False) is None
        True
        >>> refusal("fail", ("motion",), QcSection(), released=True) is None
        True
    """
    stops = decision == "fail" or (decision == "review" and section.review == "hold")
    if released or not stops:
        return None
    words = "; ".join(reasons)
    return f"quality: {words}" if decision == "fail" else f"quality, to be reviewed: {words}"


def _images(work: StageWork) -> list[ImageInput]:
    """Every input with mask, atlas and registration, the reference first."""
    section = work.settings.imaging
    defaced = work.of(Stage.DEFACE)
    images = []
    for kind in sorted(section.inputs, key=lambda kind: kind != section.reference):
        path = work.of(Stage.CONVERT) / f"{kind}.nii"
        if not path.exists():
            continue
        mask = defaced / f"{kind}-brain.nii"
        alignment = read_alignment(defaced / f"{kind}-atlas.json")
        images.append(
            ImageInput(
                prefix=kind.lower(),
                volume=load_volume(path),
                brain=load_volume(mask) if mask.exists() else None,
                head=None if alignment is None else alignment.score,
                atlas=None if alignment is None else alignment.matrix,
                registration=_registration(work.of(Stage.REGISTER) / f"{kind}.json"),
                protocol=protocol_of(work.settings, kind),
            )
        )
    return images


def _label(work: StageWork, images: list[ImageInput]) -> list[Metric]:
    """Figures of the newest expert's label on the image that it was drawn on."""
    staged = staged_labels(work)
    if not staged:
        return []
    newest = staged[-1]
    drawn_on = newest.kind.lower()
    brain = next((image.brain for image in images if image.prefix == drawn_on), None)
    return label_figures(load_volume(newest.path), brain)


def _registration(path: Path) -> Registration | None:
    if not path.exists():
        return None
    figures = json.loads(path.read_bytes())
    matrix = np.asarray(figures.pop("matrix"), dtype=np.float64)
    return Registration(matrix=matrix, **figures)
