"""Smooth random fields."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

Floats = NDArray[np.float32]


def smooth_noise(
    rng: np.random.Generator, shape: tuple[int, ...], spacing: float, length: float
) -> Floats:
    """Noise of unit standard deviation (about) that varies over `length` mm.

    Args:
        rng: Random stream.
        shape: Shape of the field.
        spacing: Voxel size in mm.
        length: Distance between independent points in mm.

    Returns:
        float32 field of that shape.
    """
    step = max(1.0, length / spacing)
    coarse = rng.standard_normal(tuple(int(n / step) + 3 for n in shape), dtype=np.float32)
    return stretch(coarse, shape, step) * np.float32(1.5)


def stretch(coarse: Floats, shape: tuple[int, ...], step: float) -> Floats:
    """Linear interpolation of a coarse field whose points lie `step` voxels apart."""
    out = coarse
    for axis, count in enumerate(shape):
        position = np.arange(count, dtype=np.float32) / np.float32(step)
        low = np.minimum(position.astype(np.intp), out.shape[axis] - 2)
        part = (position - low).astype(np.float32)
        part = part.reshape([-1 if a == axis else 1 for a in range(out.ndim)])
        below = np.take(out, low, axis=axis)
        out = below + part * (np.take(out, low + 1, axis=axis) - below)
    return out


def bias_field(
    rng: np.random.Generator, shape: tuple[int, ...], spacing: tuple[float, ...], strength: float
) -> Floats:
    """Multiplicative receive-coil shading, mean about 1.

    Args:
        rng: Random stream.
        shape: Shape of the scan.
        spacing: Voxel size in mm along each axis.
        strength: Standard deviation of its logarithm.

    Returns:
        float32 positive field.
    """
    points = [int(n * s / 55.0) + 4 for n, s in zip(shape, spacing, strict=True)]
    coarse = ndimage.gaussian_filter(rng.standard_normal(points, dtype=np.float32), 0.8)
    coarse = ndimage.zoom(coarse, 3, order=3)
    coarse *= np.float32(strength) / max(float(coarse.std()), 1e-6)
    coarse -= coarse.mean()
    field = np.exp(coarse)
    out = field
    for axis, count in enumerate(shape):
        position = np.linspace(0, out.shape[axis] - 1.001, count, dtype=np.float32)
        low = position.astype(np.intp)
        part = (position - low).reshape([-1 if a == axis else 1 for a in range(3)])
        below = np.take(out, low, axis=axis)
        out = below + part.astype(np.float32) * (np.take(out, low + 1, axis=axis) - below)
    return np.asarray(out, dtype=np.float32)
