"""Comparing what a viewer draws over an image with the mask that it should draw."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from tests.viewer.ohif import View

UNTOUCHED = 12  # of 255: a pixel that changed less is not drawn over
FOREIGN = 255  # label of a pixel drawn over in a colour of no segment
CLOSE = 40.0  # distance in RGB to a declared colour
OPACITIES = (0.5, 1.0)  # OHIF's fill and outline
Colour = tuple[int, int, int]


def drawn_labels(view: View, colours: Mapping[int, Colour]) -> NDArray[np.uint8]:
    """Which segment is drawn over each pixel of the slice.

    Args:
        view: the slice with and without the segmentation.
        colours: RGB of each segment, as its RecommendedDisplayCIELabValue declares it.

    Returns:
        (Columns, Rows) labels as in a mask's slice: 0 where nothing is drawn, `FOREIGN` where the
        colour is no segment's.
    """
    shown = view.shown[view.rows, view.columns].astype(np.float64)
    hidden = view.hidden[view.rows, view.columns].astype(np.float64)
    labels = np.full(shown.shape[:2], FOREIGN, np.uint8)
    nearest = np.full(shown.shape[:2], CLOSE)
    for label, colour in colours.items():
        for opacity in OPACITIES:
            there = hidden + opacity * (np.array(colour) - hidden)
            distance = np.linalg.norm(shown - there, axis=-1)
            labels = np.where(distance < nearest, np.uint8(label), labels)
            nearest = np.minimum(nearest, distance)
    labels[np.abs(shown - hidden).max(axis=-1) < UNTOUCHED] = 0
    return labels.T


def dice(one: NDArray[np.uint8], other: NDArray[np.uint8]) -> float:
    """Dice over the pixels that carry a label: both labelled and equal; 1 where both are empty."""
    labelled = int(np.count_nonzero(one)) + int(np.count_nonzero(other))
    if labelled == 0:
        return 1.0
    return 2.0 * int(np.count_nonzero((one == other) & (one > 0))) / labelled


def likest_slice(view: View, volume: NDArray[np.number]) -> int:
    """The slice of the volume whose values go best with the picture under the overlay.

    It is what tells that the viewer shows the slice it names, without asking the viewer.

    Args:
        view: a slice on the screen.
        volume: (Columns, Rows, slices) pixel values.
    """
    grey = view.hidden[view.rows, view.columns].mean(axis=-1).T.ravel()
    best, index = -2.0, -1
    for number in range(volume.shape[2]):
        values = volume[:, :, number].astype(np.float64).ravel()
        if np.ptp(values) == 0 or np.ptp(grey) == 0:
            continue
        agreement = float(np.corrcoef(grey, values)[0, 1])
        if agreement > best:
            best, index = agreement, number
    return index
