"""Brain mask without downloads: the MNI152 brain laid over the head, then fitted to the image."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from appliance.errors import ImageRefused
from appliance.imaging.alignment import Alignment, Profile, align_atlas, head_image
from appliance.imaging.atlas import atlas_distance, load_atlas
from appliance.imaging.grid import crop_grid, grid_of, resample
from appliance.imaging.itk import itk_threads
from appliance.imaging.volume import Mask, Volume, inverse

STEP_MM: dict[Profile, float] = {"quick": 2.0, "full": 1.5}
"""Voxel size at which the mask is fitted."""

CORE_MM = 8.0
"""Deeper inside the laid-over atlas than this is brain whatever the intensity."""

REACH_MM = 5.0
"""Farther outside the laid-over atlas than this is never brain."""

TISSUE = (0.7, 1.5)
"""Brain intensities as multiples of the local median of brain."""


@dataclass(frozen=True, slots=True, eq=False)
class BrainFit:
    """A brain mask and what it was fitted from.

    Attributes:
        mask: uint8 0/1 on the image's grid, ventricles and sulci included.
        alignment: Where the atlas lies in the image (defacing uses it too).
    """

    mask: Volume
    alignment: Alignment


def brain_mask(volume: Volume, *, profile: Profile = "full", threads: int = 1) -> Volume:
    """Mask of the brain, ventricles and sulci included; see `fit_brain`."""
    return fit_brain(volume, profile=profile, threads=threads).mask


def fit_brain(volume: Volume, *, profile: Profile = "full", threads: int = 1) -> BrainFit:
    """Find the brain in a head image of any MR contrast, or in a skull-stripped one.

    The atlas head is laid over the image (`align_atlas`). Within 8 mm inside and 5 mm outside of
    its brain surface, voxels whose intensity is near the local brain's are kept, thin bridges to
    skull and eyes are cut by opening, what hangs together with the core stays, sulci and
    ventricles are closed, and the surface is smoothed.

    Args:
        volume: The image; cropped edges are tolerated.
        profile: "quick" works at 2 mm, "full" at 1.5 mm.
        threads: Threads of ITK filters (the fit itself is single-threaded).

    Returns:
        The mask on the image's own grid, with the alignment.

    Raises:
        ImageRefused: no brain could be found.
    """
    with itk_threads(threads):
        alignment = align_atlas(volume, profile)
    step = STEP_MM[profile]
    head = head_image(volume, step)
    back = inverse(alignment.matrix)
    distance = resample(atlas_distance(load_atlas(2.0)), grid_of(head), matrix=back, fill=99.0).data
    smooth = _fitted_in_box(head, distance, step)
    fine = resample(head.with_data(smooth), grid_of(volume)).data > 0.5
    if not fine.any():
        raise ImageRefused("no brain was found in the image: is this a complete head image?")
    return BrainFit(volume.with_data(fine.astype(np.uint8)), alignment)


def _fitted_in_box(head: Volume, distance: NDArray[np.float32], step: float) -> NDArray[np.float32]:
    """`_fitted` on the atlas brain's box alone, zero elsewhere (morphology is what costs time)."""
    reach = distance < REACH_MM
    if not reach.any():
        raise ImageRefused("the brain lies outside of the image")
    part, box = crop_grid(grid_of(head), reach, int(np.ceil(12.0 / step)))
    smooth = np.zeros(head.shape, dtype=np.float32)
    smooth[box] = _fitted(Volume(head.data[box], part.affine), distance[box], step)
    return smooth


def _fitted(head: Volume, distance: NDArray[np.float32], step: float) -> NDArray[np.float32]:
    """The mask as a smooth field, brain above 0.5."""
    core, reach = distance < -CORE_MM, distance < REACH_MM
    if not core.any():
        raise ImageRefused("the brain lies outside of the image")
    relative = _relative(head.data, distance, step)
    tissue = (((relative > TISSUE[0]) & (relative < TISSUE[1])) & reach) | core
    opened = ndimage.binary_opening(tissue, _ball(6.0 / step)) | core
    kept = _largest(opened)
    kept |= ndimage.binary_dilation(kept, _ball(3.0 / step)) & tissue
    pad = int(np.ceil(8.0 / step)) + 1
    closed = ndimage.binary_closing(np.pad(kept, pad), _ball(8.0 / step))
    inner = closed[pad:-pad, pad:-pad, pad:-pad]
    solid = ndimage.binary_fill_holes(inner) & reach
    return np.asarray(
        ndimage.gaussian_filter(solid.astype(np.float32), 2.5 / step, mode="nearest"),
        dtype=np.float32,
    )


def _relative(
    data: NDArray[np.float32], distance: NDArray[np.float32], step: float
) -> NDArray[np.float32]:
    """Intensity over the local brain's, local meaning a Gaussian of 12 mm."""
    inner = data[distance < -2.0]
    bright = inner[inner > 0.3 * float(np.median(inner))]
    if bright.size == 0:
        raise ImageRefused("where the brain should be, the image is empty")
    middle = float(np.median(bright))
    sure = (distance < -4.0) & (data > 0.6 * middle) & (data < 1.5 * middle)
    weight = ndimage.gaussian_filter(sure.astype(np.float32), 12.0 / step, truncate=3.0)
    total = ndimage.gaussian_filter(
        np.where(sure, data, 0).astype(np.float32), 12.0 / step, truncate=3.0
    )
    local = np.where(weight > 0.02, total / np.maximum(weight, 1e-3), middle)
    return np.asarray(data / np.maximum(local, 1e-6), dtype=np.float32)


def _largest(mask: Mask) -> Mask:
    pieces, _ = ndimage.label(mask)
    sizes = np.bincount(pieces.ravel())
    sizes[0] = 0
    return np.asarray(pieces == int(sizes.argmax()), dtype=bool)


def _ball(radius: float) -> Mask:
    """A ball as structuring element, radius in voxels."""
    reach = int(radius)
    grid = np.mgrid[-reach : reach + 1, -reach : reach + 1, -reach : reach + 1]
    return np.asarray((grid**2).sum(axis=0) <= radius * radius + 0.01, dtype=bool)
