"""Real series from the shared data; packed ones are unpacked once per test session."""

from __future__ import annotations

import contextlib
import os
import tarfile
import uuid
from pathlib import Path

import pytest

from tests.tools import shared_dir


def packed_series(name: str, factory: pytest.TempPathFactory) -> Path:
    """The folder of `dicom/<name>.tar.xz`, shared by the workers of a session."""
    archive = shared_dir("data", "dicom", f"{name}.tar.xz")
    base = factory.getbasetemp()
    root = (base.parent if os.environ.get("PYTEST_XDIST_WORKER") else base) / "unpacked"
    folder = root / name
    if not folder.is_dir():
        part = root / f".{name}.{uuid.uuid4().hex}"
        with tarfile.open(archive) as packed:
            packed.extractall(part, filter="data")
        with contextlib.suppress(OSError):  # another worker was faster
            (part / name).rename(folder)
    return folder


def files_of(folder: Path) -> list[Path]:
    """All files under a folder."""
    return sorted(path for path in folder.rglob("*") if path.is_file())
