"""Any 3-D array as a classic single-frame MR series (MR Image Storage, explicit VR little endian).

The header is encoded once; per slice only UID, number, position and pixels are encoded, so that a
series of hundreds of slices takes a fraction of a second (PS3.5 7.1, PS3.10 7.1; MR Image IOD:
PS3.3 A.4.3).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydicom.charset import convert_encodings
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.filebase import DicomIO
from pydicom.filewriter import write_dataset, write_file_meta_info
from pydicom.uid import ExplicitVRLittleEndian, MRImageStorage, generate_uid
from pydicom.valuerep import format_number_as_ds

from appliance.demo.phantom.model import PhantomRefused
from appliance.imaging.volume import Volume

Affine = NDArray[np.float64]

TO_LPS = np.diag([-1.0, -1.0, 1.0])
IMPLEMENTATION_UID = generate_uid(entropy_srcs=["clinode phantom writer"])
VARYING = ("SOPInstanceUID", "InstanceNumber", "ImagePositionPatient", "SliceLocation", "PixelData")


@dataclass(frozen=True, slots=True)
class Stored:
    """How values are stored.

    Attributes:
        bits: BitsStored, 12 or 16.
        signed: Whether PixelRepresentation is 1.
    """

    bits: int = 16
    signed: bool = True


def write_mr_series(
    volume: Volume, header: Dataset, out: Path, *, stored: Stored | None = None
) -> tuple[Path, ...]:
    """Write a volume as one series.

    Integer data within the stored range are written as they are. Floating-point data are scaled to
    the stored range and RescaleSlope and RescaleIntercept give the values back.

    Args:
        volume: Axes (I, J, K): K counts slices, I runs along a row of the image, J down a column;
            the affine maps (I, J, K) to RAS mm and must have orthogonal axes.
        header: All that does not vary between slices; StudyInstanceUID, SeriesInstanceUID,
            FrameOfReferenceUID and what the MR Image IOD asks for. Geometry, pixel format and SOP
            attributes are filled in here. Not changed.
        out: Folder for the files, made if absent; files are `0001.dcm`, ... in the order of K.
        stored: Bits and sign; 16 bits signed by default.

    Returns:
        The files in the order of K.

    Raises:
        PhantomRefused: no volume, a skewed grid, or integers outside the stored range.
    """
    stored = stored or Stored()
    data, rescale = to_stored(volume.data, stored)
    geometry = _Geometry.of(volume.affine)
    common = _common(header, geometry, data, stored)
    if rescale is not None:
        common.RescaleIntercept = format_number_as_ds(rescale[1])
        common.RescaleSlope = format_number_as_ds(rescale[0])
        common.RescaleType = "US"
    encoder = _Encoder(common)
    out.mkdir(parents=True, exist_ok=True)
    files = []
    for k in range(data.shape[2]):
        part = _slice_part(common, geometry, k)
        pixels = data[:, :, k].T.astype("<i2" if stored.signed else "<u2").tobytes()
        part.add_new("PixelData", "OW", pixels)
        path = out / f"{k + 1:04d}.dcm"
        path.write_bytes(encoder.encode(part))
        files.append(path)
    return tuple(files)


def to_stored(
    data: NDArray[np.generic], stored: Stored
) -> tuple[NDArray[np.int32], tuple[float, float] | None]:
    """Values as they will stand in the pixels, and (slope, intercept) where they were scaled.

    Integers, and floats that are whole numbers within range, stay as they are.

    Raises:
        PhantomRefused: integers outside the range, or values that are not finite.
    """
    low = -(2 ** (stored.bits - 1)) if stored.signed else 0
    high = low + 2**stored.bits - 1
    values = np.asarray(data)
    if values.ndim != 3 or 0 in values.shape:
        raise PhantomRefused("a three-dimensional array with at least one voxel is needed")
    if values.dtype.kind in "iub" or (
        np.isfinite(values).all() and np.array_equal(values, np.rint(values))
    ):
        if values.min() >= low and values.max() <= high:
            return values.astype(np.int32), None
        if values.dtype.kind in "iub":
            raise PhantomRefused(f"integers from {low} to {high} can be stored, these go beyond")
    if not np.isfinite(values).all():
        raise PhantomRefused("the image holds values that are not numbers")
    floats = values.astype(np.float64)
    bottom, top = float(floats.min()), float(floats.max())
    if bottom >= 0:
        bottom, low = 0.0, 0
    slope = float(format_number_as_ds((top - bottom) / (high - low) * (1 + 1e-6)))
    intercept = float(format_number_as_ds(bottom - low * slope))
    whole = np.clip(np.rint((floats - intercept) / slope), low, high)
    return whole.astype(np.int32), (slope, intercept)


@dataclass(frozen=True, slots=True, eq=False)
class _Geometry:
    """Plane geometry in DICOM's terms (LPS mm)."""

    affine: Affine
    spacing: tuple[float, float, float]
    row_direction: NDArray[np.float64]
    column_direction: NDArray[np.float64]

    @classmethod
    def of(cls, affine: Affine) -> _Geometry:
        """Split an affine (RAS) into DICOM's attributes."""
        lps = TO_LPS @ affine[:3, :3]
        lengths = np.sqrt((lps**2).sum(axis=0))
        unit = lps / lengths
        if np.abs(unit.T @ unit - np.eye(3)).max() > 1e-4:
            raise PhantomRefused("a series needs orthogonal axes, this grid is skewed")
        spacing = (float(lengths[0]), float(lengths[1]), float(lengths[2]))
        return cls(affine, spacing, unit[:, 0], unit[:, 1])

    def position(self, k: int) -> NDArray[np.float64]:
        """ImagePositionPatient of slice `k`."""
        return np.asarray(TO_LPS @ (self.affine @ np.array([0.0, 0.0, float(k), 1.0]))[:3])

    def location(self, k: int) -> float:
        """SliceLocation of slice `k`: its position along the plane's normal."""
        normal = np.cross(self.row_direction, self.column_direction)
        return float(normal @ self.position(k))


def _ds(values: NDArray[np.float64] | tuple[float, ...]) -> list[str]:
    """Decimal strings of at most 16 characters."""
    return [format_number_as_ds(float(v) + 0.0) for v in values]


def _common(
    header: Dataset, geometry: _Geometry, data: NDArray[np.int32], stored: Stored
) -> Dataset:
    """The header with everything that is the same in all slices."""
    out = Dataset()
    out.update(header)
    width, height, thick = geometry.spacing
    out.SOPClassUID = MRImageStorage
    out.Modality = "MR"
    out.SamplesPerPixel = 1
    out.PhotometricInterpretation = "MONOCHROME2"
    out.Columns, out.Rows = data.shape[0], data.shape[1]
    out.BitsAllocated, out.BitsStored, out.HighBit = 16, stored.bits, stored.bits - 1
    out.PixelRepresentation = int(stored.signed)
    out.PixelSpacing = _ds((height, width))
    out.ImageOrientationPatient = _ds(
        np.concatenate([geometry.row_direction, geometry.column_direction])
    )
    if "SliceThickness" not in out:
        out.SliceThickness = format_number_as_ds(thick)
    if "WindowWidth" not in out:
        step = max(1, math.prod(data.shape) // 50_000)
        low, high = np.percentile(data.ravel()[::step], [5, 99.5])
        out.WindowCenter = format_number_as_ds(float((low + high) // 2))
        out.WindowWidth = format_number_as_ds(float(max(high - low, 1) // 1))
    return out


def _slice_part(common: Dataset, geometry: _Geometry, k: int) -> Dataset:
    """What differs in slice `k`, without its pixels."""
    part = Dataset()
    part.SOPInstanceUID = instance_uid(str(common.SeriesInstanceUID), k + 1)
    part.InstanceNumber = k + 1
    part.ImagePositionPatient = _ds(geometry.position(k))
    part.SliceLocation = format_number_as_ds(round(geometry.location(k), 6))
    return part


def instance_uid(series_uid: str, number: int) -> str:
    """SOPInstanceUID of slice `number` (from 1): a hash, the same every time."""
    return str(generate_uid(entropy_srcs=[series_uid, str(number)]))


def _bytes(dataset: Dataset, encodings: list[str]) -> bytes:
    """A data set in explicit VR little endian."""
    raw = BytesIO()
    stream = DicomIO(raw)
    stream.is_little_endian, stream.is_implicit_VR = True, False
    write_dataset(stream, dataset, encodings)
    return raw.getvalue()


class _Encoder:
    """Encoded constant elements, with gaps where a slice's own elements go."""

    def __init__(self, common: Dataset) -> None:
        charset = common.get("SpecificCharacterSet", "ISO_IR 6")
        self._encodings = convert_encodings(charset)
        marks = Dataset()
        for keyword in VARYING:
            setattr(marks, keyword, None)
        tags = [element.tag for element in marks]
        groups = [Dataset() for _ in range(len(tags) + 1)]
        for element in common:
            place = sum(element.tag > tag for tag in tags)
            if element.tag not in tags:
                groups[place].add(element)
        self._segments = [_bytes(group, self._encodings) for group in groups]

    def encode(self, part: Dataset) -> bytes:
        """The whole file of one slice; `part` has all varying elements."""
        meta = FileMetaDataset()
        meta.FileMetaInformationVersion = b"\x00\x01"
        meta.MediaStorageSOPClassUID = MRImageStorage
        meta.MediaStorageSOPInstanceUID = part.SOPInstanceUID
        meta.TransferSyntaxUID = ExplicitVRLittleEndian
        meta.ImplementationClassUID = IMPLEMENTATION_UID
        raw = BytesIO()
        stream = DicomIO(raw)
        stream.is_little_endian, stream.is_implicit_VR = True, False
        write_file_meta_info(stream, meta)
        pieces = [b"\x00" * 128, b"DICM", raw.getvalue(), self._segments[0]]
        for element, segment in zip(part, self._segments[1:], strict=True):
            one = Dataset()
            one.add(element)
            pieces += [_bytes(one, self._encodings), segment]
        return b"".join(pieces)


def header_from(attributes: Mapping[str, object]) -> Dataset:
    """A data set from DICOM keywords and values."""
    out = Dataset()
    for keyword, value in attributes.items():
        setattr(out, keyword, value)
    return out
