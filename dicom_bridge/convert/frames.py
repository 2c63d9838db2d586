"""Reading instances, and every frame's own attributes from classic and multi-frame objects."""

from __future__ import annotations

import math
import struct
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pydicom
from pydicom.dataset import Dataset
from pydicom.errors import BytesLengthException, InvalidDicomError
from pydicom.filereader import read_file_meta_info
from pydicom.uid import (
    AllTransferSyntaxes,
    CTImageStorage,
    DeflatedExplicitVRLittleEndian,
    EnhancedCTImageStorage,
    EnhancedMRColorImageStorage,
    EnhancedMRImageStorage,
    EnhancedPETImageStorage,
    LegacyConvertedEnhancedCTImageStorage,
    LegacyConvertedEnhancedMRImageStorage,
    LegacyConvertedEnhancedPETImageStorage,
    MRImageStorage,
    PositronEmissionTomographyImageStorage,
    SecondaryCaptureImageStorage,
)

from dicom_bridge.convert.libraries import configure_reading
from dicom_bridge.errors import DataRefused

CLASSIC = frozenset({MRImageStorage, CTImageStorage, PositronEmissionTomographyImageStorage})
MULTI_FRAME = frozenset(
    {
        EnhancedMRImageStorage,
        EnhancedCTImageStorage,
        EnhancedPETImageStorage,
        LegacyConvertedEnhancedMRImageStorage,
        LegacyConvertedEnhancedCTImageStorage,
        LegacyConvertedEnhancedPETImageStorage,
    }
)
VOLUME_CLASSES = CLASSIC | MULTI_FRAME
# What `clinode tools convert` takes besides: colour maps, and captures that carry positions.
PICTURE_CLASSES = frozenset({EnhancedMRColorImageStorage, SecondaryCaptureImageStorage})
# What pydicom and the decoders raise at damaged input; RuntimeError includes NotImplementedError.
READ_ERRORS: tuple[type[Exception], ...] = (
    *(OSError, EOFError, ValueError, TypeError, AttributeError, LookupError, ArithmeticError),
    *(RuntimeError, MemoryError, AssertionError, struct.error, zlib.error, BytesLengthException),
)
IDENTIFYING_UIDS = ("SOPInstanceUID", "SeriesInstanceUID", "StudyInstanceUID")
MAX_FILE_BYTES = 4 * 1024**3
MAX_VOXELS = 1024**3
MAX_FRAMES = 20_000
MAX_SIDE = 16_384
_HEAD_BYTES = 4096

# What differs between volumes that share their positions, and how to say it.
VARIATIONS: tuple[tuple[str, str], ...] = (
    ("EchoTime", "echo times"),
    ("ImageType", "image types (magnitude, phase, ...)"),
    ("DiffusionBValue", "diffusion b-values"),
    ("TemporalPosition", "time points"),
    ("AcquisitionNumber", "acquisitions"),
)


@dataclass(frozen=True, slots=True, eq=False)
class Frame:
    """One slice: a classic instance, or one frame of a multi-frame instance.

    Attributes:
        dataset: the instance's data set, shared by the frames of a multi-frame instance.
        path: the file it was read from.
        index: 0-based frame of a multi-frame instance; None in a single-frame one.
        position: ImagePositionPatient as written, LPS mm.
        orientation: ImageOrientationPatient as written.
        spacing: PixelSpacing as written: between rows, between columns, mm.
        thickness: SliceThickness as written, "" where absent.
        slope: RescaleSlope, 1 where absent.
        intercept: RescaleIntercept, 0 where absent.
        variation: values of `VARIATIONS`, as text, to name what differs.
        tile: first row, first column, rows and columns of a slice that is one tile of a mosaic.
        rank: DimensionIndexValues from the last to the first, () where there are none.
    """

    dataset: Dataset
    path: Path
    index: int | None
    position: tuple[str, ...]
    orientation: tuple[str, ...]
    spacing: tuple[str, ...]
    thickness: str
    slope: float
    intercept: float
    variation: tuple[str, ...]
    tile: tuple[int, int, int, int] | None = None
    rank: tuple[int, ...] = ()

    @property
    def size(self) -> tuple[int, int]:
        """Rows and columns."""
        if self.tile is not None:
            return self.tile[2], self.tile[3]
        return whole(self.dataset, "Rows", 0), whole(self.dataset, "Columns", 0)


def read_dataset(path: Path, *, pixels: bool, named: bool = True) -> Dataset:
    """Read one DICOM file.

    Args:
        path: the file.
        pixels: whether pixel data are read too.
        named: whether SOPClassUID must be there; else the file meta information's stands in.

    Returns:
        The data set with its file meta information.

    Raises:
        DataRefused: no DICOM file, cut off, or too large.
    """
    configure_reading()
    try:
        if path.stat().st_size > MAX_FILE_BYTES:
            raise DataRefused("a file is larger than 4 GiB: not read")
        syntax = _transfer_syntax(path)
        if syntax == DeflatedExplicitVRLittleEndian:
            raise DataRefused("deflated files are not read: send them in another transfer syntax")
        if syntax is not None and syntax not in AllTransferSyntaxes:
            raise DataRefused("a file is in an unknown transfer syntax: private, or damaged")
        dataset = pydicom.dcmread(path, stop_before_pixels=not pixels)
        if not named and not sop_class(dataset):
            dataset.SOPClassUID = dataset.file_meta.get("MediaStorageSOPClassUID", "")
        if not sop_class(dataset):
            raise DataRefused("a file has no SOPClassUID: no DICOM instance, or cut off")
        for keyword in IDENTIFYING_UIDS:
            if not isinstance(attribute(dataset, keyword, ""), str):
                raise DataRefused(f"a file has several values in {keyword}: damaged")
        return dataset
    except InvalidDicomError:
        raise DataRefused("a file is not a DICOM file (no DICM prefix)") from None
    except READ_ERRORS as error:
        raise DataRefused(f"a file cannot be read as DICOM ({type(error).__name__})") from None


def _transfer_syntax(path: Path) -> str | None:
    """A file's transfer syntax, before pydicom unpacks anything: from the first bytes if it can.

    The file meta information is explicit VR little endian (PS3.10 7.1); where it is longer or odd,
    pydicom reads it, which takes as long as a tenth of a slice.
    """
    with path.open("rb") as stream:
        head = stream.read(_HEAD_BYTES)
    place, found = 132, None
    while head[128:132] == b"DICM" and place + 12 <= len(head):
        group, element, kind = struct.unpack_from("<HH2s", head, place)
        if group != 2:
            return found
        long = kind in (b"OB", b"OW", b"UN", b"SQ", b"UT")
        length = struct.unpack_from("<I" if long else "<H", head, place + (8 if long else 6))[0]
        place += 12 if long else 8
        if not kind.isupper() or place + length > len(head):
            break
        if element == 0x10:
            found = head[place : place + length].decode("ascii").rstrip("\0 ")
        place += length
    meta = read_file_meta_info(path)
    return str(meta.TransferSyntaxUID) if "TransferSyntaxUID" in meta else None


def attribute(dataset: Dataset, keyword: str, default: Any = None) -> Any:  # noqa: ANN401
    """An attribute's value; a value that breaks its VR's rules counts as absent.

    Args:
        dataset: where to look.
        keyword: DICOM keyword.
        default: given back where the attribute is absent or cannot be decoded.
    """
    try:
        return dataset.get(keyword, default)
    except READ_ERRORS:
        return default


def sop_class(dataset: Dataset) -> str:
    """SOPClassUID as text, "" where it is absent or no single value."""
    value = attribute(dataset, "SOPClassUID", "")
    return str(value).strip() if isinstance(value, str) else ""


def whole(dataset: Dataset, keyword: str, default: int) -> int:
    """An attribute as a whole number; absent, empty or undecodable gives the default."""
    value = attribute(dataset, keyword)
    try:
        return default if value is None or value == "" else int(value)
    except (ValueError, TypeError, OverflowError):
        return default


def functional_group(dataset: Dataset, index: int, name: str) -> Dataset | None:
    """The item of a functional group macro that holds for a frame (PS3.3 C.7.6.16).

    Args:
        dataset: an enhanced multi-frame instance.
        index: 0-based frame.
        name: keyword of the macro's sequence.

    Returns:
        The per-frame item, else the shared one, else None.
    """
    per_frame = attribute(dataset, "PerFrameFunctionalGroupsSequence") or []
    shared = attribute(dataset, "SharedFunctionalGroupsSequence") or []
    holders = ([per_frame[index]] if index < len(per_frame) else []) + list(shared)[:1]
    for holder in holders:
        items = attribute(holder, name)
        if items:
            item = items[0]
            return item if isinstance(item, Dataset) else None
    return None


def texts(value: object, count: int) -> tuple[str, ...]:
    """A multi-valued decimal string as written; refuses another number of values."""
    values = list(value) if isinstance(value, Iterable) and not isinstance(value, str) else [value]
    written = tuple(str(item).strip() for item in values)
    if len(written) != count or not all(_finite(text) for text in written):
        raise DataRefused("a slice has no usable position, orientation or pixel spacing")
    return written


def _finite(text: str) -> bool:
    try:
        return abs(float(text)) < 1e7
    except ValueError:
        return False


def _rescale(holder: Dataset) -> tuple[float, float]:
    """RescaleSlope and RescaleIntercept; 1 and 0 where absent; refuses what is no rescale."""
    written = []
    for keyword in ("RescaleSlope", "RescaleIntercept"):
        value = attribute(holder, keyword, "undecodable") if keyword in holder else None
        written.append(str(value if value is not None else "").strip())
    try:
        pair = float(written[0] or 1.0), float(written[1] or 0.0)
    except ValueError:
        raise DataRefused("wrong rescale: RescaleSlope or RescaleIntercept is no number") from None
    if not (math.isfinite(pair[0]) and abs(pair[1]) < math.inf):
        raise DataRefused("wrong rescale: RescaleSlope or RescaleIntercept is not finite")
    if pair[0] == 0.0:
        raise DataRefused("wrong rescale: a RescaleSlope of 0 makes every value the same")
    return pair


def classic_frame(dataset: Dataset, path: Path, position: tuple[str, ...] | None = None) -> Frame:
    """The one frame of a classic instance.

    Args:
        dataset: the instance.
        path: its file.
        position: where it lies, if ImagePositionPatient does not say.

    Raises:
        DataRefused: position, orientation or spacing is missing or not finite.
    """
    values = (
        attribute(dataset, "EchoTime"),
        attribute(dataset, "ImageType"),
        attribute(dataset, "DiffusionBValue"),
        attribute(dataset, "TemporalPositionIdentifier"),
        attribute(dataset, "AcquisitionNumber"),
    )
    slope, intercept = _rescale(dataset)
    return Frame(
        dataset=dataset,
        path=path,
        index=None,
        position=position or texts(attribute(dataset, "ImagePositionPatient"), 3),
        orientation=texts(attribute(dataset, "ImageOrientationPatient"), 6),
        spacing=texts(attribute(dataset, "PixelSpacing"), 2),
        thickness=str(attribute(dataset, "SliceThickness") or "").strip(),
        slope=slope,
        intercept=intercept,
        variation=tuple(str(value or "") for value in values),
    )


def enhanced_frame(dataset: Dataset, path: Path, index: int) -> Frame:
    """One frame of an enhanced multi-frame instance (PS3.3 C.7.6.16.2).

    Raises:
        DataRefused: position, orientation or spacing is missing or not finite.
    """

    def _value(macro: str, keyword: str) -> object:
        item = functional_group(dataset, index, macro)
        return None if item is None else attribute(item, keyword)

    values = (
        _value("MREchoSequence", "EffectiveEchoTime"),
        _value("MRImageFrameTypeSequence", "FrameType"),
        _value("MRDiffusionSequence", "DiffusionBValue"),
        _value("FrameContentSequence", "TemporalPositionIndex"),
        _value("FrameContentSequence", "FrameAcquisitionNumber"),
    )
    slope, intercept = _rescale(
        functional_group(dataset, index, "PixelValueTransformationSequence") or Dataset()
    )
    return Frame(
        dataset=dataset,
        path=path,
        index=index,
        position=texts(_value("PlanePositionSequence", "ImagePositionPatient"), 3),
        orientation=texts(_value("PlaneOrientationSequence", "ImageOrientationPatient"), 6),
        spacing=texts(_value("PixelMeasuresSequence", "PixelSpacing"), 2),
        thickness=str(_value("PixelMeasuresSequence", "SliceThickness") or "").strip(),
        slope=slope,
        intercept=intercept,
        variation=tuple(str(item or "") for item in values),
        rank=_rank(_value("FrameContentSequence", "DimensionIndexValues")),
    )


def _rank(indices: object) -> tuple[int, ...]:
    try:
        values = indices if isinstance(indices, Iterable) else [indices]
        return tuple(int(str(value)) for value in values)[::-1]
    except ValueError:
        return ()


def frames_of(dataset: Dataset, path: Path) -> list[Frame]:
    """All frames of one instance that holds slices of a single-channel volume.

    Raises:
        DataRefused: the object holds no grey-value slices, or says that it has too many.
    """
    if sop_class(dataset) not in VOLUME_CLASSES:
        raise DataRefused("the object is of a class that holds no MR, CT or PET volume")
    if whole(dataset, "SamplesPerPixel", 1) != 1:
        raise DataRefused("colour images are no measured volume: only single-channel images go on")
    if tiled(dataset):
        raise DataRefused("mosaic images (functional or diffusion) are not single volumes")
    return plain_frames(dataset, path)


def tiled(dataset: Dataset) -> bool:
    """Whether an instance holds a volume's slices side by side (Siemens MOSAIC, UIH VFRAME)."""
    parts = attribute(dataset, "ImageType") or []
    return any(str(part) in ("MOSAIC", "VFRAME") for part in parts)


def plain_frames(dataset: Dataset, path: Path) -> list[Frame]:
    """All frames of one instance whose slices do not lie side by side.

    Raises:
        DataRefused: no image, a size above the limits, or no usable position.
    """
    rows, columns = whole(dataset, "Rows", 0), whole(dataset, "Columns", 0)
    if rows < 1 or columns < 1:
        raise DataRefused("an instance has no image (Rows or Columns missing)")
    if max(rows, columns) > MAX_SIDE:
        raise DataRefused(f"absurd size: an image of {columns} x {rows} pixels is not read")
    count = whole(dataset, "NumberOfFrames", 1)
    if count > MAX_FRAMES or count * rows * columns > MAX_VOXELS:
        raise DataRefused(f"absurd size: a multi-frame object announces {count} frames")
    if "PerFrameFunctionalGroupsSequence" not in dataset:
        if count > 1:
            raise DataRefused("a multi-frame object does not say where its frames lie")
        return [classic_frame(dataset, path)]
    return [enhanced_frame(dataset, path, index) for index in range(count)]


def volume_datasets(
    files: Sequence[Path], *, pixels: bool, pictures: bool = False, named: bool = True
) -> list[tuple[Dataset, Path]]:
    """Read a series' image instances; exact copies of an instance and non-images are left out.

    Args:
        files: the series' files, in any order.
        pixels: whether pixel data are read too.
        pictures: whether colour maps and captures with positions count as images too.
        named: whether instances must carry their UIDs; without, files are one series as given.

    Returns:
        Data sets with their paths, one per SOPInstanceUID.

    Raises:
        DataRefused: a file cannot be read, no image is among them, or they are of several series.
    """
    wanted = VOLUME_CLASSES | PICTURE_CLASSES if pictures else VOLUME_CLASSES
    found: dict[str, tuple[Dataset, Path]] = {}
    series: set[str] = set()
    others = 0
    for path in files:
        dataset = read_dataset(path, pixels=pixels, named=named)
        if dataset.SOPClassUID not in wanted:
            others += 1
            continue
        uid = str(attribute(dataset, "SOPInstanceUID", "")).strip()
        if not named:
            uid = uid or str(path)
        elif not uid or not str(attribute(dataset, "SeriesInstanceUID", "")).strip():
            raise DataRefused("an instance has no SOPInstanceUID or no SeriesInstanceUID")
        series.add(str(attribute(dataset, "SeriesInstanceUID", "")))
        earlier = found.setdefault(uid, (dataset, path))[0]
        if attribute(earlier, "ImagePositionPatient") != attribute(dataset, "ImagePositionPatient"):
            raise DataRefused("two different slices carry the same SOPInstanceUID")
    if not found:
        raise DataRefused(
            f"the series holds no MR, CT or PET image ({others} objects of other classes)"
        )
    if len(series) > 1:
        raise DataRefused(f"expected one series, got {len(series)}: convert them one by one")
    return list(found.values())
