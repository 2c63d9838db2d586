"""Decoding pixel data and applying the modality rescale, independently of the converters."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset

from dicom_bridge.convert.frames import MAX_VOXELS, READ_ERRORS, Frame, whole
from dicom_bridge.convert.stack import Stack
from dicom_bridge.errors import DataRefused


def stored_pixels(dataset: Dataset) -> NDArray[np.generic]:
    """An instance's decoded pixels as stored, before any rescale.

    Args:
        dataset: with PixelData; compressed syntaxes are decoded.

    Returns:
        (rows, columns) or (frames, rows, columns).

    Raises:
        DataRefused: no pixel data, cut off, or not decodable.
    """
    if "PixelData" not in dataset:
        raise DataRefused("an instance has no pixel data (cut off, or not an image)")
    size = (
        whole(dataset, "Rows", 0)
        * whole(dataset, "Columns", 0)
        * whole(dataset, "NumberOfFrames", 1)
    )
    if size > MAX_VOXELS:
        raise DataRefused(f"an instance announces {size} pixels: above the limit")
    try:
        return np.asarray(dataset.pixel_array)
    except READ_ERRORS as error:
        raise DataRefused(_pixel_words(dataset, error)) from None


def _pixel_words(dataset: Dataset, error: Exception) -> str:
    syntax = dataset.file_meta.get("TransferSyntaxUID")
    name = syntax.name if syntax is not None else "unknown"
    expected = (
        whole(dataset, "Rows", 0)
        * whole(dataset, "Columns", 0)
        * whole(dataset, "BitsAllocated", 0)
        // 8
    )
    expected *= whole(dataset, "NumberOfFrames", 1) * whole(dataset, "SamplesPerPixel", 1)
    length = len(dataset.PixelData or b"")
    if syntax is not None and not syntax.is_compressed and length < expected:
        return f"truncated pixel data: {length} of {expected} bytes in an instance"
    return f"pixel data cannot be decoded ({name}, {type(error).__name__}): truncated or damaged"


def frame_pixels(frame: Frame) -> NDArray[np.generic]:
    """One frame's stored pixels, (rows, columns).

    Raises:
        DataRefused: see `stored_pixels`.
    """
    pixels = stored_pixels(frame.dataset)
    if frame.index is not None and pixels.ndim == 3:
        pixels = pixels[frame.index]
    if pixels.shape != frame.size:
        raise DataRefused("decoded pixels do not have the size that Rows and Columns announce")
    return pixels


def rescaled_volume(stack: Stack) -> NDArray[np.generic]:
    """The stack's values in modality units: stored x RescaleSlope + RescaleIntercept.

    Returns:
        (I, J, K) array on the series' own grid: integers where every slope is 1 and every
        intercept whole, float64 otherwise.

    Raises:
        DataRefused: a slice's pixels cannot be had, or are not finite.
    """
    rows, columns = stack.frames[0].size
    if rows * columns * len(stack.frames) > MAX_VOXELS:
        raise DataRefused("the series announces more voxels than the limit")
    whole = all(f.slope == 1.0 and f.intercept == int(f.intercept) for f in stack.frames)
    volume = np.empty((columns, rows, len(stack.frames)), np.int64 if whole else np.float64)
    for k, frame in enumerate(stack.frames):
        pixels = frame_pixels(frame)
        if not np.issubdtype(pixels.dtype, np.integer):
            raise DataRefused("floating point pixel data are not expected in MR, CT or PET images")
        if whole:
            volume[:, :, k] = pixels.T.astype(np.int64) + int(frame.intercept)
        else:
            volume[:, :, k] = pixels.T.astype(np.float64) * frame.slope + frame.intercept
    if not np.all(np.isfinite(volume)):
        raise DataRefused("rescaled pixel values are not finite")
    return volume
