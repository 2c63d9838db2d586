"""Grey values on a common scale: each method finds a scaling, one function applies it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from appliance.errors import ImageRefused
from appliance.imaging.volume import Mask
from federation.preparation import FixedIntensities, Preparation

CHUNK = 1_000_000
BINS = 1024
TAIL_SHARE = 0.2
"""A peak of white matter in T1 is at least this share of the highest one."""
STRIPE_VOXELS = 100
"""Fewest voxels of a white stripe."""

Values = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Scaling:
    """How grey values are brought to a common scale: clip, subtract, divide.

    Attributes:
        offset: What is subtracted.
        divisor: What is divided by, above 0.
        low: Values below become this before; None clips nothing.
        high: Values above become this before; None clips nothing.
    """

    offset: float
    divisor: float
    low: float | None = None
    high: float | None = None

    def apply(self, data: Values, out: Values | None = None) -> Values:
        """The scaled values, in `out` where given (`data` itself is allowed)."""
        result = np.empty_like(data) if out is None else out
        if self.low is None and self.high is None:
            np.subtract(data, np.float32(self.offset), out=result)
        else:
            np.clip(data, self.low, self.high, out=result)
            result -= np.float32(self.offset)
        result /= np.float32(self.divisor)
        return result


@dataclass(frozen=True, slots=True, eq=False)
class Regions:
    """Where an image's values count.

    Attributes:
        inside: bool (X, Y, Z), the brain; without a brain mask where the reference image is.
        covered: bool (X, Y, Z), where the image itself is.
    """

    inside: Mask
    covered: Mask


def scaling_for(data: Values, regions: Regions, preparation: Preparation, modality: str) -> Scaling:
    """The scaling that a plan asks for, found on one image.

    Args:
        data: (X, Y, Z) grey values on the prepared grid.
        regions: Where they count.
        preparation: The plan's preparation section.
        modality: Canonical modality; the white stripe looks for another peak in T1w than in T2w
            and FLAIR.

    Raises:
        ImageRefused: no voxel counts, the image is constant, or it has no peak of white matter.
    """
    method = preparation.normalisation
    if method == "ct" and preparation.intensities is not None:
        return fixed_scaling(preparation.intensities)
    if method == "zscore-image":
        return zscore_scaling(data[regions.covered])
    if method == "zscore-foreground":
        values = data[regions.covered]
        return zscore_scaling(values[values > otsu_threshold(values)])
    values = data[regions.inside & regions.covered]
    if method == "white-stripe":
        return stripe_scaling(values, last_peak=modality == "T1w", width=preparation.stripe_width)
    if method == "percentile":
        return percentile_scaling(values, preparation.percentiles)
    return zscore_scaling(values)


def zscore_scaling(values: Values) -> Scaling:
    """Mean 0 and standard deviation 1 over the given values.

    Raises:
        ImageRefused: no values, or all equal.
    """
    _expect_values(values)
    mean, spread = moments(values)
    if spread < 1e-6 * max(1.0, abs(mean)):
        raise ImageRefused("the image is constant where it counts: it cannot be normalised")
    return Scaling(mean, spread)


def percentile_scaling(values: Values, percentiles: tuple[float, float]) -> Scaling:
    """Two percentiles become 0 and 1; values beyond them are clipped to 0 and 1.

    Raises:
        ImageRefused: no values, or the percentiles coincide.
    """
    _expect_values(values)
    low, high = (float(value) for value in np.percentile(values, percentiles))
    if high - low < 1e-6 * max(1.0, abs(low), abs(high)):
        first, second = percentiles
        raise ImageRefused(
            f"the image's percentiles {first:g} and {second:g} are the same value:"
            " it cannot be normalised"
        )
    return Scaling(low, high - low, low, high)


def fixed_scaling(intensities: FixedIntensities) -> Scaling:
    """Clip, subtract and divide by fixed values (nnU-Net's normalisation of CT)."""
    return Scaling(intensities.mean, intensities.sd, intensities.low, intensities.high)


def stripe_scaling(values: Values, *, last_peak: bool, width: float = 0.05) -> Scaling:
    """White stripe: mean 0 and standard deviation 1 over normal-appearing white matter.

    Source: Shinohara et al., NeuroImage Clin. 6:9 (2014). White matter is the last peak of the
    brain's smoothed histogram in T1w (after the rare bright tail: peaks lower than a fifth of the
    highest do not count) and the highest peak in T2w and FLAIR; the stripe is the values whose
    rank lies within `width` of the peak's.

    Args:
        values: The brain's values.
        last_peak: Whether white matter is the brightest tissue (T1w).
        width: Half width of the stripe as a share of all values, tau in the paper.

    Raises:
        ImageRefused: no values, no peak inside the histogram, or a stripe of too few or equal
            values.
    """
    _expect_values(values)
    peak = white_matter_peak(values, last_peak=last_peak)
    ordered = np.sort(values)
    rank = float(np.searchsorted(ordered, np.float32(peak))) / ordered.size
    first = int(np.floor(max(0.0, rank - width) * ordered.size))
    last = int(np.ceil(min(1.0, rank + width) * ordered.size))
    stripe = ordered[first:last]
    if stripe.size < STRIPE_VOXELS:
        raise ImageRefused(
            f"the stripe of white matter has {stripe.size} voxels, {STRIPE_VOXELS} are needed"
        )
    mean, spread = moments(stripe)
    if spread < 1e-6 * max(1.0, abs(mean)):
        raise ImageRefused("the stripe of white matter is constant: it cannot be normalised")
    return Scaling(mean, spread)


def white_matter_peak(values: Values, *, last_peak: bool) -> float:
    """Grey value of the white matter's peak in the smoothed histogram.

    The histogram spans the 0.1 to 99.9 percentile in 1024 bins; it is smoothed by a Gaussian whose
    width is Scott's (smaller of SD and IQR / 1.34, times n^-1/5).

    Raises:
        ImageRefused: the values are constant, or the histogram has no peak (it only rises or
            falls).
    """
    low, quarter, half, high = (float(v) for v in np.percentile(values, [0.1, 25, 75, 99.9]))
    if high - low < 1e-6 * max(1.0, abs(low), abs(high)):
        raise ImageRefused("the image is constant where it counts: it has no peak of white matter")
    counts, edges = np.histogram(values, bins=BINS, range=(low, high))
    _, spread = moments(values)
    wide = min(spread, (half - quarter) / 1.34) if half > quarter else spread
    sigma = max(2.0, wide * values.size**-0.2 * BINS / (high - low))
    smooth = ndimage.gaussian_filter1d(counts.astype(np.float64), sigma, mode="nearest")
    inner = smooth[1:-1]
    peaks = np.flatnonzero((inner > smooth[:-2]) & (inner >= smooth[2:])) + 1
    peaks = peaks[smooth[peaks] >= TAIL_SHARE * smooth.max()]
    if peaks.size == 0:
        raise ImageRefused(
            "the brain's histogram has no peak: white matter cannot be told"
            " (expected a skull-stripped T1w, T2w or FLAIR)"
        )
    best = peaks[-1] if last_peak else peaks[smooth[peaks].argmax()]
    return float((edges[best] + edges[best + 1]) / 2)


def otsu_threshold(values: Values) -> float:
    """The threshold that separates two classes best (Otsu, IEEE Trans. SMC 9:62, 1979).

    256 bins from the least value to the 99.9 percentile, so that a few bright voxels do not
    matter.

    Raises:
        ImageRefused: no values, or all equal.
    """
    _expect_values(values)
    low, high = float(values.min()), float(np.percentile(values, 99.9))
    if high <= low:
        raise ImageRefused("the image is constant: it has no foreground")
    counts, edges = np.histogram(np.minimum(values, np.float32(high)), bins=256, range=(low, high))
    centres = (edges[:-1] + edges[1:]) / 2
    below = np.cumsum(counts)
    total = below[-1]
    sums = np.cumsum(counts * centres)
    above = total - below
    with np.errstate(divide="ignore", invalid="ignore"):
        between = (sums[-1] * below / total - sums) ** 2 / (below * above)
    best = int(np.nanargmax(np.where(above > 0, between, -1.0)))
    return float(edges[best + 1])


def zscore(data: Values, inside: Mask) -> Values:
    """Mean 0 and standard deviation 1 over the voxels of a mask.

    Args:
        data: (X, Y, Z).
        inside: Voxels that count.

    Returns:
        (data - mean) / sd everywhere.

    Raises:
        ImageRefused: the mask is empty, or the image is constant inside it.
    """
    return zscore_scaling(data[inside]).apply(data)


def moments(values: Values) -> tuple[float, float]:
    """Mean and standard deviation (divisor n) in float64, without a float64 copy of the values."""
    parts = [values[at : at + CHUNK] for at in range(0, values.size, CHUNK)]
    mean = sum(float(part.sum(dtype=np.float64)) for part in parts) / values.size
    squares = sum(float(((part.astype(np.float64) - mean) ** 2).sum()) for part in parts)
    return mean, float(np.sqrt(squares / values.size))


def _expect_values(values: Values) -> None:
    if values.size == 0:
        raise ImageRefused("no voxel of the image counts: the mask is empty")
