"""From a round's fixed set of updates to the new global model, kept as an object.

What the engine decides (which updates count, and with which weights) comes in; what goes out is a
file whose bytes depend on the set alone: not on the order of arrival, not on restarts.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from federation.coordinator.objects import ObjectStore
from federation.strategies.fedavg import WeightedUpdate, fedavg


def new_global_model(
    updates: Sequence[WeightedUpdate], out: Path, objects: ObjectStore
) -> tuple[str, int]:
    """Fold updates into a new global model and keep it.

    Args:
        updates: at least one; verified (see :mod:`federation.coordinator.update_check`).
        out: a file to work in; it is moved among the objects.
        objects: gets the model.

    Returns:
        The model's object name and its size in bytes.

    Raises:
        UpdateRefused: no update, a weight that is not positive, or two of one site.
    """
    return objects.adopt(out, fedavg(updates, out))
