"""One hospital of the demonstration: its PACS, its node's home, its studies."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from appliance.control.client import NodeClient
from appliance.demo.cohort import Made, RealStudy, scanner_words
from appliance.demo.pacs import EmbeddedPacs, OrthancPacs
from appliance.demo.processes import Process, clinode, run, start
from appliance.errors import ApplianceError
from appliance.home import Home, load_keys
from appliance.settings import Settings, settings_from, settings_toml
from dicom_bridge.deid import Pseudonymizer
from dicom_bridge.net import PacsClient, RemoteAE

DEMO_AE = "CLINODEDEMO"
"""The demonstration's own AE title: fills each PACS, asks it afresh, reads results back."""

PROJECT = "ms-demo"


@dataclass(frozen=True, slots=True)
class Ports:
    """TCP ports on loopback."""

    pacs: int
    web: int
    node: int
    read_back: int


@dataclass(slots=True)
class Hospital:
    """A hospital while the demonstration runs.

    Attributes:
        index: 0, 1, ...
        folder: holds the PACS's storage, the node's home and logs.
        ports: its ports.
        studies: its phantoms.
        real: its real studies.
    """

    index: int
    folder: Path
    ports: Ports
    studies: list[Made] = field(default_factory=list)
    real: list[RealStudy] = field(default_factory=list)
    pacs: OrthancPacs | EmbeddedPacs | None = None
    process: Process | None = None

    @property
    def name(self) -> str:
        """``hospital-a``, ``hospital-b``, ..."""
        return f"hospital-{chr(ord('a') + self.index)}"

    @property
    def scanner(self) -> str:
        """The scanner style in words."""
        return scanner_words(self.index)

    @property
    def home(self) -> Path:
        """The node's home folder."""
        return self.folder / "node"

    @property
    def pacs_ae(self) -> str:
        """The PACS's AE title."""
        return f"PACS{chr(ord('A') + self.index)}"

    @property
    def node_ae(self) -> str:
        """The node's AE title."""
        return f"NODE{chr(ord('A') + self.index)}"

    @property
    def expected_studies(self) -> int:
        """How many studies its PACS holds for the node."""
        return len(self.studies) + len(self.real)

    def start_pacs(self, kind: str) -> None:
        """Start the PACS; returns when it answers."""
        peers = [
            RemoteAE(self.node_ae, "127.0.0.1", self.ports.node),
            RemoteAE(DEMO_AE, "127.0.0.1", self.ports.read_back),
        ]
        self.pacs = OrthancPacs() if kind == "orthanc" else EmbeddedPacs()
        self.pacs.start(self.folder / "pacs", self.pacs_ae, self.ports.pacs, self.ports.web, peers)

    def pacs_client(self) -> PacsClient:
        """The demonstration's own connection to the PACS."""
        if self.pacs is None:
            raise ApplianceError(f"{self.name}: the PACS is not running")
        return PacsClient(self.pacs.remote, calling_ae=DEMO_AE)

    def settings(self, coordinator: tuple[int, int], profile: str) -> Settings:
        """What the hospital's IT and custodian would enter, with the demonstration's policy."""
        federation, enrolment = coordinator
        return settings_from(
            {
                "node": {"site": self.name, "project": PROJECT, "time_zone": "Europe/Zurich"},
                "dicom": {
                    "ae_title": self.node_ae,
                    "host": "127.0.0.1",
                    "port": self.ports.node,
                },
                "pacs": [
                    {
                        "name": "main",
                        "ae_title": self.pacs_ae,
                        "host": "127.0.0.1",
                        "port": self.ports.pacs,
                        "role": ["query", "results"],
                        "query": {"modalities": ["MR"]},
                    }
                ],
                "imaging": {"profile": profile},
                "retry": {"attempts": 3, "first_wait_s": 2.0},
                "governance": {
                    "auto_freeze": True,
                    "auto_approve_plans": ["any"],
                    "auto_accept_models": True,
                },
                "results": {"release": "all", "destination": "main"},
                "coordinator": {
                    "host": "127.0.0.1",
                    "port": federation,
                    "enrolment_port": enrolment,
                },
            }
        )

    def set_up_node(self, settings: Settings, token: str) -> None:
        """``node init``, the settings, ``node enrol``: as a hospital does it."""
        home = str(self.home)
        run(clinode("--home", home, "node", "init", "--site", self.name, "--project", PROJECT))
        (self.home / "settings.toml").write_text(settings_toml(settings), encoding="utf-8")
        token_file = self.folder / "enrolment-token.txt"
        token_file.write_text(token, encoding="ascii")
        token_file.chmod(0o600)
        run(clinode("--home", home, "node", "enrol", str(token_file)))
        token_file.unlink()

    def start_node(self) -> None:
        """Start the node's service."""
        self.process = start(
            f"node of {self.name}",
            clinode("--home", str(self.home), "node", "run"),
            self.folder / "node.log",
        )

    def client(self) -> NodeClient:
        """The node's control API."""
        return NodeClient(self.home, actor="demo")

    def study_key(self, study_uid: str) -> str:
        """The key by which the node calls a study; needs the node's secret, which lies here."""
        keys = load_keys(Home(self.home, PROJECT))
        return Pseudonymizer(keys.project_secret, PROJECT).study_key(study_uid)

    def check(self) -> None:
        """Start a killed node again; raise where it ended by itself."""
        if self.process is not None:
            self.process.revive()
            self.process.check()

    def stop(self) -> None:
        """Stop node and PACS."""
        if self.process is not None:
            self.process.stop()
        if self.pacs is not None:
            self.pacs.stop()
