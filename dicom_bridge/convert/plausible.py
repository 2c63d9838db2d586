"""Refusing series whose size, rescale or values cannot be right."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dicom_bridge.convert.frames import MAX_VOXELS, Frame, attribute
from dicom_bridge.convert.split import Run
from dicom_bridge.errors import DataRefused

OUTER_BLANK_SHARE = 0.1


def check_size(frames: Sequence[Frame]) -> None:
    """Refuse a series that announces more voxels than the limit, before anything is decoded.

    Raises:
        DataRefused: with the number announced.
    """
    announced = sum(frame.size[0] * frame.size[1] for frame in frames)
    if announced > MAX_VOXELS:
        raise DataRefused(
            f"absurd size: the series announces {announced} voxels, at most {MAX_VOXELS} are read"
        )


def check_rescale(frames: Sequence[Frame]) -> None:
    """Refuse slices with and without a rescale in one image, and several rescales in CT.

    PET and processed MR are stored with a slope per slice, which is applied slice by slice; CT
    numbers have one scale (PS3.3 C.8.2.1).

    Raises:
        DataRefused: with what differs.
    """
    pairs = {(frame.slope, frame.intercept) for frame in frames}
    if len(pairs) == 1:
        return
    if attribute(frames[0].dataset, "Modality") == "CT":
        raise DataRefused(
            f"wrong rescale: {len(pairs)} different RescaleSlope and RescaleIntercept in one CT"
        )
    bare = sum(frame.index is None and "RescaleSlope" not in frame.dataset for frame in frames)
    if bare:
        raise DataRefused(
            f"wrong rescale: {bare} of {len(frames)} slices have no RescaleSlope, the others do"
        )


def check_values(image: NDArray[np.generic], run: Run) -> None:
    """Refuse blank images, blank volumes and blank slices between others.

    Outer slices may be blank: a derived image is masked, and some scanners set air to zero; of an
    original image a tenth of the slices at most.

    Args:
        image: (I, J, K, T) rescaled values.
        run: where they come from.

    Raises:
        DataRefused: with what is blank.
    """
    values: Any = image
    if image.dtype.fields is not None:
        values = values["R"] | values["G"] | values["B"]
    block = values.T.reshape(image.shape[3], image.shape[2], -1)
    blank = block.min(axis=2) == block.max(axis=2)
    if blank.all() and len(np.unique(block[:, :, 0])) == 1:
        raise DataRefused("the image is blank: every voxel has the same value")
    empty = blank.all(axis=1)
    if empty.any():
        raise DataRefused(
            f"blank volume: volume {int(np.argmax(empty)) + 1} of {len(empty)} holds one value only"
        )
    for volume in blank:
        filled = np.flatnonzero(~volume)
        inner = int(volume[filled[0] : filled[-1] + 1].sum())
        many = volume.sum() > OUTER_BLANK_SHARE * len(volume)
        if inner or (many and not _derived(run.volumes[0].frames[0])):
            raise DataRefused(
                f"blank slice: {int(volume.sum())} of {len(volume)} slices hold one value only"
            )


def _derived(frame: Frame) -> bool:
    kind = attribute(frame.dataset, "ImageType") or [""]
    return str(kind[0] if not isinstance(kind, str) else kind) == "DERIVED"
