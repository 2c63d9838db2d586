"""A result corrected in a viewer comes back as a rater's label, and new labels reopen nothing.

Somebody stores a new SEG in a study that is `ready`: the scanner's images are the same, so the
study stays as it is. The SEG is fetched alone and judged like one that came with the study. An
expert's is kept once per rater in ``derivatives/raters``; a rater's later one takes the place of
the earlier. Where no frozen data set holds the study, the newest also becomes its label; where one
does, that data set stays as it was frozen and the label counts from the study's next version on.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import structlog

from appliance.errors import ApplianceError
from appliance.home import Home, remove_tree
from appliance.identity import Identities
from appliance.pipeline.pool import WorkerPool
from appliance.pipeline.stages.classify import policy_of
from appliance.pipeline.states import State
from appliance.pipeline.work import RECEIVED
from appliance.research import CaseFiles, ensure_tree, sidecar
from appliance.settings import Settings
from appliance.settings_imaging import LabelsSection
from appliance.store import DatasetState, NodeState, StudyRow
from dicom_bridge.convert.source import SourceSeries
from dicom_bridge.errors import DicomBridgeError
from dicom_bridge.seg.expert import ExpertPolicy, OwnMarks
from federation.canonical import JSON

_log = structlog.get_logger(__name__)

REFERENCE = "FLAIR"
PART = "label.part"
_HOLDING = (DatasetState.FROZEN, DatasetState.APPROVED)


@dataclass(frozen=True, slots=True)
class LabelWork:
    """Segmentations of one study to judge and read, as they travel to a worker.

    Attributes:
        files: the SEGs.
        source: the FLAIR's original headers.
        labels: the site's codes and creators.
        own: what this node's results can be recognised by.
        out: folder for the label images (identified zone).
    """

    files: tuple[Path, ...]
    source: SourceSeries = field(repr=False)
    labels: LabelsSection
    own: OwnMarks = field(repr=False)
    out: Path


@dataclass(frozen=True, slots=True)
class LabelRead:
    """One judged segmentation.

    Attributes:
        image: the label image (``.nii.gz``); None where the SEG is no expert's label.
        rater: who made it: ContentCreatorName, else the tool and equipment; empty where unknown.
        made_at: content date and time as written; orders what came together, and is not kept.
        voxels: labelled voxels.
        words: why, in words.
    """

    image: Path | None
    rater: str = field(repr=False)
    made_at: str
    voxels: int
    words: str


def read_labels(work: LabelWork) -> tuple[LabelRead, ...]:
    """Judge segmentations and write the expert's on the FLAIR's grid; runs in a worker process."""
    remove_tree(work.out)
    work.out.mkdir(mode=0o700, parents=True)
    policy = policy_of(work.labels, work.own)
    return tuple(_read(work, policy, path) for path in work.files)


def _read(work: LabelWork, policy: ExpertPolicy, path: Path) -> LabelRead:
    import numpy as np

    from appliance.imaging.volume import Volume, save_volume
    from appliance.pipeline.stages.convert import label_values
    from appliance.pipeline.stages.publish import compress
    from dicom_bridge.convert.frames import attribute
    from dicom_bridge.seg import read_seg, referenced_series
    from dicom_bridge.seg.expert import codes_of, judge_header
    from dicom_bridge.seg.read import open_seg

    try:
        header = open_seg(path, pixels=False)
        accepted, words = judge_header(header, policy)
        if accepted and referenced_series(path) != work.source.SeriesInstanceUID:
            accepted, words = False, f"it refers to another series than the {REFERENCE}"
        if not accepted:
            return LabelRead(None, "", "", 0, words)
        content = read_seg(path, work.source)
    except DicomBridgeError as error:
        return LabelRead(None, "", "", 0, str(error))
    values = label_values(content, work.labels.codes, codes_of(header, policy))
    if values is None:
        return LabelRead(None, "", "", 0, "no segment with a mapped code has a voxel")
    plain = work.out / f"{path.stem}.nii"
    save_volume(Volume(values, work.source.geometry.affine), plain)
    image = plain.with_suffix(".nii.gz")
    compress(plain, image)
    plain.unlink()
    texts = ("ContentCreatorName", "Manufacturer", "DeviceSerialNumber")
    named = [str(attribute(header, keyword) or "").strip() for keyword in texts]
    made_at = "".join(str(attribute(header, k) or "") for k in ("ContentDate", "ContentTime"))
    rater = named[0] or " ".join(named[1:]).strip()
    return LabelRead(image, rater, made_at, int(np.count_nonzero(values)), words)


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
        audit: writes an audit entry of the node: action, object, detail.
        settling: held while a stage settles or a study is withdrawn (`Runner.settling`).
    """

    state: NodeState
    home: Home
    settings: Settings
    identities: Identities
    pool: WorkerPool
    own: Callable[[str], OwnMarks]
    audit: Callable[[str, str, Mapping[str, int | str]], None]
    settling: threading.RLock


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
            identities = self._parts.identities
            work = LabelWork(
                files=tuple(files),
                source=identities.source(study.study_key, REFERENCE, version=study.version),
                labels=self._parts.settings.labels,
                own=self._parts.own(study.study_key),
                out=folder / PART,
            )
            read: Sequence[LabelRead] = self._parts.pool.call(read_labels, work)
            with self._parts.settling:
                if self._state.studies.get(study.study_key).state is State.READY:
                    ordered = sorted(read, key=lambda item: item.made_at)
                    taken = sum(self._keep(study, label) for label in ordered)
        except (DicomBridgeError, ApplianceError) as error:
            _log.warning("labels_not_read", study=study.study_key, reason=str(error))
            self._record("study.label_refused", study, str(error))
        remove_tree(folder)
        return taken

    def _received(self, study: StudyRow) -> list[Path]:
        return sorted((self._parts.home.study(study.study_key) / RECEIVED).rglob("*.dcm"))

    def _keep(self, study: StudyRow, label: LabelRead) -> bool:
        """Keep an expert's label under its rater's name; False where it is none."""
        if label.image is None:
            self._record("study.label_refused", study, label.words)
            return False
        files = CaseFiles(study.subject, study.session)
        rater = self._parts.identities.instance_key(f"rater {label.rater}")[:8]
        target = self._parts.home.research / files.rater_label(rater)
        ensure_tree(self._parts.home)
        document: dict[str, JSON] = {
            "LabelMap": {str(v): code for code, v in self._parts.settings.labels.codes.items()},
            "Rater": rater,
            "Voxels": label.voxels,
        }
        _put(label.image.read_bytes(), target, document)
        words = "kept as a rater's label; frozen data sets stay as they are"
        if not self._held(study):
            _put(label.image.read_bytes(), self._parts.home.research / files.label(), document)
            self._state.studies.note_labelled(study.study_key)
            words = "taken as the study's label"
        self._record("study.label", study, words)
        self._parts.audit("study.label", study.study_key, {"rater": rater, "what": words})
        _log.info("label_taken", study=study.study_key, rater=rater)
        return True

    def _held(self, study: StudyRow) -> bool:
        """Whether a data set that was frozen holds the present version."""
        return any(
            member.case == study.case
            for dataset in self._state.datasets.select()
            if dataset.state in _HOLDING
            for member in self._state.datasets.members(dataset.name)
        )

    def _record(self, action: str, study: StudyRow, words: str) -> None:
        self._state.activity.record(action, {"study": study.study_key, "what": words})


def _put(image: bytes, target: Path, document: Mapping[str, JSON]) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps(document, indent=2, sort_keys=True)
    for path, content in ((target, image), (sidecar(target), f"{text}\n".encode())):
        part = path.with_name(f"{path.name}.part")
        part.write_bytes(content)
        part.replace(path)
