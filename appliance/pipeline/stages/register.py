"""defaced -> registered: the rigid transform from the FLAIR to every other input."""

from __future__ import annotations

import json
from dataclasses import fields

from appliance.imaging.itk import save_matrix
from appliance.imaging.registration import RegistrationOptions, register_rigid
from appliance.imaging.volume import load_volume
from appliance.pipeline.states import Stage
from appliance.pipeline.work import StageResult, StageWork
from federation.canonical import JSON

REFERENCE = "FLAIR"


def run(work: StageWork) -> StageResult:
    """Register every other input to the FLAIR; nothing to do where there is no FLAIR.

    The images still have their faces here (identified zone): skull and face steady the result.

    Raises:
        ImageRefused: an image is constant.
    """
    section = work.settings.imaging
    images = work.of(Stage.CONVERT)
    others = [k for k in section.inputs if k != REFERENCE and (images / f"{k}.nii").exists()]
    qualities: dict[str, JSON] = {}
    if (images / f"{REFERENCE}.nii").exists() and others:
        fixed = load_volume(images / f"{REFERENCE}.nii")
        options = RegistrationOptions(
            profile=section.profile, threads=work.threads, seed=section.seed
        )
        for kind in others:
            found = register_rigid(fixed, load_volume(images / f"{kind}.nii"), options=options)
            save_matrix(found.matrix, work.out / f"{kind}.txt")
            figures = {f.name: getattr(found, f.name) for f in fields(found)}
            figures["matrix"] = found.matrix.tolist()
            (work.out / f"{kind}.json").write_text(json.dumps(figures), encoding="utf-8")
            qualities[kind] = round(found.quality, 4)
    return StageResult(
        facts={"registration_quality": qualities},
        detail=f"{len(qualities)} images registered to {REFERENCE}",
    )
