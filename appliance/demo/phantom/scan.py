"""The scanner: field of view, slice profile, shading, noise, motion, stored integers."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from appliance.demo.phantom.fields import bias_field
from appliance.demo.phantom.styles import Sequence
from appliance.demo.phantom.warp import rotation

Affine = NDArray[np.float64]
Floats = NDArray[np.float32]
Stored = NDArray[np.int16]

AXES = {
    "axial": np.array([[-1.0, 0, 0], [0, -1.0, 0], [0, 0, 1.0]]),
    "sagittal": np.array([[0, -1.0, 0], [0, 0, -1.0], [1.0, 0, 0]]),
}
"""Directions (RAS) of columns, rows and slices as rows of a matrix, per plane."""


@dataclass(frozen=True, slots=True)
class FieldOfView:
    """Where a scan is prescribed.

    Attributes:
        spacing: Voxel size in mm along columns, rows and slices.
        shape: Columns, rows and slices.
        plane: "axial" or "sagittal".
        tilt: Obliquity in degrees about x, y and z.
        centre: RAS mm of the volume's centre.
    """

    spacing: tuple[float, float, float]
    shape: tuple[int, int, int]
    plane: str
    tilt: tuple[float, float, float]
    centre: tuple[float, float, float]

    @property
    def affine(self) -> Affine:
        """4 x 4, voxel index (I, J, K) to RAS mm."""
        out = np.eye(4)
        out[:3, :3] = rotation(self.tilt)[:3, :3] @ (AXES[self.plane].T * np.array(self.spacing))
        middle = (np.array(self.shape, dtype=np.float64) - 1.0) / 2.0
        out[:3, 3] = np.array(self.centre) - out[:3, :3] @ middle
        return out


def soften(image: Floats, plane: str, voxel: tuple[float, float, float], spacing: float) -> Floats:
    """Blur a template image to the scan's voxels, so that sampling gives partial volume.

    Args:
        image: Axes (X, Y, Z) RAS.
        plane: Plane of the scan.
        voxel: Voxel size of the scan along columns, rows and slices in mm.
        spacing: Voxel size of `image` in mm.

    Returns:
        A blurred copy, or the image itself where the scan is finer.
    """
    out = image
    for direction, size in zip(AXES[plane], voxel, strict=True):
        axis = int(np.flatnonzero(direction)[0])
        weight = ((size / spacing) ** 2 - 1.0) / 24.0
        while weight > 0.02:
            part = min(weight, 0.25)
            out = _smooth3(out, axis, np.float32(part))
            weight -= part
    return out


def _smooth3(image: Floats, axis: int, part: np.float32) -> Floats:
    """Three-point smoothing along one axis."""
    out = image.copy()
    middle, before, after = ([slice(None)] * 3 for _ in range(3))
    middle[axis], before[axis], after[axis] = slice(1, -1), slice(0, -2), slice(2, None)
    centre, low, high = tuple(middle), tuple(before), tuple(after)
    out[centre] += part * (image[low] + image[high] - 2.0 * image[centre])
    return out


def expose(
    signal: Floats,
    sequence: Sequence,
    spacing: tuple[float, float, float],
    rng: np.random.Generator,
) -> Stored:
    """Turn clean signal into stored values: shading, Rician noise, scale.

    Args:
        signal: White matter about 1, axes (I, J, K); changed in place.
        sequence: Scale and signal-to-noise ratio.
        spacing: Voxel size in mm.
        rng: Random stream.

    Returns:
        int16, 0 to 32767.
    """
    signal *= bias_field(rng, signal.shape, spacing, float(rng.uniform(0.05, 0.11)))
    sigma = np.float32(1.0 / (sequence.snr * float(rng.uniform(0.85, 1.15))))
    real = rng.standard_normal(signal.shape, dtype=np.float32)
    real *= sigma
    real += signal
    imaginary = rng.standard_normal(signal.shape, dtype=np.float32)
    imaginary *= sigma
    np.hypot(real, imaginary, out=real)
    real *= np.float32(sequence.scale * float(np.exp(rng.normal(0.0, 0.12))))
    np.rint(real, out=real)
    return np.clip(real, 0, 32767, out=real).astype(np.int16)


def shake(signal: Floats, rng: np.random.Generator, strength: float = 1.0) -> Floats:
    """Motion: the head shifts while phase-encoding lines (columns' axis) are read.

    Periodic motion gives ghosts, jumps give blur and ringing.

    Args:
        signal: Axes (I, J, K).
        rng: Random stream.
        strength: Factor of the shifts: 1 swings by 2.6 voxels.

    Returns:
        The corrupted magnitude.
    """
    columns, rows, slices = signal.shape
    lines = np.arange(columns)
    swing = 2.6 * np.sin(2 * np.pi * lines / 5.3 + rng.uniform(0, 6))
    jumps = np.zeros(columns)
    for place in rng.integers(0, columns, 7):
        jumps[place:] += rng.normal(0.0, 3.2)
    kx = np.fft.fftfreq(columns)[:, None]
    ky = np.fft.fftfreq(rows)[None, :]
    order = np.fft.fftshift(lines)[:, None]
    shift = strength * (swing + jumps)[order[:, 0]][:, None]
    phase = np.exp(-2j * np.pi * (shift * kx + 0.8 * shift * ky)).astype(np.complex64)
    out = np.empty_like(signal)
    for k in range(slices):
        spectrum = np.fft.fft2(signal[:, :, k])
        out[:, :, k] = np.abs(np.fft.ifft2(spectrum * phase))
    return out
