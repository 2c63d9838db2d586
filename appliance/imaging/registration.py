"""Rigid registration of two images of one head, with a figure that notices failure."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
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


@dataclass(frozen=True, slots=True)
class Level:
    """One resolution level.

    Attributes:
        step_mm: Voxel size (never finer than the images' own).
        stride: First step of the descent, in units of the voxel size.
        samples: At most this many sample points of the metric.
    """

    step_mm: float
    stride: float
    samples: int


LEVELS: dict[Profile, tuple[Level, ...]] = {
    "quick": (Level(6.0, 0.5, 60_000), Level(3.0, 0.3, 60_000), Level(2.0, 0.1, 150_000)),
    "full": (
        Level(6.0, 0.5, 60_000),
        Level(3.0, 0.3, 60_000),
        Level(2.0, 0.1, 150_000),
        Level(1.25, 0.1, 400_000),
    ),
}
"""Resolution levels, coarse to fine."""

STARTS: dict[Profile, int] = {"quick": 1, "full": 3}
"""How many of the best-ranked starting positions are optimised at the coarsest level."""

JUDGE_MM = 3.0
"""Voxel size at which the result is judged."""

JUDGE_POINTS = 30_000
"""At most this many places of the fixed head are compared when the result is judged."""


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
        quality: 0 to 1, higher is better: the share of the agreement that is lost on average 8 mm
            or 8 degrees away (twelve directions), halved when one of those places fits better
            than the one found. True solutions give about 0.3 to 0.7, a shift of 4 mm about 0.15
            to 0.28, other heads and failures less.
        metric: Mattes mutual information at the end, negative nats (lower is better).
        overlap: Share of the fixed head's voxels that lie inside the moving image, 0 to 1.
        agreement: Entropy correlation coefficient over the fixed head, 0 to 1, scaled down where
            the moving image covers less than nine tenths of it.
        converged: Whether none of the twelve places was better.
    """

    matrix: Affine
    quality: float
    metric: float
    overlap: float = 1.0
    agreement: float = 1.0
    converged: bool = True


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
    levels = LEVELS[chosen.profile]
    first = levels[0].step_mm
    coarse_fixed, coarse_moving = _level(fixed, first), _level(moving, first)
    heads = (_head(coarse_fixed), _head(coarse_moving))
    candidates = _starts(coarse_fixed, coarse_moving, heads)
    ranked = _rank(coarse_fixed, coarse_moving, heads[0], candidates)
    with itk_threads(chosen.threads):
        tried = [
            _optimise(coarse_fixed, coarse_moving, start, levels[0], chosen)
            for start in ranked[: STARTS[chosen.profile]]
        ]
        matrix, metric = min(tried, key=lambda result: result[1])
        for level in levels[1:]:
            pair = (_level(fixed, level.step_mm), _level(moving, level.step_mm))
            matrix, metric = _optimise(*pair, matrix, level, chosen)
    return judge(fixed, moving, matrix, metric)


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
    fixed: Volume, moving: Volume, start: Affine, level: Level, options: RegistrationOptions
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
    if samples > level.samples:
        method.SetMetricSamplingStrategy(sitk.ImageRegistrationMethod.REGULAR)
        method.SetMetricSamplingPercentage(level.samples / samples, options.seed)
    method.SetInterpolator(sitk.sitkLinear)
    method.SetOptimizerAsRegularStepGradientDescent(
        level.step_mm * level.stride, level.step_mm / 200.0, 80, 0.6, 1e-8
    )
    method.SetOptimizerScalesFromPhysicalShift()
    method.SetInitialTransform(transform, inPlace=True)
    try:
        method.Execute(to_itk(fixed), to_itk(moving))
    except RuntimeError:  # every sample left the moving image: keep the start, quality tells
        return start, 0.0
    return from_itk_transform(transform), float(method.GetMetricValue())


def judge(fixed: Volume, moving: Volume, matrix: Affine, metric: float = 0.0) -> Registration:
    """Quality figures of a transform, however it was found.

    Args:
        fixed: Reference image.
        moving: Aligned image.
        matrix: 4 x 4 RAS, fixed to moving.
        metric: The optimiser's final metric, only carried along.
    """
    fine_fixed, fine_moving = _level(fixed, JUDGE_MM), _level(moving, JUDGE_MM)
    head = _head(fine_fixed)
    stride = max(1, int(head.sum()) // JUDGE_POINTS)
    points, values = _points(fine_fixed, head)[::stride], fine_fixed.data[head][::stride]
    best, overlap = _agreement(points, values, fine_moving, matrix)
    centre = points.mean(axis=0)
    nearby = []
    for axis, sign in itertools.product(range(3), (-8.0, 8.0)):
        step = [0.0, 0.0, 0.0]
        step[axis] = sign
        offset = (step[0], step[1], step[2])
        moves = (rigid_matrix(offset, (0, 0, 0), centre), rigid_matrix((0, 0, 0), offset))
        nearby += [_agreement(points, values, fine_moving, matrix @ move)[0] for move in moves]
    peak = 1.0 - float(np.mean(nearby)) / best if best > 0 else 0.0
    converged = best > max(nearby)
    quality = float(np.clip(peak if converged else peak / 2.0, 0.0, 1.0))
    return Registration(matrix, quality, metric, overlap, best, converged)
