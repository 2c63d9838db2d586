"""What the coordinator demands of an update before it counts: whole, of the right form, finite."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from federation.coordinator.settings import DEFAULT_NORM_RATIO
from federation.errors import UpdateRefused
from federation.tensorfile import Run, TensorFile, check_layout, mapped, open_tensors, runs

_BLOCK: Final = 1 << 13
"""Elements of one step: BLAS starts no threads for so few, and they stay in the cache."""


@dataclass(frozen=True, slots=True)
class UpdateFacts:
    """What is recorded of an accepted update.

    Attributes:
        norm: L2 norm of the difference to the global model.
        global_norm: L2 norm of the global model.
    """

    norm: float
    global_norm: float


def check_weight(cases: int, available: int) -> None:
    """Check the number of training cases that a site claims to have used.

    Args:
        cases: what the update's report says.
        available: training cases in the site's frozen data set, as told when it joined.

    Raises:
        UpdateRefused: it is not between 1 and ``available``.
    """
    if cases <= 0:
        raise UpdateRefused(
            f"the update's weight is {cases} training cases; a site that trained has at least 1"
        )
    if cases > available:
        raise UpdateRefused(
            f"the update's weight is {cases} training cases, the site's frozen data set has "
            f"{available}"
        )


def check_update(
    path: Path, reference: Path, *, norm_ratio: float = DEFAULT_NORM_RATIO
) -> UpdateFacts:
    """Compare an update with the global model it was trained from.

    Args:
        path: the staged update, safetensors.
        reference: the global model, safetensors.
        norm_ratio: largest allowed norm of the difference, in norms of the global model.

    Raises:
        UpdateRefused: keys, shape, type, finite values or norm; the first problem in words.
    """
    update, model = open_tensors(path), open_tensors(reference)
    check_layout(update, model.layout)
    difference = _squares_of_difference(update, model)
    norm, global_norm = math.sqrt(difference), _norm(reference, *_facts(reference))
    if norm > norm_ratio * max(global_norm, 1.0):
        raise UpdateRefused(
            f"the update moves the model by {norm:.3g}, the model's own norm is "
            f"{global_norm:.3g}: more than {norm_ratio:g} times is refused"
        )
    return UpdateFacts(norm, global_norm)


def _squares_of_difference(update: TensorFile, model: TensorFile) -> float:
    """The sum of the squares of update minus model, in one pass over both.

    Raises:
        UpdateRefused: the update holds a NaN or an infinity.
    """
    maps = mapped(update), mapped(model)
    total = 0.0
    for run in runs([update, model]):
        if not run.floating:
            continue
        new, old = (
            np.frombuffer(file, run.numpy, run.count, offset)
            for file, offset in zip(maps, run.offsets, strict=True)
        )
        spare = np.empty(_BLOCK, run.numpy)
        for at in range(0, run.count, _BLOCK):
            value, base = new[at : at + _BLOCK], old[at : at + _BLOCK]
            with np.errstate(over="ignore", invalid="ignore"):
                step = np.subtract(value, base, out=spare[: len(value)])
                squares = float(np.dot(step, step))
            if not math.isfinite(squares) or run.dtype == "F16":
                # Not a number, or too large (or too coarse) for sums in the tensor's own type.
                squares = _exactly(run, at, value, base)
            total += squares
    return total


def _exactly(run: Run, at: int, value: NDArray[Any], base: NDArray[Any]) -> float:
    wide = value.astype(np.float64)
    finite = np.isfinite(wide)
    if not finite.all():
        name = run.name_at(at + int(np.argmin(finite)))
        bad = int(np.count_nonzero(~finite))
        raise UpdateRefused(
            f"tensor {name} holds NaN or infinity ({bad} in one block): training diverged"
        )
    wide -= base
    return float(np.einsum("i,i->", wide, wide))


def _facts(path: Path) -> tuple[int, int, int]:
    facts = path.stat()
    return facts.st_ino, facts.st_mtime_ns, facts.st_size


@lru_cache(maxsize=8)
def _norm(path: Path, *_: int) -> float:
    """A model's norm: the same for the updates of all sites."""
    model = open_tensors(path)
    file = mapped(model)
    total = 0.0
    for run in runs([model]):
        if not run.floating:
            continue
        values = np.frombuffer(file, run.numpy, run.count, run.offsets[0])
        for at in range(0, run.count, _BLOCK):
            wide = values[at : at + _BLOCK].astype(np.float64)
            total += float(np.einsum("i,i->", wide, wide))
    return math.sqrt(total)
