"""A series' pixels and window, read for drawing on them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset

from dicom_bridge.convert.frames import (
    READ_ERRORS,
    Frame,
    attribute,
    frames_of,
    functional_group,
    volume_datasets,
)
from dicom_bridge.convert.pixels import frame_pixels, rescaled_volume
from dicom_bridge.convert.stack import stack_frames
from dicom_bridge.sc.model import Window


def source_pixels(files: Sequence[Path]) -> tuple[NDArray[np.generic], Window | None]:
    """A series' values on its own grid, and the window that its middle slice asks for.

    Args:
        files: one series, in any order.

    Returns:
        (I, J, K) values in modality units, and the first window, None where there is none.

    Raises:
        DataRefused: unreadable, or not one volume.
    """
    pairs = volume_datasets(files, pixels=True)
    frames = [frame for dataset, path in pairs for frame in frames_of(dataset, path)]
    stack = stack_frames(frames, alike=_same_pixels, even=False)
    return rescaled_volume(stack), window_of(stack.frames[len(stack.frames) // 2])


def _same_pixels(first: Frame, second: Frame) -> bool:
    return bool(np.array_equal(frame_pixels(first), frame_pixels(second)))


def window_of(frame: Frame) -> Window | None:
    """The first window of a frame (PS3.3 C.11.2.1.2), None where absent or not usable."""
    dataset: Dataset = frame.dataset
    if frame.index is not None:
        dataset = functional_group(dataset, frame.index, "FrameVOILUTSequence") or dataset
    try:
        center, width = (_first(dataset, key) for key in ("WindowCenter", "WindowWidth"))
    except READ_ERRORS:
        return None
    if center is None or width is None or not np.isfinite(center) or not width > 0:
        return None
    return Window(center, width)


def _first(dataset: Dataset, keyword: str) -> float | None:
    value = attribute(dataset, keyword)
    if value is None or value == "":
        return None
    return float(value[0] if hasattr(value, "__len__") and not isinstance(value, str) else value)
