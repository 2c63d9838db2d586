"""``clinode tools segment``: a model folder on images, no service."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from appliance.errors import ImageRefused
from appliance.imaging.brain import fit_brain
from appliance.imaging.grid import grid_of
from appliance.imaging.preparation import invert, prepare
from appliance.imaging.registration import RegistrationOptions, register_rigid
from appliance.imaging.volume import Volume, load_volume, save_volume
from federation.learning.model import ModelFolder, read_model
from federation.learning.prepared import PreparedCase
from federation.plan import Plan


def segment_files(model_folder: Path, images: Sequence[Path], out: Path, *, threads: int) -> float:
    """Segment images with a model and write the mask on the first image's grid.

    The others are registered to the first where the plan needs a brain mask; for other bodies the
    scanner's coordinates are taken.

    Args:
        model_folder: what ``clinode run export`` wrote.
        images: NIfTI, one per input of the plan in its order; optional ones at the end may lack.
        out: the mask, uint8 with the plan's label values.
        threads: for registration and inference.

    Returns:
        The segmented volume in ml.

    Raises:
        ImageRefused: an image is missing or cannot be used.
        FederationError: the model folder cannot be used.
    """
    from federation.learning.segment import Segmenter

    model: ModelFolder = read_model(model_folder)
    volumes = volumes_by_modality(model.plan, images)
    reference = next(volume for volume in volumes.values() if volume is not None)
    profile = model.plan.preparation.profile
    brain = None
    transforms = {}
    if model.plan.preparation.needs_brain:
        brain = fit_brain(reference, profile=profile, threads=threads).mask
        options = RegistrationOptions(profile=profile, threads=threads)
        transforms = {
            modality: register_rigid(reference, volume, options=options).matrix
            for modality, volume in volumes.items()
            if volume is not None and volume is not reference
        }
    case = prepare(
        volumes,
        model.plan.preparation,
        label=None,
        transforms=transforms,
        brain=brain,
        threads=threads,
    )
    prepared = PreparedCase(
        case="image", image=case.image, brain=case.brain, affine=case.affine, label=None
    )
    found = Segmenter(model, threads=threads).segment(prepared)
    mask = invert(found.mask, np.asarray(found.affine), grid_of(reference))
    save_volume(mask, out)
    return float(np.count_nonzero(mask.data)) * mask.voxel_ml


def volumes_by_modality(plan: Plan, images: Sequence[Path]) -> dict[str, Volume | None]:
    """The plan's inputs with their images; a missing optional one is None.

    Raises:
        ImageRefused: too many images, or a required one is missing.
    """
    names = [entry.modality for entry in plan.inputs]
    if len(images) > len(names):
        raise ImageRefused(
            f"the model takes {len(names)} images ({', '.join(names)}), {len(images)} came"
        )
    missing = [entry.modality for entry in plan.inputs[len(images) :] if entry.required]
    if missing:
        raise ImageRefused(
            f"the model needs {', '.join(missing)} besides: give the images in the order "
            f"{', '.join(names)}"
        )
    loaded: list[Volume | None] = [load_volume(path) for path in images]
    return dict(zip(names, loaded + [None] * (len(names) - len(images)), strict=True))
