"""A study's images on a plan's grid, and masks from that grid back to the source."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from appliance.errors import ImageRefused
from appliance.imaging.correction import (
    N4_ITERATIONS,
    N4_STEP_MM,
    N4_VERSION,
    NOISE_CONDUCTANCE,
    NOISE_STEPS,
    NOISE_VERSION,
    correct_bias,
    remove_noise,
)
from appliance.imaging.grid import (
    RESAMPLE_VERSION,
    Grid,
    aligned_ras_grid,
    covered,
    crop_grid,
    isotropic_ras_grid,
    resample,
    sized_grid,
)
from appliance.imaging.masks import as_labels, resample_labels
from appliance.imaging.normalisation import Regions, scaling_for
from appliance.imaging.sources import (
    Recompute,
    Source,
    Step,
    StepResults,
    grid_json,
    matrix_json,
    memory_source,
)
from appliance.imaging.volume import Affine, Mask, Volume, inverse
from federation.canonical import JSON
from federation.plan import Preparation

__all__ = ["PreparedCase", "StudyImages", "invert", "prepare", "prepare_study", "resample_labels"]

NO_MASK = "no mask"
"""Stands for the brain mask in the keys of results that were made without one."""


@dataclass(frozen=True, slots=True, eq=False)
class PreparedCase:
    """What a model reads.

    Attributes:
        image: float32 (C, X, Y, Z), axes RAS, channels in the order of the inputs.
        label: uint8 (X, Y, Z) label values, or None where the study has none.
        brain: uint8 0/1 (X, Y, Z); without a brain mask 1 where the reference image is.
        affine: 4 x 4, prepared voxel index to the reference image's RAS world, mm.
        present: Per channel whether the study had it (otherwise it is zeros).
    """

    image: NDArray[np.float32]
    label: NDArray[np.uint8] | None
    brain: NDArray[np.uint8]
    affine: Affine
    present: tuple[bool, ...]


@dataclass(frozen=True, slots=True, eq=False)
class StudyImages:
    """What there is of a study.

    Attributes:
        inputs: Images by modality in the plan's order; None for an optional one that is missing.
        reference: Grid of the reference image, in whose world the transforms begin.
        brain: Brain mask of the reference on its grid; None for bodies without one.
        transforms: By modality the matrix from the reference's world (fixed) to that image's
            (moving), RAS mm; a modality without one lies in the reference's world itself.
        label: Label values in the reference's world, on any grid, or None.
    """

    inputs: Mapping[str, Source | None]
    reference: Grid
    brain: Source | None = None
    transforms: Mapping[str, Affine] = field(default_factory=dict)
    label: Volume | None = None


def prepare(
    inputs: Mapping[str, Volume | None],
    preparation: Preparation,
    *,
    label: Volume | None,
    transforms: Mapping[str, Affine],
    brain: Volume | None,
    threads: int = 1,
) -> PreparedCase:
    """`prepare_study` for images in memory.

    Args:
        inputs: Images by modality in the plan's order; None for an optional one that is missing.
        preparation: The plan's preparation section.
        label: Label values in the reference's world, on any grid, or None.
        transforms: As in `StudyImages`.
        brain: Brain mask of the reference, on its grid; None where the body has none, the
            reference is then the first image that needs no transform.
        threads: Threads of ITK filters.

    Raises:
        ImageRefused: as `prepare_study`, or no image that can be the reference.
    """
    sources = {kind: v if v is None else memory_source(v) for kind, v in inputs.items()}
    if all(source is None for source in sources.values()):
        raise ImageRefused("none of the plan's inputs is there: nothing to prepare")
    mask = None if brain is None else memory_source(brain)
    still = [s.grid for kind, s in sources.items() if s is not None and kind not in transforms]
    if mask is None and not still:
        raise ImageRefused("no input lies in the reference's world: which grid is meant?")
    reference = still[0] if mask is None else mask.grid
    study = StudyImages(sources, reference, mask, transforms, label)
    return prepare_study(study, preparation, threads=threads)


def prepare_study(
    study: StudyImages,
    preparation: Preparation,
    *,
    results: StepResults | None = None,
    threads: int = 1,
) -> PreparedCase:
    """Bring a study onto the plan's grid.

    In order: bias correction and denoising on each image's own grid (if the plan says so), one
    resampling through its transform, normalisation, zero outside the brain (if the plan strips the
    skull). One image at a time is in memory besides the result.

    Args:
        study: Images, mask, transforms and label.
        preparation: The plan's preparation section.
        results: Keeps the results of bias correction, denoising and resampling; None for nothing.
        threads: Threads of ITK filters.

    Returns:
        The arrays. A missing modality, and places that an image does not cover, are zeros.

    Raises:
        ImageRefused: no image at all, no brain mask where the plan needs one, an empty one, or an
            image that cannot be normalised.
    """
    if all(source is None for source in study.inputs.values()):
        raise ImageRefused("none of the plan's inputs is there: nothing to prepare")
    kept: StepResults = results or Recompute()
    grid, inside = _target(study, preparation)
    image = np.zeros((len(study.inputs), *grid.shape), dtype=np.float32)
    for channel, (modality, source) in zip(image, study.inputs.items(), strict=True):
        if source is None:
            continue
        matrix = study.transforms.get(modality)
        improved = _improved(source, study, matrix, preparation, kept, threads)
        resampled = _resampled(improved, grid, matrix, preparation, kept)
        reach = covered(source.grid, grid, matrix)
        if not (inside & reach).any():
            raise ImageRefused("an input does not cover the brain: was it registered?")
        regions = Regions(inside, reach)
        scaling_for(resampled, regions, preparation, modality).apply(resampled, out=channel)
        channel[~reach] = 0.0
        if preparation.skull_strip:
            channel[~inside] = 0.0
    return PreparedCase(
        image=image,
        label=None if study.label is None else resample_labels(study.label, grid),
        brain=inside.astype(np.uint8),
        affine=grid.affine,
        present=tuple(source is not None for source in study.inputs.values()),
    )


def invert(
    mask: NDArray[np.integer],
    affine: Affine,
    grid: Grid,
    interpolation: Literal["nearest", "linear"] = "linear",
) -> Volume:
    """A mask from the prepared grid back on the source image's grid.

    Args:
        mask: (X, Y, Z) label values 0 to 255 on the prepared grid.
        affine: The prepared case's affine.
        grid: The source image's grid; the result's affine is exactly its affine.
        interpolation: "linear" keeps the volume of every connected piece (`resample_labels`), so
            that no lesion is lost in thick slices; "nearest" takes the voxel that lies nearest.

    Returns:
        uint8 volume on `grid`, 0 outside the prepared region.

    Raises:
        ImageRefused: values outside 0 to 255.
    """
    prepared = Volume(as_labels(mask), affine)
    if interpolation == "linear":
        return Volume(resample_labels(prepared, grid), grid.affine)
    return resample(prepared, grid, interpolation="nearest")


def _target(study: StudyImages, preparation: Preparation) -> tuple[Grid, Mask]:
    """The prepared grid and the region that counts on it: the brain, else the reference."""
    make = isotropic_ras_grid if preparation.axes == "world" else aligned_ras_grid
    grid = make(study.reference, preparation.spacing_mm)
    if preparation.crop == "centre" and preparation.size is not None:
        grid = sized_grid(grid, preparation.size)
    if study.brain is None:
        if preparation.needs_brain:
            words = ", ".join(preparation.needs_brain)
            raise ImageRefused(f"the plan needs a brain mask ({words}), the study has none")
        return grid, covered(study.reference, grid)
    brain = study.brain.load()
    if not brain.data.any():
        raise ImageRefused("the brain mask is empty: the study cannot be prepared")
    solid = brain.with_data((brain.data > 0).astype(np.float32))
    inside = resample(solid, grid).data >= 0.5
    if not inside.any():
        raise ImageRefused("the brain mask vanishes on the plan's grid: is it a brain?")
    if preparation.crop != "brain":
        return grid, inside
    x, y, z = (int(np.ceil(preparation.crop_margin_mm / s)) for s in preparation.spacing_mm)
    part, box = crop_grid(grid, inside, (x, y, z))
    return part, np.ascontiguousarray(inside[box])


def _improved(
    source: Source,
    study: StudyImages,
    matrix: Affine | None,
    preparation: Preparation,
    results: StepResults,
    threads: int,
) -> Source:
    """Bias correction and denoising on the image's own grid, as the plan says."""
    improved = source
    if preparation.n4:
        improved = _unbiased(improved, study.brain, matrix, results, threads)
    if preparation.denoise:
        improved = _denoised(improved, results, threads)
    return improved


def _unbiased(
    source: Source, brain: Source | None, matrix: Affine | None, results: StepResults, threads: int
) -> Source:
    def make() -> Volume:
        if brain is None:
            return correct_bias(source.load(), None, threads=threads)
        back = None if matrix is None else inverse(matrix)
        own = resample(brain.load(), source.grid, matrix=back, interpolation="nearest")
        return correct_bias(source.load(), own, threads=threads)

    parameters: dict[str, JSON] = {
        "step_mm": N4_STEP_MM,
        "iterations": list(N4_ITERATIONS),
        "matrix": None if brain is None else matrix_json(matrix),
    }
    keys = (source.key, NO_MASK if brain is None else brain.key)
    step = Step("n4", N4_VERSION, keys, parameters)
    return Source(source.grid, lambda: results.volume(step, make), step.key)


def _denoised(source: Source, results: StepResults, threads: int) -> Source:
    parameters: dict[str, JSON] = {"conductance": NOISE_CONDUCTANCE, "steps": NOISE_STEPS}
    step = Step("denoise", NOISE_VERSION, (source.key,), parameters)

    def make() -> Volume:
        return remove_noise(source.load(), threads=threads)

    return Source(source.grid, lambda: results.volume(step, make), step.key)


def _resampled(
    source: Source,
    grid: Grid,
    matrix: Affine | None,
    preparation: Preparation,
    results: StepResults,
) -> NDArray[np.float32]:
    """Grey values on the grid, 0 where the image does not reach."""
    way = preparation.interpolation
    parameters: dict[str, JSON] = {
        "interpolation": way,
        "grid": grid_json(grid),
        "matrix": matrix_json(matrix),
    }
    step = Step("resample", RESAMPLE_VERSION, (source.key,), parameters)
    made = results.volume(step, lambda: resample(source.load(), grid, matrix, way))
    return np.asarray(made.data, dtype=np.float32)
