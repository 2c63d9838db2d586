"""What a stage gets and gives back: plain values that travel to a worker process and back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from appliance.home import Home
from appliance.pipeline.states import Stage
from appliance.settings import Settings
from dicom_bridge.seg.expert import OwnMarks
from federation.canonical import JSON

RECEIVED = "received"
STAGES = "stages"
TEMPORARY = ".tmp"
SOURCE_PREFIX = "source-"
"""Files of `convert` with original headers; the node moves them into the vault."""
QC_FILE = "qc.json"
"""The quality report of `check`."""
REPORT_FILE = "report.html"
"""The same for people, with pictures of the defaced images."""
TREE = "tree"
"""Folder of `publish` that mirrors ``research/PROJECT``."""


def no_marks(study_key: str) -> OwnMarks:
    """What results of ours can be recognised by where there are none; it travels to workers."""
    del study_key
    return OwnMarks(labels={})


@dataclass(frozen=True, slots=True)
class StageWork:
    """One stage of one study.

    Attributes:
        stage: the stage.
        study_key: the study's internal key.
        home: the node home; a stage reads keys from it and writes nothing there.
        study_dir: the study's identified folder, with ``received/`` and ``stages/<stage>/``.
        out: an empty temporary folder; the stage writes only there.
        settings: the node's settings.
        subject: BIDS subject label without ``sub-``.
        session: BIDS session label without ``ses-``.
        qc_released: a person released the study's quality findings.
        threads: threads that the stage may use.
        version: the study's version.
        facts: what the stages before have noted.
        own: what this node's results of the study can be recognised by.
    """

    stage: Stage
    study_key: str
    home: Home
    study_dir: Path
    out: Path
    settings: Settings
    subject: str
    session: str
    qc_released: bool = False
    threads: int = 1
    version: int = 1
    facts: Mapping[str, JSON] = field(default_factory=dict)
    own: OwnMarks = field(default_factory=lambda: no_marks(""), repr=False)

    @property
    def received(self) -> Path:
        """The received instances."""
        return self.study_dir / RECEIVED

    def of(self, stage: Stage) -> Path:
        """The finished folder of an earlier stage."""
        return self.study_dir / STAGES / stage.value

    @property
    def case(self) -> str:
        """``sub-<label>_ses-<label>``."""
        return f"sub-{self.subject}_ses-{self.session}"


@dataclass(frozen=True, slots=True)
class StageResult:
    """What a stage found out; values of a closed vocabulary, never an identifier.

    Attributes:
        inputs: canonical modalities of the study, where the stage knows them.
        labelled: whether an expert's label is there, where the stage knows it.
        qc_decision: pass, review or fail, where the stage decides it.
        facts: counts, versions, volumes.
        detail: one sentence for the operator.
        refused: why the study is quarantined although the stage's files are kept for a person.
    """

    inputs: tuple[str, ...] | None = None
    labelled: bool | None = None
    qc_decision: str | None = None
    facts: Mapping[str, JSON] = field(default_factory=dict)
    detail: str = ""
    refused: str | None = None
