"""Labels through the pipeline: SEG and structure set of FLAIR and T1, carried and agreed on."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pydicom
import pytest
from numpy.typing import NDArray

from appliance.errors import ImageRefused
from appliance.home import Home, create_keys
from appliance.imaging.itk import save_matrix
from appliance.imaging.volume import Volume, load_volume, save_volume
from appliance.label_refresh import LabelWork, read_labels
from appliance.labels.consensus import dice
from appliance.labels.making import rater_document
from appliance.labels.reading import (
    ELSEWHERE,
    LabelRules,
    expert_files,
    label_values,
    labels_of,
)
from appliance.labels.staged import agree_labels, staged_labels, write_labels
from appliance.pipeline.states import Stage
from appliance.pipeline.work import StageWork
from appliance.research import CaseFiles, sidecar
from appliance.settings import settings_from
from appliance.settings_imaging import LabelsSection
from dicom_bridge.classify import scan_study
from dicom_bridge.convert import SourceSeries
from dicom_bridge.errors import DataRefused
from dicom_bridge.seg import SegmentSpec, read_seg, write_seg
from tests.dicom_bridge.convert.phantom import FRAME_UID, SERIES_UID, Layout, series
from tests.dicom_bridge.real import files_of
from tests.dicom_bridge.rtstruct.structures import (
    Region,
    ball,
    structure_set,
    voxel_places,
    written,
)
from tests.dicom_bridge.seg.test_write import LESION, request
from tests.tools import shared_dir

pytestmark = pytest.mark.integration

KEY = "st000000000001"
T1_UID = "2.25.222"
FLAIR_LAYOUT = Layout(rows=40, columns=44, slices=12, distance=4.0)
T1_LAYOUT = Layout(rows=50, columns=54, slices=40, spacing=(1.4, 1.3), distance=1.5)
MOTION = np.eye(4)
MOTION[:3, 3] = [5.0, 0.0, -4.0]
"""RAS: FLAIR points to T1 points."""
CODES = {"SCT:52988006": 1, "SCT:1": 2}


def source_of(folder: Path, layout: Layout, uid: str) -> SourceSeries:
    files = series(folder, layout)
    for path in files:
        dataset = pydicom.dcmread(path)
        dataset.SeriesInstanceUID = uid
        number = dataset.SOPInstanceUID.rpartition(".")[2]
        dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = f"{uid}.{number}"
        dataset.save_as(path, enforce_file_format=True)
    return SourceSeries.from_files(files)


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> dict[str, SourceSeries]:
    folder = tmp_path_factory.mktemp("series")
    return {
        "FLAIR": source_of(folder / "flair", FLAIR_LAYOUT, SERIES_UID),
        "T1w": source_of(folder / "t1", T1_LAYOUT, T1_UID),
    }


def work_of(root: Path, stage: Stage, **labels: object) -> StageWork:
    home = Home(root, "p")
    home.create()
    create_keys(home)
    out = home.study(KEY) / "stages" / f"{stage.value}.tmp"
    out.mkdir(parents=True)
    (home.study(KEY) / "received").mkdir(exist_ok=True)
    settings = settings_from(
        {"node": {"site": "a", "project": "p"}, "labels": {"codes": CODES, **labels}}
    )
    return StageWork(stage, KEY, home, home.study(KEY), out, settings, "s", "v")


def inside(source: SourceSeries, radius: float, ras: NDArray[np.float64]) -> NDArray[np.uint8]:
    """A ball on a series' grid about a RAS point."""
    places = voxel_places(source) * np.array([-1.0, -1.0, 1.0])
    return (np.linalg.norm(places - ras, axis=-1) < radius).astype(np.uint8)


def seg(folder: Path, source: SourceSeries, mask: NDArray[np.uint8], rater: str, time: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    kinds: list[SegmentSpec] = [replace(LESION, algorithm_type="MANUAL")]
    base = request(source, mask, folder / f"{time}.dcm")
    uid = f"2.25.7{time}"
    wanted = replace(
        base,
        segments=tuple(kinds),
        creator=rater,
        manufacturer="Reader",
        sop_instance_uid=uid,
        series_instance_uid=f"{uid}9",
    )
    path = write_seg(wanted).path
    dataset = pydicom.dcmread(path)
    dataset.ContentTime = time
    dataset.save_as(path, enforce_file_format=True)
    return path


def register(work: StageWork, sources: dict[str, SourceSeries]) -> None:
    for kind, source in sources.items():
        geometry = source.geometry
        image = Volume(np.zeros(geometry.shape, np.int16), geometry.affine)
        save_volume(image, work.of(Stage.DEFACE) / f"{kind}.nii")
    save_matrix(MOTION, work.of(Stage.REGISTER) / "T1w.txt")


def published(work: StageWork) -> StageWork:
    work.out.rename(work.of(Stage.CONVERT))
    out = work.study_dir / "stages" / "publish.tmp"
    out.mkdir()
    return replace(work, stage=Stage.PUBLISH, out=out)


def test_labels_of_both_series_meet_on_the_flair(
    sources: dict[str, SourceSeries], tmp_path: Path
) -> None:
    work = work_of(tmp_path, Stage.CONVERT, consensus="staple")
    centre = np.array([2.0, 3.0, 1.0])
    moved = centre + MOTION[:3, 3]
    seg(work.received, sources["FLAIR"], inside(sources["FLAIR"], 12.0, centre), "A^A", "110000")
    seg(work.received, sources["T1w"], inside(sources["T1w"], 12.0, moved), "B^B", "100000")
    lps = moved * np.array([-1.0, -1.0, 1.0])
    heights = sources["T1w"].positions() @ sources["T1w"].normal()
    drawn = [points + lps for points in ball(sources["T1w"], 12.0, heights - lps[2])]
    region = Region("x", drawn, code=("SCT", "52988006"))
    dataset = structure_set([region], series=[T1_UID])
    written(work.received, dataset)
    names = sorted(path.name for path in work.received.iterdir())
    staged = write_labels(work, names, sources)
    assert (staged.raters, staged.notes) == (3, ())
    work = published(work)
    found = {label.document["Form"]: label for label in staged_labels(work)}
    assert {label.kind for label in found.values()} == {"FLAIR", "T1w"}
    listing = (work.of(Stage.CONVERT) / "labels" / "labels.json").read_text()
    assert "A^A" not in listing
    assert "EXPERT" not in listing
    register(work, sources)
    made = agree_labels(work, "FLAIR")
    assert made.label is not None
    assert len(made.raters) == 3
    truth = inside(sources["FLAIR"], 12.0, centre) > 0
    for rater, _ in made.raters:
        assert dice(load_volume(rater.path).data > 0, truth) > 0.95
    assert dice(load_volume(made.label).data > 0, truth) > 0.95
    consensus = made.document["Consensus"]
    assert isinstance(consensus, dict)
    assert consensus["Rule"] == "staple"
    assert float(str(consensus["LeastDice"])) > 0.93
    assert [document["Order"] for _, document in made.raters] == [1, 2, 3]


def test_what_does_not_fit_is_a_note_unless_nothing_fits(
    sources: dict[str, SourceSeries], tmp_path: Path
) -> None:
    work = work_of(tmp_path, Stage.CONVERT)
    flair = {"FLAIR": sources["FLAIR"]}
    centre = np.array([2.0, 3.0, 1.0])
    mask = inside(sources["T1w"], 12.0, centre)
    foreign = seg(work.received, sources["T1w"], mask, "A^A", "100000")
    assert write_labels(work, [foreign.name], flair).notes == (ELSEWHERE,)
    lost = seg(work.received, sources["T1w"], inside(sources["T1w"], 9.0, centre), "C^C", "103000")
    dataset = pydicom.dcmread(lost)
    dataset.ReferencedSeriesSequence[0].SeriesInstanceUID = SERIES_UID
    dataset.FrameOfReferenceUID = f"{FRAME_UID}.7"
    dataset.save_as(lost, enforce_file_format=True)
    with pytest.raises(DataRefused, match="a label does not fit"):
        write_labels(work, [foreign.name, lost.name], flair)
    good = seg(work.received, sources["FLAIR"], inside(flair["FLAIR"], 9.0, centre), "D", "105000")
    staged = write_labels(work, [foreign.name, lost.name, good.name], flair)
    assert staged.raters == 1
    assert len(staged.notes) == 2
    again = seg(work.received, sources["FLAIR"], inside(flair["FLAIR"], 7.0, centre), "D", "106000")
    staged = write_labels(work, [again.name, good.name], flair)
    assert staged.raters == 1, "a rater's later label takes the place of the earlier"
    assert staged.voxels == np.count_nonzero(inside(flair["FLAIR"], 7.0, centre))
    entries = json.loads((work.out / "labels" / "labels.json").read_text())["labels"]
    assert len(entries) == 1


def test_which_files_of_a_study_are_read(sources: dict[str, SourceSeries], tmp_path: Path) -> None:
    heights = sources["FLAIR"].positions() @ sources["FLAIR"].normal()
    drawn = ball(sources["FLAIR"], 10.0, heights)
    folder = tmp_path / "received"
    by_hand = written(folder / "a", structure_set([Region("Lesion 1", drawn)]))
    other = structure_set([Region("Lesion 1", drawn, algorithm="AUTOMATIC")])
    other.SOPInstanceUID, other.SeriesInstanceUID = "2.25.8", "2.25.88"
    written(folder / "b", other)
    rules = LabelRules(LabelsSection(codes=CODES, rois={"lesion_1": 2}))
    accepted, notes = expert_files(scan_study(folder), rules)
    assert accepted == [by_hand]
    assert "ROIGenerationAlgorithm" in notes[0]
    (label,) = labels_of(by_hand, sources, rules)
    assert set(np.unique(label.values)) == {0, 2}
    assert (label.kind, label.form, label.rater) == ("FLAIR", "RTSTRUCT", "EXPERT^READER")
    assert "EXPERT" not in repr(label)
    empty = written(tmp_path / "c", structure_set([Region("Lesion 1", [])]))
    with pytest.raises(ImageRefused, match="empty"):
        labels_of(empty, sources, rules)


def test_a_structure_set_of_two_readers_is_two_labels(
    sources: dict[str, SourceSeries], tmp_path: Path
) -> None:
    heights = sources["FLAIR"].positions() @ sources["FLAIR"].normal()
    regions = [Region("lesion", ball(sources["FLAIR"], r, heights)) for r in (9.0, 12.0)]
    dataset = structure_set(regions)
    for item, name in zip(dataset.RTROIObservationsSequence, ("R^ONE", "R^TWO"), strict=True):
        item.ROIInterpreter = name
    rules = LabelRules(LabelsSection(codes=CODES, rois={"Lesion": 1}))
    labels = labels_of(written(tmp_path, dataset), sources, rules)
    assert [label.rater for label in labels] == ["R^ONE", "R^TWO"]
    small, large = (int(label.values.sum()) for label in labels)
    assert 0 < small < large


def test_imported_labels_of_the_version_before_are_told(tmp_path: Path) -> None:
    work = replace(work_of(tmp_path, Stage.PUBLISH), session="vv2", version=2)
    assert agree_labels(work, "FLAIR").notes == ()
    image = work.home.research / CaseFiles("s", "v").rater_label("abcd1234")
    save_volume(Volume(np.zeros((3, 3, 3), np.uint8), np.eye(4)), image)
    sidecar(image).write_text(json.dumps(rater_document("abcd1234", 1, "NIfTI", "FLAIR", 0)))
    (note,) = agree_labels(work, "FLAIR").notes
    assert "import them again" in note


def test_real_overlapping_segments_become_one_map() -> None:
    folder = shared_dir("data", "seg", "dcmqi")
    source = SourceSeries.from_files(files_of(folder / "ct-3slice"))
    content = read_seg(folder / "partial_overlaps.dcm", source)
    masks = {segment.number: segment.mask > 0 for segment in content.segments}
    codes = {f"X:{number}": number for number in masks}
    meanings = {number: ("X", str(number)) for number in masks}
    values = label_values(content, codes, meanings)
    assert values is not None
    assert np.array_equal(values > 0, np.any(list(masks.values()), axis=0))
    sizes = {number: int(mask.sum()) for number, mask in masks.items()}
    smallest = min(sizes, key=lambda number: sizes[number])
    assert np.array_equal(values == smallest, masks[smallest]), "the smaller keeps all it has"
    largest = max(sizes, key=lambda number: sizes[number])
    strong = label_values(content, codes, meanings, (largest,))
    assert strong is not None
    assert np.array_equal(strong == largest, masks[largest])


def test_a_label_that_came_later_is_carried_too(
    sources: dict[str, SourceSeries], tmp_path: Path
) -> None:
    centre = np.array([2.0, 3.0, 1.0])
    moved = centre + MOTION[:3, 3]
    path = seg(tmp_path, sources["T1w"], inside(sources["T1w"], 12.0, moved), "B^B", "100000")
    wrong = written(tmp_path / "b", structure_set([Region("unknown", [])]))
    case = CaseFiles("s", "v")
    work = LabelWork(
        files=(path, wrong),
        sources=sources,
        rules=LabelRules(LabelsSection(codes=CODES)),
        research=tmp_path / "research",
        case=case,
        reference="FLAIR",
        out=tmp_path / "out",
    )
    (without, refused) = read_labels(work)
    assert without.label is None, "no registration, no label"
    assert "no region's code or name" in refused.words
    save_matrix(MOTION, work.research / case.transform("T1w"))
    (read, _) = read_labels(work)
    assert read.label is not None
    assert (read.label.kind, read.label.rater, read.label.form) == ("T1w", "B^B", "SEG")
    truth = inside(sources["FLAIR"], 12.0, centre) > 0
    assert dice(load_volume(read.label.path).data > 0, truth) > 0.95
    missing = replace(work, sources={"T1w": sources["T1w"]})
    assert "no FLAIR" in read_labels(missing)[0].words
