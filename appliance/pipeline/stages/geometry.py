"""Geometry before the expensive stages, and the site's protocol for each image."""

from __future__ import annotations

from dataclasses import replace

from appliance.errors import ImageRefused
from appliance.imaging.qc import Protocol, check_grid
from appliance.imaging.volume import load_volume
from appliance.pipeline.states import Stage
from appliance.pipeline.work import StageWork
from appliance.settings import Settings


def refuse_geometry(work: StageWork) -> None:
    """Refuse a study before masks and registration where an image's geometry is out of bounds.

    Voxel size, matrix and field of view are judged here; what only a mask shows (cropping) waits
    for the check after the registration, where a person may release it.

    Raises:
        ImageRefused: with the image and the reason; settings may be widened, then `study retry`.
    """
    for kind in work.settings.imaging.inputs:
        path = work.of(Stage.CONVERT) / f"{kind}.nii"
        if not path.exists():
            continue
        protocol = protocol_of(work.settings, kind)
        failed = [f for f in check_grid(load_volume(path), protocol) if f.decision == "fail"]
        if failed:
            words = "; ".join(found.words for found in failed)
            raise ImageRefused(f"geometry of the {kind}: {words}")


def protocol_of(settings: Settings, kind: str) -> Protocol:
    """What the settings declare for a modality, over the check's own limits.

    Where no heads are expected (``[imaging] body_part``), matrix and field of view are only
    bounded where the site bounds them.

    Args:
        settings: The node's settings.
        kind: Canonical modality.
    """
    section = settings.qc
    head = settings.imaging.body_part == "head"
    found = Protocol() if head else Protocol(matrix=(3, 16, 16), extent_mm=(3, 16, 16), head=False)
    if section.voxel_size_mm is not None:
        found = replace(found, voxel_size_mm=section.voxel_size_mm)
    declared = {str(name): part for name, part in section.protocol.items()}.get(kind)
    if declared is None:
        return found
    return replace(
        found,
        spacing_mm=declared.spacing_mm,
        tolerance_mm=declared.tolerance_mm,
        mismatch=declared.mismatch,
        matrix=declared.matrix or found.matrix,
        extent_mm=declared.extent_mm or found.extent_mm,
    )
