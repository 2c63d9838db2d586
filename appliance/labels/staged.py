"""Labels on their way through the pipeline: read at conversion, carried and agreed on at the end.

`convert` writes each expert's label on its own series' grid, ``labels/label-<n>.nii``, and
``labels/labels.json`` about them. `publish`, when the registration is known, brings them to the
reference image and makes the one label of them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from appliance.errors import ImageRefused, StageFailed
from appliance.home import load_keys, write_atomic
from appliance.imaging.grid import Grid, grid_of
from appliance.imaging.itk import load_matrix
from appliance.imaging.volume import Affine, Volume, load_volume
from appliance.keying import instance_key
from appliance.labels.checks import check_carried
from appliance.labels.making import (
    RaterFile,
    agree,
    rater_document,
    rater_files,
    save_label,
)
from appliance.labels.reading import LabelPassed, LabelRules, ReadLabel, labels_of, voxels_of
from appliance.labels.resampling import carry
from appliance.pipeline.states import Stage
from appliance.pipeline.work import StageWork
from appliance.research import CaseFiles
from appliance.store.rows import version_label
from dicom_bridge.convert.source import SourceSeries
from dicom_bridge.errors import DataRefused
from federation.canonical import JSON

FOLDER, LISTING = "labels", "labels.json"
FORMAT = 1
RATER_DIGITS = 8


def rater_key(secret: bytes, rater: str) -> str:
    """A rater's name in the research zone: keyed, so that nobody reads a person from it.

    Args:
        secret: the project's secret.
        rater: as `ReadLabel.rater` gives it.
    """
    return instance_key(secret, f"rater {rater}")[:RATER_DIGITS]


@dataclass(frozen=True, slots=True)
class Staged:
    """What conversion found.

    Attributes:
        voxels: labelled voxels of the newest label; None where there is none.
        raters: number of labels.
        notes: why labels were passed over, in words.
    """

    voxels: int | None
    raters: int
    notes: tuple[str, ...] = ()


def write_labels(
    work: StageWork, files: Sequence[str], sources: Mapping[str, SourceSeries]
) -> Staged:
    """Read the experts' labels of a study, each onto its own series' grid.

    Args:
        work: the stage's work.
        files: the experts' files, relative to the spool.
        sources: canonical modality to the original headers.

    Raises:
        DataRefused: experts' labels are there, and none of them fits.
    """
    rules = LabelRules(work.settings.labels, work.own)
    secret = load_keys(work.home).project_secret if files else b""
    found: list[ReadLabel] = []
    notes: list[str] = []
    refused: list[str] = []
    for name in files:
        try:
            found += labels_of(work.received / name, sources, rules)
        except LabelPassed as error:
            notes.append(str(error))
        except (DataRefused, ImageRefused) as error:
            notes.append(str(error))
            if isinstance(error, DataRefused):
                refused.append(str(error))
    if refused and not found:
        raise DataRefused(f"a label does not fit: {refused[0]}")
    found.sort(key=lambda label: label.made_at)
    newest = {rater_key(secret, label.rater): label for label in found}
    ordered = sorted(newest.items(), key=lambda item: item[1].made_at)
    entries: list[JSON] = []
    for number, (rater, label) in enumerate(ordered, start=1):
        file = f"label-{number}.nii"
        save_label(Volume(label.values, label.affine), work.out / FOLDER / file)
        entry = rater_document(
            rater, number, label.form, label.kind, voxels_of(label.values), label.notes
        )
        entries.append({**entry, "File": file})
        notes += label.notes
    if entries:
        document = {"format": FORMAT, "labels": entries}
        write_atomic(work.out / FOLDER / LISTING, json.dumps(document, indent=1).encode())
    voxels = voxels_of(ordered[-1][1].values) if ordered else None
    return Staged(voxels, len(ordered), tuple(dict.fromkeys(notes)))


@dataclass(frozen=True, slots=True)
class StagedLabel:
    """One label that conversion wrote.

    Attributes:
        path: the image, on its own series' grid.
        kind: canonical modality of that series.
        rater: keyed name.
        order: the later one counts as newer.
        document: the side-car's content.
    """

    path: Path
    kind: str
    rater: str
    order: int
    document: Mapping[str, Any]


def staged_labels(work: StageWork) -> list[StagedLabel]:
    """The labels that conversion wrote, the oldest first.

    Raises:
        StageFailed: their listing is damaged or of another version.
    """
    path = work.of(Stage.CONVERT) / FOLDER / LISTING
    if not path.exists():
        return []
    try:
        document = json.loads(path.read_bytes())
        if document["format"] != FORMAT:
            raise StageFailed(f"the list of labels has not format {FORMAT}: retry convert")
        return [
            StagedLabel(
                path.with_name(str(entry["File"])),
                str(entry["DrawnOn"]),
                str(entry["Rater"]),
                int(entry["Order"]),
                {name: value for name, value in entry.items() if name != "File"},
            )
            for entry in document["labels"]
        ]
    except (ValueError, KeyError, TypeError) as error:
        raise StageFailed("the list of labels is damaged: retry convert") from error


@dataclass(frozen=True, slots=True)
class Agreed:
    """What `agree_labels` made.

    Attributes:
        label: the label file (``.nii``); None where no label could be brought to the reference.
        document: what its side-car says.
        raters: each rater's file on the reference grid with its side-car's content.
        notes: why labels were left out.
    """

    label: Path | None
    document: Mapping[str, JSON]
    raters: tuple[tuple[RaterFile, Mapping[str, JSON]], ...]
    notes: tuple[str, ...] = ()


def agree_labels(work: StageWork, reference: str) -> Agreed:
    """Bring the staged labels to the reference image and make one of them.

    Args:
        work: the work of a stage after `register`.
        reference: canonical modality of the reference image.

    Returns:
        Files below the stage's folder.
    """
    staged = staged_labels(work)
    notes = _left_behind(work)
    image = work.of(Stage.DEFACE) / f"{reference}.nii"
    if not staged or not image.exists():
        notes += ["labels without a reference image cannot be used"] if staged else []
        return Agreed(None, {}, (), tuple(notes))
    grid = grid_of(load_volume(image))
    raters: list[tuple[RaterFile, Mapping[str, JSON]]] = []
    for entry in staged:
        path = work.out / FOLDER / entry.path.name
        try:
            matrix = None if entry.kind == reference else _matrix(work, entry.kind)
            values, told = brought(load_volume(entry.path), grid, matrix, reference)
        except ImageRefused as error:
            notes.append(f"a rater's label on the {entry.kind} was left out: {error}")
            continue
        save_label(values, path)
        document = {**entry.document, "Voxels": int(np.count_nonzero(values.data))}
        if told or document.get("Notes"):
            document["Notes"] = [*document.get("Notes", ()), *told]
        raters.append((RaterFile(path, entry.rater, entry.order), document))
    if not raters:
        return Agreed(None, {}, (), tuple(notes))
    made, document = agree([file for file, _ in raters], work.settings.labels.consensus)
    target = work.out / FOLDER / "agreed.nii"
    save_label(made, target)
    return Agreed(target, document, tuple(raters), tuple(notes))


def _left_behind(work: StageWork) -> list[str]:
    """Tell of imported labels of the version before: another series may be the reference now."""
    if work.version < 2:
        return []
    base = work.session.removesuffix(f"v{work.version}")
    files = CaseFiles(work.subject, version_label(base, work.version - 1))
    folder = (work.home.research / files.rater_label("x")).parent
    forms = [item.form for item in rater_files(folder)]
    if "NIfTI" not in forms:
        return []
    return ["labels imported for the version before are not taken over: import them again"]


def brought(
    label: Volume, grid: Grid, matrix: Affine | None, reference: str
) -> tuple[Volume, tuple[str, ...]]:
    """A label on the reference grid, and what is worth telling.

    Args:
        label: on its own grid.
        grid: the reference image's.
        matrix: reference points to the label's image's points; None for a label of the reference.
        reference: canonical modality, for the message.

    Raises:
        ImageRefused: it lies outside the reference image.
    """
    values = np.asarray(label.data, dtype=np.uint8)
    carried = carry(values, label.affine, grid, matrix)
    notes = check_carried(carried, where=f"the {reference}")
    return Volume(carried.values, grid.affine), notes


def _matrix(work: StageWork, kind: str) -> Affine:
    path = work.of(Stage.REGISTER) / f"{kind}.txt"
    if not path.exists():
        raise ImageRefused(f"the {kind} is not registered to the reference image")
    return load_matrix(path)
