"""Volumes and their NIfTI files."""

from __future__ import annotations

import gzip
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from appliance.errors import ImageRefused
from appliance.imaging.itk import from_itk, load_matrix, save_matrix, sitk, to_itk
from appliance.imaging.rigid import rigid_matrix
from appliance.imaging.volume import Volume, apply_affine, load_volume, save_volume

OBLIQUE = rigid_matrix((7, -12, 20), (3, -40, 11)) @ np.diag([-0.7, -0.9, 3.0, 1.0])


def ramp(shape: tuple[int, int, int] = (5, 6, 7), kind: str = "int16") -> Volume:
    return Volume(np.arange(np.prod(shape)).reshape(shape).astype(kind), OBLIQUE)


@pytest.mark.parametrize("kind", ["uint8", "int16", "uint16", "float32"])
@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz"])
def test_a_volume_comes_back_exactly(tmp_path: Path, kind: str, name: str) -> None:
    volume = ramp(kind=kind)
    save_volume(volume, tmp_path / name)
    back = load_volume(tmp_path / name)
    assert back.data.dtype == volume.data.dtype
    np.testing.assert_array_equal(back.data, volume.data)
    np.testing.assert_allclose(back.affine, OBLIQUE, atol=1e-5)
    header = nib.load(tmp_path / name).header
    assert header["sform_code"] == header["qform_code"] == 1
    assert list(tmp_path.iterdir()) == [tmp_path / name]


def test_what_is_no_image_is_refused_in_words(tmp_path: Path) -> None:
    broken = tmp_path / "broken.nii.gz"
    save_volume(ramp(), broken)
    broken.write_bytes(broken.read_bytes()[:200])
    text = tmp_path / "text.nii"
    text.write_text("no image")
    many = tmp_path / "four.nii"
    nib.save(nib.Nifti1Image(np.zeros((3, 3, 3, 2), np.int16), np.eye(4)), many)
    nan = tmp_path / "nan.nii"
    nib.save(nib.Nifti1Image(np.full((3, 3, 3), np.nan, np.float32), np.eye(4)), nan)
    wrong = tmp_path / "image.dcm"
    wrong.write_bytes(b"")
    for path in (broken, text, many, nan, wrong, tmp_path / "absent.nii"):
        with pytest.raises(ImageRefused) as refused:
            load_volume(path)
        assert len(str(refused.value).split()) > 4
        assert str(tmp_path) not in str(refused.value)


def test_a_header_that_claims_too_much_is_refused_before_reading(tmp_path: Path) -> None:
    path = tmp_path / "huge.nii.gz"
    header = nib.Nifti1Header()
    header.set_data_dtype(np.int16)
    header.set_data_shape((3000, 3000, 3000))
    header["vox_offset"] = 352
    header["magic"] = b"n+1"
    path.write_bytes(gzip.compress(header.binaryblock + b"\0" * 4))
    with pytest.raises(ImageRefused, match="voxels are accepted"):
        load_volume(path)


def test_a_singular_affine_is_refused() -> None:
    with pytest.raises(ImageRefused, match="singular"):
        Volume(np.zeros((2, 2, 2)), np.diag([1.0, 1.0, 0.0, 1.0]))


def test_itk_and_back_keeps_voxels_and_places() -> None:
    volume = ramp(kind="float32")
    image = to_itk(volume)
    point = image.TransformIndexToPhysicalPoint((1, 2, 3))
    world = apply_affine(OBLIQUE, np.array([1.0, 2.0, 3.0]))
    np.testing.assert_allclose(point, world * [-1, -1, 1], atol=1e-6)
    assert image.GetPixel(1, 2, 3) == volume.data[1, 2, 3]
    back = from_itk(image)
    np.testing.assert_array_equal(back.data, volume.data)
    np.testing.assert_allclose(back.affine, OBLIQUE, atol=1e-9)


def test_sheared_axes_are_refused_for_itk() -> None:
    shear = np.eye(4)
    shear[0, 2] = 0.3
    with pytest.raises(ImageRefused, match="perpendicular"):
        to_itk(Volume(np.zeros((3, 3, 3)), shear))


@settings(max_examples=15, deadline=None)
@given(
    angles=st.tuples(*[st.floats(-170, 170)] * 3),
    shift=st.tuples(*[st.floats(-200, 200)] * 3),
)
def test_an_itk_transform_file_keeps_the_matrix(
    tmp_path_factory: pytest.TempPathFactory,
    angles: tuple[float, float, float],
    shift: tuple[float, float, float],
) -> None:
    path = tmp_path_factory.mktemp("itk") / "t.txt"
    matrix = rigid_matrix(angles, shift)
    save_matrix(matrix, path)
    np.testing.assert_allclose(load_matrix(path), matrix, atol=1e-6)
    there = np.array(sitk.ReadTransform(str(path)).TransformPoint((10.0, -20.0, 30.0)))
    expected = apply_affine(matrix, np.array([-10.0, 20.0, 30.0])) * [-1, -1, 1]
    np.testing.assert_allclose(there, expected, atol=1e-6)


def test_what_is_no_transform_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "t.txt"
    path.write_text("no transform")
    with pytest.raises(ImageRefused, match="ITK"):
        load_matrix(path)
    with pytest.raises(ImageRefused, match="ITK"):
        load_matrix(tmp_path / "absent.txt")
