"""MS-like lesions: how many, how large, where, what shape.

Load: volume and count per patient follow the quartiles of the site's load (two half log-normals
that meet at the median, drawn by a low-discrepancy sequence so that ten patients already look
like the site). Places: periventricular (long axis away from the ventricle), juxtacortical, deep
and infratentorial white matter.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.special import ndtri

from appliance.demo.phantom.anatomy import Brain
from appliance.demo.phantom.fields import smooth_noise
from appliance.demo.phantom.styles import LesionLoad

Floats = NDArray[np.float32]

GOLDEN = (math.sqrt(5.0) - 1.0) / 2.0
QUARTILE = 0.6744897501960817
SMALLEST_MM = 1.9
"""Smallest lesion radius in mm, above the 3 mm diameter from which lesions are counted in MS."""
MOST_LESIONS = 110


@dataclass(frozen=True, slots=True)
class Target:
    """What a patient is to have: lesion volume in ml and number of lesions."""

    volume_ml: float
    count: int


@dataclass(frozen=True, slots=True, eq=False)
class Lesions:
    """Lesions on the brain's box, axes (X, Y, Z).

    Attributes:
        cover: Share of each voxel that is lesion, 0 to 1.
        brightness: FLAIR signal of lesion tissue, white matter = 1.
        darkness: T1 signal of lesion tissue, white matter = 1.
        count: Lesions planted.
        volume_ml: Their volume in the patient.
    """

    cover: Floats
    brightness: Floats
    darkness: Floats
    count: int
    volume_ml: float


def quantile(quartiles: tuple[float, float, float], u: float) -> float:
    """Value at probability `u` of two half log-normals through the three quartiles.

    >>> round(quantile((2.0, 4.0, 9.0), 0.5), 6), round(quantile((2.0, 4.0, 9.0), 0.75), 6)
    (4.0, 9.0)
    """
    low, middle, high = quartiles
    z = float(ndtri(u))
    ratio = high / middle if z > 0 else middle / low
    return float(middle * ratio ** (z / QUARTILE))


def lesion_target(load: LesionLoad, index: int, rng: np.random.Generator) -> Target:
    """Lesion load of patient `index`.

    Args:
        load: The site's quartiles.
        index: Patient number within the hospital.
        rng: The patient's stream (only for how count and volume differ).

    Returns:
        Volume within the 15 to 87 % of the site's distribution, and a count that goes with it.
    """
    u = (0.37 + GOLDEN * index) % 1.0
    u = 0.15 + 0.72 * u
    volume = quantile(load.volume_ml, u)
    v = float(np.clip(0.5 + 0.75 * (u - 0.5) + rng.normal(0.0, 0.12), 0.08, 0.92))
    count = round(quantile(load.count, v))
    most = int(volume * 1000.0 / (4.19 * SMALLEST_MM**3))
    return Target(volume, int(np.clip(count, 3, max(3, min(most, MOST_LESIONS)))))


def place_weight(brain: Brain) -> Floats:
    """How likely a lesion's centre is at each voxel."""
    _, y, z = np.meshgrid(*brain.coordinates, indexing="ij", sparse=True)
    white = brain.white > 0.75
    inner = white & (brain.to_edge > 4.0)
    low = z < -16.0 - 0.12 * np.maximum(y, -60)
    near = np.exp(-0.5 * ((brain.to_ventricles - 3.5) / 3.5) ** 2)
    cortex = np.exp(-0.5 * ((brain.to_grey - 2.5) / 1.5) ** 2) * (brain.to_ventricles > 14)
    corona = np.exp(-brain.to_ventricles / 22.0)
    weight = np.zeros(brain.white.shape, dtype=np.float32)
    upper = inner & ~low
    for part, share in ((near, 0.56), (cortex * corona, 0.24), (corona, 0.16)):
        chosen = np.where(upper, part, 0.0)
        weight += (share / float(chosen.sum()) * chosen).astype(np.float32)
    under = (inner & low).astype(np.float32)
    weight += 0.04 / float(under.sum()) * under
    return weight


def make_lesions(
    brain: Brain, target: Target, rng: np.random.Generator, *, spacing: float, shrink: float
) -> Lesions:
    """Draw a patient's lesions.

    Args:
        brain: The template's maps.
        target: Volume and number.
        rng: The patient's stream.
        spacing: Voxel size of the brain's box in mm.
        shrink: Template volume over patient volume (determinant of the bend's affine part).

    Returns:
        Lesions whose total volume in the patient is the target's (to one voxel).
    """
    shape = brain.white.shape
    radii = _radii(target, rng)
    centres = _centres(brain, radii, rng, spacing)
    level = np.full(shape, -9.0, dtype=np.float32)
    bright = np.full(shape, 1.6, dtype=np.float32)
    dark = np.full(shape, 0.7, dtype=np.float32)
    toward = [np.gradient(brain.to_ventricles[box]) for box in _boxes(centres, shape, 1)]
    severity = rng.normal(0.0, 0.05)
    for centre, radius, slope in zip(centres, radii, toward, strict=True):
        axis = np.array([float(np.mean(s)) for s in slope])
        tone = float(np.clip(1.68 + severity + rng.normal(0.0, 0.13), 1.4, 2.1))
        hole = float(np.clip(0.60 - 0.2 * (tone - 1.65) + rng.normal(0.0, 0.06), 0.40, 0.76))
        box, inside = _blob(shape, centre, radius / spacing, axis, rng)
        won = inside > level[box]
        level[box] = np.where(won, inside, level[box])
        bright[box] = np.where(won & (inside > -1.2), tone, bright[box])
        dark[box] = np.where(won & (inside > -1.2), hole, dark[box])
    level += 0.13 * smooth_noise(rng, shape, spacing, 3.5)
    tissue = np.clip((brain.white - 0.30) / 0.3, 0.0, 1.0) * (brain.to_ventricles > 0)
    level[tissue <= 0.0] = -9.0
    wanted = max(1, round(target.volume_ml * 1000.0 * shrink / spacing**3))
    return _cut(level, bright, dark, _Sizes(wanted, len(centres), target.volume_ml))


@dataclass(frozen=True, slots=True)
class _Sizes:
    """Voxels wanted, lesions placed, volume in the patient."""

    voxels: int
    count: int
    volume_ml: float


def _cut(level: Floats, bright: Floats, dark: Floats, sizes: _Sizes) -> Lesions:
    """Cut the level field where exactly the wanted number of voxels lies above."""
    values = level[level > -3.0]
    wanted = min(sizes.voxels, values.size - 1)
    cut = float(np.partition(values, values.size - wanted)[values.size - wanted])
    width = 0.22
    cover = np.clip((level - cut) / width + 0.5, 0.0, 1.0).astype(np.float32)
    return Lesions(cover, bright, dark, sizes.count, sizes.volume_ml)


def _radii(target: Target, rng: np.random.Generator) -> NDArray[np.float64]:
    """Radii in mm, largest first, whose spheres together have the target volume."""
    volumes = np.exp(rng.normal(0.0, 1.3, target.count))
    smallest = 4.19 * SMALLEST_MM**3
    total = target.volume_ml * 1000.0
    volumes = smallest + volumes / volumes.sum() * max(total - smallest * target.count, 0.0)
    return np.sort((volumes / 4.19) ** (1 / 3))[::-1]


def _centres(
    brain: Brain, radii: NDArray[np.float64], rng: np.random.Generator, spacing: float
) -> list[NDArray[np.intp]]:
    """Voxel positions, large lesions near the ventricles first, apart from one another."""
    weight = place_weight(brain).ravel()
    places = np.flatnonzero(weight)
    chance = weight[places].astype(np.float64)
    drawn = rng.choice(places, size=40 * len(radii) + 200, p=chance / chance.sum())
    candidates = np.stack(np.unravel_index(drawn, brain.white.shape), axis=1)
    depth = brain.to_grey.ravel()[drawn]
    taken: list[NDArray[np.intp]] = []
    slacks = (1.0, 0.6, 0.5)
    gaps = np.full((len(slacks), len(candidates)), np.inf)
    for radius in radii:
        for row, slack in enumerate(slacks):
            deep = depth >= min(0.55 * radius, 4.0) * (slack if slack > 0.5 else 0.0)
            found = np.flatnonzero(deep & (gaps[row] > (radius + 1.5) * slack))
            if found.size:
                place = candidates[found[0]]
                taken.append(place)
                away = np.sqrt(((candidates - place) ** 2).sum(axis=1)) * spacing
                for r, s in enumerate(slacks):
                    np.minimum(gaps[r], away - radius * s, out=gaps[r])
                break
    return taken


def _boxes(
    centres: list[NDArray[np.intp]], shape: tuple[int, ...], reach: int
) -> list[tuple[slice, ...]]:
    """Boxes of 2 `reach` + 1 voxels around centres, cut at the borders."""
    return [
        tuple(
            slice(max(int(c) - reach, 0), min(int(c) + reach + 1, n))
            for c, n in zip(centre, shape, strict=True)
        )
        for centre in centres
    ]


def _blob(
    shape: tuple[int, ...],
    centre: NDArray[np.intp],
    radius: float,
    axis: NDArray[np.float64],
    rng: np.random.Generator,
) -> tuple[tuple[slice, ...], Floats]:
    """An ellipsoid's box and its level: 1 in the centre, 0 on the surface, negative outside."""
    box = _boxes([centre], shape, math.ceil(2.4 * radius) + 2)[0]
    offsets = np.meshgrid(
        *(np.arange(s.start, s.stop) - c for s, c in zip(box, centre, strict=True)), indexing="ij"
    )
    away = np.stack(offsets, axis=-1).astype(np.float64)
    norm = float(np.linalg.norm(axis))
    axis = axis / norm if norm > 0.3 else rng.normal(size=3)
    axis = axis / np.linalg.norm(axis)
    long = float(rng.uniform(1.0, 1.75)) if norm > 0.3 else float(rng.uniform(0.85, 1.3))
    side = rng.normal(size=3)
    side -= axis * float(side @ axis)
    side /= np.linalg.norm(side)
    flat = float(rng.uniform(0.8, 1.25))
    along, across = away @ axis, away @ side
    rest = (away**2).sum(axis=-1) - along**2 - across**2
    short = 1.0 / math.sqrt(long)
    distance = np.sqrt(
        np.maximum(
            (along / long) ** 2 + (across / (short * flat)) ** 2 + rest / (short / flat) ** 2, 0.0
        )
    )
    return box, (1.0 - distance / radius).astype(np.float32)


def count_lesions(mask: NDArray[np.uint8]) -> int:
    """Connected lesions (26-neighbourhood) of a mask."""
    return int(ndimage.label(mask, structure=np.ones((3, 3, 3)))[1])
