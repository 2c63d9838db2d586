"""Figures of a label that show a wrong one: too large, in pieces, outside the brain, at the border.

They describe; what they mean for a study is the quality check's decision.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

CORNERS = ndimage.generate_binary_structure(3, 3)
"""Voxels that touch at a corner belong to one piece, as in the measurement reports."""


def label_metrics(
    label: NDArray[np.generic],
    brain: NDArray[np.generic] | None,
    spacing: tuple[float, float, float],
) -> dict[str, float]:
    """What a label holds.

    Args:
        label: (X, Y, Z) label values, 0 background.
        brain: (X, Y, Z) brain mask on the same grid, non-zero inside; None where there is none.
        spacing: voxel edges in mm.

    Returns:
        ``volume_ml`` of all labelled voxels; ``lesions``: connected pieces (26 neighbours) of
        whatever is labelled; ``largest_ml``; ``smallest_ml``; ``outside_brain`` share of the
        labelled voxels outside the brain mask (left out without one); ``touches_border`` 1 where a
        labelled voxel lies on the grid's outermost layer of an axis of more than two voxels,
        else 0; ``values`` number of label values. An empty label gives 0 throughout.

    Raises:
        ValueError: brain and label differ in shape.
    """
    drawn = np.asarray(label) != 0
    if brain is not None and brain.shape != drawn.shape:
        raise ValueError(f"brain of shape {brain.shape} for a label of shape {drawn.shape}")
    voxel_ml = float(np.prod(spacing)) / 1000.0
    count = int(np.count_nonzero(drawn))
    sizes = _sizes(drawn)
    figures = {
        "volume_ml": count * voxel_ml,
        "lesions": float(len(sizes)),
        "largest_ml": float(sizes.max(initial=0)) * voxel_ml,
        "smallest_ml": float(sizes.min()) * voxel_ml if len(sizes) else 0.0,
        "touches_border": float(_touches(drawn)),
        "values": float(len(np.unique(np.asarray(label)[drawn]))),
    }
    if brain is not None:
        outside = int(np.count_nonzero(drawn & (np.asarray(brain) == 0)))
        figures["outside_brain"] = outside / count if count else 0.0
    return figures


def _sizes(drawn: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Voxels of each connected piece."""
    found = ndimage.find_objects(drawn.astype(np.uint8))
    if not found or found[0] is None:
        return np.zeros(0, dtype=np.int64)
    pieces, _ = ndimage.label(drawn[found[0]], structure=CORNERS)
    return np.asarray(np.bincount(pieces.ravel())[1:], dtype=np.int64)


def _touches(drawn: NDArray[np.bool_]) -> bool:
    return any(
        bool(np.take(drawn, edge, axis=axis).any())
        for axis in range(3)
        for edge in (0, -1)
        if drawn.shape[axis] > 2
    )
