"""Fixtures of the protocol tests."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from federation.coordinator.control_client import CoordinatorClient
from tests.federation.by_hand import HandSite
from tests.federation.doubles import Federation


@pytest.fixture(autouse=True)
def small_files_are_spared(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Files as small as these tests' models are written over too, as a real model's are."""
    if request.path.name != "test_spares.py":
        monkeypatch.setattr("federation.spares.SMALLEST", 1)


@pytest.fixture
def runtime(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    """A runtime folder of the test's own for control sockets, with a short path."""
    folder = tmp_path_factory.mktemp("run")
    folder.chmod(0o700)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(folder))


@pytest.fixture
def federation(tmp_path: Path, runtime: None) -> Iterator[Federation]:
    """A coordinator in this process that sites can join."""
    made = Federation(tmp_path)
    yield made
    made.close()


@pytest.fixture
def control(federation: Federation) -> Iterator[CoordinatorClient]:
    """The coordinator's control API."""
    with CoordinatorClient(federation.home) as client:
        yield client


@pytest.fixture
def hands(federation: Federation) -> Iterator[list[HandSite]]:
    """Three sites driven by the test."""
    with ExitStack() as stack:
        made = [HandSite(federation, f"site-{letter}", 3) for letter in "abc"]
        for site in made:
            stack.callback(site.close)
        yield made
