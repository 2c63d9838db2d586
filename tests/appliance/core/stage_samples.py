"""Trivial stages for tests of runner and pool: module level, so that workers can import them."""

from __future__ import annotations

import os
import signal
from pathlib import Path

from appliance.errors import ImageRefused
from appliance.pipeline.work import StageResult, StageWork
from dicom_bridge.errors import DataRefused

MARK = "done.txt"


def write_mark(work: StageWork) -> StageResult:
    """Write a file that names the stage; facts count how often it ran."""
    (work.out / MARK).write_text(work.stage.value, encoding="utf-8")
    return StageResult(facts={work.stage.value: True}, detail="done")


def refuse(work: StageWork) -> StageResult:
    """The data cannot be used."""
    raise DataRefused("a slice is missing: ask the PACS")


def refuse_image(work: StageWork) -> StageResult:
    """As above, from the imaging side."""
    raise ImageRefused("no brain in it")


def refuse_with_files(work: StageWork) -> StageResult:
    """Refused, but the report stays for a person."""
    (work.out / MARK).write_text("report", encoding="utf-8")
    return StageResult(refused="quality: motion")


def fail_with_identifier(work: StageWork) -> StageResult:
    """A foreign error whose text holds a name."""
    raise ValueError("cannot parse DOE^JANE 1.2.840.99")


def fail_twice(work: StageWork) -> StageResult:
    """Fails at the first two attempts, which it counts in a file of the study."""
    counter = work.study_dir / "attempts"
    attempts = int(counter.read_text()) if counter.exists() else 0
    counter.write_text(str(attempts + 1))
    if attempts < 2:
        raise OSError("disk")
    return write_mark(work)


def die(work: StageWork) -> StageResult:
    """The worker is killed in the middle, the first time."""
    flag = work.study_dir / "died"
    if not flag.exists():
        flag.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return write_mark(work)


def environment(name: str) -> str:
    """A variable of the worker's environment."""
    return os.environ[name]


def touch_and_hang(path: Path) -> None:
    """Say where this worker is, then block until it is killed."""
    path.write_text(str(os.getpid()), encoding="utf-8")
    signal.pause()


def too_much_memory() -> None:
    """As if memory had run out."""
    raise MemoryError
