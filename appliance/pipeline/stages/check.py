"""registered -> checked: figures of image quality and geometry, and what follows from them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from appliance.imaging.qc import Protocol, QualityInput, check_quality
from appliance.imaging.registration import Registration
from appliance.imaging.volume import Volume, load_volume
from appliance.pipeline.states import Stage
from appliance.pipeline.work import QC_FILE, StageResult, StageWork
from appliance.settings_imaging import QcSection
from federation.canonical import JSON

FORMAT = 1


def run(work: StageWork) -> StageResult:
    """Measure and decide; a refusal keeps its report for the person who looks at it."""
    images = work.of(Stage.CONVERT)
    flair, flair_brain = _image(work, images, "FLAIR")
    t1, t1_brain = _image(work, images, "T1w")
    report = check_quality(
        QualityInput(
            flair=flair,
            t1=t1,
            flair_brain=flair_brain,
            t1_brain=t1_brain,
            registration=_registration(work),
        ),
        protocol=_protocol(work),
    )
    decision, reasons = str(report.decision), tuple(report.reasons)
    document: dict[str, JSON] = {
        "format": FORMAT,
        "decision": decision,
        "reasons": list(reasons),
        "released": work.qc_released,
        "metrics": [
            {"name": m.name, "value": m.value, "unit": m.unit, "direction": m.direction}
            for m in report.metrics
        ],
    }
    (work.out / QC_FILE).write_text(json.dumps(document, indent=1), encoding="utf-8")
    return StageResult(
        qc_decision=decision,
        detail="; ".join(reasons) or "no finding",
        refused=refusal(decision, reasons, work.settings.qc, released=work.qc_released),
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


def _image(work: StageWork, images: Path, kind: str) -> tuple[Volume | None, Volume | None]:
    path = images / f"{kind}.nii"
    if not path.exists():
        return None, None
    return load_volume(path), load_volume(work.of(Stage.DEFACE) / f"{kind}-brain.nii")


def _registration(work: StageWork) -> Registration | None:
    path = work.of(Stage.REGISTER) / "T1w.json"
    if not path.exists():
        return None
    figures = json.loads(path.read_bytes())
    matrix = np.asarray(figures.pop("matrix"), dtype=np.float64)
    return Registration(matrix=matrix, **figures)


def _protocol(work: StageWork) -> Protocol:
    limits = work.settings.qc.voxel_size_mm
    return Protocol() if limits is None else Protocol(voxel_size_mm=limits)
