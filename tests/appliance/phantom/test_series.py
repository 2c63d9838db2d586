"""Arrays to single-frame MR series and back."""

from __future__ import annotations

import subprocess
import tempfile
from io import BytesIO
from pathlib import Path

import numpy as np
import pydicom
import pytest
import SimpleITK as sitk  # noqa: N813 - its usual name
from hypothesis import given, settings
from hypothesis import strategies as st

from appliance.demo.phantom import PhantomRefused, Stored, write_mr_series
from appliance.demo.phantom.series import to_stored
from appliance.demo.phantom.warp import rotation
from appliance.imaging.volume import Volume
from tests.studies import study_header, write_array_study
from tests.tools import require_tool

ANGLES = st.tuples(*[st.floats(-60, 60)] * 3)
SPACINGS = st.tuples(*[st.floats(0.3, 5.0)] * 3)
TO_LPS = np.diag([-1.0, -1.0, 1.0, 1.0])


def volume(dtype: type = np.int16, affine: np.ndarray | None = None) -> Volume:
    data = np.arange(7 * 5 * 4).reshape(7, 5, 4).astype(dtype)
    return Volume(data, np.eye(4) if affine is None else affine)


def header() -> pydicom.Dataset:
    return study_header("unit", "FLAIR", "1.2.3.4", "RAW00000001")


@settings(max_examples=25, deadline=None)
@given(angles=ANGLES, spacing=SPACINGS, mirror=st.booleans())
def test_any_orthogonal_grid_survives(
    angles: tuple[float, float, float], spacing: tuple[float, float, float], mirror: bool
) -> None:
    affine = rotation(angles) @ np.diag([*spacing, 1.0])
    affine[:3, 3] = (-91.5, 33.25, 12.0)
    if mirror:
        affine[:, 0] *= -1
    source = volume(affine=affine)
    with tempfile.TemporaryDirectory() as folder:
        files = write_mr_series(source, header(), Path(folder))
        sets = [pydicom.dcmread(f) for f in files]
    first, last = sets[0], sets[-1]
    rows = np.array(first.ImageOrientationPatient, dtype=float).reshape(2, 3)
    found = np.eye(4)
    found[:3, 0] = rows[0] * float(first.PixelSpacing[1])
    found[:3, 1] = rows[1] * float(first.PixelSpacing[0])
    begin = np.array(first.ImagePositionPatient, dtype=float)
    end = np.array(last.ImagePositionPatient, dtype=float)
    found[:3, 2] = (end - begin) / 3
    found[:3, 3] = begin
    assert np.abs(TO_LPS @ found - affine).max() < 1e-6
    stack = np.stack([d.pixel_array.T for d in sets], axis=-1)
    assert np.array_equal(stack, source.data)
    steps = np.diff([float(d.SliceLocation) for d in sets])
    assert np.allclose(np.abs(steps), spacing[2], atol=1e-4)


def test_itk_places_the_voxels_where_the_affine_says(tmp_path: Path) -> None:
    affine = rotation((9, -4, 14)) @ np.diag([0.9, 1.1, 2.5, 1.0])
    affine[:3, 3] = (10, -20, 30)
    files = write_mr_series(volume(affine=affine), header(), tmp_path)
    normal = np.cross(affine[:3, 0], affine[:3, 1])
    assert normal @ affine[:3, 2] > 0
    image = sitk.ReadImage([str(f) for f in files])
    for index in ((0, 0, 0), (6, 0, 0), (0, 4, 0), (3, 2, 3)):
        point = np.array(image.TransformIndexToPhysicalPoint(index))
        expected = (TO_LPS @ affine @ np.array([*index, 1.0]))[:3]
        assert np.abs(point - expected).max() < 1e-3
        assert image.GetPixel(index) == volume().data[index]


def test_floats_come_back_through_the_rescale(tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    data = rng.normal(40.0, 300.0, (6, 5, 3)).astype(np.float32)
    files = write_mr_series(Volume(data, np.eye(4)), header(), tmp_path)
    sets = [pydicom.dcmread(f) for f in files]
    slope, intercept = float(sets[0].RescaleSlope), float(sets[0].RescaleIntercept)
    back = np.stack([d.pixel_array.T for d in sets], -1) * slope + intercept
    assert np.abs(back - data).max() <= slope
    assert slope < np.ptp(data) / 60_000


@given(st.lists(st.floats(0, 1e6, width=32), min_size=2, max_size=20))
def test_scaled_values_stay_within_the_stored_range(values: list[float]) -> None:
    stored = Stored(12, signed=False)
    data, rescale = to_stored(np.array(values, dtype=np.float32).reshape(-1, 1, 1), stored)
    assert data.min() >= 0
    assert data.max() <= 4095
    slope, intercept = rescale or (1.0, 0.0)
    back = data.ravel() * slope + intercept
    assert np.abs(back - np.array(values)).max() <= slope + 1e-6


def test_whole_floats_are_stored_as_they_are() -> None:
    data, rescale = to_stored(np.array([[[0.0, 3.0, 1200.0]]]), Stored())
    assert rescale is None
    assert data.ravel().tolist() == [0, 3, 1200]


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (np.zeros((3, 3)), "three-dimensional"),
        (np.full((2, 2, 2), 70_000), "go beyond"),
        (np.full((2, 2, 2), np.nan), "not numbers"),
        (np.array([[[0.5, np.inf]]]), "not numbers"),
    ],
)
def test_what_cannot_be_stored_is_refused(data: np.ndarray, words: str) -> None:
    with pytest.raises(PhantomRefused, match=words):
        to_stored(data, Stored())


def test_a_skewed_grid_is_refused(tmp_path: Path) -> None:
    affine = np.eye(4)
    affine[0, 1] = 0.2
    with pytest.raises(PhantomRefused, match="skewed"):
        write_mr_series(volume(affine=affine), header(), tmp_path)


def test_pydicom_would_have_written_the_same_bytes(tmp_path: Path) -> None:
    source = header()
    source.PatientName = "Müller^Zoë"
    block = source.private_block(0x0029, "UNIT TEST", create=True)
    block.add_new(0x10, "LO", "value")
    path = write_mr_series(volume(), source, tmp_path)[2]
    dataset = pydicom.dcmread(path)
    again = BytesIO()
    dataset.save_as(again)
    assert str(dataset.PatientName) == "Müller^Zoë"
    assert again.getvalue() == path.read_bytes()
    assert len(source) < len(dataset)


def test_equal_names_give_equal_uids(tmp_path: Path) -> None:
    one = write_array_study({"FLAIR": volume()}, tmp_path / "a", name="p-1")
    two = write_array_study({"FLAIR": volume()}, tmp_path / "b", name="p-1")
    other = write_array_study({"FLAIR": volume()}, tmp_path / "c", name="p-2")
    assert one.files[0].read_bytes() == two.files[0].read_bytes()
    assert one.StudyInstanceUID != other.StudyInstanceUID
    assert one.PatientID == other.PatientID


@pytest.mark.parametrize("contrast", ["FLAIR", "T1w"])
def test_dciodvfy_finds_no_error(contrast: str, tmp_path: Path) -> None:
    tool = require_tool("dciodvfy")
    study = write_array_study({contrast: volume(np.float32)}, tmp_path, name="v-1")
    for path in study.files[:2]:
        done = subprocess.run([str(tool), str(path)], capture_output=True, text=True, check=False)
        assert "Error" not in done.stdout + done.stderr
        assert "MRImage" in done.stdout + done.stderr
