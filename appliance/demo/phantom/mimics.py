"""Bright places on FLAIR that are no lesions, and keep T1 as it was.

Bright limbic and insular cortex, further bright bands of cortex, caps and rims of the ventricles,
choroid plexus, flow in the basal cisterns and ventricles, slow vessels in the sulci, small bright
foci in grey matter, and the bright band above the air sinuses.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from appliance.demo.phantom.anatomy import Brain
from appliance.demo.phantom.fields import smooth_noise

Floats = NDArray[np.float32]


@dataclass(frozen=True, slots=True, eq=False)
class Mimics:
    """Mimics on the brain's box, axes (X, Y, Z).

    Attributes:
        cover: Share of each voxel that is replaced, 0 to 1.
        brightness: FLAIR signal there, white matter = 1.
    """

    cover: Floats
    brightness: Floats


LIMBIC = (
    ((38, 4, -2), (7, 20, 12)),
    ((6, 24, 26), (7, 18, 12)),
    ((6, -22, 36), (7, 18, 9)),
    ((25, -16, -20), (10, 16, 9)),
    ((8, 14, -10), (8, 10, 8)),
    ((44, 10, -26), (12, 12, 10)),
)
"""Centre (right side, mirrored) and reach in MNI mm of cortex that is bright in many people."""


def make_mimics(
    brain: Brain, tissue: tuple[Floats, Floats], rng: np.random.Generator, *, spacing: float
) -> Mimics:
    """Draw a patient's mimics.

    Args:
        brain: The template's maps.
        tissue: The patient's own grey and white matter shares on the brain's box.
        rng: The patient's stream.
        spacing: Voxel size of the brain's box in mm.

    Returns:
        Cover and brightness.
    """
    grey, white = tissue
    cover = np.zeros(grey.shape, dtype=np.float32)
    fluid = np.clip(1.0 - grey - white, 0.0, 1.0) * brain.mask
    cover = np.maximum(cover, _cortex(brain, grey, rng))
    cover = np.maximum(cover, _caps(brain, white, rng))
    cover = np.maximum(cover, _flow(brain, fluid, rng))
    cover = np.maximum(cover, _foci(brain, (grey, fluid), rng, spacing))
    tone = 1.60 + 0.13 * smooth_noise(rng, grey.shape, spacing, 9.0) + float(rng.normal(0.0, 0.04))
    return Mimics(cover * brain.mask, np.clip(tone, 1.25, 2.1))


def _bump(brain: Brain, centre: tuple[float, ...], reach: tuple[float, ...]) -> Floats:
    """Gaussian about an MNI position."""
    out = np.ones(1, dtype=np.float32)
    for axis, (where, middle, width) in enumerate(
        zip(brain.coordinates, centre, reach, strict=True)
    ):
        shape = [-1 if a == axis else 1 for a in range(3)]
        out = out * np.exp(-0.5 * ((where - middle) / width) ** 2).astype(np.float32).reshape(shape)
    return out


def _cortex(brain: Brain, grey: Floats, rng: np.random.Generator) -> Floats:
    """Limbic and insular cortex, and some other stretches of cortex."""
    where = np.zeros(grey.shape, dtype=np.float32)
    for centre, reach in LIMBIC:
        for side in (-1.0, 1.0):
            gain = float(np.clip(rng.normal(1.0, 0.25), 0.3, 1.5))
            wide = tuple(r * float(rng.uniform(0.8, 1.2)) for r in reach)
            where += gain * _bump(brain, (centre[0] * side, centre[1], centre[2]), wide)
    surface = np.argwhere((brain.grey > 0.6) & (brain.to_edge < 9.0) & (brain.to_edge > 1.0))
    for index in rng.choice(len(surface), int(rng.integers(7, 12)), replace=False):
        spot = surface[index]
        centre3 = tuple(float(brain.coordinates[a][spot[a]]) for a in range(3))
        reach3 = tuple(float(v) for v in rng.uniform(5.0, 13.0, 3))
        where += float(rng.uniform(0.7, 1.3)) * _bump(brain, centre3, reach3)
    x, y, z = np.meshgrid(*brain.coordinates, indexing="ij", sparse=True)
    band = np.exp(-0.5 * ((z + 26.0 - 0.1 * np.abs(x)) / 4.0) ** 2) * (y > 6) * (brain.to_edge < 8)
    where += float(rng.uniform(0.3, 1.1)) * band
    return np.asarray(np.clip(1.6 * (where - 0.62), 0.0, 1.0) * np.clip(1.6 * grey - 0.4, 0, 1))


def _caps(brain: Brain, white: Floats, rng: np.random.Generator) -> Floats:
    """Caps at the horns and a thin rim: white matter that is bright but not dark on T1."""
    away = brain.to_ventricles
    rim = np.exp(-0.5 * ((away - 1.0) / float(rng.uniform(0.8, 1.5))) ** 2) * (away > 0)
    out = float(rng.uniform(0.35, 0.75)) * rim
    for side in (-1.0, 1.0):
        for centre in ((17, 34, 8), (26, -48, 16)):
            reach = tuple(float(v) for v in rng.uniform(3.5, 6.5, 3))
            bump = _bump(brain, (centre[0] * side, centre[1], centre[2]), reach)
            out = np.maximum(out, float(rng.uniform(0.5, 1.2)) * bump * (away > 0))
    return np.asarray(np.clip(out, 0.0, 1.0) * np.clip(2.0 * white - 0.6, 0.0, 1.0), np.float32)


def _flow(brain: Brain, fluid: Floats, rng: np.random.Generator) -> Floats:
    """Choroid plexus, and fluid that was not nulled because it flows."""
    out = np.zeros(fluid.shape, dtype=np.float32)
    spots = (
        ((20, -40, 14), (4, 8, 6), 1.1),
        ((0, -8, 0), (3, 8, 7), 0.7),
        ((0, -42, -34), (6, 6, 8), 0.8),
        ((0, -2, -32), (12, 8, 14), 0.8),
        ((0, -20, -44), (16, 8, 12), 0.8),
        ((9, 6, 10), (3, 5, 4), 0.7),
    )
    for centre, reach, gain in spots:
        for side in (-1.0, 1.0):
            strength = gain * float(rng.uniform(0.3, 1.3))
            place = (centre[0] * side, centre[1], centre[2])
            out = np.maximum(out, strength * _bump(brain, place, reach))
    return np.asarray(np.clip(1.4 * out - 0.3, 0.0, 1.0) * np.clip(1.5 * fluid - 0.2, 0.0, 1.0))


def _foci(
    brain: Brain, tissue: tuple[Floats, Floats], rng: np.random.Generator, spacing: float
) -> Floats:
    """Small bright spots in grey matter and short bright vessels in the sulci."""
    grey, fluid = tissue
    out = np.zeros(grey.shape, dtype=np.float32)
    for part, low, high in ((grey, 40, 75), (fluid * (brain.to_edge > 1.5), 50, 90)):
        places = np.argwhere((part > 0.6) & (brain.to_edge > 2.0))
        for index in rng.choice(len(places), int(rng.integers(low, high)), replace=False):
            _spot(out, places[index], part, rng, spacing)
    return out


def _spot(
    out: Floats,
    centre: NDArray[np.intp],
    part: Floats,
    rng: np.random.Generator,
    spacing: float,
) -> None:
    """Add one soft ellipsoid that stays within its tissue, in place."""
    radii = rng.uniform(1.4, 3.4, 3) / spacing
    reach = int(np.ceil(radii.max() * 1.6))
    box = tuple(
        slice(max(int(c) - reach, 0), min(int(c) + reach + 1, n))
        for c, n in zip(centre, out.shape, strict=True)
    )
    axes = np.meshgrid(
        *((np.arange(s.start, s.stop) - c) / r for s, c, r in zip(box, centre, radii, strict=True)),
        indexing="ij",
        sparse=True,
    )
    distance = np.sqrt(axes[0] ** 2 + axes[1] ** 2 + axes[2] ** 2)
    level = np.clip((1.25 - distance) / 0.4, 0.0, 1.0) * np.clip(2.2 * part[box] - 0.5, 0.0, 1.0)
    np.maximum(out[box], level, out=out[box], casting="unsafe")
