"""Decoding pixel data and applying the modality rescale, independently of the converters."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset

from dicom_bridge.convert.dcmtk import decode_with_dcmtk
from dicom_bridge.convert.frames import MAX_VOXELS, READ_ERRORS, Frame, attribute, whole
from dicom_bridge.convert.stack import Stack
from dicom_bridge.errors import DataRefused


def stored_pixels(dataset: Dataset) -> NDArray[np.generic]:
    """An instance's decoded pixels as stored, before any rescale.

    Args:
        dataset: with PixelData; compressed syntaxes are decoded.

    Returns:
        (rows, columns) or (frames, rows, columns), colour with a last axis of 3.

    Raises:
        DataRefused: no pixel data, cut off, of another size than announced, or not decodable.
    """
    if "PixelData" not in dataset:
        raise DataRefused("an instance has no pixel data (cut off, or not an image)")
    size = _announced(dataset)
    if size > MAX_VOXELS:
        raise DataRefused(f"absurd size: an instance announces {size} pixels")
    try:
        syntax = dataset.file_meta.get("TransferSyntaxUID")
        if syntax is None or not syntax.is_compressed:
            _check_length(dataset)
        plain = _plain_pixels(dataset)
        return np.asarray(dataset.pixel_array) if plain is None else plain
    except READ_ERRORS as error:
        raise DataRefused(_pixel_words(dataset, error)) from None


def _announced(dataset: Dataset) -> int:
    """Samples that the header announces."""
    size = whole(dataset, "Rows", 0) * whole(dataset, "Columns", 0)
    return size * whole(dataset, "NumberOfFrames", 1) * whole(dataset, "SamplesPerPixel", 1)


def _expected_bytes(dataset: Dataset) -> int:
    return _announced(dataset) * whole(dataset, "BitsAllocated", 0) // 8


def _check_length(dataset: Dataset) -> None:
    """Refuse uncompressed pixel data that Rows and Columns do not account for."""
    expected, length = _expected_bytes(dataset), len(dataset.PixelData or b"")
    if length < expected:
        raise DataRefused(
            f"truncated pixel data: {length} of the {expected} bytes that Rows and Columns announce"
        )
    if length > expected + 1 and attribute(dataset, "PhotometricInterpretation") != "YBR_FULL_422":
        raise DataRefused(
            f"wrong Rows or Columns: they announce {expected} bytes of pixel data, {length} follow"
        )


def _plain_pixels(dataset: Dataset) -> NDArray[np.generic] | None:
    """Uncompressed 16-bit grey pixels straight from the bytes; None where pydicom must decode."""
    syntax = dataset.file_meta.get("TransferSyntaxUID")
    wanted = {"BitsAllocated": 16, "SamplesPerPixel": 1}
    if syntax is None or syntax.is_compressed or not syntax.is_little_endian:
        return None
    if any(whole(dataset, keyword, 0) != value for keyword, value in wanted.items()):
        return None
    signed, stored = whole(dataset, "PixelRepresentation", 0), whole(dataset, "BitsStored", 16)
    shape = [whole(dataset, key, 1) for key in ("NumberOfFrames", "Rows", "Columns")]
    kind = np.dtype("<i2" if signed else "<u2")
    values = np.frombuffer(dataset.PixelData, kind, count=int(np.prod(shape)))
    if stored < 16:  # pydicom clears unused high bits; where none is set there is nothing to clear
        bound = 1 << (stored - signed)
        if int(values.max()) >= bound or (signed and int(values.min()) < -bound):
            return None
    return values.reshape(shape if shape[0] > 1 else shape[1:])


def _pixel_words(dataset: Dataset, error: Exception) -> str:
    syntax = dataset.file_meta.get("TransferSyntaxUID")
    name = syntax.name if syntax is not None else "unknown"
    return f"pixel data cannot be decoded ({name}, {type(error).__name__}): truncated or damaged"


class Pixels:
    """The decoded pixels of a series, each instance decoded once.

    Where pydicom's decoders fail, DCMTK's are asked (if they are installed): they read JPEG
    Extended streams with damaged parameters.
    """

    def __init__(self, work: Path | None = None) -> None:
        """Start empty.

        Args:
            work: folder on the identified side for what DCMTK decodes; None asks DCMTK nothing.
        """
        self._work = work
        self._decoded: dict[int, NDArray[np.generic]] = {}
        self._kept: list[Dataset] = []

    def of_instance(self, dataset: Dataset, path: Path) -> NDArray[np.generic]:
        """An instance's stored pixels.

        Raises:
            DataRefused: see `stored_pixels`.
        """
        found = self._decoded.get(id(dataset))
        if found is None:
            try:
                found = stored_pixels(dataset)
            except DataRefused:
                plain = self._by_dcmtk(dataset, path)
                if plain is None:
                    raise
                found = plain
            self._decoded[id(dataset)] = found
            self._kept.append(dataset)  # an id is only good while its object lives
        return found

    def _by_dcmtk(self, dataset: Dataset, path: Path) -> NDArray[np.generic] | None:
        syntax = dataset.file_meta.get("TransferSyntaxUID")
        if self._work is None or syntax is None or not syntax.is_compressed:
            return None
        made = decode_with_dcmtk(path, str(syntax), self._work)
        return None if made is None else stored_pixels(made)

    def of_frame(self, frame: Frame) -> NDArray[np.generic]:
        """One frame's stored pixels, (rows, columns), colour (rows, columns, 3).

        Raises:
            DataRefused: see `stored_pixels`, or another size than announced.
        """
        return _frame_part(frame, self.of_instance(frame.dataset, frame.path))

    def digest(self, frame: Frame) -> bytes:
        """What is equal for two frames that hold the same values."""
        pixels = np.ascontiguousarray(self.of_frame(frame))
        return hashlib.blake2b(pixels.data, digest_size=16).digest()


def _frame_part(frame: Frame, pixels: NDArray[np.generic]) -> NDArray[np.generic]:
    colour = whole(frame.dataset, "SamplesPerPixel", 1) == 3
    if frame.index is not None and pixels.ndim == 3 + colour:
        pixels = pixels[frame.index]
    if frame.tile is not None and pixels.ndim == 2:
        row, column, rows, columns = frame.tile
        pixels = pixels[row : row + rows, column : column + columns]
    if pixels.shape != (*frame.size, 3)[: 2 + colour]:
        raise DataRefused(
            "wrong Rows or Columns: the decoded pixels do not have the size that they announce"
        )
    return pixels


def frame_pixels(frame: Frame) -> NDArray[np.generic]:
    """One frame's stored pixels, (rows, columns), decoded anew.

    Raises:
        DataRefused: see `stored_pixels`.
    """
    return _frame_part(frame, stored_pixels(frame.dataset))


def rescaled_volume(stack: Stack) -> NDArray[np.generic]:
    """The stack's values in modality units: stored x RescaleSlope + RescaleIntercept.

    Returns:
        (I, J, K) array on the series' own grid: integers where every slope is 1 and every
        intercept whole, float64 otherwise.

    Raises:
        DataRefused: a slice's pixels cannot be had, or are not finite.
    """
    return np.asarray(rescaled_image([stack], Pixels())[..., 0])


def rescaled_image(volumes: Sequence[Stack], pixels: Pixels) -> NDArray[np.generic]:
    """Volumes of one grid in modality units.

    Args:
        volumes: of the same size.
        pixels: decoded instances.

    Returns:
        (I, J, K, T) array in Fortran order, as NIfTI stores it: int16, uint16 or int32 where every
        slope is 1 and every intercept whole, float64 otherwise; colour (I, J, K, T) of three bytes.

    Raises:
        DataRefused: a slice's pixels cannot be had or are not finite, or the size is absurd.
    """
    rows, columns = volumes[0].frames[0].size
    shape = (len(volumes), len(volumes[0].frames), rows, columns)
    if int(np.prod(shape, dtype=np.int64)) > MAX_VOXELS:
        raise DataRefused(f"absurd size: the series announces {shape[0]} volumes of {shape[1:]}")
    frames = [frame for stack in volumes for frame in stack.frames]
    decoded = [pixels.of_frame(frame) for frame in frames]
    kinds = {part.dtype for part in decoded}
    if decoded[0].ndim == 3:
        return _colour(decoded, shape)
    if any(kind.kind not in "iu" for kind in kinds):
        raise DataRefused("floating point pixel data are not expected in MR, CT or PET images")
    slopes = {(frame.slope, frame.intercept) for frame in frames}
    if slopes == {(1.0, 0.0)} and len(kinds) == 1:
        return _filled(decoded, shape, kinds.pop())
    if all(slope == 1.0 and intercept == int(intercept) for slope, intercept in slopes):
        made = _filled(decoded, shape, np.dtype(np.int32))
        for slab, frame in zip(_slabs(made), frames, strict=True):
            slab += int(frame.intercept)
        return made
    made = _filled(decoded, shape, np.dtype(np.float64))
    for slab, frame in zip(_slabs(made), frames, strict=True):
        slab *= frame.slope
        slab += frame.intercept
    if not np.all(np.isfinite(made)):
        raise DataRefused("wrong rescale: rescaled pixel values are not finite")
    return made


def _filled(
    decoded: Sequence[NDArray[np.generic]], shape: tuple[int, int, int, int], kind: np.dtype
) -> NDArray[np.generic]:
    """Slices put into one array, (I, J, K, T), Fortran order."""
    block = np.empty((shape[0] * shape[1], *shape[2:]), kind)
    for slab, part in zip(block, decoded, strict=True):
        slab[...] = part
    return block.reshape(shape).T


def _slabs(image: NDArray[np.generic]) -> NDArray[np.generic]:
    """(slices, rows, columns) view of an image that `_filled` made."""
    block = image.T
    return block.reshape(block.shape[0] * block.shape[1], *block.shape[2:])


RGB = np.dtype([("R", "u1"), ("G", "u1"), ("B", "u1")])


def _colour(
    decoded: Sequence[NDArray[np.generic]], shape: tuple[int, int, int, int]
) -> NDArray[np.generic]:
    """Colour slices as an image of three-byte voxels."""
    if any(part.dtype != np.uint8 or part.shape[2:] != (3,) for part in decoded):
        raise DataRefused("colour images are expected to hold three bytes per pixel")
    block = np.stack(decoded)
    return np.asarray(np.ascontiguousarray(block).view(RGB).reshape(shape).T)
