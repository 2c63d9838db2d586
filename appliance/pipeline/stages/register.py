"""defaced -> registered: the transform from the reference image to every other input."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import fields

import numpy as np

from appliance.errors import ImageRefused
from appliance.imaging.itk import save_matrix
from appliance.imaging.registration import RegistrationOptions, register_rigid
from appliance.imaging.volume import load_volume
from appliance.pipeline.stages.convert import FRAMES_FILE
from appliance.pipeline.states import Stage
from appliance.pipeline.work import StageResult, StageWork
from federation.canonical import JSON


def run(work: StageWork) -> StageResult:
    """Register every other input to the reference; nothing to do where there is no reference.

    The images still have their faces here (identified zone): skull and face steady the result.

    Raises:
        ImageRefused: an image is constant, or it stands in another frame of reference than the
            reference where the scanner's coordinates are trusted.
    """
    section = work.settings.imaging
    reference = section.reference
    images = work.of(Stage.CONVERT)
    others = [k for k in section.inputs if k != reference and (images / f"{k}.nii").exists()]
    qualities: dict[str, JSON] = {}
    if not (images / f"{reference}.nii").exists():
        others = []
    if section.by_scanner:
        for kind in others:
            expect_one_frame(json.loads((images / FRAMES_FILE).read_bytes()), reference, kind)
            save_matrix(np.eye(4), work.out / f"{kind}.txt")
        return StageResult(detail=f"{len(others)} images by the scanner's coordinates")
    if others:
        fixed = load_volume(images / f"{reference}.nii")
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
        detail=f"{len(qualities)} images registered to {reference}",
    )


def expect_one_frame(frames: Mapping[str, int], reference: str, kind: str) -> None:
    """Refuse an image whose coordinates are not those of the reference.

    Args:
        frames: as `appliance.pipeline.stages.convert.frames_of` gives them.
        reference: canonical modality of the reference image.
        kind: canonical modality of the other image.

    Raises:
        ImageRefused: the frames differ, or one is unknown.
    """
    if frames[kind] != frames[reference] or frames[kind] == 0:
        raise ImageRefused(
            f"the {kind} stands in another frame of reference than the {reference} (or in none):"
            " set [imaging] registration to 'rigid'"
        )
