"""Mosaics: a volume's slices laid side by side in one image.

Siemens writes ImagePositionPatient of the whole mosaic's corner, as if it were one large slice: the
first tile's corner lies half the difference of the sizes further in. Number of tiles and direction
of the slices stand in the private CSA header. UIH (VFRAME) keeps every slice's own position in a
private sequence.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from pydicom.dataset import Dataset

from dicom_bridge.convert.frames import (
    MAX_FRAMES,
    READ_ERRORS,
    Frame,
    attribute,
    classic_frame,
    plain_frames,
    texts,
    tiled,
    whole,
)
from dicom_bridge.errors import DataRefused
from dicom_bridge.geometry import FloatArray, slice_normal

CSA_IMAGE_HEADER = (0x0029, "SIEMENS CSA HEADER", 0x10)
SIEMENS_TILES = (0x0019, "SIEMENS MR HEADER", 0x0A)
UIH_TILES = (0x0065, "Image Private Header", 0x50)
UIH_SLICES = (0x0065, "Image Private Header", 0x51)
MAX_CSA_TAGS = 1000


def image_frames(dataset: Dataset, path: Path) -> list[Frame]:
    """All slices of one instance: of a mosaic every tile, of any other object every frame.

    Raises:
        DataRefused: no image, or nothing says where its slices lie.
    """
    if str(attribute(dataset, "BurnedInAnnotation") or "").strip().upper() == "YES":
        raise DataRefused("text that identifies is said to be burned into the pictures")
    try:
        if not tiled(dataset):
            return plain_frames(dataset, path)
        if "VFRAME" in [str(part) for part in attribute(dataset, "ImageType") or []]:
            return _vframe(dataset, path)
        return _siemens(dataset, path)
    except READ_ERRORS as error:
        raise DataRefused(f"an instance's header is damaged ({type(error).__name__})") from None


def _private(dataset: Dataset, place: tuple[int, str, int]) -> object:
    """A private element's value by its creator; None where it is absent."""
    group, creator, element = place
    try:
        return dataset.private_block(group, creator)[element].value
    except READ_ERRORS:
        return None


def _tiles(dataset: Dataset, count: int, *, square: bool) -> list[tuple[int, int, int, int]]:
    """First row, first column, rows and columns of each tile, row by row.

    As many tiles lie across as the root of their number says, rounded up; as many down (Siemens,
    square), or as many as are needed (UIH).
    """
    rows, columns = whole(dataset, "Rows", 0), whole(dataset, "Columns", 0)
    if not 1 <= count <= MAX_FRAMES:
        raise DataRefused("a mosaic does not say how many slices it holds")
    across = math.ceil(math.sqrt(count))
    down = across if square else math.ceil(count / across)
    if rows < 1 or columns < 1 or rows % down or columns % across:
        raise DataRefused(
            f"a mosaic of {columns} x {rows} pixels cannot hold {across} x {down} equal slices"
        )
    height, width = rows // down, columns // across
    return [
        ((tile // across) * height, (tile % across) * width, height, width) for tile in range(count)
    ]


def _siemens(dataset: Dataset, path: Path) -> list[Frame]:
    """The tiles of a Siemens mosaic, each with its own position."""
    whole_image = classic_frame(dataset, path)
    header = _private(dataset, CSA_IMAGE_HEADER)
    csa = read_csa(header) if isinstance(header, bytes) else {}
    number = csa.get("NumberOfImagesInMosaic") or [str(_private(dataset, SIEMENS_TILES) or 0)]
    try:
        count = int(float(number[0]))
        normal = np.array([float(value) for value in csa.get("SliceNormalVector", ())])
    except ValueError:
        raise DataRefused("a mosaic's private header is damaged") from None
    if normal.shape != (3,):
        raise DataRefused("a mosaic without its private header: where its slices lie is unknown")
    tiles = _tiles(dataset, count, square=True)
    orientation = np.array([float(value) for value in whole_image.orientation])
    if abs(abs(float(slice_normal(orientation) @ normal)) - 1) > 1e-3:
        raise DataRefused("a mosaic's slice direction is not the normal of its orientation")
    distance = _distance(dataset, whole_image)
    step = slice_normal(orientation) * math.copysign(distance, slice_normal(orientation) @ normal)
    first = _first_corner(dataset, whole_image, tiles[0])
    return [
        replace(
            whole_image,
            position=tuple(repr(float(value)) for value in first + step * place),
            tile=tile,
        )
        for place, tile in enumerate(tiles)
    ]


def _distance(dataset: Dataset, frame: Frame) -> float:
    """SpacingBetweenSlices, else SliceThickness, mm."""
    for value in (attribute(dataset, "SpacingBetweenSlices"), frame.thickness):
        try:
            distance = abs(float(value))
        except (TypeError, ValueError):
            continue
        if 0 < distance < 1000:
            return distance
    raise DataRefused("a mosaic does not say how far apart its slices are")


def _first_corner(dataset: Dataset, frame: Frame, tile: tuple[int, int, int, int]) -> FloatArray:
    """Centre of the first tile's first pixel, LPS mm."""
    orientation = np.array([float(value) for value in frame.orientation])
    rows_apart, columns_apart = (float(value) for value in frame.spacing)
    across = (whole(dataset, "Columns", 0) - tile[3]) / 2 * columns_apart
    down = (whole(dataset, "Rows", 0) - tile[2]) / 2 * rows_apart
    corner = np.array([float(value) for value in frame.position])
    return np.asarray(corner + orientation[:3] * across + orientation[3:] * down)


def _vframe(dataset: Dataset, path: Path) -> list[Frame]:
    """The tiles of a UIH mosaic with the positions of its private sequence."""
    slices = _private(dataset, UIH_SLICES)
    if not isinstance(slices, Sequence) or not slices:
        raise DataRefused("a mosaic without its private header: where its slices lie is unknown")
    positions = [texts(attribute(item, "ImagePositionPatient"), 3) for item in slices]
    frame = classic_frame(dataset, path, positions[0])
    tiles = _tiles(dataset, len(positions), square=False)
    return [
        replace(frame, position=position, tile=tile)
        for position, tile in zip(positions, tiles, strict=True)
    ]


def read_csa(content: bytes) -> Mapping[str, Sequence[str]]:
    """The elements of a Siemens CSA header ("SV10" form, as nibabel documents it).

    Args:
        content: value of the private element.

    Returns:
        Name to values as text; what cannot be read is left out.
    """
    found: dict[str, list[str]] = {}
    if not content.startswith(b"SV10"):
        return found
    try:
        count, place = struct.unpack_from("<I", content, 8)[0], 16
        for _ in range(min(count, MAX_CSA_TAGS)):
            name, items = content[place : place + 64], struct.unpack_from("<i", content, place + 76)
            place += 84
            values = []
            for _ in range(items[0]):
                length = struct.unpack_from("<i", content, place + 4)[0]
                place += 16
                text = content[place : place + length].split(b"\0", 1)[0]
                values.append(text.decode("latin-1").strip())
                place += length + (4 - length % 4) % 4
            key = name.split(b"\0", 1)[0].decode("latin-1")
            found[key] = [value for value in values if value]
    except (struct.error, OverflowError):
        return found
    return found
