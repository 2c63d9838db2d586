"""Rigid registration of two images of one head, with a figure that notices failure."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from appliance.errors import ImageRefused
from appliance.imaging.alignment import Profile
from appliance.imaging.grid import Grid, grid_of, resample
from appliance.imaging.itk import FLIP, from_itk_transform, itk_threads, save_matrix, sitk, to_itk
from appliance.imaging.rigid import rigid_matrix
from appliance.imaging.similarity import entropy_correlation
from appliance.imaging.volume import Affine, Volume, apply_affine, inverse

LEVELS_MM: dict[Profile, tuple[float, ...]] = {"quick": (6.0, 3.0), "full": (6.0, 3.0, 1.5)}
"""Voxel sizes of the resolution levels, coarse to fine."""

STARTS: dict[Profile, int] = {"quick": 1, "full": 3}
"""How many of the best-ranked starting positions are optimised at the coarsest level."""


@dataclass(frozen=True, slots=True)
class RegistrationOptions:
    """How to register.

    Attributes:
        profile: "quick" (two coarse levels) or "full" (down to 1.5 mm, several starts).
        threads: Threads of ITK's metric.
        seed: Seed of the metric's sampling (jitter of sample points).
    """

    profile: Profile = "full"
    threads: int = 1
    seed: int = 20240


@dataclass(frozen=True, slots=True, eq=False)
class Registration:
    """A rigid transform and how far to trust it.

    Attributes:
        matrix: 4 x 4, maps RAS points of the fixed image to the moving image, mm.
        quality: 0 to 1, higher is better: entropy correlation coefficient over the fixed head,
            scaled down by the share of the fixed head that the moving image covers, and halved
            when a nearby position fits better than the one found.
        metric: Mattes mutual information at the end, negative nats (lower is better).
        overlap: Share of the fixed head's voxels that lie inside the moving image, 0 to 1.
        peak: How much of the agreement is lost 8 mm or 8 degrees away, as a share, mean over
            twelve directions; near or below 0 means that no optimum was found.
        converged: Whether no tested nearby position was better.
    """

    matrix: Affine
    quality: float
    metric: float
    overlap: float = 1.0
    peak: float = 1.0
    converged: bool = True
    levels_mm: tuple[float, ...] = field(default=())


def register_rigid(
    fixed: Volume, moving: Volume, *, options: RegistrationOptions | None = None
) -> Registration:
    """Find the rigid motion that takes points of `fixed` to `moving`.

    Mattes mutual information (IEEE Trans. Med. Imaging 22:120, 2003) on a resolution pyramid with
    regular-step gradient descent; starts are the headers' own world alignment, the heads' centres
    and tops, and small turns about them, ranked by agreement at the coarsest level.

    Args:
        fixed: Reference (the FLAIR).
        moving: Image to align (the T1).
        options: Profile, threads, seed.

    Returns:
        The transform with its quality figures. A failure is a low `quality`, not an exception.

    Raises:
        ImageRefused: an image is constant.
    """
    chosen = options or RegistrationOptions()
    levels = LEVELS_MM[chosen.profile]
    coarse_fixed, coarse_moving = _level(fixed, levels[0]), _level(moving, levels[0])
    heads = (_head(coarse_fixed), _head(coarse_moving))
    candidates = _starts(coarse_fixed, coarse_moving, heads)
    ranked = _rank(coarse_fixed, coarse_moving, heads[0], candidates)
    with itk_threads(chosen.threads):
        tried = [
            _optimise(coarse_fixed, coarse_moving, start, levels[0], chosen)
            for start in ranked[: STARTS[chosen.profile]]
        ]
        matrix, metric = min(tried, key=lambda result: result[1])
        for step in levels[1:]:
            level = (_level(fixed, step), _level(moving, step))
            matrix, metric = _optimise(*level, matrix, step, chosen)
    return _judged(coarse_fixed, coarse_moving, heads[0], matrix, metric)


def save_itk_transform(registration: Registration, path: Path) -> None:
    """Write the transform as an ITK file (LPS, maps fixed points to moving points)."""
    save_matrix(registration.matrix, path)


def _level(volume: Volume, step_mm: float) -> Volume:
    """The image at a voxel size of at least `step_mm`, intensities between 0 and 1."""
    spacing = np.array(volume.spacing)
    step = np.maximum(spacing, step_mm)
    grid = _coarser(grid_of(volume), step / spacing)
    coarse = resample(volume, grid)
    low, high = np.percentile(coarse.data, [0.5, 99.5])
    if high <= low:
        raise ImageRefused("the image is constant: there is nothing to register")
    return coarse.with_data(np.clip((coarse.data - low) / (high - low), 0.0, 1.0))


def _coarser(grid: Grid, ratio: NDArray[np.float64]) -> Grid:
    """The same directions with voxels larger by `ratio`, about the same centre."""
    shape = np.maximum(4, np.ceil(np.array(grid.shape) / ratio)).astype(int)
    affine = grid.affine.copy()
    affine[:3, :3] = grid.affine[:3, :3] * ratio
    centre = apply_affine(grid.affine, (np.array(grid.shape) - 1) / 2)
    affine[:3, 3] = centre - affine[:3, :3] @ ((shape - 1) / 2)
    return Grid((int(shape[0]), int(shape[1]), int(shape[2])), affine)


def _head(volume: Volume) -> NDArray[np.bool_]:
    """The head: above a tenth of the bright intensity, largest piece, filled."""
    bright = float(np.percentile(volume.data[volume.data > volume.data.mean()], 75))
    pieces, count = ndimage.label(volume.data > 0.15 * bright)
    if count == 0:
        return np.ones(volume.shape, dtype=bool)
    sizes = np.bincount(pieces.ravel())[1:]
    head = pieces == int(sizes.argmax()) + 1
    return np.asarray(ndimage.binary_fill_holes(head), dtype=bool)


def _points(volume: Volume, mask: NDArray[np.bool_]) -> NDArray[np.float64]:
    """World positions (N, 3) of the true voxels."""
    return apply_affine(volume.affine, np.argwhere(mask))


def _starts(
    fixed: Volume, moving: Volume, heads: tuple[NDArray[np.bool_], NDArray[np.bool_]]
) -> list[Affine]:
    """Starting positions: header alignment, head centres, head tops, and turns about each."""
    here, there = _points(fixed, heads[0]), _points(moving, heads[1])
    centre = here.mean(axis=0)
    to_centre = there.mean(axis=0) - centre
    to_top = to_centre.copy()
    to_top[2] = np.percentile(there[:, 2], 99.5) - np.percentile(here[:, 2], 99.5)
    shifts = [np.zeros(3), to_centre, to_top]
    turns = [(0.0, 0.0, 0.0)]
    for axis in range(3):
        for angle in (-12.0, 12.0):
            turn = [0.0, 0.0, 0.0]
            turn[axis] = angle
            turns.append((turn[0], turn[1], turn[2]))
    return [
        rigid_matrix(turn, (float(s[0]), float(s[1]), float(s[2])), centre)
        for s in shifts
        for turn in turns
    ]


def _rank(
    fixed: Volume, moving: Volume, head: NDArray[np.bool_], candidates: list[Affine]
) -> list[Affine]:
    """Candidates, best agreement first."""
    points = _points(fixed, head)
    values = fixed.data[head]
    scores = [_agreement(points, values, moving, matrix)[0] for matrix in candidates]
    order = np.argsort(scores)[::-1]
    return [candidates[int(place)] for place in order]


def _agreement(
    points: NDArray[np.float64], values: NDArray[np.float32], moving: Volume, matrix: Affine
) -> tuple[float, float]:
    """Entropy correlation times covered share, and the covered share."""
    index = apply_affine(inverse(moving.affine) @ matrix, points).T
    top = np.array(moving.shape)[:, None] - 0.5
    inside = np.all((index > -0.5) & (index < top), axis=0)
    share = float(inside.mean())
    if inside.sum() < 100:
        return 0.0, share
    there = ndimage.map_coordinates(moving.data, index[:, inside], order=1, mode="nearest")
    return entropy_correlation(values[inside], there) * min(1.0, share / 0.9), share


def _optimise(
    fixed: Volume, moving: Volume, start: Affine, step: float, options: RegistrationOptions
) -> tuple[Affine, float]:
    """Gradient descent at one level; returns the matrix and the metric's final value."""
    lps = FLIP @ start @ FLIP
    centre = FLIP[:3, :3] @ _points(fixed, _head(fixed)).mean(axis=0)
    transform = sitk.Euler3DTransform()
    transform.SetCenter(centre.tolist())
    transform.SetMatrix(lps[:3, :3].ravel().tolist(), 1e-4)
    transform.SetTranslation((lps[:3, :3] @ centre + lps[:3, 3] - centre).tolist())
    method = sitk.ImageRegistrationMethod()
    method.SetMetricAsMattesMutualInformation(32)
    samples = int(np.prod(fixed.shape))
    if samples > 60_000:
        method.SetMetricSamplingStrategy(sitk.ImageRegistrationMethod.REGULAR)
        method.SetMetricSamplingPercentage(60_000 / samples, options.seed)
    method.SetInterpolator(sitk.sitkLinear)
    method.SetOptimizerAsRegularStepGradientDescent(step / 2.0, step / 200.0, 80, 0.6, 1e-6)
    method.SetOptimizerScalesFromPhysicalShift()
    method.SetInitialTransform(transform, inPlace=True)
    try:
        method.Execute(to_itk(fixed), to_itk(moving))
    except RuntimeError:  # every sample left the moving image: keep the start, quality tells
        return start, 0.0
    return from_itk_transform(transform), float(method.GetMetricValue())


def _judged(
    fixed: Volume, moving: Volume, head: NDArray[np.bool_], matrix: Affine, metric: float
) -> Registration:
    """Quality figures of a solution, from the coarsest level."""
    points, values = _points(fixed, head), fixed.data[head]
    best, overlap = _agreement(points, values, moving, matrix)
    centre = points.mean(axis=0)
    nearby = []
    for axis in range(3):
        for sign in (-8.0, 8.0):
            step = [0.0, 0.0, 0.0]
            step[axis] = sign
            offset = (step[0], step[1], step[2])
            moves = (rigid_matrix(offset, (0, 0, 0), centre), rigid_matrix((0, 0, 0), offset))
            nearby += [_agreement(points, values, moving, matrix @ move)[0] for move in moves]
    peak = 1.0 - float(np.mean(nearby)) / best if best > 0 else 0.0
    converged = best > max(nearby)
    quality = best if converged else best / 2.0
    return Registration(matrix, float(quality), metric, overlap, peak, converged)
