"""Laying the atlas head over a patient's head, whatever the contrast."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy import optimize

from appliance.imaging.atlas import SCALP_MM, Atlas, load_atlas
from appliance.imaging.grid import grid_of, isotropic_ras_grid
from appliance.imaging.head import head_image, head_mask, shrunk, tones_of
from appliance.imaging.rigid import rigid_matrix
from appliance.imaging.similarity import joint_correlation, to_bins
from appliance.imaging.volume import Affine, Mask, Volume, apply_affine, inverse

Profile = Literal["quick", "full"]

COARSE_MM = 4.0
BINS = 24
CENTRE_BELOW_TOP_MM = 70.0
"""From the top of the head down to the centre of the brain."""

POINT_STEP: dict[Profile, int] = {"quick": 4, "full": 2}
"""Every n-th atlas voxel is compared."""

STRIPPED_ML = 2200.0
"""Less than this that differs from the background is no head but a brain: the atlas without a head
around it is tried as well. The real pairs' heads, without their faces, have 2577 ml and more."""


@dataclass(frozen=True, slots=True, eq=False)
class Alignment:
    """Where the atlas lies in a patient's image.

    Attributes:
        matrix: 4 x 4 affine, MNI to the image's RAS world, mm.
        score: Outline correlation plus entropy correlation coefficient, about 0 to 2; heads give
            about 1 and more.
        coverage: Share of the atlas brain that lies inside the image, 0 to 1.
    """

    matrix: Affine
    score: float
    coverage: float


def align_atlas(volume: Volume, profile: Profile = "full") -> Alignment:
    """Find the affine that lays the atlas head over the image.

    Sixty starts below the top of the head are ranked; the best is refined over three turns, three
    shifts and three scales by Powell's method. What is maximised is the correlation of the drawn
    head's outline with the image's plus the entropy correlation coefficient of intensities, so
    that neither the contrast nor the skull-stripped template misleads.

    Args:
        volume: A head image of any MR contrast; cropped edges are tolerated.
        profile: "quick" compares every fourth atlas voxel, "full" every second.

    Raises:
        ImageRefused: no head was found.
    """
    small = shrunk(volume, COARSE_MM / 2)
    grid = isotropic_ras_grid(grid_of(small), (COARSE_MM, COARSE_MM, COARSE_MM))
    head = head_image(small, grid, tones_of(small))
    outline = head_mask(head)
    atlas = load_atlas(COARSE_MM)
    drawn = [atlas, *([_stripped(atlas)] if _is_stripped(volume) else [])]
    found = [_laid(form, head, outline, profile) for form in drawn]
    matrix, score = max(found, key=lambda pair: pair[1])
    inside = _inside(volume, apply_affine(matrix, _brain_points(atlas)))
    return Alignment(matrix, score, float(inside.mean()))


def _laid(atlas: Atlas, head: Volume, outline: Mask, profile: Profile) -> tuple[Affine, float]:
    """The best affine for one form of the atlas, and its score."""
    rough = _Comparison(atlas, head, outline, 16)
    start = max(_starts(head, outline, atlas.centre), key=rough.score)
    fine = _Comparison(atlas, head, outline, POINT_STEP[profile])
    found = optimize.minimize(
        lambda change: -fine.score(start @ _change(change, atlas.centre)),
        np.zeros(9),
        method="Powell",
        options={"xtol": 0.02, "ftol": 1e-4, "maxiter": 6},
    )
    return start @ _change(found.x, atlas.centre), -float(found.fun)


def _is_stripped(volume: Volume) -> bool:
    """Whether the image may be skull-stripped: apart from one and the same value little is left."""
    every = max(1, volume.shape[0] // 64)
    sample = volume.data[::every]
    other = float(np.count_nonzero(sample != np.median(sample))) * every * volume.voxel_ml
    return other < STRIPPED_ML


def _stripped(atlas: Atlas) -> Atlas:
    """The atlas with nothing around the brain, whose surface is the outline."""
    bare = np.where(atlas.brain, atlas.intensity, np.float32(0.0))
    return replace(atlas, intensity=bare, distance=atlas.distance + np.float32(SCALP_MM))


def _brain_points(atlas: Atlas) -> NDArray[np.float64]:
    return apply_affine(atlas.affine, np.argwhere(atlas.brain))


def _inside(volume: Volume, points: NDArray[np.float64]) -> Mask:
    index = apply_affine(inverse(volume.affine), points)
    return np.asarray(
        np.all((index > -0.5) & (index < np.array(volume.shape) - 0.5), axis=1), dtype=bool
    )


def _change(parameters: NDArray[np.float64], centre: NDArray[np.float64]) -> Affine:
    """Nine numbers near 0 to a matrix: 3 degree turns, 4 mm shifts and 3 % scales per unit."""
    turn, shift = parameters[:3] * 3.0, parameters[3:6] * 4.0
    motion = rigid_matrix(
        (float(turn[0]), float(turn[1]), float(turn[2])),
        (float(shift[0]), float(shift[1]), float(shift[2])),
        centre,
    )
    return np.asarray(motion @ _scaling(1.0 + 0.03 * parameters[6:9], centre), dtype=np.float64)


def _scaling(factors: NDArray[np.float64], centre: NDArray[np.float64]) -> Affine:
    matrix = np.eye(4)
    matrix[:3, :3] = np.diag(factors)
    matrix[:3, 3] = centre - factors * centre
    return matrix


def _starts(head: Volume, outline: Mask, centre: NDArray[np.float64]) -> list[Affine]:
    """MNI space under the top of the head, at several heights, pitches and sizes."""
    place = apply_affine(head.affine, np.argwhere(outline))
    top = float(np.percentile(place[:, 2], 99.8))
    upper = place[place[:, 2] > top - 2 * CENTRE_BELOW_TOP_MM]
    target = np.array([upper[:, 0].mean(), upper[:, 1].mean(), top - CENTRE_BELOW_TOP_MM])
    starts = []
    for lift in (-30.0, -15.0, 0.0, 15.0, 30.0, 45.0):
        for pitch in (-24.0, -12.0, 0.0, 12.0, 24.0):
            for size in (0.85, 0.95):
                shift = target - centre + np.array([0.0, 0.0, lift])
                moved = (float(shift[0]), float(shift[1]), float(shift[2]))
                turn = rigid_matrix((pitch, 0.0, 0.0), moved, centre)
                starts.append(turn @ _scaling(np.full(3, size), centre))
    return starts


class _Comparison:
    """The atlas's points with what is expected there, against one image.

    The image is interpolated to twice its resolution once; points then take the nearest voxel,
    at most 1 mm away along an axis, which is several times as fast as interpolating every time.
    """

    def __init__(self, atlas: Atlas, head: Volume, outline: Mask, step: int) -> None:
        points = apply_affine(atlas.affine, np.argwhere(atlas.used))[::step]
        ones = np.ones((1, len(points)))
        self._points = np.concatenate([points.T, ones]).astype(np.float32)
        self._expected = to_bins(atlas.intensity[atlas.used][::step], BINS)
        self._skin = atlas.head[atlas.used][::step].astype(np.float32)
        self._to_index = np.diag([2.0, 2.0, 2.0, 1.0]) @ inverse(head.affine)
        self._outline = _doubled(outline.astype(np.float32))
        grey = _doubled(np.clip(head.data / 1.3 * BINS, 0, BINS - 0.01))
        self._binned = grey.astype(np.intp)

    def score(self, matrix: Affine) -> float:
        """Outline correlation plus intensity agreement, less where the image ends."""
        turned = (self._to_index @ matrix)[:3].astype(np.float32)
        index = np.einsum("ij,jn->in", turned, self._points)
        index += np.float32(0.5)
        limit = np.array(self._outline.shape, dtype=np.float32)[:, None]
        inside = np.all((index >= 0) & (index < limit), axis=0)
        share = float(inside.mean())
        if share < 0.3:
            return 0.0
        x, y, z = index[:, inside].astype(np.int32)
        _, rows, columns = self._outline.shape
        place = (x * rows + y) * columns + z
        outline = self._outline.ravel()[place]
        found = self._binned.ravel()[place]
        intensity = joint_correlation(self._expected[inside], found, BINS)
        skin = _correlation(outline, self._skin[inside])
        return (skin + intensity) * min(1.0, share / 0.8)


def _doubled(data: NDArray[np.float32]) -> NDArray[np.float32]:
    """The array at half the step, linearly interpolated; the first and last voxels stay."""
    for axis in range(3):
        ends = np.moveaxis(data, axis, 0)
        fine = np.empty((2 * len(ends) - 1, *ends.shape[1:]), dtype=np.float32)
        fine[::2] = ends
        fine[1::2] = (ends[1:] + ends[:-1]) / 2
        data = np.moveaxis(fine, 0, axis)
    return np.ascontiguousarray(data)


def _correlation(first: NDArray[np.float32], second: NDArray[np.float32]) -> float:
    a, b = first - first.mean(), second - second.mean()
    products = [float(np.einsum("i,i->", x, y)) for x, y in ((a, a), (b, b), (a, b))]
    scale = float(np.sqrt(products[0] * products[1]))  # einsum: no BLAS threads
    return products[2] / scale if scale > 0 else 0.0
