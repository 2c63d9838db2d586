"""Structure sets as files: whose they are, who drew them, and what hostile ones do."""

from __future__ import annotations

import resource
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset
from pydicom.tag import Tag

from dicom_bridge.convert import SourceSeries
from dicom_bridge.rtstruct import (
    StructuresRefused,
    check_belongs,
    check_images,
    contours_of,
    creator_of,
    expert_rois,
    fill_region,
    open_structures,
    referenced_series,
    rois_of,
)
from dicom_bridge.rtstruct import read as reading
from dicom_bridge.seg import ExpertPolicy
from tests.dicom_bridge.convert.phantom import SERIES_UID, Layout, series
from tests.dicom_bridge.rtstruct.structures import Region, ball, circle, structure_set, written

CODES = {"SCT:52988006": 1}
POLICY = ExpertPolicy(codes=frozenset({("SCT", "52988006")}))
NAMES = {"GTV 1": 2}


@pytest.fixture
def source(tmp_path: Path) -> SourceSeries:
    return SourceSeries.from_files(series(tmp_path / "series", Layout()))


def test_a_file_there_and_back(source: SourceSeries, tmp_path: Path) -> None:
    heights = source.positions() @ source.normal()
    drawn = ball(source, 22.0, heights)
    images = [frame.SOPInstanceUID for frame in source.frames]
    used = [images[k] for k, h in enumerate(heights) if abs(h) < 22.0]
    region = Region("GTV_1", drawn, code=("SCT", "52988006"), images=used)
    path = written(tmp_path, structure_set([Region("Other", drawn), region]))

    dataset = open_structures(path)
    assert referenced_series(dataset) == {SERIES_UID}
    roi = rois_of(dataset)[1]
    assert (roi.number, roi.interpreted_type, roi.algorithm) == (2, "GTV", "MANUAL")
    assert roi.code is not None
    assert roi.code.value == "52988006"
    assert "GTV_1" not in repr(roi), "a region's name is a person's free text"
    contours = contours_of(dataset, 2)
    assert [c.images for c in contours] == [(uid,) for uid in used]
    for contour, points in zip(contours, drawn, strict=True):
        assert np.allclose(contour.points, points, atol=1e-4)
    check_belongs(dataset, roi, contours, SERIES_UID)
    check_images(contours, source)
    mask, filled = fill_region(contours, source)
    ml = np.count_nonzero(mask) * 2.0 * 1.7 * 5.0 / 1000
    assert ml == pytest.approx(4 / 3 * np.pi * 22**3 / 1000, rel=0.03)
    assert filled.voxels == np.count_nonzero(mask)


def test_the_series_that_it_refers_to_decides(source: SourceSeries, tmp_path: Path) -> None:
    flat = circle(source, source.positions()[3] @ source.normal(), 9.0)
    own, foreign = source.frames[3].SOPInstanceUID, "2.25.4711"

    def held(names: tuple[str, ...], image: str) -> Callable[[], None]:
        def listed(dataset: Dataset) -> None:
            frame = dataset.ReferencedFrameOfReferenceSequence[0]
            for item in frame.RTReferencedStudySequence[0].RTReferencedSeriesSequence:
                entry = Dataset()
                entry.ReferencedSOPInstanceUID = (
                    own if item.SeriesInstanceUID == SERIES_UID else foreign
                )
                item.ContourImageSequence = [entry]

        regions = [Region("GTV_1", [flat], images=[image] if image else [])]
        dataset = open_structures(
            written(tmp_path, structure_set(regions, series=names, change=listed))
        )
        contours = contours_of(dataset, 1)
        return lambda: check_belongs(dataset, rois_of(dataset)[0], contours, SERIES_UID)

    held((SERIES_UID,), "")()
    held((SERIES_UID, "2.25.5"), own)()
    for names, image, words in (
        (("2.25.5",), own, "another series"),
        ((SERIES_UID, "2.25.5"), foreign, "does not say"),
        ((SERIES_UID, "2.25.5"), "", "does not say"),
        ((), own, "does not say"),
    ):
        with pytest.raises(StructuresRefused, match=words):
            held(names, image)()
    stranger = contours_of(structure_set([Region("GTV_1", [flat], images=[foreign])]), 1)
    with pytest.raises(StructuresRefused, match="image of another series"):
        check_images(stranger, source)


def raw(item: Dataset, text: str) -> None:
    """ContourData as bytes, whatever they hold."""
    value = (text + " " * (len(text) % 2)).encode()
    tag = Tag("ContourData")
    item[tag] = RawDataElement(tag, "DS", len(value), value, 0, False, True)


def put(keyword: str, value: object) -> Callable[[Dataset], None]:
    return lambda dataset: setattr(dataset, keyword, value)


def review(dataset: Dataset) -> None:
    dataset.ApprovalStatus, dataset.ReviewerName = "APPROVED", "REVIEWER^A"


def interpret(dataset: Dataset) -> None:
    dataset.RTROIObservationsSequence[0].ROIInterpreter = "READER^B"


@pytest.mark.parametrize(
    ("change", "algorithm", "name", "words", "found"),
    [
        (None, "MANUAL", "gtv-1", "drawn by a person", {1: 2}),
        (None, "SEMIAUTOMATIC", "GTV 1", "drawn by a person", {1: 2}),
        (None, "AUTOMATIC", "GTV 1", "ROIGenerationAlgorithm", {}),
        (review, "AUTOMATIC", "GTV 1", "ROIGenerationAlgorithm", {}),
        (None, "", "GTV 1", "no person answers", {}),
        (review, "", "GTV 1", "drawn by a person", {1: 2}),
        (interpret, "", "GTV 1", "drawn by a person", {1: 2}),
        (None, "MANUAL", "bladder", "no region's code or name", {}),
        (put("Manufacturer", "clinode"), "MANUAL", "GTV 1", "drawn by a person", {1: 2}),
    ],
)
def test_who_drew_it(
    source: SourceSeries,
    change: Callable[[Dataset], None] | None,
    algorithm: str,
    name: str,
    words: str,
    found: dict[int, int],
) -> None:
    region = Region(name, [circle(source, 0.0, 9.0)], algorithm=algorithm)
    dataset = structure_set([region], change=change or (lambda _dataset: None))
    if change is not None and "Manufacturer" in dataset and dataset.Manufacturer == "clinode":
        assert expert_rois(dataset, POLICY, NAMES, CODES)[0] == {}, "clinode's own never is"
        return
    numbers, why = expert_rois(dataset, POLICY, NAMES, CODES)
    assert (numbers, words in why) == (found, True), why


def test_codes_creators_and_points(source: SourceSeries) -> None:
    flat = [circle(source, 0.0, 9.0)]
    regions = [
        Region("GTV 1", flat, code=("SCT", "52988006")),
        Region("GTV 1", flat, interpreted="MARKER"),
        Region("GTV 1", flat),
    ]
    dataset = structure_set(regions)
    assert expert_rois(dataset, POLICY, NAMES, CODES)[0] == {1: 1, 3: 2}, "the code goes first"
    assert creator_of(dataset) == "EXPERT^READER"
    named = ExpertPolicy(codes=POLICY.codes, creators=frozenset({"expert reader"}))
    assert expert_rois(dataset, named, NAMES, CODES)[0] == {1: 1, 3: 2}
    other = ExpertPolicy(codes=POLICY.codes, creators=frozenset({"somebody else"}))
    numbers, why = expert_rois(dataset, other, NAMES, CODES)
    assert numbers == {}
    assert "creators" in why


def test_hostile_files_are_refused_in_words(
    source: SourceSeries, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flat = circle(source, 0.0, 9.0)

    def refused(words: str, change: Callable[[Dataset], None]) -> None:
        dataset = structure_set([Region("GTV 1", [flat])], change=change)
        path = written(tmp_path, dataset)
        with pytest.raises(StructuresRefused, match=words):
            contours_of(open_structures(path), 1)

    def contour(dataset: Dataset) -> Dataset:
        item = dataset.ROIContourSequence[0].ContourSequence[0]
        assert isinstance(item, Dataset)
        return item

    def data(text: str, count: int | None = None) -> Callable[[Dataset], None]:
        def change(dataset: Dataset) -> None:
            item = contour(dataset)
            raw(item, text)
            item.NumberOfContourPoints = count or len(text.split("\\")) // 3

        return change

    refused("whole number of points", data("1\\2\\3\\4"))
    refused("cannot be read", data("1\\2\\x"))
    refused("finite", data("1\\2\\nan"))
    refused("finite", data("1\\2\\1e99"))
    refused("announces", data("1\\2\\3", 7))
    refused("ContourOffsetVector", lambda d: setattr(contour(d), "ContourOffsetVector", [0, 0, 1]))
    empty = written(tmp_path, structure_set([Region("GTV 1", [])]))
    assert contours_of(open_structures(empty), 1) == ()
    (tmp_path / "x.dcm").write_bytes(b"no dicom")
    with pytest.raises(StructuresRefused, match="DICM"):
        open_structures(tmp_path / "x.dcm")
    with pytest.raises(StructuresRefused, match="no RT Structure Set"):
        open_structures(next((tmp_path / "series").iterdir()))
    monkeypatch.setattr(reading, "MAX_ITEMS", 3)
    with pytest.raises(StructuresRefused, match="items"):
        open_structures(empty)
    monkeypatch.setattr(reading, "MAX_BYTES", 10)
    with pytest.raises(StructuresRefused, match="larger"):
        open_structures(empty)


def test_a_million_points_are_read_in_bounded_time_and_more_are_refused(
    source: SourceSeries, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = written(tmp_path, structure_set([Region("GTV 1", [circle(source, 2.5, 9.0, 1000)])]))
    monkeypatch.setattr(reading, "MAX_POINTS", 1000)
    before, began = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    contours = contours_of(open_structures(path), 1)
    assert len(contours[0].points) == 1000
    assert time.process_time() - began < 2.0
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000
    monkeypatch.setattr(reading, "MAX_POINTS", 999)
    with pytest.raises(StructuresRefused, match="more than 999 points"):
        contours_of(open_structures(path), 1)


@pytest.mark.long
def test_millions_of_points(source: SourceSeries, tmp_path: Path) -> None:
    row = np.round(np.linspace(-20, 20, 1_000_001)[:-1], 4)
    text = "\\".join(f"{x:.4f}\\{(-1) ** n * 15 + 0.1}\\2.5" for n, x in enumerate(row))

    def change(dataset: Dataset) -> None:
        item = dataset.ROIContourSequence[0].ContourSequence[0]
        raw(item, text)
        item.NumberOfContourPoints = 1_000_000

    path = written(
        tmp_path, structure_set([Region("GTV 1", [row[:9].reshape(3, 3)])], change=change)
    )
    began = time.process_time()
    contours = contours_of(open_structures(path), 1)
    assert len(contours[0].points) == 1_000_000
    assert time.process_time() - began < 10.0
    with pytest.raises(StructuresRefused, match="measure"):
        fill_region([contours[0], contours[0]], source)
