"""Reading back from the PACS: a fresh C-FIND, a C-MOVE to the demonstration, and the checks."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from pydicom import dcmread

from appliance.demo.hospital import DEMO_AE, Hospital
from appliance.errors import ApplianceError
from dicom_bridge.convert import SourceSeries
from dicom_bridge.net import (
    InstanceRef,
    PacsClient,
    Receiver,
    ReceiverSettings,
    RetrievePolicy,
    retrieve_study,
)
from dicom_bridge.seg import check_seg, is_own_result, referenced_series


class ReadBackFailed(ApplianceError):
    """The PACS did not give back what it lists."""


@dataclass(slots=True)
class ReadBackInbox:
    """Takes everything that the asked PACS sends, into one folder per study."""

    folder: Path
    received: dict[str, set[str]] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def wanted(self, study_uid: str, sop_uid: str) -> bool:
        """Everything: only the demonstration's own C-MOVE sends here."""
        del study_uid, sop_uid
        return True

    def path_for(self, study_uid: str, series_uid: str, sop_uid: str) -> Path:
        """``STUDY/SERIES/SOP.dcm`` below the folder."""
        folder = self.folder / study_uid / series_uid
        folder.mkdir(parents=True, exist_ok=True)
        return folder / f"{sop_uid}.dcm"

    def recorded(self, study_uid: str, sop_uid: str, sha256: str) -> None:
        """Note the arrival."""
        del sha256
        with self._lock:
            self.received.setdefault(study_uid, set()).add(sop_uid)

    def conflicting(self, study_uid: str, sop_uid: str) -> None:
        """Other content under a known UID."""
        del study_uid, sop_uid
        raise ReadBackFailed("the PACS sent two different objects under one UID")

    def uids(self, study_uid: str) -> set[str]:
        """What has arrived of a study."""
        with self._lock:
            return set(self.received.get(study_uid, ()))


@dataclass(frozen=True, slots=True)
class FoundSeg:
    """One of clinode's segmentation objects as the PACS gave it back.

    Attributes:
        path: the file.
        flair: the files of the series that it references.
        problems: what is wrong with it, empty when nothing is.
    """

    path: Path
    flair: tuple[Path, ...]
    problems: tuple[str, ...]


class ReadBack:
    """The demonstration's eye on one hospital's PACS; a context manager."""

    def __init__(self, hospital: Hospital, folder: Path) -> None:
        """Listen for what the PACS sends.

        Args:
            hospital: whose PACS.
            folder: where objects are put.
        """
        self._hospital = hospital
        self._inbox = ReadBackInbox(folder)
        settings = ReceiverSettings(
            DEMO_AE, "127.0.0.1", hospital.ports.read_back, frozenset({hospital.pacs_ae})
        )
        self._receiver = Receiver(settings, self._inbox)
        self._client: PacsClient = hospital.pacs_client()

    def __enter__(self) -> ReadBack:
        self._receiver.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._receiver.stop()

    def instances(self, study_uid: str) -> list[InstanceRef]:
        """What the PACS lists of a study, by a fresh C-FIND."""
        return self._client.find_instances(study_uid)

    def fetch(self, study_uid: str, wanted: Sequence[InstanceRef]) -> dict[str, list[Path]]:
        """Fetch instances; files by series.

        Raises:
            ReadBackFailed: something that the PACS lists did not come.
        """
        report = retrieve_study(
            self._client,
            lambda: self._inbox.uids(study_uid),
            study_uid,
            DEMO_AE,
            expected=wanted,
            policy=RetrievePolicy(rounds=3, settle_s=1.0),
        )
        if not report.complete:
            raise ReadBackFailed(f"{self._hospital.name}: {report.words}")
        files: dict[str, list[Path]] = {}
        for ref in wanted:
            path = self._inbox.path_for(study_uid, ref.SeriesInstanceUID, ref.SOPInstanceUID)
            files.setdefault(ref.SeriesInstanceUID, []).append(path)
        return files

    def segmentations(self, study_uid: str) -> list[FoundSeg]:
        """Clinode's segmentation objects of a study, fetched and checked."""
        listed = self.instances(study_uid)
        segs = [ref for ref in listed if ref.Modality == "SEG"]
        found = []
        for path in (p for files in self.fetch(study_uid, segs).values() for p in files):
            if not is_own_result(dcmread(path, stop_before_pixels=True)):
                continue
            series = referenced_series(path)
            sources = [ref for ref in listed if ref.SeriesInstanceUID == series]
            files = self.fetch(study_uid, sources).get(series, [])
            if not files:
                found.append(FoundSeg(path, (), ("its source series is not in the PACS",)))
                continue
            problems = check_seg(SourceSeries.from_files(files), path)
            found.append(FoundSeg(path, tuple(files), tuple(problems)))
        return found
