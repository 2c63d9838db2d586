"""converted -> defaced: a brain mask per image, computed once, and images without a face."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from appliance.imaging.alignment import Alignment
from appliance.imaging.brain import fit_brain
from appliance.imaging.defacing import deface
from appliance.imaging.volume import Volume, load_volume, save_volume
from appliance.pipeline.stages.geometry import refuse_geometry
from appliance.pipeline.states import Stage
from appliance.pipeline.work import StageResult, StageWork
from federation.canonical import JSON


def run(work: StageWork) -> StageResult:
    """Mask and deface (or skull-strip) every input.

    Raises:
        ImageRefused: an image's geometry is out of bounds, or no brain is found in it.
    """
    refuse_geometry(work)
    section = work.settings.imaging
    volumes_ml: dict[str, JSON] = {}
    images = work.of(Stage.CONVERT)
    for kind in section.inputs:
        path = images / f"{kind}.nii"
        if not path.exists():
            continue
        image = load_volume(path)
        fit = fit_brain(image, profile=section.profile, threads=work.threads)
        if section.deface == "skull-strip":
            clean = skull_strip(image, fit.mask)
        else:
            clean = deface(image, fit.mask, alignment=fit.alignment)
        save_volume(clean, work.out / f"{kind}.nii")
        save_volume(fit.mask, work.out / f"{kind}-brain.nii")
        write_alignment(fit.alignment, work.out / f"{kind}-atlas.json")
        brain_ml = float(np.count_nonzero(fit.mask.data)) * fit.mask.voxel_ml
        volumes_ml[kind] = round(brain_ml, 1)
    return StageResult(
        facts={"brain_ml": volumes_ml, "face": section.deface},
        detail=f"{len(volumes_ml)} images, {section.deface}",
    )


def skull_strip(image: Volume, mask: Volume) -> Volume:
    """The image with everything outside the brain at its lowest value."""
    kept = np.where(mask.data > 0, image.data, image.data.min())
    return image.with_data(kept.astype(image.data.dtype))


def write_alignment(alignment: Alignment, path: Path) -> None:
    """Keep where the atlas lies: the quality check needs its score and its tissue maps."""
    document = {
        "matrix": alignment.matrix.tolist(),
        "score": alignment.score,
        "coverage": alignment.coverage,
    }
    path.write_text(json.dumps(document), encoding="utf-8")


def read_alignment(path: Path) -> Alignment | None:
    """What `write_alignment` wrote; None where it is absent (stages of an earlier version)."""
    if not path.exists():
        return None
    found = json.loads(path.read_bytes())
    matrix = np.asarray(found["matrix"], dtype=np.float64)
    return Alignment(matrix, found["score"], found["coverage"])
