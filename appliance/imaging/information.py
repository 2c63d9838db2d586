"""Agreement of two images under a rigid motion, with its gradient.

Entropy correlation coefficient of a joint histogram with cubic B-spline windows, in the manner of
Mattes et al., IEEE Trans. Med. Imaging 22:120 (2003), on sample points that are drawn once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from appliance.imaging.volume import Affine, Array, Volume, inverse

Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]
Places = NDArray[np.int32]
Task = TypeVar("Task")
Done = TypeVar("Done")

BINS = 32
"""Histogram bins per image."""
FINE = 16
"""Parts of a bin at which the window function is tabulated."""
MARGIN = 2
"""Bins left free at either end of the moving image's range, so that windows stay inside."""
CHUNK = 16_384
"""Points worked on at a time: arrays stay in the processor's cache, and sums are made in the same
order whatever the number of threads."""
RADIUS_MM = 70.0
"""Turns are counted in mm at this distance from the centre, about the radius of a head."""
LEAST_SHARE = 0.15
"""Below this share of points inside the moving image there is nothing to compare."""
FULL_SHARE = 0.9
"""From this share on the agreement counts in full."""


@dataclass(frozen=True, slots=True, eq=False)
class Samples:
    """Places of the fixed image and what it shows there.

    Attributes:
        points: (N, 3), RAS mm.
        values: (N,).
        centre: (3,), fixed point of the turns, RAS mm.
    """

    points: Doubles
    values: Floats
    centre: Doubles


@dataclass(frozen=True, slots=True, eq=False)
class _Read:
    """A chunk at one motion: (3, n) points inside, their histogram places, (3, n) slopes."""

    points: Floats
    places: Places
    slopes: Floats


class Information:
    """The entropy correlation coefficient of two images as a function of a rigid motion.

    ECC = 2 I / (H_fixed + H_moving) over the points inside the moving image, scaled down where they
    are less than nine tenths of all. A motion is a 4 x 4 start (RAS mm, fixed to moving) after a
    change of six numbers: turns about x, y and z through the samples' centre in mm at 70 mm, then
    shifts in mm.

    Args:
        samples: Points of the fixed image.
        moving: The moving image, at least 2 voxels along each axis.
        pool: Runs the chunks; None runs them here. The result is the same, bit by bit.
    """

    def __init__(self, samples: Samples, moving: Volume, pool: Executor | None = None) -> None:
        self.centre, self._pool = samples.centre, pool
        self._to_index = inverse(moving.affine)
        self._moving = moving_bins(moving.data)
        rows = fixed_bins(samples.values) * np.int32(BINS * FINE)
        points = (samples.points - samples.centre).T.astype(np.float32)
        self._count = points.shape[1]
        self._chunks = [
            (np.ascontiguousarray(points[:, cut : cut + CHUNK]), rows[cut : cut + CHUNK])
            for cut in range(0, self._count, CHUNK)
        ]

    def motion(self, change: Doubles, start: Affine) -> Affine:
        """The 4 x 4 motion of a start and a change."""
        turn, _ = _turns(change)
        motion = np.eye(4)
        motion[:3, :3] = turn
        motion[:3, 3] = self.centre - turn @ self.centre + change[3:]
        return np.asarray(start @ motion, dtype=np.float64)

    def value(self, matrix: Affine) -> tuple[float, float]:
        """The agreement, 0 to 1, and the share of points inside the moving image."""
        parts, count = self._read_all(matrix)
        share = count / max(1, self._count)
        if share < LEAST_SHARE:
            return 0.0, share
        agreement, _ = _agreement(_histogram(parts, count))
        return agreement * min(1.0, share / FULL_SHARE), share

    def __call__(self, change: Doubles, start: Affine) -> tuple[float, Doubles]:
        """Minus the agreement, and its gradient (6,) by the change."""
        parts, count = self._read_all(self.motion(change, start))
        share = count / max(1, self._count)
        if share < LEAST_SHARE:
            return 0.0, np.zeros(6)
        agreement, forces = _agreement(_histogram(parts, count))
        table = (forces / count).astype(np.float32).ravel()
        moments = self._each(parts, lambda part: _moment(part, table))
        pull = (self._to_index @ start)[:3, :3].T @ np.sum(moments, axis=0)
        _, slopes = _turns(change)
        turning = [float((pull[:, :3] * slope).sum()) for slope in slopes]
        covered = min(1.0, share / FULL_SHARE)
        return -agreement * covered, -covered * np.array([*turning, *pull[:, 3]])

    def _read_all(self, matrix: Affine) -> tuple[list[_Read], int]:
        index = self._to_index @ matrix
        shift = index[:3, :3] @ self.centre + index[:3, 3]
        to_index = np.column_stack([index[:3, :3], shift]).astype(np.float32)
        parts = self._each(self._chunks, lambda chunk: self._read(to_index, *chunk))
        return parts, sum(part.places.size for part in parts)

    def _read(self, matrix: Floats, points: Floats, rows: Places) -> _Read:
        index = np.einsum("ij,jn->in", matrix[:, :3], points) + matrix[:, 3:]
        top = np.array(self._moving.shape, dtype=np.float32)[:, None] - 1
        inside = ((index >= 0) & (index <= top)).all(axis=0)
        if not inside.all():
            index, points, rows = index[:, inside], points[:, inside], rows[inside]
        values, slopes = trilinear(self._moving, index)
        return _Read(points, rows + values.astype(np.int32), slopes)

    def _each(self, tasks: Sequence[Task], work: Callable[[Task], Done]) -> list[Done]:
        if self._pool is None or len(tasks) < 2:
            return [work(task) for task in tasks]
        return list(self._pool.map(work, tasks))


def fixed_bins(values: Array) -> Places:
    """Bin numbers 0 .. BINS-1 between the 0.5th and 99.5th percentile."""
    low, high = np.percentile(values, [0.5, 99.5])
    scaled = (values - low) * (BINS / max(float(high - low), 1e-12))
    return np.asarray(np.clip(scaled, 0, BINS - 1), dtype=np.int32)


def moving_bins(data: Array) -> Floats:
    """Values in parts of bins, MARGIN bins free at either end of the percentiles 0.5 to 99.8."""
    low, high = np.percentile(data, [0.5, 99.8])
    part = (data - low) / max(float(high - low), 1e-12)
    room = BINS - 2 * MARGIN - 1
    return np.asarray((np.clip(part, 0, 1) * room + MARGIN) * FINE, dtype=np.float32)


def trilinear(data: Floats, index: Floats) -> tuple[Floats, Floats]:
    """Linear interpolation and its slope.

    Args:
        data: (X, Y, Z), C order, at least 2 voxels along each axis.
        index: (3, n) voxel indices between 0 and the axis length minus 1.

    Returns:
        Values (n,), and slopes (3, n) per voxel along X, Y and Z.
    """
    x, y, z = data.shape
    low = np.minimum(index.astype(np.int32), np.array([[x - 2], [y - 2], [z - 2]], np.int32))
    part_x, part_y, part_z = index - low
    base = (low[0] * np.int32(y) + low[1]) * np.int32(z) + low[2]
    flat = data.ravel()

    def along_z(offset: int) -> tuple[Floats, Floats]:
        near = flat.take(base + np.int32(offset))
        slope = flat.take(base + np.int32(offset + 1)) - near
        return near + part_z * slope, slope

    value_00, slope_00 = along_z(0)
    value_01, slope_01 = along_z(z)
    value_10, slope_10 = along_z(y * z)
    value_11, slope_11 = along_z(y * z + z)
    y_0, y_1 = value_01 - value_00, value_11 - value_10
    value_0, value_1 = value_00 + part_y * y_0, value_10 + part_y * y_1
    z_0 = slope_00 + part_y * (slope_01 - slope_00)
    z_1 = slope_10 + part_y * (slope_11 - slope_10)
    slopes = np.empty((3, value_0.size), dtype=np.float32)
    slopes[0] = value_1 - value_0
    slopes[1] = y_0 + part_x * (y_1 - y_0)
    slopes[2] = z_0 + part_x * (z_1 - z_0)
    return value_0 + part_x * slopes[0], slopes


def _turns(parameters: Doubles) -> tuple[Doubles, tuple[Doubles, Doubles, Doubles]]:
    """The rotation (about x, then y, then z) and its three derivatives per mm at 70 mm."""
    ax, ay, az = parameters[:3] / RADIUS_MM
    x, x_slope = _turn(1, 2, ax)
    y, y_slope = _turn(2, 0, ay)
    z, z_slope = _turn(0, 1, az)
    slopes = (z @ y @ x_slope, z @ y_slope @ x, z_slope @ y @ x)
    return z @ y @ x, (slopes[0] / RADIUS_MM, slopes[1] / RADIUS_MM, slopes[2] / RADIUS_MM)


def _turn(first: int, second: int, angle: float) -> tuple[Doubles, Doubles]:
    turn, slope = np.eye(3), np.zeros((3, 3))
    cos, sin = np.cos(angle), np.sin(angle)
    turn[first, first] = turn[second, second] = cos
    turn[second, first], turn[first, second] = sin, -sin
    slope[first, first] = slope[second, second] = -sin
    slope[second, first], slope[first, second] = cos, -cos
    return turn, slope


def _windows() -> tuple[Doubles, Doubles]:
    """Cubic B-spline windows (parts of bins, bins) and their slopes per part."""
    place = (np.arange(BINS * FINE) + 0.5)[:, None] / FINE - np.arange(BINS)[None]
    away = np.abs(place)
    near = (4 - 6 * away**2 + 3 * away**3) / 6
    window = np.where(away < 1, near, np.where(away < 2, (2 - away) ** 3 / 6, 0.0))
    inner = -2 * away + 1.5 * away**2
    slope = np.where(away < 1, inner, np.where(away < 2, -((2 - away) ** 2) / 2, 0.0))
    return window, np.sign(place) * slope / FINE


_WINDOW, _WINDOW_SLOPE = _windows()


def _histogram(parts: list[_Read], count: int) -> Doubles:
    """Share of points per bin of the fixed and part of a bin of the moving image."""
    counts = np.zeros(BINS * BINS * FINE, dtype=np.int64)
    for part in parts:
        counts += np.bincount(part.places, minlength=counts.size)
    return counts.reshape(BINS, BINS * FINE) / count


def _agreement(histogram: Doubles) -> tuple[float, Doubles]:
    """ECC, and its slope (BINS, parts) by the moving value of a point, times the points."""
    joint = np.einsum("ij,jk->ik", histogram, _WINDOW)  # einsum: no BLAS threads
    fixed, moving = joint.sum(axis=1), joint.sum(axis=0)
    log_joint, log_fixed, log_moving = _log(joint), _log(fixed), _log(moving)
    fixed_entropy = -float((fixed * log_fixed).sum())
    moving_entropy = -float((moving * log_moving).sum())
    both = fixed_entropy + moving_entropy
    if fixed_entropy < 1e-9 or moving_entropy < 1e-9:
        return 0.0, np.zeros_like(histogram)
    shared = both + float((joint * log_joint).sum())
    weights = 2 / both * (log_joint - log_moving) + 2 * shared / both**2 * log_moving
    return 2 * shared / both, np.einsum("ij,kj->ik", weights, _WINDOW_SLOPE)


def _log(shares: Doubles) -> Doubles:
    """Natural logarithm, 0 where the share is 0."""
    return np.log(shares, out=np.zeros_like(shares), where=shares > 1e-12)


def _moment(part: _Read, table: Floats) -> Doubles:
    """(3, 4): sum of forces times points (3, 3), and sum of forces (3,)."""
    forces = part.slopes * table.take(part.places)
    turning = np.einsum("in,jn->ij", forces, part.points)
    return np.column_stack([turning, forces.sum(axis=1)]).astype(np.float64)
