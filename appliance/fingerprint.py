"""The fingerprint of a frozen data set: read from the images, coarsened by the site's rules.

Only training cases are looked at: what a plan learns from a fingerprint must not come from test
cases. Nothing is written; `federation.fingerprint` says what may travel.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from appliance.datasets import TRAIN, usable_members
from appliance.errors import ImageRefused, NotAllowed
from appliance.home import Home
from appliance.imaging.grid import grid_of, same_grid, to_ras
from appliance.imaging.volume import Volume, load_volume
from appliance.research import CaseFiles
from appliance.settings_imaging import FingerprintSection
from appliance.store import DatasetState, Member, NodeState
from federation.fingerprint import (
    HIGHEST_HU,
    LOWEST_HU,
    UNITS_PER_HU,
    CaseFigures,
    Fingerprint,
    Rules,
    make_fingerprint,
)

ABSOLUTE = frozenset({"CT"})
"""Modalities whose intensities have a unit."""


def rules_of(section: FingerprintSection) -> Rules:
    """The site's rules, in the units that travel."""
    return Rules(
        spacing_step_um=round(section.spacing_step_mm * 1000),
        shape_step=section.shape_step,
        intensity_step=section.intensity_step_hu,
        minimum_patients=section.minimum_patients,
        count_step=section.count_step,
    )


def fingerprint_of(
    state: NodeState,
    home: Home,
    name: str,
    rules: Rules,
    modalities: Collection[str] | None = None,
) -> Fingerprint:
    """The fingerprint of a frozen data set's training cases.

    Args:
        state: the node's state.
        home: the node home.
        name: of the data set.
        rules: the site's rounding and smallest count.
        modalities: what is looked at; None takes all.

    Raises:
        NotFound: no such data set.
        NotAllowed: it is not frozen, was revoked, or has no training case.
        ImageRefused: an image cannot be read.
    """
    row = state.datasets.get(name)
    if row.state not in (DatasetState.FROZEN, DatasetState.APPROVED):
        raise NotAllowed(f"the data set is {row.state}: only a frozen one has a fingerprint")
    training = [member for member in usable_members(state, name) if member.split == TRAIN]
    if not training:
        raise NotAllowed("the data set has no training case: a fingerprint needs labelled ones")
    return make_fingerprint(_all_figures(home, training, modalities), rules)


def _all_figures(
    home: Home, members: Iterable[Member], modalities: Collection[str] | None
) -> Iterator[CaseFigures]:
    for member in members:
        for modality in member.inputs:
            if modalities is None or modality in modalities:
                yield case_figures(home.research, CaseFiles.of(member.case), modality)


def case_figures(research: Path, files: CaseFiles, modality: str) -> CaseFigures:
    """What one image contributes.

    Args:
        research: ``research/PROJECT``.
        files: the case.
        modality: canonical modality.

    Returns:
        Spacing and shape along R, A, S; the shape is that of the brain mask's bounding box where
        there is a mask, else that of the voxels that are not 0 (nnU-Net's crop).

    Raises:
        ImageRefused: an image cannot be read, or holds no voxel but 0.
    """
    path, mask = files.found_image(research, modality), research / files.mask(modality)
    if not path.is_file():
        raise ImageRefused(f"the {modality} image of a case is absent")
    absolute = modality in ABSOLUTE
    # The mask lies on the image's own grid: MR images need not be read at all.
    inside = to_ras(load_volume(mask)) if mask.is_file() else None
    image = to_ras(load_volume(path)) if inside is None or absolute else inside
    return CaseFigures(
        patient=files.subject,
        modality=modality,
        spacing_mm=image.spacing,
        shape=box_shape((image if inside is None else inside).data != 0),
        intensities=_foreground(research, files, image) if absolute else None,
    )


def box_shape(inside: NDArray[np.bool_]) -> tuple[int, int, int]:
    """Voxels along each axis of the smallest box around a mask's voxels.

    Examples:
        >>> found = np.zeros((9, 9, 9), bool)
        >>> found[2:5, 3, 4:8] = True
        >>> box_shape(found)
        (3, 1, 4)

    Raises:
        ImageRefused: the mask is empty.
    """
    extents = []
    for axis in range(3):
        others = tuple(other for other in range(3) if other != axis)
        found = np.flatnonzero(inside.any(axis=others))
        if found.size == 0:
            raise ImageRefused("an image or its mask holds no voxel but 0: no shape to report")
        extents.append(int(found[-1] - found[0] + 1))
    return extents[0], extents[1], extents[2]


def _foreground(research: Path, files: CaseFiles, image: Volume) -> dict[int, int] | None:
    """Voxels by value under the expert's label; None where no label lies on the image's grid."""
    path = research / files.label()
    if not path.is_file():
        return None
    label = to_ras(load_volume(path))
    if not same_grid(grid_of(label), grid_of(image)):
        return None
    return counted(image.data[label.data > 0])


def counted(values: NDArray[np.generic]) -> dict[int, int]:
    """Voxels by value in sixteenths of a Hounsfield unit, clipped to the range of 16 bits.

    Args:
        values: HU.
    """
    clipped = np.clip(values.astype(np.float64), LOWEST_HU, HIGHEST_HU)
    units, counts = np.unique(np.rint(clipped * UNITS_PER_HU).astype(np.int64), return_counts=True)
    return dict(zip(units.tolist(), counts.tolist(), strict=True))
