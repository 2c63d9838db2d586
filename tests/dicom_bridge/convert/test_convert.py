from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pydicom
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from pydicom.uid import JPEGLSLossless, RLELossless, SecondaryCaptureImageStorage

from dicom_bridge.classify import scan_study
from dicom_bridge.convert import SourceSeries, convert_series
from dicom_bridge.convert.engines import EngineRefused, EngineVolume
from dicom_bridge.convert.series import convert_images, verified
from dicom_bridge.errors import DataRefused
from dicom_bridge.geometry import VolumeGeometry, align_to_grid, grid_affine, resample_labels
from tests.dicom_bridge.convert import phantom
from tests.dicom_bridge.convert.phantom import Layout, cosines, instance, save, series

ORIENTATIONS = (
    "axial",
    "oblique",
    "sagittal",
    "coronal",
    "axial-upside-down",
    "axial-mirrored",
)


def centre_of(values: NDArray[Any], affine: NDArray[np.float64], added: int) -> NDArray[Any]:
    """Centroid, RAS mm, of the voxels that hold a blob of this added intensity."""
    found = np.argwhere((values > added + 150) & (values < added + 550))
    mean = found.mean(axis=0)
    return np.asarray((affine @ [*mean, 1.0])[:3])


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("kind", ORIENTATIONS)
def test_left_is_left_in_every_orientation(tmp_path: Path, kind: str, reverse: bool) -> None:
    layout = Layout(orientation=cosines(kind), reverse_numbers=reverse)
    files = series(tmp_path / "in", layout)
    random.Random(3).shuffle(files)

    converted = convert_series(files, tmp_path / "out.nii.gz", work=tmp_path / "work")

    image: Any = nibabel.load(converted.image)
    assert int(image.header["sform_code"]) == int(image.header["qform_code"]) == 1
    values = np.asarray(image.dataobj)
    for centre, _, added in phantom.BLOBS.values():
        expected = centre * [-1, -1, 1]
        assert np.linalg.norm(centre_of(values, image.affine, added) - expected) < 1.5
    assert np.allclose(image.get_qform(), image.get_sform(), atol=1e-3)


@pytest.mark.parametrize("kind", ["axial", "oblique", "sagittal"])
def test_every_voxel_stands_where_its_instance_says(tmp_path: Path, kind: str) -> None:
    layout = Layout(orientation=cosines(kind), reverse_numbers=True)
    files = series(tmp_path / "in", layout)

    converted = convert_series(files, tmp_path / "out.nii", work=tmp_path / "work")

    image: Any = nibabel.load(converted.image)
    values = np.asarray(image.dataobj)
    columns, rows, slices = converted.geometry.shape
    assert values.shape == (columns, rows, slices) == (53, 45, 16)
    for k in (0, 7, 15):
        uid = converted.geometry.sop_instance_uids[k]
        dataset = next(d for d in map(pydicom.dcmread, files) if d.SOPInstanceUID == uid)
        assert np.array_equal(values[:, :, k].T, dataset.pixel_array)
        index = int(uid.rsplit(".", 1)[1]) - 1
        points = layout.points(index)
        for row, column in ((0, 0), (44, 52), (11, 40)):
            place = (image.affine @ [column, row, k, 1])[:3]
            assert np.linalg.norm(place - points[row, column] * [-1, -1, 1]) < 0.01


def test_file_order_changes_no_byte(tmp_path: Path) -> None:
    files = series(tmp_path / "in", Layout(orientation=cosines("oblique")))
    first = convert_series(files, tmp_path / "a.nii.gz", work=tmp_path / "work")
    for seed in (1, 2):
        random.Random(seed).shuffle(files)
        again = convert_series(files, tmp_path / "b.nii.gz", work=tmp_path / "work")
        assert again.image.read_bytes() == first.image.read_bytes()
        assert again.source == first.source
    assert list((tmp_path / "work").glob("*")) == [] if (tmp_path / "work").exists() else True


def test_rescaled_values_and_their_type(tmp_path: Path) -> None:
    files = series(tmp_path / "in", Layout(slope=0.25, intercept=-7.5))
    converted = convert_series(files, tmp_path / "out.nii", work=tmp_path / "work")
    image: Any = nibabel.load(converted.image)
    assert image.get_data_dtype() == np.float32
    stored = pydicom.dcmread(files[8]).pixel_array
    assert np.allclose(np.asarray(image.dataobj)[:, :, 8].T, stored * 0.25 - 7.5)

    whole = series(tmp_path / "in2", Layout(intercept=-1024.0))
    image = nibabel.load(convert_series(whole, tmp_path / "w.nii", work=tmp_path / "work").image)
    assert image.get_data_dtype() == np.int16


@pytest.mark.parametrize("syntax", [RLELossless, JPEGLSLossless])
def test_compressed_series(tmp_path: Path, syntax: str) -> None:
    plain = series(tmp_path / "plain")
    packed = []
    for path in plain:
        dataset = pydicom.dcmread(path)
        dataset.compress(syntax, generate_instance_uid=False)
        packed.append(save(dataset, tmp_path / "packed" / path.name))
    one = convert_series(plain, tmp_path / "a.nii", work=tmp_path / "work")
    two = convert_series(packed, tmp_path / "b.nii", work=tmp_path / "work")
    assert one.image.read_bytes() == two.image.read_bytes()


def test_without_instance_numbers(tmp_path: Path) -> None:
    files = series(tmp_path / "in", InstanceNumber=None)
    converted = convert_series(files, tmp_path / "out.nii", work=tmp_path / "work")
    assert converted.engine == "dicom2nifti"


def test_a_slice_sent_twice_counts_once(tmp_path: Path) -> None:
    files = series(tmp_path / "in")
    other_uid = save(instance(Layout(), 4, SOPInstanceUID="1.2.3.4"), tmp_path / "in" / "x.dcm")
    same_uid = save(instance(Layout(), 9), tmp_path / "in" / "y.dcm")
    converted = convert_series([*files, other_uid, same_uid], tmp_path / "o.nii", work=tmp_path)
    assert converted.geometry.shape[2] == 16


def _without(index: int) -> Callable[[Path], list[Path]]:
    def make(folder: Path) -> list[Path]:
        files = series(folder)
        return files[:index] + files[index + 1 :]

    return make


def _two_echoes(folder: Path) -> list[Path]:
    layout = Layout()
    first = series(folder / "a", layout, EchoTime=12)
    second = [
        save(
            instance(
                layout,
                index,
                EchoTime=90,
                SOPInstanceUID=f"1.2.9.{index + 1}",
                PixelData=(phantom.intensity(layout.points(index)) + 5).astype("<u2").tobytes(),
            ),
            folder / "b" / f"{index}.dcm",
        )
        for index in range(layout.slices)
    ]
    return [*first, *second]


def _localiser_inside(folder: Path) -> list[Path]:
    odd = instance(Layout(orientation=cosines("coronal")), 3, SOPInstanceUID="1.2.7")
    return [*series(folder), save(odd, folder / "odd.dcm")]


def _tilted(folder: Path) -> list[Path]:
    layout = Layout()
    return [
        save(
            instance(
                layout,
                index,
                ImagePositionPatient=list(
                    np.round(layout.position(index) + np.array([0, 0.8 * index, 0]), 4)
                ),
            ),
            folder / f"{index}.dcm",
        )
        for index in range(layout.slices)
    ]


def _uneven(folder: Path) -> list[Path]:
    layout = Layout()
    files = series(folder, layout)
    moved = layout.position(7) + np.array([0, 0, 1.3])
    save(instance(layout, 7, ImagePositionPatient=list(np.round(moved, 4))), files[7])
    return files


def _cut_pixels(folder: Path) -> list[Path]:
    files = series(folder)
    whole = files[5].read_bytes()
    files[5].write_bytes(whole[: len(whole) - 1000])
    return files


def _cut_header(folder: Path) -> list[Path]:
    files = series(folder)
    files[5].write_bytes(files[5].read_bytes()[:200])
    return files


def _two_series(folder: Path) -> list[Path]:
    files = series(folder)
    return [*files, save(instance(Layout(), 3, SeriesInstanceUID="1.2.3"), folder / "o.dcm")]


def _blank(folder: Path) -> list[Path]:
    return series(folder, PixelData=np.zeros((45, 53), "<u2").tobytes())


def _few(folder: Path) -> list[Path]:
    return series(folder, Layout(slices=3))


def _bomb(folder: Path) -> list[Path]:
    return series(folder, Rows=65535, Columns=65535)


def _text_file(folder: Path) -> list[Path]:
    files = series(folder)
    (folder / "notes.txt").write_text("PHANTOMIUS")
    return [*files, folder / "notes.txt"]


REFUSALS = [
    (_without(7), "missing slice: 1 of 16"),
    (_two_echoes, "differ in their echo times"),
    (_localiser_inside, "different orientations"),
    (_tilted, "gantry tilt of 9.1 degrees"),
    (_uneven, "uneven slice distance"),
    (_cut_pixels, "truncated pixel data"),
    (_cut_header, "a file"),
    (_two_series, "expected one series, got 2"),
    (_blank, "blank"),
    (_few, "too few slices: 3"),
    (_bomb, "absurd size"),
    (_text_file, "not a DICOM file"),
]


@pytest.mark.parametrize(("make", "words"), REFUSALS)
def test_refused_in_words_without_a_patients_value(
    tmp_path: Path, make: Callable[[Path], list[Path]], words: str
) -> None:
    files = make(tmp_path / "in")
    with pytest.raises(DataRefused, match=words) as caught:
        convert_series(files, tmp_path / "out.nii", work=tmp_path / "work")
    said = str(caught.value) + repr(caught.value)
    for secret in (phantom.PATIENT_ID, "PHANTOMIUS", "4711", "ACC998877", str(tmp_path)):
        assert secret not in said
    assert not (tmp_path / "out.nii").exists()
    assert caught.value.__cause__ is None


def test_attributes_that_are_missing_or_wrong(tmp_path: Path) -> None:
    for number, changes in enumerate(
        (
            {"ImagePositionPatient": None},
            {"PixelSpacing": ["0", "1"]},
            {"ImageOrientationPatient": ["1", "0", "0", "1", "0", "0"]},
            {"PixelData": None},
            {"SOPClassUID": SecondaryCaptureImageStorage},
            {"SamplesPerPixel": 3},
            {"ImageType": ["ORIGINAL", "PRIMARY", "M", "MOSAIC"]},
            {"StudyInstanceUID": None},
        )
    ):
        files = series(tmp_path / str(number), **changes)
        with pytest.raises(DataRefused):
            convert_series(files, tmp_path / "out.nii", work=tmp_path / "work")


class TestVerification:
    """A converter's errors are found: each is planted in turn."""

    geometry = VolumeGeometry(
        grid_affine([-10, -20, 5], cosines("oblique"), [1.0, 0.8], [0, 0, 3.0]),
        (6, 5, 4),
        (),
        (),
    )
    expected: NDArray[np.generic] = np.arange(120).reshape(6, 5, 4)

    def made(self, data: NDArray[Any], affine: NDArray[np.float64]) -> EngineVolume:
        return EngineVolume(data, affine, "dcm2niix", "0")

    def test_the_right_volume_passes(self) -> None:
        flipped = self.geometry.affine.copy()
        flipped[:3, 3] += flipped[:3, 1] * 4
        flipped[:3, 1] *= -1
        turned = verified(self.made(self.expected[:, ::-1], flipped), self.expected, self.geometry)
        assert np.array_equal(turned, self.expected)

    def test_mirrored_shifted_or_changed_volumes_do_not(self) -> None:
        mirrored = self.expected[::-1]
        with pytest.raises(EngineRefused, match="changed the values"):
            verified(self.made(mirrored, self.geometry.affine), self.expected, self.geometry)
        shifted = self.geometry.affine.copy()
        shifted[0, 3] += 0.02
        with pytest.raises(EngineRefused, match="elsewhere"):
            verified(self.made(self.expected, shifted), self.expected, self.geometry)
        stretched = self.geometry.affine.copy()
        stretched[:3, 2] *= 1.01
        with pytest.raises(EngineRefused, match="elsewhere"):
            verified(self.made(self.expected, stretched), self.expected, self.geometry)
        one_voxel = self.expected.copy()
        one_voxel[3, 2, 1] += 1
        with pytest.raises(EngineRefused, match="slice 2"):
            verified(self.made(one_voxel, self.geometry.affine), self.expected, self.geometry)
        holes = self.expected.astype(np.float64)
        holes[0, 0, 0] = np.nan
        with pytest.raises(EngineRefused, match="finite"):
            verified(self.made(holes, self.geometry.affine), self.expected, self.geometry)
        four = np.stack([self.expected] * 2, axis=3)
        with pytest.raises(EngineRefused, match="single volume"):
            verified(self.made(four, self.geometry.affine), self.expected, self.geometry)


class TestSourceSeries:
    def test_round_trip_and_headers_only(self, tmp_path: Path) -> None:
        files = series(tmp_path / "in", Layout(orientation=cosines("oblique")))
        converted = convert_series(files, tmp_path / "o.nii", work=tmp_path / "work")
        source = converted.source
        assert SourceSeries.from_json(source.to_json()) == source
        assert SourceSeries.from_files(files[::-1]) == source
        assert np.array_equal(source.geometry.affine, converted.geometry.affine)
        assert source.geometry.sop_instance_uids == converted.geometry.sop_instance_uids
        assert source.patient["PatientName"] == phantom.PATIENT_NAME
        assert source.SpacingBetweenSlices == pytest.approx(5.0, abs=1e-4)
        written = pydicom.dcmread(files[0]).ImagePositionPatient
        assert source.frames[0].ImagePositionPatient == tuple(str(v) for v in written)

    def test_its_text_form_shows_no_identity(self, tmp_path: Path) -> None:
        shown = repr(SourceSeries.from_files(series(tmp_path)))
        assert "4711" not in shown
        assert "PHANTOMIUS" not in shown
        assert "ACC" not in shown

    @pytest.mark.parametrize("broken", [{}, {"format": 2}, {"format": 1}])
    def test_refuses_other_documents(self, broken: dict[str, Any]) -> None:
        with pytest.raises(DataRefused):
            SourceSeries.from_json(broken)

    def test_damaged_documents(self, tmp_path: Path) -> None:
        document = SourceSeries.from_files(series(tmp_path)).to_json()
        for key in document:
            if key != "format":
                with pytest.raises(DataRefused):
                    SourceSeries.from_json({k: v for k, v in document.items() if k != key})


angles = st.floats(-3.1, 3.1)


@settings(max_examples=60, deadline=None)
@given(
    st.tuples(angles, angles, angles),
    st.permutations([0, 1, 2]),
    st.tuples(st.booleans(), st.booleans(), st.booleans()),
    st.tuples(st.integers(2, 5), st.integers(2, 6), st.integers(2, 7)),
)
def test_any_reordering_of_axes_is_undone_exactly(
    turn: tuple[float, float, float],
    axes: list[int],
    flips: tuple[bool, bool, bool],
    shape: tuple[int, int, int],
) -> None:
    a, b, c = turn
    spin = np.array([[np.cos(a), -np.sin(a), 0], [np.sin(a), np.cos(a), 0], [0, 0, 1]])
    nod = np.array([[1, 0, 0], [0, np.cos(b), -np.sin(b)], [0, np.sin(b), np.cos(b)]])
    roll = np.array([[np.cos(c), 0, np.sin(c)], [0, 1, 0], [-np.sin(c), 0, np.cos(c)]])
    rotation = spin @ nod @ roll
    affine = np.eye(4)
    affine[:3, :3] = rotation * [0.7, 1.3, 4.0]
    affine[:3, 3] = [11, -7, 3]
    geometry = VolumeGeometry(affine, shape, (), ())
    data = np.arange(np.prod(shape), dtype=np.uint8).reshape(shape)

    moved_affine = affine.copy()
    other = data
    for axis, flip in enumerate(flips):
        if flip:
            moved_affine[:3, 3] += moved_affine[:3, axis] * (shape[axis] - 1)
            moved_affine[:3, axis] *= -1
            other = np.flip(other, axis)
    other = np.transpose(other, axes)
    moved_affine[:3, :3] = moved_affine[:3, axes]

    back = align_to_grid(other, moved_affine, geometry)
    assert back is not None
    assert np.array_equal(back, data)
    assert np.array_equal(resample_labels(other, moved_affine, geometry), data)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.floats(-200, 200), min_size=3, max_size=3), st.integers(0, 9), st.integers(0, 9))
def test_grid_affine_is_the_standards_equation(place: list[float], row: int, column: int) -> None:
    turned = cosines("oblique")
    affine = grid_affine(place, turned, [0.9, 0.4], [0, 0, 2])
    expected = (
        np.array(turned[:3]) * 0.4 * column + np.array(turned[3:]) * 0.9 * row + np.array(place)
    )
    assert np.allclose((affine @ [column, row, 0, 1])[:3], expected * [-1, -1, 1])


@settings(max_examples=25, deadline=None)
@given(
    st.lists(st.tuples(st.integers(132, 1600), st.integers(0, 255)), min_size=1, max_size=6),
    st.integers(0, 5),
)
def test_damaged_bytes_are_refused_or_harmless(
    tmp_path_factory: pytest.TempPathFactory, changes: list[tuple[int, int]], which: int
) -> None:
    folder = tmp_path_factory.mktemp("fuzz")
    files = series(folder, Layout(rows=9, columns=7, slices=6))
    content = bytearray(files[which].read_bytes())
    for place, value in changes:
        content[place % len(content)] = value
    files[which].write_bytes(bytes(content))
    scan_study(folder)
    said = ""
    try:
        convert_series(files, folder / "o.nii", work=folder / "work")
    except DataRefused as refusal:
        said = str(refusal)
    assert "4711" not in said
    assert (folder / "o.nii").exists() is (said == "")
    made, said = [], ""
    try:
        made = convert_images(files, folder / "all", work=folder / "work")
    except DataRefused as refusal:
        said = str(refusal)
    assert "4711" not in said
    assert len(list(folder.glob("all*"))) == len(made)
    assert bool(made) is (said == "")
