"""The MNI152 brain that the nilearn package ships, with a skull and a scalp drawn around it.

Template: ICBM 2009a nonlinear symmetric T1, skull-stripped (Fonov et al., NeuroImage 54:313, 2011).
Its file is read from the installed package without importing the package.
"""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from appliance.errors import ApplianceError
from appliance.imaging.grid import grid_of, isotropic_ras_grid, resample
from appliance.imaging.head import shrunk
from appliance.imaging.volume import Affine, Mask, Volume, apply_affine, load_volume

TEMPLATE = "mni_icbm152_t1_tal_nlin_sym_09a_converted.nii.gz"
GREY = "mni_icbm152_gm_tal_nlin_sym_09a_converted.nii.gz"
WHITE = "mni_icbm152_wm_tal_nlin_sym_09a_converted.nii.gz"

SCALP_MM = 14.0
"""Distance from the brain's surface to the skin in the drawn head."""

PADDING_MM = 28.0
"""Border added around the brain so that skin and air fit in."""


class AtlasMissing(ApplianceError):
    """The installed nilearn package does not hold the template that brain masks need."""


@dataclass(frozen=True, slots=True, eq=False)
class Atlas:
    """The template head at one voxel size; all arrays (X, Y, Z) on one MNI grid.

    Attributes:
        affine: Voxel to MNI (RAS) mm.
        intensity: T1-like, 0 to 1: the template's brain, drawn fluid, skull, scalp and air.
        distance: Signed distance to the brain's surface in mm, negative inside.
        used: Where the drawn head is compared: near the brain, without face and neck.
        centre: Centre of the brain in MNI mm.
    """

    affine: Affine
    intensity: NDArray[np.float32]
    distance: NDArray[np.float32]
    used: Mask
    centre: NDArray[np.float64]

    @property
    def brain(self) -> Mask:
        """True inside the brain, ventricles and sulci included."""
        return np.asarray(self.distance < 0)

    @property
    def head(self) -> Mask:
        """True inside the drawn skin."""
        return np.asarray(self.distance <= SCALP_MM)


@lru_cache(maxsize=4)
def load_atlas(step_mm: float) -> Atlas:
    """The template head on an isotropic grid.

    Args:
        step_mm: Voxel size in mm, 2 or more (the template is read at 2 mm).

    Raises:
        AtlasMissing: the nilearn package or its file is not there.
    """
    full, solid = _template(TEMPLATE)
    grid = isotropic_ras_grid(grid_of(full), (step_mm, step_mm, step_mm))
    inside = resample(solid, grid).data > 0.5
    t1 = resample(full, grid).data
    pad = int(np.ceil(PADDING_MM / step_mm))
    brain = np.pad(np.asarray(inside, dtype=bool), pad)
    affine = grid.affine.copy()
    affine[:3, 3] -= pad * step_mm
    outward = ndimage.distance_transform_edt(~brain) - 0.5
    inward = ndimage.distance_transform_edt(brain) - 0.5
    distance = np.where(brain, -inward, outward).astype(np.float32) * np.float32(step_mm)
    scaled = np.pad(t1 / np.percentile(t1[inside], 99), pad)
    world = apply_affine(affine, np.argwhere(np.ones(brain.shape, dtype=bool)))
    return Atlas(
        affine,
        _drawn(np.clip(scaled, 0.0, 1.0).astype(np.float32), distance),
        distance,
        _compared(distance, world.reshape((*brain.shape, 3))),
        apply_affine(affine, np.argwhere(brain)).mean(axis=0),
    )


@lru_cache(maxsize=1)
def _template(name: str) -> tuple[Volume, Volume]:
    """The template and its brain without holes (0 to 1), both averaged to 2 mm."""
    full = load_volume(package_file(name))
    solid = ndimage.binary_closing(full.data > 0.1 * float(full.data.max()), iterations=3)
    solid = ndimage.binary_fill_holes(solid)
    return shrunk(full, 2.0), shrunk(full.with_data(solid.astype(np.uint8)), 2.0)


def atlas_distance(atlas: Atlas) -> Volume:
    """The signed distance to the brain's surface in mm as an image in MNI space."""
    return Volume(atlas.distance, atlas.affine)


def _drawn(t1: NDArray[np.float32], distance: NDArray[np.float32]) -> NDArray[np.float32]:
    """Fluid to 2 mm, dark skull to 7 mm, bright scalp to the skin, air beyond."""
    shells = [distance < 0, distance <= 2.0, distance <= 7.0, distance <= SCALP_MM]
    values = [t1, *(np.full_like(t1, grey) for grey in (0.15, 0.05, 0.6))]
    return np.asarray(np.select(shells, values, np.float32(0.0)), dtype=np.float32)


def _compared(distance: NDArray[np.float32], world: NDArray[np.float64]) -> Mask:
    """Near the brain, but not the face (in front, below) nor the neck."""
    y, z = world[..., 1], world[..., 2]
    outside = distance > 2.0
    face = outside & (z < -20.0) & (y > 10.0)
    neck = outside & (z < -35.0)
    return np.asarray((distance < 24.0) & ~face & ~neck, dtype=bool)


def package_file(name: str) -> Path:
    """A file of the installed nilearn package's data, found without importing the package.

    Raises:
        AtlasMissing: it is not there.
    """
    found = importlib.util.find_spec("nilearn")
    for folder in (found.submodule_search_locations or []) if found else []:
        path = Path(folder) / "datasets" / "data" / name
        if path.is_file():
            return path
    raise AtlasMissing(
        f"the brain template {name} is not in the installed nilearn package:"
        " install nilearn 0.14 or later as the lock file names it"
    )
