from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from dicom_bridge.classify import SeriesKind, scan_study, select_inputs
from dicom_bridge.convert import SourceSeries
from dicom_bridge.errors import DataRefused
from dicom_bridge.seg import SegmentSpec, SegRequest, write_seg
from tests.dicom_bridge.convert import phantom
from tests.dicom_bridge.convert.phantom import Layout
from tests.tools import shared_dir

K = SeriesKind
T1 = {
    "SeriesDescription": "t1_mprage",
    "ScanningSequence": ["GR", "IR"],
    "EchoTime": 3,
    "RepetitionTime": 2300,
    "InversionTime": 900,
    "FlipAngle": 9,
}


def put(folder: Path, number: int, layout: Layout | None = None, **changes: object) -> list[Path]:
    """A series with UIDs of its own."""
    uid = f"1.2.826.0.1.77.{number}"
    layout = layout or Layout(rows=12, columns=10, slices=6)
    files = []
    for index in range(layout.slices):
        dataset = phantom.instance(
            layout,
            index,
            **{
                "SeriesInstanceUID": uid,
                "SeriesNumber": number,
                "SOPInstanceUID": f"{uid}.{index}",
                **changes,
            },
        )
        files.append(phantom.save(dataset, folder / f"{number}" / f"{index}.dcm"))
    return files


def test_scan_and_choose(tmp_path: Path) -> None:
    put(tmp_path, 3)
    put(tmp_path, 4, **T1)
    put(tmp_path, 5, ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"])
    (tmp_path / "readme.txt").write_text("no DICOM")
    scan = scan_study(tmp_path)
    assert [(s.SeriesNumber, s.kind) for s in scan.series] == [
        (3, K.FLAIR),
        (4, K.T1W),
        (5, K.LOCALISER),
    ]
    assert [path.name for path in scan.unreadable] == ["readme.txt"]
    assert scan.studies == 1
    chosen = select_inputs(scan, [K.FLAIR, K.T1W, K.T2W])
    assert {kind: s.SeriesNumber for kind, s in chosen.items()} == {K.FLAIR: 3, K.T1W: 4}
    assert chosen[K.FLAIR].instances == chosen[K.FLAIR].slices == 6
    assert "1.2.826" not in repr(scan)
    assert str(tmp_path) not in repr(scan)


def test_3d_goes_before_2d_and_axial_before_sagittal(tmp_path: Path) -> None:
    sagittal = Layout(rows=12, columns=10, slices=9, orientation=phantom.cosines("sagittal"))
    put(tmp_path, 3, MRAcquisitionType="2D")
    put(tmp_path, 4, sagittal, MRAcquisitionType="2D")
    assert select_inputs(scan_study(tmp_path), [K.FLAIR])[K.FLAIR].SeriesNumber == 3
    put(tmp_path, 6, sagittal, MRAcquisitionType="3D")
    assert select_inputs(scan_study(tmp_path), [K.FLAIR])[K.FLAIR].SeriesNumber == 6


def test_doubt_is_said(tmp_path: Path) -> None:
    put(tmp_path, 3, SeriesDescription="T1 axial")
    with pytest.raises(DataRefused, match="contradict"):
        select_inputs(scan_study(tmp_path), [K.FLAIR])


def test_wrong_body_part_nothing_wanted_and_two_studies(tmp_path: Path) -> None:
    put(tmp_path / "knee", 3, BodyPartExamined="KNEE")
    with pytest.raises(DataRefused, match="wrong body part: knee"):
        select_inputs(scan_study(tmp_path / "knee"), [K.FLAIR, K.T1W])
    put(tmp_path / "t1", 3, **T1)
    with pytest.raises(DataRefused, match="no series of the wanted kinds"):
        select_inputs(scan_study(tmp_path / "t1"), [K.FLAIR])
    put(tmp_path / "two", 3)
    put(tmp_path / "two", 4, StudyInstanceUID="1.2.3", **T1)
    with pytest.raises(DataRefused, match="2 studies"):
        select_inputs(scan_study(tmp_path / "two"), [K.FLAIR])


def test_own_results_are_known_and_experts_are_not_taken_for_them(tmp_path: Path) -> None:
    source = SourceSeries.from_files(put(tmp_path, 3))
    mask = np.zeros(source.geometry.shape, np.uint8)
    mask[2:4, 2:5, 2] = 1
    spec = SegmentSpec(1, "Lesion", algorithm_name="plan", algorithm_version="1")
    ours = SegRequest(
        source=source,
        mask=mask,
        affine=source.geometry.affine,
        segments=(spec,),
        out=tmp_path / "own.dcm",
        sop_instance_uid="2.25.11",
        series_instance_uid="2.25.12",
    )
    write_seg(ours)
    write_seg(
        replace(
            ours,
            out=tmp_path / "expert.dcm",
            sop_instance_uid="2.25.21",
            series_instance_uid="2.25.22",
            series_number=900,
            manufacturer="Reading Room",
            segments=(replace(spec, algorithm_type="MANUAL"),),
        )
    )
    segs = [s for s in scan_study(tmp_path).series if s.kind is K.SEG]
    assert [(s.SeriesNumber, s.own_result) for s in segs] == [(900, False), (1003, True)]


def test_objects_without_image_in_an_image_series_stand_apart(tmp_path: Path) -> None:
    files = put(tmp_path, 3)
    raw = phantom.instance(
        Layout(),
        0,
        SOPClassUID="1.2.840.10008.5.1.4.1.1.66",
        SOPInstanceUID="1.2.3.4",
        SeriesInstanceUID="1.2.826.0.1.77.3",
        SeriesNumber=3,
        PixelData=None,
    )
    phantom.save(raw, tmp_path / "raw.dcm")
    scan = scan_study(tmp_path)
    assert [(s.kind, s.instances) for s in scan.series] == [(K.FLAIR, len(files)), (K.OTHER, 1)]


def test_the_real_enhanced_study() -> None:
    scan = scan_study(shared_dir("data", "dicom", "nema_enhanced_brain", "tumour_study"))
    chosen = select_inputs(scan, [K.FLAIR, K.T1W, K.T1W_CE, K.T2W])
    assert {kind: s.SeriesNumber for kind, s in chosen.items()} == {
        K.FLAIR: 3,
        K.T1W: 5,
        K.T1W_CE: 8,
        K.T2W: 4,
    }
