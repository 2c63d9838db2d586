"""A label map on another grid, and through a registration onto another image's grid."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from appliance.imaging.grid import Grid
from appliance.imaging.volume import Affine
from appliance.labels.regions import LabelMap
from dicom_bridge.coverage import HALF, coverage, share_outside


@dataclass(frozen=True, slots=True, eq=False)
class Carried:
    """A label map on another grid.

    Attributes:
        values: (I, J, K) uint8.
        outside: share of the labelled voxels that lie outside the grid.
        lost: values that were there and have no voxel any more.
        change: volume afterwards over volume before, 1 for an empty label.
    """

    values: LabelMap
    outside: float
    lost: tuple[int, ...]
    change: float


def carry(
    values: NDArray[np.uint8], affine: Affine, grid: Grid, matrix: Affine | None = None
) -> Carried:
    """Bring a label map onto another grid.

    A voxel is labelled where labels cover at least half of it, with the value that covers most
    (the lower one of equals), so that values that touch do not leave a seam.

    Args:
        values: (X, Y, Z) label values.
        affine: (4, 4) their index to RAS mm.
        grid: where the result stands.
        matrix: (4, 4) RAS points of the grid's image (fixed) to the label's image (moving), as
            `register_rigid` gives it; identity when left out.
    """
    to_label = np.eye(4) if matrix is None else np.asarray(matrix, dtype=np.float64)
    index = np.linalg.inv(np.asarray(affine, dtype=np.float64)) @ to_label @ grid.affine
    present = [int(v) for v in np.unique(values) if v]
    total = np.zeros(grid.shape, dtype=np.float32)
    best = np.zeros(grid.shape, dtype=np.float32)
    result = np.zeros(grid.shape, dtype=np.uint8)
    for value in present:
        share = coverage(values == value, index, grid.shape)
        stronger = share > best
        result[stronger] = value
        best[stronger] = share[stronger]
        total += share
    result[total < HALF] = 0
    before = int(np.count_nonzero(values)) * abs(float(np.linalg.det(np.asarray(affine)[:3, :3])))
    after = int(np.count_nonzero(result)) * abs(float(np.linalg.det(grid.affine[:3, :3])))
    kept = {int(v) for v in np.unique(result)}
    return Carried(
        values=result,
        outside=share_outside(values != 0, index, grid.shape),
        lost=tuple(value for value in present if value not in kept),
        change=after / before if before else 1.0,
    )
