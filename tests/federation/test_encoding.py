"""Encoded updates: error bounds, nothing lost over rounds, the same bytes again, hostile files."""

from __future__ import annotations

import itertools
import json
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file

from federation.coordinator.update_check import check_update
from federation.encoding import (
    BLOCK,
    SCALES,
    Feedback,
    decode,
    dequantise,
    encode,
    from_bf16,
    quantise,
    to_bf16,
    to_fp16,
)
from federation.errors import UpdateRefused
from federation.tensorfile import open_tensors
from federation.update_spec import COMPRESSIONS, ENCODINGS, UpdateSpec

SPECS = [
    UpdateSpec.model_validate({"encoding": encoding, "compression": compression})
    for encoding, compression in itertools.product(ENCODINGS, COMPRESSIONS)
]
LOSSY = [spec for spec in SPECS if spec.encoding != "fp32"]
INT8 = UpdateSpec(encoding="int8")
INT8_ZSTD = UpdateSpec(encoding="int8", compression="zstd")
FLOATS = hnp.arrays(np.float32, st.integers(1, 24), elements=st.floats(width=32))
Tensors = dict[str, NDArray[Any]]


def name_of(spec: UpdateSpec) -> str:
    return spec.label or "fp32"


def model(seed: int = 0) -> Tensors:
    """Every kind of tensor that a model may have, none a multiple of a block long."""
    random = np.random.default_rng(seed)
    return {
        "conv.weight": random.normal(size=(37, 41)).astype(np.float32),
        "conv.bias": random.normal(size=3).astype(np.float32),
        "scalar": np.array(1.25, np.float32),
        "empty": np.zeros((0, 4), np.float32),
        "half": random.normal(size=700).astype(np.float16),
        "double": random.normal(size=600),
        "steps": np.array(41, np.int64),
        "mask": np.array([True, False, True]),
    }


def moved(tensors: Tensors, seed: int, size: float = 1e-2) -> Tensors:
    """The model after some training."""
    random = np.random.default_rng(seed)
    return {
        name: np.asarray(value + size * random.normal(size=value.shape), value.dtype)
        if value.dtype.kind == "f"
        else (value + 1 if value.dtype.kind == "i" else ~value)
        for name, value in tensors.items()
    }


def written(path: Path, tensors: Tensors) -> Path:
    save_file({name: np.array(value, order="C") for name, value in tensors.items()}, path)
    return path


def judged(sent: Path, before: Path, spec: UpdateSpec) -> None:
    """What a coordinator does with an update that came."""
    out = sent.with_name("out")
    decode(sent, before, out, spec)
    check_update(out, before)


# --- numbers


@settings(max_examples=60, deadline=None)
@given(values=FLOATS)
def test_bf16_is_the_nearest_of_its_neighbours(values: NDArray[np.float32]) -> None:
    bits = to_bf16(values)
    back = from_bf16(bits)
    np.testing.assert_array_equal(np.isnan(back), np.isnan(values))
    np.testing.assert_array_equal(np.isinf(back), np.isinf(values))
    finite = np.isfinite(values)
    exact, got = values[finite].astype(np.float64), back[finite].astype(np.float64)
    near = bits[finite]
    for step in (-1, 1):
        other = from_bf16((near.astype(np.int32) + step).astype(np.uint16)).astype(np.float64)
        with np.errstate(invalid="ignore"):
            away = np.where(np.isfinite(other), np.abs(other - exact), np.inf)
        error = np.abs(got - exact)
        assert (error <= away).all()
        tied = error == away
        assert (near[tied] & 1 == 0).all() or not tied.any()


@settings(max_examples=60, deadline=None)
@given(values=FLOATS)
def test_fp16_is_numpys_but_saturates(values: NDArray[np.float32]) -> None:
    got = to_fp16(values)
    np.testing.assert_array_equal(np.isnan(got), np.isnan(values))
    np.testing.assert_array_equal(np.isinf(got), np.isinf(values))
    inside = np.abs(values) <= 65504
    np.testing.assert_array_equal(got[inside], values[inside].astype(np.float16))
    beyond = np.isfinite(values) & ~inside
    np.testing.assert_array_equal(np.abs(got[beyond]), np.float16(65504))


def test_ties_go_to_the_even_neighbour_and_beyond_the_range_is_the_largest() -> None:
    ties = np.array([1 + 2**-8, 1 + 3 * 2**-8, -1 - 2**-8], np.float32)
    np.testing.assert_array_equal(from_bf16(to_bf16(ties)), [1, 1 + 2**-6, -1])
    top = np.float32(np.finfo(np.float32).max)
    largest = from_bf16(to_bf16(np.array([top, -top], np.float32)))
    assert np.isfinite(largest).all()
    assert (np.abs(largest) >= top * np.float32(0.99)).all()
    np.testing.assert_array_equal(
        quantise(np.array([127, 0.5, 1.5, -2.5]).astype("f4"))[0][1:], [0, 2, -2]
    )


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    count=st.integers(1, 3 * BLOCK),
    power=st.integers(-44, 38),
    spread=st.integers(0, 20),
)
def test_int8_is_off_by_half_a_scale_at_most(
    seed: int, count: int, power: int, spread: int
) -> None:
    random = np.random.default_rng(seed)
    powers = 10.0 ** (power - random.uniform(0, spread, count))
    values = (random.uniform(-3, 3, count) * powers).astype(np.float32)
    whole, scales = quantise(values)
    assert len(whole) == len(values)
    assert len(scales) == -(-len(values) // BLOCK)
    assert np.abs(whole.astype(np.int16)).max() <= 127
    with np.errstate(over="ignore"):
        back = dequantise(whole, scales).astype(np.float64)
    each = np.repeat(scales, BLOCK)[: len(values)].astype(np.float64)
    # Below the normal numbers float32 has steps of its own.
    bound = each * (0.5 + 1e-4) + 64 * np.finfo(np.float32).smallest_subnormal
    assert (np.abs(back - values) <= bound).all()


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_sick_block_is_marked_by_its_scale(bad: float) -> None:
    values = np.ones(BLOCK + 5, np.float32)
    values[3] = bad
    whole, scales = quantise(values)
    assert not np.isfinite(scales[0])
    assert np.isfinite(scales[1])
    assert (whole[BLOCK:] == 127).all()


# --- files


@pytest.mark.parametrize("spec", SPECS, ids=name_of)
def test_round_trip_within_its_bound_and_bit_identical(tmp_path: Path, spec: UpdateSpec) -> None:
    base, new = model(), moved(model(), 1)
    before, after = written(tmp_path / "model", base), written(tmp_path / "update", new)
    encode(after, before, tmp_path / "a", spec)
    encode(after, before, tmp_path / "b", spec)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    decode(tmp_path / "a", before, tmp_path / "out", spec)
    got = load_file(tmp_path / "out")
    check_update(tmp_path / "out", before)
    for name, value in new.items():
        assert (got[name].dtype, got[name].shape) == (value.dtype, value.shape)
        if spec.encoding == "fp32" or value.dtype.kind != "f":
            np.testing.assert_array_equal(got[name], value)
            continue
        difference = np.abs(value.astype(np.float64) - base[name])
        largest = difference.max(initial=0.0)
        part = {"bf16": 2.0**-8, "fp16": 2.0**-10, "int8": 1 / 250}[spec.encoding]
        stored = np.abs(value.astype(np.float64)) * np.finfo(value.dtype).eps
        error = np.abs(got[name].astype(np.float64) - value)
        assert (error <= largest * part + stored).all(), name
    assert {path.name for path in tmp_path.iterdir()} == {"model", "update", "a", "b", "out"}


@pytest.mark.parametrize("encoding", ["bf16", "fp16", "int8"])
def test_encoded_is_smaller_and_plain_safetensors_can_read_it(
    tmp_path: Path, encoding: str
) -> None:
    base = {"w": np.zeros(300_000, np.float32), "n": np.array(1)}
    before = written(tmp_path / "model", base)
    after = written(tmp_path / "update", moved(base, 2))
    spec = UpdateSpec.model_validate({"encoding": encoding})
    encode(after, before, tmp_path / "a", spec)
    share = (tmp_path / "a").stat().st_size / after.stat().st_size
    assert share < (0.26 if encoding == "int8" else 0.51)
    packed = UpdateSpec.model_validate({"encoding": encoding, "compression": "zstd"})
    encode(after, before, tmp_path / "b", packed)
    assert (tmp_path / "b").stat().st_size < (tmp_path / "a").stat().st_size
    if encoding != "bf16":
        read = load_file(tmp_path / "a")
        assert read["n"] == 2
        assert read["w"].shape == (300_000,)


def rounds(folder: Path, spec: UpdateSpec, steps: list[Tensors], keep: bool) -> tuple[Tensors, Any]:
    """One site's rounds of small steps; the model after them, and what is owed."""
    now, owed = model(), None
    for number, step in enumerate(steps):
        before = written(folder / "model", now)
        wanted = {n: np.asarray(v + step.get(n, 0), v.dtype) for n, v in now.items()}
        after = written(folder / "update", wanted)
        feedback = Feedback(owed, folder / f"owed-{number}") if keep else None
        encode(after, before, folder / "sent", spec, feedback)
        decode(folder / "sent", before, folder / "out", spec)
        now = load_file(folder / "out")
        owed = folder / f"owed-{number}"
    return now, load_file(owed) if keep and owed is not None else {}


@settings(max_examples=8, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), count=st.integers(2, 8))
@pytest.mark.parametrize("spec", [INT8, UpdateSpec(encoding="bf16")], ids=name_of)
def test_over_rounds_what_was_sent_and_what_is_owed_is_the_truth(
    tmp_path_factory: pytest.TempPathFactory, spec: UpdateSpec, seed: int, count: int
) -> None:
    random = np.random.default_rng(seed)
    names = ("conv.weight", "conv.bias", "scalar")
    shapes = {name: model()[name].shape for name in names}
    steps = [
        {
            name: (random.normal(size=shape) * 10 ** random.uniform(-4, -1)).astype(np.float32)
            for name, shape in shapes.items()
        }
        for _ in range(count)
    ]
    folder = tmp_path_factory.mktemp("rounds")
    got, owed = rounds(folder, spec, steps, keep=True)
    assert set(owed) == {n for n, v in model().items() if v.dtype.kind == "f"}
    for name in names:
        truth = model()[name].astype(np.float64) + sum(s[name].astype(np.float64) for s in steps)
        # Each round's weights are float32: that much a model of full precision loses too.
        stored = count * (np.abs(truth).max() + 1) * 2.0**-22
        np.testing.assert_allclose(got[name].astype(np.float64) + owed[name], truth, atol=stored)
        largest = max(np.abs(step[name]).max() for step in steps)
        assert np.abs(owed[name]).max() <= largest * (
            1 / 60 if spec.encoding == "int8" else 1 / 250
        )


def test_without_feedback_small_differences_are_lost_for_good(tmp_path: Path) -> None:
    step: Tensors = {"conv.weight": np.zeros((37, 41), np.float32)}
    step["conv.weight"][0, 0] = 1.0
    step["conv.weight"][0, 1:] = 0.003
    steps = [step] * 20
    got, _ = rounds(tmp_path, INT8, steps, keep=False)
    assert np.abs(got["conv.weight"][0, 1:] - model()["conv.weight"][0, 1:]).max() < 1e-4
    got, _ = rounds(tmp_path, INT8, steps, keep=True)
    gained = got["conv.weight"][0, 1:] - model()["conv.weight"][0, 1:]
    np.testing.assert_allclose(gained, 0.06, atol=0.006)


def test_counters_of_a_model_without_weights(tmp_path: Path) -> None:
    before = written(tmp_path / "model", {"n": np.array(3)})
    after = written(tmp_path / "update", {"n": np.array(4)})
    encode(after, before, tmp_path / "a", INT8, Feedback(None, tmp_path / "owed"))
    decode(tmp_path / "a", before, tmp_path / "out", INT8)
    assert load_file(tmp_path / "out")["n"] == 4
    assert not (tmp_path / "owed").exists()


@pytest.mark.parametrize("spec", LOSSY, ids=name_of)
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_nan_and_infinity_arrive_and_are_named(
    tmp_path: Path, spec: UpdateSpec, bad: float
) -> None:
    base = {"a": np.zeros(600, np.float32), "b": np.ones(700, np.float32)}
    sick = {name: value.copy() for name, value in base.items()}
    sick["b"][650] = bad
    before, after = written(tmp_path / "model", base), written(tmp_path / "update", sick)
    encode(after, before, tmp_path / "sent", spec, Feedback(None, tmp_path / "owed"))
    with pytest.raises(UpdateRefused, match="tensor b holds NaN or infinity"):
        judged(tmp_path / "sent", before, spec)
    assert np.isfinite(load_file(tmp_path / "owed")["b"]).all()


@pytest.mark.parametrize("spec", LOSSY, ids=name_of)
def test_differences_beyond_every_range_do_not_pass_as_healthy(
    tmp_path: Path, spec: UpdateSpec
) -> None:
    top = np.finfo(np.float32).max
    before = written(tmp_path / "model", {"w": np.full(5, -top, np.float32)})
    after = written(tmp_path / "update", {"w": np.full(5, top, np.float32)})
    encode(after, before, tmp_path / "sent", spec)
    with pytest.raises(UpdateRefused):
        judged(tmp_path / "sent", before, spec)


def test_a_site_does_not_encode_what_is_not_the_model(tmp_path: Path) -> None:
    before = written(tmp_path / "model", {"w": np.ones((2, 3), np.float32)})
    after = written(tmp_path / "update", {"w": np.ones(6, np.float32)})
    with pytest.raises(UpdateRefused, match=r"shape \[6\], expected \[2, 3\]"):
        encode(after, before, tmp_path / "sent", INT8)
    odd = written(tmp_path / "odd", {"w": np.ones(3, "f4"), "w" + SCALES: np.ones(1, "f4")})
    with pytest.raises(UpdateRefused, match="no int8 form"):
        encode(odd, odd, tmp_path / "sent", INT8)
    other = written(tmp_path / "owed", {"w": np.ones(3, np.float32)})
    with pytest.raises(UpdateRefused, match="shape"):
        encode(before, before, tmp_path / "sent", INT8, Feedback(other, tmp_path / "next"))
    assert not (tmp_path / "sent").exists()
    assert not (tmp_path / "next").exists()


# --- hostile files


def honest(tmp_path: Path, spec: UpdateSpec) -> tuple[Path, Path]:
    base = {"w": np.ones((30, 40), np.float32), "b": np.zeros(5, np.float32), "n": np.array(1)}
    before = written(tmp_path / "model", base)
    encode(written(tmp_path / "update", moved(base, 5)), before, tmp_path / "sent", spec)
    return before, tmp_path / "sent"


Change = Callable[[Tensors], Tensors]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda t: t | {"w#scales": t["w#scales"] * np.nan}, "tensor w holds NaN or infinity"),
        (lambda t: t | {"w#scales": t["w#scales"] * np.inf}, "tensor w holds NaN or infinity"),
        (lambda t: t | {"w#scales": -t["w#scales"]}, "tensor w has a negative scale"),
        (
            lambda t: t | {"w#scales": t["w#scales"][:2]},
            r"w#scales has shape \[2\], expected \[3\]",
        ),
        (lambda t: t | {"w#scales": t["w#scales"].astype("f8")}, "w#scales has type F64"),
        (lambda t: t | {"w": t["w"].astype(np.float32)}, "tensor w has type F32, expected I8"),
        (lambda t: t | {"w": t["w"].reshape(-1)}, r"w has shape \[1200\]"),
        (lambda t: t | {"n": t["n"].astype(np.int32)}, "tensor n has type I32"),
        (lambda t: {k: v for k, v in t.items() if k != "b#scales"}, "missing, first b#scales"),
        (lambda t: t | {"x": t["b"]}, "1 tensors that the model does not have"),
        (lambda t: t | {"w#scales": np.full(3, 3e38, "f4")}, "tensor w holds NaN or infinity"),
        (lambda t: t | {"w#scales": np.full(3, 1e30, "f4")}, "more than 1000 times"),
    ],
)
def test_hostile_tensors_are_refused(tmp_path: Path, change: Change, words: str) -> None:
    before, sent = honest(tmp_path, INT8)
    written(sent, change(load_file(sent)))
    with pytest.raises(UpdateRefused, match=words):
        judged(sent, before, INT8)
    assert not (tmp_path / "out.making").exists()


def packed(data: bytes, **options: Any) -> bytes:  # noqa: ANN401
    return zstandard.ZstdCompressor(level=1, **options).compress(data)


def _hostile_frames(raw: bytes, sent: bytes) -> list[tuple[bytes, str]]:
    size = len(raw)
    big = zstandard.ZstdCompressionParameters(window_log=27)
    roomy = zstandard.ZstdCompressor(compression_params=big).compressobj()
    wide = roomy.compress(raw) + roomy.flush()
    return [
        (packed(bytes(200 << 20)), f"declares {200 << 20} bytes, this model's has {size}"),
        (packed(raw, write_content_size=False), "declares no size"),
        (packed(raw[:-1]), f"declares {size - 1} bytes"),
        (sent[: len(sent) // 2], "not whole and valid|does not unpack"),
        (sent[:10], "not whole and valid|does not unpack"),
        (sent + b"rubbish", "not whole and valid"),
        (sent + packed(bytes(1 << 20)), "does not unpack"),
        (wide, "declares no size|not whole and valid"),
        (raw, "not whole and valid"),
        (b"", "not whole and valid"),
        (packed(bytes(size)), "longer than|header"),
        (_lying(raw, bytes(64 << 20)), "not whole and valid|does not unpack"),
    ]


def _lying(raw: bytes, real: bytes) -> bytes:
    """A frame that declares the right size and holds far more."""
    frame = bytearray(packed(real))
    parameters = zstandard.get_frame_parameters(bytes(frame))
    at = bytes(frame).index(struct.pack("<I", parameters.content_size))
    frame[at : at + 4] = struct.pack("<I", len(raw))
    return bytes(frame)


def test_hostile_frames_are_refused(tmp_path: Path) -> None:
    before, sent = honest(tmp_path, INT8)
    raw = sent.read_bytes()
    _, sent = honest(tmp_path, INT8_ZSTD)
    good = sent.read_bytes()
    for number, (data, words) in enumerate(_hostile_frames(raw, good)):
        sent.write_bytes(data)
        with pytest.raises(UpdateRefused, match=words):
            decode(sent, before, tmp_path / "out", INT8_ZSTD)
        assert not list(tmp_path.glob("out*")), number
    sent.write_bytes(good)
    decode(sent, before, tmp_path / "out", INT8_ZSTD)


def test_truncated_and_overgrown_files_are_refused(tmp_path: Path) -> None:
    before, sent = honest(tmp_path, INT8)
    raw = sent.read_bytes()
    for data in (raw[:-1], raw + b"x", raw[:7], b"", struct.pack("<Q", 2**62) + raw[8:]):
        sent.write_bytes(data)
        with pytest.raises(UpdateRefused):
            decode(sent, before, tmp_path / "out", INT8)
    huge = {"w": {"dtype": "I8", "shape": [2**40], "data_offsets": [0, 2**40]}}
    header = json.dumps(huge).encode()
    sent.write_bytes(struct.pack("<Q", len(header)) + header)
    with pytest.raises(UpdateRefused, match="the tensors end at byte"):
        decode(sent, before, tmp_path / "out", INT8)


@settings(max_examples=40, deadline=None)
@given(data=st.binary(max_size=300), at=st.integers(0, 400), spec=st.sampled_from(LOSSY))
def test_random_damage_ends_in_words_or_in_a_checked_file(
    tmp_path_factory: pytest.TempPathFactory, data: bytes, at: int, spec: UpdateSpec
) -> None:
    folder = tmp_path_factory.mktemp("damage")
    before, sent = honest(folder, spec)
    raw = sent.read_bytes()
    sent.write_bytes(raw[:at] + data + raw[at + len(data) :])
    try:
        decode(sent, before, folder / "out", spec)
    except UpdateRefused:
        assert not list(folder.glob("out*"))
        return
    assert open_tensors(folder / "out").layout == open_tensors(before).layout


_BOUNDED = """
import resource, sys
from pathlib import Path
from federation.encoding import Feedback, decode, encode
from federation.update_spec import UpdateSpec
folder, limit = Path(sys.argv[1]), int(sys.argv[2])
used = next(int(line.split()[1]) for line in open("/proc/self/status") if line[:6] == "VmData")
resource.setrlimit(resource.RLIMIT_DATA, (used * 1024 + limit, resource.RLIM_INFINITY))
spec = UpdateSpec(encoding="int8", compression="zstd")
encode(folder / "update", folder / "model", folder / "sent", spec, Feedback(None, folder / "owed"))
encode(folder / "update", folder / "model", folder / "sent", spec,
       Feedback(folder / "owed", folder / "next"))
decode(folder / "sent", folder / "model", folder / "out", spec)
"""


def test_memory_does_not_grow_with_the_model(tmp_path: Path) -> None:
    """A model of 32 MB in one tensor; the process may get 16 MB beyond what it starts with."""
    weights = np.zeros(8 << 20, np.float32)
    written(tmp_path / "model", {"w": weights})
    weights[::3] = 1e-3
    written(tmp_path / "update", {"w": weights})
    limit = str(16 << 20)
    subprocess.run([sys.executable, "-c", _BOUNDED, str(tmp_path), limit], check=True)
    assert (tmp_path / "sent").stat().st_size < 1 << 22
    np.testing.assert_allclose(load_file(tmp_path / "out")["w"], weights, rtol=1e-6)
