"""Tissues of the phantom head and how bright they are on T1 and FLAIR."""

from __future__ import annotations

from enum import IntEnum

import numpy as np
from numpy.typing import NDArray


class Tissue(IntEnum):
    """What a voxel of the template head is made of."""

    AIR = 0
    SKIN = 1
    FAT = 2
    MUSCLE = 3
    BONE = 4
    MARROW = 5
    FLUID = 6
    BRAIN = 7
    VITREOUS = 8
    LENS = 9
    MUCOSA = 10
    CORD = 11


T1_SIGNAL = {
    Tissue.AIR: 0.0,
    Tissue.SKIN: 0.72,
    Tissue.FAT: 1.42,
    Tissue.MUSCLE: 0.62,
    Tissue.BONE: 0.07,
    Tissue.MARROW: 0.95,
    Tissue.FLUID: 0.24,
    Tissue.BRAIN: 0.9,
    Tissue.VITREOUS: 0.2,
    Tissue.LENS: 0.6,
    Tissue.MUCOSA: 0.66,
    Tissue.CORD: 0.95,
}
"""T1-weighted signal, white matter = 1 (inversion-prepared gradient echo)."""

FLAIR_SIGNAL = {
    Tissue.AIR: 0.0,
    Tissue.SKIN: 0.62,
    Tissue.FAT: 0.52,
    Tissue.MUSCLE: 0.5,
    Tissue.BONE: 0.05,
    Tissue.MARROW: 0.34,
    Tissue.FLUID: 0.13,
    Tissue.BRAIN: 1.0,
    Tissue.VITREOUS: 0.12,
    Tissue.LENS: 0.3,
    Tissue.MUCOSA: 1.35,
    Tissue.CORD: 0.95,
}
"""FLAIR signal, white matter = 1 (fat suppressed)."""


def signal_table(
    base: dict[Tissue, float], rng: np.random.Generator, jitter: float
) -> NDArray[np.float32]:
    """Signal per tissue value with the patient's own variation.

    Args:
        base: Typical signals, white matter = 1.
        rng: Random stream.
        jitter: Relative standard deviation of the variation.

    Returns:
        float32 vector indexed by `Tissue`.
    """
    table = np.zeros(len(Tissue), dtype=np.float32)
    for tissue in Tissue:
        table[tissue] = base[tissue] * float(np.exp(rng.normal(0.0, jitter)))
    return table
