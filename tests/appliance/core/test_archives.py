"""Settings of a PACS become a client; C-GET and DICOMweb fetch without a receiver."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from appliance.archives import client_for, our_address, traffic_of, where
from appliance.demo.pacs import OrthancPacs
from appliance.home import Home, create_keys
from appliance.identity import Identities
from appliance.intake import Intake, IntakeParts, Spool
from appliance.pipeline.states import State
from appliance.pipeline.work import RECEIVED
from appliance.settings import Settings, settings_from
from appliance.store import NodeState
from dicom_bridge.archive import Archive
from dicom_bridge.errors import SettingsRefused
from dicom_bridge.net import PacsClient, RemoteAE
from dicom_bridge.web import WebClient
from tests.certificates import Authority
from tests.pacs import LOOPBACK, StudyForm, running_orthanc, write_small_study
from tests.tools import free_port

DIMSE = {"name": "main", "ae_title": "ORTHANC", "host": LOOPBACK, "port": 104}
WEB = {"name": "main", "transport": "dicomweb", "web": {"url": "https://pacs.example/rs"}}


def settings(entry: dict[str, object], **dicom: object) -> Settings:
    return settings_from(
        {
            "node": {"site": "a", "project": "p", "time_zone": "Europe/Zurich"},
            "dicom": {"ae_title": "NODE", **dicom},
            "pacs": [entry],
        }
    )


def made(configured: Settings) -> Archive:
    return client_for(configured)(configured.pacs[0])


def test_the_transport_decides_the_client() -> None:
    dimse, web = settings(DIMSE), settings(WEB)
    assert isinstance(made(dimse), PacsClient)
    assert isinstance(made(web), WebClient)
    assert where(dimse.pacs[0]) == "ORTHANC at 127.0.0.1:104"
    assert where(web.pacs[0]) == "https://pacs.example"


def test_windows_rate_and_associations_reach_the_client() -> None:
    entry = {
        **DIMSE,
        "windows": ["mon-fri 19:00-06:00"],
        "instances_per_second": 4.0,
        "associations": 3,
    }
    configured = settings(entry)
    traffic = traffic_of(configured, configured.pacs[0])
    assert (traffic.associations, traffic.pace.per_second) == (3, 4.0)
    schedule = traffic.pace.schedule
    assert schedule.is_open(datetime(2024, 7, 1, 17, 0, tzinfo=UTC)), "19:00 in Zurich's summer"
    assert not schedule.is_open(datetime(2024, 1, 1, 17, 0, tzinfo=UTC)), "18:00 in its winter"


@pytest.mark.parametrize(("host", "said"), [("10.0.0.7", "host 10.0.0.7"), ("0.0.0.0", "machine")])
def test_the_administrator_is_told_an_address_that_can_be_called(host: str, said: str) -> None:
    assert said in str(our_address(settings(DIMSE, host=host).dicom))


def test_tls_comes_from_our_certificate(tmp_path: Path) -> None:
    authority = Authority(tmp_path, "Hospital")
    pair = authority.issue("node")
    tls = {
        "certificate": str(pair.certificate),
        "key": str(pair.key),
        "authorities": str(authority.path),
    }
    assert isinstance(made(settings({**DIMSE, "tls": True}, tls=tls)), PacsClient)
    pair.key.chmod(0o644)
    with pytest.raises(SettingsRefused, match="chmod 600"):
        made(settings({**DIMSE, "tls": True}, tls=tls))


@pytest.fixture(scope="module")
def pacs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OrthancPacs]:
    peers = [RemoteAE("NODE", LOOPBACK, free_port())]
    with running_orthanc(tmp_path_factory.mktemp("orthanc"), peers) as running:
        study = write_small_study(tmp_path_factory.mktemp("study"), StudyForm(series=2, slices=3))
        client = PacsClient(running.remote, calling_ae="NODE")
        assert all(outcome.ok for outcome in client.send(study.paths))
        yield running


@pytest.mark.integration
@pytest.mark.parametrize("way", ["get", "dicomweb"])
def test_a_node_fetches_without_a_receiver(pacs: OrthancPacs, way: str, tmp_path: Path) -> None:
    entry: dict[str, object] = {**DIMSE, "port": pacs.remote.port, "retrieve": "get"}
    if way == "dicomweb":
        entry = {**WEB, "web": {"url": f"{pacs.rest_url}/dicom-web"}}
    configured = settings(entry)
    home = Home(tmp_path, "p")
    home.create()
    identities = Identities(home, create_keys(home))
    state = NodeState(home.state_file)
    try:
        intake = Intake(
            IntakeParts(
                state=state,
                home=home,
                settings=configured,
                identities=identities,
                spool=Spool(state, home, identities),
                client=client_for(configured, spool=home.identified),
            )
        )
        assert intake.poll_all(), intake.problem
        running = threading.Event()
        while intake.fetch_next(running):
            pass
        [row] = state.studies.select()
        assert (row.state, row.expected, row.received) == (State.RECEIVED, 6, 6)
        assert len(list((home.study(row.study_key) / RECEIVED).rglob("*.dcm"))) == 6
    finally:
        state.close()
        identities.close()
