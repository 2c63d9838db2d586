"""How an update travels: rounded, as the difference to the model it started from, compressed.

``bf16`` and ``fp16`` round each difference to 16 bits. ``int8`` is symmetric and linear: ``BLOCK``
values in a row share one float32 scale, the largest magnitude over 127, and each becomes a whole
number of scales from -127 to 127. What that leaves out the site adds to the next round's
difference (error feedback: Seide et al., Interspeech 2014; Karimireddy et al., ICML 2019,
arXiv 1901.09847), so that over the rounds nothing is lost. Rounding is to nearest, ties to even;
a finite value beyond the range of its type becomes the largest that the type holds. NaN and
infinity are never hidden: they come out of :func:`decode` as they went in, or it names the tensor.

An encoded update is a safetensors file with the model's names; counters and flags stand in it as
they are, ``int8`` adds a tensor of scales per tensor. With ``zstd`` the whole file is one frame
(RFC 8878) that declares its size. Every step works in blocks on memory maps: no tensor is held.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import zstandard
from numpy.typing import NDArray

from federation.canonical import sync_folder
from federation.errors import UpdateRefused
from federation.tensorfile import (
    AVERAGED,
    ENCODED_ONLY,
    Layout,
    TensorFile,
    blocks,
    check_layout,
    create,
    create_like,
    laid_out,
    open_tensors,
)
from federation.update_spec import UpdateSpec

BLOCK: Final = 512
"""Values that share a scale; docs/benchmarks/encodings.md has the measurement."""
SCALES: Final = "#scales"
"""What the name of a tensor's scales ends in."""
LEVEL: Final = 1
"""Higher levels of zstd take longer and give the same size on weights."""
MAX_WINDOW_BYTES: Final = 8 << 20
"""Memory that a frame may ask of who reads it."""
_COPY_BYTES: Final = 1 << 20
_TYPES: Final = AVERAGED | ENCODED_ONLY
_LARGEST_BF16: Final = np.uint32(0x7F7F_0000)
_LARGEST_F16: Final = np.float32(65504.0)
_QUIET_NAN: Final = np.uint32(0x7FC0_0000)

Floats = NDArray[np.float32]


# -- functions on arrays


def to_bf16(values: Floats) -> NDArray[np.uint16]:
    """The bits of the nearest bfloat16, ties to even; beyond its range the largest."""
    bits = values.view(np.uint32)
    magnitude = bits & np.uint32(0x7FFF_FFFF)
    odd = (magnitude >> np.uint32(16)) & np.uint32(1)
    rounded = np.minimum(magnitude, _LARGEST_BF16) + np.uint32(0x7FFF) + odd
    rounded = np.minimum(rounded & np.uint32(0xFFFF_0000), _LARGEST_BF16)
    special = magnitude >= np.uint32(0x7F80_0000)
    if special.any():
        kept = np.where(magnitude > np.uint32(0x7F80_0000), _QUIET_NAN, magnitude)
        rounded = np.where(special, kept, rounded)
    sign = bits & np.uint32(0x8000_0000)
    nearest: NDArray[np.uint16] = ((rounded | sign) >> np.uint32(16)).astype(np.uint16)
    return nearest


def from_bf16(bits: NDArray[np.uint16]) -> Floats:
    """The values of bfloat16 bits; exact."""
    return (bits.astype(np.uint32) << np.uint32(16)).view(np.float32)


def to_fp16(values: Floats) -> NDArray[np.float16]:
    """The nearest half-precision numbers, ties to even; beyond the range the largest."""
    finite = np.isfinite(values)
    return np.where(finite, np.clip(values, -_LARGEST_F16, _LARGEST_F16), values).astype("<f2")


def quantise(values: Floats, block: int = BLOCK) -> tuple[NDArray[np.int8], Floats]:
    """Whole numbers of a scale per ``block`` values.

    A block with NaN or infinity gets that as its scale: it cannot be told apart from a healthy one
    otherwise.

    Returns:
        As many numbers as values, and the scales.

    >>> quantise(np.array([1.0, -0.5, 0.003], np.float32))[0].tolist()
    [127, -64, 0]
    """
    padded = _padded(values, block)
    scales = (np.maximum(padded.max(axis=1), -padded.min(axis=1)) / np.float32(127)).astype("<f4")
    usable = np.isfinite(scales) & (scales > 0)
    steps = padded / np.where(usable, scales, np.float32(1))[:, None]
    if not usable.all():
        steps[~usable] = 0
    np.clip(np.rint(steps, out=steps), -127, 127, out=steps)
    return steps.astype(np.int8).reshape(-1)[: len(values)], scales


def dequantise(whole: NDArray[np.int8], scales: Floats, block: int = BLOCK) -> Floats:
    """The values of :func:`quantise`'s numbers, float32."""
    values = _padded(whole, block).astype(np.float32)
    values *= scales[:, None]
    return values.reshape(-1)[: len(whole)]


def _padded(values: NDArray[Any], block: int) -> NDArray[Any]:
    """Rows of ``block`` values, the last one filled up with zeros; a view where nothing is."""
    missing = -len(values) % block
    return (np.pad(values, (0, missing)) if missing else values).reshape(-1, block)


# -- layouts


def layout_of(model: TensorFile, spec: UpdateSpec) -> Layout:
    """Which tensors an encoded update of a model has.

    Raises:
        UpdateRefused: the model has a tensor whose name is that of another's scales.
    """
    kind = {"fp32": "", "bf16": "BF16", "fp16": "F16", "int8": "I8"}[spec.encoding]
    layout: dict[str, tuple[str, tuple[int, ...]]] = {}
    for name, tensor in model.tensors.items():
        layout[name] = (kind if kind and tensor.floating else tensor.dtype, tensor.shape)
        if spec.encoding == "int8" and tensor.floating:
            if name + SCALES in model.tensors:
                raise UpdateRefused(f"the model has a tensor {name}{SCALES}: it has no int8 form")
            layout[name + SCALES] = ("F32", (-(-tensor.count // BLOCK),))
    return layout


# -- files


@dataclass(frozen=True, slots=True)
class Feedback:
    """What rounding left out, as safetensors files with the model's names in float32.

    Attributes:
        before: of the rounds before; None where there is none. A file of another model (a plan
            never changes its network) or a damaged one is refused.
        after: is written: what is owed once this update has been used.
    """

    before: Path | None
    after: Path


def encode(
    update: Path, reference: Path, out: Path, spec: UpdateSpec, feedback: Feedback | None = None
) -> None:
    """Write an update in the form in which it travels. The same input gives the same bytes.

    Args:
        update: the model's new weights.
        reference: the global model that the training started from.
        out: the encoded update; written whole or not at all.
        spec: the plan's section.
        feedback: carries what rounding leaves out from round to round; None lets it go.

    Raises:
        UpdateRefused: a file is not well-formed or has other tensors than the model.
        OSError: no space, no permission.
    """
    model, new = open_tensors(reference), open_tensors(update)
    check_layout(new, model.layout)
    owed: TensorFile | None = None
    owed_layout = {n: ("F32", t.shape) for n, t in model.tensors.items() if t.floating}
    if feedback is not None and feedback.before is not None and owed_layout:
        owed = open_tensors(feedback.before)
        check_layout(owed, owed_layout)
    with _whole(out) as path:
        target = create(path, layout_of(model, spec))
        left: TensorFile | None = None
        if feedback is None or not owed_layout:
            _encode_all((new, model, owed), (target, left), spec)
        else:
            with _whole(feedback.after) as left_path:
                left = create(left_path, owed_layout)
                _encode_all((new, model, owed), (target, left), spec)
        if spec.compression == "zstd":
            _compress(path)


def decode(encoded: Path, reference: Path, out: Path, spec: UpdateSpec) -> None:
    """Write the weights that an encoded update stands for, in the global model's own form.

    Args:
        encoded: what came; nothing of it is believed.
        reference: the global model that the training started from.
        out: the new weights; they may hold NaN or infinity, which is for the caller to find.
        spec: the plan's section.

    Raises:
        UpdateRefused: not the file that the model and the plan ask for, in words.
        OSError: no space, no permission.
    """
    model = open_tensors(reference)
    layout = layout_of(model, spec)
    unpacked = out.with_name(f"{out.name}.unpacked")
    try:
        if spec.compression == "zstd":
            _decompress(encoded, unpacked, laid_out(unpacked, layout).size)
            encoded = unpacked
        source = open_tensors(encoded, _TYPES)
        check_layout(source, layout)
        with _whole(out) as path:
            target = create_like(model, path)
            for name, tensor in model.tensors.items():
                if tensor.floating and spec.encoding != "fp32":
                    _decode_tensor(source, model, target, name)
                else:
                    _copy(source, target, name)
    finally:
        unpacked.unlink(missing_ok=True)


def _encode_all(
    sources: tuple[TensorFile, TensorFile, TensorFile | None],
    targets: tuple[TensorFile, TensorFile | None],
    spec: UpdateSpec,
) -> None:
    new, model, _ = sources
    for name, tensor in model.tensors.items():
        if tensor.floating and spec.encoding != "fp32":
            _encode_tensor(sources, targets, name, spec.encoding)
        else:
            _copy(new, targets[0], name)


def _encode_tensor(
    sources: tuple[TensorFile, TensorFile, TensorFile | None],
    targets: tuple[TensorFile, TensorFile | None],
    name: str,
    encoding: str,
) -> None:
    new, base = sources[0].flat(name), sources[1].flat(name)
    owed = None if sources[2] is None else sources[2].flat(name)
    result = targets[0].flat(name, writable=True)
    left = None if targets[1] is None else targets[1].flat(name, writable=True)
    scales = targets[0].flat(name + SCALES, writable=True) if encoding == "int8" else None
    wide = np.float64 if sources[1].tensors[name].dtype == "F64" else np.float32
    # Differences beyond float32 become infinite, and with that refused.
    with np.errstate(over="ignore", invalid="ignore"):
        for part in blocks(len(result)):
            value = np.subtract(new[part], base[part], dtype=wide).astype(np.float32)
            if owed is not None:
                value += owed[part]
            if scales is not None:
                result[part], scales[_scales_of(part)] = quantise(value)
                sent = dequantise(result[part], scales[_scales_of(part)])
            elif encoding == "bf16":
                result[part] = to_bf16(value)
                sent = from_bf16(result[part])
            else:
                result[part] = to_fp16(value)
                sent = result[part].astype(np.float32)
            if left is not None:
                np.subtract(value, sent, out=value)
                left[part] = np.nan_to_num(value, copy=False, nan=0.0, posinf=0.0, neginf=0.0)
    _flush(result, scales, left)


def _decode_tensor(source: TensorFile, model: TensorFile, target: TensorFile, name: str) -> None:
    kind = source.tensors[name].dtype
    coded, base = source.flat(name), model.flat(name)
    result = target.flat(name, writable=True)
    scales = source.flat(name + SCALES) if kind == "I8" else None
    with np.errstate(over="ignore", invalid="ignore"):
        for part in blocks(len(result)):
            if scales is not None:
                some = scales[_scales_of(part)]
                if not np.isfinite(some).all():
                    raise UpdateRefused(
                        f"tensor {name} holds NaN or infinity (in its scales): training diverged"
                    )
                if (some < 0).any():
                    raise UpdateRefused(f"tensor {name} has a negative scale")
                step = dequantise(coded[part], some)
            elif kind == "BF16":
                step = from_bf16(coded[part])
            else:
                step = coded[part].astype(np.float32)
            result[part] = (base[part] + step).astype(result.dtype)
    _flush(result)


def _scales_of(part: slice) -> slice:
    """The scales of a block of values; blocks begin at multiples of ``BLOCK``."""
    return slice(part.start // BLOCK, -(-part.stop // BLOCK))


def _copy(source: TensorFile, target: TensorFile, name: str) -> None:
    values, result = source.flat(name), target.flat(name, writable=True)
    for part in blocks(len(result)):
        result[part] = values[part]
    _flush(result)


def _flush(*arrays: NDArray[Any] | None) -> None:
    for array in arrays:
        if isinstance(array, np.memmap):
            array.flush()


@contextmanager
def _whole(path: Path) -> Iterator[Path]:
    """A file to write that appears under its name once it is whole and durable."""
    making = path.with_name(f"{path.name}.making")
    try:
        yield making
        with making.open("rb+") as stream:
            os.fsync(stream.fileno())
        making.replace(path)
    finally:
        making.unlink(missing_ok=True)
    sync_folder(path.parent)


def _compress(path: Path) -> None:
    """Replace a file by one zstd frame that declares its size."""
    packed = path.with_name(f"{path.name}.packed")
    try:
        with path.open("rb") as source, packed.open("wb") as sink:
            size = os.fstat(source.fileno()).st_size
            zstandard.ZstdCompressor(level=LEVEL).copy_stream(
                source, sink, size=size, read_size=_COPY_BYTES, write_size=_COPY_BYTES
            )
        packed.replace(path)
    finally:
        packed.unlink(missing_ok=True)


def _decompress(packed: Path, out: Path, size: int) -> None:
    """Unpack a frame of exactly ``size`` bytes; never writes or holds more.

    Raises:
        UpdateRefused: not zstd, another declared or real size, or too much memory asked for.
    """
    try:
        with packed.open("rb") as source:
            frame = zstandard.get_frame_parameters(source.read(18))
            if frame.content_size != size:
                told = "no size" if frame.content_size >= 1 << 63 else f"{frame.content_size} bytes"
                raise UpdateRefused(
                    f"the compressed update declares {told}, this model's has {size} bytes"
                )
            source.seek(0)
            reader = zstandard.ZstdDecompressor(max_window_size=MAX_WINDOW_BYTES).stream_reader(
                source, read_size=_COPY_BYTES, read_across_frames=True
            )
            with out.open("wb") as sink:
                os.posix_fallocate(sink.fileno(), 0, size)
                left = size
                while left and (data := reader.read(min(left, _COPY_BYTES))):
                    sink.write(data)
                    left -= len(data)
                more = reader.read(1)
    except zstandard.ZstdError as error:
        raise UpdateRefused("the compressed update is not whole and valid zstd") from error
    if left or more:
        raise UpdateRefused("the compressed update does not unpack to the size that it declares")
