"""Geometry of image series: DICOM positions (LPS, mm) and NIfTI affines (RAS, mm).

A series' own grid has the axes (I, J, K) = (column index, row index, slice index), slices ordered
along the normal of ImageOrientationPatient (PS3.3 C.7.6.2.1.1). Every array and affine of this
package stands on that grid unless a name says otherwise.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import ndimage

from dicom_bridge.errors import DataRefused

FloatArray = NDArray[np.float64]

LPS_TO_RAS: FloatArray = np.diag([-1.0, -1.0, 1.0, 1.0])
AFFINE_TOLERANCE_MM = 0.01
ORIENTATION_TOLERANCE = 1e-3


@dataclass(frozen=True, slots=True, eq=False)
class VolumeGeometry:
    """A volume's grid and which instance each slice came from.

    Attributes:
        affine: (4, 4) voxel index (I, J, K) to RAS millimetres.
        shape: voxels along I (columns), J (rows), K (slices).
        sop_instance_uids: SOPInstanceUID of each slice, in K order (identifying).
        frame_numbers: 1-based frame of a multi-frame instance per slice; 0 in single-frame ones.
    """

    affine: FloatArray
    shape: tuple[int, int, int]
    sop_instance_uids: tuple[str, ...]
    frame_numbers: tuple[int, ...]

    @property
    def spacing(self) -> tuple[float, float, float]:
        """Distance in mm between voxel centres along I, J and K."""
        sizes = np.linalg.norm(self.affine[:3, :3], axis=0)
        return (float(sizes[0]), float(sizes[1]), float(sizes[2]))


def slice_normal(orientation: ArrayLike) -> FloatArray:
    """Unit normal, LPS, of six direction cosines.

    Args:
        orientation: ImageOrientationPatient: row direction, then column direction.

    Returns:
        (3,) unit vector, row direction x column direction.

    Raises:
        DataRefused: where the cosines are not finite, not of unit length or not orthogonal.

    Examples:
        >>> slice_normal([1, 0, 0, 0, 1, 0]).tolist()
        [0.0, 0.0, 1.0]
    """
    cosines = np.asarray(orientation, dtype=np.float64).reshape(-1)
    if cosines.shape != (6,) or not np.all(np.isfinite(cosines)):
        raise DataRefused("ImageOrientationPatient must be six finite numbers")
    row, column = cosines[:3], cosines[3:]
    lengths = np.array([np.linalg.norm(row), np.linalg.norm(column)])
    if np.any(np.abs(lengths - 1) > 1e-2) or abs(float(row @ column)) > 1e-2:
        raise DataRefused("ImageOrientationPatient must be two orthogonal unit vectors")
    normal = np.cross(row, column)
    return np.asarray(normal / np.linalg.norm(normal), dtype=np.float64)


def grid_affine(
    position: ArrayLike,
    orientation: ArrayLike,
    pixel_spacing: ArrayLike,
    step: ArrayLike,
) -> FloatArray:
    """Affine of a stack of slices (PS3.3 equation C.7.6.2.1-1, extended by the slice step).

    Args:
        position: ImagePositionPatient of the first slice, LPS mm.
        orientation: ImageOrientationPatient.
        pixel_spacing: PixelSpacing: between rows, between columns, mm.
        step: vector from a slice to the next one, LPS mm.

    Returns:
        (4, 4) index (column, row, slice) to RAS mm.
    """
    lps = np.eye(4)
    cosines = np.asarray(orientation, dtype=np.float64)
    rows_apart, columns_apart = np.asarray(pixel_spacing, dtype=np.float64)
    lps[:3, 0] = cosines[:3] * columns_apart
    lps[:3, 1] = cosines[3:] * rows_apart
    lps[:3, 2] = step
    lps[:3, 3] = position
    return np.asarray(LPS_TO_RAS @ lps, dtype=np.float64)


def check_points(shape: Sequence[int]) -> FloatArray:
    """Eight corners and three inner voxels of a grid, (11, 3) indices."""
    last = np.asarray(shape[:3], dtype=np.float64) - 1
    corners = [[i, j, k] for i in (0.0, 1.0) for j in (0.0, 1.0) for k in (0.0, 1.0)]
    inner = [[0.5, 0.5, 0.5], [0.25, 0.5, 0.75], [0.75, 0.25, 0.5]]
    return np.asarray(corners + inner) * last


def affine_distance(first: FloatArray, second: FloatArray, shape: Sequence[int]) -> float:
    """Largest distance, mm, between two affines over a grid's corners and inner points."""
    points = np.c_[check_points(shape), np.ones(11)]
    difference = points @ (first - second).T
    return float(np.max(np.linalg.norm(difference[:, :3], axis=1)))


def signed_permutation(matrix: FloatArray) -> tuple[tuple[int, int, int], tuple[bool, ...]] | None:
    """The axes and flips that turn one grid's array into another's, or nothing.

    Args:
        matrix: (3, 3) index change from the target grid to the array's own grid.

    Returns:
        (axes, flips): target axis t runs along the array's axis ``axes[t]``, reversed where
        ``flips[t]``; None where the matrix is no signed permutation within 1e-2.
    """
    rounded = np.rint(matrix)
    if np.max(np.abs(matrix - rounded)) > 1e-2 or np.any(np.abs(rounded).sum(axis=0) != 1):
        return None
    if np.any(np.abs(rounded).sum(axis=1) != 1):
        return None
    axes = tuple(int(np.argmax(np.abs(rounded[:, t]))) for t in range(3))
    flips = tuple(bool(rounded[axes[t], t] < 0) for t in range(3))
    return (axes[0], axes[1], axes[2]), flips


def align_to_grid(
    data: NDArray[np.generic], affine: FloatArray, geometry: VolumeGeometry
) -> NDArray[np.generic] | None:
    """Reorder an array's axes so that it stands on a geometry's grid, without any resampling.

    Args:
        data: (X, Y, Z) values.
        affine: (4, 4) the array's index to RAS mm.
        geometry: the grid wanted.

    Returns:
        The reordered array, or None where axes, size or position (0.01 mm) do not fit.
    """
    if data.ndim != 3 or abs(float(np.linalg.det(affine[:3, :3]))) < 1e-12:
        return None
    to_array = np.linalg.inv(affine) @ geometry.affine
    found = signed_permutation(to_array[:3, :3])
    if found is None:
        return None
    axes, flips = found
    turned = np.transpose(data, axes)
    turned = turned[tuple(slice(None, None, -1) if flip else slice(None) for flip in flips)]
    if turned.shape != geometry.shape:
        return None
    moved = np.eye(4)
    moved[:3, :3] = 0
    for target, (axis, flip) in enumerate(zip(axes, flips, strict=True)):
        moved[axis, target] = -1 if flip else 1
        moved[axis, 3] = data.shape[axis] - 1 if flip else 0
    distance = affine_distance(affine @ moved, geometry.affine, geometry.shape)
    return turned if distance <= AFFINE_TOLERANCE_MM else None


def covers(shape: Sequence[int], affine: FloatArray, geometry: VolumeGeometry) -> bool:
    """Whether a grid contains every voxel centre of a geometry, half a voxel of its own added."""
    corners = np.c_[check_points(geometry.shape)[:8], np.ones(8)]
    index = corners @ (np.linalg.inv(affine) @ geometry.affine).T
    upper = np.asarray(shape, dtype=np.float64) - 0.5
    return bool(np.all(index[:, :3] >= -0.5 - 1e-3) and np.all(index[:, :3] <= upper + 1e-3))


def resample_labels(
    mask: NDArray[np.uint8], affine: FloatArray, geometry: VolumeGeometry
) -> NDArray[np.uint8]:
    """A label array on another grid, each voxel from its nearest neighbour.

    Args:
        mask: (X, Y, Z) labels.
        affine: (4, 4) the mask's index to RAS mm.
        geometry: the grid wanted; the mask must cover it (see `covers`).

    Returns:
        (I, J, K) labels. Grids that differ by axis order only come back voxel for voxel.
    """
    same = align_to_grid(mask, affine, geometry)
    if same is not None:
        return np.ascontiguousarray(same, dtype=np.uint8)
    to_mask = np.linalg.inv(affine) @ geometry.affine
    moved = ndimage.affine_transform(
        mask, to_mask[:3, :3], to_mask[:3, 3], output_shape=geometry.shape, order=0, mode="nearest"
    )
    return np.ascontiguousarray(moved, dtype=np.uint8)
