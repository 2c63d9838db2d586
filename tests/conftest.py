"""What holds for every test."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import structlog


@pytest.fixture(autouse=True)
def log_as_at_the_start() -> Iterator[None]:
    """A test that sets the process's log leaves it as it was: its stream is closed afterwards."""
    before = structlog.get_config()
    yield
    structlog.configure(**before)
