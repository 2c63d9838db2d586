"""The imaging steps on NIfTI files: what `clinode tools` and the pipeline's stages call."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from appliance.imaging.alignment import Profile
from appliance.imaging.brain import fit_brain
from appliance.imaging.defacing import deface, removed_ml
from appliance.imaging.grid import grid_of, resample
from appliance.imaging.qc import ImageInput, Protocol, QcReport, check_grid, check_quality
from appliance.imaging.registration import (
    Registration,
    RegistrationOptions,
    register_rigid,
    save_itk_transform,
)
from appliance.imaging.volume import Volume, load_volume, save_volume
from appliance.quality_table import Bounds


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
        bounds: Bounds by figure's name that take the place of the defaults.
        protocols: Expected geometry by prefix ("flair", "t1w"); the defaults where absent.
    """

    profile: Profile = "full"
    threads: int = 1
    bounds: Mapping[str, Bounds] = field(default_factory=dict)
    protocols: Mapping[str, Protocol] = field(default_factory=dict)


def qc_files(first: Path, second: Path | None = None, *, options: QcOptions) -> QcReport:
    """Check one image, or a FLAIR (first) and a T1 (second) together.

    A single image whose name says T1 is measured as T1, any other as FLAIR. An image whose voxels,
    matrix or field of view are out of bounds is not looked at further.

    Raises:
        ImageRefused: a file is not a usable head image.
    """
    images = [load_volume(path) for path in (first, second) if path is not None]
    name = first.name.lower()
    single = "t1w" if "t1" in name and "flair" not in name else "flair"
    prefixes = (single,) if second is None else ("flair", "t1w")
    hopeless = _hopeless(list(zip(prefixes, images, strict=True)), options)
    if hopeless is not None:
        return hopeless
    fits = [fit_brain(image, profile=options.profile, threads=options.threads) for image in images]
    found = None
    if second is not None:
        settings = RegistrationOptions(profile=options.profile, threads=options.threads)
        found = register_rigid(images[0], images[1], options=settings)
    given = [
        ImageInput(
            prefix,
            image,
            fit.mask,
            fit.alignment.score,
            fit.alignment.matrix,
            None if number == 0 else found,
            options.protocols.get(prefix, Protocol()),
        )
        for number, (prefix, image, fit) in enumerate(zip(prefixes, images, fits, strict=True))
    ]
    return check_quality(given, options.bounds)


def _hopeless(images: Sequence[tuple[str, Volume]], options: QcOptions) -> QcReport | None:
    """The report on geometry alone where it fails already."""
    given = [
        ImageInput(prefix, image, protocol=options.protocols.get(prefix, Protocol()))
        for prefix, image in images
    ]
    failed = any(
        found.decision == "fail"
        for image in given
        for found in check_grid(image.volume, image.protocol)
    )
    return check_quality(given, options.bounds) if failed else None
