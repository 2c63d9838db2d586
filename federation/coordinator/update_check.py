"""What the coordinator demands of an update before it counts: whole, of the right form, finite."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np

from federation.errors import UpdateRefused
from federation.tensorfile import blocks, check_layout, open_tensors

DEFAULT_NORM_RATIO: Final = 1000.0
"""An update that moves the model by more than this times the model's own norm is refused."""


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
    difference = magnitude = 0.0
    for name, spec in model.tensors.items():
        if not spec.floating:
            continue
        new, old = update.flat(name), model.flat(name)
        for part in blocks(spec.count):
            value, base = new[part].astype(np.float64), old[part].astype(np.float64)
            if not np.isfinite(value).all():
                bad = int(np.count_nonzero(~np.isfinite(value)))
                raise UpdateRefused(
                    f"tensor {name} holds NaN or infinity ({bad} in one block): training diverged"
                )
            step = value - base
            difference += float(step @ step)
            magnitude += float(base @ base)
    norm, global_norm = math.sqrt(difference), math.sqrt(magnitude)
    if norm > norm_ratio * max(global_norm, 1.0):
        raise UpdateRefused(
            f"the update moves the model by {norm:.3g}, the model's own norm is "
            f"{global_norm:.3g}: more than {norm_ratio:g} times is refused"
        )
    return UpdateFacts(norm, global_norm)
