"""Small heads with known truth for imaging tests, and the real raw MS pairs."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from appliance.imaging.atlas import atlas_distance, load_atlas
from appliance.imaging.brain import BrainFit, fit_brain
from appliance.imaging.grid import Grid, grid_of, resample
from appliance.imaging.itk import load_matrix
from appliance.imaging.rigid import rigid_matrix
from appliance.imaging.volume import Affine, Volume, load_volume
from tests.tools import shared_dir

RAW = (
    ("patient01", 1),
    ("patient01", 2),
    ("patient03", 2),
    ("patient04", 1),
    ("patient20", 2),
)
"""Raw MS pairs whose brain mask is usable."""


@dataclass(frozen=True, slots=True, eq=False)
class DrawnHead:
    """The atlas head drawn as an image at a known pose."""

    image: Volume
    brain: NDArray[np.bool_]
    pose: Affine


def head_grid(step: float = 3.0) -> Grid:
    count = int(240 / step)
    affine = np.diag([-step, -step, step, 1.0])
    affine[:3, 3] = (120.0, 100.0, -110.0)
    return Grid((count, count, int(230 / step)), affine)


def drawn_head(pose: Affine, *, inverted: bool = False, seed: int = 0) -> DrawnHead:
    """The drawn head with 3 mm voxels; `inverted` turns the brain's contrast about."""
    atlas = load_atlas(2.0)
    grid = head_grid()
    back = np.asarray(np.linalg.inv(pose), dtype=np.float64)
    image = resample(Volume(atlas.intensity, atlas.affine), grid, matrix=back).data
    distance = resample(atlas_distance(atlas), grid, matrix=back, fill=99.0).data
    brain = distance < 0
    if inverted:
        image = np.where(brain & (image > 0.3), 1.3 - image, image)
    noise = np.random.default_rng(seed).normal(0, 0.02, (2, *image.shape))
    noisy = np.hypot(image + noise[0], noise[1]) * 1000
    return DrawnHead(Volume(noisy.astype(np.int16), grid.affine), brain, pose)


@lru_cache(maxsize=4)
def tilted_head() -> DrawnHead:
    return drawn_head(rigid_matrix((8, -4, 6), (5, -10, 12)))


@lru_cache(maxsize=4)
def tilted_fit() -> BrainFit:
    return fit_brain(tilted_head().image, profile="quick")


@dataclass(frozen=True, slots=True, eq=False)
class RawPair:
    """A real FLAIR and T1 with the authors' transform and brain mask on the FLAIR's grid."""

    flair: Volume
    t1: Volume
    transform: Affine
    brain: NDArray[np.bool_]


@lru_cache(maxsize=8)
def raw_pair(patient: str, study: int) -> RawPair:
    folder = shared_dir("data", "ms", "longitudinal_raw", patient)
    flair = load_volume(folder / f"study{study}_FLAIR.nii.gz")
    mask = load_volume(folder / "brainmask.nii.gz")
    to_common = load_matrix(folder / f"study{study}_FLAIR_to_common_space.txt")
    back = np.asarray(np.linalg.inv(to_common), dtype=np.float64)
    brain = resample(mask, grid_of(flair), matrix=back, interpolation="nearest").data > 0
    return RawPair(
        flair,
        load_volume(folder / f"study{study}_T1W.nii.gz"),
        load_matrix(folder / f"study{study}_T1W_intrastudy_to_FLAIR.txt"),
        brain,
    )


def dice(first: NDArray[np.bool_], second: NDArray[np.bool_]) -> float:
    return float(2 * (first & second).sum() / max(1, int(first.sum() + second.sum())))
