"""checked -> ready: the case's files under their BIDS names, for the one crossing by rename.

The worker writes them below ``tree/`` in its temporary folder, as they will lie below
``research/PROJECT``; the node renames the session folders into place.
"""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import nibabel

from appliance.errors import StageFailed
from appliance.labels.making import label_map, label_sidecar
from appliance.labels.staged import agree_labels
from appliance.pipeline.stages.deidentify import PERSON_FILE
from appliance.pipeline.states import Stage
from appliance.pipeline.work import QC_FILE, REPORT_FILE, TREE, StageResult, StageWork
from appliance.research import CaseFiles, image_uri, sidecar
from federation.canonical import JSON

GZIP_LEVEL = 1
_TEXT_FIELDS = ("descrip", "aux_file", "db_name", "intent_name", "data_type")


def run(work: StageWork) -> StageResult:
    """Compress images, masks and labels under their final names, with side-cars.

    Raises:
        StageFailed: an image carries header text or an extension, and must not cross.
    """
    files = CaseFiles(work.subject, work.session, work.settings.imaging.reference)
    tree = work.out / TREE
    defaced, registered = work.of(Stage.DEFACE), work.of(Stage.REGISTER)
    count = 0
    for kind in work.settings.imaging.inputs:
        image = defaced / f"{kind}.nii"
        if not image.exists():
            continue
        count += 1
        target = tree / _place(work, files, kind)
        compress(image, target)
        _copy(work.of(Stage.CONVERT) / f"{kind}.json", sidecar(target))
        brain = defaced / f"{kind}-brain.nii"
        if brain.exists():
            mask = tree / files.mask(kind)
            compress(brain, mask)
            words: dict[str, JSON] = {"Type": "Brain", "Description": "Brain mask"}
            _describe(mask, _place(work, files, kind), words)
        transform = registered / f"{kind}.txt"
        if transform.exists():
            _copy(transform, tree / files.transform(kind))
    labelled, notes = _labels(work, files)
    _copy(work.of(Stage.CHECK) / QC_FILE, tree / files.qc())
    report = work.of(Stage.CHECK) / REPORT_FILE
    if report.exists():
        _copy(report, tree / files.report())
    person = work.of(Stage.DEIDENTIFY) / PERSON_FILE
    if person.exists():
        _copy(person, tree / files.person())
    return StageResult(
        labelled=labelled,
        facts={"label_agreement": notes},
        detail=f"{count} images published",
    )


def _labels(work: StageWork, files: CaseFiles) -> tuple[bool, dict[str, JSON]]:
    """The raters' labels and the one made of them, on the reference image's grid."""
    made = agree_labels(work, files.reference)
    section = work.settings.labels
    meaning = label_map(section.codes, section.rois)
    tree = work.out / TREE
    image = _place(work, files, files.reference)
    images = [
        (file.path, tree / files.rater_label(file.rater), document)
        for file, document in made.raters
    ]
    if made.label is not None:
        images.append((made.label, tree / files.label(), made.document))
    for source, target, document in images:
        compress(source, target)
        text = json.dumps(label_sidecar(image, document, meaning), indent=2)
        sidecar(target).write_text(text + "\n", encoding="utf-8")
    facts: dict[str, JSON] = {"raters": len(made.raters), "notes": list(made.notes)}
    consensus = made.document.get("Consensus")
    return made.label is not None, facts | ({"consensus": consensus} if consensus else {})


def compress(source: Path, target: Path) -> None:
    """Write an uncompressed NIfTI file as ``.nii.gz``, the same bytes for the same input.

    Raises:
        StageFailed: the header carries text or an extension.
    """
    image = nibabel.load(source)
    header: Any = image.header
    texts = [bytes(header[name]).strip(b"\x00 ") for name in _TEXT_FIELDS]
    if any(texts) or len(header.extensions):
        raise StageFailed("an image carries text in its header: it must not enter research/")
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(gzip.compress(source.read_bytes(), compresslevel=GZIP_LEVEL, mtime=0))


def _place(work: StageWork, files: CaseFiles, kind: str) -> Path:
    """Where an image goes, relative to the project's research folder."""
    return files.image(kind, beyond=work.settings.imaging.body_part != "head")


def _describe(path: Path, image: Path, extra: dict[str, JSON]) -> None:
    """The side-car of a derived image: what it stands on and what it was made from."""
    reference = image_uri(image)
    document: dict[str, JSON] = {"SpatialReference": reference, "Sources": [reference], **extra}
    text = json.dumps(document, indent=2, sort_keys=True)
    sidecar(path).write_text(text + "\n", encoding="utf-8")


def _copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(source.read_bytes())
