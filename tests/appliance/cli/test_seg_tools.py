"""``clinode tools seg-write``, ``seg-read`` and ``seg-check`` on a small series."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import nibabel
import numpy as np
import pydicom
import pytest
from numpy.typing import NDArray

from appliance.cli.app import run_command
from dicom_bridge.convert import SourceSeries
from dicom_bridge.seg import read_labels
from tests.appliance.cli.conftest import Said
from tests.dicom_bridge.convert.phantom import Layout, cosines, series

Tool = Callable[..., Said]


@dataclass(frozen=True)
class Small:
    """A small sagittal series whose mask spans few slices."""

    folder: Path
    source: SourceSeries
    mask: NDArray[np.uint8]
    file: Path


@pytest.fixture
def tool(capsys: pytest.CaptureFixture[str]) -> Tool:
    def command(*arguments: object) -> Said:
        capsys.readouterr()
        code = run_command(["tools", *map(str, arguments)])
        said = capsys.readouterr()
        return Said(code, said.out, said.err)

    return command


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Small:
    root = tmp_path_factory.mktemp("small")
    layout = Layout(orientation=cosines("sagittal"), rows=19, columns=23, slices=9)
    source = SourceSeries.from_files(series(root / "in", layout))
    mask = np.zeros(source.geometry.shape, np.uint8)
    mask[4:8, 5:9, 3:5] = 1
    mask[14:16, 5:9, 5] = 1
    mask[10, 10, 4] = 2
    file = root / "mask.nii.gz"
    save(file, mask, source)
    return Small(root / "in", source, mask, file)


def save(path: Path, mask: NDArray[np.uint8], source: SourceSeries) -> None:
    nibabel.save(nibabel.Nifti1Image(mask, source.geometry.affine), path)  # type: ignore[no-untyped-call]


def test_a_seg_of_few_slices_there_and_back(small: Small, tool: Tool, tmp_path: Path) -> None:
    first, second = tmp_path / "a.dcm", tmp_path / "b.dcm"
    assert tool("seg-write", small.folder, small.file, first, "--codes", "glioma-regions").code == 0
    read = tool("seg-read", first, tmp_path / "r")
    assert read.out.splitlines() == [str(tmp_path / "r" / f"{n}.nii.gz") for n in (1, 2)]
    assert nibabel.load(tmp_path / "r" / "labels.nii.gz").shape[2] == 3  # type: ignore[attr-defined]

    again = tool(
        *("seg-write", small.folder, tmp_path / "r" / "labels.nii.gz", second),
        *("--labels", tmp_path / "r" / "labels.toml"),
    )

    assert (again.code, again.err) == (0, "")
    assert np.array_equal(read_labels(second, small.source), small.mask)
    one, two = pydicom.dcmread(first), pydicom.dcmread(second)
    for before, after in zip(one.SegmentSequence, two.SegmentSequence, strict=True):
        assert before == after
    assert tool("seg-check", small.folder, second).code == 0
    alone = tool("seg-write", small.folder, tmp_path / "r" / "2.nii.gz", tmp_path / "c.dcm")
    assert alone.out == "1 frames, segment 1: 1 voxels\n"


def test_seg_read_onto_the_whole_series(small: Small, tool: Tool, tmp_path: Path) -> None:
    tool("seg-write", small.folder, small.file, tmp_path / "a.dcm")
    read = tool("seg-read", tmp_path / "a.dcm", tmp_path / "r", "--series", small.folder)
    assert read.code == 0
    labels = np.asarray(nibabel.load(tmp_path / "r" / "labels.nii.gz").dataobj)  # type: ignore[attr-defined]
    assert np.array_equal(labels, small.mask)


def test_report_pictures_and_one_segment_per_lesion(
    small: Small, tool: Tool, tmp_path: Path
) -> None:
    said = tool(
        *("seg-write", small.folder, small.file, tmp_path / "a.dcm", "--each"),
        *("--report", tmp_path / "r.dcm", "--captures", tmp_path / "sc"),
    )
    assert said.code == 0, said.err
    frames, report, pictures = said.out.splitlines()
    assert frames.endswith("segment 1: 32 voxels, segment 2: 8 voxels, segment 3: 1 voxels")
    voxel_ml = float(np.prod(small.source.geometry.spacing)) / 1000
    assert report == f"report: 3 lesions, {41 * voxel_ml:.3f} ml"
    assert pictures == "3 pictures"
    assert pydicom.dcmread(tmp_path / "r.dcm").Modality == "SR"
    assert len(list((tmp_path / "sc").iterdir())) == 3


def test_nothing_in_the_mask(small: Small, tool: Tool, tmp_path: Path) -> None:
    empty = tmp_path / "empty.nii.gz"
    save(empty, np.zeros_like(small.mask), small.source)
    said = tool("seg-write", small.folder, empty, tmp_path / "a.dcm")
    assert (said.code, "no finding" in said.sentence) == (1, True)
    said = tool(
        *("seg-write", small.folder, empty, tmp_path / "a.dcm", "--report", tmp_path / "r.dcm"),
        *("--codes", "ms-lesions"),
    )
    assert said.code == 0
    assert said.out.startswith("nothing is in the mask")
    assert not (tmp_path / "a.dcm").exists()
    assert "did not find MS lesion" in pydicom.dcmread(tmp_path / "r.dcm").to_json()


def test_label_map_and_wrong_labels(small: Small, tool: Tool, tmp_path: Path) -> None:
    said = tool("seg-write", small.folder, small.file, tmp_path / "m.dcm", "--labelmap")
    assert said.code == 0
    checked = tool("seg-check", small.folder, tmp_path / "m.dcm")
    assert checked.code == 1
    assert "LABELMAP" in checked.out
    labels = tmp_path / "own.toml"
    labels.write_text('[[label]]\nvalue = 1\nname = "A"\ntype = "99S::empty"\n', encoding="utf-8")
    wrong = tool("seg-write", small.folder, small.file, tmp_path / "w.dcm", "--labels", labels)
    assert wrong.code == 1
    assert "label 1, type" in wrong.sentence
    both = tool(
        *("seg-write", small.folder, small.file, tmp_path / "w.dcm", "--labels", labels),
        *("--codes", "ms-lesions"),
    )
    assert "not both" in both.sentence
    assert not (tmp_path / "w.dcm").exists()


def test_a_persons_mask_is_told_from_a_result(small: Small, tool: Tool, tmp_path: Path) -> None:
    from dicom_bridge.seg import is_own_result

    tool(
        *("seg-write", small.folder, small.file, tmp_path / "p.dcm"),
        *("--made", "manual", "--creator", "Reader^One"),
    )
    person = pydicom.dcmread(tmp_path / "p.dcm")
    assert person.ContentCreatorName == "Reader^One"
    assert person.SegmentSequence[0].SegmentAlgorithmType == "MANUAL"
    assert not is_own_result(person)
    tool("seg-write", small.folder, small.file, tmp_path / "o.dcm")
    assert is_own_result(pydicom.dcmread(tmp_path / "o.dcm"))
