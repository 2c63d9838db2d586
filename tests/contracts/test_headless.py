"""Headless commands load neither torch nor Textual, and the stubs are what the protos say."""

from __future__ import annotations

import json
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


IMPORTS = """
import importlib, json, sys
heavy, names = json.loads(sys.argv[1])
loaded, before = {}, set()
for name in names:
    importlib.import_module(name)
    now = set(heavy) & set(sys.modules)
    loaded[name], before = sorted(now - before), now
print(json.dumps(loaded))
"""


def loaded_by(*modules: str) -> dict[str, list[str]]:
    """What each module, imported in this order in one fresh interpreter, newly loads of HEAVY."""
    done = subprocess.run(
        [sys.executable, "-c", IMPORTS, json.dumps([HEAVY, modules])],
        capture_output=True,
        text=True,
        check=False,
        cwd=REPOSITORY,
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, list[str]] = json.loads(done.stdout)
    return found


@pytest.fixture(scope="module")
def loaded() -> dict[str, list[str]]:
    """Of all headless modules."""
    return loaded_by(*HEADLESS)


@pytest.mark.parametrize("module", HEADLESS)
def test_module_loads_nothing_heavy(module: str, loaded: dict[str, list[str]]) -> None:
    assert loaded[module] == []


def test_the_check_itself_sees_torch() -> None:
    assert loaded_by("json", "torch") == {"json": [], "torch": ["torch"]}


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
