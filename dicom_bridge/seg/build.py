"""Building the SEG's data set: highdicom's part, then what viewers need beyond it."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.uid import ExplicitVRLittleEndian

from dicom_bridge.convert.source import SourceSeries
from dicom_bridge.errors import SegRefused
from dicom_bridge.seg.lesions import derived_uid
from dicom_bridge.seg.model import Code, SegmentSpec, SegRequest
from dicom_bridge.seg.segments import Numbered
from dicom_bridge.seg.template import source_datasets
from dicom_bridge.stamping import (
    research_description,
    software_version,
    stamp_identity,
    stamp_times,
)

if TYPE_CHECKING:
    from highdicom.seg import Segmentation, SegmentDescription
    from highdicom.sr import CodedConcept

SERIES_NUMBER_STEP = 1000
ARTIFICIAL_INTELLIGENCE = Code("123110", "DCM", "Artificial Intelligence")


def coded(code: Code) -> CodedConcept:
    """A code as highdicom wants it."""
    from highdicom.sr import CodedConcept

    return CodedConcept(value=code.value, scheme_designator=code.scheme, meaning=code.meaning)


def build_seg(request: SegRequest, segments: Numbered, when: datetime) -> Dataset:
    """The whole data set of a SEG.

    Args:
        request: what was asked for.
        segments: the mask by segment number on the source grid, and its segments.
        when: the time of writing.

    Raises:
        SegRefused: highdicom refuses it.
    """
    dataset = _segmentation(request, segments, when)
    source = request.source.with_patient(request.patient_overrides)
    stamp_identity(dataset, source)
    stamp_times(dataset, when)
    dataset.ContentCreatorName = request.creator
    if "BodyPartExamined" in source.series:
        dataset.BodyPartExamined = source.series["BodyPartExamined"]
    organization = derived_uid(request.sop_instance_uid, "dimension organization")
    for item in (*dataset.DimensionOrganizationSequence, *dataset.DimensionIndexSequence):
        item.DimensionOrganizationUID = organization
    if request.form == "labelmap":
        _drop_background(dataset)
    _exact_geometry(dataset, source)
    return dataset


def _description(spec: SegmentSpec) -> SegmentDescription:
    from highdicom import AlgorithmIdentificationSequence
    from highdicom.color import CIELabColor
    from highdicom.seg import SegmentDescription

    algorithm = None
    if spec.algorithm_type != "MANUAL":
        algorithm = AlgorithmIdentificationSequence(
            name=spec.algorithm_name,
            family=coded(ARTIFICIAL_INTELLIGENCE),
            version=spec.algorithm_version,
            parameters=dict(spec.algorithm_parameters) or None,
        )
    return SegmentDescription(
        segment_number=spec.number,
        segment_label=spec.label,
        segmented_property_category=coded(spec.category),
        segmented_property_type=coded(spec.type),
        algorithm_type=spec.algorithm_type,
        algorithm_identification=algorithm,
        tracking_uid=spec.tracking_uid,
        tracking_id=spec.tracking_id,
        anatomic_regions=None if spec.region is None else [coded(spec.region)],
        display_color=CIELabColor.from_rgb(*spec.colour),
    )


def _planes(source: SourceSeries, mask: NDArray[np.uint16]) -> NDArray[np.unsignedinteger]:
    """(n, rows, columns) label planes in the order of `source_datasets`' slices or frames."""
    kind: type[np.unsignedinteger] = np.uint16
    if int(mask.max()) <= np.iinfo(np.uint8).max:
        kind = np.uint8
    planes: NDArray[np.unsignedinteger] = np.ascontiguousarray(mask.transpose(2, 1, 0), kind)
    if not source.multi_frame:
        return planes
    numbers = [frame.FrameNumber for frame in source.frames]
    by_frame = np.zeros((max(numbers), *planes.shape[1:]), kind)
    by_frame[np.asarray(numbers) - 1] = planes
    return by_frame


def _segmentation(request: SegRequest, segments: Numbered, when: datetime) -> Segmentation:
    """The SEG by highdicom; frames in slice order, empty ones left out."""
    from highdicom.seg import Segmentation

    source = request.source
    automatic = any(spec.algorithm_type == "AUTOMATIC" for spec in segments.specs)
    description = request.series_description[:64]
    number = request.series_number
    if number is None:
        number = max(source.SeriesNumber, 0) + SERIES_NUMBER_STEP
    try:
        return Segmentation(
            source_images=source_datasets(source),
            pixel_array=_planes(source, segments.mask),
            segmentation_type=request.form.upper(),
            segment_descriptions=_descriptions(segments.specs),
            series_instance_uid=request.series_instance_uid,
            series_number=number,
            sop_instance_uid=request.sop_instance_uid,
            instance_number=1,
            manufacturer=request.manufacturer,
            manufacturer_model_name=request.manufacturer,
            software_versions=request.software_version or software_version(),
            device_serial_number="1",
            transfer_syntax_uid=ExplicitVRLittleEndian,
            omit_empty_frames=True,
            content_label=request.content_label,
            content_description=request.content_description,
            series_description=research_description(description) if automatic else description,
            content_date=when.date(),
            content_time=when.time().replace(microsecond=0),
        )
    except (ValueError, TypeError, AttributeError, KeyError) as error:
        raise SegRefused(f"the SEG cannot be written ({type(error).__name__}: {error})") from None


def _descriptions(specs: Sequence[SegmentSpec]) -> list[SegmentDescription]:
    return [_description(spec) for spec in specs]


def _drop_background(dataset: Dataset) -> None:
    """Leave segment 0 out: a viewer that counts the items shifts every colour by one otherwise.

    PixelPaddingValue 0 still says what the background is (PS3.3 C.8.20.2).
    """
    dataset.SegmentSequence = [
        item for item in dataset.SegmentSequence if int(item.SegmentNumber) > 0
    ]


def _exact_geometry(dataset: Dataset, source: SourceSeries) -> None:
    """Write positions, orientation and spacing in the very texts of the source."""
    positions = {
        (frame.SOPInstanceUID, frame.FrameNumber): frame.ImagePositionPatient
        for frame in source.frames
    }
    for item in dataset.PerFrameFunctionalGroupsSequence:
        image = item.DerivationImageSequence[0].SourceImageSequence[0]
        key = (str(image.ReferencedSOPInstanceUID), int(image.get("ReferencedFrameNumber") or 0))
        item.PlanePositionSequence[0].ImagePositionPatient = list(positions[key])
    shared = dataset.SharedFunctionalGroupsSequence[0]
    orientation = shared.PlaneOrientationSequence[0]
    orientation.ImageOrientationPatient = list(source.ImageOrientationPatient)
    shared.PixelMeasuresSequence[0].PixelSpacing = list(source.PixelSpacing)
