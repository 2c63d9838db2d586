"""Figures of signal, noise and artefact, each a pure function on arrays with a known formula."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from appliance.imaging.defacing import near
from appliance.imaging.volume import Mask, Volume, apply_affine

LAPLACE = np.array([[1.0, -2.0, 1.0], [-2.0, 4.0, -2.0], [1.0, -2.0, 1.0]], dtype=np.float32)
"""Difference of two Laplacians: blind to edges up to second order; noise gain 6."""

SCALP_REACH_MM = 25.0
"""Skull and scalp end nearer to the brain than this."""

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


def tissue_and_fluid(data: NDArray[np.floating], brain: Mask) -> tuple[Mask, Mask]:
    """Split a brain mask into brain tissue and dark fluid by intensity (T1 and FLAIR alike).

    Fluid: below half the brain's median, in the mask eroded by one voxel in plane (so that its rim
    does not count). Tissue: between 0.7 and 1.5 times the median.

    Args:
        data: (X, Y, Z).
        brain: Brain mask.

    Returns:
        Tissue mask and fluid mask.
    """
    if not brain.any():
        return np.zeros_like(brain), np.zeros_like(brain)
    middle = float(np.median(data[brain]))
    core = ndimage.binary_erosion(brain, np.ones((3, 3, 1), dtype=bool))
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


def thinned(volume: Volume, mask: Mask, step_mm: float = 2.0) -> tuple[Volume, Mask]:
    """Every n-th voxel, so that voxels are about `step_mm` apart; noise keeps its statistics."""
    stride = [max(1, int(step_mm / step + 0.25)) for step in volume.spacing]
    x, y, z = (slice(None, None, n) for n in stride)
    affine = volume.affine @ np.diag([*[float(n) for n in stride], 1.0])
    return Volume(volume.data[x, y, z], affine), mask[x, y, z]


def air_mask(volume: Volume, brain: Mask) -> Mask:
    """Air around the upper head, found from the brain alone so that ghosts do not hide in it.

    Farther than 25 mm from the brain (beyond skull and scalp) and above the brain's centre (beyond
    face, ears and neck). Voxels of exactly the lowest value (masked, padded or defaced) are left
    out; where they are more than two thirds of that region, the rest is no trustworthy air and the
    mask is empty.
    """
    empty = np.zeros(volume.shape, dtype=bool)
    if not brain.any():
        return empty
    place = apply_affine(volume.affine, np.argwhere(brain)[:, :3])
    i, j, k = (np.arange(n, dtype=np.float64) for n in volume.shape)
    row = volume.affine[2]
    height = (
        row[0] * i[:, None, None] + row[1] * j[None, :, None] + row[2] * k[None, None, :] + row[3]
    )
    region = (height > float(place[:, 2].mean())) & ~near(brain, volume.spacing, SCALP_REACH_MM)
    kept = region & (volume.data > volume.data.min())
    return np.asarray(kept if kept.sum() > region.sum() / 3.0 else empty, dtype=bool)


def ghosting(
    data: NDArray[np.floating], air: Mask, brain: Mask, slice_axis: int = 2
) -> float | None:
    """Ghosts in the air: what is structured there beyond pixel noise, over the brain's mean.

    In each slice h = (mean of 3 x 3) - (mean of 11 x 11), both over air voxels alone. White noise
    of local variance v gives h the variance v / 9, whatever its distribution; what is left is
    structure. g = sqrt(max(0, median over 11 x 11 windows of mean(h^2 - v / 9))) / mean brain.
    The idea is Mortamet's (Magn. Reson. Med. 62:365, 2009: artefacts are structured air); the
    median asks for ghosts in most of the air, so that a fold-over or an eye does not count.

    Args:
        data: (X, Y, Z).
        air: Air outside the head.
        brain: Brain mask.
        slice_axis: Array axis across slices.

    Returns:
        A share of the brain's signal, 0 and above; None where too little air was kept.
    """
    if int(air.sum()) < LEAST_VOXELS or not brain.any():
        return None
    values = np.where(air, data, 0).astype(np.float32) / max(float(data[brain].mean()), 1e-9)
    small, large = [3, 3, 3], [11, 11, 11]
    small[slice_axis] = large[slice_axis] = 1
    share = ndimage.uniform_filter(air.astype(np.float32), small)
    whole = share > 0.99
    near_mean = _local(values, share, small)
    wide_share = ndimage.uniform_filter(air.astype(np.float32), large)
    structure = near_mean - _local(values, wide_share, large)
    noise = np.maximum(_local(values**2, share, small) - near_mean**2, 0.0) / 8.0
    counted = ndimage.uniform_filter(whole.astype(np.float32), large)
    excess = _local(np.where(whole, structure**2 - noise, 0.0), counted, large)[counted > 0.5]
    if excess.size < LEAST_VOXELS:
        return None
    return float(np.sqrt(max(0.0, float(np.median(excess)))))


def _local(
    values: NDArray[np.float32], share: NDArray[np.float32], size: list[int]
) -> NDArray[np.float32]:
    """Mean over a window's counted voxels, given their share of the window."""
    filtered = ndimage.uniform_filter(values, size)
    return np.asarray(filtered / np.maximum(share, 1e-3), dtype=np.float32)


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
