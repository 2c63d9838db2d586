"""Geometry of an image against a protocol, and brains cut off at the image's borders."""

from __future__ import annotations

import numpy as np
from scipy import ndimage

from appliance.imaging.qc.model import Finding, Metric, Protocol
from appliance.imaging.volume import Mask, Volume, nib

BORDER_WORDS = {
    "R": "right",
    "L": "left",
    "A": "front",
    "P": "back",
    "S": "top",
    "I": "bottom",
}
"""Side of the patient by NIfTI axis code."""


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
    findings = _spacing_findings(volume, wanted) + _matrix_findings(volume, wanted)
    findings += _head_findings(volume, wanted)
    if brain is not None:
        findings += _border_findings(volume, brain, wanted)
    return findings


def geometry_metrics(prefix: str, volume: Volume, brain: Volume | None = None) -> list[Metric]:
    """Voxel size, anisotropy, field of view and, with a mask, brain volume and border shares.

    Args:
        prefix: Start of the names, "flair" or "t1w".
        volume: The image.
        brain: Its brain mask on the same grid.
    """
    spacing, shape = volume.spacing, volume.shape
    metrics = []
    for axis, (step, count) in enumerate(zip(spacing, shape, strict=True)):
        name = "xyz"[axis]
        metrics.append(Metric(f"{prefix}_spacing_{name}", step, "mm", "lower"))
        metrics.append(Metric(f"{prefix}_extent_{name}", step * count, "mm", "higher"))
    metrics.append(Metric(f"{prefix}_anisotropy", max(spacing) / min(spacing), "ratio", "lower"))
    for side, share in head_shares(volume).items():
        metrics.append(Metric(f"{prefix}_head_border_{side}", share, "share", "lower"))
    if brain is not None:
        volume_ml = float((brain.data > 0).sum()) * brain.voxel_ml
        metrics.append(Metric(f"{prefix}_brain_volume", volume_ml, "ml", "higher"))
        for side, share in border_shares(volume, brain).items():
            metrics.append(Metric(f"{prefix}_border_{side}", share, "share", "lower"))
    return metrics


def head_shares(volume: Volume) -> dict[str, float]:
    """How much of the head lies on each border of the image; needs no brain mask.

    As `border_shares`, but for everything brighter than a quarter of the bright tissue's 75th
    percentile (after opening by one voxel), one plane inside the border, where slice profiles and
    wrap-around do not reach. A head scan may end in the neck and touch the vertex; it does not end
    in the middle of the head on top or at a side.

    Args:
        volume: The image.

    Returns:
        Share by side; all 0 for an empty image.
    """
    data = np.asarray(volume.data, dtype=np.float32)
    bright = data[data > data.mean()]
    if bright.size == 0:
        return dict.fromkeys(BORDER_WORDS.values(), 0.0)
    solid = ndimage.binary_opening(data > 0.25 * float(np.percentile(bright, 75)))
    return _shares(volume, np.asarray(solid, dtype=bool), inset=1)


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
        signal = np.flatnonzero(volume.data.max(axis=others) > volume.data.min(axis=others))
        first, last = (int(signal[0]), int(signal[-1])) if signal.size else (0, len(area) - 1)
        if last - first > 2 * inset:
            first, last = first + inset, last - inset
        widest = max(1, int(area.max()))
        shares[BORDER_WORDS[opposite[code]]] = float(area[first]) / widest
        shares[BORDER_WORDS[code]] = float(area[last]) / widest
    return shares


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
    if wanted.spacing_mm is not None:
        gap = np.abs(np.sort(spacing) - np.sort(wanted.spacing_mm)).max()
        if gap > wanted.tolerance_mm:
            goal = " x ".join(f"{step:.2f}" for step in wanted.spacing_mm)
            words = (
                f"voxels of {size} mm differ from the protocol's {goal} mm"
                f" by more than {wanted.tolerance_mm:g} mm"
            )
            findings.append(Finding("review", words))
    return findings


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


def _head_findings(volume: Volume, wanted: Protocol) -> list[Finding]:
    findings = []
    limits = {"left": wanted.head_side_share, "right": wanted.head_side_share}
    limits["top"] = wanted.head_top_share
    shares = head_shares(volume)
    for side, (review, fail) in limits.items():
        if shares[side] <= review:
            continue
        words = (
            f"the field of view is cropped: it cuts the head at the {side}"
            f" ({100 * shares[side]:.0f} % of its largest section lies on the border)"
        )
        findings.append(Finding("fail" if shares[side] > fail else "review", words))
    return findings


def _border_findings(volume: Volume, brain: Volume, wanted: Protocol) -> list[Finding]:
    findings = []
    for side, share in border_shares(volume, brain).items():
        lower = side == "bottom"
        review = wanted.lower_border_share if lower else wanted.border_share
        fail = wanted.lower_border_share_fail if lower else wanted.border_share_fail
        if share <= review:
            continue
        words = (
            f"the field of view is cropped: it cuts the brain at the {side}"
            f" ({100 * share:.0f} % of its largest section lies on the border)"
        )
        findings.append(Finding("fail" if share > fail else "review", words))
    return findings
