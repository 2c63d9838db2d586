"""From label values to segment numbers: one segment per label, or one per connected piece."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from dicom_bridge.errors import SegRefused
from dicom_bridge.geometry import FloatArray
from dicom_bridge.seg.lesions import derived_uid, labelled, lesions_of
from dicom_bridge.seg.model import MANUFACTURER, Finding, SegmentSpec, SegRequest

MOST_SEGMENTS = 1000
TRACKED_BY = f"{MANUFACTURER} "


@dataclass(frozen=True, slots=True, eq=False)
class Numbered:
    """A mask with the numbers that its segments get.

    Attributes:
        mask: (I, J, K) SegmentNumber, 1 to n without gaps, 0 background.
        specs: the segments in order of their numbers.
        values: SegmentNumber to the label's value in the caller's mask.
        findings: what each label holds.
    """

    mask: NDArray[np.uint16]
    specs: tuple[SegmentSpec, ...]
    values: dict[int, int]
    findings: tuple[Finding, ...]


def numbered(request: SegRequest, labels: NDArray[np.uint8], affine: FloatArray) -> Numbered:
    """Give every segment its number, tracking id and tracking UID.

    Labels without a voxel are left out: an empty segment hangs some viewers.

    Args:
        request: its `segments`, `lesions`, `manufacturer` and SOPInstanceUID count.
        labels: (I, J, K) label values on the source grid.
        affine: (4, 4) of the source grid, RAS mm.

    Raises:
        SegRefused: more connected pieces than can be segments of their own.
    """
    mask = np.zeros(labels.shape, np.uint16)
    specs: list[SegmentSpec] = []
    values: dict[int, int] = {}
    findings: list[Finding] = []
    voxel_ml = abs(float(np.linalg.det(affine[:3, :3]))) / 1000
    for asked in sorted(request.segments, key=lambda spec: spec.number):
        own = labels == asked.number
        voxels = int(np.count_nonzero(own))
        if not voxels:
            continue
        spec = tracked(asked, request)
        lesions = lesions_of(
            own, affine, seed=request.sop_instance_uid, name=spec.tracking_id or ""
        )
        first = len(specs) + 1
        if request.lesions == "each":
            pieces, _ = labelled(own)
            mask[own] = pieces[own] + (first - 1)
            new = [
                _piece(spec, first + i, one.tracking_id, one.tracking_uid)
                for i, one in enumerate(lesions)
            ]
        else:
            mask[own] = first
            new = [replace(spec, number=first)]
        if len(specs) + len(new) > MOST_SEGMENTS:
            raise SegRefused(
                f"more than {MOST_SEGMENTS} lesions cannot be segments of their own: "
                "write them together"
            )
        specs += new
        values.update({segment.number: asked.number for segment in new})
        numbers = [first + i if request.lesions == "each" else first for i in range(len(lesions))]
        findings.append(
            Finding(
                spec=asked,
                volume_ml=voxels * voxel_ml,
                tracking_id=spec.tracking_id or "",
                tracking_uid=spec.tracking_uid or "",
                lesions=lesions,
                segments=tuple(numbers),
            )
        )
    return Numbered(mask, tuple(specs), values, tuple(findings))


def tracked(spec: SegmentSpec, request: SegRequest) -> SegmentSpec:
    """The label with a TrackingID and TrackingUID: its own, or derived from the SEG's UID."""
    if spec.tracking_id is not None and spec.tracking_uid is not None:
        return spec
    ours = TRACKED_BY if request.manufacturer == MANUFACTURER else ""
    uid = derived_uid(request.sop_instance_uid, f"label {spec.number}")
    return replace(spec, tracking_id=f"{ours}{spec.label}", tracking_uid=uid)


def _piece(spec: SegmentSpec, number: int, tracking_id: str, tracking_uid: str) -> SegmentSpec:
    place = tracking_id.rsplit(" ", 1)[-1]
    return replace(
        spec,
        number=number,
        label=f"{spec.label[:58]} {place}",
        tracking_id=tracking_id,
        tracking_uid=tracking_uid,
    )


def labels_without_meaning(values: set[int], segments: Sequence[SegmentSpec]) -> list[int]:
    """Label values that no segment describes."""
    return sorted(values - {spec.number for spec in segments})
