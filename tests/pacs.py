"""Real DICOM peers for tests: Orthanc, the embedded PACS, DCMTK's tools, and files to move.

Everything here is a context manager or a plain function, so that any test can use it; fixtures that
share one server per test session are in ``tests/dicom_bridge/net/conftest.py``.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import UID, ExplicitVRLittleEndian, MRImageStorage, generate_uid

from appliance.demo.namespace import free_ports
from appliance.demo.pacs import EmbeddedPacs, OrthancPacs, find_orthanc
from appliance.demo.processes import Process, start
from dicom_bridge.net import Receiver, ReceiverSettings, RemoteAE, RetryPolicy, Timeouts
from tests.tools import free_port, in_ci
from tests.waiting import wait_for

LOOPBACK = "127.0.0.1"
QUICK = Timeouts(connect_s=5, association_s=10, response_s=20, move_idle_s=20, move_total_s=120)
ONCE = RetryPolicy(attempts=1)


def _absent(message: str) -> None:
    if in_ci():
        pytest.fail(message)
    pytest.skip(message)


def dcmtk(name: str) -> Path:
    """One of DCMTK's tools; never a namesake that a Python package put beside the interpreter."""
    ours = Path(sys.executable).parent
    folders = [p for p in os.environ.get("PATH", "").split(os.pathsep) if p and Path(p) != ours]
    found = shutil.which(name, path=os.pathsep.join([*folders, "/usr/bin"]))
    if found is None:
        _absent(f"DCMTK's {name} is not installed: run `make setup` as root or with sudo")
        raise AssertionError("unreachable")
    return Path(found)


@contextmanager
def running_orthanc(
    folder: Path,
    peers: Sequence[RemoteAE],
    *,
    ae_title: str = "ORTHANC",
    extra: Mapping[str, object] | None = None,
) -> Iterator[OrthancPacs]:
    """An Orthanc that lets ``peers`` in and knows where they listen."""
    if find_orthanc() is None:
        _absent("Orthanc is not installed: run `make setup` as root or with sudo")
    dicom_port, http_port = free_ports(2)
    pacs = OrthancPacs()
    try:
        pacs.start(folder, ae_title, dicom_port, http_port, peers, extra)
        yield pacs
    finally:
        pacs.stop()


@contextmanager
def running_embedded(
    folder: Path, peers: Sequence[RemoteAE], *, ae_title: str = "EMBEDDED"
) -> Iterator[EmbeddedPacs]:
    """pynetdicom's qrscp application."""
    pacs = EmbeddedPacs()
    try:
        pacs.start(folder, ae_title, free_port(), 0, peers)
        yield pacs
    finally:
        pacs.stop()


@contextmanager
def running_storescp(
    folder: Path, *, ae_title: str = "STORESCP", port: int = 0, options: Sequence[str] = ()
) -> Iterator[RemoteAE]:
    """DCMTK's storescp, which writes what it gets below ``folder``."""
    port = port or free_port()
    folder.mkdir(parents=True, exist_ok=True)
    command = [str(dcmtk("storescp")), "-aet", ae_title, "-od", str(folder), *options, str(port)]
    process: Process = start("storescp", command, folder.parent / f"{folder.name}.log")
    remote = RemoteAE(ae_title, LOOPBACK, port)
    try:
        wait_for(lambda: _listens(port), what="storescp to listen")
        yield remote
    finally:
        process.stop()


def _listens(port: int) -> bool:
    try:
        with socket.create_connection((LOOPBACK, port), timeout=1.0):
            return True
    except OSError:
        return False


def run_tool(
    name: str, *arguments: str, timeout_s: float = 60.0
) -> subprocess.CompletedProcess[str]:
    """Run one of DCMTK's tools to its end; the caller looks at the exit status."""
    return subprocess.run(
        [str(dcmtk(name)), *arguments],
        capture_output=True,
        text=True,
        timeout=timeout_s,
        check=False,
    )


@dataclass
class FolderInbox:
    """An inbox that keeps its records in memory and its files in one folder.

    Attributes:
        study_uids: what may come; None lets everything in.
    """

    folder: Path
    study_uids: set[str] | None = None
    received: dict[str, str] = field(default_factory=dict)
    conflicts: list[str] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)

    def wanted(self, study_uid: str, sop_uid: str) -> bool:
        self.asked.append(sop_uid)
        return self.study_uids is None or study_uid in self.study_uids

    def path_for(self, study_uid: str, series_uid: str, sop_uid: str) -> Path:
        return self.folder / study_uid / series_uid / f"{sop_uid}.dcm"

    def recorded(self, study_uid: str, sop_uid: str, sha256: str) -> None:
        self.received[sop_uid] = sha256

    def conflicting(self, study_uid: str, sop_uid: str) -> None:
        self.conflicts.append(sop_uid)

    def uids(self) -> set[str]:
        """SOP Instance UIDs received so far."""
        return set(self.received)

    def files(self) -> list[Path]:
        """Every file in the inbox, finished or not."""
        return sorted(path for path in self.folder.rglob("*") if path.is_file())


@contextmanager
def running_receiver(
    inbox: FolderInbox, *, ae_title: str = "NODE", port: int = 0, **settings: object
) -> Iterator[tuple[Receiver, RemoteAE]]:
    """Our Storage SCP, on a free port unless one is given."""
    chosen: dict[str, object] = {
        "allowed_ae": frozenset({"ORTHANC", "EMBEDDED", "STORESCU"}),
        "spool": inbox.folder.parent / "spool",
        "reserve_bytes": 0,
        **settings,
    }
    receiver = Receiver(ReceiverSettings(ae_title, LOOPBACK, port, **chosen), inbox)  # type: ignore[arg-type]
    bound = receiver.start()
    try:
        yield receiver, RemoteAE(ae_title, LOOPBACK, bound)
    finally:
        receiver.stop()


@dataclass(frozen=True)
class SmallStudy:
    """A study of MR slices with random pixels, written to disk."""

    study_uid: str
    series: dict[str, list[Path]]
    patient_id: str

    @property
    def paths(self) -> list[Path]:
        """All files, series by series."""
        return [path for paths in self.series.values() for path in paths]


@dataclass(frozen=True)
class StudyForm:
    """What a small study looks like."""

    series: int = 1
    slices: int = 3
    side: int = 16
    patient_id: str = "PAT-1"
    study_date: str = "20240102"
    description: str = "BRAIN MS"
    modality: str = "MR"
    seed: int = 0
    syntax: UID = ExplicitVRLittleEndian


def write_small_study(folder: Path, form: StudyForm | None = None) -> SmallStudy:
    """Write a study of fresh UIDs; pixels follow ``form.seed``."""
    form = form or StudyForm()
    random = np.random.default_rng(form.seed)
    study_uid = generate_uid()
    series: dict[str, list[Path]] = {}
    for number in range(form.series):
        series_uid = generate_uid()
        paths = []
        for slice_number in range(form.slices):
            ds = _slice(form, random, slice_number)
            ds.StudyInstanceUID, ds.SeriesInstanceUID = study_uid, series_uid
            ds.SeriesNumber = number + 1
            path = folder / f"{study_uid}-{number}-{slice_number}.dcm"
            path.parent.mkdir(parents=True, exist_ok=True)
            ds.save_as(path, enforce_file_format=True)
            paths.append(path)
        series[series_uid] = paths
    return SmallStudy(study_uid, series, form.patient_id)


def _slice(form: StudyForm, random: np.random.Generator, number: int) -> Dataset:
    ds = Dataset()
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = form.syntax
    ds.SOPClassUID = ds.file_meta.MediaStorageSOPClassUID = MRImageStorage
    ds.SOPInstanceUID = ds.file_meta.MediaStorageSOPInstanceUID = generate_uid()
    ds.PatientID, ds.PatientName = form.patient_id, "Doe^Jane"
    ds.PatientBirthDate, ds.PatientSex = "19700101", "F"
    ds.StudyDate, ds.StudyTime, ds.StudyID = form.study_date, "101500", "1"
    ds.AccessionNumber, ds.StudyDescription = f"ACC{form.seed}", form.description
    ds.Modality, ds.InstanceNumber = form.modality, number + 1
    ds.Rows = ds.Columns = form.side
    ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 16, 12, 11, 0
    ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, "MONOCHROME2"
    pixels = random.integers(0, 4096, (form.side, form.side), dtype=np.uint16)
    ds.PixelData = pixels.tobytes()
    return ds
