"""Figures of signal, noise and artefact, each a pure function on arrays with a known formula."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from appliance.imaging.grid import crop_grid, grid_of
from appliance.imaging.volume import Mask, Volume

LAPLACE = np.array([[1.0, -2.0, 1.0], [-2.0, 4.0, -2.0], [1.0, -2.0, 1.0]], dtype=np.float32)
"""Difference of two Laplacians: blind to edges up to second order; noise gain 6."""

PLANE = np.ones((3, 3), dtype=bool)

LEAST_VOXELS = 200
"""Fewer voxels than this give no figure."""


def noise_level(data: NDArray[np.floating], inside: Mask, slice_axis: int = 2) -> float | None:
    """Standard deviation of the noise in a region, from what is left of it after edges are out.

    sigma = median |I * N| / (0.6745 * 6) with N = [[1,-2,1],[-2,4,-2],[1,-2,1]] in each slice.
    Source: Immerkaer, Comput. Vis. Image Underst. 64:300 (1996), with the median for robustness.
    Interpolated images (zero-filled k-space) give less than their true noise.

    Args:
        data: (X, Y, Z).
        inside: Where noise is measured.
        slice_axis: Array axis across slices; the kernel works in the plane of the other two.

    Returns:
        Sigma in the image's units; None below 200 voxels.
    """
    if int(inside.sum()) < LEAST_VOXELS:
        return None
    kernel = np.expand_dims(LAPLACE, slice_axis)
    residual = ndimage.convolve(np.asarray(data, dtype=np.float32), kernel, mode="nearest")
    return float(np.median(np.abs(residual[inside]))) / (0.6745 * 6.0)


def tissue_and_fluid(
    data: NDArray[np.floating], brain: Mask, slice_axis: int = 2
) -> tuple[Mask, Mask]:
    """Split a brain mask into brain tissue and dark fluid by intensity (T1 and FLAIR alike).

    Fluid: below half the brain's median, in the mask eroded by one voxel in plane (so that its rim
    does not count). Tissue: between 0.7 and 1.5 times the median.

    Args:
        data: (X, Y, Z).
        brain: Brain mask.
        slice_axis: Array axis across slices.

    Returns:
        Tissue mask and fluid mask.
    """
    if not brain.any():
        return np.zeros_like(brain), np.zeros_like(brain)
    middle = float(np.median(data[brain]))
    core = ndimage.binary_erosion(brain, np.expand_dims(PLANE, slice_axis))
    fluid = core & (data < 0.5 * middle)
    tissue = core & (data > 0.7 * middle) & (data < 1.5 * middle)
    return np.asarray(tissue, dtype=bool), np.asarray(fluid, dtype=bool)


def signal_to_noise(signal: float | None, noise: float | None) -> float | None:
    """Mean signal over the noise's standard deviation; None where either is missing or noise is 0.

    >>> signal_to_noise(100.0, 5.0)
    20.0
    """
    if signal is None or noise is None or noise <= 0:
        return None
    return signal / noise


def mean_inside(data: NDArray[np.floating], inside: Mask) -> float | None:
    """Mean over a mask; None below 200 voxels."""
    if int(inside.sum()) < LEAST_VOXELS:
        return None
    return float(data[inside].mean())


def thinned(
    volume: Volume, mask: Mask, step_mm: float = 2.0, *, axes: tuple[int, ...] = (0, 1, 2)
) -> tuple[Volume, Mask]:
    """Every n-th voxel along some axes, about `step_mm` apart; noise keeps its statistics."""
    stride = [
        max(1, int(step_mm / step + 0.25)) if axis in axes else 1
        for axis, step in enumerate(volume.spacing)
    ]
    x, y, z = (slice(None, None, n) for n in stride)
    affine = volume.affine @ np.diag([*[float(n) for n in stride], 1.0])
    return Volume(volume.data[x, y, z], affine), mask[x, y, z]


def entropy_focus(data: NDArray[np.floating]) -> float | None:
    """Entropy focus criterion: 0 when all energy is in one voxel, 1 when spread evenly.

    E = -sum (x/xmax) ln (x/xmax), xmax = sqrt(sum x^2), over its largest value
    (n / sqrt n) ln sqrt n. Source: Atkinson et al., IEEE Trans. Med. Imaging 16:903 (1997).

    >>> import numpy as np
    >>> round(entropy_focus(np.ones((10, 10, 10))), 6)
    1.0
    """
    values = np.asarray(data, dtype=np.float64).ravel()
    values = values - values.min() if values.min() < 0 else values
    energy = float(np.sqrt((values**2).sum()))
    if energy <= 0 or values.size < 2:
        return None
    part = values[values > 0] / energy
    most = values.size / np.sqrt(values.size) * np.log(np.sqrt(values.size))
    return float(-(part * np.log(part)).sum() / most)


def slice_jumps(data: NDArray[np.floating], inside: Mask, slice_axis: int) -> float | None:
    """How much slices jump against their neighbours (interleaved motion, dropped signal).

    Median over slices of |m[k] - (m[k-1] + m[k+1]) / 2| over the mean of m, where m is the median
    of tissue in each slice with at least 200 voxels.

    Args:
        data: (X, Y, Z).
        inside: Tissue.
        slice_axis: Array axis across slices.

    Returns:
        A share of the signal; None with fewer than five such slices.
    """
    planes = np.moveaxis(np.asarray(data), slice_axis, 0)
    masks = np.moveaxis(inside, slice_axis, 0)
    levels = [
        float(np.median(plane[mask]))
        for plane, mask in zip(planes, masks, strict=True)
        if int(mask.sum()) >= LEAST_VOXELS
    ]
    if len(levels) < 5:
        return None
    m = np.array(levels)
    jumps = np.abs(m[1:-1] - (m[:-2] + m[2:]) / 2)
    return float(np.median(jumps) / max(float(m.mean()), 1e-9))


def slice_axis_of(volume: Volume) -> int:
    """The array axis across slices: the one with the largest voxel edge, the last when equal."""
    spacing = np.array(volume.spacing)
    if spacing.max() - spacing.min() < 0.05 * spacing.max():
        return 2
    return int(spacing.argmax())


def boxed(volume: Volume, mask: Mask, margin: int = 2) -> tuple[Volume, Mask]:
    """The part of an image that holds a mask, with a margin in voxels, and the mask's part."""
    part, box = crop_grid(grid_of(volume), mask, margin)
    return Volume(volume.data[box], part.affine), mask[box]


def smoothness(
    data: NDArray[np.floating], inside: Mask, spacing: tuple[float, float, float]
) -> tuple[float | None, float | None, float | None]:
    """Full width at half maximum of the image's smoothness along each axis, in mm.

    FWHM = edge sqrt(-2 ln 2 / ln(1 - var(d) / (2 var(x)))), where d is the difference of neighbours
    along the axis, both inside. Source: Forman et al., Magn. Reson. Med. 33:636 (1995), what AFNI's
    3dFWHMx gives to MRIQC. Motion and interpolation raise it, noise lowers it.

    Args:
        data: (X, Y, Z).
        inside: Where it is measured (tissue).
        spacing: Voxel edges in mm.

    Returns:
        One figure for each array axis; None with fewer than 200 pairs, or where neighbours are
        not alike at all or all alike.
    """
    found: list[float | None] = []
    values = data[inside]
    spread = float(np.var(values, dtype=np.float64)) if values.size >= LEAST_VOXELS else 0.0
    for axis, edge in enumerate(spacing):
        first, second = [slice(None)] * 3, [slice(None)] * 3
        first[axis], second[axis] = slice(None, -1), slice(1, None)
        here, there = tuple(first), tuple(second)
        pairs = inside[here] & inside[there]
        if spread <= 0 or int(pairs.sum()) < LEAST_VOXELS:
            found.append(None)
            continue
        gap = data[there][pairs].astype(np.float64) - data[here][pairs]
        rest = 1.0 - float(gap.var()) / (2.0 * spread)
        usable = 0.0 < rest < 1.0
        found.append(edge * float(np.sqrt(-2.0 * np.log(2.0) / np.log(rest))) if usable else None)
    return (found[0], found[1], found[2])
