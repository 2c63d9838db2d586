"""Which regions of a structure set count as an expert's labels; clinode's own never do.

ROIGenerationAlgorithm says how a region was made (AUTOMATIC, SEMIAUTOMATIC, MANUAL; it may be
empty, PS3.3 C.8.8.5). An empty one counts where the structure set was approved by a named
reviewer, or where the region names its interpreter: then a person answers for it.
"""

from __future__ import annotations

from collections.abc import Mapping

from pydicom.dataset import Dataset

from dicom_bridge.convert.frames import attribute
from dicom_bridge.rtstruct.model import Roi
from dicom_bridge.rtstruct.read import rois_of
from dicom_bridge.seg.expert import EXPERT_TYPES, ExpertPolicy, is_own_result, plain_name

NO_REGIONS = frozenset({"MARKER", "REGISTRATION", "ISOCENTER", "DOSE_MEASUREMENT"})
"""RTROIInterpretedTypes that are points, never a region of the patient."""


def region_name(name: str) -> str:
    """A region's name folded for comparison: no case, single blanks for blanks, '_' and '-'.

    Examples:
        >>> region_name(" GTV_1 ") == region_name("gtv 1")
        True
    """
    return " ".join(name.casefold().replace("_", " ").replace("-", " ").split())


def creator_of(dataset: Dataset) -> str:
    """Who made a structure set: the operator, else its reviewer, else the equipment."""
    for keyword in ("OperatorsName", "ReviewerName"):
        name = attribute(dataset, keyword)
        text = str(name if isinstance(name, str) or not name else _first(name)).strip()
        if text and text != "None":
            return text
    return ""


def _first(value: object) -> object:
    return value[0] if isinstance(value, (list, tuple)) else value


def expert_rois(
    dataset: Dataset, policy: ExpertPolicy, names: Mapping[str, int], codes: Mapping[str, int]
) -> tuple[dict[int, int], str]:
    """The regions that count, with the site's label values.

    Args:
        dataset: a structure set.
        policy: the site's allowed codes and creators.
        names: ROIName to the label value (settings ``[labels] rois``).
        codes: ``SCHEME:VALUE`` to the label value; a code goes before a name.

    Returns:
        ROINumber to label value, empty where none counts; and why, in words.
    """
    if is_own_result(dataset, policy.own):
        return {}, "a result of clinode's own is never a label"
    rois = rois_of(dataset)
    folded = {region_name(name): value for name, value in names.items()}
    mapped = {roi.number: _value(roi, folded, codes) for roi in rois}
    wanted = [roi for roi in rois if mapped[roi.number] is not None]
    if not wanted:
        return {}, "no region's code or name is mapped to a label of the site"
    creators = {plain_name(name) for name in policy.creators}
    made_by = {plain_name(creator_of(dataset)), *(plain_name(r.interpreter) for r in wanted)}
    if creators and not creators & made_by:
        return {}, "the structure set's maker is not among the site's allowed creators"
    approved = _approved(dataset)
    found = {}
    for roi in wanted:
        value = mapped[roi.number]
        by_person = roi.algorithm in EXPERT_TYPES or (
            not roi.algorithm and (approved or bool(roi.interpreter))
        )
        if value is not None and by_person:
            found[roi.number] = value
    if not found:
        return {}, (
            "no mapped region's ROIGenerationAlgorithm is MANUAL or SEMIAUTOMATIC, "
            "and no person answers for one"
        )
    return found, "drawn by a person, with a mapped code or name"


def _value(roi: Roi, names: Mapping[str, int], codes: Mapping[str, int]) -> int | None:
    if roi.interpreted_type in NO_REGIONS:
        return None
    if roi.code is not None:
        found = codes.get(f"{roi.code.scheme}:{roi.code.value}")
        if found is not None:
            return found
    return names.get(region_name(roi.name))


def _approved(dataset: Dataset) -> bool:
    status = str(attribute(dataset, "ApprovalStatus") or "").upper()
    return status == "APPROVED" and bool(str(attribute(dataset, "ReviewerName") or "").strip())
