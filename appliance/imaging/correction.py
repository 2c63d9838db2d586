"""Corrections of grey values before resampling: bias field, noise, normalisation."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from appliance.errors import ImageRefused
from appliance.imaging.grid import Grid, grid_of, resample
from appliance.imaging.itk import itk_threads, sitk, to_itk
from appliance.imaging.volume import Mask, Volume

N4_STEP_MM = 4.0
"""Voxel size at which the bias field is estimated; the field is smooth, so coarse is enough."""

N4_ITERATIONS = (30, 30, 20)


def correct_bias(volume: Volume, brain: Volume, *, threads: int = 1) -> Volume:
    """Remove the smooth multiplicative intensity field of the coil (N4).

    Source: Tustison et al., IEEE Trans. Med. Imaging 29:1310 (2010). The field is estimated in the
    brain at 4 mm, three B-spline levels, and divided out at full resolution.

    Args:
        volume: The image, not negative.
        brain: Its brain mask, same grid.
        threads: Threads of ITK.

    Returns:
        The corrected image, float32, brain mean unchanged.

    Raises:
        ImageRefused: the mask is empty.
    """
    if not brain.data.any():
        raise ImageRefused("the brain mask is empty: the bias field cannot be estimated")
    grid = _coarse_grid(grid_of(volume))
    coarse = resample(volume, grid)
    coarse = coarse.with_data(np.maximum(coarse.data, 0.0))
    inside = resample(brain.with_data((brain.data > 0).astype(np.float32)), grid).data > 0.5
    inside &= coarse.data > 0
    if inside.sum() < 200:
        return volume.with_data(np.asarray(volume.data, dtype=np.float32))
    with itk_threads(threads):
        n4 = sitk.N4BiasFieldCorrectionImageFilter()
        n4.SetMaximumNumberOfIterations(list(N4_ITERATIONS))
        n4.SetConvergenceThreshold(1e-3)
        n4.Execute(to_itk(coarse), to_itk(coarse.with_data(inside.astype(np.uint8)), np.uint8))
        log_field = sitk.GetArrayFromImage(n4.GetLogBiasFieldAsImage(to_itk(coarse))).T
    field = resample(_extended(coarse, log_field, inside), grid_of(volume)).data
    corrected = np.asarray(volume.data, dtype=np.float32) / np.exp(field)
    mask = brain.data > 0
    scale = float(np.mean(volume.data[mask])) / max(float(np.mean(corrected[mask])), 1e-9)
    return volume.with_data(np.asarray(corrected * scale, dtype=np.float32))


def remove_noise(volume: Volume, *, threads: int = 1) -> Volume:
    """Smooth noise and keep edges: curvature anisotropic diffusion, five steps.

    Source: Whitaker & Xue, ICIP 2001 (modified curvature diffusion equation).

    Args:
        volume: The image.
        threads: Threads of ITK.

    Returns:
        The smoothed image, float32, same grid.
    """
    image = to_itk(volume)
    image.SetSpacing((1.0, 1.0, 1.0))
    with itk_threads(threads):
        smooth = sitk.CurvatureAnisotropicDiffusion(image, 0.0625, 3.0, 1, 5)
    return volume.with_data(np.ascontiguousarray(sitk.GetArrayFromImage(smooth).T))


def zscore(data: NDArray[np.float32], inside: Mask) -> NDArray[np.float32]:
    """Mean 0 and standard deviation 1 over the voxels of a mask.

    Args:
        data: (X, Y, Z).
        inside: Voxels that count.

    Returns:
        (data - mean) / sd everywhere; all zeros where the mask is empty.

    Raises:
        ImageRefused: the image is constant inside the mask.
    """
    values = data[inside].astype(np.float64)
    if values.size == 0:
        return np.zeros_like(data)
    spread = float(values.std())
    if spread < 1e-12 * max(1.0, abs(float(values.mean()))):
        raise ImageRefused("the image is constant inside the brain: it cannot be normalised")
    return np.asarray((data - float(values.mean())) / spread, dtype=np.float32)


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
