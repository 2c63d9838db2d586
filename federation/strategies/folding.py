"""A new model made of several files, chunk by chunk: computed, hashed and written in one sweep.

Every element depends on the elements at its own place alone, so the result is the same to the bit
however the work is cut and on however many cores it runs. Memory is a few chunks for each core,
whatever the size of the model and the number of files: the files are mapped, not read.
"""

from __future__ import annotations

import hashlib
import mmap
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from federation.chunks import CHUNK_BYTES, ChunkList, chunk_count
from federation.staging import start_writing, write_at
from federation.tensorfile import Run, TensorFile, laid_out, mapped, runs

BLOCK: Final = 1 << 16
"""Elements of one step: two float64 buffers of them stay in a core's cache."""
CORES: Final = 4
"""Cores used at most; more would wait for memory."""

Array = NDArray[Any]
Sums = Callable[[Sequence[Array], NDArray[np.float64], NDArray[np.float64]], None]
"""Puts the new floating-point numbers into its second argument; the third one is spare."""


@dataclass(frozen=True)
class Fold:
    """How new numbers are made of the files' numbers.

    Attributes:
        sums: for floating-point numbers; gets one array for each file.
        newest: files whose counters and flags count; the element-wise largest is taken.
    """

    sums: Sums
    newest: Sequence[int]


def write_folded(sources: Sequence[TensorFile], fold: Fold, out: Path) -> ChunkList:
    """Write the model that ``fold`` makes of ``sources``.

    Args:
        sources: files of equal layout; nothing else of their headers reaches the new file.
        fold: see :class:`Fold`.
        out: the new file; it is not synced.

    Returns:
        The new file's chunks.
    """
    target = laid_out(out, sources[0].layout)
    work = _Work(target, sources, fold)
    count = chunk_count(target.size)
    with out.open("wb") as stream:
        # Have the space, or fail now.
        os.posix_fallocate(stream.fileno(), 0, target.size)

        def _write(index: int) -> bytes:
            data = work.chunk(index)
            digest = hashlib.sha256(data).digest()
            write_at(stream.fileno(), data, index * CHUNK_BYTES)
            start_writing(stream.fileno(), index * CHUNK_BYTES, len(data))
            return digest

        cores = min(CORES, os.cpu_count() or 1, count)
        with ThreadPoolExecutor(cores, thread_name_prefix="fold") as pool:
            digests = list(pool.map(_write, range(count)))
    return ChunkList.of_digests(target.size, digests)


class _Work:
    """Makes the bytes of any chunk of the new file."""

    def __init__(self, target: TensorFile, sources: Sequence[TensorFile], fold: Fold) -> None:
        self._target = target
        self._fold = fold
        self._maps: list[mmap.mmap] = [mapped(source) for source in sources]
        self._runs = runs([target, *sources])

    def chunk(self, index: int) -> memoryview:
        """One chunk's bytes."""
        begin = index * CHUNK_BYTES
        end = min(begin + CHUNK_BYTES, self._target.size)
        data = np.empty(end - begin, np.uint8)
        header = self._target.header[begin:end]
        data[: len(header)] = np.frombuffer(header, np.uint8)
        buffers = np.empty(BLOCK, np.float64), np.empty(BLOCK, np.float64)
        for run, first, stop in self._within(begin, end):
            for at in range(first, stop, BLOCK):
                count = min(BLOCK, stop - at)
                made = self._elements(run, at, count, buffers).view(np.uint8)
                # An element may lie across two chunks: each takes its part of it.
                place = run.offsets[0] + at * run.numpy.itemsize - begin
                cut, room = max(0, -place), len(data) - place
                data[place + cut : place + len(made)] = made[cut:room]
        return data.data

    def _within(self, begin: int, end: int) -> Iterator[tuple[Run, int, int]]:
        """Elements of which a byte lies between two places of the file."""
        for run in self._runs:
            size, start = run.numpy.itemsize, run.offsets[0]
            first = max(0, (begin - start) // size)
            stop = min(run.count, -(-(end - start) // size))
            if first < stop:
                yield run, first, stop

    def _elements(
        self,
        run: Run,
        at: int,
        count: int,
        buffers: tuple[NDArray[np.float64], NDArray[np.float64]],
    ) -> Array:
        size = run.numpy.itemsize
        views = [
            np.frombuffer(file, run.numpy, count, offset + at * size)
            for file, offset in zip(self._maps, run.offsets[1:], strict=True)
        ]
        if not run.floating:
            return np.asarray(np.maximum.reduce([views[index] for index in self._fold.newest]))
        total, spare = buffers[0][:count], buffers[1][:count]
        self._fold.sums(views, total, spare)
        return total.astype(run.numpy)
