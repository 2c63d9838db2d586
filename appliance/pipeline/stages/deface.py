"""converted -> defaced: a brain mask per image, computed once, and images without a face."""

from __future__ import annotations

import numpy as np

from appliance.imaging.brain import fit_brain
from appliance.imaging.defacing import deface
from appliance.imaging.volume import Volume, load_volume, save_volume
from appliance.pipeline.states import Stage
from appliance.pipeline.work import StageResult, StageWork
from federation.canonical import JSON


def run(work: StageWork) -> StageResult:
    """Mask and deface (or skull-strip) every input.

    Raises:
        ImageRefused: no brain is found in an image.
    """
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
