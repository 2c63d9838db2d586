"""The imaging steps on NIfTI files: what `clinode tools` and the pipeline's stages call."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from appliance.errors import ImageRefused
from appliance.imaging.alignment import Profile
from appliance.imaging.brain import fit_brain
from appliance.imaging.defacing import deface, removed_ml
from appliance.imaging.grid import grid_of, resample
from appliance.imaging.qc import Metric, Protocol, QcReport, QualityInput, Thresholds, check_quality
from appliance.imaging.registration import (
    Registration,
    RegistrationOptions,
    register_rigid,
    save_itk_transform,
)
from appliance.imaging.volume import Volume, load_volume, save_volume


@dataclass(frozen=True, slots=True)
class RegisterPaths:
    """Files of one registration.

    Attributes:
        fixed: Reference image.
        moving: Image to align.
        out: Where the aligned image goes (on the fixed grid), or None.
        transform: Where the ITK transform goes (fixed to moving points), or None.
    """

    fixed: Path
    moving: Path
    out: Path | None = None
    transform: Path | None = None


def register_files(paths: RegisterPaths, options: RegistrationOptions) -> Registration:
    """Register two image files rigidly and write image and transform.

    Raises:
        ImageRefused: a file is not a usable image.
    """
    fixed, moving = load_volume(paths.fixed), load_volume(paths.moving)
    found = register_rigid(fixed, moving, options=options)
    if paths.out is not None:
        save_volume(resample(moving, grid_of(fixed), matrix=found.matrix), paths.out)
    if paths.transform is not None:
        save_itk_transform(found, paths.transform)
    return found


def brain_mask_file(
    image: Path, out: Path, *, profile: Profile = "full", threads: int = 1
) -> Volume:
    """Write the brain mask (uint8) of a head image.

    Raises:
        ImageRefused: the file is not a usable head image.
    """
    mask = fit_brain(load_volume(image), profile=profile, threads=threads).mask
    save_volume(mask, out)
    return mask


def deface_file(image: Path, out: Path, *, profile: Profile = "full", threads: int = 1) -> float:
    """Write the image without its face.

    Returns:
        Volume in ml that was taken out.

    Raises:
        ImageRefused: the file is not a usable head image.
        StageFailed: the result did not pass its check.
    """
    volume = load_volume(image)
    fit = fit_brain(volume, profile=profile, threads=threads)
    result = deface(volume, fit.mask, alignment=fit.alignment)
    save_volume(result, out)
    return removed_ml(volume, result)


@dataclass(frozen=True, slots=True)
class QcOptions:
    """How images are checked.

    Attributes:
        profile: Effort of masks and registration.
        threads: Threads of ITK filters.
        thresholds: Bounds of the decision; None for the defaults.
        protocol: Expected geometry; None for the defaults.
    """

    profile: Profile = "full"
    threads: int = 1
    thresholds: Thresholds | None = None
    protocol: Protocol | None = None


def qc_files(first: Path, second: Path | None = None, *, options: QcOptions) -> QcReport:
    """Check one image, or a FLAIR (first) and a T1 (second) together.

    A single image whose name says T1 is measured as T1, any other as FLAIR.

    Raises:
        ImageRefused: a file is not a usable head image.
    """
    images = [load_volume(path) for path in (first, second) if path is not None]
    fits = [fit_brain(image, profile=options.profile, threads=options.threads) for image in images]
    masks = [fit.mask for fit in fits]
    heads = [fit.alignment.score for fit in fits]
    if second is None:
        name = first.name.lower()
        as_t1 = "t1" in name and "flair" not in name
        given = (
            QualityInput(t1=images[0], t1_brain=masks[0], t1_head=heads[0])
            if as_t1
            else QualityInput(flair=images[0], flair_brain=masks[0], flair_head=heads[0])
        )
    else:
        settings = RegistrationOptions(profile=options.profile, threads=options.threads)
        found = register_rigid(images[0], images[1], options=settings)
        given = QualityInput(images[0], images[1], masks[0], masks[1], found, heads[0], heads[1])
    return check_quality(given, options.thresholds, options.protocol)


def report_json(report: QcReport) -> dict[str, Any]:
    """A report as JSON values, format 1."""
    return {
        "format": 1,
        "decision": report.decision,
        "reasons": list(report.reasons),
        "metrics": [
            {
                "name": metric.name,
                "value": metric.value,
                "unit": metric.unit,
                "direction": metric.direction,
            }
            for metric in report.metrics
        ],
    }


def report_from_json(document: dict[str, Any]) -> QcReport:
    """The report back from `report_json`.

    Raises:
        ImageRefused: the document has another format.
    """
    if document.get("format") != 1:
        raise ImageRefused("the quality report has an unknown format: 1 is known")
    metrics = tuple(Metric(**metric) for metric in document["metrics"])
    return QcReport(metrics, document["decision"], tuple(document["reasons"]))
