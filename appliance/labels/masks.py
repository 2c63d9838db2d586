"""One NIfTI mask of a custodian, checked and brought to the reference image; runs in a worker.

The table says which series a mask belongs to. Geometry is only a check: voxels outside the image
refuse it, and a label that lies mostly outside the brain waits for a person.
"""

from __future__ import annotations

import stat
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from appliance.errors import ImageRefused
from appliance.imaging.grid import Grid, grid_of, same_grid
from appliance.imaging.itk import load_matrix
from appliance.imaging.volume import NIFTI_SUFFIXES, Volume, load_volume, nib
from appliance.labels.checks import check_carried, site_values, whole_values
from appliance.labels.making import save_label
from appliance.labels.plausibility import label_metrics
from appliance.labels.resampling import carry
from appliance.research import CaseFiles

MAX_BYTES = 2 * 1024**3
OUTSIDE_BRAIN = 0.5
"""A label of which more than this share lies outside the brain is doubtful."""
FORMS_APART_MM = 0.5


@dataclass(frozen=True, slots=True)
class MaskWork:
    """A mask to read, as it travels to a worker.

    Attributes:
        mask: the file; the node's own account reads it.
        research: the project's research folder.
        files: the case.
        kind: canonical modality of the series that it belongs to.
        reference: canonical modality of the reference image.
        others: further modalities of the case, to tell a likely mix-up.
        values: the mask's values to the site's; None takes them as they are.
        known: the site's label values.
        out: file to write (``.nii``, identified zone).
    """

    mask: Path = field(repr=False)
    research: Path
    files: CaseFiles
    kind: str
    reference: str
    others: tuple[str, ...]
    values: Mapping[int, int] | None
    known: frozenset[int]
    out: Path


@dataclass(frozen=True, slots=True)
class MaskRead:
    """What a mask holds, on the reference grid.

    Attributes:
        voxels: labelled voxels.
        figures: see `appliance.labels.plausibility.label_metrics`.
        notes: what is worth telling.
    """

    voxels: int
    figures: Mapping[str, float]
    notes: tuple[str, ...]

    @property
    def empty(self) -> bool:
        """Whether nothing is labelled: it may be a true negative."""
        return self.voxels == 0

    @property
    def doubtful(self) -> bool:
        """Whether most of it lies outside the brain."""
        return self.figures.get("outside_brain", 0.0) > OUTSIDE_BRAIN


def read_mask(work: MaskWork) -> MaskRead:
    """Read, check and carry a mask; writes it on the reference grid.

    Raises:
        ImageRefused: no usable mask, values that are not mapped, or voxels outside the image.
    """
    mask = load_mask(work.mask)
    values = site_values(whole_values(mask.data), work.values, work.known)
    grid, notes = _check_series(work, Volume(values, mask.affine))
    if work.kind == work.reference:
        carried = carry(values, mask.affine, grid)
    else:
        transform = work.research / work.files.transform(work.kind)
        if not transform.exists():
            raise ImageRefused(f"the {work.kind} is not registered to the {work.reference}")
        grid = _grid(work, work.reference)
        carried = carry(values, mask.affine, grid, load_matrix(transform))
        notes += check_carried(carried, where=f"the {work.reference}")
        notes += (f"carried from the {work.kind} by the registration",)
    label = Volume(carried.values, grid.affine)
    save_label(label, work.out)
    brain = work.research / work.files.mask(work.reference)
    figures = label_metrics(
        label.data, load_volume(brain).data if brain.exists() else None, label.spacing
    )
    return MaskRead(int(np.count_nonzero(label.data)), figures, tuple(dict.fromkeys(notes)))


def load_mask(path: Path) -> Volume:
    """Read a mask whose place in the world is certain.

    Raises:
        ImageRefused: no plain NIfTI file of an acceptable size, or without one sure orientation.
    """
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode) or not path.name.endswith(NIFTI_SUFFIXES):
            raise ImageRefused("the mask is no NIfTI file (.nii, .nii.gz)")
        if status.st_size > MAX_BYTES:
            raise ImageRefused("the mask's file is larger than 2 GiB")
        with path.open("rb"):
            pass
    except FileNotFoundError:
        raise ImageRefused("the mask's file does not exist") from None
    except (OSError, ValueError) as error:
        raise ImageRefused(
            f"the node's account cannot read the mask ({type(error).__name__})"
        ) from None
    try:
        image = nib.load(path)
        size = int(np.prod([int(n) for n in image.shape])) * image.get_data_dtype().itemsize
    except (nib.filebasedimages.ImageFileError, OSError, EOFError, ValueError) as error:
        raise ImageRefused(f"the mask cannot be read as NIfTI ({type(error).__name__})") from None
    if size > MAX_BYTES:
        raise ImageRefused("the mask holds more than 2 GiB of values")
    volume = load_volume(path)
    _check_forms(image, volume.shape)
    return volume


def _check_forms(image: Any, shape: tuple[int, int, int]) -> None:  # noqa: ANN401
    """See that the header says where the voxels lie, and says it once (NIfTI-1 methods 2, 3)."""
    sform, qform = image.header.get_sform(coded=True), image.header.get_qform(coded=True)
    if sform[0] is None and qform[0] is None:
        raise ImageRefused("the mask's header gives no orientation (sform and qform are unset)")
    if sform[0] is None or qform[0] is None:
        return
    corners = np.array(np.meshgrid(*([0, n - 1] for n in shape), [1])).reshape(4, -1)
    apart = np.linalg.norm((sform[0] - qform[0]) @ corners, axis=0).max()
    if apart > FORMS_APART_MM:
        raise ImageRefused(
            f"the mask's sform and qform disagree by {apart:.1f} mm: programs would read it "
            "differently"
        )


def _check_series(work: MaskWork, label: Volume) -> tuple[Grid, tuple[str, ...]]:
    """See that the mask fits the image that the table names; gives that image's grid."""
    grid = _grid(work, work.kind)
    if same_grid(grid_of(label), grid, 0.05):
        return grid, ()
    values = np.asarray(label.data, dtype=np.uint8)
    notes = [
        f"it stands on the {other}'s grid, and the table says {work.kind}"
        for other in work.others
        if other != work.kind and same_grid(grid_of(label), _grid(work, other), 0.05)
    ]
    carried = carry(values, label.affine, grid)
    notes.append(f"resampled from another grid than the {work.kind}'s")
    return grid, (*notes, *check_carried(carried, where=f"the {work.kind}"))


def _grid(work: MaskWork, kind: str) -> Grid:
    path = work.files.found_image(work.research, kind)
    if not path.exists():
        raise ImageRefused(f"the study has no {kind}")
    image = nib.load(path)
    x, y, z = (int(n) for n in image.shape[:3])
    return Grid((x, y, z), np.asarray(image.affine, dtype=np.float64))
