"""Headless commands load neither torch nor Textual, and the stubs are what the protos say."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.tools import REPOSITORY

HEAVY = ("torch", "textual", "monai")
HEADLESS = (
    "appliance.cli.app",
    "appliance.control.client",
    "appliance.control.server",
    "appliance.service",
    "appliance.pipeline.runner",
    "appliance.demo.orchestrator",
    "dicom_bridge.net",
    "dicom_bridge.deid",
    "dicom_bridge.seg",
    "federation.plan",
    "federation.metrics",
    "federation.coordinator",
    "federation.enrolment.client",
)


@pytest.mark.parametrize("module", HEADLESS)
def test_module_loads_nothing_heavy(module: str) -> None:
    code = (
        f"import sys, {module}\n"
        f"found = sorted(set(sys.modules) & {set(HEAVY)!r})\n"
        "sys.exit(f'{found} loaded' if found else 0)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=REPOSITORY
    )
    assert done.returncode == 0, done.stderr


def test_the_check_itself_sees_torch() -> None:
    code = "import sys, torch; sys.exit(bool({'torch'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], check=False, cwd=REPOSITORY)
    assert done.returncode == 1


def test_stubs_are_generated_from_the_protos(tmp_path: Path) -> None:
    subprocess.run(
        ["bash", "packaging/generate_stubs.sh", str(tmp_path)],
        check=True,
        cwd=REPOSITORY,
        capture_output=True,
    )
    fresh = sorted(path for path in tmp_path.rglob("*_pb2*.py*") if path.is_file())
    assert len(fresh) >= 12
    for path in fresh:
        committed = REPOSITORY / path.relative_to(tmp_path)
        assert committed.read_bytes() == path.read_bytes(), (
            f"{committed.relative_to(REPOSITORY)} is not what its .proto gives: "
            "run packaging/generate_stubs.sh"
        )


def test_packaging_is_no_package() -> None:
    assert not (REPOSITORY / "packaging" / "__init__.py").exists()
