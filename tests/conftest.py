"""What holds for every test."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import coverage
import pytest
import structlog

TESTS = Path(__file__).parent

LONGEST_FIRST = (
    "appliance/core/test_node.py",
    "federation/learning/test_trainer_process.py",
    "appliance/phantom/test_faults.py",
    "appliance/cli/test_tools.py",
    "appliance/phantom/test_study.py",
    "appliance/imaging/test_phantoms.py",
    "appliance/core/test_late.py",
    "appliance/core/test_intake.py",
    "appliance/imaging/test_brain.py",
    "appliance/core/test_result_delivery.py",
    "appliance/imaging/test_files.py",
    "appliance/core/test_runner.py",
    "dicom_bridge/deid/test_real_files.py",
    "appliance/imaging/test_qc_phantoms.py",
    "appliance/imaging/test_registration_quality.py",
    "federation/test_rounds.py",
    "federation/test_kills.py",
    "dicom_bridge/net/test_pacs.py",
)
"""Files that run for long: begun first, so that no worker is left alone with one at the end."""

UNMEASURED = frozenset(
    {
        "dicom_bridge/classify/test_shared.py",
        "dicom_bridge/convert/test_shared.py",
        "dicom_bridge/deid/test_answers.py",
        "dicom_bridge/deid/test_plant.py",
        "dicom_bridge/deid/test_public_sets.py",
        "dicom_bridge/deid/test_real_files.py",
        "dicom_bridge/net/test_receiver_kills.py",
        "dicom_bridge/seg/test_real.py",
        "appliance/core/test_late.py",
    }
)
"""Files that repeat, over many real files or kills, ways through the code that others measure.

Measuring makes code in Python take nearly twice as long, and these would measure nothing new.
"""


def _name(item: pytest.Item) -> str:
    """The test's file, relative to this folder where it lies below it."""
    return item.path.relative_to(TESTS).as_posix() if item.path.is_relative_to(TESTS) else ""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the files that run longest first; the rest stays in its order."""
    rank = {name: place for place, name in enumerate(LONGEST_FIRST)}
    items.sort(key=lambda item: rank.get(_name(item), len(rank)))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[None]:
    """Stop measuring, here and in processes that are started, while a file of `UNMEASURED` runs."""
    measuring = coverage.Coverage.current() if _name(item) in UNMEASURED else None
    if measuring is None:
        return (yield)
    child = {name: os.environ.pop(name) for name in _CHILD if name in os.environ}
    measuring.stop()
    try:
        return (yield)
    finally:
        measuring.start()
        os.environ.update(child)


_CHILD = ("COVERAGE_PROCESS_START", "COVERAGE_PROCESS_CONFIG")


@pytest.fixture(autouse=True)
def log_as_at_the_start() -> Iterator[None]:
    """A test that sets the process's log leaves it as it was: its stream is closed afterwards."""
    before = structlog.get_config()
    yield
    structlog.configure(**before)
