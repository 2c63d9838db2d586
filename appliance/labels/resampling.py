"""A label map on another grid, and through a registration onto another image's grid."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from appliance.imaging.grid import Grid
from appliance.imaging.masks import resample_labels
from appliance.imaging.volume import Affine, Volume, inverse
from appliance.labels.regions import LabelMap
from dicom_bridge.coverage import share_outside


@dataclass(frozen=True, slots=True, eq=False)
class Carried:
    """A label map on another grid.

    Attributes:
        values: (I, J, K) uint8.
        outside: share of the labelled voxels that lie outside the grid.
        change: volume afterwards over volume before, 1 for an empty label.
    """

    values: LabelMap
    outside: float
    change: float


def carry(
    values: NDArray[np.uint8], affine: Affine, grid: Grid, matrix: Affine | None = None
) -> Carried:
    """Bring a label map onto another grid; every connected piece keeps its volume.

    Args:
        values: (X, Y, Z) label values.
        affine: (4, 4) their index to RAS mm.
        grid: where the result stands.
        matrix: (4, 4) RAS points of the grid's image (fixed) to the label's image (moving), as
            `register_rigid` gives it; identity when left out.
    """
    to_label = np.eye(4) if matrix is None else np.asarray(matrix, dtype=np.float64)
    placed = inverse(to_label) @ np.asarray(affine, dtype=np.float64)
    result = resample_labels(Volume(values, placed), grid)
    before = int(np.count_nonzero(values)) * abs(float(np.linalg.det(placed[:3, :3])))
    after = int(np.count_nonzero(result)) * abs(float(np.linalg.det(grid.affine[:3, :3])))
    return Carried(
        values=result,
        outside=share_outside(values != 0, inverse(placed) @ grid.affine, grid.shape),
        change=after / before if before else 1.0,
    )
