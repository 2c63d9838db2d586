"""Connected pieces of a mask, with volume, place and a tracking UID each; pure array functions."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

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


def labelled(mask: NDArray[np.generic]) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
    """Connected pieces numbered by size.

    Args:
        mask: (X, Y, Z); everything above 0 belongs to a piece. 26 neighbours connect.

    Returns:
        The numbered array, 1 the largest (of equal ones the first in array order), 0 background,
        and the voxels of each piece in that order.
    """
    pieces, count = ndimage.label(np.asarray(mask) > 0, structure=TOUCHING)
    sizes = np.bincount(pieces.reshape(-1), minlength=count + 1)[1:]
    order = np.argsort(-sizes, kind="stable")
    table = np.zeros(count + 1, dtype=np.int32)
    table[order + 1] = np.arange(1, count + 1)
    return table[pieces], sizes[order].astype(np.int64)


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
    numbered, sizes = labelled(mask)
    if sizes.size == 0:
        return ()
    numbers = range(1, sizes.size + 1)
    centres = np.asarray(ndimage.center_of_mass(numbered > 0, numbered, list(numbers)))
    to_lps = LPS_TO_RAS @ np.asarray(affine, dtype=np.float64)
    places = np.c_[centres, np.ones(len(centres))] @ to_lps.T
    voxel_ml = abs(float(np.linalg.det(np.asarray(affine, dtype=np.float64)[:3, :3]))) / 1000
    seed = seed or _content(numbered, to_lps)
    return tuple(
        Lesion(
            number=number,
            voxels=int(sizes[number - 1]),
            volume_ml=float(sizes[number - 1]) * voxel_ml,
            centroid=_point(places[number - 1]),
            tracking_id=f"{name} {number}"[:64],
            tracking_uid=derived_uid(seed, f"{name} {number}"),
        )
        for number in numbers
    )


def _point(values: Sequence[float] | FloatArray) -> tuple[float, float, float]:
    return (round(float(values[0]), 3), round(float(values[1]), 3), round(float(values[2]), 3))


def _content(numbered: NDArray[np.int32], affine: FloatArray) -> str:
    digest = hashlib.sha256(np.ascontiguousarray(numbered).tobytes())
    digest.update(repr((numbered.shape, np.round(affine, 4).tolist())).encode())
    return digest.hexdigest()
