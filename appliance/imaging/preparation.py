"""A study's images on a plan's grid, and masks from that grid back to the source."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from appliance.errors import ImageRefused
from appliance.imaging.correction import correct_bias, remove_noise, zscore
from appliance.imaging.grid import (
    Grid,
    Interpolation,
    crop_grid,
    grid_of,
    isotropic_ras_grid,
    resample,
)
from appliance.imaging.volume import Affine, Mask, Volume, inverse
from federation.plan import Preparation

CROP_MARGIN_MM = 6.0
"""Border kept around the brain when a plan crops to it."""


@dataclass(frozen=True, slots=True, eq=False)
class PreparedCase:
    """What a model reads.

    Attributes:
        image: float32 (C, X, Y, Z), axes RAS, channels in the order of the inputs.
        label: uint8 (X, Y, Z) label values, or None where the study has none.
        brain: uint8 0/1 (X, Y, Z).
        affine: 4 x 4, prepared voxel index to the reference image's RAS world, mm.
        present: Per channel whether the study had it (otherwise it is zeros).
    """

    image: NDArray[np.float32]
    label: NDArray[np.uint8] | None
    brain: NDArray[np.uint8]
    affine: Affine
    present: tuple[bool, ...]


def prepare(
    inputs: Mapping[str, Volume | None],
    preparation: Preparation,
    *,
    label: Volume | None,
    transforms: Mapping[str, Affine],
    brain: Volume,
    threads: int = 1,
) -> PreparedCase:
    """Bring a study onto the plan's grid.

    In order: bias correction and denoising on each image's own grid (if the plan says so), one
    linear resampling through its transform, z-score over the brain, zero outside the brain (if the
    plan strips the skull).

    Args:
        inputs: Images by modality in the plan's order; None for an optional one that is missing.
        preparation: The plan's preparation section.
        label: Label values in the reference's world, on any grid, or None.
        transforms: By modality the matrix from the reference's world (fixed) to that image's
            (moving), RAS mm; a modality without one lies in the reference's world itself.
        brain: Brain mask of the reference (the FLAIR), on its grid.
        threads: Threads of ITK filters.

    Returns:
        The arrays. A missing modality, and places that an image does not cover, are zeros.

    Raises:
        ImageRefused: no image at all, an empty brain mask, or a constant image.
    """
    if all(volume is None for volume in inputs.values()):
        raise ImageRefused("none of the plan's inputs is there: nothing to prepare")
    if not brain.data.any():
        raise ImageRefused("the brain mask is empty: the study cannot be prepared")
    grid, inside = _target(brain, preparation)
    channels = []
    for modality, volume in inputs.items():
        if volume is None:
            channels.append(np.zeros(grid.shape, dtype=np.float32))
            continue
        matrix = transforms.get(modality)
        improved = _improved(volume, brain, matrix, preparation, threads)
        channels.append(_channel(improved, grid, matrix, inside))
    image = np.stack(channels)
    if preparation.skull_strip:
        image[:, ~inside] = 0.0
    return PreparedCase(
        image=image,
        label=None if label is None else resample_labels(label, grid),
        brain=inside.astype(np.uint8),
        affine=grid.affine,
        present=tuple(volume is not None for volume in inputs.values()),
    )


def invert(
    mask: NDArray[np.integer],
    affine: Affine,
    grid: Grid,
    interpolation: Interpolation = "nearest",
) -> Volume:
    """A mask from the prepared grid back on the source image's grid.

    Args:
        mask: (X, Y, Z) label values 0 to 255 on the prepared grid.
        affine: The prepared case's affine.
        grid: The source image's grid; the result's affine is exactly its affine.
        interpolation: "nearest", or "linear": per label value, half or more of the voxel, which
            gives smoother outlines where the source grid is finer than the prepared one.

    Returns:
        uint8 volume on `grid`, 0 outside the prepared region.

    Raises:
        ImageRefused: values outside 0 to 255.
    """
    prepared = Volume(_as_labels(mask), affine)
    if interpolation == "linear":
        return Volume(resample_labels(prepared, grid), grid.affine)
    return resample(prepared, grid, interpolation="nearest")


def resample_labels(label: Volume, grid: Grid) -> NDArray[np.uint8]:
    """Label values on another grid: per value by partial volume, at least half wins.

    Args:
        label: Label values 0 to 255 on any grid.
        grid: Where the result stands.

    Returns:
        uint8 (X, Y, Z).

    Raises:
        ImageRefused: values outside 0 to 255, or fractions.
    """
    values = _as_labels(label.data)
    result = np.zeros(grid.shape, dtype=np.uint8)
    best = np.full(grid.shape, 0.5, dtype=np.float32)
    for value in np.unique(values[values > 0]):
        share = resample(label.with_data((values == value).astype(np.float32)), grid).data
        wins = share >= best
        result[wins] = value
        best[wins] = share[wins]
    return result


def _target(brain: Volume, preparation: Preparation) -> tuple[Grid, Mask]:
    """The prepared grid and the brain on it."""
    spacing = preparation.spacing_mm
    grid = isotropic_ras_grid(grid_of(brain), spacing)
    solid = brain.with_data((brain.data > 0).astype(np.float32))
    inside = resample(solid, grid).data >= 0.5
    if not inside.any():
        raise ImageRefused("the brain mask vanishes on the plan's grid: is it a brain?")
    if preparation.crop == "none":
        return grid, inside
    margin = int(np.ceil(CROP_MARGIN_MM / min(spacing)))
    part, box = crop_grid(grid, inside, margin)
    return part, np.ascontiguousarray(inside[box])


def _improved(
    volume: Volume,
    brain: Volume,
    matrix: Affine | None,
    preparation: Preparation,
    threads: int,
) -> Volume:
    """Bias correction and denoising on the image's own grid, as the plan says."""
    improved = volume
    if preparation.n4:
        back = None if matrix is None else inverse(matrix)
        own = resample(brain, grid_of(volume), matrix=back, interpolation="nearest")
        improved = correct_bias(improved, own, threads=threads)
    if preparation.denoise:
        improved = remove_noise(improved, threads=threads)
    return improved


def _channel(
    volume: Volume, grid: Grid, matrix: Affine | None, inside: Mask
) -> NDArray[np.float32]:
    """One image on the grid, z-scored over the brain; zero where the image does not reach."""
    values = resample(volume, grid, matrix=matrix)
    ones = volume.with_data(np.ones(volume.shape, dtype=np.uint8))
    covered = resample(ones, grid, matrix=matrix, interpolation="nearest").data > 0
    if not (inside & covered).any():
        raise ImageRefused("an input does not cover the brain: was it registered?")
    channel = zscore(values.data, inside & covered)
    channel[~covered] = 0.0
    return channel


def _as_labels(values: NDArray[np.integer] | NDArray[np.floating]) -> NDArray[np.uint8]:
    if values.size and (values.min() < 0 or values.max() > 255):
        raise ImageRefused("label values must lie between 0 and 255")
    labels = values.astype(np.uint8)
    if not np.array_equal(labels, values):
        raise ImageRefused("label values must be whole numbers")
    return labels
