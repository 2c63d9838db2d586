"""converted -> defaced: a brain mask per image, computed once, and images without a face.

Where the settings say that images are no heads, there is neither; then each image is looked at
once more, whatever its header says, and what looks like a head is refused.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from appliance.errors import ImageRefused
from appliance.imaging.alignment import Alignment, align_atlas
from appliance.imaging.brain import fit_brain
from appliance.imaging.defacing import deface
from appliance.imaging.volume import Volume, load_volume, save_volume
from appliance.pipeline.stages.geometry import refuse_geometry
from appliance.pipeline.states import Stage
from appliance.pipeline.work import StageResult, StageWork
from federation.canonical import JSON

HEAD_LIKE = 0.75
"""From this score on an image is taken for a head: prostate images give 0.15 to 0.7, heads 1.0 and
more."""


def run(work: StageWork) -> StageResult:
    """Mask and deface (or skull-strip) every input.

    Raises:
        ImageRefused: an image's geometry is out of bounds, no brain is found in it, or it looks
            like a head where none should be.
    """
    refuse_geometry(work)
    section = work.settings.imaging
    if section.body_part == "other":
        return _without_heads(work)
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


def _without_heads(work: StageWork) -> StageResult:
    """Take images as they are, once none of them looks like a head."""
    likeness: dict[str, JSON] = {}
    for kind in work.settings.imaging.inputs:
        path = work.of(Stage.CONVERT) / f"{kind}.nii"
        if not path.exists():
            continue
        image = load_volume(path)
        likeness[kind] = round(refuse_head(image, kind), 3)
        save_volume(image, work.out / f"{kind}.nii")
    return StageResult(
        facts={"head_likeness": likeness, "face": "none"},
        detail=f"{len(likeness)} images, no heads",
    )


def refuse_head(image: Volume, kind: str) -> float:
    """How much an image looks like a head, where it does not.

    Args:
        image: any body part.
        kind: canonical modality, for the message.

    Returns:
        The score of the atlas head laid over it (`Alignment.score`); 0 where nothing is bright.

    Raises:
        ImageRefused: it looks like a head.
    """
    try:
        score = align_atlas(image, "quick").score
    except ImageRefused:
        return 0.0
    if score >= HEAD_LIKE:
        raise ImageRefused(
            f"the {kind} looks like a head ({score:.2f}, below {HEAD_LIKE:g} is accepted) and"
            " body_part 'other' defaces nothing"
        )
    return score


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
