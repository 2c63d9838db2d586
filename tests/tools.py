"""Finding the real programs and the shared data that tests use."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

import pytest

from appliance.demo.namespace import free_ports

REPOSITORY = Path(__file__).resolve().parent.parent


def in_ci() -> bool:
    """Whether a missing tool is a failure."""
    return os.environ.get("CI", "").lower() == "true"


def require_tool(name: str) -> Path:
    """The program's path, from the virtual environment first, then from PATH.

    A missing program skips the test, and fails it where ``CI=true``.
    """
    beside = Path(sys.executable).parent / name
    found = str(beside) if beside.exists() else shutil.which(name)
    if found is None:
        message = f"{name} is not installed: run `make setup` as root or with sudo"
        if in_ci():
            pytest.fail(message)
        pytest.skip(message)
    return Path(found)


def free_port() -> int:
    """A TCP port that nobody listens on now; no client is given it while its listener restarts."""
    return free_ports(1)[0]


def shared_dir(*parts: str) -> Path:
    """The shared data's folder, or a path below it.

    ``CLINODE_SHARED`` overrides ``../shared``. Where it is absent the test is skipped and says so.
    """
    root = Path(os.environ.get("CLINODE_SHARED", str(REPOSITORY.parent / "shared")))
    path = root.joinpath(*parts)
    if not path.exists():
        pytest.skip(f"shared data absent ({'/'.join(parts) or 'shared'}): set CLINODE_SHARED")
    return path
