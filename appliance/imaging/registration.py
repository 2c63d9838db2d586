"""Rigid registration of two images of one head, with a figure that notices failure."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy import optimize

from appliance.imaging.alignment import Profile
from appliance.imaging.information import Information
from appliance.imaging.itk import save_matrix
from appliance.imaging.pyramid import core_mask, draw_samples, head_mask, pooled
from appliance.imaging.rigid import mean_displacement, rigid_matrix
from appliance.imaging.volume import Affine, Mask, Volume, apply_affine

FINE_MM, MIDDLE_MM, COARSE_MM = 1.25, 4.0, 8.0
"""Voxel sizes of the last level, of the choice between optima, and of the search for them."""

FINE_POINTS: dict[Profile, int] = {"quick": 50_000, "full": 150_000}
MIDDLE_POINTS, COARSE_POINTS, JUDGE_POINTS = 20_000, 6_000, 30_000
"""Sample points of each level, and of the judgement (at the finest)."""

CORE_DEPTH_MM = 15.0
"""The last level looks only deeper than this under the skin."""

SEARCHED, CHOSEN = 4, 2
"""Starts optimised at the coarse level, and of their results at the middle level."""

WIDELY_SEARCHED = 10
"""Starts optimised at the coarse level where the first result is poor."""

APART_MM = 6.0
"""Motions nearer to each other than this count as one."""

POOR = 0.19
"""Below this quality a registration is searched for again, widely."""

NEARBY_MM = 2.0
"""How far away the neighbours lie that a result is judged against."""

LEAST_AGREEMENT = 0.04
"""Below this agreement the quality is scaled down: noise has about 0.002, heads 0.1 and more."""

SHARPNESS = 1.9
"""Brings the quality figure to a scale on which 0.19 is doubtful and 0.12 wrong."""

JUDGE_SEED = 7
"""Seed of the points at which results are judged: a figure does not depend on the options."""


@dataclass(frozen=True, slots=True)
class RegistrationOptions:
    """How to register.

    Attributes:
        profile: "quick" (50,000 points at the last level) or "full" (150,000).
        threads: Threads; the result does not depend on their number.
        seed: Seed of the sample points.
    """

    profile: Profile = "full"
    threads: int = 1
    seed: int = 20240


@dataclass(frozen=True, slots=True, eq=False)
class Registration:
    """A rigid transform and how far to trust it.

    Attributes:
        matrix: 4 x 4, maps RAS points of the fixed image to the moving image, mm.
        quality: 0 to 1, higher is better: 1.9 times the sum of the mean and the smallest share of
            the agreement that is lost 2 mm away in twelve directions (three shifts and three turns
            both ways, turns counted at 70 mm); 0 where the mirrored head fits better. True
            solutions give about 0.27 to 0.8, other heads less than 0.2, a transform 4 mm off 0.
        metric: Minus the agreement at the optimiser's end (lower is better).
        overlap: Share of the fixed head's core that lies inside the moving image, 0 to 1.
        agreement: Entropy correlation coefficient over the fixed head's core, 0 to 1, scaled down
            where the moving image covers less than nine tenths of it.
        converged: Whether none of the twelve places was better.
        widened: Whether the first result was poor and a wide search followed.
        mirrored: Whether the head fits better with left and right exchanged: one image is
            mirrored, they show different heads, or the transform is no optimum at all.
    """

    matrix: Affine
    quality: float
    metric: float
    overlap: float = 1.0
    agreement: float = 1.0
    converged: bool = True
    widened: bool = False
    mirrored: bool = False


def register_rigid(
    fixed: Volume, moving: Volume, *, options: RegistrationOptions | None = None
) -> Registration:
    """Find the rigid motion that takes points of `fixed` to `moving`.

    The entropy correlation coefficient is maximised by L-BFGS (Byrd et al., SIAM J. Sci. Comput.
    16:1190, 1995) on sample points drawn once: at 8 mm from the four best-ranked of 21 starts
    (headers' own alignment, heads' centres, heads' tops, and turns about each), at 4 mm from the
    two best results, at 1.25 mm from the best, there only deeper than 15 mm under the skin. Where
    the result is poor, the search is repeated from 24 orientations and 30 degree turns.

    Args:
        fixed: Reference (the FLAIR).
        moving: Image to align (the T1).
        options: Profile, threads, seed. Equal input and options give equal results, bit by bit.

    Returns:
        The transform with its quality figures. A failure is a low `quality`, not an exception.

    Raises:
        ImageRefused: an image is constant, or has fewer than 2 voxels along an axis.
    """
    chosen = options or RegistrationOptions()
    with _workers(chosen.threads) as pool:
        search = _Search(fixed, moving, chosen, pool)
        found = search.run(search.near_starts(), SEARCHED)
        if found.quality >= POOR:
            return found
        again = search.run(search.wide_starts(), WIDELY_SEARCHED)
    best = max(found, again, key=lambda result: (result.quality, result.agreement))
    return replace(best, widened=True)


def judge(fixed: Volume, moving: Volume, matrix: Affine, metric: float = 0.0) -> Registration:
    """Quality figures of a transform, however it was found.

    Args:
        fixed: Reference image.
        moving: Aligned image.
        matrix: 4 x 4 RAS, fixed to moving.
        metric: The optimiser's final metric, only carried along.

    Raises:
        ImageRefused: an image is constant, or has fewer than 2 voxels along an axis.
    """
    search = _Search(fixed, moving, RegistrationOptions(profile="quick"), None)
    return search.judged(matrix, metric)


def save_itk_transform(registration: Registration, path: Path) -> None:
    """Write the transform as an ITK file (LPS, maps fixed points to moving points)."""
    save_matrix(registration.matrix, path)


@contextmanager
def _workers(threads: int) -> Iterator[Executor | None]:
    """A pool of threads, or None where one is enough."""
    if threads < 2:
        yield None
        return
    with ThreadPoolExecutor(threads, thread_name_prefix="registration") as pool:
        yield pool


def _regions(image: Volume) -> tuple[Volume, Volume]:
    """The head, and its core, on the fixed image's middle grid."""
    head = head_mask(image)
    return image.with_data(head), image.with_data(core_mask(image, head, CORE_DEPTH_MM))


class _Search:
    """Two images at three voxel sizes and what is compared at each."""

    def __init__(
        self, fixed: Volume, moving: Volume, options: RegistrationOptions, pool: Executor | None
    ) -> None:
        fine = pooled(fixed, FINE_MM), pooled(moving, FINE_MM)
        middle = pooled(fine[0], MIDDLE_MM), pooled(fine[1], MIDDLE_MM)
        coarse = pooled(middle[0], COARSE_MM), pooled(middle[1], COARSE_MM)
        head, core = _regions(middle[0])
        random = np.random.default_rng(options.seed)

        def compare(pair: tuple[Volume, Volume], region: Volume, count: int) -> Information:
            return Information(draw_samples(pair[0], region, count, random), pair[1], pool)

        self._coarse = compare(coarse, head, COARSE_POINTS)
        self._middle = compare(middle, head, MIDDLE_POINTS)
        self._fine = compare(fine, core, FINE_POINTS[options.profile])
        samples = draw_samples(fine[0], core, JUDGE_POINTS, np.random.default_rng(JUDGE_SEED))
        self._judge = Information(samples, fine[1], pool)
        self._here = _points(middle[0], head.data)
        self._there = _points(middle[1], head_mask(middle[1]))

    def run(self, starts: Sequence[Affine], searched: int) -> Registration:
        """The best motion that the starts lead to, judged."""
        order = np.argsort([-self._coarse.value(start)[0] for start in starts], kind="stable")
        coarse = self._best(self._coarse, [starts[int(place)] for place in order], searched, 1e-4)
        middle = self._best(self._middle, coarse, CHOSEN, 1e-5)
        matrix, value = _climb(self._fine, middle[0], 1e-6)
        return self.judged(matrix, -value)

    def judged(self, matrix: Affine, metric: float) -> Registration:
        """Quality figures of a transform."""
        judge = self._judge
        best, overlap = judge.value(matrix)
        if best <= 0:
            return Registration(matrix, 0.0, metric, overlap, best, converged=False)
        steps = NEARBY_MM * np.concatenate([np.eye(6), -np.eye(6)])
        nearby = [judge.value(judge.motion(step, matrix))[0] for step in steps]
        losses = 1.0 - np.array(nearby) / best
        mirrored = self._mirrored_agreement(matrix) > best
        sharpness = SHARPNESS * float(losses.mean() + losses.min())
        quality = 0.0 if mirrored else sharpness * min(1.0, best / LEAST_AGREEMENT)
        return Registration(
            matrix,
            float(np.clip(quality, 0.0, 1.0)),
            metric,
            overlap,
            best,
            converged=bool(losses.min() > 0),
            mirrored=mirrored,
        )

    def _mirrored_agreement(self, matrix: Affine) -> float:
        """The agreement with left and right exchanged, after a fit of its own."""
        exchange = np.diag([-1.0, 1.0, 1.0, 1.0])
        exchange[0, 3] = 2.0 * self._here.mean(axis=0)[0]
        rough, _ = _climb(self._middle, matrix @ exchange, 1e-4)
        return _climb(self._judge, rough, 1e-4)[1]

    def near_starts(self) -> list[Affine]:
        """Header alignment, head centres, head tops, and turns of 20 degrees about each."""
        turns = [np.zeros(3)]
        turns += [sign * 20.0 * axis for axis in np.eye(3) for sign in (-1, 1)]
        return self._moved([rigid_matrix(_three(turn), (0, 0, 0)) for turn in turns])

    def wide_starts(self) -> list[Affine]:
        """All 24 orientations of the axes, and single and paired turns of 30 degrees."""
        turns = _orientations()
        turns += [
            rigid_matrix(_three(30.0 * np.array(signs)), (0, 0, 0))
            for signs in itertools.product((-1, 0, 1), repeat=3)
            if any(signs)
        ]
        return self._moved(turns)

    def _moved(self, turns: Sequence[Affine]) -> list[Affine]:
        """Every turn about the fixed head's centre, with every shift."""
        centre = self._here.mean(axis=0)
        to_centre = self._there.mean(axis=0) - centre
        to_top = to_centre.copy()
        tops = [np.percentile(points[:, 2], 99.5) for points in (self._there, self._here)]
        to_top[2] = tops[0] - tops[1]
        starts = []
        for shift, turn in itertools.product((np.zeros(3), to_centre, to_top), turns):
            start = turn.copy()
            start[:3, 3] = centre + shift - turn[:3, :3] @ centre
            starts.append(start)
        return starts

    def _best(
        self, information: Information, starts: Sequence[Affine], count: int, tolerance: float
    ) -> list[Affine]:
        """Optimise the first `count` starts that lie apart; best result first."""
        tried = [_climb(information, start, tolerance) for start in self._apart(starts, count)]
        return [matrix for matrix, _ in sorted(tried, key=lambda result: -result[1])]

    def _apart(self, starts: Sequence[Affine], count: int) -> list[Affine]:
        points = self._here[:: max(1, len(self._here) // 100)]
        kept: list[Affine] = []
        for start in starts:
            if all(mean_displacement(start, other, points) > APART_MM for other in kept):
                kept.append(start)
            if len(kept) == count:
                break
        return kept


def _climb(information: Information, start: Affine, tolerance: float) -> tuple[Affine, float]:
    """The nearest optimum and its agreement."""
    found = optimize.minimize(
        information,
        np.zeros(6),
        args=(start,),
        jac=True,
        method="L-BFGS-B",
        options={"maxiter": 50, "ftol": tolerance, "gtol": 1e-7},
    )
    return information.motion(found.x, start), -float(found.fun)


def _points(volume: Volume, mask: Mask) -> NDArray[np.float64]:
    """World positions (N, 3) of the true voxels."""
    return apply_affine(volume.affine, np.argwhere(mask))


def _three(values: NDArray[np.float64]) -> tuple[float, float, float]:
    return (float(values[0]), float(values[1]), float(values[2]))


def _orientations() -> list[Affine]:
    """The 24 rotations that lay axes on axes."""
    found = []
    for order in itertools.permutations(range(3)):
        for signs in itertools.product((1.0, -1.0), repeat=3):
            turn = np.zeros((3, 3))
            turn[range(3), order] = signs
            if np.linalg.det(turn) > 0:
                matrix = np.eye(4)
                matrix[:3, :3] = turn
                found.append(matrix)
    return found
