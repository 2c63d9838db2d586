"""Corrections of grey values before resampling: bias field and noise."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from appliance.errors import ImageRefused
from appliance.imaging.grid import Grid, grid_of, resample
from appliance.imaging.itk import itk_threads, sitk, to_itk
from appliance.imaging.normalisation import otsu_threshold
from appliance.imaging.volume import Mask, Volume

N4_STEP_MM = 4.0
"""Voxel size at which the bias field is estimated; the field is smooth, so coarse is enough."""

N4_ITERATIONS = (30, 30, 20)
N4_VERSION = 2
"""Rises with every change of what `correct_bias` gives; keys what is kept of it."""
N4_VOXELS = 200
"""Fewest voxels, at the coarse size, in which a field can be estimated."""

NOISE_STEPS = 5
NOISE_CONDUCTANCE = 3.0
NOISE_VERSION = 1
"""Rises with every change of what `remove_noise` gives."""


def correct_bias(volume: Volume, brain: Volume | None, *, threads: int = 1) -> Volume:
    """Remove the smooth multiplicative intensity field of the coil (N4).

    Source: Tustison et al., IEEE Trans. Med. Imaging 29:1310 (2010). The field is estimated in the
    brain at 4 mm, three B-spline levels of 30, 30 and 20 iterations, and divided out at full
    resolution. It is held within the range it has in the brain (0.1 to 99.9 percentile). Where
    fewer than 200 coarse voxels are left, the image is given back as it is.

    Args:
        volume: The image; negative values count as 0 in the estimate.
        brain: Its brain mask, same grid; None takes what is brighter than Otsu's threshold.
        threads: Threads of ITK.

    Returns:
        The corrected image, float32, mean over the mask unchanged.

    Raises:
        ImageRefused: the mask is empty, the image is a single slice, or without a mask constant.
    """
    if min(volume.shape) < 2:
        raise ImageRefused(
            f"the image has shape {volume.shape}: a bias field needs two slices at least"
        )
    if brain is None:
        grey = np.asarray(volume.data, dtype=np.float32)
        solid = grey > otsu_threshold(grey.ravel())
        brain = volume.with_data(solid.astype(np.uint8))
    if not brain.data.any():
        raise ImageRefused("the brain mask is empty: the bias field cannot be estimated")
    grid = _coarse_grid(grid_of(volume))
    coarse = resample(volume, grid)
    coarse = coarse.with_data(np.maximum(coarse.data, 0.0))
    inside = resample(brain.with_data((brain.data > 0).astype(np.float32)), grid).data > 0.5
    inside &= coarse.data > 0
    if inside.sum() < N4_VOXELS:
        return volume.with_data(np.asarray(volume.data, dtype=np.float32))
    with itk_threads(threads):
        n4 = sitk.N4BiasFieldCorrectionImageFilter()
        n4.SetMaximumNumberOfIterations(list(N4_ITERATIONS))
        n4.SetConvergenceThreshold(1e-3)
        n4.Execute(to_itk(coarse), to_itk(coarse.with_data(inside.astype(np.uint8)), np.uint8))
        log_field = sitk.GetArrayFromImage(n4.GetLogBiasFieldAsImage(to_itk(coarse))).T
    field = resample(_extended(coarse, log_field, inside), grid_of(volume)).data
    np.exp(field, out=field)
    corrected = np.divide(volume.data, field, out=field, dtype=np.float32)
    mask = brain.data > 0
    before = float(np.mean(volume.data[mask], dtype=np.float64))
    corrected *= np.float32(before / max(float(np.mean(corrected[mask], dtype=np.float64)), 1e-9))
    return volume.with_data(corrected)


def remove_noise(volume: Volume, *, threads: int = 1) -> Volume:
    """Smooth noise and keep edges: curvature anisotropic diffusion, five steps of 0.0625.

    Source: Whitaker & Xue, ICIP 2001 (modified curvature diffusion equation); conductance 3, in
    units of the image's own average gradient. Distances count in voxels.

    Args:
        volume: The image.
        threads: Threads of ITK.

    Returns:
        The smoothed image, float32, same grid.
    """
    image = to_itk(volume)
    image.SetSpacing((1.0, 1.0, 1.0))
    with itk_threads(threads):
        smooth = sitk.CurvatureAnisotropicDiffusion(
            image, 0.0625, NOISE_CONDUCTANCE, 1, NOISE_STEPS
        )
    return volume.with_data(np.ascontiguousarray(sitk.GetArrayFromImage(smooth).T))


def _coarse_grid(grid: Grid) -> Grid:
    """The same directions and corner with voxels of about `N4_STEP_MM`, at least four per axis."""
    spacing = np.array(grid.spacing)
    shape = np.maximum(4, np.ceil(np.array(grid.shape) * spacing / N4_STEP_MM)).astype(int)
    shape = np.minimum(shape, np.array(grid.shape))
    ratio = np.array(grid.shape) / shape
    affine = grid.affine.copy()
    affine[:3, :3] = grid.affine[:3, :3] * ratio
    affine[:3, 3] = grid.affine[:3, 3] + grid.affine[:3, :3] @ ((ratio - 1) / 2)
    return Grid((int(shape[0]), int(shape[1]), int(shape[2])), affine)


def _extended(coarse: Volume, log_field: NDArray[np.float32], inside: Mask) -> Volume:
    """The field kept within the range it has in the brain, so that it cannot run away outside."""
    low, high = np.percentile(log_field[inside], [0.1, 99.9])
    return coarse.with_data(np.clip(log_field, low, high).astype(np.float32))
