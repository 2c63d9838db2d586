"""Updates that started from different models, folded as differences onto the present one.

``new = base + sum(share_k * (update_k - reference_k))`` with shares that sum to 1: buffered
asynchronous aggregation (FedBuff, Nguyen et al., AISTATS 2022, arXiv 2106.06639), and late updates
of a synchronous round. Where every reference is the base this is the weighted mean.

Every sum runs in float64 and in the order of (site, sequence), so the result is the same to the bit
whatever the order of arrival. Counters and flags (integers, booleans) take the element-wise
largest, the newest. Memory is bounded by the block size.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from federation.chunks import ChunkList
from federation.errors import UpdateRefused
from federation.strategies.folding import Fold, write_folded
from federation.tensorfile import open_tensors


@dataclass(frozen=True, slots=True)
class DeltaUpdate:
    """One verified update with the model that it started from.

    Attributes:
        site: the site's name.
        sequence: its place in the run's recorded order of updates; with ``site`` it fixes the
            order of summation.
        weight: a positive number.
        path: safetensors file with the model's new weights.
        reference: safetensors file of the model that it started from.
    """

    site: str
    sequence: int
    weight: float
    path: Path
    reference: Path


def fold_deltas(base: Path, updates: Sequence[DeltaUpdate], out: Path) -> ChunkList:
    """Write the model that ``updates`` make of ``base`` to ``out``.

    Args:
        base: the present global model, safetensors.
        updates: at least one; same tensors, shapes and types in each and in each reference.
        out: the new file.

    Returns:
        The new file's chunks.

    Raises:
        UpdateRefused: no update, a weight that is not positive, or one update twice.
    """
    ordered = sorted(updates, key=lambda update: (update.site, update.sequence))
    if not ordered:
        raise UpdateRefused("there is no update to fold")
    if len({update.sequence for update in ordered}) != len(ordered):
        raise UpdateRefused("an update is there twice")
    if not all(update.weight > 0 for update in ordered):
        raise UpdateRefused("every weight must be positive")
    total = float(sum(update.weight for update in ordered))
    shares = [update.weight / total for update in ordered]

    def _sums(
        parts: Sequence[NDArray[Any]], into: NDArray[np.float64], spare: NDArray[np.float64]
    ) -> None:
        into[:] = parts[0]
        for update, reference, share in zip(parts[1::2], parts[2::2], shares, strict=True):
            np.subtract(update, reference, out=spare, dtype=np.float64)
            np.multiply(spare, share, out=spare)
            np.add(into, spare, out=into)

    files = [open_tensors(base)]
    for update in ordered:
        files += [open_tensors(update.path), open_tensors(update.reference)]
    newest = [0, *range(1, len(files), 2)]
    return write_folded(files, Fold(_sums, newest), out)
