"""The models that travel: random float32 tensors in the shapes of a 3-D U-Net, and one "training".

Imported by every contender in its own environment too: numpy and the standard library only.
"""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import numpy as np

WIDTHS = (32, 64, 128, 256, 320, 320)
"""Channels of nnU-Net's default 3-D network (Isensee et al., Nat Methods 2021): about 124 MB."""


def _unet(scale: float) -> dict[str, tuple[int, ...]]:
    """Tensors of an encoder and a decoder: convolutions, biases and norms."""
    widths = [max(1, int(width * scale)) for width in WIDTHS]
    found: dict[str, tuple[int, ...]] = {}

    def block(name: str, before: int, after: int) -> None:
        for number, (source, target) in enumerate(((before, after), (after, after))):
            found[f"{name}.{number}.conv.weight"] = (target, source, 3, 3, 3)
            found[f"{name}.{number}.conv.bias"] = (target,)
            found[f"{name}.{number}.norm.weight"] = (target,)
            found[f"{name}.{number}.norm.bias"] = (target,)

    for stage, width in enumerate(widths):
        block(f"encoder.{stage}", widths[stage - 1] if stage else 1, width)
    for stage in range(len(widths) - 1, 0, -1):
        found[f"decoder.{stage}.up.weight"] = (widths[stage], widths[stage - 1], 2, 2, 2)
        block(f"decoder.{stage}", 2 * widths[stage - 1], widths[stage - 1])
    return found


def _numbers(shapes: dict[str, tuple[int, ...]]) -> int:
    return sum(int(np.prod(shape)) for shape in shapes.values())


def shapes(megabytes: int) -> dict[str, tuple[int, ...]]:
    """Names and shapes of a model of exactly so many megabytes (10^6 bytes) of float32."""
    wanted = megabytes * 1_000_000 // 4
    low, high = 0.01, 8.0
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (middle, high) if _numbers(_unet(middle)) <= wanted else (low, middle)
    found = _unet(low)
    found["head.weight"] = (wanted - _numbers(found),)
    return {name: shape for name, shape in found.items() if shape != (0,)}


def tensors(megabytes: int) -> dict[str, Any]:
    """The initial model, the same for every contender."""
    random = np.random.default_rng(megabytes)
    return {
        name: random.standard_normal(shape, dtype=np.float32)
        for name, shape in shapes(megabytes).items()
    }


def step_of(site: str, number: int) -> float:
    """What a site's stand-in for training adds to every weight in a round."""
    return (1 + sum(site.encode()) % 97) / 1e4 + number / 1e3


def write_safetensors(megabytes: int, path: Path) -> None:
    """The initial model as a safetensors file, written tensor by tensor."""
    header: dict[str, Any] = {}
    at = 0
    for name, shape in shapes(megabytes).items():
        size = 4 * int(np.prod(shape))
        header[name] = {"dtype": "F32", "shape": list(shape), "data_offsets": [at, at + size]}
        at += size
    raw = json.dumps(header, separators=(",", ":")).encode()
    raw += b" " * (-len(raw) % 8)
    random = np.random.default_rng(megabytes)
    with path.open("wb") as stream:
        stream.write(struct.pack("<Q", len(raw)) + raw)
        for shape in shapes(megabytes).values():
            stream.write(random.standard_normal(shape, dtype=np.float32).tobytes())
