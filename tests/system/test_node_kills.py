"""``kill -9`` of a real node in every pipeline stage: nothing is lost, nothing is done twice."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from appliance.control.client import NodeClient
from appliance.demo.phantom import PhantomRequest, make_study, write_study
from appliance.errors import ApplianceError
from appliance.home import Home, create_keys
from appliance.pipeline.states import ARROWS, Point
from appliance.settings import settings_from, settings_toml
from dicom_bridge.net import PacsClient, RemoteAE
from federation.audit_chain import verify
from tests.pacs import running_orthanc
from tests.system.killable_node import planned_kills
from tests.tools import REPOSITORY, free_port
from tests.waiting import wait_for

pytestmark = [pytest.mark.system, pytest.mark.timeout(1200)]

NODE_AE, TEST_AE, PROJECT = "KILLNODE", "KILLTEST", "kills"
LIFE_S = 180.0


def test_every_stage_has_a_kill_and_every_instant_is_used() -> None:
    kills = planned_kills()
    assert set(kills) == {arrow.stage for arrow in ARROWS}
    assert set(kills.values()) == set(Point)


def set_up(home: Home, port: int, pacs: RemoteAE) -> None:
    home.create()
    create_keys(home)
    main = {"name": "main", "ae_title": pacs.ae_title, "host": pacs.host, "port": pacs.port}
    settings = settings_from(
        {
            "node": {"site": "hospital-k", "project": PROJECT},
            "dicom": {"ae_title": NODE_AE, "port": port},
            "pacs": [main | {"role": ["query", "results"]}],
            "imaging": {"profile": "quick"},
            "retry": {"attempts": 3, "first_wait_s": 0.1},
            "governance": {"auto_freeze": True},
        }
    )
    home.settings_file.write_text(settings_toml(settings), encoding="utf-8")


def ready(home: Home) -> bool:
    """Whether the study is ready and the data set approved."""
    try:
        with NodeClient(home.root, timeout_s=5.0) as client:
            states = [s.state for s in client.studies().studies]
            datasets = [d.state for d in client.datasets().datasets]
    except ApplianceError:
        return False
    return states == ["ready"] and datasets == ["approved"]


def live_once(home: Home, markers: Path, log: Path) -> bool:
    """Start the node; true once it has been killed, false once all is done."""
    command = [sys.executable, "-m", "tests.system.killable_node", str(home.root), str(markers)]
    with log.open("ab") as stream:
        node = subprocess.Popen(command, stdout=stream, stderr=stream, cwd=REPOSITORY)
        try:
            wait_for(
                lambda: node.poll() is not None or ready(home),
                what="the next kill or the end",
                seconds=LIFE_S,
                every=0.2,
            )
            if node.poll() is None:
                return False
            assert node.returncode == -signal.SIGKILL, log.read_text(encoding="utf-8")[-2000:]
            return True
        finally:
            node.terminate()
            node.wait(60)


@pytest.mark.long
def test_killed_in_every_stage_the_study_still_comes_through(tmp_path: Path) -> None:
    port, markers, log = free_port(), tmp_path / "markers", tmp_path / "node.log"
    markers.mkdir()
    home = Home(tmp_path / "node", PROJECT)
    study = write_study(
        make_study(PhantomRequest(0, "siemens", seed=9)), tmp_path / "study", segmentation=True
    )
    peers = [RemoteAE(NODE_AE, "127.0.0.1", port), RemoteAE(TEST_AE, "127.0.0.1", free_port())]
    with running_orthanc(tmp_path / "pacs", peers) as pacs:
        client = PacsClient(pacs.remote, calling_ae=TEST_AE)
        assert all(outcome.ok for outcome in client.send(study.files))
        set_up(home, port, pacs.remote)
        lives = 1
        while live_once(home, markers, log):
            lives += 1
        listed = client.find_instances(study.StudyInstanceUID)
    assert {p.name for p in markers.iterdir()} == {f"{s}-{p}" for s, p in planned_kills().items()}
    assert lives == len(planned_kills()) + 1
    assert len(listed) == len(study.files), "the PACS holds what it held"
    assert_complete(home)


def assert_complete(home: Home) -> None:
    """One study, whole, once, with nothing left over."""
    images = sorted(p.name.split("_")[-1] for p in home.bids.rglob("*.nii.gz"))
    assert images == ["FLAIR.nii.gz", "T1w.nii.gz"]
    assert len(list(home.bids.glob("sub-*"))) == 1
    assert len(list((home.derivatives / "labels").rglob("*.nii.gz"))) == 1
    assert not any(home.studies.iterdir()), "the spool is empty"
    assert verify(home.audit_file).ok
