"""Receiver processes for tests: a folder, jobs, and what the journals say."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from pydicom import dcmread

from dicom_bridge.net import ReceiverSettings, RemoteAE
from dicom_bridge.net.scp.jobs import remove_job, write_job
from dicom_bridge.net.scp.journal import Entry, JournalReader
from dicom_bridge.net.scp.process import Layout
from dicom_bridge.net.scp.supervisor import ReceiverProcesses, Sizes
from tests.pacs import LOOPBACK
from tests.waiting import wait_for


@dataclass
class Zone:
    """An identified zone with receivers in it."""

    root: Path
    entries: list[Entry] = field(default_factory=list)
    readers: dict[int, JournalReader] = field(default_factory=dict)

    @property
    def layout(self) -> Layout:
        return Layout(self.root, self.root / "receiving")

    def expect(self, paths: Iterable[Path]) -> None:
        """Open a job for every study of these files."""
        studies: dict[str, dict[str, tuple[str, str]]] = {}
        for path in paths:
            ds = dcmread(path, stop_before_pixels=True)
            study, uid = str(ds.StudyInstanceUID), str(ds.SOPInstanceUID)
            studies.setdefault(study, {})[uid] = (
                key(uid),
                f"studies/{key(study)}/a/{key(uid)}.dcm",
            )
        for study, places in studies.items():
            (self.root / "studies" / key(study)).mkdir(parents=True, exist_ok=True)
            write_job(self.layout.jobs, key(study), study, places)

    def close_job(self, study_uid: str) -> None:
        remove_job(self.layout.jobs, key(study_uid))

    def files(self) -> list[Path]:
        """Everything in the studies, finished or not."""
        return sorted(p for p in (self.root / "studies").rglob("*") if p.is_file())

    def file(self, sop_uid: str) -> Path:
        """An instance's final file."""
        [found] = (self.root / "studies").rglob(f"{key(sop_uid)}.dcm")
        return found

    def read(self) -> list[Entry]:
        """All journal entries so far."""
        for path in self.layout.folder.glob("journal-*.jsonl"):
            number = int(path.stem.split("-")[1])
            reader = self.readers.setdefault(number, JournalReader(path))
            self.entries += reader.read()
        return [entry for entry in self.entries if entry.kind != "mark"]

    def stored(self) -> set[str]:
        """Instance keys that a journal says are stored."""
        return {str(e.values["instance"]) for e in self.read() if e.kind == "stored"}

    def wait_stored(self, count: int, seconds: float = 30.0) -> set[str]:
        """Wait until so many instances are stored."""
        return wait_for(
            lambda: ((found := self.stored()) and len(found) >= count and found) or None,
            what=f"{count} instances in the journals",
            seconds=seconds,
        )


def key(uid: str) -> str:
    """A name for a UID, as keyed hashes are in the node."""
    return hashlib.sha256(uid.encode()).hexdigest()[:32]


@contextmanager
def running_processes(
    zone: Zone, *, processes: int = 1, sizes: Sizes | None = None, port: int = 0, **settings: object
) -> Iterator[tuple[ReceiverProcesses, RemoteAE]]:
    """Receiver processes over a zone."""
    chosen: dict[str, object] = {
        "allowed_ae": frozenset({"ORTHANC", "EMBEDDED", "STORESCU"}),
        "reserve_bytes": 0,
        **settings,
    }
    receiver = ReceiverProcesses(
        ReceiverSettings("NODE", LOOPBACK, port, **chosen),  # type: ignore[arg-type]
        zone.layout,
        processes=processes,
        sizes=sizes or Sizes(log_segments=2, segment_bytes=4 << 20),
    )
    bound = receiver.start()
    try:
        yield receiver, RemoteAE("NODE", LOOPBACK, bound)
    finally:
        receiver.stop()
