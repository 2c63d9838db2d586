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

import numpy as np

from federation.errors import UpdateRefused
from federation.tensorfile import TensorFile, blocks, create_like, open_tensors


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


def fedavg(updates: Sequence[WeightedUpdate], out: Path) -> None:
    """Write the weighted mean of ``updates`` to ``out``.

    Args:
        updates: at least one; same tensors, shapes and types in each (checked before, by
            :mod:`federation.coordinator.update_check`).
        out: the new file.

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
    files = [open_tensors(update.path) for update in ordered]
    target = create_like(files[0], out)
    total = float(sum(update.weight for update in ordered))
    shares = [update.weight / total for update in ordered]
    for name, spec in target.tensors.items():
        (_average if spec.floating else _newest)(files, shares, target, name)


def _average(
    files: Sequence[TensorFile], shares: Sequence[float], target: TensorFile, name: str
) -> None:
    sources = [file.flat(name) for file in files]
    result = target.flat(name, writable=True)
    for part in blocks(result.size):
        total = np.zeros(part.stop - part.start, np.float64)
        for source, share in zip(sources, shares, strict=True):
            total += share * source[part].astype(np.float64)
        result[part] = total.astype(result.dtype)
    if isinstance(result, np.memmap):
        result.flush()


def _newest(files: Sequence[TensorFile], _: Sequence[float], target: TensorFile, name: str) -> None:
    sources = [file.flat(name) for file in files]
    result = target.flat(name, writable=True)
    for part in blocks(result.size):
        newest = sources[0][part]
        for source in sources[1:]:
            newest = np.maximum(newest, source[part])
        result[part] = newest
    if isinstance(result, np.memmap):
        result.flush()
