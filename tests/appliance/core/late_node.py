"""Intake and pipeline over a real PACS with trivial stages, for tests of late images.

What the last stage publishes is the list of instances that were there, so that a version's files
show what it was made of.
"""

from __future__ import annotations

import json
import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pydicom

from appliance.archives import client_for
from appliance.datasets import Datasets, SplitRule
from appliance.erasure import Erasure, ErasureParts
from appliance.home import Home, create_keys
from appliance.identity import Identities
from appliance.intake import Intake, IntakeParts, Spool
from appliance.pipeline.pool import WorkerPool
from appliance.pipeline.runner import Runner, StageTable
from appliance.pipeline.settling import settlers
from appliance.pipeline.states import ARROWS, Stage, StageEvent
from appliance.pipeline.work import SOURCE_PREFIX, TREE, StageResult, StageWork
from appliance.preparation import Preparer, PreparerOptions
from appliance.research import CaseFiles
from appliance.settings import Settings, settings_from
from appliance.store import NodeState, StudyRow
from appliance.versions import Versions
from dicom_bridge.net import Receiver, ReceiverSettings, RemoteAE
from dicom_bridge.net.retrieve import RetrievePolicy
from tests.appliance.core import stage_samples as samples

AE, PROJECT, LIST = "NODE_L", "p", "instances.txt"
LATE_NOTED, REOPENED = "late noted", "reopened"
"""Instants of the reopening itself; the others are those of the stages."""

Told = Callable[[NodeState, str], None]


def list_received(work: StageWork) -> StageResult:
    """Conversion: which instances are there, and their headers for the vault."""
    paths = sorted(work.received.rglob("*.dcm"))
    (work.out / LIST).write_text("\n".join(path.stem for path in paths), encoding="utf-8")
    headers = [pydicom.dcmread(path, stop_before_pixels=True) for path in paths]
    source = {
        "study": {"StudyInstanceUID": str(headers[0].StudyInstanceUID)},
        "series": {"SeriesInstanceUID": str(headers[0].SeriesInstanceUID)},
        "frames": [{"SOPInstanceUID": str(header.SOPInstanceUID)} for header in headers],
    }
    (work.out / f"{SOURCE_PREFIX}FLAIR.json").write_text(json.dumps(source), encoding="utf-8")
    return StageResult(inputs=("FLAIR",), labelled=True)


def publish_list(work: StageWork) -> StageResult:
    """Publication: the list as the case's image."""
    image = work.out / TREE / CaseFiles(work.subject, work.session).image("FLAIR")
    image.parent.mkdir(parents=True)
    image.write_bytes((work.of(Stage.CONVERT) / LIST).read_bytes())
    return StageResult()


def late_settings(pacs: RemoteAE, port: int, description: str, reopen: str = "auto") -> Settings:
    entry = {"name": "main", "ae_title": pacs.ae_title, "host": pacs.host, "port": pacs.port}
    return settings_from(
        {
            "node": {"site": "a", "project": PROJECT},
            "dicom": {"ae_title": AE, "port": port},
            "pacs": [entry | {"query": {"description": description}}],
            "intake": {"reopen": reopen},
        }
    )


@dataclass
class LateNode:
    """One life of a node."""

    home: Home
    state: NodeState
    identities: Identities
    intake: Intake
    runner: Runner
    datasets: Datasets
    versions: Versions
    erasure: Erasure

    def work(self) -> None:
        """Query, then fetch and process until nothing is left to do."""
        assert self.intake.poll_all()
        stop = threading.Event()
        while self.intake.fetch_next(stop) or self.runner.step():
            pass
        self.versions.sweep()

    def study(self) -> StudyRow:
        (row,) = self.state.studies.select()
        return row


@contextmanager
def living(
    root: Path,
    settings: Settings,
    told: Told = lambda _state, _instant: None,
) -> Iterator[LateNode]:
    """A node that recovers, lives and stops."""
    home = Home(root, PROJECT)
    home.create()
    keys = create_keys(home)
    state = NodeState(home.state_file)
    identities = Identities(home, keys)
    spool = Spool(state, home, identities)
    receiver = Receiver(
        ReceiverSettings(AE, "127.0.0.1", settings.dicom.port, settings.allowed_ae()), spool
    )
    pool = WorkerPool(workers=1, threads=1)

    def observe(event: StageEvent) -> None:
        told(state, f"{event.stage} {event.point}")

    stages = {arrow.stage: samples.write_mark for arrow in ARROWS if arrow.worker}
    table = StageTable(
        run=stages | {Stage.CONVERT: list_received, Stage.PUBLISH: publish_list},
        settle=settlers(home, identities),
    )
    runner = Runner(state, home, settings, pool, table, observer=observe)
    intake = Intake(
        IntakeParts(
            state=state,
            home=home,
            settings=settings,
            identities=identities,
            spool=spool,
            client=client_for(settings),
            observer=observe,
            on_reopened=lambda _study, _actor, _reason: told(state, REOPENED),
            policy=RetrievePolicy(settle_s=0.2),
        )
    )
    note_late = state.studies.note_late

    def noted(study_key: str, late: int) -> None:
        note_late(study_key, late)
        if late:
            told(state, LATE_NOTED)

    state.studies.note_late = noted  # type: ignore[method-assign]
    datasets = Datasets(state, home, SplitRule(keys.site_secret, 0.0, 5))
    versions = Versions(state, home, identities, settling=runner.settling)
    preparer = Preparer(state, home, datasets, pool, PreparerOptions(keys.site_secret, {}, 1))
    erasure = Erasure(
        ErasureParts(
            state=state,
            home=home,
            identities=identities,
            datasets=datasets,
            preparer=preparer,
            settling=runner.settling,
            withdraw_results=lambda _key: None,
            stop_fetch=intake.forget,
        )
    )
    receiver.start()
    try:
        erasure.finish()
        runner.recover()
        yield LateNode(home, state, identities, intake, runner, datasets, versions, erasure)
    finally:
        receiver.stop()
        pool.close()
        identities.close()
        state.close()


def live_until(root: Path, settings: Settings, instant: str) -> None:
    """A life in a process of its own that is killed at one instant of the reopening."""

    def kill(state: NodeState, reached: str) -> None:
        (row,) = state.studies.select()
        second = row.version == 2 or reached == LATE_NOTED
        if second and reached == instant:
            os.kill(os.getpid(), signal.SIGKILL)

    with living(root, settings, kill) as node:
        node.work()
