"""Image quality of a study's images after registration, and the decision."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from appliance.imaging.grid import Grid, grid_of, resample
from appliance.imaging.qc.air import (
    air_mask,
    artefact_share,
    chi_misfit,
    dietrich_snr,
    foreground_energy,
    ghosting,
    noise_of_air,
)
from appliance.imaging.qc.geometry import geometry_bounds, geometry_findings, geometry_metrics
from appliance.imaging.qc.judge import SiteDistribution, compare_site, judge_metrics
from appliance.imaging.qc.model import Finding, ImageInput, Metric, QcReport, decide
from appliance.imaging.qc.signal import (
    boxed,
    entropy_focus,
    mean_inside,
    noise_level,
    signal_to_noise,
    slice_axis_of,
    slice_jumps,
    smoothness,
    thinned,
    tissue_and_fluid,
)
from appliance.imaging.qc.tissue import (
    TISSUES,
    Tissues,
    contrast_to_noise,
    find_tissues,
    joint_variation,
    map_overlap,
    snr_within,
)
from appliance.imaging.volume import Affine, Mask, Volume
from appliance.quality_table import METRICS, Bounds, direction_of, pair_name

NOTHING: SiteDistribution = SiteDistribution({}, 0)
"""A site without studies: nothing is compared."""

FOREGROUND_MM = 4.0
"""Voxel size at which head and background are told apart."""


def check_quality(
    images: Sequence[ImageInput],
    bounds: Mapping[str, Bounds] | None = None,
    site: SiteDistribution = NOTHING,
    *,
    extra: Sequence[Metric] = (),
) -> QcReport:
    """Measure everything that the given images allow and decide.

    Args:
        images: The reference first, then images that are registered to it.
        bounds: Bounds by figure's name that take the place of the defaults.
        site: What the site's other studies gave.
        extra: Figures from elsewhere (the label's) that are judged as well.

    Returns:
        Metrics, decision and reasons. A metric that cannot be measured has the value None and
        speaks neither for nor against the image.
    """
    own = bounds or {}
    metrics: list[Metric] = []
    findings: list[Finding] = []
    geometry: dict[str, Bounds] = {}
    reference = images[0] if images else None
    for image in images:
        metrics += geometry_metrics(image)
        geometry |= geometry_bounds(image)
        findings += [found for found in geometry_findings(image) if found.metric not in own]
        if image.brain is not None and image.protocol.head:
            metrics += image_metrics(image.prefix, image.volume, image.brain.data > 0, image.atlas)
        if reference is not None and image is not reference:
            metrics += pair_metrics(reference, image)
    metrics += extra
    judged, by_bounds = judge_metrics(metrics, own, geometry)
    compared, by_site = compare_site(judged, site)
    return decide(compared, [*findings, *by_bounds, *by_site], site_studies=site.studies)


def image_metrics(
    prefix: str, volume: Volume, brain: Mask, atlas: Affine | None = None
) -> list[Metric]:
    """Signal, noise, artefact and tissue figures of one image.

    Args:
        prefix: Start of the names.
        volume: The image.
        brain: Its brain mask, same grid.
        atlas: 4 x 4 affine, MNI to the image's world; see `find_tissues`.

    Returns:
        What `METRICS` lists for an image beyond its geometry.
    """
    values = _plane_figures(volume, brain)
    thin, inside = thinned(volume, brain)
    air = air_mask(thin, inside)
    values |= _air_figures(thin, inside, air, slice_axis_of(volume))
    values["entropy_focus"] = entropy_focus(thin.data)
    coarse, _ = thinned(thin, inside, FOREGROUND_MM)
    values["fber"] = foreground_energy(coarse)
    tissues = find_tissues(thin, inside, atlas)
    values |= _tissue_figures(tissues, noise_of_air(thin.data, air) or 0.0)
    values["wm2max"] = _white_to_max(thin, tissues)
    return [
        Metric(name, values.get(info.name), info.unit, direction_of(name))
        for info in METRICS.values()
        if info.name in values
        for name in (f"{prefix}_{info.name}",)
    ]


def _plane_figures(volume: Volume, brain: Mask) -> dict[str, float | None]:
    """Figures that need neighbours within the slice, on the brain's box, slices 2 mm apart.

    The slices' jumps need every slice, but not every voxel of it.

    snr: mean of brain tissue over noise (`noise_level`), after study D's T1 figure.
    snr_fluid: mean of cerebrospinal fluid over noise, after study D's FLAIR figure.
    fluid_ratio: mean of fluid over mean of tissue (suppression in FLAIR).
    """
    axis = slice_axis_of(volume)
    whole, everywhere = boxed(volume, brain)
    sparse, sparsely = thinned(whole, everywhere, axes=tuple({0, 1, 2} - {axis}))
    steady, _ = tissue_and_fluid(sparse.data, sparsely, axis)
    part, inside = thinned(whole, everywhere, axes=(axis,))
    data = np.asarray(part.data, dtype=np.float32)
    tissue, fluid = tissue_and_fluid(data, inside, axis)
    noise = noise_level(data, tissue, axis)
    bright, dark = mean_inside(data, tissue), mean_inside(data, fluid)
    width = smoothness(data, tissue, part.spacing)
    return {
        "snr": signal_to_noise(bright, noise),
        "snr_fluid": signal_to_noise(dark, noise),
        "fluid_ratio": None if bright is None or dark is None or bright <= 0 else dark / bright,
        "slice_jumps": slice_jumps(sparse.data, steady, axis),
        **{f"fwhm_{name}": figure for name, figure in zip("xyz", width, strict=True)},
    }


def _air_figures(thin: Volume, brain: Mask, air: Mask, axis: int) -> dict[str, float | None]:
    """Figures of the air on the thinned image."""
    tissue, _ = tissue_and_fluid(thin.data, brain, axis)
    middle = float(np.median(thin.data[tissue])) if tissue.any() else None
    return {
        "ghosting": ghosting(thin.data, air, brain, axis),
        "snrd": dietrich_snr(middle, noise_of_air(thin.data, air)),
        "qi1": artefact_share(thin.data, air),
        "qi2": chi_misfit(thin.data, air),
    }


def _tissue_figures(tissues: Tissues | None, air_noise: float) -> dict[str, float | None]:
    """Figures of the three tissues; all None where they were not found."""
    found: dict[str, float | None] = dict.fromkeys(("cnr", "cjv", "inu_range", "inu_med"))
    for name in TISSUES:
        found |= {f"snr_{name}": None, f"icvs_{name}": None, f"tpm_overlap_{name}": None}
    if tissues is None:
        return found
    for number, name in enumerate(TISSUES):
        found[f"snr_{name}"] = snr_within(tissues.values(number))
        found[f"icvs_{name}"] = float(tissues.share[:, number].mean())
        found[f"tpm_overlap_{name}"] = map_overlap(
            tissues.share[:, number], tissues.prior[:, number]
        )
    grey, white = tissues.values(1), tissues.values(2)
    found["cnr"] = contrast_to_noise(grey, white, air_noise)
    found["cjv"] = joint_variation(grey, white)
    low, middle, high = np.percentile(tissues.field, (5, 50, 95))
    found["inu_range"], found["inu_med"] = float(high - low), float(middle)
    return found


def _white_to_max(thin: Volume, tissues: Tissues | None) -> float | None:
    """Median of white matter over the image's 99.95th percentile; None without white matter."""
    white = None if tissues is None else tissues.values(2)
    brightest = float(np.percentile(thin.data, 99.95))
    if white is None or white.size == 0 or brightest <= 0:
        return None
    return float(np.median(white)) / brightest


def pair_metrics(reference: ImageInput, image: ImageInput) -> list[Metric]:
    """Registration quality and how two brain masks agree within what both images show.

    brain_volume_agreement = smaller over larger mask volume (study D); brain_overlap = Dice of the
    reference's mask and the image's mask brought through the registration, on a 2 mm sample.
    """
    found = image.registration
    if found is None:
        return []
    values: dict[str, float] = {
        "registration_quality": found.quality,
        "registration_overlap": found.overlap,
        "registration_agreement": found.agreement,
    }
    if reference.brain is not None and image.brain is not None:
        thin, inside = thinned(reference.brain, reference.brain.data > 0)
        grid = grid_of(thin)
        other = _brought(image.brain, grid, found.matrix)
        seen = _brought(image.brain.with_data(np.ones_like(image.brain.data)), grid, found.matrix)
        first, second = int((inside & seen).sum()), int((other & seen).sum())
        common = int((inside & other).sum())
        empty = min(first, second) == 0
        values["brain_volume_agreement"] = 0.0 if empty else min(first, second) / max(first, second)
        values["brain_overlap"] = 0.0 if empty else 2.0 * common / (first + second)
    return [
        Metric(pair_name(image.prefix, name), value, METRICS[name].unit, METRICS[name].direction)
        for name, value in values.items()
    ]


def _brought(mask: Volume, grid: Grid, matrix: Affine) -> Mask:
    moved = resample(mask, grid, matrix=matrix, interpolation="nearest").data
    return np.asarray(moved > 0, dtype=bool)
