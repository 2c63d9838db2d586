"""One served node per test."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.appliance.control.served import Served, serve, short_runtime


@pytest.fixture
def runtime() -> Iterator[Path]:
    with short_runtime() as folder:
        yield folder


@pytest.fixture
def node(runtime: Path, tmp_path: Path) -> Iterator[Served]:
    with serve(tmp_path / "home") as served:
        yield served
