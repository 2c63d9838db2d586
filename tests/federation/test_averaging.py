"""FedAvg is the weighted mean, whatever the order; updates are checked before they count."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file

from federation.chunks import CHUNK_BYTES, ChunkList
from federation.coordinator.update_check import check_update, check_weight
from federation.errors import TensorFileRefused, UpdateRefused
from federation.strategies.fedavg import WeightedUpdate, fedavg
from federation.tensorfile import open_tensors


@settings(max_examples=40, deadline=None)
@given(
    weights=st.lists(st.integers(1, 10_000), min_size=1, max_size=6),
    seed=st.integers(0, 2**32 - 1),
    order=st.randoms(use_true_random=False),
)
def test_equals_central_arithmetic_in_any_order(
    tmp_path_factory: pytest.TempPathFactory,
    weights: list[int],
    seed: int,
    order: object,
) -> None:
    folder = tmp_path_factory.mktemp("fedavg")
    random = np.random.default_rng(seed)
    models = [
        {
            "w": (random.normal(size=(7, 5)) * 10 ** random.uniform(-3, 3)).astype(np.float32),
            "empty": np.zeros((0, 3), np.float32),
            "half": random.normal(size=4).astype(np.float16),
            "scalar": np.array(random.normal(), np.float32),
            "count": np.array(random.integers(0, 100), np.int64),
            "flag": np.array([bool(random.integers(0, 2))]),
        }
        for _ in weights
    ]
    updates = []
    for index, (model, weight) in enumerate(zip(models, weights, strict=True)):
        path = folder / f"{index}.safetensors"
        save_file(model, path)
        updates.append(WeightedUpdate(f"site-{index}", float(weight), path))
    fedavg(updates, folder / "a")
    shuffled = list(updates)
    order.shuffle(shuffled)  # type: ignore[attr-defined]
    fedavg(shuffled, folder / "b")
    assert (folder / "a").read_bytes() == (folder / "b").read_bytes()
    got = load_file(folder / "a")
    for name in ("w", "empty", "half", "scalar"):
        central = np.average(
            np.stack([model[name].astype(np.float64) for model in models]), axis=0, weights=weights
        )
        assert got[name].dtype == models[0][name].dtype
        np.testing.assert_allclose(
            got[name], central, rtol=2e-3 if name == "half" else 3e-7, atol=1e-12
        )
    assert got["count"] == max(int(model["count"]) for model in models)
    assert got["flag"][0] == any(bool(model["flag"][0]) for model in models)


def test_large_tensor_goes_through_several_blocks(tmp_path: Path) -> None:
    size = 700_001
    for index in range(2):
        save_file({"w": np.full(size, index, np.float32)}, tmp_path / f"{index}")
    fedavg(
        [WeightedUpdate(f"s{i}", w, tmp_path / f"{i}") for i, w in ((0, 1.0), (1, 3.0))],
        tmp_path / "out",
    )
    assert np.all(load_file(tmp_path / "out")["w"] == np.float32(0.75))


@pytest.mark.parametrize("cores", [1, 4])
def test_model_of_several_chunks_is_exact_to_the_bit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cores: int
) -> None:
    monkeypatch.setattr("federation.strategies.folding.CORES", cores)
    random = np.random.default_rng(5)
    count = CHUNK_BYTES // 4 + 1001
    # An odd number of bytes before the wide numbers: elements lie across the chunks' edges.
    layout = {
        "a": {"dtype": "U8", "shape": [3], "data_offsets": [0, 3]},
        "b": {"dtype": "F32", "shape": [count], "data_offsets": [3, 3 + 4 * count]},
        "c": {"dtype": "F64", "shape": [count], "data_offsets": [3 + 4 * count, 3 + 12 * count]},
    }
    updates, narrow, wide = [], [], []
    for index in range(3):
        narrow.append(random.normal(size=count).astype(np.float32))
        wide.append(random.normal(size=count))
        data = bytes([index, 9 - index, 5]) + narrow[-1].tobytes() + wide[-1].tobytes()
        path = _file(tmp_path / f"{index}", {"__metadata__": {"who": f"{index}"}, **layout}, data)
        updates.append(WeightedUpdate(f"s{index}", index + 1.0, path))
    chunks = fedavg(updates, tmp_path / "out")
    assert chunks == ChunkList.of_file(tmp_path / "out")
    assert chunks.count > 2
    assert b"who" not in (tmp_path / "out").read_bytes()[:2000]
    got = load_file(tmp_path / "out")
    shares = [(index + 1.0) / 6.0 for index in range(3)]
    for name, values in (("b", narrow), ("c", wide)):
        total = values[0].astype(np.float64) * shares[0]
        for value, share in zip(values[1:], shares[1:], strict=True):
            total += value.astype(np.float64) * share
        assert np.array_equal(got[name], total.astype(values[0].dtype))
    assert got["a"].tolist() == [2, 9, 5]


def test_norms_of_extreme_numbers(tmp_path: Path) -> None:
    count = 20_000
    save_file({"w": np.zeros(count, np.float32), "v": np.zeros(5, np.float16)}, tmp_path / "model")
    large = np.full(count, 1e25, np.float32)
    save_file({"w": large, "v": np.full(5, 60_000, np.float16)}, tmp_path / "update")
    facts = check_update(tmp_path / "update", tmp_path / "model", norm_ratio=1e30)
    assert facts.norm == pytest.approx(1e25 * np.sqrt(count))
    save_file({"w": large * 0, "v": np.full(5, 60_000, np.float16)}, tmp_path / "update")
    facts = check_update(tmp_path / "update", tmp_path / "model", norm_ratio=1e6)
    assert facts.norm == pytest.approx(60_000 * np.sqrt(5), rel=1e-3)
    spoiled = np.zeros(count, np.float32)
    spoiled[count - 1] = np.nan
    save_file({"w": spoiled, "v": np.zeros(5, np.float16)}, tmp_path / "update")
    with pytest.raises(UpdateRefused, match="tensor w holds NaN"):
        check_update(tmp_path / "update", tmp_path / "model")


def test_averaging_refuses_nonsense(tmp_path: Path) -> None:
    save_file({"w": np.ones(3, np.float32)}, tmp_path / "u")
    one = WeightedUpdate("a", 1.0, tmp_path / "u")
    for updates, words in (
        ([], "no update"),
        ([one, one], "twice"),
        ([WeightedUpdate("a", 0.0, tmp_path / "u")], "positive"),
        ([WeightedUpdate("a", float("nan"), tmp_path / "u")], "positive"),
    ):
        with pytest.raises(UpdateRefused, match=words):
            fedavg(updates, tmp_path / "out")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda t: t | {"w": t["w"] * np.nan}, "NaN or infinity"),
        (lambda t: t | {"w": t["w"] + np.inf}, "NaN or infinity"),
        (lambda t: t | {"w": t["w"].ravel()}, r"shape \[6\], expected \[2, 3\]"),
        (lambda t: t | {"w": t["w"].astype(np.float64)}, "type F64, expected F32"),
        (lambda t: {"b": t["b"]}, "1 of 2 tensors are missing, first w"),
        (lambda t: t | {"more": t["b"]}, "1 tensors that the model does not have"),
        (lambda t: t | {"w": t["w"] + 1e7}, "more than 1000 times"),
    ],
)
def test_each_defect_is_named(tmp_path: Path, change: object, words: str) -> None:
    model = {"w": np.ones((2, 3), np.float32), "b": np.zeros(4, np.float32)}
    save_file(model, tmp_path / "model")
    spoiled = change(dict(model))  # type: ignore[operator]
    save_file({k: np.ascontiguousarray(v) for k, v in spoiled.items()}, tmp_path / "update")
    with pytest.raises(UpdateRefused, match=words):
        check_update(tmp_path / "update", tmp_path / "model")


def test_good_update_and_its_norm(tmp_path: Path) -> None:
    save_file({"w": np.zeros(4, np.float32), "n": np.array(1)}, tmp_path / "model")
    save_file({"w": np.full(4, 1.5, np.float32), "n": np.array(9)}, tmp_path / "update")
    facts = check_update(tmp_path / "update", tmp_path / "model")
    assert facts.norm == pytest.approx(3.0)
    assert facts.global_norm == 0.0


def test_weight_must_be_what_the_site_has() -> None:
    check_weight(1, 1)
    for cases, words in ((0, "at least 1"), (-3, "at least 1"), (10**9, "data set has 6")):
        with pytest.raises(UpdateRefused, match=words):
            check_weight(cases, 6)


def _file(path: Path, header: object, data: bytes = b"") -> Path:
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(raw)) + raw + data)
    return path


def test_hostile_files_end_in_words(tmp_path: Path) -> None:
    entry = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}
    cases: list[tuple[object, bytes]] = [
        (b"{", b""),
        (b"[" * 100_000, b""),
        ([], b""),
        ({}, b""),
        ({"w": {**entry, "dtype": "BF16"}}, bytes(8)),
        ({"w": {**entry, "shape": [-2]}}, bytes(8)),
        ({"w": {**entry, "shape": [True, 2]}}, bytes(8)),
        ({"w": {**entry, "shape": [2**40, 2**40]}}, bytes(8)),
        ({"w": {**entry, "shape": [1] * 40}}, bytes(8)),
        ({"w": {**entry, "data_offsets": [0, 9]}}, bytes(9)),
        ({"w": {**entry, "data_offsets": [4, 12]}}, bytes(12)),
        ({"w": entry, "v": entry}, bytes(8)),
        ({"w": entry}, bytes(9)),
        ({"w": entry}, bytes(7)),
        ({"w": {**entry, "more": 1}}, bytes(8)),
    ]
    for header, data in cases:
        with pytest.raises(TensorFileRefused):
            open_tensors(_file(tmp_path / "f", header, data))
    (tmp_path / "f").write_bytes(struct.pack("<Q", 2**60) + b"{}")
    with pytest.raises(TensorFileRefused, match="longer than the file"):
        open_tensors(tmp_path / "f")
    with pytest.raises(TensorFileRefused, match="cannot be read"):
        open_tensors(tmp_path / "absent")


@settings(max_examples=60, deadline=None)
@given(data=st.binary(max_size=200))
def test_random_bytes_never_crash(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    path = tmp_path_factory.mktemp("fuzz") / "f"
    path.write_bytes(data)
    with pytest.raises(TensorFileRefused):
        open_tensors(path)
