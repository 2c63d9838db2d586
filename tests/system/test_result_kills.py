"""``kill -9`` at every instant of a result's way: the PACS gets each object once, in the end."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from appliance.home import Home
from appliance.result_states import Instant, kill_points
from dicom_bridge.net import PacsClient, RemoteAE
from tests.pacs import running_orthanc
from tests.results import PROJECT, NodeResults, manifest, set_up, small_study
from tests.system.killable_results import NODE_AE
from tests.tools import REPOSITORY, free_port

pytestmark = [pytest.mark.system, pytest.mark.long, pytest.mark.timeout(1200)]


def live_once(arguments: Sequence[str], log: Path) -> int:
    command = [sys.executable, "-m", "tests.system.killable_results", *arguments]
    with log.open("ab") as stream:
        child = subprocess.run(
            command, stdout=stream, stderr=stream, cwd=REPOSITORY, check=False, timeout=300
        )
    return child.returncode


def test_killed_at_every_instant_each_object_arrives_once(tmp_path: Path) -> None:
    markers, log, report_port = tmp_path / "markers", tmp_path / "node.log", free_port()
    markers.mkdir()
    home = Home(tmp_path / "node", PROJECT)
    study = small_study(tmp_path / "study")
    ours = RemoteAE(NODE_AE, "127.0.0.1", report_port)
    with running_orthanc(tmp_path / "pacs", [ours]) as pacs:
        client = PacsClient(pacs.remote, calling_ae=NODE_AE)
        assert all(outcome.ok for outcome in client.send(study.files))
        main = {"name": "main", "ae_title": pacs.remote.ae_title, "port": pacs.remote.port}
        section = {**main, "host": "127.0.0.1", "role": ["query", "results"], "commitment": True}
        set_up(
            home,
            study,
            client,
            {
                "dicom": {"ae_title": NODE_AE, "port": report_port},
                "pacs": [section],
                "results": {"release": "all", "destination": "main"},
                "retry": {"attempts": 20, "first_wait_s": 0.1, "longest_wait_s": 0.5},
            },
        )
        remote = pacs.remote
        address = (remote.ae_title, remote.host, str(remote.port), str(report_port))
        lives = 0
        while (status := live_once((str(home.root), str(markers), *address), log)) != 0:
            assert status == -signal.SIGKILL, log.read_text(encoding="utf-8")[-3000:]
            lives += 1
            assert lives <= len(kill_points())
        listed = client.find_instances(study.StudyInstanceUID)
        assert {path.name for path in markers.iterdir()} == {i.value for i in Instant}
        node = NodeResults(home, lambda _name: client)
        try:
            key = node.results.key(node.study().version_key, manifest().id)
            uids = node.results.uids(node.study().version_key, manifest().id)
            ours_listed = sorted(ref.SOPInstanceUID for ref in listed if ref.Modality != "MR")
            assert ours_listed == sorted([uids.seg, uids.report])
            assert node.get(key).committed_at is not None
            assert not node.results.folder(key).exists(), "committed: the local copy is gone"
            assert len(node.state.results.select()) == 1
        finally:
            node.close()
