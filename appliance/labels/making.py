"""The files of a case's labels: one per rater, and the one that training reads.

``derivatives/raters`` keeps each rater's label on the reference image's grid; the label of
``derivatives/labels`` is made of them by the site's rule. A rater's side-car holds a keyed name,
a running number that orders the raters, and no date.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from appliance.errors import ImageRefused
from appliance.imaging.grid import grid_of, same_grid
from appliance.imaging.volume import Volume, load_volume, save_volume
from appliance.labels.consensus import Consensus, Rule, consensus
from appliance.labels.reading import Form
from appliance.research import image_uri
from federation.canonical import JSON

ORDER = "Order"


@dataclass(frozen=True, slots=True)
class RaterFile:
    """One rater's label on the reference grid.

    Attributes:
        path: the image.
        rater: keyed name.
        order: the later one counts as newer.
        form: what it was read from, "" where unknown.
    """

    path: Path
    rater: str
    order: int
    form: str = ""


def rater_document(
    rater: str, order: int, form: Form, kind: str, voxels: int, notes: Sequence[str] = ()
) -> dict[str, JSON]:
    """What a rater's side-car says.

    Args:
        rater: keyed name.
        order: running number.
        form: what the label was read from.
        kind: canonical modality of the series that it was drawn on.
        voxels: labelled voxels on the reference grid.
        notes: what was decided on the way.
    """
    document: dict[str, JSON] = {
        "Rater": rater,
        ORDER: order,
        "Form": form,
        "DrawnOn": kind,
        "Voxels": voxels,
    }
    return {**document, "Notes": list(notes)} if notes else document


def label_map(codes: Mapping[str, int], rois: Mapping[str, int]) -> dict[str, JSON]:
    """Label value to what it means: the code, or the ROI name where there is no code."""
    found: dict[str, JSON] = {str(value): f"ROI {name}" for name, value in rois.items()}
    return {**found, **{str(value): code for code, value in codes.items()}}


def label_sidecar(
    image: Path, document: Mapping[str, JSON], meaning: Mapping[str, JSON]
) -> dict[str, JSON]:
    """The side-car of a label: what it stands on, what its values mean, how it was made.

    Args:
        image: on whose grid it stands, relative to ``research/PROJECT``.
        document: `rater_document` or what `agree` says.
        meaning: `label_map`.
    """
    reference = image_uri(image)
    return {
        "Description": "Labels of experts",
        "SpatialReference": reference,
        "Sources": [reference],
        "LabelMap": dict(meaning),
        **document,
    }


def rater_files(folder: Path) -> list[RaterFile]:
    """The raters' labels in a folder, the oldest first; files without a side-car come first."""
    found = []
    for path in sorted(folder.glob("*_desc-rater*_dseg.nii.gz")):
        rater = path.name.rpartition("_desc-rater")[2].partition("_")[0]
        try:
            document = json.loads(
                path.with_name(path.name.removesuffix(".nii.gz") + ".json").read_bytes()
            )
            order, form = int(document.get(ORDER, 0)), str(document.get("Form", ""))
        except (OSError, ValueError):
            order, form = 0, ""
        found.append(RaterFile(path, rater, order, form))
    return sorted(found, key=lambda item: (item.order, item.rater))


def agree(raters: Sequence[RaterFile], rule: Rule) -> tuple[Volume, dict[str, JSON]]:
    """One label of several raters' files.

    Args:
        raters: the oldest first; all on one grid.
        rule: how they become one.

    Returns:
        The label on the raters' grid, and what its side-car says about it.

    Raises:
        ImageRefused: a file cannot be read, or the raters' grids differ.
    """
    if not raters:
        raise ImageRefused("there is no rater's label to make one of")
    newest = load_volume(raters[-1].path)
    volumes = [load_volume(item.path) for item in raters[:-1]] + [newest]
    if not all(same_grid(grid_of(volume), grid_of(newest)) for volume in volumes):
        raise ImageRefused("the raters' labels stand on different grids")
    made = consensus([np.asarray(volume.data, dtype=np.uint8) for volume in volumes], rule)
    names = [item.rater for item in raters]
    return newest.with_data(made.values), document_of(made, names, rule)


def document_of(made: Consensus, raters: Sequence[str], asked: Rule) -> dict[str, JSON]:
    """What a label's side-car says about how it was made."""
    found: dict[str, JSON] = {"Voxels": int(np.count_nonzero(made.values)), "Rater": raters[-1]}
    if made.raters < 2:
        return found
    by_value: dict[str, JSON] = {
        str(value): round(score, 4) for value, score in made.agreement.values.items()
    }
    found["Consensus"] = {
        "Rule": made.rule,
        "Asked": asked,
        "Raters": list(raters),
        "MeanDice": round(made.agreement.mean, 4),
        "LeastDice": round(made.agreement.least, 4),
        "DiceByValue": by_value,
    }
    if made.rule != "newest":
        found.pop("Rater")
    return found


def save_label(volume: Volume, path: Path) -> None:
    """Write a label map uncompressed (``.nii``) as uint8."""
    save_volume(volume.with_data(np.asarray(volume.data, dtype=np.uint8)), path)
