"""A result corrected in a viewer comes back as a rater's label, and new labels reopen nothing.

Somebody stores a new SEG or RT Structure Set in a study that is `ready`: the scanner's images are
the same, so the study stays as it is. The object is fetched alone, judged and read like one that
came with the study, and kept as `appliance.labels.keeping` says.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import structlog

from appliance.errors import ApplianceError
from appliance.home import Home, remove_tree
from appliance.identity import Identities
from appliance.labels.keeping import FreshLabel, LabelKeeper
from appliance.labels.reading import LabelRules, ReadLabel, labels_of, voxels_of
from appliance.labels.staged import brought
from appliance.pipeline.pool import WorkerPool
from appliance.pipeline.states import State
from appliance.pipeline.work import RECEIVED
from appliance.research import CaseFiles
from appliance.settings import Settings
from appliance.store import NodeState, StudyRow
from dicom_bridge.convert.source import SourceSeries
from dicom_bridge.errors import DicomBridgeError
from dicom_bridge.seg.expert import OwnMarks

_log = structlog.get_logger(__name__)

PART = "label.part"


@dataclass(frozen=True, slots=True)
class LabelWork:
    """Segmentations of one study to judge and read, as they travel to a worker.

    Attributes:
        files: the SEGs and structure sets.
        sources: canonical modality to the original headers of the study's inputs.
        rules: the site's codes and creators, and this node's own results.
        research: the project's research folder.
        case: the study's files there.
        reference: canonical modality of the reference image.
        out: folder for the label images (identified zone).
    """

    files: tuple[Path, ...]
    sources: Mapping[str, SourceSeries] = field(repr=False)
    rules: LabelRules
    research: Path
    case: CaseFiles
    reference: str
    out: Path


@dataclass(frozen=True, slots=True)
class LabelRead:
    """One judged object.

    Attributes:
        label: the label on the reference grid; None where the object is no expert's label.
        made_at: content date and time as written; orders what came together, and is not kept.
        words: why it is none, in words.
    """

    label: FreshLabel | None
    made_at: str = ""
    words: str = ""


def read_labels(work: LabelWork) -> tuple[LabelRead, ...]:
    """Judge objects and write the expert's on the reference grid; runs in a worker process."""
    remove_tree(work.out)
    work.out.mkdir(mode=0o700, parents=True)
    return tuple(read for path in work.files for read in _read(work, path))


def _read(work: LabelWork, path: Path) -> list[LabelRead]:
    try:
        found = labels_of(path, work.sources, work.rules)
    except (DicomBridgeError, ApplianceError) as error:
        return [LabelRead(None, words=str(error))]
    return [
        _placed(work, label, work.out / f"{path.stem}-{number}.nii")
        for number, label in enumerate(found)
    ]


def _placed(work: LabelWork, label: ReadLabel, target: Path) -> LabelRead:
    """One label on the reference image's grid, as a file."""
    from appliance.imaging.grid import Grid, grid_of
    from appliance.imaging.itk import load_matrix
    from appliance.imaging.volume import Volume, load_volume
    from appliance.labels.making import save_label

    try:
        matrix = None
        if label.kind != work.reference:
            matrix = load_matrix(work.research / work.case.transform(label.kind))
        image = work.case.found_image(work.research, work.reference)
        if image.exists():
            grid = grid_of(load_volume(image))
        else:
            geometry = work.sources[work.reference].geometry
            grid = Grid(geometry.shape, geometry.affine)
        values, notes = brought(Volume(label.values, label.affine), grid, matrix, work.reference)
    except KeyError:
        return LabelRead(None, words=f"the study has no {work.reference} to stand on")
    except ApplianceError as error:
        return LabelRead(None, words=str(error))
    save_label(values, target)
    fresh = FreshLabel(
        path=target,
        rater=label.rater,
        form=label.form,
        kind=label.kind,
        voxels=voxels_of(values.data),
        notes=(*label.notes, *notes),
    )
    return LabelRead(fresh, label.made_at)


@dataclass(frozen=True, slots=True)
class LabelParts:
    """What refreshing labels works with.

    Attributes:
        state: the node's state.
        home: the node home.
        settings: the node's settings.
        identities: pseudonyms and vault.
        pool: the worker processes.
        own: what this node's results of a study can be recognised by.
        keeper: keeps what was read.
    """

    state: NodeState
    home: Home
    settings: Settings
    identities: Identities
    pool: WorkerPool
    own: Callable[[str], OwnMarks]
    keeper: LabelKeeper


class LabelRefresh:
    """Takes segmentations that came into a `ready` study; every step may be repeated."""

    def __init__(self, parts: LabelParts) -> None:
        self._parts = parts
        self._state = parts.state

    def recover(self) -> None:
        """Take what a dead process had fetched and not read."""
        for study in self._state.studies.select(state=State.READY, limit=1_000_000):
            if self._received(study):
                self.take(study)

    def take(self, study: StudyRow) -> int:
        """Judge and keep the segmentations that were fetched for a study; gives the new labels."""
        files = self._received(study)
        folder = self._parts.home.study(study.study_key)
        taken = 0
        try:
            reference = self._parts.settings.imaging.reference
            work = LabelWork(
                files=tuple(files),
                sources=self._sources(study),
                rules=LabelRules(self._parts.settings.labels, self._parts.own(study.study_key)),
                research=self._parts.home.research,
                case=CaseFiles(study.subject, study.session, reference),
                reference=reference,
                out=folder / PART,
            )
            read: Sequence[LabelRead] = self._parts.pool.call(read_labels, work)
            for item in read:
                if item.label is None:
                    self._refused(study, item.words)
            ordered = sorted(read, key=lambda item: item.made_at)
            fresh = [item.label for item in ordered if item.label is not None]
            if fresh and self._parts.keeper.keep(study, fresh, folder / PART) is not None:
                taken = len(fresh)
        except (DicomBridgeError, ApplianceError) as error:
            _log.warning("labels_not_read", study=study.study_key, reason=str(error))
            self._refused(study, str(error))
        remove_tree(folder)
        return taken

    def _sources(self, study: StudyRow) -> dict[str, SourceSeries]:
        identities = self._parts.identities
        return {
            kind: identities.source(study.study_key, kind, version=study.version)
            for kind in study.inputs
        }

    def _received(self, study: StudyRow) -> list[Path]:
        return sorted((self._parts.home.study(study.study_key) / RECEIVED).rglob("*.dcm"))

    def _refused(self, study: StudyRow, words: str) -> None:
        detail = {"study": study.study_key, "what": words}
        self._state.activity.record("study.label_refused", detail)
