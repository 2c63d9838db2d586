"""SEG, report and pictures through an archive and back, over DIMSE and over DICOMweb."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pydicom
import pytest
from dicomweb_client import DICOMwebClient
from pydicom.dataset import Dataset

from appliance.demo.pacs import OrthancPacs
from dicom_bridge.convert import SourceSeries
from dicom_bridge.net import RemoteAE
from dicom_bridge.sc import CaptureRequest, write_captures
from dicom_bridge.sc.source import source_pixels
from dicom_bridge.seg import check_seg, read_labels, write_seg
from dicom_bridge.sr import read_report, write_report
from tests.dicom_bridge.convert import phantom
from tests.dicom_bridge.convert.phantom import Layout, cosines, series
from tests.dicom_bridge.seg.readers import consistency_errors
from tests.dicom_bridge.seg.test_write import WHEN, blobs, request
from tests.dicom_bridge.sr.test_report import SPEC, Made, asked
from tests.pacs import LOOPBACK, run_tool, running_orthanc
from tests.tools import free_port

pytestmark = pytest.mark.integration


@dataclass(frozen=True)
class Objects:
    source: SourceSeries
    images: Sequence[Path]
    seg: Path
    report: Path
    pictures: Sequence[Path]

    @property
    def paths(self) -> list[Path]:
        """Everything that belongs to the study."""
        return [*self.images, self.seg, self.report, *self.pictures]


@pytest.fixture(scope="module")
def objects(tmp_path_factory: pytest.TempPathFactory) -> Objects:
    folder = tmp_path_factory.mktemp("objects")
    layout = Layout(orientation=cosines("oblique"), rows=19, columns=23, slices=6)
    files = series(folder / "in", layout)
    source = SourceSeries.from_files(files)
    mask = (blobs(source) > 0).astype(np.uint8)
    seg = write_seg(replace(request(source, mask, folder / "seg.dcm"), segments=(SPEC,)))
    report = write_report(asked(Made(files, source, seg), folder / "sr.dcm"))
    pictures = write_captures(
        CaptureRequest(
            source=source,
            pixels=source_pixels(files)[0],
            mask=mask,
            affine=source.geometry.affine,
            segments=(SPEC,),
            out=folder / "sc",
            series_instance_uid="2.25.600",
            written_at=WHEN,
        )
    )
    return Objects(source, files, seg.path, report.path, pictures.paths)


@pytest.fixture
def archive(tmp_path: Path) -> Iterator[OrthancPacs]:
    with running_orthanc(tmp_path / "orthanc", [RemoteAE("NODE", LOOPBACK, free_port())]) as pacs:
        yield pacs


def same_as_sent(objects: Objects, back: Sequence[Dataset]) -> None:
    sent = {str(d.SOPInstanceUID): d for d in map(pydicom.dcmread, objects.paths)}
    received = {str(d.SOPInstanceUID): d for d in back}
    assert received.keys() == sent.keys()
    for uid, dataset in received.items():
        assert dataset == sent[uid], dataset.SOPClassUID


def all_is_well(objects: Objects, back: Sequence[Dataset], folder: Path) -> None:
    same_as_sent(objects, back)
    folder.mkdir()
    paths = []
    for number, dataset in enumerate(back):
        path = folder / f"{number}.dcm"
        dataset.save_as(path, enforce_file_format=True)
        paths.append(path)
        if dataset.Modality == "SEG":
            assert check_seg(objects.source, path) == []
            assert np.array_equal(
                read_labels(path, objects.source), read_labels(objects.seg, objects.source)
            )
        if dataset.Modality == "SR":
            assert read_report(path) == read_report(objects.report)
    assert consistency_errors(paths) == []


def test_over_dimse(objects: Objects, archive: OrthancPacs, tmp_path: Path) -> None:
    remote = archive.remote
    to = ("-aet", "NODE", "-aec", remote.ae_title, remote.host, str(remote.port))
    stored = run_tool("storescu", "-R", "-xe", *to, *map(str, objects.paths))
    assert stored.returncode == 0, stored.stderr
    (tmp_path / "got").mkdir()
    got = run_tool(
        *("getscu", "-S", "-od", str(tmp_path / "got"), *to),
        *("-k", "QueryRetrieveLevel=STUDY", "-k", f"StudyInstanceUID={phantom.STUDY_UID}"),
    )
    assert got.returncode == 0, got.stderr
    back = [pydicom.dcmread(path) for path in sorted((tmp_path / "got").iterdir())]
    all_is_well(objects, back, tmp_path / "back")


def test_over_dicomweb(objects: Objects, archive: OrthancPacs, tmp_path: Path) -> None:
    client = DICOMwebClient(url=f"{archive.rest_url}/dicom-web")
    client.store_instances([pydicom.dcmread(path) for path in objects.paths])
    back = client.retrieve_study(phantom.STUDY_UID)
    all_is_well(objects, back, tmp_path / "back")
    modalities = {
        found["00080060"]["Value"][0]
        for found in client.search_for_series(
            search_filters={"StudyInstanceUID": phantom.STUDY_UID}
        )
    }
    assert modalities == {"MR", "SEG", "SR", "OT"}
