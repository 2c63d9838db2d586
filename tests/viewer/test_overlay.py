"""The measure of the viewer test, on pictures made here."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from tests.viewer.ohif import View
from tests.viewer.overlay import FOREIGN, dice, drawn_labels, likest_slice

COLOURS = {1: (255, 64, 64), 2: (0, 200, 0)}
ZOOM = 4


def picture(grey: NDArray[np.uint8], labels: NDArray[np.uint8], colours: object = None) -> View:
    """A slice, (columns, rows), drawn with four screen pixels per image pixel, fill only."""
    palette = np.zeros((256, 3))
    for label, colour in (colours or COLOURS).items():  # type: ignore[attr-defined]
        palette[label] = colour
    hidden = np.repeat(grey.T[..., None], 3, axis=2).astype(np.float64)
    over = 0.5 * (palette[labels.T] + hidden)
    shown = np.where(labels.T[..., None] > 0, over, hidden)
    rows, columns = np.indices(grey.T.shape)
    enlarged = [np.kron(image, np.ones((ZOOM, ZOOM, 1))) for image in (shown, hidden)]
    low, high = (np.rint(image).astype(np.uint8) for image in enlarged)
    return View(low, high, rows * ZOOM + ZOOM // 2, columns * ZOOM + ZOOM // 2)


def scene() -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    random = np.random.default_rng(1)
    grey = random.integers(0, 256, (30, 20, 6), dtype=np.uint8)
    labels = np.zeros(grey.shape, np.uint8)
    labels[4:12, 3:9, 2] = 1
    labels[18:22, 10:15, 2] = 2
    labels[5:11, 3:9, 3] = 1
    return grey, labels


def test_what_is_drawn_is_read_from_the_picture_whatever_lies_below() -> None:
    grey, labels = scene()
    for index in range(6):
        drawn = drawn_labels(picture(grey[:, :, index], labels[:, :, index]), COLOURS)
        assert np.array_equal(drawn, labels[:, :, index])


def test_wrong_places_slices_and_colours_agree_less() -> None:
    grey, labels = scene()
    expected = labels[:, :, 2]
    wrong = {
        "next slice": labels[:, :, 3],
        "mirrored": expected[::-1],
        "nothing": np.zeros_like(expected),
        "labels exchanged": np.array([0, 2, 1], np.uint8)[expected],
    }
    for name, drawn in wrong.items():
        view = picture(grey[:, :, 2], np.ascontiguousarray(drawn))
        assert dice(drawn_labels(view, COLOURS), expected) < 0.9, name


def test_a_colour_of_no_segment_is_foreign() -> None:
    grey, labels = scene()
    dark = (grey[:, :, 2] // 4).astype(np.uint8)
    view = picture(dark, labels[:, :, 2], {1: (64, 64, 255), 2: (0, 200, 0)})
    drawn = drawn_labels(view, COLOURS)
    assert set(np.unique(drawn[labels[:, :, 2] == 1])) == {FOREIGN}


def test_two_empty_slices_agree() -> None:
    empty = np.zeros((3, 3), np.uint8)
    assert dice(empty, empty) == 1.0
    assert dice(empty, np.ones((3, 3), np.uint8)) == 0.0


def test_the_slice_is_known_by_its_picture() -> None:
    grey, labels = scene()
    for index in range(6):
        assert likest_slice(picture(grey[:, :, index], labels[:, :, index]), grey) == index
