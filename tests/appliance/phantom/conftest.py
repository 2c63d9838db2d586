"""Phantom studies shared by the tests of one process."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, lru_cache
from pathlib import Path

import pytest

from appliance.demo.phantom import (
    Fault,
    PhantomRequest,
    PhantomStudy,
    Severity,
    WrittenStudy,
    make_study,
    write_study,
)

StudyOf = Callable[..., PhantomStudy]
WrittenOf = Callable[[str], WrittenStudy]


@lru_cache(maxsize=24)
def _study(style: str, index: int, fault: Fault | None, severity: Severity) -> PhantomStudy:
    request = PhantomRequest(index=index, style=style, seed=11, fault=fault, severity=severity)
    return make_study(request)


@pytest.fixture(scope="session")
def study_of() -> StudyOf:
    """A study by style, index, fault and severity, made once."""

    def get(
        style: str = "philips",
        index: int = 0,
        fault: Fault | None = None,
        severity: Severity = Severity.MEDIUM,
    ) -> PhantomStudy:
        return _study(style, index, fault, severity)

    return get


@pytest.fixture(scope="session")
def written_of(study_of: StudyOf, tmp_path_factory: pytest.TempPathFactory) -> WrittenOf:
    """A clean study of a style on disk with the expert's segmentation, written once."""
    out: Path = tmp_path_factory.mktemp("phantom")

    @cache
    def write(style: str) -> WrittenStudy:
        """The style's study."""
        return write_study(study_of(style), out / style, segmentation=True)

    return write


@pytest.fixture(scope="session")
def written(written_of: WrittenOf) -> WrittenStudy:
    """One Philips study on disk with the expert's segmentation."""
    return written_of("philips")
