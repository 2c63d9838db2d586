"""Figures of the air around the head: noise, ghosts and artefacts show there undisturbed."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage, special

from appliance.imaging.qc.signal import LEAST_VOXELS
from appliance.imaging.volume import Mask, Volume, apply_affine

SCALP_REACH_MM = 25.0
"""Skull and scalp end nearer to the brain than this."""

ARTEFACT_Z = 10.0
"""Air above this many robust standard deviations is an artefact (MRIQC's `artifact_mask`)."""

RAYLEIGH = float(np.sqrt(2.0 / (4.0 - np.pi)))
"""Noise of a magnitude image over its standard deviation in air (Rayleigh distribution)."""

Floats = NDArray[np.float32]


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
    region = (height > float(place[:, 2].mean())) & ~within_reach(
        brain, volume.spacing, SCALP_REACH_MM
    )
    kept = region & (volume.data > volume.data.min())
    return np.asarray(kept if kept.sum() > region.sum() / 3.0 else empty, dtype=bool)


def within_reach(mask: Mask, spacing: tuple[float, float, float], reach_mm: float) -> Mask:
    """A mask that is not empty, and everything within `reach_mm` of it."""
    box = []
    for axis, step in enumerate(spacing):
        used = np.flatnonzero(mask.any(axis=tuple(other for other in range(3) if other != axis)))
        margin = int(np.ceil(reach_mm / step)) + 1
        box.append(slice(max(0, int(used[0]) - margin), int(used[-1]) + margin + 1))
    where = tuple(box)
    result = np.zeros_like(mask)
    result[where] = ndimage.distance_transform_edt(~mask[where], sampling=spacing) <= reach_mm
    return result


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


def _local(values: Floats, share: Floats, size: list[int]) -> Floats:
    """Mean over a window's counted voxels, given their share of the window."""
    filtered = ndimage.uniform_filter(values, size)
    return np.asarray(filtered / np.maximum(share, 1e-3), dtype=np.float32)


def noise_of_air(data: NDArray[np.floating], air: Mask) -> float | None:
    """Standard deviation of the air's values; None with fewer than 200 voxels or where it is 0."""
    if int(air.sum()) < LEAST_VOXELS:
        return None
    spread = float(np.std(data[air], dtype=np.float64))
    return spread if spread > 0 else None


def dietrich_snr(signal: float | None, air_noise: float | None) -> float | None:
    """SNRd = S / (s_air sqrt(2 / (4 - pi))): air of a magnitude image is Rayleigh-distributed.

    Source: Dietrich et al., J. Magn. Reson. Imaging 26:375 (2007). Higher is better. None where
    either is missing.

    >>> import math
    >>> round(dietrich_snr(100.0, 5.0 * math.sqrt((4 - math.pi) / 2)), 6)
    20.0
    """
    if signal is None or air_noise is None or air_noise <= 0:
        return None
    return signal / (air_noise * RAYLEIGH)


def foreground_energy(volume: Volume) -> float | None:
    """Foreground to background energy ratio: median x^2 in the head over median x^2 outside.

    Source: Shehzad et al. (2015), medians as in MRIQC. Higher is better. The head is the largest
    bright piece, closed and filled.

    Args:
        volume: The image, thinned to about 4 mm.

    Returns:
        The ratio; None where no head is found, nothing lies outside, or half of the outside is 0.
    """
    data = np.asarray(volume.data, dtype=np.float64) - min(0.0, float(volume.data.min()))
    low = float(np.percentile(data, 0.5))
    bright = data[data > data.mean()]
    if bright.size < LEAST_VOXELS:
        return None
    pieces, _ = ndimage.label(data - low > 0.15 * (float(np.percentile(bright, 90)) - low))
    sizes = np.bincount(pieces.ravel())
    sizes[0] = 0
    largest = np.pad(pieces == int(sizes.argmax()), 3)
    head = ndimage.binary_closing(largest, iterations=3)[3:-3, 3:-3, 3:-3]
    head = np.asarray(ndimage.binary_fill_holes(head), dtype=bool)
    if int((~head).sum()) < LEAST_VOXELS:
        return None
    outside = float(np.median(data[~head] ** 2))
    return float(np.median(data[head] ** 2)) / outside if outside > 0 else None


def artefact_share(data: NDArray[np.floating], air: Mask) -> float | None:
    """QI1: share of air voxels that are artefacts.

    Artefacts are above 10 robust standard deviations (1.4826 MAD) of the air's median and survive
    an opening by one voxel (Mortamet et al., Magn. Reson. Med. 62:365, 2009; threshold as in
    MRIQC). Lower is better, noise alone gives 0.

    Args:
        data: (X, Y, Z).
        air: Air outside the head.

    Returns:
        0 to 1; None with fewer than 200 voxels of air, or where the air does not vary.
    """
    if int(air.sum()) < LEAST_VOXELS:
        return None
    limit = _artefact_limit(data[air])
    if limit is None:
        return None
    return float(ndimage.binary_opening(air & (data > limit)).sum()) / float(air.sum())


def _artefact_limit(values: NDArray[np.floating]) -> float | None:
    """Where artefacts begin: median + 10 x 1.4826 MAD; None where the values do not vary."""
    middle = float(np.median(values))
    spread = 1.4826 * float(np.median(np.abs(values - middle)))
    return middle + ARTEFACT_Z * spread if spread > 0 else None


def chi_misfit(data: NDArray[np.floating], air: Mask) -> float | None:
    """QI2: how far the air's values are from those of pure noise.

    The squared magnitude of n noisy channels is gamma-distributed with shape n; a gamma is fitted
    by its two moments to the air below 10 robust standard deviations, and the mean absolute
    difference of its cumulative distribution from the empirical one is taken at 99 quantiles.
    After Mortamet et al., Magn. Reson. Med. 62:365 (2009), who fit a chi density to a histogram.
    Lower is better.

    Args:
        data: (X, Y, Z).
        air: Air outside the head.

    Returns:
        0 to about 0.5; None with fewer than 200 voxels of air, or where the air does not vary.
    """
    if int(air.sum()) < LEAST_VOXELS:
        return None
    values = np.asarray(data[air], dtype=np.float64)
    limit = _artefact_limit(values)
    if limit is None:
        return None
    energy = values[values <= limit] ** 2
    mean, variance = float(energy.mean()), float(energy.var())
    steps = np.linspace(0.01, 0.99, 99)
    places = np.quantile(energy, steps)
    fitted = special.gammainc(mean**2 / variance, places * mean / variance)
    return float(np.abs(fitted - steps).mean())
