"""The head that every phantom is bent from: MNI152 brain inside a drawn skull, scalp and face.

Brain: template, grey and white matter maps and brain mask of MNI ICBM152 2009a (symmetric), as
nilearn ships them. Around it: skull, scalp and neck by distance from the brain, and a face (nose,
orbits with eyes, lips, chin, jaw, sinuses) drawn in MNI coordinates.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from appliance.demo.phantom.face import FaceShapes, draw_head
from appliance.demo.phantom.tissue import Tissue
from appliance.imaging.atlas import GREY, TEMPLATE, WHITE, package_file
from appliance.imaging.volume import load_volume

Floats = NDArray[np.float32]
Mask = NDArray[np.bool_]

BRAIN_FROM = 0.2
"""The brain mask is the template above this share of its maximum, as nilearn's own is."""

BOX_MIN = np.array([-102.0, -128.0, -152.0])
"""Lowest corner of the head's box, MNI RAS mm."""
BOX_MAX = np.array([102.0, 124.0, 112.0])
"""Highest corner of the head's box, MNI RAS mm."""
BRAIN_MIN = np.array([-78.0, -114.0, -74.0])
"""Lowest corner of the box that holds the brain."""
BRAIN_MAX = np.array([78.0, 80.0, 92.0])
"""Highest corner of the box that holds the brain."""


@dataclass(frozen=True, slots=True, eq=False)
class Brain:
    """Brain maps on the brain's box, axes (X, Y, Z) RAS; all arrays are read-only.

    Attributes:
        grey: Grey matter probability, 0 to 1.
        white: White matter probability, 0 to 1.
        t1: Template T1, 1 in typical white matter.
        mask: Brain mask.
        ventricles: Lateral ventricles.
        to_ventricles: Distance to the lateral ventricles in mm.
        to_grey: Distance to grey matter in mm (0 inside it).
        to_edge: Depth below the surface of the brain mask in mm (0 outside).
        coordinates: MNI coordinates of the voxels along each axis.
    """

    grey: Floats
    white: Floats
    t1: Floats
    mask: Mask
    ventricles: Mask
    to_ventricles: Floats
    to_grey: Floats
    to_edge: Floats
    coordinates: tuple[Floats, Floats, Floats]


@dataclass(frozen=True, slots=True, eq=False)
class Head:
    """The template head on its box, axes (X, Y, Z) RAS; all arrays are read-only.

    Attributes:
        spacing: Isotropic voxel size in mm.
        origin: MNI coordinates of the first voxel's centre.
        tissue: Tissue of each voxel (`Tissue` values), uint8.
        face: Whether the voxel belongs to the face.
        brain_box: Slices of the brain's box within the head's.
        brain: The brain's maps.
    """

    spacing: float
    origin: NDArray[np.float64]
    tissue: NDArray[np.uint8]
    face: NDArray[np.uint8]
    brain_box: tuple[slice, slice, slice]
    brain: Brain


@lru_cache(maxsize=2)
def load_head(spacing: float) -> Head:
    """The template head, built once per process and voxel size.

    Args:
        spacing: Isotropic voxel size in mm, 1.0 to 2.5.

    Returns:
        The head; the same object at every call.
    """
    axes = tuple(
        np.arange(low, high + 0.001, spacing, dtype=np.float32)
        for low, high in zip(BOX_MIN, BOX_MAX, strict=True)
    )
    x, y, z = axes
    first = [int(np.ceil((low - b) / spacing)) for low, b in zip(BRAIN_MIN, BOX_MIN, strict=True)]
    last = [int((high - b) / spacing) for high, b in zip(BRAIN_MAX, BOX_MIN, strict=True)]
    box = (
        slice(first[0], last[0] + 1),
        slice(first[1], last[1] + 1),
        slice(first[2], last[2] + 1),
    )
    brain = _brain((x[box[0]], y[box[1]], z[box[2]]), spacing)
    inside = np.zeros(tuple(len(a) for a in axes), dtype=bool)
    inside[box] = brain.mask
    tissue, face = draw_head(FaceShapes(x, y, z, _signed_distance(inside, spacing)))
    tissue[inside] = Tissue.BRAIN
    for array in (tissue, face):
        array.setflags(write=False)
    origin = np.array([x[0], y[0], z[0]], dtype=np.float64)
    return Head(spacing, origin, tissue, face, box, brain)


def _template(name: str) -> Floats:
    """A map of the nilearn package, 0 to 1: what its own loaders give, without importing them.

    The import of the package takes three times as long as all the rest that is done here once.
    """
    values = load_volume(package_file(name)).data.astype(np.float32)
    values /= values.max()
    return values


def _sample(image: Floats | Mask, axes: tuple[Floats, Floats, Floats]) -> Floats:
    """Template values (1 mm, origin (-98, -134, -72)) at the voxels of `axes`, linear."""
    scale = float(axes[0][1] - axes[0][0])
    offset = [float(a[0]) - o for a, o in zip(axes, (-98.0, -134.0, -72.0), strict=True)]
    smooth = ndimage.gaussian_filter(image.astype(np.float32), 0.3 * scale if scale > 1 else 0.0)
    out = ndimage.affine_transform(
        smooth,
        np.array([scale, scale, scale]),
        offset=offset,
        output_shape=tuple(len(a) for a in axes),
        order=1,
        mode="constant",
    )
    return np.asarray(out, dtype=np.float32)


def _brain(axes: tuple[Floats, Floats, Floats], spacing: float) -> Brain:
    template = _template(TEMPLATE)
    grey = _sample(_template(GREY), axes)
    white = _sample(_template(WHITE), axes)
    t1 = _sample(template, axes)
    mask = _sample(template > BRAIN_FROM, axes) > 0.5
    total = np.maximum(grey + white, 1.0)
    grey, white = grey / total, white / total
    t1 /= float(np.median(t1[white > 0.95]))
    edge = ndimage.distance_transform_edt(mask, sampling=spacing).astype(np.float32)
    x, y, z = np.meshgrid(*axes, indexing="ij", sparse=True)
    window = (abs(x) < 42) & (y > -62) & (y < 42) & (z > -22) & (z < 34) & (edge > 18)
    fluid = (grey + white < 0.45) & mask & window
    labels, count = ndimage.label(fluid)
    sizes = ndimage.sum_labels(fluid, labels, range(1, count + 1))
    ventricles = np.isin(labels, 1 + np.flatnonzero(sizes * spacing**3 > 500.0))
    away = ndimage.distance_transform_edt(~ventricles, sampling=spacing).astype(np.float32)
    near = ndimage.distance_transform_edt(grey < 0.5, sampling=spacing).astype(np.float32)
    for array in (grey, white, t1, mask, ventricles, away, near, edge):
        array.setflags(write=False)
    return Brain(grey, white, t1, mask, ventricles, away, near, edge, axes)


def _signed_distance(inside: Mask, spacing: float) -> Floats:
    """Distance in mm to the smoothed hull of the brain, negative inside, on the same grid."""
    step = max(1, round(2.0 / spacing))
    coarse = inside[::step, ::step, ::step]
    hull = ndimage.gaussian_filter(coarse.astype(np.float32), 5.0 / (step * spacing)) > 0.35
    hull |= coarse
    length = step * spacing
    distance = ndimage.distance_transform_edt(~hull, sampling=length)
    distance -= ndimage.distance_transform_edt(hull, sampling=length)
    smooth = ndimage.gaussian_filter(distance.astype(np.float32), 0.8)
    out = ndimage.affine_transform(
        smooth,
        np.full(3, 1.0 / step),
        output_shape=inside.shape,
        order=1,
        mode="nearest",
    )
    return np.asarray(out, dtype=np.float32)
