from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pydicom
import pytest
from numpy.typing import NDArray

from dicom_bridge.convert import SourceSeries
from dicom_bridge.errors import CaptureRefused, SegRefused
from dicom_bridge.sc import CaptureRequest, Window, write_captures
from dicom_bridge.sc.draw import default_window, outline, picture, strip, windowed
from dicom_bridge.sc.source import source_pixels
from dicom_bridge.seg import NoFinding, is_own_result
from tests.dicom_bridge.convert import phantom
from tests.dicom_bridge.convert.phantom import Layout, cosines, series
from tests.dicom_bridge.seg.readers import consistency_errors, object_errors
from tests.dicom_bridge.seg.test_write import TWO, WHEN

LAYOUT = Layout(orientation=cosines("oblique"), rows=40, columns=48, slices=6)
SC_SERIES = "2.25.600"
RED, GREEN = TWO[0].colour, TWO[1].colour


@dataclass(frozen=True)
class Drawn:
    files: list[Path]
    source: SourceSeries
    request: CaptureRequest


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Drawn:
    folder = tmp_path_factory.mktemp("captures")
    files = series(folder / "in", LAYOUT, WindowCenter="400", WindowWidth="800")
    source = SourceSeries.from_files(files)
    pixels, window = source_pixels(files[::-1])
    mask = np.zeros(source.geometry.shape, np.uint8)
    mask[10:20, 15:30, 2:4] = 1
    mask[30:33, 5:8, 3] = 2
    request = CaptureRequest(
        source=source,
        pixels=pixels,
        mask=mask,
        affine=source.geometry.affine,
        segments=TWO,
        out=folder / "out",
        series_instance_uid=SC_SERIES,
        window=window,
        caption=("ms-lesion ffff",),
        written_at=WHEN,
    )
    return Drawn(files, source, request)


def coloured(image: NDArray[np.uint8], colour: tuple[int, int, int]) -> NDArray[np.bool_]:
    return np.all(image == np.array(colour, np.uint8), axis=-1)


def test_pixels_and_window_of_the_source(drawn: Drawn) -> None:
    assert drawn.request.window == Window(400.0, 800.0)
    expected = phantom.intensity(LAYOUT.points(4)).T
    assert np.array_equal(drawn.request.pixels[:, :, 4], expected)


@pytest.mark.integration
def test_one_object_per_slice_with_contours_where_the_mask_is(drawn: Drawn, tmp_path: Path) -> None:
    written = write_captures(replace(drawn.request, out=tmp_path))

    assert written.slices == (2, 3)
    assert [path.name for path in written.paths] == ["0001.dcm", "0002.dcm"]
    assert consistency_errors([*drawn.files, *written.paths]) == []
    factor = 384 // 48
    for path, k in zip(written.paths, written.slices, strict=True):
        assert object_errors(path, "SCImage") == []
        image = pydicom.dcmread(path)
        (named,) = image.SourceImageSequence
        assert named.ReferencedSOPInstanceUID == drawn.source.frames[k].SOPInstanceUID
        above = strip((drawn.request.banner,), 384, (255, 220, 0)).shape[0]
        body = image.pixel_array[above : above + 40 * factor]
        for number, colour in ((1, RED), (2, GREEN)):
            region = np.kron((drawn.request.mask[:, :, k] == number).T, np.ones((factor, factor)))
            assert np.array_equal(coloured(body, colour), outline(region > 0))
        grey = windowed(drawn.request.pixels[:, :, k], Window(400.0, 800.0)).T
        assert np.array_equal(body[::factor, ::factor][0, 0], [grey[0, 0]] * 3)
        assert np.array_equal(body[-1, -1], [grey[-1, -1]] * 3)


@pytest.mark.integration
def test_one_multi_frame_object(drawn: Drawn, tmp_path: Path) -> None:
    base = replace(drawn.request, out=tmp_path, form="multi", all_slices=True)
    written = write_captures(base)
    (path,) = written.paths
    assert written.slices == tuple(range(6))
    assert object_errors(path, "MultiframeTrueColorSCImage") == []
    assert consistency_errors([*drawn.files, path]) == []
    frames = pydicom.dcmread(path).pixel_array
    assert frames.shape[0] == 6
    marked = [bool(coloured(frame, RED).any()) for frame in frames]
    assert marked == [False, False, True, True, False, False]


def test_header_says_what_it_is_and_whose(drawn: Drawn, tmp_path: Path) -> None:
    written = write_captures(replace(drawn.request, out=tmp_path / "a"))
    again = write_captures(replace(drawn.request, out=tmp_path / "b"))
    assert [p.read_bytes() for p in written.paths] == [p.read_bytes() for p in again.paths]
    image = pydicom.dcmread(written.paths[0])
    assert image.ImageType == ["DERIVED", "SECONDARY"]
    assert image.ConversionType == "WSD"
    assert image.BurnedInAnnotation == "NO"
    assert image.StudyInstanceUID == phantom.STUDY_UID
    assert image.PatientID == phantom.PATIENT_ID
    assert image.SeriesInstanceUID == SC_SERIES
    assert image.SeriesNumber == 1007
    assert image.SeriesDescription == "RESEARCH Contours"
    assert image.PixelAspectRatio == [20000, 17000]
    assert is_own_result(image)
    assert "ImagePositionPatient" not in image
    assert "FrameOfReferenceUID" not in image


def test_the_banner_is_in_the_pixels() -> None:
    plane, labels = np.zeros((60, 50), np.uint8), np.zeros((60, 50), np.uint8)
    with_text = picture(plane, labels, {}, ("RESEARCH - NOT FOR DIAGNOSIS", ()))
    without = picture(plane, labels, {}, (" ", ()))
    assert np.count_nonzero(with_text) > 500
    assert np.count_nonzero(without) == 0
    other = picture(plane, labels, {}, ("RESEARCH - NOT FOR DIAGNOSTIC", ()))
    assert not np.array_equal(with_text, other)


def test_long_and_foreign_captions_are_broken_into_lines() -> None:
    text = "Forschungsergebnis, nicht für die Diagnose bestimmt. " * 4 + "x" * 120
    one, many = strip(("kurz",), 384, RED), strip((text,), 384, RED)
    assert many.shape[1] == one.shape[1] == 384
    assert many.shape[0] > 4 * 10
    rows = np.flatnonzero(many.any(axis=(1, 2)))
    assert rows.max() > many.shape[0] * 0.7  # the last line is there
    assert not many[:, -2:].any()  # nothing runs over the edge


def test_windowing_by_the_standards_formula() -> None:
    values = np.array([[-100.0, 0.0], [127.5, 400.0]])
    grey = windowed(values, Window(center=128, width=256))
    assert grey.tolist() == [[0, 0], [128, 255]]
    assert default_window(np.zeros((3, 3, 3))).width == 1.0


def test_nothing_found_and_wrong_requests(drawn: Drawn, tmp_path: Path) -> None:
    good = replace(drawn.request, out=tmp_path)
    empty = np.zeros_like(good.mask)
    with pytest.raises(NoFinding):
        write_captures(replace(good, mask=empty))
    far = good.affine.copy()
    far[:3, 3] += 500
    cases = [
        (replace(good, series_instance_uid=phantom.SERIES_UID), "series of its own"),
        (replace(good, pixels=good.pixels[:-1]), "shape"),
        (replace(good, pixels=np.full(good.pixels.shape, np.nan)), "finite"),
        (replace(good, window=Window(1, 0)), "width"),
        (replace(good, banner=" "), "printable"),
        (replace(good, caption=("a\nb",)), "printable"),
        (replace(good, caption=("a" * 401,)), "400"),
        (replace(good, segments=TWO[:1]), r"\[2\]"),
        (replace(good, affine=far), "cover|outside"),
    ]
    for wrong, words in cases:
        with pytest.raises((CaptureRefused, SegRefused), match=words) as caught:
            write_captures(wrong)
        assert "4711" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []
