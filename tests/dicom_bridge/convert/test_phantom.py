"""Left is left: a head that is asymmetric in space, in every orientation, position and form."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
from numpy.typing import NDArray

from dicom_bridge.convert import convert_series
from tests.dicom_bridge.convert import phantom
from tests.dicom_bridge.convert.phantom import Layout, cosines, enhanced, save, series

# How the patient's axes turn in the scanner, from head first supine.
POSITIONS = {
    "HFS": np.diag([1.0, 1.0, 1.0]),
    "HFP": np.diag([-1.0, -1.0, 1.0]),
    "FFS": np.diag([-1.0, 1.0, -1.0]),
    "FFP": np.diag([1.0, -1.0, -1.0]),
}


def layout_of(kind: str, position: str, *, reverse: bool) -> Layout:
    """Slices of the same scanner directions with the patient put in another way."""
    turned = np.array(cosines(kind)).reshape(2, 3) @ POSITIONS[position].T
    return Layout(
        orientation=[float(value) for value in turned.ravel()],
        rows=22,
        columns=27,
        slices=9,
        spacing=(4.1, 3.4),
        distance=9.0,
        reverse_numbers=reverse,
    )


def every_voxel(image: Any, layout: Layout) -> None:  # noqa: ANN401
    """Each voxel holds the value that belongs to its place in the room."""
    values = np.asarray(image.dataobj)
    assert values.shape == (layout.columns, layout.rows, layout.slices)
    index = np.indices(values.shape).reshape(3, -1)
    world: NDArray[Any] = (image.affine[:3, :3] @ index).T + image.affine[:3, 3]
    places = np.stack([layout.points(k).transpose(1, 0, 2) for k in range(layout.slices)], axis=2)
    expected = places.reshape(-1, 3) * [-1, -1, 1]
    assert np.max(np.linalg.norm(world - expected, axis=1)) < 1e-3
    assert np.array_equal(values.ravel(), phantom.intensity(places).ravel())
    for centre, radius, added in phantom.BLOBS.values():
        nearest = int(np.argmin(np.linalg.norm(world - centre * [-1, -1, 1], axis=1)))
        assert values.ravel()[nearest] >= added + 100, radius


@pytest.mark.parametrize("form", ["classic", "enhanced"])
@pytest.mark.parametrize("position", list(POSITIONS))
@pytest.mark.parametrize("kind", ["axial", "coronal", "sagittal", "oblique"])
def test_every_voxel_in_every_orientation(
    tmp_path: Path, kind: str, position: str, form: str
) -> None:
    for reverse in (False, True):
        layout = layout_of(kind, position, reverse=reverse)
        here = tmp_path / str(reverse)
        if form == "classic":
            files = series(here, layout, PatientPosition=position)
            random.Random(5).shuffle(files)
        else:
            files = [save(enhanced(layout, PatientPosition=position), here / "a.dcm")]
        converted = convert_series(files, here / "out.nii.gz", work=here / "work")
        every_voxel(nibabel.load(converted.image), layout)  # type: ignore[attr-defined]


def test_the_phantom_can_tell_sides_apart() -> None:
    layout = layout_of("axial", "HFS", reverse=False)
    whole = np.stack([phantom.intensity(layout.points(k)) for k in range(layout.slices)])
    for axis in range(3):
        assert not np.array_equal(whole, np.flip(whole, axis))
