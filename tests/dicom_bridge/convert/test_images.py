"""Series that hold several volumes, and series whose faults are named."""

from __future__ import annotations

import json
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
from pydicom.uid import CTImageStorage, RLELossless

from dicom_bridge.convert.folder import convert_folder
from dicom_bridge.convert.mosaic import image_frames, read_csa
from dicom_bridge.convert.series import convert_images
from dicom_bridge.errors import DataRefused
from tests.dicom_bridge.convert import phantom
from tests.dicom_bridge.convert.phantom import Layout, enhanced, instance, save, series

SMALL = Layout(rows=20, columns=24, slices=6, spacing=(4.0, 4.0), distance=9.0)


def volume(folder: Path, number: int, added: int = 0, **changes: object) -> list[Path]:
    """A whole volume whose values are `added` higher, with UIDs and numbers of its own."""
    made = []
    for index in range(SMALL.slices):
        values = phantom.intensity(SMALL.points(index)) + added
        own: dict[str, object] = {
            "SOPInstanceUID": f"1.2.9.{number}.{index + 1}",
            "InstanceNumber": number * SMALL.slices + index + 1,
            "PixelData": values.astype("<u2").tobytes(),
        }
        made.append(
            save(instance(SMALL, index, **{**own, **changes}), folder / f"{number}-{index}.dcm")
        )
    return made


def converted(files: list[Path], tmp_path: Path, count: int = 1) -> list[Any]:
    """The images, loaded."""
    random.Random(1).shuffle(files)
    made = convert_images(files, tmp_path / "out", work=tmp_path / "work")
    assert len(made) == count
    return [nibabel.load(image.image) for image in made]  # type: ignore[attr-defined]


def steps(image: Any) -> list[float]:  # noqa: ANN401
    """How much higher each volume is than the first, everywhere."""
    values = np.asarray(image.dataobj).astype(int)
    higher = values - values[..., :1]
    assert np.all(higher == higher[:1, :1, :1])
    return [float(value) for value in higher[0, 0, 0]]


@pytest.mark.parametrize(
    "labels",
    [
        [{"TemporalPositionIdentifier": number} for number in (2, 3, 1)],
        [{"DiffusionBValue": float(b)} for b in (0, 500, 1000)],
        [{"AcquisitionNumber": number} for number in (1, 2, 3)],
        [{}, {}, {}],
    ],
    ids=["time", "b-value", "acquisition", "numbers only"],
)
def test_volumes_of_one_place_become_one_image(
    tmp_path: Path, labels: list[dict[str, object]]
) -> None:
    files = [
        path
        for number, label in enumerate(labels)
        for path in volume(tmp_path / "in", number, 7 * number, **label)
    ]
    image = converted(files, tmp_path)[0]
    assert image.shape == (24, 20, 6, 3)
    in_time = labels[0].get("TemporalPositionIdentifier") == 2
    assert steps(image) == ([0, -14, -7] if in_time else [0, 7, 14])


def test_numbers_that_stay_at_a_position(tmp_path: Path) -> None:
    files = []
    for number in range(3):
        for index, path in enumerate(volume(tmp_path / "in", number, 5 * number)):
            dataset = pydicom.dcmread(path)
            dataset.InstanceNumber = index * 3 + number + 1
            files.append(save(dataset, path))
    assert steps(converted(files, tmp_path)[0]) == [0, 5, 10]


def test_echoes_become_images_of_their_own(tmp_path: Path) -> None:
    volume(tmp_path / "in", 0, 0, EchoTime=90)
    volume(tmp_path / "in", 1, 9, EchoTime=12)
    results = convert_folder(tmp_path / "in", tmp_path / "out", work=tmp_path / "work")
    names = [result.image.name for result in results if result.image]
    assert [name.split("_")[-1] for name in names] == ["echo-1.nii.gz", "echo-2.nii.gz"]
    assert [result.echo for result in results] == [1, 2]
    times = [
        json.loads((tmp_path / "out" / name.replace(".nii.gz", ".json")).read_text())["EchoTime"]
        for name in names
    ]
    assert times == [0.012, 0.09]
    first, second = (
        np.asarray(nibabel.load(tmp_path / "out" / name).dataobj)  # type: ignore[attr-defined]
        for name in names
    )
    assert np.all(first == second + 9)


def test_a_fault_in_the_second_echo_leaves_no_file(tmp_path: Path) -> None:
    files = volume(tmp_path / "in", 0, 0, EchoTime=12)
    files += volume(tmp_path / "in", 1, 9, EchoTime=90, RescaleSlope="0")
    with pytest.raises(DataRefused, match="wrong rescale"):
        convert_images(files, tmp_path / "out", work=tmp_path / "work")
    blank = np.zeros((20, 24), "<u2").tobytes()
    files[6:] = volume(tmp_path / "in2", 1, 9, EchoTime=90, PixelData=blank)
    with pytest.raises(DataRefused, match="blank"):
        convert_images(files, tmp_path / "out", work=tmp_path / "work")
    assert not list(tmp_path.glob("out*"))


def test_enhanced_time_points(tmp_path: Path) -> None:
    files = []
    for number in range(2):
        dataset = enhanced(SMALL, SOPInstanceUID=f"1.2.5.{number}", InstanceNumber=number + 1)
        stored = np.frombuffer(dataset.PixelData, "<u2") + np.uint16(3 * number)
        dataset.PixelData = stored.tobytes()
        for frame in dataset.PerFrameFunctionalGroupsSequence:
            frame.FrameContentSequence[0].TemporalPositionIndex = number + 1
        files.append(save(dataset, tmp_path / "in" / f"{number}.dcm"))
    image = converted(files, tmp_path)[0]
    assert image.shape == (24, 20, 6, 2)
    assert steps(image) == [0, 3]


def test_files_without_uids_are_one_series_a_folder(tmp_path: Path) -> None:
    for path in series(tmp_path / "in", SMALL):
        dataset = pydicom.dcmread(path)
        for keyword in ("SOPClassUID", "SOPInstanceUID", "SeriesInstanceUID", "StudyInstanceUID"):
            setattr(dataset, keyword, "")
        if path.name.startswith("00"):
            del dataset.SOPInstanceUID
        dataset.save_as(path)
    results = convert_folder(tmp_path / "in", tmp_path / "out", work=tmp_path / "work")
    assert [bool(result.image) for result in results] == [True]


def _sent_twice(folder: Path) -> list[Path]:
    other = phantom.intensity(SMALL.points(2)) + 1
    again = instance(SMALL, 2, SOPInstanceUID="1.2.3", PixelData=other.astype("<u2").tobytes())
    return [*series(folder, SMALL), save(again, folder / "again.dcm")]


def _incomplete_volume(folder: Path) -> list[Path]:
    return volume(folder, 0) + volume(folder, 1, 4)[:-1]


def _unlabelled(folder: Path) -> list[Path]:
    return volume(folder, 0, InstanceNumber=1) + volume(folder, 1, 5, InstanceNumber=1)


def _magnitude_and_phase(folder: Path) -> list[Path]:
    phase = ["ORIGINAL", "PRIMARY", "P", "ND"]
    return volume(folder, 0) + volume(folder, 1, 4, ImageType=phase)


def _time_changes_with_slice(folder: Path) -> list[Path]:
    files = volume(folder, 0, TemporalPositionIdentifier=1)
    files += volume(folder, 1, 4, TemporalPositionIdentifier=2)
    odd = pydicom.dcmread(files[3])
    odd.TemporalPositionIdentifier = 3
    save(odd, files[3])
    return files


def _with(**changes: object) -> Callable[[Path], list[Path]]:
    return lambda folder: series(folder, SMALL, **changes)


def _one_slice_with(**changes: object) -> Callable[[Path], list[Path]]:
    def _make(folder: Path) -> list[Path]:
        files = series(folder, SMALL)
        save(instance(SMALL, 3, **changes), files[3])
        return files

    return _make


def _garbled_slope(folder: Path) -> list[Path]:
    files = series(folder, SMALL, RescaleSlope="1.234567")
    for path in files:
        path.write_bytes(path.read_bytes().replace(b"1.234567", b"one.half"))
    return files


def _ct_with_two_scales(folder: Path) -> list[Path]:
    ct: dict[str, object] = {"SOPClassUID": CTImageStorage, "Modality": "CT", "RescaleSlope": "1"}
    files = series(folder, SMALL, RescaleIntercept="-1024", **ct)
    save(instance(SMALL, 3, RescaleIntercept="0", **ct), files[3])
    return files


def _blank_slice_of_a_derived_image(folder: Path) -> list[Path]:
    kind = ["DERIVED", "PRIMARY", "M"]
    files = series(folder, SMALL, ImageType=kind)
    zeros = bytes(SMALL.rows * SMALL.columns * 2)
    save(instance(SMALL, 3, ImageType=kind, PixelData=zeros), files[3])
    return files


def _blank_volume(folder: Path) -> list[Path]:
    zeros = bytes(SMALL.rows * SMALL.columns * 2)
    label = {"TemporalPositionIdentifier": 2}
    files = volume(folder, 0, TemporalPositionIdentifier=1)
    return files + volume(folder, 1, PixelData=zeros, **label)


def _packed(**changes: object) -> Callable[[Path], list[Path]]:
    def _make(folder: Path) -> list[Path]:
        files = series(folder, SMALL)
        dataset = pydicom.dcmread(files[2])
        dataset.compress(RLELossless, generate_instance_uid=False)
        for keyword, value in changes.items():
            setattr(dataset, keyword, value)
        if not changes:
            dataset.PixelData = dataset.PixelData[:200]
        dataset.save_as(files[2])
        return files

    return _make


def _enhanced_of(**changes: object) -> Callable[[Path], list[Path]]:
    return lambda folder: [save(enhanced(SMALL, **changes), folder / "a.dcm")]


ZEROS = bytes(SMALL.rows * SMALL.columns * 2)
FAULTS: list[tuple[Callable[[Path], list[Path]], str]] = [
    (_sent_twice, "duplicate slice: position 3 of 6"),
    (_incomplete_volume, "missing slice: 1 of 2 images at position 6 of 6"),
    (_unlabelled, "mixed acquisition: 12 images at 6 slice positions without any label"),
    (_magnitude_and_phase, r"mixed acquisition.*image types \(magnitude, phase, ...\)"),
    (_time_changes_with_slice, "mixed acquisition: time points change from slice to slice"),
    (_with(RescaleSlope="0"), "wrong rescale: a RescaleSlope of 0"),
    (_with(RescaleSlope="nan"), "wrong rescale.*not finite"),
    (_with(RescaleSlope="1", RescaleIntercept="inf"), "wrong rescale.*not finite"),
    (_garbled_slope, "wrong rescale.*no number"),
    (_one_slice_with(RescaleSlope="2"), "wrong rescale: 5 of 6 slices have no RescaleSlope"),
    (_ct_with_two_scales, "wrong rescale: 2 different"),
    (_with(PixelData=ZEROS), "the image is blank"),
    (_one_slice_with(PixelData=ZEROS), "blank slice: 1 of 6"),
    (_blank_slice_of_a_derived_image, "blank slice: 1 of 6"),
    (_blank_volume, "blank volume: volume 2 of 2"),
    (_one_slice_with(PixelData=ZEROS[:-2]), "truncated pixel data: 958 of the 960 bytes"),
    (_packed(), "pixel data cannot be decoded|truncated"),
    (_with(Rows=10), "wrong Rows or Columns: they announce 480 bytes"),
    (_with(Columns=48), "truncated pixel data"),
    (_one_slice_with(Rows=40, Columns=12), "mixed acquisition: slices of 2 different sizes"),
    (_with(Rows=65535, Columns=65535), "absurd size: an image of 65535 x 65535"),
    (_with(Rows=16000, Columns=16000), "absurd size: the series announces 1536000000 voxels"),
    (_enhanced_of(NumberOfFrames=1_000_000), "absurd size: a multi-frame object announces"),
    (_enhanced_of(NumberOfFrames=7), "no usable position"),
    (_with(PerFrameFunctionalGroupsSequence=None, NumberOfFrames=3), "does not say where"),
    (_with(ImageType=["ORIGINAL", "PRIMARY", "M", "MOSAIC"]), "mosaic without its private header"),
    (_with(ImageType=["ORIGINAL", "PRIMARY", "M", "VFRAME"]), "mosaic without its private header"),
    (_with(BurnedInAnnotation="YES"), "burned into the pictures"),
]


@pytest.mark.parametrize(("make", "words"), FAULTS)
def test_every_fault_has_its_name(
    tmp_path: Path, make: Callable[[Path], list[Path]], words: str
) -> None:
    files = make(tmp_path / "in")
    with pytest.raises(DataRefused, match=words) as caught:
        convert_images(files, tmp_path / "out", work=tmp_path / "work")
    said = str(caught.value)
    assert "\n" not in said
    for secret in (phantom.PATIENT_ID, "PHANTOMIUS", "4711", str(tmp_path)):
        assert secret not in said
    assert not list(tmp_path.glob("out*"))


def test_a_slope_for_every_slice_is_applied_slice_by_slice(tmp_path: Path) -> None:
    files = series(tmp_path / "in", SMALL)
    for index, path in enumerate(files):
        save(instance(SMALL, index, RescaleSlope=f"{0.5 + index}", RescaleIntercept="1"), path)
    values = np.asarray(converted(files, tmp_path)[0].dataobj)
    for index in range(SMALL.slices):
        stored = phantom.intensity(SMALL.points(index))
        assert np.allclose(values[:, :, index].T, stored * (0.5 + index) + 1)


def test_outer_slices_of_a_derived_image_may_be_masked(tmp_path: Path) -> None:
    kind = ["DERIVED", "PRIMARY", "ADC"]
    files = series(tmp_path / "in", SMALL, ImageType=kind)
    save(instance(SMALL, 0, ImageType=kind, PixelData=ZEROS), files[0])
    assert converted(files, tmp_path)[0].shape == (24, 20, 6)


def test_dicom2nifti_is_left_as_it_was(tmp_path: Path) -> None:
    from dicom2nifti import settings as switches

    before = switches.validate_slice_increment
    switches.validate_slice_increment = False
    try:
        assert converted(series(tmp_path / "in", SMALL), tmp_path)
        assert switches.validate_slice_increment is False
    finally:
        switches.validate_slice_increment = before


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=400))
def test_a_damaged_private_header_is_read_as_far_as_it_goes(tail: bytes) -> None:
    assert isinstance(read_csa(b"SV10\4\3\2\1" + tail), dict)


def test_a_mosaic_that_says_too_much(tmp_path: Path) -> None:
    dataset = instance(SMALL, 0, ImageType=["ORIGINAL", "PRIMARY", "M", "MOSAIC"])
    block = dataset.private_block(0x0019, "SIEMENS MR HEADER", create=True)
    block.add_new(0x0A, "US", 65535)
    with pytest.raises(DataRefused, match="mosaic"):
        image_frames(dataset, tmp_path / "a.dcm")
