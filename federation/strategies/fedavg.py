"""Federated averaging (McMahan et al., AISTATS 2017, arXiv 1602.05629): the weighted mean.

Every sum runs in float64 and in the order of the sites' names, so the result is the same to the bit
whatever order the updates came in. Floating-point tensors are averaged; counters and flags
(integers, booleans) cannot be averaged and take the element-wise largest, the newest. Memory is
bounded by the block size, not by the model or the number of sites.
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
class WeightedUpdate:
    """One site's verified update.

    Attributes:
        site: the site's name; fixes the order of summation.
        weight: a positive number (training cases, capped by the plan).
        path: safetensors file with the model's new weights.
    """

    site: str
    weight: float
    path: Path


def fedavg(updates: Sequence[WeightedUpdate], out: Path) -> ChunkList:
    """Write the weighted mean of ``updates`` to ``out``.

    Args:
        updates: at least one; same tensors, shapes and types in each (checked before, by
            :mod:`federation.coordinator.update_check`).
        out: the new file.

    Returns:
        The new file's chunks.

    Raises:
        UpdateRefused: no update, a weight that is not positive, or two of one site.
    """
    ordered = sorted(updates, key=lambda update: update.site)
    if not ordered:
        raise UpdateRefused("there is no update to average")
    if len({update.site for update in ordered}) != len(ordered):
        raise UpdateRefused("a site's update is there twice")
    if not all(update.weight > 0 for update in ordered):
        raise UpdateRefused("every weight must be positive")
    total = float(sum(update.weight for update in ordered))
    shares = [update.weight / total for update in ordered]

    def _sums(
        parts: Sequence[NDArray[Any]], into: NDArray[np.float64], spare: NDArray[np.float64]
    ) -> None:
        into[:] = parts[0]
        into *= shares[0]
        for part, share in zip(parts[1:], shares[1:], strict=True):
            spare[:] = part
            spare *= share
            into += spare

    files = [open_tensors(update.path) for update in ordered]
    return write_folded(files, Fold(_sums, range(len(files))), out)
