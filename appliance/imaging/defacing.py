"""Taking the face out of a head image, and proof that the brain was not touched."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from appliance.errors import ImageRefused, StageFailed
from appliance.imaging.alignment import Alignment, align_atlas
from appliance.imaging.atlas import atlas_distance, load_atlas
from appliance.imaging.grid import (
    Grid,
    crop_grid,
    grid_of,
    isotropic_ras_grid,
    resample,
    same_grid,
)
from appliance.imaging.head import above, shrunk
from appliance.imaging.volume import Mask, Volume, inverse

BROW = (78.0, 16.0)
"""MNI (y, z) in mm of a point in front of the frontal pole, above the brows: on the cut plane."""

THROAT = (-10.0, -72.0)
"""MNI (y, z) in mm of a point below the pons: on the cut plane."""

FRONT_MM = -1.0
"""Voxels deeper than this in the laid-over atlas brain always stay. Not its very surface: above the
orbits it may lie a little outside of this patient's brain, and the mask has a margin of its own."""

MARGIN_MM = 5.0
"""Voxels this close to the brain mask stay, see `REACH_MM`."""

REACH_MM = 7.0
"""Farther from the atlas brain than this the margin around the mask does not count, so that a mask
that leaks into an orbit does not keep the face."""

BEHIND = (45.0, 10.0)
"""Behind this MNI y (mm) there is no face, and the atlas margin is this wide (mm)."""

EAR_MM = 17.0
"""At the sides, below the brain's middle, what is farther from the brain than this goes as well."""

FIELD_MM = 2.0
"""Voxel size at which the face's limits are drawn."""

FAR_MM = 12.0
"""Distances to the brain mask are told up to this."""


def deface(volume: Volume, mask: Volume, *, alignment: Alignment | None = None) -> Volume:
    """Remove face, jaw and ears; keep the brain with a margin, skull, scalp and neck behind.

    Everything in front of and below a plane from above the brows to below the pons (in MNI space,
    laid over the image), and the ears, gets the image's lowest value, except the brain
    mask with a margin of 5 mm and the atlas brain (with 10 mm behind the face). The
    result is checked before it is returned.

    Args:
        volume: A head image.
        mask: Its brain mask on the same grid.
        alignment: Where the atlas lies (`fit_brain` gives it); found anew when left out.

    Returns:
        The image without face, same type and grid.

    Raises:
        ImageRefused: the mask is empty or on another grid.
        StageFailed: the check found a changed brain voxel or a voxel left in the face region.
    """
    if not same_grid(grid_of(volume), grid_of(mask)):
        raise ImageRefused("the brain mask stands on another grid than the image")
    brain = mask.data > 0
    if not brain.any():
        raise ImageRefused("the brain mask is empty: without it the face cannot be told apart")
    laid = alignment or align_atlas(volume, "quick")
    region = face_region(grid_of(volume), laid, brain)
    data = volume.data.copy()
    data[region] = volume.data.min()
    result = volume.with_data(data)
    verify_defaced(volume, result, brain, region)
    return result


def face_region(grid: Grid, alignment: Alignment, brain: Mask) -> Mask:
    """Where face, jaw and ears are expected, brain and margins left out.

    Each limit is a depth in mm, positive on the side of the face; the least of them is drawn at
    2 mm, is smooth except at edges, and is read at the voxels of the image.

    Args:
        grid: The image's grid.
        alignment: Where the atlas lies in it.
        brain: Brain mask on the grid.

    Returns:
        (X, Y, Z), true where voxels have to go.
    """
    coarse = isotropic_ras_grid(grid, (FIELD_MM, FIELD_MM, FIELD_MM))
    back = inverse(alignment.matrix)
    index_to_mni = back @ coarse.affine
    axes = [np.arange(n, dtype=np.float32) for n in coarse.shape]
    x, y, z = (_coordinate(index_to_mni[row], axes) for row in range(3))
    distance = resample(atlas_distance(load_atlas(2.0)), coarse, matrix=back, fill=99.0).data
    slope = (BROW[1] - THROAT[1]) / (BROW[0] - THROAT[0])
    under = (BROW[1] + slope * (y - BROW[0]) - z) / np.hypot(1.0, slope)
    face = np.minimum(under, y - THROAT[0])
    ears = np.minimum(np.minimum(np.abs(x) - 60.0, 10.0 - z), distance - EAR_MM)
    behind = np.where(y < BEHIND[0], distance - BEHIND[1], np.inf)
    margin = np.maximum(_outside(brain, grid, coarse) - MARGIN_MM, distance - REACH_MM)
    free = np.minimum(np.minimum(distance - FRONT_MM, behind), margin)
    depth = np.minimum(np.maximum(face, ears), free).astype(np.float32)
    return above(Volume(depth, coarse.affine), grid, 0.0) & ~brain


def _outside(brain: Mask, grid: Grid, coarse: Grid) -> NDArray[np.float32]:
    """Distance in mm to the brain mask on an isotropic grid, at most `FAR_MM`."""
    small = shrunk(Volume(brain.view(np.uint8), grid.affine), FIELD_MM)
    inside = resample(small, coarse).data > 0.5
    result = np.full(coarse.shape, FAR_MM, dtype=np.float32)
    if inside.any():
        _, box = crop_grid(coarse, inside, int(np.ceil(FAR_MM / FIELD_MM)))
        away = ndimage.distance_transform_edt(~inside[box]) - 0.5
        result[box] = np.minimum(away * FIELD_MM, FAR_MM)
    return result


def verify_defaced(before: Volume, after: Volume, brain: Mask, region: Mask) -> None:
    """Check that the brain is unchanged and that nothing is left in the region.

    Raises:
        StageFailed: a brain voxel changed, or a voxel of the region kept another value than the
            image's lowest.
    """
    changed = int((before.data[brain] != after.data[brain]).sum())
    if changed:
        raise StageFailed(f"defacing changed {changed} voxels of the brain: nothing was written")
    left = int((after.data[region] != before.data.min()).sum())
    if left:
        raise StageFailed(f"defacing left {left} voxels of the face: nothing was written")


def removed_ml(before: Volume, after: Volume) -> float:
    """Volume in ml of tissue that defacing took out.

    Tissue: brighter than a tenth of the way from the lowest value to the 98th percentile.
    """
    low, high = float(before.data.min()), float(np.percentile(before.data, 98))
    tissue = before.data > low + 0.1 * (high - low)
    return float((tissue & (after.data != before.data)).sum()) * before.voxel_ml


def _coordinate(row: NDArray[np.float64], axes: list[NDArray[np.float32]]) -> NDArray[np.float32]:
    """One MNI coordinate of all voxels, float32, broadcast over (X, Y, Z)."""
    i, j, k = (np.float32(factor) * axis for factor, axis in zip(row[:3], axes, strict=True))
    return np.asarray(
        i[:, None, None] + j[None, :, None] + k[None, None, :] + np.float32(row[3]),
        dtype=np.float32,
    )
