"""Reading back what a measurement report of ours says."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from pydicom.dataset import Dataset

from dicom_bridge.convert.frames import READ_ERRORS, attribute, read_dataset
from dicom_bridge.errors import DataRefused, ReportRefused
from dicom_bridge.sr.content import COMMENT, COUNT, VOLUME

REPORT_CLASSES = frozenset(
    {
        "1.2.840.10008.5.1.4.1.1.88.22",  # Enhanced SR
        "1.2.840.10008.5.1.4.1.1.88.33",  # Comprehensive SR
        "1.2.840.10008.5.1.4.1.1.88.34",  # Comprehensive 3D SR
    }
)
MEASUREMENT_GROUP = "125007"
TRACKING_ID = "112039"
TRACKING_UID = "112040"
REFERENCED_SEGMENT = "121191"
MAX_ITEMS = 200_000


@dataclass(frozen=True, slots=True)
class Group:
    """One measurement group of a report.

    Attributes:
        tracking_id: Tracking Identifier.
        tracking_uid: Tracking Unique Identifier.
        volume_ml: Volume, None where absent.
        count: number of findings, None where absent.
        segment: ReferencedSegmentNumber, 0 where no segment is named.
        seg_uid: SOPInstanceUID of the segmentation, "" where none is named.
    """

    tracking_id: str
    tracking_uid: str
    volume_ml: float | None
    count: int | None
    segment: int
    seg_uid: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class ReportContent:
    """What a report says.

    Attributes:
        groups: its measurement groups, in order.
        notes: its comments, in order.
    """

    groups: tuple[Group, ...]
    notes: tuple[str, ...]


def read_report(path: Path) -> ReportContent:
    """Read a TID 1500 report's volumes, counts and comments.

    Raises:
        ReportRefused: no readable structured report.
    """
    try:
        dataset = read_dataset(path, pixels=False)
    except DataRefused as error:
        raise ReportRefused(str(error)) from None
    if str(dataset.SOPClassUID) not in REPORT_CLASSES:
        raise ReportRefused("the object is no structured report that holds measurements")
    if not attribute(dataset, "ContentSequence"):
        raise ReportRefused("the report holds no content: it is damaged or cut off")
    try:
        items = list(_walk(dataset))
        groups = [_group(item) for item in items if _name(item) == MEASUREMENT_GROUP]
        notes = [
            str(attribute(item, "TextValue", "")) for item in items if _name(item) == COMMENT.value
        ]
    except READ_ERRORS as error:
        raise ReportRefused(f"the report's content is damaged ({type(error).__name__})") from None
    return ReportContent(tuple(groups), tuple(notes))


def _walk(dataset: Dataset) -> Iterator[Dataset]:
    waiting, seen = [dataset], 0
    while waiting:
        item = waiting.pop(0)
        seen += 1
        if seen > MAX_ITEMS:
            raise ReportRefused("the report holds more content items than the limit")
        yield item
        waiting = [*(attribute(item, "ContentSequence") or []), *waiting]


def _name(item: Dataset) -> str:
    names = attribute(item, "ConceptNameCodeSequence") or []
    return str(attribute(names[0], "CodeValue", "")) if names else ""


def _group(container: Dataset) -> Group:
    found: dict[str, Dataset] = {}
    for item in attribute(container, "ContentSequence") or []:
        found.setdefault(_name(item), item)
    segment, seg_uid = 0, ""
    if REFERENCED_SEGMENT in found:
        reference = found[REFERENCED_SEGMENT].ReferencedSOPSequence[0]
        segment = int(reference.ReferencedSegmentNumber)
        seg_uid = str(reference.ReferencedSOPInstanceUID)
    volume, count = _number(found.get(VOLUME.value)), _number(found.get(COUNT.value))
    return Group(
        tracking_id=str(attribute(found.get(TRACKING_ID, Dataset()), "TextValue", "")),
        tracking_uid=str(attribute(found.get(TRACKING_UID, Dataset()), "UID", "")),
        volume_ml=volume,
        count=None if count is None else round(count),
        segment=segment,
        seg_uid=seg_uid,
    )


def _number(item: Dataset | None) -> float | None:
    values = None if item is None else attribute(item, "MeasuredValueSequence")
    return float(values[0].NumericValue) if values else None
