"""Which segmentations count as an expert's labels; clinode's own results never do.

What viewers write when somebody corrects a SEG of ours and stores it:

- OHIF (3.9 on) keeps SegmentAlgorithmType and SegmentAlgorithmName of the original, so a corrected
  copy may still say AUTOMATIC; it writes `Manufacturer` Unspecified, no ContentCreatorName, no
  tracking, and the code Tissue for every segment: only SegmentLabel says what it is. Where it
  stores into the same series, PredecessorDocumentsSequence names the original. Older ones say
  MANUAL, `OHIF Brush` (OHIF issue 4021, pull request 4203).
- 3D Slicer (QuantitativeReporting, dcmqi) writes `Manufacturer` QIICR, keeps the terminology, and
  says MANUAL unless the segment carries the original's type and name along.
- dcmjs in other viewers writes what the viewer gives it, as OHIF.

So neither the algorithm type nor the code is enough: the maker decides whether an object is ours,
and a copy that refers to a result of ours is a rater's label even where it says AUTOMATIC.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType

from pydicom.dataset import Dataset

from dicom_bridge.convert.frames import attribute, whole
from dicom_bridge.seg.model import MANUFACTURER
from dicom_bridge.seg.read import open_seg, read_code
from dicom_bridge.seg.segments import TRACKED_BY

EXPERT_TYPES = frozenset({"MANUAL", "SEMIAUTOMATIC"})
OWN_CREATOR = "CLINODE^RESEARCH"


def _no_labels() -> Mapping[str, tuple[str, str]]:
    return MappingProxyType({})


@dataclass(frozen=True, slots=True)
class OwnMarks:
    """What the results that this node made can be recognised by; all may be empty.

    Attributes:
        sop_uids: their SOPInstanceUIDs.
        tracking_uids: their TrackingUIDs.
        algorithms: their SegmentAlgorithmNames (plan names).
        labels: their SegmentLabels to (coding scheme, code value) of the property type, for viewers
            that drop the codes.
        series_uids: SeriesInstanceUIDs of their SEGs: a viewer may store a corrected copy there.
    """

    sop_uids: frozenset[str] = field(default=frozenset(), repr=False)
    tracking_uids: frozenset[str] = field(default=frozenset(), repr=False)
    algorithms: frozenset[str] = frozenset()
    labels: Mapping[str, tuple[str, str]] = field(default_factory=_no_labels)
    series_uids: frozenset[str] = field(default=frozenset(), repr=False)


@dataclass(frozen=True, slots=True)
class ExpertPolicy:
    """What a site takes as labels.

    Attributes:
        codes: (coding scheme, code value) of the segmented property types that map to a label of
            the site; empty allows none.
        creators: allowed ContentCreatorName, compared without case and component signs; empty
            allows every creator.
        unnamed: whether a corrected copy of ours without any creator (OHIF names nobody) counts
            although `creators` limits who may.
        own: what the node's own results can be recognised by.
    """

    codes: frozenset[tuple[str, str]]
    creators: frozenset[str] = frozenset()
    unnamed: bool = False
    own: OwnMarks = field(default_factory=OwnMarks)


def plain_name(name: str) -> str:
    """A person name folded for comparison: letters and digits only, without case.

    Examples:
        >>> plain_name("Expert^Reader") == plain_name("EXPERT READER")
        True
    """
    return "".join(letter for letter in name.casefold() if letter.isalnum())


def is_own_result(dataset: Dataset, own: OwnMarks | None = None) -> bool:
    """Whether an object's header says that clinode wrote it as a result.

    A SEG that names clinode as its maker is ours unless a person's name stands in it as creator
    and every segment is MANUAL or SEMIAUTOMATIC: that is a correction by a tool that kept the
    maker, or a person's mask written with `clinode tools seg-write --creator`.

    Args:
        dataset: header of a SEG, a report or a picture.
        own: the node's results, where known.
    """
    if own is not None and str(attribute(dataset, "SOPInstanceUID") or "") in own.sop_uids:
        return True
    makers = {
        str(attribute(dataset, keyword) or "").strip().casefold()
        for keyword in ("Manufacturer", "ManufacturerModelName")
    }
    return MANUFACTURER in makers and not _by_person(dataset)


def _by_person(dataset: Dataset) -> bool:
    creator = plain_name(str(attribute(dataset, "ContentCreatorName") or ""))
    kinds = _kinds(dataset)
    return creator not in ("", plain_name(OWN_CREATOR)) and bool(kinds) and kinds <= EXPERT_TYPES


def edited_from_ours(dataset: Dataset, own: OwnMarks | None = None) -> str:
    """How a SEG shows that it was made from a result of ours.

    Args:
        dataset: its header.
        own: the node's results, where known; without them only a tracking id of ours tells.

    Returns:
        "predecessor", "series", "tracking" or "algorithm"; "" where nothing shows it, or where it
        is a result of ours itself.
    """
    own = own or OwnMarks()
    if is_own_result(dataset, own):
        return ""
    if set(_predecessors(dataset)) & own.sop_uids:
        return "predecessor"
    if str(attribute(dataset, "SeriesInstanceUID") or "") in own.series_uids:
        return "series"
    for item in _segments(dataset):
        tracked = str(attribute(item, "TrackingID") or "").startswith(TRACKED_BY)
        if tracked or str(attribute(item, "TrackingUID") or "") in own.tracking_uids:
            return "tracking"
    if any(
        str(attribute(i, "SegmentAlgorithmName") or "") in own.algorithms
        for i in _segments(dataset)
    ):
        return "algorithm"
    return ""


def _predecessors(dataset: Dataset) -> Iterator[str]:
    """SOPInstanceUIDs of what an object says it was made from (not the source images)."""
    for study in attribute(dataset, "PredecessorDocumentsSequence") or []:
        for series in attribute(study, "ReferencedSeriesSequence") or []:
            for item in attribute(series, "ReferencedSOPSequence") or []:
                yield str(attribute(item, "ReferencedSOPInstanceUID") or "")
    for keyword in ("SourceImageSequence", "ReferencedImageSequence"):
        for item in attribute(dataset, keyword) or []:
            yield str(attribute(item, "ReferencedSOPInstanceUID") or "")


def is_expert(path: Path, policy: ExpertPolicy) -> tuple[bool, str]:
    """Whether a SEG counts as an expert's labels at this site.

    Args:
        path: the SEG.
        policy: the site's allowed codes and creators.

    Returns:
        The decision and its reason in words (no patient or creator in it).

    Raises:
        SegRefused: unreadable, or no SEG.
    """
    return judge_header(open_seg(path, pixels=False), policy)


def judge_header(dataset: Dataset, policy: ExpertPolicy) -> tuple[bool, str]:
    """As `is_expert`, of a header that is read already."""
    if is_own_result(dataset, policy.own):
        return False, "a result of clinode's own is never a label"
    segments = _segments(dataset)
    if not segments:
        return False, "the SEG describes no segment"
    edited = edited_from_ours(dataset, policy.own)
    if not edited and not _kinds(dataset) <= EXPERT_TYPES:
        return False, "a segment's SegmentAlgorithmType is neither MANUAL nor SEMIAUTOMATIC"
    creators = {plain_name(name) for name in policy.creators}
    creator = plain_name(str(attribute(dataset, "ContentCreatorName") or ""))
    unnamed = policy.unnamed and bool(edited) and not creator
    if creators and creator not in creators and not unnamed:
        return False, "the SEG's creator is not among the site's allowed creators"
    if not codes_of(dataset, policy):
        return False, "no segment's property type is mapped to a label of the site"
    if edited:
        return True, f"a corrected copy of a result of clinode's ({edited}), with a mapped code"
    return True, "made by a person, by an allowed creator, with a mapped code"


def codes_of(dataset: Dataset, policy: ExpertPolicy) -> dict[int, tuple[str, str]]:
    """The mapped code of every segment that has one.

    In a corrected copy of ours the label stands in for a code that the viewer dropped.

    Args:
        dataset: a SEG's header.
        policy: the site's mapped codes and own results.

    Returns:
        SegmentNumber to (coding scheme, code value), only segments with a mapped code.
    """
    edited = bool(edited_from_ours(dataset, policy.own))
    found: dict[int, tuple[str, str]] = {}
    for item in _segments(dataset):
        code = read_code(item, "SegmentedPropertyTypeCodeSequence")
        key = None if code is None else (code.scheme, code.value)
        if key not in policy.codes and edited:
            key = policy.own.labels.get(str(attribute(item, "SegmentLabel") or ""))
        if key is not None and key in policy.codes:
            found[whole(item, "SegmentNumber", 0)] = key
    return found


def _segments(dataset: Dataset) -> list[Dataset]:
    """The described segments without a label map's background."""
    return [
        item
        for item in attribute(dataset, "SegmentSequence") or []
        if whole(item, "SegmentNumber", 0)
    ]


def _kinds(dataset: Dataset) -> set[str]:
    items = _segments(dataset)
    return {str(attribute(item, "SegmentAlgorithmType") or "").upper() for item in items}
