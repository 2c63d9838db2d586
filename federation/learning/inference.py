"""Sliding-window inference whose memory is bounded by one batch of windows.

Windows of the training patch's size overlap; each contributes to its voxels with a Gaussian
weight, so that a window's centre counts more than its border. Windows without a voxel of the
brain are skipped: there the answer is background.
"""

from collections.abc import Iterator
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from federation.learning.networks import MEMORY_FORMAT
from federation.learning.prepared import PreparedCase
from federation.plan import Plan

OVERLAP: Final = 0.25
"""Least overlap of neighbouring windows, as a share of their edge."""
SIGMA: Final = 0.25
"""SD of a window's weight, as a share of its edge."""

Box = tuple[slice, slice, slice]


def window_starts(extent: int, edge: int) -> list[int]:
    """First voxels of the windows along one axis: evenly spaced, the last one ends at the border.

    >>> window_starts(100, 48), window_starts(48, 48), window_starts(20, 48)
    ([0, 26, 52], [0], [0])
    """
    if extent <= edge:
        return [0]
    stride = max(1, int(edge * (1.0 - OVERLAP)))
    count = -(-(extent - edge) // stride) + 1
    return [round(i * (extent - edge) / (count - 1)) for i in range(count)]


def window_weight(size: tuple[int, int, int]) -> Tensor:
    """Gaussian weight of a window, float32 (X, Y, Z), largest value near 1, nowhere 0."""
    weight = torch.ones(size)
    for axis, edge in enumerate(size):
        offset = (torch.arange(edge, dtype=torch.float32) - (edge - 1) / 2) / (SIGMA * edge)
        shape = [1, 1, 1]
        shape[axis] = edge
        weight = weight * torch.exp(-0.5 * offset**2).reshape(shape)
    return weight.clamp_min(1e-4)


def predict(network: nn.Module, case: PreparedCase, plan: Plan) -> NDArray[np.uint8]:
    """Segment one case.

    Args:
        network: The plan's network with its weights; it is put into evaluation mode.
        case: The prepared case, (C, X, Y, Z).
        plan: Patch size, labels.

    Returns:
        uint8 (X, Y, Z), the plan's label values; 0 outside the brain.
    """
    size = plan.training.patch_size
    device = next(network.parameters()).device
    image = torch.from_numpy(_padded(case.image, size))
    inside = torch.from_numpy(_padded(case.brain[None], size)[0]) > 0
    total = torch.zeros((1 + len(plan.labels), *image.shape[1:]))
    weight = window_weight(size)
    network.eval()
    with torch.inference_mode():
        for boxes in _batches(image.shape[1:], inside, size, plan.training.batch_size):
            windows = torch.stack([image[(slice(None), *box)] for box in boxes])
            windows = windows.to(device, memory_format=MEMORY_FORMAT)
            logits = network(windows).float().cpu()
            for box, answer in zip(boxes, torch.softmax(logits, dim=1), strict=True):
                total[(slice(None), *box)] += answer * weight
        classes = total.argmax(dim=0)
        classes[~inside] = 0
    values = np.array([0, *(label.value for label in plan.labels)], dtype=np.uint8)
    padded = values[classes.numpy()]
    x, y, z = case.brain.shape
    return np.ascontiguousarray(padded[:x, :y, :z])


def _padded(array: NDArray[np.generic], size: tuple[int, int, int]) -> NDArray[np.generic]:
    """Zeros appended at the far ends until no axis is shorter than a window."""
    grow = [(0, max(0, edge - have)) for have, edge in zip(array.shape[1:], size, strict=True)]
    return np.pad(array, [(0, 0), *grow]) if any(after for _, after in grow) else array


def _batches(
    grid: torch.Size, inside: Tensor, size: tuple[int, int, int], batch_size: int
) -> Iterator[list[Box]]:
    batch: list[Box] = []
    for x in window_starts(grid[0], size[0]):
        for y in window_starts(grid[1], size[1]):
            for z in window_starts(grid[2], size[2]):
                box = (slice(x, x + size[0]), slice(y, y + size[1]), slice(z, z + size[2]))
                if not bool(inside[box].any()):
                    continue
                batch.append(box)
                if len(batch) == batch_size:
                    yield batch
                    batch = []
    if batch:
        yield batch
