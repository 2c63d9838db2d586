"""Connected pieces of a mask, with volume, place and a tracking UID each; pure array functions."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from dicom_bridge.geometry import LPS_TO_RAS, FloatArray
from dicom_bridge.seg.model import Lesion

TOUCHING = np.ones((3, 3, 3), dtype=np.uint8)  # faces, edges and corners connect


def derived_uid(uid: str, purpose: str) -> str:
    """A UID that follows from another one and a purpose (PS3.5 annex B.2, 2.25 + 128 bits)."""
    digest = hashlib.sha256(f"{purpose}\0{uid}".encode()).digest()
    return f"2.25.{int.from_bytes(digest[:16], 'big')}"


@dataclass(frozen=True, slots=True, eq=False)
class _Pieces:
    """Connected pieces inside their common box.

    Attributes:
        box: where the box lies in the whole array.
        numbered: (x, y, z) number of the piece inside the box, 1 the largest, 0 background.
        sizes: (n,) voxels of each piece in that order.
        centres: (n, 3) mean index of each piece in the whole array.
    """

    box: tuple[slice, slice, slice]
    numbered: NDArray[np.int32]
    sizes: NDArray[np.int64]
    centres: FloatArray


def _pieces(mask: NDArray[np.generic]) -> _Pieces | None:
    """The pieces of a mask, None where it is empty; most work is done in their box only."""
    inside = np.asarray(mask) > 0
    box = _box(inside)
    if box is None:
        return None
    found, count = ndimage.label(inside[box], structure=TOUCHING)
    places = np.nonzero(found)
    numbers = found[places]
    sizes = np.bincount(numbers, minlength=count + 1)[1:]
    order = np.argsort(-sizes, kind="stable")
    table = np.zeros(count + 1, dtype=np.int32)
    table[order + 1] = np.arange(1, count + 1)
    sums = [np.bincount(numbers, weights=axis, minlength=count + 1)[1:] for axis in places]
    start = np.array([part.start for part in box], dtype=np.float64)
    centres = (np.stack(sums, axis=1) / sizes[:, None])[order] + start
    return _Pieces(box, table[found], sizes[order].astype(np.int64), centres)


def _box(inside: NDArray[np.bool_]) -> tuple[slice, slice, slice] | None:
    """The smallest box that holds everything, None where there is nothing."""
    parts = []
    for axis in range(3):
        others = tuple(other for other in range(3) if other != axis)
        found = np.flatnonzero(inside.any(axis=others))
        if found.size == 0:
            return None
        parts.append(slice(int(found[0]), int(found[-1]) + 1))
    return (parts[0], parts[1], parts[2])


def labelled(mask: NDArray[np.generic]) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
    """Connected pieces numbered by size.

    Args:
        mask: (X, Y, Z); everything above 0 belongs to a piece. 26 neighbours connect.

    Returns:
        The numbered array, 1 the largest (of equal ones the first in array order), 0 background,
        and the voxels of each piece in that order.
    """
    whole = np.zeros(mask.shape, dtype=np.int32)
    pieces = _pieces(mask)
    if pieces is None:
        return whole, np.zeros(0, dtype=np.int64)
    whole[pieces.box] = pieces.numbered
    return whole, pieces.sizes


def lesions_of(
    mask: NDArray[np.generic], affine: FloatArray, *, seed: str = "", name: str = "Lesion"
) -> tuple[Lesion, ...]:
    """The connected pieces of a mask, largest first.

    Args:
        mask: (X, Y, Z); everything above 0 belongs to a piece. 26 neighbours connect.
        affine: (4, 4) index to RAS mm.
        seed: what tracking UIDs are derived from, such as the SEG's SOPInstanceUID; empty takes
            the mask's own content and place.
        name: tracking ids read ``<name> <number>``.

    Returns:
        Number, voxels, volume (ml), centroid (LPS mm) and tracking of each; () for an empty mask.
    """
    pieces = _pieces(mask)
    if pieces is None:
        return ()
    to_lps = LPS_TO_RAS @ np.asarray(affine, dtype=np.float64)
    places = np.c_[pieces.centres, np.ones(len(pieces.centres))] @ to_lps.T
    voxel_ml = abs(float(np.linalg.det(to_lps[:3, :3]))) / 1000
    seed = seed or _content(pieces, to_lps)
    return tuple(
        Lesion(
            number=number,
            voxels=int(size),
            volume_ml=float(size) * voxel_ml,
            centroid=_point(place),
            tracking_id=f"{name} {number}"[:64],
            tracking_uid=derived_uid(seed, f"{name} {number}"),
        )
        for number, (size, place) in enumerate(zip(pieces.sizes, places, strict=True), start=1)
    )


def _point(values: Sequence[float] | FloatArray) -> tuple[float, float, float]:
    return (round(float(values[0]), 3), round(float(values[1]), 3), round(float(values[2]), 3))


def _content(pieces: _Pieces, affine: FloatArray) -> str:
    digest = hashlib.sha256(np.ascontiguousarray(pieces.numbered).tobytes())
    starts = [part.start for part in pieces.box]
    digest.update(repr((pieces.numbered.shape, starts, np.round(affine, 4).tolist())).encode())
    return digest.hexdigest()
