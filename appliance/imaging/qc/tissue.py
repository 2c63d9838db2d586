"""Fluid, grey and white matter within a brain mask: a mixture with the atlas' maps as priors.

Priors: grey and white matter maps of ICBM 2009a (Fonov et al., NeuroImage 54:313, 2011) that the
nilearn package ships; what is neither counts as fluid. The mixture is Van Leemput's (IEEE Trans.
Med. Imaging 18:897, 1999) with one Gaussian for each tissue, after a polynomial bias field fitted
in what is surely white matter (Dawant et al., IEEE Trans. Med. Imaging 12:770, 1993).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from appliance.imaging.atlas import GREY, WHITE, package_file
from appliance.imaging.volume import Affine, Mask, Volume, apply_affine, inverse, load_volume

TISSUES = ("csf", "gm", "wm")
MAP_STRIDE = 2
"""Every n-th voxel of the 1 mm maps is kept, after smoothing over as many."""
PRIOR_FLOOR = 0.05
"""No tissue is impossible anywhere: the atlas lies only roughly over the head."""
ROUNDS = 12
FITTED = 60_000
"""About this many voxels are enough to fit the mixture; the last round is for all."""
LEAST_VOXELS = 200

Floats = NDArray[np.float32]


@dataclass(frozen=True, slots=True, eq=False)
class Tissues:
    """Tissues of N voxels; rows belong to the mask's voxels in C order.

    Attributes:
        share: (N, 3) posterior probability of fluid, grey and white matter.
        prior: (N, 3) the atlas' maps at these voxels, unsmoothed floor not included.
        field: (N,) multiplicative bias field, median 1 in white matter.
        even: (N,) intensities over the field.
    """

    share: Floats
    prior: Floats
    field: Floats
    even: Floats

    def values(self, tissue: int) -> Floats:
        """Even intensities of the voxels whose most likely tissue this is (0, 1 or 2)."""
        return np.asarray(self.even[self.share.argmax(axis=1) == tissue], dtype=np.float32)


def find_tissues(volume: Volume, brain: Mask, atlas: Affine | None = None) -> Tissues | None:
    """Classify the voxels of a brain mask.

    Args:
        volume: The image, thinned to about 2 mm: every voxel of the mask is computed.
        brain: Brain mask, same grid.
        atlas: 4 x 4 affine, MNI to the image's RAS world, mm; without it the atlas brain's box is
            laid over the mask's.

    Returns:
        The tissues; None with fewer than 200 voxels, or where the brain has no signal.
    """
    if int(brain.sum()) < LEAST_VOXELS:
        return None
    index = np.argwhere(brain)
    world = apply_affine(volume.affine, index)
    values = np.asarray(volume.data[brain], dtype=np.float32)
    matrix = box_placement(world) if atlas is None else atlas
    prior = atlas_priors(apply_affine(inverse(matrix), world))
    field = bias_field(world, values, prior[:, 2])
    if field is None:
        return None
    share = classify(np.asarray(values / field, dtype=np.float32), prior)
    if atlas is None:  # the box lies less well: once more from the white matter that was found
        again = bias_field(world, values, share[:, 2])
        field = field if again is None else again
        share = classify(np.asarray(values / field, dtype=np.float32), prior)
    return Tissues(share, prior, field, np.asarray(values / field, dtype=np.float32))


def classify(values: Floats, prior: Floats) -> Floats:
    """Posterior of three tissues by a mixture of three Gaussians with priors for each voxel.

    Args:
        values: (N,) intensities without shading.
        prior: (N, 3) rows sum to 1.

    Returns:
        (N, 3), rows sum to 1. Where all values are equal, the priors.
    """
    mixed = np.asarray((1 - 3 * PRIOR_FLOOR) * prior + PRIOR_FLOOR, dtype=np.float32)
    low, high = np.percentile(values, (0.5, 99.5))
    if high <= low:
        return mixed
    clipped = np.clip(values, low, high).astype(np.float64)
    some = slice(None, None, max(1, len(values) // FITTED))
    least = (0.01 * (high - low)) ** 2
    share = mixed[some] ** 2  # first only where the atlas is sure
    for turn in range(ROUNDS):
        whole = slice(None) if turn == ROUNDS - 1 else some
        total = share.sum(axis=0, dtype=np.float64) + 1e-9
        mean = np.einsum("nk,n->k", share, clipped[some]) / total
        spread = np.einsum("nk,nk->k", share, (clipped[some][:, None] - mean) ** 2) / total + least
        share = _posterior(clipped[whole], mixed[whole], mean, spread)
    return share


def _posterior(
    values: NDArray[np.float64],
    prior: Floats,
    mean: NDArray[np.float64],
    variance: NDArray[np.float64],
) -> Floats:
    """(N, 3) probabilities of three Gaussians with priors."""
    log = np.log(prior) - 0.5 * ((values[:, None] - mean) ** 2 / variance + np.log(variance))
    likely = np.exp(log - log.max(axis=1, keepdims=True))
    return np.asarray(likely / likely.sum(axis=1, keepdims=True), dtype=np.float32)


def bias_field(world: NDArray[np.float64], values: Floats, white: Floats) -> Floats | None:
    """A cubic in three coordinates fitted to ln x where the atlas says white matter.

    Args:
        world: (N, 3) places in mm.
        values: (N,) intensities.
        white: (N,) the atlas' share of white matter.

    Returns:
        (N,) the field, median 1 where the atlas says white matter and the intensity agrees; None
        where fewer than 200 voxels do.
    """
    sure = (white > 0.8) & (values > 0)
    if int(sure.sum()) < LEAST_VOXELS:
        return None
    middle = float(np.median(values[sure]))
    sure &= (values > 0.7 * middle) & (values < 1.35 * middle)
    if int(sure.sum()) < LEAST_VOXELS:
        return None
    centre = world[sure].mean(axis=0)
    scale = max(1e-6, float(np.abs(world[sure] - centre).max()))
    terms = _cubic((world - centre) / scale)
    found, *_ = np.linalg.lstsq(terms[sure], np.log(values[sure]), rcond=None)
    log = np.clip(np.einsum("nk,k->n", terms, found) - np.log(middle), -1.5, 1.5)
    return np.asarray(np.exp(log - np.median(log[sure])), dtype=np.float32)


def _cubic(place: NDArray[np.float64]) -> NDArray[np.float64]:
    """Twenty monomials of up to third order at each place (N, 3)."""
    powers = [
        (a, b, c) for a in range(4) for b in range(4) for c in range(4) if a + b + c <= 3
    ]  # fmt: skip
    x, y, z = (np.stack([place[:, axis] ** n for n in range(4)]) for axis in range(3))
    return np.stack([x[a] * y[b] * z[c] for a, b, c in powers], axis=1)


def box_placement(world: NDArray[np.float64]) -> Affine:
    """Affine that lays the atlas brain's box over the box of a brain mask's voxels.

    Args:
        world: (N, 3) RAS mm of the mask's voxels.

    Returns:
        4 x 4, MNI to the image's world, axes scaled and shifted, none turned.
    """
    maps = tissue_maps()
    inside = np.argwhere(maps.data[..., 1:].sum(axis=-1) > 0.5)
    own = apply_affine(maps.affine, inside)
    matrix = np.eye(4)
    for axis in range(3):
        low, high = np.percentile(world[:, axis], (0.5, 99.5))
        first, last = np.percentile(own[:, axis], (0.5, 99.5))
        matrix[axis, axis] = max(0.3, float(high - low) / float(last - first))
        matrix[axis, 3] = (low + high) / 2 - matrix[axis, axis] * (first + last) / 2
    return matrix


@dataclass(frozen=True, slots=True, eq=False)
class TissueMaps:
    """The atlas' maps: (X, Y, Z, 3) shares of fluid, grey and white matter, and their affine."""

    data: Floats
    affine: Affine


def atlas_priors(places: NDArray[np.float64]) -> Floats:
    """The maps at places of MNI space.

    Args:
        places: (N, 3) mm.

    Returns:
        (N, 3); outside of the maps all is fluid.
    """
    maps = tissue_maps()
    index = apply_affine(inverse(maps.affine), places).T
    parts = [
        ndimage.map_coordinates(maps.data[..., n], index, order=1, mode="nearest") for n in (1, 2)
    ]
    grey, white = (np.clip(part, 0.0, 1.0) for part in parts)
    fluid = np.clip(1.0 - grey - white, 0.0, 1.0)
    prior = np.stack([fluid, grey, white], axis=1)
    return np.asarray(prior / prior.sum(axis=1, keepdims=True), dtype=np.float32)


@lru_cache(maxsize=1)
def tissue_maps() -> TissueMaps:
    """The maps of the installed nilearn package at 2 mm.

    Raises:
        AtlasMissing: the package or a file is not there.
    """
    grey, white = (load_volume(package_file(name)) for name in (GREY, WHITE))
    step = (slice(None, None, MAP_STRIDE),) * 3
    parts = [
        ndimage.uniform_filter(np.asarray(part.data, dtype=np.float32), MAP_STRIDE + 1)[step]
        / max(1e-6, float(part.data.max()))
        for part in (grey, white)
    ]
    fluid = np.clip(1.0 - parts[0] - parts[1], 0.0, 1.0)
    affine = grey.affine @ np.diag([MAP_STRIDE, MAP_STRIDE, MAP_STRIDE, 1.0])
    return TissueMaps(np.stack([fluid, *parts], axis=-1).astype(np.float32), affine)


def robust_spread(values: Floats) -> float:
    """1.4826 MAD, the standard deviation of normal values."""
    return 1.4826 * float(np.median(np.abs(values - np.median(values))))


def snr_within(values: Floats) -> float | None:
    """Median of a tissue over its own standard deviation, s sqrt(n / (n - 1)), as MRIQC's `snr`.

    Higher is better. None with fewer than 200 values or where they do not vary.
    """
    if values.size < LEAST_VOXELS:
        return None
    spread = float(np.std(values, dtype=np.float64, ddof=1))
    return float(np.median(values)) / spread if spread > 0 else None


def contrast_to_noise(grey: Floats, white: Floats, air_noise: float) -> float | None:
    """CNR = |median WM - median GM| / sqrt(s_air^2 + s_WM^2 + s_GM^2).

    Source: Magnotta and Friedman, J. Digit. Imaging 19:140 (2006), noise as in MRIQC. Higher is
    better.

    Args:
        grey: Values of grey matter.
        white: Values of white matter.
        air_noise: Standard deviation of the air, 0 where there is no air.

    Returns:
        The ratio; None with fewer than 200 values of a tissue, or where nothing varies.
    """
    if min(grey.size, white.size) < LEAST_VOXELS:
        return None
    parts = (air_noise, float(grey.std(dtype=np.float64)), float(white.std(dtype=np.float64)))
    noise = float(np.sqrt(sum(part**2 for part in parts)))
    return abs(float(np.median(white) - np.median(grey))) / noise if noise > 0 else None


def joint_variation(grey: Floats, white: Floats) -> float | None:
    """CJV = (s_WM + s_GM) / |median WM - median GM|, s = 1.4826 MAD.

    Source: Ganzetti et al., Front. Neuroinform. 10:10 (2016), as in MRIQC. Lower is better. None
    with fewer than 200 values of a tissue, or where both medians are equal.
    """
    if min(grey.size, white.size) < LEAST_VOXELS:
        return None
    gap = abs(float(np.median(white) - np.median(grey)))
    return (robust_spread(grey) + robust_spread(white)) / gap if gap > 0 else None


def map_overlap(share: Floats, prior: Floats) -> float | None:
    """Fuzzy Jaccard index, sum min(p, q) / sum max(p, q): 1 where both agree; None if both are 0.

    >>> map_overlap(np.float32([1, 0]), np.float32([0.5, 0]))
    0.5
    """
    most = float(np.maximum(share, prior).sum(dtype=np.float64))
    return float(np.minimum(share, prior).sum(dtype=np.float64)) / most if most > 0 else None
