"""What may come: one file per open retrieval, written by the node, read by receiver processes.

The file holds original UIDs, so it lies in the identified zone with mode 0600 and is removed with
the job. It also says where each instance goes: receivers know no secret and compute no name.
"""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import structlog

from dicom_bridge.net.scp.journal import sync_folder

FORMAT = 1
_SUFFIX = ".job"
# A folder's time stamp moves in ticks: within one a second change would not show.
_TICK_NS = 50_000_000
_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True, repr=False)
class Target:
    """Where a wanted instance goes.

    Attributes:
        study_uid: the study that it must belong to.
        study_key: the study's name in the node's state.
        instance_key: the instance's name in the node's state.
        path: the final file, below the root that the receiver was given.
    """

    study_uid: str
    study_key: str
    instance_key: str
    path: str


def write_job(
    folder: Path, study_key: str, study_uid: str, places: Mapping[str, tuple[str, str]]
) -> None:
    """Open a job, or replace it; receivers see it at once.

    Args:
        folder: the folder of jobs.
        study_key: the study's name in the node's state.
        study_uid: Study Instance UID.
        places: by SOP Instance UID, the instance's name in the state and its final path below the
            receivers' root.
    """
    content = {
        "format": FORMAT,
        "study_key": study_key,
        "study_uid": study_uid,
        "instances": {uid: list(place) for uid, place in places.items()},
    }
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    part = folder / f"{study_key}.part"
    descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as stream:
        json.dump(content, stream)
        stream.flush()
        os.fsync(stream.fileno())
    part.replace(folder / f"{study_key}{_SUFFIX}")
    sync_folder(folder)


def remove_job(folder: Path, study_key: str) -> None:
    """Close a job; an absent one is fine."""
    (folder / f"{study_key}{_SUFFIX}").unlink(missing_ok=True)


def clear_jobs(folder: Path) -> None:
    """Close every job: those of a node that has died."""
    if folder.exists():
        for path in [*folder.glob(f"*{_SUFFIX}"), *folder.glob("*.part")]:
            path.unlink(missing_ok=True)


class JobBook:
    """The reading side: looks into the folder again whenever it has changed.

    Args:
        folder: the folder of jobs.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._lock = threading.Lock()
        self._seen = (-1, 0)
        self._files: dict[str, tuple[int, int]] = {}
        self._jobs: dict[str, dict[str, Target]] = {}

    def find(self, sop_uid: str) -> Target | None:
        """Where this instance goes; None where no open job asked for it."""
        with self._lock:
            self._refresh()
            for targets in self._jobs.values():
                target = targets.get(sop_uid)
                if target is not None:
                    return target
        return None

    def _refresh(self) -> None:
        try:
            changed = os.stat(self._folder).st_mtime_ns
        except FileNotFoundError:
            self._files, self._jobs = {}, {}
            return
        if self._seen[0] == changed and self._seen[1] - changed > _TICK_NS:
            return
        self._seen = (changed, time.time_ns())
        present: dict[str, tuple[int, int]] = {}
        with os.scandir(self._folder) as listing:
            for item in listing:
                if item.name.endswith(_SUFFIX):
                    try:
                        status = item.stat()
                    except FileNotFoundError:
                        continue
                    present[item.name] = (status.st_ino, status.st_mtime_ns)
        for name in self._files.keys() - present.keys():
            self._jobs.pop(name, None)
        for name, mark in present.items():
            if self._files.get(name) != mark:
                self._jobs[name] = _read_job(self._folder / name)
        self._files = present


def _read_job(path: Path) -> dict[str, Target]:
    try:
        content = json.loads(path.read_bytes())
        study_uid, study_key = str(content["study_uid"]), str(content["study_key"])
        return {
            str(uid): Target(study_uid, study_key, str(key), _inside(str(place)))
            for uid, (key, place) in content["instances"].items()
        }
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        _log.error("job_unreadable", cause=type(error).__name__)
        return {}


def _inside(place: str) -> str:
    parts = PurePosixPath(place).parts
    if not parts or place.startswith("/") or ".." in parts:
        raise ValueError("a job names a place outside the receivers' root")
    return place
