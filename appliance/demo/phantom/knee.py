"""A knee, for the study that shows the wrong body part."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from appliance.demo.phantom.scan import AXES

Floats = NDArray[np.float32]


def knee_signal(
    shape: tuple[int, int, int], spacing: tuple[float, float, float], plane: str
) -> Floats:
    """Two bones with cartilage in a leg of muscle and fat.

    Args:
        shape: Columns, rows and slices.
        spacing: Voxel size in mm.
        plane: "axial" or "sagittal".

    Returns:
        Signal, axes (I, J, K), muscle about 0.5, marrow about 1.
    """
    world: list[Floats] = [np.zeros(1, np.float32)] * 3
    for axis, (direction, count, size) in enumerate(zip(AXES[plane], shape, spacing, strict=True)):
        along = (np.arange(count, dtype=np.float32) - (count - 1) / 2) * np.float32(size)
        reshaped = along.reshape([-1 if a == axis else 1 for a in range(3)])
        where = int(np.flatnonzero(direction)[0])
        world[where] = reshaped * np.float32(direction[where])
    x, y, z = world
    width = 62.0 - 0.06 * np.abs(z)
    leg = np.sqrt((x / width) ** 2 + (y / (width + 4)) ** 2)
    out = np.where(leg < 1.0, 0.95, 0.0).astype(np.float32)
    out = np.where(leg < 0.86, 0.5, out)
    for level, reach in ((16.0, 1.0), (-16.0, -1.0)):
        shaft = 17.0 + 21.0 * np.exp(-np.abs(z - level) / 26.0)
        radius = np.sqrt((x / (1.15 * shaft)) ** 2 + ((y + 4) / shaft) ** 2)
        beyond = (z - 3.0 * reach) * reach > 0
        out = np.where(beyond & (radius < 1.0), 0.12, out)
        out = np.where(beyond & (radius < 0.92), 1.0, out)
    joint = (np.abs(z) <= 3.0) & (np.sqrt((x / 42) ** 2 + ((y + 4) / 36) ** 2) < 1)
    out = np.where(joint, 1.25, out)
    cap = ((x / 20) ** 2 + ((y - 46) / 9) ** 2 + ((z - 8) / 22) ** 2) < 1
    return np.asarray(np.where(cap, 0.9, out), dtype=np.float32)
