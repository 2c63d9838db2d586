"""Brain mask without downloads: the MNI152 brain laid over the head, then fitted to the image."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from appliance.errors import ImageRefused
from appliance.imaging.alignment import Alignment, Profile, align_atlas
from appliance.imaging.atlas import Atlas, atlas_distance, load_atlas
from appliance.imaging.grid import Grid, crop_grid, grid_of, isotropic_ras_grid, resample
from appliance.imaging.head import above, head_image, shrunk, tones_of
from appliance.imaging.volume import Mask, Volume, apply_affine, inverse

STEP_MM: dict[Profile, float] = {"quick": 2.0, "full": 1.5}
"""Voxel size at which the mask is fitted."""

CORE_MM = 8.0
"""Deeper inside the laid-over atlas than this is brain whatever the intensity."""

REACH_MM = 5.0
"""Farther outside the laid-over atlas than this is never brain."""

TISSUE = (0.7, 1.5)
"""Brain intensities as multiples of the local median of brain."""

SURFACE = 0.35
"""Level of the smoothed mask where its surface is drawn: below one half lets the fluid around the
brain in, as published masks and the atlas's own do."""


HEAD_SCORE = 0.75
"""Below this the laid-over atlas does not look like the image: heads give 1.0 and more, prostates,
grids and noise below 0.7, a head CT with a tilted gantry 0.86."""

BRAIN_ML = (800.0, 2400.0)
"""A whole brain with the fluid around it, from a child's to the largest; less for the share of the
atlas brain that lies outside of the image."""

CT_AIR = -200.0
"""Magnitude images have no background below this."""


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
        threads: Threads of ITK's interpolation; the fit itself is single-threaded.

    Returns:
        The mask on the image's own grid, with the alignment.

    Raises:
        ImageRefused: no brain could be found: computed tomography or a phase image, another body
            part, or a brain of a size that no brain has.
    """
    _check_magnitude(volume)
    alignment = align_atlas(volume, profile)
    if alignment.score < HEAD_SCORE:
        raise ImageRefused(
            f"the image does not look like a head: likeness {alignment.score:.2f}, the least is"
            f" {HEAD_SCORE:g}; look at the image, and at the body part it was taken for"
        )
    step = STEP_MM[profile]
    small = shrunk(volume, step)
    grid = _box(grid_of(small), alignment, load_atlas(4.0), step)
    head = head_image(small, grid, tones_of(small))
    back = inverse(alignment.matrix)
    distance = resample(atlas_distance(load_atlas(2.0)), grid, matrix=back, fill=99.0).data
    smooth = head.with_data(_fitted(head, distance, step))
    fine = above(smooth, grid_of(volume), SURFACE, threads=threads)
    if not fine.any():
        raise ImageRefused("no brain was found in the image: is this a complete head image?")
    found = BrainFit(volume.with_data(fine.view(np.uint8)), alignment)
    _check_size(found)
    return found


def _check_magnitude(volume: Volume) -> None:
    """Refuse what has air far below zero."""
    every = max(1, volume.shape[0] // 64)
    air, bright = (float(v) for v in np.percentile(volume.data[::every], (0.5, 99.5)))
    if air < CT_AIR and air < -0.2 * bright:
        raise ImageRefused(
            f"the background is far below zero ({air:.0f}): computed tomography or a phase image;"
            " brain masks and defacing are for magnitude images of MR"
        )


def _check_size(found: BrainFit) -> None:
    """Refuse a mask that no brain fits into, or that holds more than a brain."""
    size = float(np.count_nonzero(found.mask.data)) * found.mask.voxel_ml
    least = BRAIN_ML[0] * found.alignment.coverage
    if not least <= size <= BRAIN_ML[1]:
        raise ImageRefused(
            f"what was found is no brain: {size:.0f} ml, expected {least:.0f} to {BRAIN_ML[1]:.0f};"
            " is this a head image with the usual contrast?"
        )


def _box(grid: Grid, alignment: Alignment, atlas: Atlas, step: float) -> Grid:
    """The isotropic grid around the laid-over brain, 12 mm wider on all sides.

    Raises:
        ImageRefused: the brain would lie outside of the image.
    """
    whole = isotropic_ras_grid(grid, (step, step, step))
    points = apply_affine(atlas.affine, np.argwhere(atlas.brain))
    index = apply_affine(inverse(whole.affine) @ alignment.matrix, points)
    inside = np.zeros(whole.shape, dtype=bool)
    place = np.rint(index).astype(int)
    place = place[np.all((place >= 0) & (place < whole.shape), axis=1)]
    if not len(place):
        raise ImageRefused("the brain lies outside of the image")
    inside[tuple(place.T)] = True
    return crop_grid(whole, inside, int(np.ceil(12.0 / step)))[0]


def _fitted(head: Volume, distance: NDArray[np.float32], step: float) -> NDArray[np.float32]:
    """The mask as a smooth field, brain above 0.5."""
    core, reach = distance < -CORE_MM, distance < REACH_MM
    if not core.any():
        raise ImageRefused("the brain lies outside of the image")
    relative = _relative(head.data, distance, step)
    tissue = (((relative > TISSUE[0]) & (relative < TISSUE[1])) & reach) | core
    kept = _largest(dilated(eroded(tissue, 6.0 / step), 6.0 / step) | core)
    kept |= dilated(kept, 3.0 / step) & tissue
    pad = int(np.ceil(8.0 / step)) + 1
    wide = dilated(np.pad(kept, pad), 8.0 / step)
    closed = eroded(wide, 8.0 / step)[pad:-pad, pad:-pad, pad:-pad]
    solid = ndimage.binary_fill_holes(closed) & reach
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


def eroded(mask: Mask, radius: float) -> Mask:
    """Erosion by a ball of this radius in voxels; beyond the border counts as inside."""
    return np.asarray(ndimage.distance_transform_edt(mask) > radius, dtype=bool)


def dilated(mask: Mask, radius: float) -> Mask:
    """Dilation by a ball of this radius in voxels."""
    return np.asarray(ndimage.distance_transform_edt(~mask) <= radius, dtype=bool)
