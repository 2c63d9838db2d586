"""The content tree of a measurement report: TID 1500 with groups by TID 1411 and TID 1501."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from dicom_bridge.seg.build import ARTIFICIAL_INTELLIGENCE, coded
from dicom_bridge.seg.lesions import derived_uid
from dicom_bridge.seg.model import Code, Finding, Lesion, SegmentSpec
from dicom_bridge.sr.model import ReportRequest, SegReference

if TYPE_CHECKING:
    from highdicom.sr import (
        AlgorithmIdentification,
        Measurement,
        MeasurementReport,
        MeasurementsAndQualitativeEvaluations,
        ReferencedSegment,
        Scoord3DContentItem,
        TextContentItem,
        VolumetricROIMeasurementsAndQualitativeEvaluations,
    )

    Group = (
        VolumetricROIMeasurementsAndQualitativeEvaluations | MeasurementsAndQualitativeEvaluations
    )

VOLUME = Code("118565006", "SCT", "Volume")
COUNT = Code("111406", "DCM", "Number of similar findings")
VOXEL_SUM = Code("126030", "DCM", "Sum of segmented voxel method for volume")
MILLILITRE = Code("ml", "UCUM", "Milliliter")
NO_UNIT = Code("1", "UCUM", "no units")
PROCEDURE = Code("363679005", "SCT", "Imaging procedure")
COMMENT = Code("121106", "DCM", "Comment")
CENTER_OF_MASS = Code("128138", "DCM", "Center of Mass")
PRESENCE = Code("705057003", "SCT", "Presence")
ABSENT = Code("272519000", "SCT", "Absent")
DECIMALS = 6


def report_content(request: ReportRequest, version: str) -> MeasurementReport:
    """The whole content tree.

    Args:
        request: what was asked for.
        version: our software version.
    """
    from highdicom.sr import (
        DeviceObserverIdentifyingAttributes,
        MeasurementReport,
        ObservationContext,
        ObserverContext,
    )
    from pydicom.sr.codedict import codes

    device = DeviceObserverIdentifyingAttributes(
        uid=derived_uid(f"{request.manufacturer} {version}", "device observer"),
        name=request.device_name,
        manufacturer_name=request.manufacturer,
        model_name=request.manufacturer,
        serial_number=version,
    )
    context = ObservationContext(
        observer_device_context=ObserverContext(
            observer_type=codes.DCM.Device, observer_identifying_attributes=device
        )
    )
    report = MeasurementReport(
        observation_context=context,
        procedure_reported=coded(PROCEDURE),
        imaging_measurements=_groups(request),
    )
    for text in notes(request):
        report[0].ContentSequence.append(_text(text))
    return report


def notes(request: ReportRequest) -> tuple[str, ...]:
    """The report's sentences: disclaimer, what was found, what is left out, known quality."""
    sentences = [request.disclaimer]
    if not request.findings:
        names = ", ".join(request.looked_for) or "anything"
        sentences.append(f"No finding: the model did not find {names}.")
    for finding in request.findings:
        count = len(finding.lesions)
        sentences.append(
            f"{finding.spec.label}: {count} {'lesion' if count == 1 else 'lesions'}, "
            f"{finding.volume_ml:.3f} ml in all."
        )
    total = sum(len(finding.lesions) for finding in request.findings)
    if total > request.most_lesions:
        sentences.append(
            f"Only the {request.most_lesions} largest of {total} lesions are listed one by one; "
            "counts and total volumes hold all of them."
        )
    quality = request.quality
    if quality is not None:
        spread = (
            "" if quality.deviation is None else f" (standard deviation {quality.deviation:.3f})"
        )
        sentences.append(
            f"{quality.metric} of this model on {quality.cases} test cases of this site: "
            f"mean {quality.mean:.3f}{spread}."
        )
    return tuple(sentences)


def reported_lesions(request: ReportRequest) -> set[str]:
    """Tracking UIDs of the lesions that are listed one by one: the largest of all labels."""
    every = [lesion for finding in request.findings for lesion in finding.lesions]
    every.sort(key=lambda lesion: (-lesion.volume_ml, lesion.tracking_uid))
    return {lesion.tracking_uid for lesion in every[: request.most_lesions]}


def _groups(request: ReportRequest) -> list[Group]:
    if not request.findings:
        return [_nothing(request)]
    groups: list[Group] = []
    listed = reported_lesions(request)
    for finding in request.findings:
        groups.append(_whole(request, finding))
        for lesion, segment in zip(finding.lesions, finding.segments, strict=True):
            if lesion.tracking_uid in listed:
                groups.append(_one(request, finding.spec, lesion, segment))
    return groups


def _algorithm(request: ReportRequest, *, whole: bool) -> AlgorithmIdentification:
    """Name and version; with parameters and known quality where `whole`."""
    from highdicom.sr import AlgorithmIdentification

    parameters = [f"{name}={value}" for name, value in request.algorithm.parameters]
    quality = request.quality
    if quality is not None:
        name = quality.metric.lower()
        parameters.append(f"site_test_{name}_mean={quality.mean:.4f}")
        parameters.append(f"site_test_cases={quality.cases}")
        if quality.deviation is not None:
            parameters.append(f"site_test_{name}_sd={quality.deviation:.4f}")
    return AlgorithmIdentification(
        name=request.algorithm.name,
        version=request.algorithm.version,
        parameters=parameters if whole and parameters else None,
        family=coded(ARTIFICIAL_INTELLIGENCE) if whole else None,
    )


def _volume(volume_ml: float) -> Measurement:
    from highdicom.sr import Measurement

    return Measurement(name=coded(VOLUME), value=round(volume_ml, DECIMALS), unit=coded(MILLILITRE))


def _count(count: int) -> Measurement:
    from highdicom.sr import Measurement

    measurement = Measurement(name=coded(COUNT), value=count, unit=coded(NO_UNIT))
    measurement[0].MeasuredValueSequence[0].NumericValue = str(count)  # "3", not "3.0"
    return measurement


def _common(request: ReportRequest, spec: SegmentSpec, *, whole: bool) -> dict[str, Any]:
    from highdicom.sr import FindingSite

    return {
        "finding_type": coded(spec.finding or spec.type),
        "finding_category": coded(spec.category),
        "finding_sites": None if spec.region is None else [FindingSite(coded(spec.region))],
        "method": coded(VOXEL_SUM),
        "algorithm_id": _algorithm(request, whole=whole),
    }


def _whole(request: ReportRequest, finding: Finding) -> Group:
    """Count and total volume of a label; its segment is named where one holds it all."""
    measurements = [_volume(finding.volume_ml), _count(len(finding.lesions))]
    numbers = set(finding.segments)
    return _group(
        request,
        (finding.tracking_id, finding.tracking_uid),
        numbers.pop() if len(numbers) == 1 else None,
        measurements=measurements,
        **_common(request, finding.spec, whole=True),
    )


def _one(request: ReportRequest, spec: SegmentSpec, lesion: Lesion, segment: int) -> Group:
    """One lesion: its volume, its centre, and the segment that holds it."""
    group = _group(
        request,
        (lesion.tracking_id, lesion.tracking_uid),
        segment,
        measurements=[_volume(lesion.volume_ml)],
        **_common(request, spec, whole=False),
    )
    group[0].ContentSequence.append(_centre(request, lesion))
    return group


def _group(
    request: ReportRequest,
    tracking: tuple[str, str],
    segment: int | None,
    **content: Any,  # noqa: ANN401 - what both kinds of group take alike
) -> Group:
    """A group by TID 1411 where a segment stands for the region, else by TID 1501."""
    from highdicom.sr import (
        MeasurementsAndQualitativeEvaluations,
        TrackingIdentifier,
        VolumetricROIMeasurementsAndQualitativeEvaluations,
    )

    identifier, uid = tracking
    tracked = TrackingIdentifier(uid=uid, identifier=identifier)
    if request.seg is None or segment is None:
        return MeasurementsAndQualitativeEvaluations(tracking_identifier=tracked, **content)
    return VolumetricROIMeasurementsAndQualitativeEvaluations(
        tracking_identifier=tracked,
        referenced_segment=_segment(request, request.seg, segment),
        **content,
    )


def _nothing(request: ReportRequest) -> Group:
    """A group that says: looked for, absent, none, 0 ml."""
    from highdicom.sr import (
        MeasurementsAndQualitativeEvaluations,
        QualitativeEvaluation,
        TrackingIdentifier,
    )

    return MeasurementsAndQualitativeEvaluations(
        tracking_identifier=TrackingIdentifier(
            uid=derived_uid(request.sop_instance_uid, "no finding"),
            identifier=f"{request.manufacturer} no finding",
        ),
        algorithm_id=_algorithm(request, whole=True),
        measurements=[_volume(0.0), _count(0)],
        qualitative_evaluations=[QualitativeEvaluation(name=coded(PRESENCE), value=coded(ABSENT))],
    )


def _segment(request: ReportRequest, seg: SegReference, number: int) -> ReferencedSegment:
    from highdicom.sr import ReferencedSegment, SourceSeriesForSegmentation

    return ReferencedSegment(
        sop_class_uid=seg.sop_class_uid,
        sop_instance_uid=seg.sop_instance_uid,
        segment_number=number,
        source_series=SourceSeriesForSegmentation(request.source.SeriesInstanceUID),
    )


def _centre(request: ReportRequest, lesion: Lesion) -> Scoord3DContentItem:
    import numpy as np
    from highdicom.sr import GraphicTypeValues3D, RelationshipTypeValues, Scoord3DContentItem

    return Scoord3DContentItem(
        name=coded(CENTER_OF_MASS),
        graphic_type=GraphicTypeValues3D.POINT,
        graphic_data=np.array([lesion.centroid], dtype=np.float64),
        frame_of_reference_uid=request.source.FrameOfReferenceUID,
        relationship_type=RelationshipTypeValues.CONTAINS,
    )


def _text(text: str) -> TextContentItem:
    from highdicom.sr import RelationshipTypeValues, TextContentItem

    return TextContentItem(
        name=coded(COMMENT), value=text, relationship_type=RelationshipTypeValues.CONTAINS
    )
