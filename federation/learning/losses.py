"""Losses of the registry."""

import torch
from torch import Tensor, nn
from torch.nn import functional

from federation.plan import LossSpec


class DiceCrossEntropy(nn.Module):
    """Weighted mean of soft Dice loss and cross-entropy.

    Soft Dice is taken per label over all voxels of the batch, ``1 - (2 sum(p r) + s) /
    (sum(p) + sum(r) + s)`` with ``s = 1`` voxel, so that a patch without foreground is defined and
    a batch with one lesion does not count its empty patches as failures. Background has no Dice
    term. Range 0 .. infinity, lower is better.

    Source of the combination: Isensee et al., Nature Methods 18 (2021) 203.
    """

    def __init__(self, spec: LossSpec) -> None:
        super().__init__()
        total = spec.dice_weight + spec.ce_weight
        self._dice = spec.dice_weight / total
        self._entropy = spec.ce_weight / total

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        """The loss.

        Args:
            logits: float (N, 1 + labels, X, Y, Z).
            target: int64 (N, X, Y, Z), class indices, 0 is background.
        """
        entropy = functional.cross_entropy(logits, target)
        probability = torch.softmax(logits, dim=1)
        losses = []
        for index in range(1, logits.shape[1]):
            wanted = (target == index).to(probability.dtype)
            found = probability[:, index]
            overlap = (found * wanted).sum()
            losses.append(1.0 - (2.0 * overlap + 1.0) / (found.sum() + wanted.sum() + 1.0))
        return self._dice * torch.stack(losses).mean() + self._entropy * entropy
