"""Bodies drawn by formula: an ellipsoid of a brain with a round lesion, oblique, thick slices."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from appliance.imaging.grid import Grid
from appliance.imaging.rigid import rigid_matrix
from appliance.imaging.volume import Volume, apply_affine

TILT = rigid_matrix((6, -9, 12), (4, 8, -3))


def ellipsoid(grid: Grid, centre: tuple[float, ...], radii: tuple[float, ...]) -> NDArray[np.bool_]:
    index = np.argwhere(np.ones(grid.shape, dtype=bool))
    world = apply_affine(grid.affine, index)
    return (((world - centre) / radii) ** 2).sum(axis=1).reshape(grid.shape) <= 1


def study() -> tuple[Volume, Volume, Volume]:
    """An oblique thick-slice image with brain mask and lesion labels."""
    affine = TILT @ np.diag([-1.0, -1.0, 3.0, 1.0])
    centre = apply_affine(affine, np.array([40.0, 45.0, 14.0]))
    grid = Grid((80, 90, 28), affine)
    brain = ellipsoid(grid, tuple(centre), (30, 36, 32))
    lesion = ellipsoid(grid, tuple(centre + np.array([8, 5, 4])), (9, 9, 9))
    rng = np.random.default_rng(0)
    image = np.where(brain, 500, 50) + 200 * lesion + rng.normal(0, 20, grid.shape)
    return (
        Volume(image.astype(np.float32), affine),
        Volume(brain.astype(np.uint8), affine),
        Volume(lesion.astype(np.uint8) * 2, affine),
    )
