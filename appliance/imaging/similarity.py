"""How well two images agree, measured on joint histograms."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.floating[Any]]


def entropy_correlation(first: FloatArray, second: FloatArray, bins: int = 32) -> float:
    """Entropy correlation coefficient of paired intensities.

    ECC = 2 I(A;B) / (H(A) + H(B)), between 0 (independent) and 1 (one determines the other).
    Source: Maes et al., IEEE Trans. Med. Imaging 16:187 (1997); equals 2 - 2/NMI of Studholme 1999.

    Args:
        first: Intensities of one image.
        second: Intensities of the other at the same places, same size.
        bins: Histogram bins per image between the 0.5th and 99.5th percentile.

    Returns:
        The coefficient; 0.0 where either image is constant or empty.

    >>> import numpy as np
    >>> ramp = np.arange(1000.0)
    >>> round(entropy_correlation(ramp, 5 - ramp), 6)
    1.0
    >>> entropy_correlation(ramp, np.ones(1000))
    0.0
    """
    if first.size == 0:
        return 0.0
    return joint_correlation(to_bins(first, bins), to_bins(second, bins), bins)


def joint_correlation(first: NDArray[np.intp], second: NDArray[np.intp], bins: int) -> float:
    """Entropy correlation coefficient of paired bin numbers 0 .. bins-1; 0.0 where constant."""
    counts = np.bincount(first * bins + second, minlength=bins * bins)
    joint = counts.reshape(bins, bins) / max(1, first.size)
    entropy_a, entropy_b = _entropy(joint.sum(axis=1)), _entropy(joint.sum(axis=0))
    if entropy_a < 1e-9 or entropy_b < 1e-9:
        return 0.0
    information = entropy_a + entropy_b - _entropy(joint.ravel())
    return float(2.0 * information / (entropy_a + entropy_b))


def to_bins(values: FloatArray, bins: int) -> NDArray[np.intp]:
    """Bin numbers 0 .. bins-1 between the 0.5th and 99.5th percentile, flattened."""
    flat = np.asarray(values, dtype=np.float64).ravel()
    low, high = np.percentile(flat, [0.5, 99.5])
    if high <= low:
        return np.zeros(flat.size, dtype=np.intp)
    scaled = (flat - low) / (high - low) * bins
    return np.asarray(np.clip(scaled, 0, bins - 1), dtype=np.intp)


def _entropy(probabilities: FloatArray) -> float:
    """Shannon entropy in nats."""
    positive = probabilities[probabilities > 0]
    return float(-(positive * np.log(positive)).sum())
