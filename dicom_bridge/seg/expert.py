"""Which segmentations count as an expert's labels; clinode's own results never do."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from pydicom.dataset import Dataset

from dicom_bridge.convert.frames import attribute, whole
from dicom_bridge.seg.model import MANUFACTURER, Code
from dicom_bridge.seg.read import open_seg, read_code

EXPERT_TYPES = frozenset({"MANUAL", "SEMIAUTOMATIC"})


@dataclass(frozen=True, slots=True)
class ExpertPolicy:
    """What a site takes as labels.

    Attributes:
        codes: (coding scheme, code value) of the segmented property types that map to a label of
            the site; empty allows none.
        creators: allowed ContentCreatorName, compared without case and component signs; empty
            allows every creator.
    """

    codes: frozenset[tuple[str, str]]
    creators: frozenset[str] = frozenset()


def plain_name(name: str) -> str:
    """A person name folded for comparison: letters and digits only, without case.

    Examples:
        >>> plain_name("Expert^Reader") == plain_name("EXPERT READER")
        True
    """
    return "".join(letter for letter in name.casefold() if letter.isalnum())


def is_own_result(dataset: Dataset) -> bool:
    """Whether a SEG's header says that clinode wrote it as a result.

    Args:
        dataset: a SEG's header.
    """
    makers = {
        str(attribute(dataset, keyword) or "").strip().casefold()
        for keyword in ("Manufacturer", "ManufacturerModelName")
    }
    return MANUFACTURER in makers


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
    if is_own_result(dataset):
        return False, "a result of clinode's own is never a label"
    segments = [
        item
        for item in attribute(dataset, "SegmentSequence") or []
        if whole(item, "SegmentNumber", 0)
    ]
    if not segments:
        return False, "the SEG describes no segment"
    kinds = {str(attribute(item, "SegmentAlgorithmType") or "").upper() for item in segments}
    if not kinds <= EXPERT_TYPES:
        return False, "a segment's SegmentAlgorithmType is neither MANUAL nor SEMIAUTOMATIC"
    creators = {plain_name(name) for name in policy.creators}
    if creators and plain_name(str(attribute(dataset, "ContentCreatorName") or "")) not in creators:
        return False, "the SEG's creator is not among the site's allowed creators"
    types = [read_code(item, "SegmentedPropertyTypeCodeSequence") for item in segments]
    if not any(_mapped(code, policy) for code in types):
        return False, "no segment's property type is mapped to a label of the site"
    return True, "made by a person, by an allowed creator, with a mapped code"


def _mapped(code: Code | None, policy: ExpertPolicy) -> bool:
    return code is not None and (code.scheme, code.value) in policy.codes
