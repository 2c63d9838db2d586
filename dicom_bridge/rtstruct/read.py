"""Reading RT Structure Sets: headers first, contours of the wanted regions only.

ContourData is text (VR DS), three numbers a point. It is turned into an array in one step from the
bytes of the file: a structure set may hold millions of points, and pydicom would make an object of
each number.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset
from pydicom.uid import RTStructureSetStorage

from dicom_bridge.convert.frames import READ_ERRORS, attribute, read_dataset, whole
from dicom_bridge.convert.source import SourceSeries
from dicom_bridge.errors import DataRefused
from dicom_bridge.geometry import FloatArray
from dicom_bridge.rtstruct.model import Contour, Roi, StructuresRefused
from dicom_bridge.seg.read import read_code

RTSTRUCT_STORAGE = str(RTStructureSetStorage)
MAX_BYTES = 256 * 1024**2
MAX_ITEMS = 500_000
MAX_ROIS = 2_000
MAX_POINTS = 5_000_000
"""Points of one region."""
MOST_MM = 1e5
_ITEM_TAGS = (b"\xfe\xff\x00\xe0", b"\xff\xfe\xe0\x00")


def open_structures(path: Path) -> Dataset:
    """Read a file that must be an RT Structure Set.

    Size and number of items are looked at before anything is parsed.

    Raises:
        StructuresRefused: unreadable, too large, or another class of object.
    """
    try:
        if path.stat().st_size > MAX_BYTES:
            raise StructuresRefused("the structure set is larger than 256 MiB: not read")
        if _items(path) > MAX_ITEMS:
            raise StructuresRefused(f"the structure set has more than {MAX_ITEMS} items: not read")
        dataset = read_dataset(path, pixels=False)
    except StructuresRefused:
        raise
    except (OSError, ValueError):
        raise StructuresRefused("the structure set cannot be read") from None
    except DataRefused as error:
        raise StructuresRefused(str(error)) from None
    if str(dataset.SOPClassUID) != RTSTRUCT_STORAGE:
        raise StructuresRefused("the object is no RT Structure Set")
    return dataset


def _items(path: Path) -> int:
    """How often a sequence item's tag occurs, in either byte order."""
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as view:
        count = 0
        for tag in _ITEM_TAGS:
            place = view.find(tag)
            while place >= 0 and count <= MAX_ITEMS:
                count += 1
                place = view.find(tag, place + 4)
        return count


def rois_of(dataset: Dataset) -> tuple[Roi, ...]:
    """The regions of a structure set, without their contours.

    Raises:
        StructuresRefused: too many, or two of one number.
    """
    observed = {
        whole(item, "ReferencedROINumber", -1): item
        for item in _sequence(dataset, "RTROIObservationsSequence")
    }
    found: dict[int, Roi] = {}
    for item in _sequence(dataset, "StructureSetROISequence"):
        number = whole(item, "ROINumber", -1)
        if number in found:
            raise StructuresRefused(f"the structure set describes region {number} twice")
        if len(found) >= MAX_ROIS:
            raise StructuresRefused(f"the structure set has more than {MAX_ROIS} regions: not read")
        observation = observed.get(number, Dataset())
        found[number] = Roi(
            number=number,
            name=_text(item, "ROIName"),
            code=read_code(observation, "RTROIIdentificationCodeSequence"),
            interpreted_type=_text(observation, "RTROIInterpretedType").upper(),
            algorithm=_text(item, "ROIGenerationAlgorithm").upper(),
            interpreter=_text(observation, "ROIInterpreter"),
            frame_of_reference=_text(item, "ReferencedFrameOfReferenceUID"),
        )
    return tuple(found.values())


def contours_of(dataset: Dataset, number: int) -> tuple[Contour, ...]:
    """The contours of one region.

    Args:
        dataset: the structure set.
        number: ROINumber.

    Returns:
        The contours in the order of the file; none where the region has none.

    Raises:
        StructuresRefused: too many points, or numbers that are none.
    """
    found: list[Contour] = []
    points = 0
    for holder in _sequence(dataset, "ROIContourSequence"):
        if whole(holder, "ReferencedROINumber", -1) != number:
            continue
        for item in _sequence(holder, "ContourSequence"):
            contour = _contour(item, MAX_POINTS - points)
            points += len(contour.points)
            found.append(contour)
    return tuple(found)


def _contour(item: Dataset, room: int) -> Contour:
    values = _numbers(item, room * 3)
    if len(values) % 3:
        raise StructuresRefused("a contour's data are no whole number of points")
    if not np.all(np.isfinite(values)) or np.any(np.abs(values) > MOST_MM):
        raise StructuresRefused("a contour holds coordinates that are no finite places in mm")
    points = values.reshape(-1, 3)
    announced = whole(item, "NumberOfContourPoints", len(points))
    if announced != len(points):
        raise StructuresRefused(f"a contour announces {announced} points and has {len(points)}")
    offset = attribute(item, "ContourOffsetVector")
    if offset is not None and np.any(np.asarray(list(offset), dtype=np.float64) != 0):
        raise StructuresRefused("a contour is moved by a ContourOffsetVector: not supported")
    images = tuple(
        _text(image, "ReferencedSOPInstanceUID")
        for image in _sequence(item, "ContourImageSequence")
    )
    return Contour(points, _text(item, "ContourGeometricType").upper(), images)


def _numbers(item: Dataset, most: int) -> FloatArray:
    """ContourData as numbers, from the bytes of the file where they are not decoded yet."""
    too_many = f"a region has more than {MAX_POINTS} points: not read"
    try:
        element: object = item.get_item("ContourData") if "ContourData" in item else None
        if not isinstance(element, RawDataElement):
            values = np.asarray(item.get("ContourData") or (), dtype=np.float64).reshape(-1)
        else:
            raw = bytes(element.value or b"").strip(b" \0")
            if not raw:
                return np.zeros(0)
            if raw.count(b"\\") >= most:
                raise StructuresRefused(too_many)
            values = np.array(raw.split(b"\\"), dtype=np.float64)
    except READ_ERRORS as error:
        raise StructuresRefused(
            f"a contour's data cannot be read ({type(error).__name__})"
        ) from None
    if len(values) > most:
        raise StructuresRefused(too_many)
    return values


def check_belongs(dataset: Dataset, roi: Roi, contours: Iterable[Contour], uid: str) -> None:
    """See that a region was drawn on one series.

    RTReferencedSeriesSequence of the region's frame of reference decides where it names one
    series; where it names several or none, the images that the contours name must be the series'.

    Args:
        dataset: the structure set.
        roi: the region.
        contours: its contours.
        uid: SeriesInstanceUID.

    Raises:
        StructuresRefused: it refers to another series, or to none.
    """
    named = referenced_series(dataset, roi.frame_of_reference)
    if named == {uid}:
        return
    if uid not in named and named:
        raise StructuresRefused("the structure set refers to another series than the one given")
    own = _images_of(dataset, uid)
    used = {image for contour in contours for image in contour.images} - {""}
    if not named or not used or not used <= own:
        raise StructuresRefused("the structure set does not say which series a region belongs to")


def check_images(contours: Iterable[Contour], source: SourceSeries) -> None:
    """See that contours name images of a series, where they name any.

    Raises:
        StructuresRefused: a contour names an image of another series.
    """
    own = {frame.SOPInstanceUID for frame in source.frames}
    for contour in contours:
        if any(image and image not in own for image in contour.images):
            raise StructuresRefused("a contour refers to an image of another series")


def referenced_series(dataset: Dataset, frame_of_reference: str = "") -> set[str]:
    """SeriesInstanceUIDs that a structure set refers to, of one frame of reference or of all."""
    return {
        _text(series, "SeriesInstanceUID") for series in _series_items(dataset, frame_of_reference)
    } - {""}


def _series_items(dataset: Dataset, frame_of_reference: str = "") -> Iterator[Dataset]:
    for frame in _sequence(dataset, "ReferencedFrameOfReferenceSequence"):
        if frame_of_reference and _text(frame, "FrameOfReferenceUID") != frame_of_reference:
            continue
        for study in _sequence(frame, "RTReferencedStudySequence"):
            yield from _sequence(study, "RTReferencedSeriesSequence")


def _images_of(dataset: Dataset, uid: str) -> set[str]:
    return {
        _text(image, "ReferencedSOPInstanceUID")
        for series in _series_items(dataset)
        if _text(series, "SeriesInstanceUID") == uid
        for image in _sequence(series, "ContourImageSequence")
    }


def _sequence(dataset: Dataset, keyword: str) -> list[Dataset]:
    items = attribute(dataset, keyword) or []
    try:
        return [item for item in items if isinstance(item, Dataset)]
    except READ_ERRORS:
        return []


def _text(dataset: Dataset, keyword: str) -> str:
    return str(attribute(dataset, keyword) or "").strip()
