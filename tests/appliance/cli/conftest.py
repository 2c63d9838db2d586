"""One served node per test, and the logging of the test process as it was before."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import structlog

from appliance.cli.app import run_command
from tests.appliance.control.served import Served, serve, short_runtime


@dataclass(frozen=True)
class Said:
    """What a command line did."""

    code: int
    out: str
    err: str

    @property
    def sentence(self) -> str:
        """The one line on standard error."""
        lines = self.err.splitlines()
        assert len(lines) == 1, self.err
        assert lines[0].startswith("clinode: ")
        return lines[0]


Run = Callable[..., Said]


@pytest.fixture(autouse=True)
def logging_as_before() -> Iterator[None]:
    quiet = [logging.getLogger(name) for name in ("pynetdicom", "pydicom")]
    disabled = [logger.disabled for logger in quiet]
    handlers = list(logging.getLogger().handlers)
    yield
    structlog.reset_defaults()
    logging.getLogger().handlers[:] = handlers
    for logger, before in zip(quiet, disabled, strict=True):
        logger.disabled = before


@pytest.fixture
def runtime() -> Iterator[Path]:
    with short_runtime() as folder:
        yield folder


@pytest.fixture
def node(runtime: Path, tmp_path: Path) -> Iterator[Served]:
    with serve(tmp_path / "home") as served:
        yield served


@pytest.fixture
def run(runtime: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs one command line on the node's home."""

    def command(*arguments: object) -> Said:
        capsys.readouterr()
        code = run_command(["--home", str(tmp_path / "home"), *map(str, arguments)])
        said = capsys.readouterr()
        return Said(code, said.out, said.err)

    return command
