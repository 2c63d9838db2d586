"""Preparation on the grids of real series: places exact, masks back where they belong."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from appliance.imaging.grid import Grid, grid_of
from appliance.imaging.preparation import invert, prepare
from appliance.imaging.volume import Volume, apply_affine, load_volume, nib
from dicom_bridge.convert import convert_series
from federation.plan import Preparation
from federation.preparation import FixedIntensities
from tests.appliance.imaging.bodies import ellipsoid
from tests.appliance.imaging.heads import dice
from tests.dicom_bridge.real import files_of, packed_series

pytestmark = [pytest.mark.long, pytest.mark.timeout(900)]

SERIES = {
    "sagittal 3-D 1 mm": ("siemens_prisma_mprage", ""),
    "sagittal 4 mm": ("siemens_prisma_positions", "HFP_t1_fl2d_sag"),
    "oblique 3 mm": ("prostatex", "ProstateX-0000/4_t2_tse_tra"),
    "sagittal 3.6 mm": ("prostatex", "ProstateX-0000/3_t2_tse_sag"),
    "oblique 2 x 2 x 3 mm": ("prostatex", "ProstateX-0001/8_ep2d_adc"),
}


def series(name: str, factory: pytest.TempPathFactory, out: Path) -> Grid:
    archive, part = SERIES[name]
    folder = packed_series(archive, factory)
    inner = folder / part if (folder / part).is_dir() else folder
    files = [path for path in files_of(inner) if path.suffix not in (".json", ".txt", ".md")]
    made = convert_series(files, out / "image.nii", work=out / "work")
    grid = grid_of(load_volume(out / "image.nii"))
    np.testing.assert_allclose(grid.affine, made.geometry.affine, atol=1e-3)
    return grid


def ramp(grid: Grid, axis: int) -> NDArray[np.float32]:
    """An image of its own world coordinate along one axis, in mm."""
    row = grid.affine[axis]
    x, y, z = np.ogrid[tuple(slice(n) for n in grid.shape)]
    return np.asarray(row[0] * x + row[1] * y + row[2] * z + row[3], dtype=np.float32)


def deep_inside(
    source: Grid, affine: NDArray[np.float64], shape: tuple[int, ...]
) -> NDArray[np.bool_]:
    """Prepared voxels at least five source voxels from every border."""
    index = Grid((shape[0], shape[1], shape[2]), np.linalg.inv(source.affine) @ affine)
    within = np.ones(shape, dtype=bool)
    for axis, count in enumerate(source.shape):
        place = ramp(index, axis)
        within &= (place >= 5) & (place <= count - 6)
    return within


@pytest.mark.parametrize("name", SERIES)
@pytest.mark.parametrize("axes", ["reference", "world"])
def test_places_are_exact_and_masks_come_back(
    name: str, axes: str, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    grid = series(name, tmp_path_factory, tmp_path)
    centre = apply_affine(grid.affine, (np.array(grid.shape) - 1) / 2)
    wanted = Preparation(
        normalisation="ct",
        intensities=FixedIntensities(low=-3000, high=3000, mean=0, sd=1),
        crop="none",
        skull_strip=False,
        axes="world" if axes == "world" else "reference",
    )
    lesion = ellipsoid(grid, tuple(centre + np.array([3.0, -2.0, 1.0])), (11.0, 9.0, 10.0))
    label = Volume(lesion.astype(np.uint8), grid.affine)
    for axis in range(3):
        image = Volume(ramp(grid, axis), grid.affine)
        case = prepare(
            {"CT": image},
            wanted,
            label=label if axis == 0 else None,
            transforms={},
            brain=None,
        )
        own = ramp(Grid(case.brain.shape, case.affine), axis)
        gap = np.abs(case.image[0] - own)[deep_inside(grid, case.affine, case.brain.shape)]
        assert gap.size > 1000
        assert float(gap.max()) < 1e-3
        if case.label is not None:
            back = invert(case.label, case.affine, grid)
            np.testing.assert_array_equal(back.affine, grid.affine)
            assert dice(back.data > 0, lesion) > 0.96
    assert nib.aff2axcodes(case.affine) == ("R", "A", "S")
