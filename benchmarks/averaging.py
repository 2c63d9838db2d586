"""Federated averaging of three updates, next to the plainest NumPy that does the same."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file, save_file

from benchmarks.table import Row, in_turn
from federation.strategies.fedavg import WeightedUpdate, fedavg

TENSORS, VALUES = 40, 250_000


def measure() -> list[Row]:
    """Forty tensors of a million bytes, three sites."""
    random = np.random.default_rng(1)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        paths = []
        for site in range(3):
            tensors = {
                f"t{i}": random.standard_normal(VALUES).astype(np.float32) for i in range(TENSORS)
            }
            paths.append(folder / f"site{site}.safetensors")
            save_file(tensors, paths[-1])
        updates = [WeightedUpdate(p.stem, 6.0, p) for p in paths]

        def plain() -> None:
            loaded = [load_file(p) for p in paths]
            mean = {
                key: sum(each[key].astype(np.float64) / 3 for each in loaded).astype(np.float32)
                for key in loaded[0]
            }
            save_file(mean, folder / "plain.safetensors")

        def ours() -> None:
            fedavg(updates, folder / "ours.safetensors")

        return in_turn({"plain NumPy": plain, "clinode": ours})
