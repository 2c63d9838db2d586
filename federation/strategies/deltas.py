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

import numpy as np

from federation.errors import UpdateRefused
from federation.tensorfile import TensorFile, blocks, create_like, open_tensors


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


def fold_deltas(base: Path, updates: Sequence[DeltaUpdate], out: Path) -> None:
    """Write the model that ``updates`` make of ``base`` to ``out``.

    Args:
        base: the present global model, safetensors.
        updates: at least one; same tensors, shapes and types in each and in each reference.
        out: the new file.

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
    present = open_tensors(base)
    pairs = [(open_tensors(update.path), open_tensors(update.reference)) for update in ordered]
    total = float(sum(update.weight for update in ordered))
    shares = [update.weight / total for update in ordered]
    target = create_like(present, out)
    for name, spec in target.tensors.items():
        result = target.flat(name, writable=True)
        if spec.floating:
            _fold(present, pairs, shares, (name, result))
        else:
            sources = [present, *(update for update, _ in pairs)]
            for part in blocks(result.size):
                result[part] = np.maximum.reduce([file.flat(name)[part] for file in sources])
        if isinstance(result, np.memmap):
            result.flush()


def _fold(
    present: TensorFile,
    pairs: Sequence[tuple[TensorFile, TensorFile]],
    shares: Sequence[float],
    into: tuple[str, np.ndarray],
) -> None:
    name, result = into
    base = present.flat(name)
    sources = [(update.flat(name), reference.flat(name)) for update, reference in pairs]
    for part in blocks(result.size):
        total = base[part].astype(np.float64)
        for (update, reference), share in zip(sources, shares, strict=True):
            total += share * (update[part].astype(np.float64) - reference[part].astype(np.float64))
        result[part] = total.astype(result.dtype)
