"""Safetensors files as memory maps: read what a stranger sent, write what we averaged, no copies.

The format is an 8-byte little-endian length, a JSON header, then the tensors' bytes. Everything is
checked before any tensor is touched: sizes, names, data types, and that the tensors cover the
file's data without gap or overlap. This module loads numpy, never torch.
"""

from __future__ import annotations

import json
import math
import mmap
import os
import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from federation.errors import TensorFileRefused, UpdateRefused

MAX_HEADER_BYTES: Final = 16 << 20
MAX_TENSORS: Final = 100_000
MAX_DIMENSIONS: Final = 16
_DTYPES: Final[Mapping[str, str]] = {
    "F64": "<f8",
    "F32": "<f4",
    "F16": "<f2",
    # NumPy has no bfloat16: its bits.
    "BF16": "<u2",
    "I64": "<i8",
    "I32": "<i4",
    "I16": "<i2",
    "I8": "|i1",
    "U8": "|u1",
    "BOOL": "|b1",
}
ENCODED_ONLY: Final = frozenset({"BF16"})
"""Types in which an update may travel, never a model (see :mod:`federation.encoding`)."""
AVERAGED: Final = frozenset(_DTYPES) - ENCODED_ONLY
Layout = Mapping[str, tuple[str, tuple[int, ...]]]
"""Name of a tensor to its safetensors type and its shape."""
_BLOCK: Final = 1 << 18
"""Elements of one step through a large tensor (2 MiB as float64)."""


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """Where one tensor lies.

    Attributes:
        dtype: safetensors' name of the type (``F32``, ...).
        shape: extents; empty for a scalar.
        begin: first byte, counted from the end of the header.
        end: the byte after the last.
    """

    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int

    @property
    def floating(self) -> bool:
        """Whether it holds floating-point numbers (weights), not counters or flags."""
        return self.dtype.startswith("F")

    @property
    def count(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)


@dataclass(frozen=True, slots=True)
class TensorFile:
    """A checked safetensors file; tensors are mapped when asked for.

    Attributes:
        path: the file.
        header: the header's bytes with their length prefix.
        tensors: name to place, in the order of the bytes.
        size: bytes of the whole file.
    """

    path: Path
    header: bytes
    tensors: Mapping[str, TensorSpec]
    size: int

    @property
    def layout(self) -> Layout:
        """Types and shapes, without places."""
        return {name: (spec.dtype, spec.shape) for name, spec in self.tensors.items()}

    def flat(self, name: str, *, writable: bool = False) -> NDArray[Any]:
        """One tensor as a one-dimensional memory map; empty tensors give an empty array."""
        spec = self.tensors[name]
        dtype = np.dtype(_DTYPES[spec.dtype])
        if spec.count == 0:
            return np.empty(0, dtype)
        mode: Any = "r+" if writable else "r"
        offset = len(self.header) + spec.begin
        return np.memmap(self.path, dtype, mode, offset, (spec.count,))


@dataclass(frozen=True, slots=True)
class Run:
    """Numbers of one type that lie side by side in each of several files.

    Attributes:
        dtype: safetensors' name of the type.
        count: how many.
        names: the tensors that they are, in order, each with its number of elements.
        offsets: the first one's byte in each file.
    """

    dtype: str
    count: int
    names: tuple[tuple[str, int], ...]
    offsets: tuple[int, ...]

    @property
    def floating(self) -> bool:
        """Whether they are floating-point numbers."""
        return self.dtype.startswith("F")

    def name_at(self, index: int) -> str:
        """The tensor that an element belongs to."""
        for name, count in self.names:
            if index < count:
                return name
            index -= count
        raise IndexError("an element behind the run's end")

    @property
    def numpy(self) -> np.dtype[Any]:
        """The type as NumPy has it."""
        return np.dtype(_DTYPES[self.dtype])


def runs(files: Sequence[TensorFile]) -> list[Run]:
    """Files of equal layout cut into as few runs as their tensors' places allow.

    Args:
        files: the order of the result is the first one's.
    """
    found: list[tuple[str, list[tuple[str, int]], tuple[int, ...]]] = []
    nexts: tuple[int, ...] = ()
    for name, spec in files[0].tensors.items():
        if not spec.count:
            continue
        offsets = tuple(len(file.header) + file.tensors[name].begin for file in files)
        if found and found[-1][0] == spec.dtype and offsets == nexts:
            found[-1][1].append((name, spec.count))
        else:
            found.append((spec.dtype, [(name, spec.count)], offsets))
        nexts = tuple(offset + spec.end - spec.begin for offset in offsets)
    return [
        Run(dtype, sum(count for _, count in names), tuple(names), offsets)
        for dtype, names, offsets in found
    ]


def mapped(file: TensorFile) -> mmap.mmap:
    """The whole file, read-only; its views keep it open."""
    with file.path.open("rb") as stream:
        return mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)


def blocks(count: int) -> Iterator[slice]:
    """Slices that walk through ``count`` elements in steps of bounded memory.

    >>> [s.stop for s in blocks(300_000)]
    [262144, 300000]
    """
    for begin in range(0, count, _BLOCK):
        yield slice(begin, min(begin + _BLOCK, count))


def open_tensors(path: Path, types: frozenset[str] = AVERAGED) -> TensorFile:
    """Read and check a file's header.

    Args:
        path: the file.
        types: safetensors' names of the types that may stand in it.

    Raises:
        TensorFileRefused: the file is not well-formed or uses a type that is not averaged here.
    """
    try:
        size = path.stat().st_size
        with path.open("rb") as stream:
            prefix = stream.read(8)
            if len(prefix) < 8:
                raise TensorFileRefused("the file is shorter than a safetensors header")
            (length,) = struct.unpack("<Q", prefix)
            if length > min(MAX_HEADER_BYTES, size - 8):
                raise TensorFileRefused("the header is longer than the file or than 16 MiB")
            raw = stream.read(length)
    except OSError as error:
        raise TensorFileRefused(f"the tensors cannot be read ({error.strerror})") from error
    try:
        document = json.loads(raw)
    except (ValueError, RecursionError) as error:
        raise TensorFileRefused("the header is not JSON") from error
    if not isinstance(document, dict):
        raise TensorFileRefused("the header is no JSON object")
    document.pop("__metadata__", None)
    if not 0 < len(document) <= MAX_TENSORS:
        raise TensorFileRefused(f"{len(document)} tensors; 1 to {MAX_TENSORS} are taken")
    tensors = {name: _spec(entry, types) for name, entry in document.items()}
    ordered = dict(sorted(tensors.items(), key=lambda item: (item[1].begin, item[1].end)))
    _check_cover(ordered, size - 8 - length)
    return TensorFile(path, prefix + raw, ordered, size)


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1 << 48


def _spec(entry: object, types: frozenset[str]) -> TensorSpec:
    if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
        raise TensorFileRefused("a tensor's entry does not have dtype, shape and data_offsets")
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in types:
        raise TensorFileRefused(f"a tensor has a type that is not taken ({str(dtype)[:16]})")
    if (
        not isinstance(shape, list)
        or len(shape) > MAX_DIMENSIONS
        or not all(_is_count(extent) for extent in shape)
        or not isinstance(offsets, list)
        or len(offsets) != 2
        or not all(_is_count(offset) for offset in offsets)
    ):
        raise TensorFileRefused("a tensor's shape or offsets are not whole numbers")
    return TensorSpec(dtype, tuple(shape), offsets[0], offsets[1])


def _check_cover(tensors: Mapping[str, TensorSpec], data_size: int) -> None:
    at = 0
    for spec in tensors.values():
        expected = spec.count * np.dtype(_DTYPES[spec.dtype]).itemsize
        if spec.begin != at or spec.end - spec.begin != expected:
            raise TensorFileRefused("the tensors leave gaps, overlap, or do not fit their shapes")
        at = spec.end
    if at != data_size:
        raise TensorFileRefused(f"the tensors end at byte {at}, the data at byte {data_size}")


def check_layout(found: TensorFile, wanted: Layout) -> None:
    """Check names, shapes and types.

    Raises:
        UpdateRefused: the first difference, in words.
    """
    missing = [name for name in wanted if name not in found.tensors]
    if missing:
        raise UpdateRefused(
            f"{len(missing)} of {len(wanted)} tensors are missing, first {missing[0]}"
        )
    if further := len(found.tensors) - len(wanted):
        raise UpdateRefused(f"{further} tensors that the model does not have")
    for name, (dtype, shape) in wanted.items():
        spec = found.tensors[name]
        if spec.shape != shape:
            raise UpdateRefused(
                f"tensor {name} has shape {list(spec.shape)}, expected {list(shape)}"
            )
        if spec.dtype != dtype:
            raise UpdateRefused(f"tensor {name} has type {spec.dtype}, expected {dtype}")


def create_like(reference: TensorFile, path: Path) -> TensorFile:
    """A new file at ``path`` with the reference's header and zeros, to be filled in place."""
    made = TensorFile(path, reference.header, reference.tensors, reference.size)
    _allocate(made)
    return made


def laid_out(path: Path, layout: Layout) -> TensorFile:
    """How a file at ``path`` with these tensors looks; equal layouts give equal headers.

    Wide types come first, so that every tensor lies aligned.
    """
    widths = {name: np.dtype(_DTYPES[dtype]).itemsize for name, (dtype, _) in layout.items()}
    tensors: dict[str, TensorSpec] = {}
    at = 0
    for name in sorted(layout, key=lambda name: (-widths[name], name)):
        dtype, shape = layout[name]
        end = at + math.prod(shape) * widths[name]
        tensors[name] = TensorSpec(dtype, shape, at, end)
        at = end
    document = {
        name: {"dtype": t.dtype, "shape": list(t.shape), "data_offsets": [t.begin, t.end]}
        for name, t in tensors.items()
    }
    raw = json.dumps(document, separators=(",", ":")).encode()
    raw += b" " * (-len(raw) % 8)
    header = struct.pack("<Q", len(raw)) + raw
    return TensorFile(path, header, tensors, len(header) + at)


def create(path: Path, layout: Layout) -> TensorFile:
    """A new file at ``path`` with these tensors, all zeros, to be filled in place."""
    made = laid_out(path, layout)
    _allocate(made)
    return made


def _allocate(file: TensorFile) -> None:
    with file.path.open("wb") as stream:
        stream.write(file.header)
        stream.flush()
        # A map onto space that is not there ends in SIGBUS: have it, or fail in words now.
        os.posix_fallocate(stream.fileno(), 0, file.size)
