"""Rigid motions as 4 x 4 matrices."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from appliance.imaging.volume import Affine, apply_affine


def rigid_matrix(
    angles_deg: tuple[float, float, float],
    shift_mm: tuple[float, float, float],
    centre: tuple[float, float, float] | NDArray[np.float64] = (0.0, 0.0, 0.0),
) -> Affine:
    """A rigid 4 x 4 matrix: turns about x, then y, then z through a centre, then a shift.

    Args:
        angles_deg: Turns about the RAS axes in degrees.
        shift_mm: Shift in mm.
        centre: Fixed point of the turns, mm.

    >>> rigid_matrix((0, 0, 90), (1, 0, 0)).round(3)[:3, 3].tolist()
    [1.0, 0.0, 0.0]
    """
    ax, ay, az = np.deg2rad(angles_deg)
    about_x = np.array([[1, 0, 0], [0, np.cos(ax), -np.sin(ax)], [0, np.sin(ax), np.cos(ax)]])
    about_y = np.array([[np.cos(ay), 0, np.sin(ay)], [0, 1, 0], [-np.sin(ay), 0, np.cos(ay)]])
    about_z = np.array([[np.cos(az), -np.sin(az), 0], [np.sin(az), np.cos(az), 0], [0, 0, 1]])
    middle = np.asarray(centre, dtype=np.float64)
    matrix = np.eye(4)
    matrix[:3, :3] = about_z @ about_y @ about_x
    matrix[:3, 3] = middle - matrix[:3, :3] @ middle + np.asarray(shift_mm, dtype=np.float64)
    return matrix


def mean_displacement(first: Affine, second: Affine, points: NDArray[np.float64]) -> float:
    """Mean distance in mm between where two transforms send points (N, 3)."""
    gap = apply_affine(first, points) - apply_affine(second, points)
    return float(np.linalg.norm(gap, axis=-1).mean())


def best_rigid(matrix: Affine, points: NDArray[np.float64]) -> Affine:
    """The rigid motion nearest to an affine over points (N, 3), least squares.

    Source: Kabsch, Acta Cryst. A32:922 (1976).
    """
    there = apply_affine(matrix, points)
    here_mean, there_mean = points.mean(axis=0), there.mean(axis=0)
    u, _, vt = np.linalg.svd((there - there_mean).T @ (points - here_mean))
    turn = u @ np.diag([1.0, 1.0, np.linalg.det(u @ vt)]) @ vt
    result = np.eye(4)
    result[:3, :3] = turn
    result[:3, 3] = there_mean - turn @ here_mean
    return result
