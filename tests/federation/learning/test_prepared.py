"""Prepared cases: round trips and refusals."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from safetensors.numpy import save_file

from federation.errors import PreparedDataRefused
from federation.learning.prepared import (
    CaseEntry,
    PredictedMask,
    PreparedCase,
    PreparedFolder,
    PreparedManifest,
    Split,
    read_case,
    read_manifest,
    read_mask,
    write_case,
    write_manifest,
    write_mask,
)
from federation.plan import Preparation
from tests.federation.learning.tiny import AFFINE, tiny_case, tiny_folder, tiny_plan


def assert_same(first: PreparedCase, second: PreparedCase) -> None:
    """Equal in name, arrays and affine."""
    assert first.case == second.case
    for name in ("image", "brain", "affine"):
        np.testing.assert_array_equal(getattr(first, name), getattr(second, name))
    if first.label is None or second.label is None:
        assert first.label is second.label
    else:
        np.testing.assert_array_equal(first.label, second.label)


@pytest.mark.parametrize("labelled", [True, False])
def test_a_case_comes_back_as_it_was(tmp_path: Path, labelled: bool) -> None:
    case = tiny_case("sub-a_ses-b", 1, labelled=labelled)
    assert_same(read_case(write_case(tmp_path, case)), case)


def test_equal_cases_give_equal_files(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    case = tiny_case("sub-a", 1)
    first, second = write_case(tmp_path, case), write_case(tmp_path / "other", case)
    assert first.read_bytes() == second.read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["other", "sub-a.safetensors"]


@given(
    image=hnp.arrays(
        np.float32,
        st.tuples(st.integers(1, 3), st.integers(1, 5), st.integers(1, 4), st.integers(1, 3)),
        elements=st.floats(-100, 100, width=32),
    ),
    spacing=st.floats(0.1, 5),
)
def test_any_image_survives_the_file(
    tmp_path_factory: pytest.TempPathFactory, image: np.ndarray, spacing: float
) -> None:
    affine = np.diag([-spacing, spacing, 2.0, 1.0])
    brain = np.ones(image.shape[1:], np.uint8)
    case = PreparedCase("sub-a", image, brain, brain, affine)
    found = read_case(write_case(tmp_path_factory.mktemp("case"), case))
    assert_same(found, case)
    assert found.voxel_ml == pytest.approx(spacing * spacing * 2.0 / 1000.0)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"case": "../x"}, "name"),
        ({"case": ""}, "name"),
        ({"image": np.zeros((2, 4, 4, 4))}, "float32"),
        ({"image": np.zeros((4, 4, 4), np.float32)}, "float32"),
        ({"image": np.zeros((0, 24, 24, 24), np.float32)}, "empty"),
        ({"image": np.full((2, 24, 24, 24), np.nan, np.float32)}, "not finite"),
        ({"brain": np.ones((24, 24, 23), np.uint8)}, "brain"),
        ({"label": np.ones((24, 24, 24), np.int32)}, "label"),
        ({"affine": np.eye(3)}, "4 x 4"),
        ({"affine": np.diag([1.0, 1.0, np.inf, 1.0])}, "finite"),
        ({"affine": np.zeros((4, 4))}, "singular"),
    ],
)
def test_a_broken_case_cannot_exist(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(PreparedDataRefused, match=words):
        dataclasses.replace(tiny_case("sub-a", 1), **changes)


def test_broken_case_files_are_refused(tmp_path: Path) -> None:
    path = write_case(tmp_path, tiny_case("sub-a", 1))
    whole = path.read_bytes()
    for raw in (b"", b"\xff" * 100, whole[:1000], whole[:-1], whole + b"x"):
        path.write_bytes(raw)
        with pytest.raises(PreparedDataRefused):
            read_case(path)
    with pytest.raises(PreparedDataRefused, match="cannot be read"):
        read_case(tmp_path / "none.safetensors")


@pytest.mark.parametrize(
    ("tensors", "metadata", "words"),
    [
        ({"image": np.zeros((1, 2, 2, 2), np.float32)}, {"prepared": "?"}, "cannot be read"),
        ({"mask": np.zeros(3)}, {"prepared": json.dumps({"format": 1, "affine": []})}, "arrays"),
        ({"mask": np.zeros(3)}, {"prepared": json.dumps({"format": 9})}, "format version"),
        ({"mask": np.zeros(3)}, None, "cannot be read"),
    ],
)
def test_foreign_safetensors_are_refused(
    tmp_path: Path, tensors: dict[str, Any], metadata: dict[str, str] | None, words: str
) -> None:
    save_file(tensors, tmp_path / "sub-a.safetensors", metadata)
    with pytest.raises(PreparedDataRefused, match=words):
        read_case(tmp_path / "sub-a.safetensors")


def test_a_mask_comes_back_as_it_was(tmp_path: Path) -> None:
    mask = (np.arange(60).reshape(3, 4, 5) % 3).astype(np.uint8)
    write_mask(tmp_path / "m.safetensors", PredictedMask(mask, AFFINE))
    found = read_mask(tmp_path / "m.safetensors")
    np.testing.assert_array_equal(found.mask, mask)
    np.testing.assert_array_equal(found.affine, AFFINE)
    with pytest.raises(PreparedDataRefused):
        read_mask(write_case(tmp_path, tiny_case("sub-a", 1)))


def test_a_manifest_comes_back_as_it_was(tmp_path: Path) -> None:
    cases = (
        CaseEntry("sub-b", Split.TRAIN, True),
        CaseEntry("sub-a", Split.TRAIN, True),
        CaseEntry("sub-c", Split.INFER, False),
    )
    manifest = PreparedManifest(Preparation(n4=True), cases, ("FLAIR", "T1w"))
    write_manifest(tmp_path, manifest)
    found = read_manifest(tmp_path)
    assert found == manifest
    assert [entry.case for entry in found.of_split(Split.TRAIN)] == ["sub-a", "sub-b"]
    assert found.entry("sub-c").split is Split.INFER
    with pytest.raises(PreparedDataRefused):
        found.entry("sub-z")


def test_a_manifest_cannot_contradict_itself() -> None:
    entry = CaseEntry("sub-a", Split.TRAIN, True)
    with pytest.raises(PreparedDataRefused, match="twice"):
        PreparedManifest(Preparation(), (entry, entry))
    with pytest.raises(PreparedDataRefused, match="without label"):
        CaseEntry("sub-a", Split.TEST, False)
    with pytest.raises(PreparedDataRefused, match="characters"):
        CaseEntry("../../sub-a", Split.TRAIN, True)


@pytest.mark.parametrize(
    "change",
    [
        {"format": 2},
        {"preparation": {"n4": "yes"}},
        {"preparation": {"run": "x"}},
        {"cases": [{"case": "sub-a", "file": "../x", "split": "train", "labelled": True}]},
        {"cases": [{"case": "sub-a", "file": "sub-a.safetensors", "split": "x", "labelled": True}]},
        {"cases": [{}]},
        {"cases": 1},
        {"channels": ["FLAIR\x1b"]},
        {"channels": [1]},
    ],
)
def test_broken_manifests_are_refused(tmp_path: Path, change: dict[str, Any]) -> None:
    folder = tiny_folder(tmp_path, tiny_plan())
    document = json.loads((folder / "manifest.json").read_bytes())
    (folder / "manifest.json").write_text(json.dumps(document | change))
    with pytest.raises(PreparedDataRefused):
        read_manifest(folder)


@pytest.mark.parametrize("raw", [b"", b"[]", b"null", b"[" * 100_000, b"\xff"])
def test_manifests_that_are_no_object_are_refused(tmp_path: Path, raw: bytes) -> None:
    (tmp_path / "manifest.json").write_bytes(raw)
    with pytest.raises(PreparedDataRefused):
        read_manifest(tmp_path)


def test_a_folder_checks_cases_against_its_manifest(tmp_path: Path) -> None:
    folder = tiny_folder(tmp_path, tiny_plan())
    entry = read_manifest(folder).of_split(Split.TRAIN)[0]
    write_case(folder, tiny_case(entry.case, 1, labelled=False))
    with pytest.raises(PreparedDataRefused, match="no label"):
        PreparedFolder(folder).case(entry)
    one = tiny_case(entry.case, 1)
    write_case(folder, dataclasses.replace(one, image=one.image[:1]))
    with pytest.raises(PreparedDataRefused, match="channels"):
        PreparedFolder(folder).case(entry)


def test_the_cache_is_bounded_and_changes_nothing(tmp_path: Path) -> None:
    folder = tiny_folder(tmp_path, tiny_plan())
    large, small = PreparedFolder(folder), PreparedFolder(folder, cache_bytes=1)
    for entry in (*large.manifest.cases, *large.manifest.cases):
        assert_same(large.case(entry), small.case(entry))
    entry = large.manifest.cases[0]
    assert large.case(entry) is large.case(entry)
    first = small.case(entry)
    small.case(small.manifest.cases[1])
    assert small.case(entry) is not first
