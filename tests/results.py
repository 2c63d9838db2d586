"""A study in a real PACS and what a node needs to bring a result of it back: for several tests."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np

from appliance.home import Home, create_keys, load_keys
from appliance.identity import Identities
from appliance.imaging.volume import Volume
from appliance.pipeline.pool import WorkerPool
from appliance.research import REFERENCE, CaseFiles
from appliance.result_states import Instant
from appliance.results import Results, ResultsParts
from appliance.settings import Settings, load_settings, settings_from, settings_toml
from appliance.store import NodeState, ResultRow, StudyRow
from dicom_bridge.archive import Archive
from dicom_bridge.convert.source import SourceSeries
from dicom_bridge.net.model import StudyCriteria
from federation.clock import Clock, utc_now
from federation.learning.prepared import PredictedMask, write_mask
from federation.manifest import ModelManifest
from federation.plan import ms_lesion_demo_plan
from tests.studies import TestStudy, write_array_study

PROJECT = "results"
SHAPE = (40, 36, 8)
ArchiveOf = Callable[[Settings, str], Archive]


def small_study(folder: Path, name: str = "results") -> TestStudy:
    """A FLAIR of a few slices."""
    random = np.random.default_rng(5)
    data = random.integers(0, 1000, SHAPE).astype(np.float32)
    affine = np.diag([1.5, 1.5, 4.0, 1.0])
    return write_array_study({REFERENCE: Volume(data, affine)}, folder, name=name)


def manifest(round_number: int = 1) -> ModelManifest:
    """A model of the demonstration's plan."""
    plan = ms_lesion_demo_plan()
    return ModelManifest(
        plan_name=plan.name,
        plan_hash="a" * 64,
        round=round_number,
        weights_sha256=f"{round_number:064x}",
        weights_size=1,
        parents=(),
        preparation={},
        inputs=[],
        labels=[label.model_dump(mode="json") for label in plan.labels],
        network={},
    )


def set_up(home: Home, study: TestStudy, pacs: Archive, document: Mapping[str, object]) -> str:
    """Make a home that knows the study as if it had come through; gives the study's key."""
    home.create()
    keys = create_keys(home)
    settings = settings_from({"node": {"site": "hospital-r", "project": PROJECT}, **document})
    home.settings_file.write_text(settings_toml(settings), encoding="utf-8")
    identities = Identities(home, keys)
    (match,) = pacs.find_studies(StudyCriteria(study_uids=(study.StudyInstanceUID,)))
    newcomer = identities.newcomer(match, "main")
    identities.keep(match, "main")
    source = SourceSeries.from_files(study.series[REFERENCE])
    identities.keep_sources(newcomer.study_key, {REFERENCE: source.to_json()})
    state = NodeState(home.state_file)
    state.studies.add(newcomer)
    image = home.research / CaseFiles(newcomer.subject, newcomer.session).image(REFERENCE)
    image.parent.mkdir(parents=True)
    geometry = source.geometry
    values = np.zeros(geometry.shape, np.float32)
    nib.save(nib.Nifti1Image(values, geometry.affine), image)
    mask = np.zeros(geometry.shape, np.uint8)
    mask[5:12, 6:11, 2:4] = 1
    mask[25:28, 20:24, 5] = 1
    write_mask(home.root / "mask.safetensors", PredictedMask(mask, geometry.affine))
    empty = PredictedMask(np.zeros_like(mask), geometry.affine)
    write_mask(home.root / "empty.safetensors", empty)
    state.close()
    identities.close()
    return newcomer.study_key


class NodeResults:
    """The results part of a node over a home, in this process.

    Args:
        home: made by `set_up`.
        archive: the client of a PACS, by name.
        clock: the time.
        observer: told at each instant.
        pool: worker processes to share; None takes one of its own.
    """

    def __init__(
        self,
        home: Home,
        archive: Callable[[str], Archive],
        *,
        clock: Clock = utc_now,
        observer: Callable[[str, Instant], None] = lambda _key, _instant: None,
        pool: WorkerPool | None = None,
    ) -> None:
        self.home = home
        self.settings = load_settings(home.settings_file)
        self.state = NodeState(home.state_file, clock=clock)
        self.identities = Identities(home, load_keys(home))
        self._shared = pool is not None
        self.pool = pool or WorkerPool(workers=1, threads=1)
        self.audited: list[str] = []
        self.results = Results(
            ResultsParts(
                state=self.state,
                home=home,
                settings=self.settings,
                identities=self.identities,
                pool=self.pool,
                client=archive,
                audit=lambda _actor, action, _key, _detail: self.audited.append(action),
                observer=observer,
            )
        )

    def study(self) -> StudyRow:
        (row,) = self.state.studies.select()
        return row

    def enter(self, model: ModelManifest, *, mask: str = "mask") -> ResultRow:
        """What publishing does with one study; twice the same makes nothing new."""
        study = self.study()
        if self.results.known(study.version_key, model.id):
            return self.state.results.get(self.results.key(study.version_key, model.id))
        return self.results.enter(study, model, self.home.root / f"{mask}.safetensors")

    def get(self, key: str) -> ResultRow:
        return self.state.results.get(key)

    def close(self) -> None:
        if not self._shared:
            self.pool.close()
        self.identities.close()
        self.state.close()


def changed(model: ModelManifest, name: str) -> ModelManifest:
    """The same model under another plan."""
    return replace(model, plan_name=name)
