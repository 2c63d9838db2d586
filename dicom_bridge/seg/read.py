"""Reading a SEG onto its source series' grid (BINARY, FRACTIONAL, LABELMAP)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset

from dicom_bridge.convert.frames import (
    READ_ERRORS,
    attribute,
    functional_group,
    read_dataset,
    whole,
)
from dicom_bridge.convert.source import SourceSeries
from dicom_bridge.errors import DataRefused, SegRefused
from dicom_bridge.geometry import FloatArray, VolumeGeometry, grid_affine
from dicom_bridge.seg.model import Code, SegContent, SegSegment
from dicom_bridge.sop_classes import LABELMAP_STORAGE, SEGMENTATION_STORAGE

SEG_CLASSES = frozenset({SEGMENTATION_STORAGE, LABELMAP_STORAGE})
MAX_SEG_VOXELS = 1024**3
MAX_SEG_FRAMES = 100_000
ON_GRID_VOXELS = 0.02  # how far, in voxels, a frame may lie from the source's grid


def open_seg(path: Path, *, pixels: bool) -> Dataset:
    """Read a file that must be a SEG.

    Raises:
        SegRefused: unreadable, or another class of object.
    """
    try:
        dataset = read_dataset(path, pixels=pixels)
    except DataRefused as error:
        raise SegRefused(str(error)) from None
    if str(dataset.SOPClassUID) not in SEG_CLASSES:
        raise SegRefused("the object is no DICOM segmentation (SEG)")
    return dataset


def referenced_series(path: Path) -> str:
    """SeriesInstanceUID of the series that a SEG segments.

    Raises:
        SegRefused: no SEG, or it names no series or several.
    """
    return referenced_series_of(open_seg(path, pixels=False))


def referenced_series_of(dataset: Dataset) -> str:
    """As `referenced_series`, of a data set that is read already."""
    items = attribute(dataset, "ReferencedSeriesSequence") or []
    found = {str(attribute(item, "SeriesInstanceUID", "")) for item in items} - {""}
    if len(found) != 1:
        raise SegRefused(f"the SEG names {len(found)} referenced series: expected one")
    return found.pop()


class OffGrid(SegRefused):
    """A SEG refers to the series but stands on another grid."""


def read_seg(path: Path, source: SourceSeries, *, resample: bool = False) -> SegContent:
    """Read a SEG's segments onto the grid of the series it refers to.

    FRACTIONAL values count from half the maximum on.

    Args:
        path: the SEG.
        source: the series' record.
        resample: bring a SEG that stands on another grid onto the series' (see
            `dicom_bridge.seg.resampling`); without, it is refused.

    Returns:
        Masks on the series' own grid (column, row, slice).

    Raises:
        SegRefused: no SEG, another series, another grid, outside the series, or damaged.
    """
    dataset = _open_for(path, source)
    try:
        return _read_onto(dataset, source.geometry, source.SeriesInstanceUID, _uneven(source))
    except OffGrid:
        if not resample:
            raise
    from dicom_bridge.seg.resampling import resampled

    return resampled(dataset, source)


def read_labels(path: Path, source: SourceSeries) -> NDArray[np.uint16]:
    """All segments of a SEG in one array, by SegmentNumber; memory does not grow with segments.

    Args:
        path: the SEG.
        source: the series' record.

    Returns:
        (I, J, K) SegmentNumber on the series' own grid, 0 background.

    Raises:
        SegRefused: as `read_seg`, and where segments overlap.
    """
    dataset = _open_for(path, source)
    geometry, uneven = source.geometry, _uneven(source)
    labels = np.zeros(geometry.shape, np.uint16)
    for index, number, plane in _planes(dataset):
        places = _voxels(plane, _place(dataset, index, geometry, uneven), labels.shape)
        taken = labels[places]
        if np.any((taken != 0) & (taken != number)):
            raise SegRefused("the SEG's segments overlap: they do not fit into one array")
        labels[places] = number
    return labels


def _open_for(path: Path, source: SourceSeries) -> Dataset:
    dataset = open_seg(path, pixels=True)
    if referenced_series_of(dataset) != source.SeriesInstanceUID:
        raise SegRefused("the SEG refers to another series than the one given")
    return dataset


def _uneven(source: SourceSeries) -> SourceSeries | None:
    return None if source.even else source


def read_seg_alone(path: Path) -> SegContent:
    """Read a SEG onto the grid that its own frames span, without its series.

    The grid reaches from the first to the last slice that has a frame.

    Raises:
        SegRefused: no SEG, frames that are not parallel or not evenly apart, or damaged.
    """
    dataset = open_seg(path, pixels=True)
    items = attribute(dataset, "ReferencedSeriesSequence") or [Dataset()]
    return _read_onto(dataset, own_grid(dataset), str(attribute(items[0], "SeriesInstanceUID", "")))


def own_grid(dataset: Dataset) -> VolumeGeometry:
    """The grid that a SEG's frames span.

    Raises:
        SegRefused: frames that are not parallel or not evenly apart.
    """
    frames = whole(dataset, "NumberOfFrames", 1)
    if not 1 <= frames <= MAX_SEG_FRAMES:
        raise SegRefused(f"the SEG announces {frames} frames: not read")
    grids = [frame_grid(dataset, index) for index in range(frames)]
    first = grids[0]
    if max(float(np.max(np.abs(grid[:3, :3] - first[:3, :3]))) for grid in grids) > 1e-3:
        raise SegRefused("the SEG's frames are not parallel")
    normal = first[:3, 2]
    heights = np.array([float(grid[:3, 3] @ normal) for grid in grids])
    distance = _slice_distance(dataset, heights)
    count = int(np.rint((heights.max() - heights.min()) / distance)) + 1
    affine = grids[int(np.argmin(heights))].copy()
    affine[:3, 2] = normal * distance
    return VolumeGeometry(
        affine=affine,
        shape=(whole(dataset, "Columns", 0), whole(dataset, "Rows", 0), count),
        sop_instance_uids=(),
        frame_numbers=(),
    )


def _slice_distance(dataset: Dataset, heights: FloatArray) -> float:
    steps = np.diff(np.unique(np.round(heights, 3)))
    measures = functional_group(dataset, 0, "PixelMeasuresSequence") or Dataset()
    for keyword in ("SpacingBetweenSlices", "SliceThickness"):
        distance = float(measures.get(keyword) or 0)
        if distance > 0 and np.all(np.abs(steps / distance - np.rint(steps / distance)) < 0.02):
            return distance
    if steps.size == 0:
        return 1.0
    distance = float(steps.min())
    if np.any(np.abs(steps / distance - np.rint(steps / distance)) > 0.02):
        raise SegRefused("the SEG's slices are not evenly apart")
    return distance


def _read_onto(
    dataset: Dataset,
    geometry: VolumeGeometry,
    series_uid: str,
    uneven: SourceSeries | None = None,
) -> SegContent:
    masks = _masks(dataset, geometry, uneven)
    return content_of(dataset, masks, geometry.affine, series_uid)


def _masks(
    dataset: Dataset, geometry: VolumeGeometry, uneven: SourceSeries | None
) -> dict[int, NDArray[np.uint8]]:
    segments = _descriptions(dataset)
    if len(segments) * int(np.prod(geometry.shape)) > MAX_SEG_VOXELS:
        raise SegRefused("the SEG's segments hold more voxels than the limit")
    masks = {number: np.zeros(geometry.shape, np.uint8) for number in segments}
    for index, number, plane in _planes(dataset):
        places = _voxels(plane, _place(dataset, index, geometry, uneven), geometry.shape)
        masks[number][places] = 1
    return masks


def shares_on_own_grid(dataset: Dataset) -> tuple[dict[int, NDArray[np.uint8]], VolumeGeometry]:
    """Each segment on the grid that the SEG's own frames span, as shares of a voxel.

    Args:
        dataset: a SEG with pixel data.

    Returns:
        SegmentNumber to (I, J, K) uint8, 255 for a whole voxel: FRACTIONAL values scaled by
        MaximumFractionalValue, anything else 0 or 255; and the grid.

    Raises:
        SegRefused: frames that are not parallel, not evenly apart or not on one grid, or damaged.
    """
    geometry = own_grid(dataset)
    if str(attribute(dataset, "SegmentationType", "")) != "FRACTIONAL":
        masks = _masks(dataset, geometry, None)
        return {number: mask * np.uint8(255) for number, mask in masks.items()}, geometry
    segments = _descriptions(dataset)
    if len(segments) * int(np.prod(geometry.shape)) > MAX_SEG_VOXELS:
        raise SegRefused("the SEG's segments hold more voxels than the limit")
    shares = {number: np.zeros(geometry.shape, np.uint8) for number in segments}
    most = max(int(attribute(dataset, "MaximumFractionalValue") or 255), 1)
    pixels = seg_pixels(dataset)
    for index, number, _ in _planes(dataset):
        plane = pixels[index]
        places = _voxels(plane > 0, _place(dataset, index, geometry, None), geometry.shape)
        rows, columns = np.nonzero(plane)
        shares[number][places] = np.minimum(plane[rows, columns] * 255.0 / most, 255).round()
    return shares, geometry


def content_of(
    dataset: Dataset, masks: Mapping[int, NDArray[np.uint8]], affine: FloatArray, series_uid: str
) -> SegContent:
    """What a SEG says, with its segments' masks.

    Args:
        dataset: the SEG.
        masks: SegmentNumber to (I, J, K) 0/1, every described segment.
        affine: (4, 4) of the masks' grid, RAS mm.
        series_uid: series that it refers to.
    """
    segments = _descriptions(dataset)
    return SegContent(
        segments=tuple(
            _segment(number, segments[number], masks[number]) for number in sorted(segments)
        ),
        affine=affine,
        segmentation_type=str(attribute(dataset, "SegmentationType", "")),
        creator=str(attribute(dataset, "ContentCreatorName", "") or ""),
        manufacturer=str(attribute(dataset, "Manufacturer", "") or ""),
        series_description=str(attribute(dataset, "SeriesDescription", "") or ""),
        ReferencedSeriesInstanceUID=series_uid,
        SOPInstanceUID=str(attribute(dataset, "SOPInstanceUID", "")),
    )


def _planes(dataset: Dataset) -> Iterator[tuple[int, int, NDArray[np.bool_]]]:
    """Frame index, SegmentNumber and (rows, columns) mask of everything in a SEG."""
    pixels = seg_pixels(dataset)
    kind = str(attribute(dataset, "SegmentationType", ""))
    segments = _descriptions(dataset)
    for index in range(pixels.shape[0]):
        for number, plane in _segments_of_frame(dataset, index, pixels[index], kind):
            if number not in segments:
                raise SegRefused(f"a frame belongs to segment {number}, which is not described")
            yield index, number, plane


def seg_pixels(dataset: Dataset) -> NDArray[np.unsignedinteger]:
    """Decoded frames, (frames, rows, columns).

    Raises:
        SegRefused: too many, cut off or not decodable.
    """
    frames = whole(dataset, "NumberOfFrames", 1)
    rows, columns = whole(dataset, "Rows", 0), whole(dataset, "Columns", 0)
    if not 1 <= frames <= MAX_SEG_FRAMES or not 0 < frames * rows * columns <= MAX_SEG_VOXELS:
        raise SegRefused(f"the SEG announces {frames} frames of {rows} x {columns}: not read")
    try:
        pixels = np.asarray(dataset.pixel_array)
    except READ_ERRORS as error:
        raise SegRefused(
            f"the SEG's pixel data cannot be decoded ({type(error).__name__})"
        ) from None
    return pixels.reshape(frames, rows, columns)


def _descriptions(dataset: Dataset) -> dict[int, Dataset]:
    found: dict[int, Dataset] = {}
    for item in attribute(dataset, "SegmentSequence") or []:
        number = whole(item, "SegmentNumber", 0)
        if number in found:
            raise SegRefused(f"segment number {number} is described twice")
        if number > 0:  # 0 is the background that some writers describe in LABELMAP
            found[number] = item
    if not found:
        raise SegRefused("the SEG describes no segment")
    return found


def _segments_of_frame(
    dataset: Dataset, index: int, plane: NDArray[np.unsignedinteger], kind: str
) -> list[tuple[int, NDArray[np.bool_]]]:
    if kind == "LABELMAP":
        values = [int(value) for value in np.unique(plane) if value]
        return [(value, plane == value) for value in values]
    item = functional_group(dataset, index, "SegmentIdentificationSequence")
    if item is None or attribute(item, "ReferencedSegmentNumber") is None:
        raise SegRefused("a frame does not say which segment it belongs to")
    number = int(item.ReferencedSegmentNumber)
    if kind == "FRACTIONAL":
        half = int(attribute(dataset, "MaximumFractionalValue") or 255) / 2
        return [(number, plane >= max(half, 1))]
    if kind != "BINARY":
        raise SegRefused("expected a SegmentationType of BINARY, FRACTIONAL or LABELMAP")
    return [(number, plane > 0)]


def frame_grid(dataset: Dataset, index: int) -> FloatArray:
    """A SEG frame's own affine: (column, row, 0) to RAS mm; its third axis is 1 mm.

    Raises:
        SegRefused: position, orientation or spacing missing.
    """
    try:
        position = functional_group(dataset, index, "PlanePositionSequence")
        orientation = functional_group(dataset, index, "PlaneOrientationSequence")
        measures = functional_group(dataset, index, "PixelMeasuresSequence")
        if position is None or orientation is None or measures is None:
            raise SegRefused("a frame has no position, orientation or pixel spacing")
        cosines = [float(value) for value in orientation.ImageOrientationPatient]
        return grid_affine(
            [float(value) for value in position.ImagePositionPatient],
            cosines,
            [float(value) for value in measures.PixelSpacing],
            np.cross(cosines[:3], cosines[3:]).tolist(),
        )
    except READ_ERRORS as error:
        raise SegRefused(f"a frame's geometry cannot be read ({type(error).__name__})") from None


def _place(
    dataset: Dataset, index: int, geometry: VolumeGeometry, uneven: SourceSeries | None
) -> FloatArray:
    """(4, 4) whole-number change from a frame's (column, row, 0) to the source's (I, J, K)."""
    frame = frame_grid(dataset, index)
    if uneven is None:
        change = np.linalg.inv(geometry.affine) @ frame
    else:
        change = _onto_slice(frame, uneven)
    rows, columns = whole(dataset, "Rows", 0), whole(dataset, "Columns", 0)
    corners = np.array([[0, 0, 0, 1], [columns - 1, 0, 0, 1], [0, rows - 1, 0, 1]], dtype=float)
    exact = change.copy()
    exact[:3] = np.rint(change[:3])
    off = (corners @ (change - exact).T)[:, :3]
    if float(np.max(np.abs(off))) > ON_GRID_VOXELS * 5:
        raise OffGrid("the SEG lies on another grid than its series: only the same grid is read")
    return exact


def _onto_slice(frame: FloatArray, source: SourceSeries) -> FloatArray:
    """The change onto the slice of an uneven series that lies nearest to a frame."""
    normal = source.normal()
    place = np.diag([-1.0, -1.0, 1.0]) @ frame[:3, 3]
    k = int(np.argmin(np.abs((source.positions() - place) @ normal)))
    change = np.linalg.inv(source.slice_affine(k)) @ frame
    change[2, 3] += k  # the distance from slice k in mm must be 0, or the frame is refused
    return np.asarray(change, dtype=np.float64)


def _voxels(
    plane: NDArray[np.bool_], change: FloatArray, shape: tuple[int, ...]
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """The (I, J, K) indices of a frame's voxels."""
    rows, columns = np.nonzero(plane)
    index = np.c_[columns, rows, np.zeros_like(rows), np.ones_like(rows)] @ change.T
    found = index[:, :3].astype(np.int64)
    if found.size and (np.any(found < 0) or np.any(found >= np.asarray(shape))):
        raise SegRefused("the SEG has voxels outside its series")
    return found[:, 0], found[:, 1], found[:, 2]


def read_code(item: Dataset, keyword: str) -> Code | None:
    """The first code of a code sequence, None where absent or incomplete."""
    items = attribute(item, keyword) or []
    if not items:
        return None
    value = str(attribute(items[0], "CodeValue") or attribute(items[0], "LongCodeValue") or "")
    try:
        scheme = str(attribute(items[0], "CodingSchemeDesignator") or "")
        return Code(value, scheme, str(attribute(items[0], "CodeMeaning") or ""))
    except SegRefused:
        return None


def _segment(number: int, item: Dataset, mask: NDArray[np.uint8]) -> SegSegment:
    return SegSegment(
        number=number,
        label=str(attribute(item, "SegmentLabel") or ""),
        algorithm_type=str(attribute(item, "SegmentAlgorithmType") or "").upper(),
        algorithm_name=str(attribute(item, "SegmentAlgorithmName") or ""),
        category=read_code(item, "SegmentedPropertyCategoryCodeSequence"),
        type_code=read_code(item, "SegmentedPropertyTypeCodeSequence"),
        mask=mask,
        algorithm_version=_version(item),
        region=read_code(item, "AnatomicRegionSequence"),
        colour=_colour(item),
        tracking_id=str(attribute(item, "TrackingID") or ""),
        tracking_uid=str(attribute(item, "TrackingUID") or ""),
    )


def _version(item: Dataset) -> str:
    algorithm = attribute(item, "SegmentationAlgorithmIdentificationSequence") or []
    return str(attribute(algorithm[0], "AlgorithmVersion") or "") if algorithm else ""


def _colour(item: Dataset) -> tuple[int, int, int] | None:
    """The recommended colour as sRGB, None where it is absent or no colour."""
    from highdicom.color import CIELabColor

    value = attribute(item, "RecommendedDisplayCIELabValue")
    try:
        colour = CIELabColor.from_dicom_value([int(part) for part in value])
        return colour.to_rgb(clip=True)
    except READ_ERRORS:
        return None
