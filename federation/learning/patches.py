"""Random training patches from prepared cases, in numpy and reproducible from one generator."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeVar

import numpy as np
from numpy.typing import NDArray

from federation.learning.prepared import CaseEntry, PreparedCase, PreparedFolder
from federation.plan import AugmentationSpec, Plan

_Scalar = TypeVar("_Scalar", bound=np.generic)

_KEPT_VOXELS: Final = 20_000
"""At most this many foreground and brain positions are remembered per case."""


@dataclass(frozen=True, slots=True)
class Batch:
    """A batch of patches.

    Attributes:
        image: float32 (N, C, X, Y, Z).
        target: int64 (N, X, Y, Z), class indices (0 background, i the plan's i-th label).
    """

    image: NDArray[np.float32]
    target: NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class _Positions:
    foreground: NDArray[np.int32]
    brain: NDArray[np.int32]


class PatchSampler:
    """Draws batches; cases take turns in random order, so that every case is used alike.

    Args:
        plan: Patch size, foreground share, modality dropout, augmentation, labels.
        folder: The prepared folder.
        entries: The training cases.
        generator: Source of all randomness; its state is all there is to save.
    """

    def __init__(
        self,
        plan: Plan,
        folder: PreparedFolder,
        entries: Sequence[CaseEntry],
        generator: np.random.Generator,
    ) -> None:
        self._plan = plan
        self._folder = folder
        self._entries = tuple(entries)
        self._generator = generator
        self._positions: dict[str, _Positions] = {}
        self._turn: list[CaseEntry] = []
        self.used: set[str] = set()
        self.drawn = 0
        values = np.zeros(256, dtype=np.int64)
        for index, label in enumerate(plan.labels, start=1):
            values[label.value] = index
        self._classes = values
        self._optional = [i for i, entry in enumerate(plan.inputs) if not entry.required]

    def batch(self) -> Batch:
        """The next batch of ``plan.training.batch_size`` patches."""
        pairs = [self._patch() for _ in range(self._plan.training.batch_size)]
        return Batch(np.stack([image for image, _ in pairs]), np.stack([t for _, t in pairs]))

    def _patch(self) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        if not self._turn:
            order = self._generator.permutation(len(self._entries))
            self._turn = [self._entries[i] for i in order]
        entry = self._turn.pop()
        case = self._folder.case(entry)
        self.used.add(entry.case)
        self.drawn += 1
        centre = self._centre(case)
        size = self._plan.training.patch_size
        image = cut(case.image, centre, size)
        label = case.label if case.label is not None else np.zeros_like(case.brain)
        target = self._classes[cut(label[None], centre, size)[0]]
        self._blank_optional(image)
        return augment(image, target, self._plan.training.augmentation, self._generator)

    def _centre(self, case: PreparedCase) -> tuple[int, int, int]:
        """A labelled voxel with the plan's probability, else any voxel of the brain.

        The patch is shifted at random by up to a quarter of its edge, so that lesions do not
        always lie in the middle.
        """
        positions = self._positions.get(case.case)
        if positions is None:
            positions = self._find_positions(case)
            self._positions[case.case] = positions
        wants = self._generator.random() < self._plan.training.foreground_share
        pool = positions.foreground if wants and len(positions.foreground) else positions.brain
        if not len(pool):
            x, y, z = (edge // 2 for edge in case.brain.shape)
            return x, y, z
        shift = [edge // 4 for edge in self._plan.training.patch_size]
        offset = self._generator.integers(np.negative(shift), np.add(shift, 1))
        x, y, z = pool[self._generator.integers(len(pool))] + (offset if wants else 0)
        return int(x), int(y), int(z)

    def _find_positions(self, case: PreparedCase) -> _Positions:
        label = case.label if case.label is not None else np.zeros_like(case.brain)
        return _Positions(
            _thinned(np.argwhere(self._classes[label] > 0).astype(np.int32)),
            _thinned(np.argwhere(case.brain).astype(np.int32)),
        )

    def _blank_optional(self, image: NDArray[np.float32]) -> None:
        chance = self._plan.training.modality_dropout
        present = [index for index in self._optional if image[index].any()]
        if chance > 0.0 and present and self._generator.random() < chance:
            image[present[self._generator.integers(len(present))]] = 0.0


def _thinned(positions: NDArray[np.int32]) -> NDArray[np.int32]:
    step = max(1, -(-len(positions) // _KEPT_VOXELS))
    return positions[::step]


def cut(
    array: NDArray[_Scalar], centre: tuple[int, int, int], size: tuple[int, int, int]
) -> NDArray[_Scalar]:
    """A copy of the box of ``size`` voxels around ``centre``.

    The box is moved inside the array where it fits; where the array is smaller, it is centred and
    filled with zeros.

    Args:
        array: (C, X, Y, Z).
        centre: Voxel index; may lie outside.
        size: Edges of the box in voxels.

    >>> cut(np.arange(6).reshape(1, 6, 1, 1), (5, 0, 0), (4, 1, 1)).ravel().tolist()
    [2, 3, 4, 5]
    >>> cut(np.ones((1, 2, 1, 1)), (0, 0, 0), (4, 1, 1)).ravel().tolist()
    [0.0, 1.0, 1.0, 0.0]
    """
    source, target = [slice(None)], [slice(None)]
    for middle, edge, extent in zip(centre, size, array.shape[1:], strict=True):
        if extent <= edge:
            begin = (edge - extent) // 2
            source.append(slice(0, extent))
            target.append(slice(begin, begin + extent))
        else:
            begin = min(max(middle - edge // 2, 0), extent - edge)
            source.append(slice(begin, begin + edge))
            target.append(slice(0, edge))
    box = np.zeros((array.shape[0], *size), dtype=array.dtype)
    box[tuple(target)] = array[tuple(source)]
    return box


def augment(
    image: NDArray[np.float32],
    target: NDArray[np.int64],
    spec: AugmentationSpec,
    generator: np.random.Generator,
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Randomly mirror a patch and change its intensities (see :class:`AugmentationSpec`).

    Voxels that are exactly 0 (outside the brain, blanked channels) stay 0.

    Args:
        image: float32 (C, X, Y, Z).
        target: int64 (X, Y, Z).
        spec: Ranges.
        generator: Randomness.
    """
    if spec.flip:
        axes = tuple(axis for axis in range(3) if generator.random() < 0.5)
        image = np.flip(image, tuple(axis + 1 for axis in axes))
        target = np.flip(target, axes)
    outside = image == 0.0
    column = (image.shape[0], 1, 1, 1)
    changed: NDArray[Any] = image
    if spec.scale > 0.0:
        changed = changed * generator.uniform(1 - spec.scale, 1 + spec.scale, column)
    if spec.shift > 0.0:
        changed = changed + generator.uniform(-spec.shift, spec.shift, column)
    if spec.noise > 0.0:
        changed = changed + generator.normal(size=image.shape) * generator.uniform(0, spec.noise)
    result = np.where(outside, np.float32(0.0), changed.astype(np.float32))
    return np.ascontiguousarray(result, dtype=np.float32), np.ascontiguousarray(target)
