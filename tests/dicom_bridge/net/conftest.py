"""One PACS of each kind per test session, and the ports that they know us under."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from appliance.demo.pacs import EmbeddedPacs, OrthancPacs
from dicom_bridge.net import PacsClient, RemoteAE
from tests.pacs import LOOPBACK, ONCE, QUICK, running_embedded, running_orthanc
from tests.tools import free_port

NODE = "NODE"
PEER_SCP = "STORESCP"


@dataclass(frozen=True)
class Site:
    """A PACS, our client to it, and the ports that it sends to."""

    pacs: OrthancPacs | EmbeddedPacs
    client: PacsClient
    node_port: int
    peer_port: int


def _peers() -> list[RemoteAE]:
    return [RemoteAE(name, LOOPBACK, free_port()) for name in (NODE, PEER_SCP)]


@pytest.fixture(scope="session")
def orthanc(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    peers = _peers()
    folder: Path = tmp_path_factory.mktemp("orthanc")
    with running_orthanc(folder, peers) as pacs:
        client = PacsClient(pacs.remote, calling_ae=NODE, timeouts=QUICK, retry=ONCE)
        yield Site(pacs, client, peers[0].port, peers[1].port)


@pytest.fixture(scope="session")
def embedded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    peers = _peers()
    folder: Path = tmp_path_factory.mktemp("embedded")
    with running_embedded(folder, peers) as pacs:
        client = PacsClient(pacs.remote, calling_ae=NODE, timeouts=QUICK, retry=ONCE)
        yield Site(pacs, client, peers[0].port, peers[1].port)
