"""Segmentation metrics on binary masks, in numpy and scipy alone.

Every metric takes ``prediction`` and ``reference``, arrays of the same shape (X, Y, Z) in which
every value but 0 counts as the structure. Empty cases follow one rule: a ratio 0/0 found nothing
wrong and is 1. So an empty reference with an empty prediction scores 1 everywhere; an empty
reference with a non-empty prediction has Dice 0, sensitivity 1, precision 0; a non-empty reference
with an empty prediction has Dice 0, sensitivity 0, precision 1. Nothing is ever NaN.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

Mask = NDArray[Any]

SMALL_LESION_ML: Final = 0.1
"""Lesions below this volume are called small."""
LARGE_LESION_ML: Final = 1.0
"""Lesions from this volume on are called large; those between are medium."""
DETECTION_OVERLAP: Final = 0.1
"""Share of a lesion's voxels that the other mask must cover for the lesion to count as met."""
_NEIGHBOURS_26: Final = np.ones((3, 3, 3), dtype=bool)


def _ratio(numerator: float, denominator: float) -> float:
    """``numerator / denominator``; 0/0 is 1 (see the module's docstring)."""
    return 1.0 if denominator == 0 else float(numerator) / float(denominator)


def _pair(prediction: Mask, reference: Mask) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    if prediction.shape != reference.shape:
        raise ValueError(
            f"prediction {prediction.shape} and reference {reference.shape} differ in shape"
        )
    return prediction != 0, reference != 0


def dice(prediction: Mask, reference: Mask) -> float:
    """Dice coefficient ``2 |P and R| / (|P| + |R|)``; 0..1, higher is better.

    Source: Dice, Ecology 26 (1945) 297.

    >>> dice(np.array([[[1, 1, 0]]]), np.array([[[0, 1, 0]]]))
    0.6666666666666666
    >>> dice(np.zeros((1, 1, 2)), np.zeros((1, 1, 2)))
    1.0
    """
    found, wanted = _pair(prediction, reference)
    return _ratio(2.0 * np.count_nonzero(found & wanted), int(found.sum()) + int(wanted.sum()))


def sensitivity(prediction: Mask, reference: Mask) -> float:
    """Share of the reference's voxels that were found ``|P and R| / |R|``; 0..1, higher is better.

    >>> sensitivity(np.array([[[0, 1, 0, 0]]]), np.array([[[1, 1, 0, 0]]]))
    0.5
    """
    found, wanted = _pair(prediction, reference)
    return _ratio(int((found & wanted).sum()), int(wanted.sum()))


def precision(prediction: Mask, reference: Mask) -> float:
    """Share of the predicted voxels that are right ``|P and R| / |P|``; 0..1, higher is better.

    >>> precision(np.array([[[1, 1, 1, 1]]]), np.array([[[1, 0, 0, 0]]]))
    0.25
    """
    found, wanted = _pair(prediction, reference)
    return _ratio(int((found & wanted).sum()), int(found.sum()))


def volume_difference_ml(prediction: Mask, reference: Mask, voxel_ml: float) -> float:
    """Absolute volume difference ``abs(|P| - |R|) * voxel_ml`` in ml; 0 and up, lower is better.

    >>> volume_difference_ml(np.ones((2, 5, 10)), np.zeros((2, 5, 10)), 0.008)
    0.8
    """
    found, wanted = _pair(prediction, reference)
    return abs(int(found.sum()) - int(wanted.sum())) * voxel_ml


@dataclass(frozen=True, slots=True)
class LesionCounts:
    """Lesions met and missed in one size class.

    Attributes:
        references: Lesions in the reference.
        detected: Those of them that the prediction covers by ``DETECTION_OVERLAP``.
        predictions: Lesions in the prediction.
        confirmed: Those of them that the reference covers by ``DETECTION_OVERLAP``.
    """

    references: int
    detected: int
    predictions: int
    confirmed: int

    @property
    def sensitivity(self) -> float:
        """Share of the reference's lesions that were detected; 0..1, higher is better."""
        return _ratio(self.detected, self.references)

    @property
    def precision(self) -> float:
        """Share of the predicted lesions that are real; 0..1, higher is better."""
        return _ratio(self.confirmed, self.predictions)

    @property
    def f1(self) -> float:
        """F1 ``(detected + confirmed) / (references + predictions)``; 0..1, higher is better.

        Both terms count lesions of their own mask, so that one blob over two lesions is no
        advantage; where lesions correspond one to one it is the usual ``2 TP / (2 TP + FP + FN)``.
        """
        return _ratio(self.detected + self.confirmed, self.references + self.predictions)


@dataclass(frozen=True, slots=True)
class LesionScores:
    """Lesion counts over all sizes and by size, each lesion in its own volume's class."""

    all: LesionCounts
    small: LesionCounts
    medium: LesionCounts
    large: LesionCounts


def lesions(prediction: Mask, reference: Mask, voxel_ml: float) -> LesionScores:
    """Count lesions: connected components in which voxels touch by face, edge or corner.

    Args:
        prediction: Mask (X, Y, Z).
        reference: Mask (X, Y, Z).
        voxel_ml: Volume of one voxel in ml, for the size classes (below ``SMALL_LESION_ML``, from
            ``LARGE_LESION_ML`` on, between).
    """
    found, wanted = _pair(prediction, reference)
    wanted_ml, wanted_met = _components(wanted, found, voxel_ml)
    found_ml, found_met = _components(found, wanted, voxel_ml)

    def count(low: float, high: float) -> LesionCounts:
        """The lesions of at least ``low`` and less than ``high`` ml."""
        mine = (wanted_ml >= low) & (wanted_ml < high)
        theirs = (found_ml >= low) & (found_ml < high)
        return LesionCounts(
            references=int(mine.sum()),
            detected=int((mine & wanted_met).sum()),
            predictions=int(theirs.sum()),
            confirmed=int((theirs & found_met).sum()),
        )

    return LesionScores(
        all=count(0.0, np.inf),
        small=count(0.0, SMALL_LESION_ML),
        medium=count(SMALL_LESION_ML, LARGE_LESION_ML),
        large=count(LARGE_LESION_ML, np.inf),
    )


def _components(
    mask: NDArray[np.bool_], other: NDArray[np.bool_], voxel_ml: float
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Volume in ml of each component of ``mask``, and whether ``other`` covers enough of it."""
    labelled, number = ndimage.label(mask, structure=_NEIGHBOURS_26)
    sizes = np.bincount(labelled.ravel(), minlength=number + 1)[1:]
    covered = np.bincount(labelled[other], minlength=number + 1)[1:]
    met: NDArray[np.bool_] = covered >= np.maximum(1, DETECTION_OVERLAP * sizes)
    return sizes.astype(np.float64) * voxel_ml, met


def lesion_f1(prediction: Mask, reference: Mask, voxel_ml: float = 1.0) -> float:
    """Lesion-wise F1 over all sizes (see :class:`LesionCounts`); 0..1, higher is better."""
    return lesions(prediction, reference, voxel_ml).all.f1


_METRICS: Final[Mapping[str, Callable[[Mask, Mask, float], float]]] = {
    "dice": lambda prediction, reference, _: dice(prediction, reference),
    "sensitivity": lambda prediction, reference, _: sensitivity(prediction, reference),
    "precision": lambda prediction, reference, _: precision(prediction, reference),
    "lesion_f1": lesion_f1,
    "volume_difference_ml": volume_difference_ml,
}


def score(
    prediction: Mask, reference: Mask, voxel_ml: float, metrics: Sequence[str]
) -> dict[str, float]:
    """The named metrics of one case, in the order asked for.

    Args:
        prediction: Mask (X, Y, Z), any value but 0 is the structure.
        reference: Mask of the same shape.
        voxel_ml: Volume of one voxel in ml.
        metrics: Keys of ``REGISTRY["metric"]`` of :mod:`federation.plan`.

    Raises:
        ValueError: for a shape that differs or a metric that does not exist.
    """
    unknown = [name for name in metrics if name not in _METRICS]
    if unknown:
        raise ValueError(f"unknown metrics {unknown}; there are {sorted(_METRICS)}")
    return {name: _METRICS[name](prediction, reference, voxel_ml) for name in metrics}
