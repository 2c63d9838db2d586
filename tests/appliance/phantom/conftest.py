"""Phantom studies shared by the tests of one process."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

import pytest

from appliance.demo.phantom import (
    Fault,
    PhantomRequest,
    PhantomStudy,
    WrittenStudy,
    make_study,
    write_study,
)

StudyOf = Callable[..., PhantomStudy]


@lru_cache(maxsize=8)
def _study(style: str, index: int, fault: Fault | None) -> PhantomStudy:
    return make_study(PhantomRequest(index=index, style=style, seed=11, fault=fault))


@pytest.fixture(scope="session")
def study_of() -> StudyOf:
    """A study by style, index and fault, made once."""

    def get(style: str = "philips", index: int = 0, fault: Fault | None = None) -> PhantomStudy:
        return _study(style, index, fault)

    return get


@pytest.fixture(scope="session")
def written(study_of: StudyOf, tmp_path_factory: pytest.TempPathFactory) -> WrittenStudy:
    """One Philips study on disk with the expert's segmentation."""
    out: Path = tmp_path_factory.mktemp("phantom")
    return write_study(study_of(), out / "study", segmentation=True)
