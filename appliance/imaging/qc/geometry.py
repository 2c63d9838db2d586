"""Geometry of an image against a protocol, and brains cut off at the image's borders."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from scipy import ndimage

from appliance.imaging.qc.model import Finding, ImageInput, Metric, Protocol
from appliance.imaging.qc.signal import thinned
from appliance.imaging.volume import Array, Mask, Volume, nib
from appliance.quality_table import IMAGES, METRICS, Bounds

BORDER_WORDS = {
    "R": "right",
    "L": "left",
    "A": "front",
    "P": "back",
    "S": "top",
    "I": "bottom",
}
"""Side of the patient by NIfTI axis code."""

LETTERS = {word: letter for letter, word in BORDER_WORDS.items()}


def check_geometry(
    volume: Volume, protocol: Protocol | None = None, brain: Volume | None = None
) -> list[Finding]:
    """Compare voxel size, matrix, field of view and, with a mask, cropping against a protocol.

    Args:
        volume: The image on its native grid.
        protocol: What is expected; the defaults accept any clinical head MR.
        brain: Brain mask on the same grid; without it only cropping of the head is judged.

    Returns:
        Findings; empty where all is well.
    """
    wanted = protocol or Protocol()
    findings = check_grid(volume, wanted)
    if wanted.head:
        findings += _head_findings(head_shares(volume), wanted)
    if brain is not None and wanted.head:
        findings += _border_findings(border_shares(volume, brain), wanted)
    return findings


def check_grid(volume: Volume, protocol: Protocol | None = None) -> list[Finding]:
    """Voxel size, matrix and field of view alone: what is known before anything is computed."""
    wanted = protocol or Protocol()
    return _spacing_findings(volume, wanted) + _matrix_findings(volume, wanted)


def geometry_findings(image: ImageInput) -> list[Finding]:
    """`check_geometry` of an image, with the image's name in the words and the figures' names."""
    return [
        replace(
            found,
            words=f"{IMAGES[image.prefix]}: {found.words}",
            metric=f"{image.prefix}_{found.metric}" if found.metric else "",
        )
        for found in check_geometry(image.volume, image.protocol, image.brain)
    ]


def geometry_metrics(image: ImageInput) -> list[Metric]:
    """Voxel size, anisotropy, field of view and, with a mask, brain volume and border shares."""
    volume, brain = image.volume, image.brain
    spacing, shape = volume.spacing, volume.shape
    values: dict[str, float | None] = {"head_likeness": image.head} if image.protocol.head else {}
    for axis, (step, count) in enumerate(zip(spacing, shape, strict=True)):
        values[f"spacing_{'xyz'[axis]}"] = step
        values[f"extent_{'xyz'[axis]}"] = step * count
    values["anisotropy"] = max(spacing) / min(spacing)
    values["spacing_gap"] = _spacing_gap(volume, image.protocol)
    if image.protocol.head:
        values |= {f"head_border_{side}": share for side, share in head_shares(volume).items()}
    if brain is not None:
        values["brain_volume"] = float((brain.data > 0).sum()) * brain.voxel_ml
        values |= {f"border_{side}": share for side, share in border_shares(volume, brain).items()}
    return [
        Metric(f"{image.prefix}_{name}", value, METRICS[name].unit, METRICS[name].direction)
        for name, value in values.items()
    ]


def geometry_bounds(image: ImageInput) -> dict[str, Bounds]:
    """The bounds by which `check_geometry` judges, by figure."""
    wanted = image.protocol
    found: dict[str, Bounds] = {"anisotropy": (wanted.anisotropy, None)}
    found |= {f"spacing_{axis}": (None, wanted.voxel_size_mm[1]) for axis in "xyz"}
    if wanted.spacing_mm is not None:
        gap = wanted.tolerance_mm
        found["spacing_gap"] = (None, gap) if wanted.mismatch == "fail" else (gap, None)
    if wanted.head:
        found |= {f"head_border_{side}": pair for side, pair in _head_limits(wanted).items()}
        found |= {f"border_{side}": _border_limits(side, wanted) for side in LETTERS}
    return {f"{image.prefix}_{name}": bounds for name, bounds in found.items()}


def head_shares(volume: Volume) -> dict[str, float]:
    """How much of the head lies on each border of the image; needs no brain mask.

    As `border_shares`, but for everything brighter than a quarter of the bright tissue's 75th
    percentile (after opening by one voxel), one plane inside the border, where slice profiles and
    wrap-around do not reach. A head scan may end in the neck and touch the vertex; it does not end
    in the middle of the head on top or at a side. Voxels are counted about 2 mm apart.

    Args:
        volume: The image.

    Returns:
        Share by side; all 0 for an empty image.
    """
    thin, _ = thinned(volume, np.ones((1, 1, 1), dtype=bool))
    data = np.asarray(thin.data, dtype=np.float32)
    bright = data[data > data.mean()]
    if bright.size == 0:
        return dict.fromkeys(BORDER_WORDS.values(), 0.0)
    solid = ndimage.binary_opening(data > 0.25 * float(np.percentile(bright, 75)))
    return _shares(thin, np.asarray(solid, dtype=bool), inset=1)


def border_shares(volume: Volume, brain: Volume) -> dict[str, float]:
    """How much of the brain lies on each border of the image.

    Share = brain area on the outermost plane that holds signal / largest brain area of any plane
    along that axis. 0 where the brain ends before the border; near 1 where the cut goes through
    its widest part. Planes of one constant value (padding) do not count as image.

    Args:
        volume: The image.
        brain: Its brain mask on the same grid.

    Returns:
        Share by side ("top", "bottom", "left", "right", "front", "back"); all 0 for an empty mask.
    """
    return _shares(volume, brain.data > 0, inset=0)


def _shares(volume: Volume, inside: Mask, *, inset: int) -> dict[str, float]:
    """Area of a mask on each border plane over its largest area along that axis."""
    codes = nib.aff2axcodes(volume.affine)
    opposite = {"R": "L", "L": "R", "A": "P", "P": "A", "S": "I", "I": "S"}
    shares: dict[str, float] = {}
    for axis, code in enumerate(codes):
        others = tuple(other for other in range(3) if other != axis)
        area = inside.sum(axis=others)
        planes = np.moveaxis(volume.data, axis, 0)
        first = next((n for n, plane in enumerate(planes) if _varies(plane)), 0)
        behind = next((n for n, plane in enumerate(planes[::-1]) if _varies(plane)), 0)
        last = len(area) - 1 - behind
        if last - first > 2 * inset:
            first, last = first + inset, last - inset
        widest = max(1, int(area.max()))
        shares[BORDER_WORDS[opposite[code]]] = float(area[first]) / widest
        shares[BORDER_WORDS[code]] = float(area[last]) / widest
    return shares


def _varies(plane: Array) -> bool:
    """Whether a plane holds signal: padding has one value."""
    return bool(plane.max() > plane.min())


def _spacing_findings(volume: Volume, wanted: Protocol) -> list[Finding]:
    spacing = volume.spacing
    size = " x ".join(f"{step:.2f}" for step in spacing)
    findings = []
    low, high = wanted.voxel_size_mm
    if min(spacing) < low or max(spacing) > high:
        words = f"voxels of {size} mm are outside of the allowed {low:g} to {high:g} mm"
        findings.append(Finding("fail", words))
    if sorted(spacing)[1] > wanted.in_plane_mm:
        words = f"voxels of {size} mm are coarser in plane than {wanted.in_plane_mm:g} mm"
        findings.append(Finding("review", words))
    if max(spacing) > wanted.anisotropy * min(spacing):
        words = f"voxels of {size} mm are more than {wanted.anisotropy:g} times longer than wide"
        findings.append(Finding("review", words))
    gap = _spacing_gap(volume, wanted)
    if gap is not None and wanted.spacing_mm is not None and gap > wanted.tolerance_mm:
        goal = " x ".join(f"{step:.2f}" for step in wanted.spacing_mm)
        words = (
            f"voxels of {size} mm differ from the protocol's {goal} mm"
            f" by more than {wanted.tolerance_mm:g} mm"
        )
        findings.append(Finding(wanted.mismatch, words, "spacing_gap"))
    return findings


def _spacing_gap(volume: Volume, wanted: Protocol) -> float | None:
    """Largest difference of the sorted voxel edges from the protocol's, mm."""
    if wanted.spacing_mm is None:
        return None
    return float(np.abs(np.sort(volume.spacing) - np.sort(wanted.spacing_mm)).max())


def _matrix_findings(volume: Volume, wanted: Protocol) -> list[Finding]:
    findings = []
    if np.any(np.sort(volume.shape) < np.array(wanted.matrix)):
        need = " x ".join(str(n) for n in wanted.matrix)
        have = " x ".join(str(n) for n in sorted(volume.shape))
        findings.append(
            Finding("fail", f"the image has {have} voxels (sorted), at least {need} are needed")
        )
    extent = np.sort(np.array(volume.shape) * np.array(volume.spacing))
    if np.any(extent < np.array(wanted.extent_mm)):
        need = " x ".join(f"{length:.0f}" for length in wanted.extent_mm)
        have = " x ".join(f"{length:.0f}" for length in extent)
        findings.append(
            Finding("fail", f"the field of view is {have} mm (sorted), {need} mm are needed")
        )
    return findings


def _head_limits(wanted: Protocol) -> dict[str, Bounds]:
    return {
        "left": wanted.head_side_share,
        "right": wanted.head_side_share,
        "top": wanted.head_top_share,
    }


def _border_limits(side: str, wanted: Protocol) -> Bounds:
    if side == "bottom":
        return wanted.lower_border_share, wanted.lower_border_share_fail
    return wanted.border_share, wanted.border_share_fail


def _head_findings(shares: dict[str, float], wanted: Protocol) -> list[Finding]:
    found = (
        _cropped("head", f"head_border_{side}", shares[side], bounds)
        for side, bounds in _head_limits(wanted).items()
    )
    return [finding for finding in found if finding is not None]


def _border_findings(shares: dict[str, float], wanted: Protocol) -> list[Finding]:
    found = (
        _cropped("brain", f"border_{side}", share, _border_limits(side, wanted))
        for side, share in shares.items()
    )
    return [finding for finding in found if finding is not None]


def _cropped(what: str, metric: str, share: float, bounds: Bounds) -> Finding | None:
    review, fail = bounds
    side = metric.rpartition("_")[2]
    if review is None or share <= review:
        return None
    words = (
        f"the field of view is cropped: it cuts the {what} at the {side} ({LETTERS[side]};"
        f" {100 * share:.0f} % of its largest section lies on the border)"
    )
    return Finding("fail" if fail is not None and share > fail else "review", words, metric)
