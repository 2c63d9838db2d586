"""Checking a SEG against its source series: what would keep a viewer from showing it rightly."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from pydicom.dataset import Dataset
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian

from dicom_bridge.convert.frames import READ_ERRORS, attribute, functional_group, whole
from dicom_bridge.convert.source import SourceSeries
from dicom_bridge.errors import SegRefused
from dicom_bridge.seg.read import open_seg, read_code, seg_pixels

POSITION_TOLERANCE_MM = 1e-4  # the strictest viewer's
ORIENTATION_TOLERANCE = 1e-4
SPACING_TOLERANCE_MM = 1e-3
PATIENT_CHECKED = ("PatientID", "PatientName", "PatientBirthDate", "PatientSex")
SIMPLE_SYNTAXES = frozenset({ExplicitVRLittleEndian, ImplicitVRLittleEndian})


def check_seg(source: SourceSeries, seg: Path) -> list[str]:
    """Findings on a SEG that belongs to a series, in words; empty where nothing is wrong.

    Args:
        source: the series' record.
        seg: the SEG.

    Returns:
        One sentence per finding, without any patient's value.
    """
    try:
        dataset = open_seg(seg, pixels=True)
    except SegRefused as error:
        return [str(error)]
    found = [*_identity(source, dataset), *_references(source, dataset)]
    try:
        found += [*_shared(source, dataset), *_segments(dataset), *_frames(source, dataset)]
        found += _content(dataset)
    except READ_ERRORS as error:
        found.append(f"the SEG's structure is damaged ({type(error).__name__})")
    except SegRefused as error:
        found.append(str(error))
    return found


def _identity(source: SourceSeries, dataset: Dataset) -> Iterator[str]:
    if str(attribute(dataset, "StudyInstanceUID", "")) != source.StudyInstanceUID:
        yield "StudyInstanceUID is not the source's: the archive makes two studies of it"
    for keyword in PATIENT_CHECKED:
        if str(attribute(dataset, keyword) or "").strip() != source.patient.get(keyword, ""):
            yield f"{keyword} is not the source's"
    if str(attribute(dataset, "FrameOfReferenceUID", "")) != source.FrameOfReferenceUID:
        yield "FrameOfReferenceUID is not the source's"
    if str(attribute(dataset, "SeriesInstanceUID", "")) == source.SeriesInstanceUID:
        yield "SeriesInstanceUID is the source's own: a SEG needs a new series"
    if str(attribute(dataset, "Modality", "")) != "SEG":
        yield "Modality is not SEG"
    kind = str(attribute(dataset, "SegmentationType", ""))
    if kind == "LABELMAP":
        yield "SegmentationType is LABELMAP: only new viewers open it, older archives refuse it"
    elif kind != "BINARY":
        yield "SegmentationType is not BINARY: some viewers draw nothing"
    if dataset.file_meta.get("TransferSyntaxUID") not in SIMPLE_SYNTAXES:
        yield "the transfer syntax is not uncompressed little endian: some viewers cannot open it"


def _references(source: SourceSeries, dataset: Dataset) -> Iterator[str]:
    items = attribute(dataset, "ReferencedSeriesSequence") or []
    if not items:
        yield "ReferencedSeriesSequence is missing: viewers call the SEG unsupported"
        return
    if str(attribute(items[0], "SeriesInstanceUID", "")) != source.SeriesInstanceUID:
        yield "ReferencedSeriesSequence names another series"
    named = {
        str(attribute(image, "ReferencedSOPInstanceUID", ""))
        for image in attribute(items[0], "ReferencedInstanceSequence") or []
    }
    if not named:
        yield "ReferencedSeriesSequence names no instance"
    if named - {frame.SOPInstanceUID for frame in source.frames}:
        yield "ReferencedSeriesSequence names instances that the series does not have"


def _shared(source: SourceSeries, dataset: Dataset) -> Iterator[str]:
    if (whole(dataset, "Rows", 0), whole(dataset, "Columns", 0)) != (source.Rows, source.Columns):
        yield "Rows and Columns are not the source's"
    shared = (attribute(dataset, "SharedFunctionalGroupsSequence") or [Dataset()])[0]
    measures = (attribute(shared, "PixelMeasuresSequence") or [None])[0]
    if measures is None:
        yield "PixelMeasuresSequence is not in the shared functional groups: a viewer crashes"
        return
    wanted = [float(value) for value in source.PixelSpacing]
    spacing = [float(value) for value in attribute(measures, "PixelSpacing") or (0, 0)]
    if not np.allclose(spacing, wanted, rtol=0, atol=SPACING_TOLERANCE_MM):
        yield "PixelSpacing is not the source's"
    if not attribute(measures, "SliceThickness"):
        yield "SliceThickness is missing"
    if not source.even:
        yield "the series' slices are not evenly apart: readers that build a volume misplace them"
    between = float(attribute(measures, "SpacingBetweenSlices") or 0)
    if abs(between - source.SpacingBetweenSlices) > SPACING_TOLERANCE_MM:
        yield "SpacingBetweenSlices is missing or not the source's slice distance"


def _segments(dataset: Dataset) -> Iterator[str]:
    segments = attribute(dataset, "SegmentSequence") or []
    numbers = [whole(item, "SegmentNumber", 0) for item in segments]
    if numbers != list(range(1, len(numbers) + 1)) or not numbers:
        yield "segments are not numbered 1 to n without gaps"
    for number, item in enumerate(segments, start=1):
        if not str(attribute(item, "SegmentLabel") or "").strip():
            yield f"segment {number} has no SegmentLabel"
        for keyword in (
            "SegmentedPropertyCategoryCodeSequence",
            "SegmentedPropertyTypeCodeSequence",
        ):
            if read_code(item, keyword) is None:
                yield f"segment {number} has no complete {keyword}"
        kind = str(attribute(item, "SegmentAlgorithmType") or "")
        if kind not in ("AUTOMATIC", "SEMIAUTOMATIC", "MANUAL"):
            yield f"segment {number} has no SegmentAlgorithmType"
        elif kind != "MANUAL" and not str(attribute(item, "SegmentAlgorithmName") or "").strip():
            yield f"segment {number} was made by an algorithm without a SegmentAlgorithmName"


def _frames(source: SourceSeries, dataset: Dataset) -> Iterator[str]:
    """One finding per kind of fault, with the number of frames that have it."""
    faults: dict[str, int] = {}
    count = whole(dataset, "NumberOfFrames", 0)
    if count != len(attribute(dataset, "PerFrameFunctionalGroupsSequence") or []):
        yield "NumberOfFrames is not the number of per-frame functional groups"
        return
    described = {
        whole(item, "SegmentNumber", 0) for item in attribute(dataset, "SegmentSequence", [])
    }
    for index in range(count):
        for fault in _frame_faults(source, dataset, index, described):
            faults[fault] = faults.get(fault, 0) + 1
    for fault, times in faults.items():
        yield f"{fault} ({times} of {count} frames)"


def _frame_faults(
    source: SourceSeries, dataset: Dataset, index: int, described: set[int]
) -> Iterator[str]:
    content = functional_group(dataset, index, "FrameContentSequence")
    if content is None or attribute(content, "DimensionIndexValues") is None:
        yield "DimensionIndexValues are missing"
    if str(attribute(dataset, "SegmentationType", "")) != "LABELMAP":
        segment = functional_group(dataset, index, "SegmentIdentificationSequence")
        if segment is None or whole(segment, "ReferencedSegmentNumber", 0) not in described:
            yield "the frame names no described segment"
    yield from _placing_faults(source, dataset, index)


def _placing_faults(source: SourceSeries, dataset: Dataset, index: int) -> Iterator[str]:
    position = functional_group(dataset, index, "PlanePositionSequence")
    orientation = functional_group(dataset, index, "PlaneOrientationSequence")
    if position is None or orientation is None:
        yield "position or orientation is missing"
        return
    wanted = [float(value) for value in source.ImageOrientationPatient]
    turned = np.asarray(orientation.ImageOrientationPatient, dtype=float)
    if np.max(np.abs(turned - wanted)) > ORIENTATION_TOLERANCE:
        yield "ImageOrientationPatient is not the source's"
    place = np.asarray(position.ImagePositionPatient, dtype=float)
    distances = np.linalg.norm(source.positions() - place, axis=1)
    nearest = int(np.argmin(distances))
    if distances[nearest] > POSITION_TOLERANCE_MM:
        yield "the position is on no slice of the series (1e-4 mm)"
    derivation = functional_group(dataset, index, "DerivationImageSequence")
    images = [] if derivation is None else attribute(derivation, "SourceImageSequence") or []
    if not images:
        yield "the frame names no source image"
        return
    key = (
        str(attribute(images[0], "ReferencedSOPInstanceUID", "")),
        whole(images[0], "ReferencedFrameNumber", 0),
    )
    frame = source.frames[nearest]
    if key != (frame.SOPInstanceUID, frame.FrameNumber):
        yield "the source image is not the slice at the frame's position"


def _content(dataset: Dataset) -> Iterator[str]:
    pixels = seg_pixels(dataset)
    empty = int(np.sum(~pixels.reshape(pixels.shape[0], -1).any(axis=1)))
    if empty:
        yield f"{empty} of {pixels.shape[0]} frames are empty"
