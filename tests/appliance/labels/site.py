"""A node's state with ready studies whose images are known, for tests of imported masks."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

from appliance.errors import ApplianceError
from appliance.home import Home, create_keys
from appliance.identity import Identities
from appliance.imaging.grid import Grid
from appliance.imaging.itk import save_matrix
from appliance.imaging.volume import Volume, save_volume
from appliance.labels.importing import Imported, ImportOptions, ImportParts, LabelImport
from appliance.labels.keeping import KeeperParts, LabelKeeper
from appliance.pipeline.pool import WorkerPool
from appliance.pipeline.states import ARROWS, State
from appliance.pipeline.worker import Job, execute
from appliance.research import CaseFiles, sidecar
from appliance.settings_imaging import LabelsSection
from appliance.store import NodeState, Outcome, StudyRow
from dicom_bridge.convert.source import SourceFrame, SourceSeries
from dicom_bridge.net.model import StudyMatch
from tests.appliance.core.values import MATCH

Affine = NDArray[np.float64]


def affine(spacing: tuple[float, float, float], origin: tuple[float, float, float]) -> Affine:
    matrix = np.diag([*spacing, 1.0])
    matrix[:3, 3] = origin
    return matrix


FLAIR = Grid((48, 50, 14), affine((1.0, 1.0, 3.0), (-24.0, -25.0, -20.0)))
T1 = Grid((44, 44, 44), affine((1.1, 1.1, 1.1), (-24.0, -24.0, -24.0)))
MOTION = np.eye(4)
MOTION[:3, 3] = [4.0, -3.0, 2.0]
"""FLAIR points to T1 points: the patient moved in between."""


class Inline:
    """Runs a worker's function here, with a worker's answers."""

    def call(self, function: Callable[..., object], *arguments: object) -> object:
        answer = execute(Job(function, arguments))
        if answer.refused is not None or answer.failed is not None:
            raise ApplianceError(answer.refused or answer.failed)
        return answer.value


def ball(grid: Grid, centre: tuple[float, ...], radius: float, value: int = 1) -> NDArray[np.uint8]:
    index = np.indices(grid.shape).reshape(3, -1)
    places = (grid.affine[:3, :3] @ index + grid.affine[:3, 3:]).T - np.asarray(centre)
    inside = (np.linalg.norm(places, axis=1) < radius).reshape(grid.shape)
    return inside.astype(np.uint8) * np.uint8(value)


def write_mask(path: Path, data: NDArray[np.generic], grid: Grid) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = nib.Nifti1Image(data, grid.affine)
    image.set_sform(grid.affine, 1)
    image.set_qform(grid.affine, 1)
    nib.save(image, path)
    return path


@dataclass
class Site:
    """The parts of a node that imported masks need."""

    home: Home
    state: NodeState
    identities: Identities
    imports: LabelImport
    keeper: LabelKeeper
    audited: list[str] = field(default_factory=list)

    def add(self, match: StudyMatch, *, until: State = State.READY) -> StudyRow:
        """A study with FLAIR, T1w, brain mask and registration."""
        newcomer = self.identities.newcomer(match, "main")
        self.identities.keep(match, "main")
        uid = match.StudyInstanceUID
        series = {"FLAIR": (f"{uid}.1", FLAIR), "T1w": (f"{uid}.2", T1)}
        sources = {kind: source(uid, s, grid).to_json() for kind, (s, grid) in series.items()}
        self.identities.keep_sources(newcomer.study_key, sources)
        self.state.studies.add(newcomer)
        for arrow in ARROWS:
            if self.state.studies.get(newcomer.study_key).state is until:
                break
            claim = self.state.studies.claim_study(newcomer.study_key, arrow.stage)
            assert claim is not None
            self.state.studies.finish(claim, Outcome(inputs=("FLAIR", "T1w")), seconds=1.0)
        study = self.state.studies.get(newcomer.study_key)
        files = CaseFiles(study.subject, study.session)
        for kind, (_, grid) in series.items():
            image = self.home.research / files.image(kind)
            image.parent.mkdir(parents=True, exist_ok=True)
            nib.save(nib.Nifti1Image(np.zeros(grid.shape, np.int16), grid.affine), image)
        brain = self.home.research / files.mask("FLAIR")
        brain.parent.mkdir(parents=True, exist_ok=True)
        save_volume(Volume(ball(FLAIR, (0, 0, 0), 20.0), FLAIR.affine), brain)
        save_matrix(MOTION, self.home.research / files.transform("T1w"))
        return study

    def run(self, text: str, folder: Path, options: ImportOptions | None = None) -> list[Imported]:
        table = folder / "table.csv"
        table.write_text(text, encoding="utf-8")
        return list(self.imports.run(table, options or ImportOptions()))

    def label(self, study: StudyRow) -> NDArray[np.uint8]:
        """The study's label on the FLAIR grid."""
        path = self.home.research / CaseFiles(study.subject, study.session).label()
        image = nib.load(path)
        assert np.allclose(image.affine, FLAIR.affine)
        return np.asarray(image.dataobj)

    def document(self, study: StudyRow) -> dict[str, Any]:
        path = self.home.research / CaseFiles(study.subject, study.session).label()
        found: dict[str, Any] = json.loads(sidecar(path).read_bytes())
        return found


def source(study: str, series: str, grid: Grid) -> SourceSeries:
    """Original headers of an axial series on a grid (its RAS axes as they are)."""
    lps = np.diag([-1.0, -1.0, 1.0, 1.0]) @ grid.affine
    step = grid.spacing
    frames = tuple(
        SourceFrame(f"{series}.{k}", "1.2.840.10008.5.1.4.1.1.4", k + 1, 0, _texts(lps, k))
        for k in range(grid.shape[2])
    )
    return SourceSeries(
        patient={"PatientID": "P1"},
        study={"StudyInstanceUID": study},
        series={"SeriesInstanceUID": series, "FrameOfReferenceUID": f"{study}.9"},
        Rows=grid.shape[1],
        Columns=grid.shape[0],
        ImageOrientationPatient=("-1", "0", "0", "0", "-1", "0"),
        PixelSpacing=(str(step[1]), str(step[0])),
        SliceThickness=str(step[2]),
        SpacingBetweenSlices=step[2],
        frames=frames,
    )


def _texts(lps: Affine, k: int) -> tuple[str, str, str]:
    x, y, z = (float(v) for v in lps[:3, 3] + k * lps[:3, 2])
    return str(x), str(y), str(z)


PATIENTS = (
    MATCH,
    replace(MATCH, StudyInstanceUID="1.2.4", PatientID="P2", StudyDate="20260102"),
    replace(MATCH, StudyInstanceUID="1.2.5", PatientID="P2", StudyDate="20260203"),
)


@contextmanager
def site(root: Path, pool: WorkerPool | Inline | None = None, **labels: object) -> Iterator[Site]:
    """A node's parts over a fresh home."""
    home = Home(root, "p")
    home.create()
    keys = create_keys(home)
    state = NodeState(home.state_file)
    identities = Identities(home, keys)
    section = LabelsSection.model_validate({"codes": {"SCT:52988006": 1, "SCT:1": 3}, **labels})
    shared: Any = pool or Inline()  # both run a function and give its value
    audited: list[str] = []
    keeper = LabelKeeper(
        KeeperParts(
            state=state,
            home=home,
            section=section,
            identities=identities,
            pool=shared,
            audit=lambda action, _object, _detail: audited.append(action),
            settling=threading.RLock(),
            reference="FLAIR",
        )
    )
    imports = LabelImport(
        ImportParts(
            state=state,
            home=home,
            identities=identities,
            pool=shared,
            keeper=keeper,
            section=section,
            reference="FLAIR",
        )
    )
    try:
        yield Site(home, state, identities, imports, keeper, audited)
    finally:
        state.close()
        identities.close()
