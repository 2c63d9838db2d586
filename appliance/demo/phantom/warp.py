"""From scanner to template: pose, affine and elastic deformation, and sampling through them.

Direction of all maps: pull-back. A scanner point (RAS mm) goes through the inverse pose to the
patient's own frame, and from there through affine and elastic field to the template (MNI, mm).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

if TYPE_CHECKING:
    import torch

Affine = NDArray[np.float64]
Floats = NDArray[np.float32]

ELASTIC_STEP = 26.0
"""Spacing of the elastic field's control points in mm."""
LATTICE_MM = 5.0
"""Spacing at which the map is evaluated exactly; linear between (error below 0.05 mm)."""
SLAB_VOXELS = 4_000_000
"""Voxels that are sampled at a time."""


def rotation(degrees: tuple[float, float, float]) -> Affine:
    """4 x 4 rotation about x, then y, then z (RAS), angles in degrees."""
    out = np.eye(4)
    for axis, angle in enumerate(np.deg2rad(degrees)):
        turn = np.eye(4)
        a, b = [i for i in range(3) if i != axis]
        turn[a, a] = turn[b, b] = np.cos(angle)
        turn[b, a] = np.sin(angle) * (-1.0 if axis == 1 else 1.0)
        turn[a, b] = -turn[b, a]
        out = turn @ out
    return out


def rigid(
    degrees: tuple[float, float, float],
    shift: tuple[float, float, float],
    centre: tuple[float, float, float] = (0.0, 0.0, 0.0),
) -> Affine:
    """4 x 4 rigid transform: rotation about `centre`, then translation (degrees, mm)."""
    there, back = np.eye(4), np.eye(4)
    there[:3, 3] = np.add(centre, shift)
    back[:3, 3] = -np.asarray(centre)
    return np.asarray(there @ rotation(degrees) @ back, dtype=np.float64)


@dataclass(frozen=True, slots=True, eq=False)
class Bend:
    """A patient's shape: patient frame to template.

    Attributes:
        affine: 4 x 4, patient RAS mm to template RAS mm, without the elastic part.
        control: Elastic displacement in mm at control points, axes (X, Y, Z, 3).
        origin: Position of the first control point in template mm.
        widening: How much wider the ventricles are, 0 to about 0.4.
    """

    affine: Affine
    control: NDArray[np.float64]
    origin: NDArray[np.float64]
    widening: float

    def to_template(self, points: NDArray[np.float64]) -> NDArray[np.float64]:
        """Template positions (..., 3) of patient points (..., 3), mm."""
        base = points @ self.affine[:3, :3].T + self.affine[:3, 3]
        index = np.moveaxis((base - self.origin) / ELASTIC_STEP, -1, 0)
        moved = base.copy()
        for axis in range(3):
            moved[..., axis] += ndimage.map_coordinates(
                self.control[..., axis], index, order=3, mode="nearest", prefilter=False
            )
        for side in (-1.0, 1.0):
            away = base - np.array([16.0 * side, -14.0, 14.0])
            fall = np.exp(-0.5 * (away**2).sum(axis=-1, keepdims=True) / 22.0**2)
            moved -= self.widening * 0.5 * away * fall
        return moved


def make_bend(rng: np.random.Generator) -> Bend:
    """A random head shape: size within about 5 %, elastic bends of about 2 mm, own ventricles."""
    scale = np.clip(rng.normal(1.0, 0.028, 3), 0.95, 1.05)
    shear = rng.normal(0.0, 0.015, 3)
    affine = np.eye(4)
    affine[:3, :3] = np.diag(scale)
    affine[0, 1], affine[0, 2], affine[1, 2] = shear
    origin = np.array([-130.0, -156.0, -182.0])
    control = rng.normal(0.0, 3.4, (11, 12, 13, 3))
    widening = float(np.clip(rng.normal(0.12, 0.16), -0.15, 0.45))
    return Bend(affine, control, origin, widening)


@dataclass(frozen=True, slots=True, eq=False)
class Sampled:
    """Images (float32) and labels (uint8) on a scan's grid, axes (I, J, K)."""

    images: list[Floats]
    labels: NDArray[np.uint8] | None


@dataclass(frozen=True, slots=True, eq=False)
class ScanGrid:
    """Where a scan's voxels lie in template space.

    Attributes:
        shape: Columns, rows and slices.
        affine: Voxel index to scanner RAS mm.
        lattice: Template voxel positions on a coarse lattice, axes (I, J, K, 3).
        step: Lattice step in voxels along each axis.
    """

    shape: tuple[int, int, int]
    affine: Affine
    lattice: Floats
    step: tuple[int, int, int]

    def sample(self, images: list[Floats], labels: NDArray[np.uint8] | None = None) -> Sampled:
        """Values of template images at the scan's voxels, 0 outside.

        Args:
            images: float32 arrays of one shape, the template head's axes (X, Y, Z), linear.
            labels: uint8 array of that shape, nearest neighbour.

        Returns:
            Arrays of the scan's shape, axes (I, J, K).
        """
        import torch
        from torch.nn import functional

        out = [np.empty(self.shape, dtype=np.float32) for _ in images]
        sources = [(torch.from_numpy(image)[None, None], "bilinear") for image in images]
        if labels is not None:
            out.append(np.empty(self.shape, dtype=np.float32))
            sources.append((torch.from_numpy(labels.astype(np.float32))[None, None], "nearest"))
        shape = sources[0][0].shape[2:]
        for start, grid in self._slabs(np.array(shape, dtype=np.float32)):
            stop = start + grid.shape[1]
            for (tensor, mode), target in zip(sources, out, strict=True):
                values = functional.grid_sample(tensor, grid, mode=mode, align_corners=True)
                target[start:stop] = values[0, 0].numpy()
        picked = out.pop().astype(np.uint8) if labels is not None else None
        return Sampled(out, picked)

    def _slabs(self, size: Floats) -> Iterator[tuple[int, torch.Tensor]]:
        """First column and sampling positions (1, i, J, K, 3) of one slab after the other."""
        import torch
        from torch.nn import functional

        unit = torch.from_numpy(self.lattice * (2.0 / (size - 1)) - 1.0)[..., [2, 1, 0]]
        planes = max(1, SLAB_VOXELS // (self.shape[1] * self.shape[2] * self.step[0]))
        rows = [(n - 1) * s + 1 for n, s in zip(self.lattice.shape, self.step, strict=False)]
        for first in range(0, self.lattice.shape[0] - 1, planes):
            last = min(first + planes, self.lattice.shape[0] - 1)
            start = first * self.step[0]
            if start >= self.shape[0]:
                return
            coarse = unit[first : last + 1].permute(3, 0, 1, 2)[None]
            count = (last - first) * self.step[0] + 1
            fine = functional.interpolate(
                coarse, size=(count, rows[1], rows[2]), mode="trilinear", align_corners=True
            )[0].permute(1, 2, 3, 0)
            stop = min(start + count, self.shape[0])
            yield start, fine[: stop - start, : self.shape[1], : self.shape[2]][None]


def make_scan_grid(
    shape: tuple[int, int, int], affine: Affine, pose: Affine, bend: Bend, head: ScanTarget
) -> ScanGrid:
    """Evaluate the map from a scan's voxels to the template head's voxels.

    Args:
        shape: Columns, rows and slices.
        affine: Voxel index to scanner RAS mm.
        pose: 4 x 4, patient frame to scanner.
        bend: The patient's shape.
        head: Origin and voxel size of the template head.

    Returns:
        The grid, ready for sampling.
    """
    spacing = np.sqrt((affine[:3, :3] ** 2).sum(axis=0))
    steps = [max(1, int(LATTICE_MM / s)) for s in spacing]
    axes = [
        np.arange((max(n - 2, 0)) // s + 2) * float(s) for n, s in zip(shape, steps, strict=True)
    ]
    index = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1)
    to_patient = np.linalg.inv(pose) @ affine
    points = index @ to_patient[:3, :3].T + to_patient[:3, 3]
    template = bend.to_template(points)
    lattice = ((template - head.origin) / head.spacing).astype(np.float32)
    return ScanGrid(shape, affine, lattice, (steps[0], steps[1], steps[2]))


@dataclass(frozen=True, slots=True, eq=False)
class ScanTarget:
    """Origin (mm) and isotropic voxel size (mm) of the sampled template images."""

    origin: NDArray[np.float64]
    spacing: float
