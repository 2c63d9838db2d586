"""Labels that come after a study is `ready`: kept per rater, and made into the study's label.

A rater's later label takes the place of the earlier. Where no frozen data set holds the study, the
label is made anew of all raters' by the site's rule; where one does, that data set stays as it was
frozen, and the rater's label counts from the study's next version on.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import structlog

from appliance.home import Home, remove_tree
from appliance.identity import Identities
from appliance.labels.making import (
    RaterFile,
    agree,
    label_map,
    label_sidecar,
    rater_document,
    rater_files,
    save_label,
)
from appliance.labels.reading import Form
from appliance.labels.staged import RATER_DIGITS
from appliance.pipeline.pool import WorkerPool
from appliance.pipeline.states import State
from appliance.research import CaseFiles, ensure_tree, sidecar
from appliance.settings_imaging import LabelsSection
from appliance.store import DatasetState, NodeState, StudyRow
from federation.canonical import JSON

_log = structlog.get_logger(__name__)

_HOLDING = (DatasetState.FROZEN, DatasetState.APPROVED)
AS_LABEL = "taken as the study's label"
AS_RATERS = "kept as a rater's label; frozen data sets stay as they are"
GONE = "the study is not ready any more"


@dataclass(frozen=True, slots=True)
class FreshLabel:
    """A label that just came, on the reference image's grid.

    Attributes:
        path: the image (``.nii``, identified zone).
        rater: who made it, in words; only its keyed name is kept.
        form: what it was read from.
        kind: canonical modality of the series that it belongs to.
        voxels: labelled voxels.
        notes: what was decided on the way.
    """

    path: Path
    rater: str = field(repr=False)
    form: Form
    kind: str
    voxels: int
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class MakeWork:
    """Fresh labels of one case to put beside the present ones, as it travels to a worker.

    Attributes:
        research: the project's research folder.
        files: the case.
        reference: canonical modality of the reference image.
        fresh: the labels with their raters' keyed names, the oldest first.
        section: the site's rule and codes.
        out: an empty folder for the finished files.
    """

    research: Path
    files: CaseFiles
    reference: str
    fresh: tuple[tuple[str, FreshLabel], ...]
    section: LabelsSection
    out: Path


def make_files(work: MakeWork) -> tuple[tuple[Path, Path], ...]:
    """Write the raters' files and the label made of all raters; runs in a worker process.

    Returns:
        Finished file and its place below the research folder; the label comes last.

    Raises:
        ImageRefused: the raters' labels stand on different grids.
    """
    from appliance.pipeline.stages.publish import compress

    meaning = label_map(work.section.codes, work.section.rois)
    image = work.files.found_image(work.research, work.reference).relative_to(work.research)
    present = rater_files((work.research / work.files.rater_label("x")).parent)
    present = [item for item in present if item.path.name.startswith(f"{work.files.case}_")]
    last = max((item.order for item in present), default=0)
    replaced = {rater for rater, _ in work.fresh}
    raters = [item for item in present if item.rater not in replaced]
    pairs: list[tuple[Path, Path]] = []

    def finish(label: Path, target: Path, document: Mapping[str, JSON]) -> None:
        name = work.out / target.name
        compress(label, name)
        text = json.dumps(label_sidecar(image, document, meaning), indent=2)
        sidecar(name).write_text(text + "\n", encoding="utf-8")
        pairs.extend([(name, target), (sidecar(name), sidecar(target))])

    for order, (rater, fresh) in enumerate(work.fresh, start=last + 1):
        document = rater_document(rater, order, fresh.form, fresh.kind, fresh.voxels, fresh.notes)
        finish(fresh.path, work.files.rater_label(rater), document)
        raters.append(RaterFile(fresh.path, rater, order))
    made, document = agree(raters, work.section.consensus)
    agreed = work.out / "agreed.nii"
    save_label(made, agreed)
    finish(agreed, work.files.label(), document)
    agreed.unlink()
    return tuple(pairs)


@dataclass(frozen=True, slots=True)
class KeeperParts:
    """What keeping labels works with.

    Attributes:
        state: the node's state.
        home: the node home.
        section: the site's settings of labels.
        identities: keyed names.
        pool: the worker processes.
        audit: writes an audit entry of the node: action, object, detail.
        settling: held while a stage settles or a study is withdrawn (`Runner.settling`).
        reference: canonical modality of the reference image.
    """

    state: NodeState
    home: Home
    section: LabelsSection
    identities: Identities
    pool: WorkerPool
    audit: Callable[[str, str, Mapping[str, int | str]], None]
    settling: threading.RLock
    reference: str


class LabelKeeper:
    """Keeps fresh labels of `ready` studies, one case at a time."""

    def __init__(self, parts: KeeperParts) -> None:
        self._parts = parts
        self._mutex = threading.Lock()

    def keep(self, study: StudyRow, fresh: Sequence[FreshLabel], folder: Path) -> str | None:
        """Keep labels of one study and make its label anew.

        Args:
            study: a `ready` study.
            fresh: at least one label, the oldest first.
            folder: a folder of the study in the identified zone that may be written.

        Returns:
            What became of them, in words; None where the study is not ready any more.

        Raises:
            ApplianceError: the raters' labels do not fit each other.
        """
        parts = self._parts
        named = {self.rater(label.rater): label for label in fresh}
        out = folder / "kept"
        with self._mutex:
            remove_tree(out)
            out.mkdir(mode=0o700, parents=True)
            work = MakeWork(
                research=parts.home.research,
                files=CaseFiles(study.subject, study.session, parts.reference),
                reference=parts.reference,
                fresh=tuple(named.items()),
                section=parts.section,
                out=out,
            )
            pairs: Sequence[tuple[Path, Path]] = parts.pool.call(make_files, work)
            with parts.settling:
                present = parts.state.studies.get(study.study_key)
                if present.state is not State.READY or present.version != study.version:
                    return None
                words = self._place(study, pairs)
        for rater in named:
            parts.state.activity.record("study.label", {"study": study.study_key, "what": words})
            parts.audit("study.label", study.study_key, {"rater": rater, "what": words})
            _log.info("label_taken", study=study.study_key, rater=rater)
        return words

    def rater(self, name: str) -> str:
        """A rater's keyed name."""
        return self._parts.identities.instance_key(f"rater {name}")[:RATER_DIGITS]

    def _place(self, study: StudyRow, pairs: Sequence[tuple[Path, Path]]) -> str:
        """Move finished files into the research zone; the label only where nothing holds it."""
        parts = self._parts
        ensure_tree(parts.home)
        held = self.held(study)
        label = CaseFiles(study.subject, study.session, parts.reference).label()
        for source, target in pairs:
            if held and target in (label, sidecar(label)):
                continue
            place = parts.home.research / target
            place.parent.mkdir(parents=True, exist_ok=True)
            source.replace(place)
        if held:
            return AS_RATERS
        parts.state.studies.note_labelled(study.study_key)
        return AS_LABEL

    def held(self, study: StudyRow) -> bool:
        """Whether a data set that was frozen holds the present version."""
        datasets = self._parts.state.datasets
        return any(
            member.case == study.case
            for dataset in datasets.select()
            if dataset.state in _HOLDING
            for member in datasets.members(dataset.name)
        )
