"""The demonstration's PACS: Orthanc with its own configuration, or pynetdicom's qrscp application.

Both are other people's programs in processes of their own; here they are configured, started,
watched until they answer, and stopped.
"""

from __future__ import annotations

import configparser
import json
import os
import shutil
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from appliance.demo.processes import Process, last_line, start
from appliance.errors import ApplianceError
from dicom_bridge.errors import AssociationRejected, PeerError
from dicom_bridge.net import PacsClient, RemoteAE, Timeouts

LOOPBACK = "127.0.0.1"
START_SECONDS = 60.0
_LOOK_EVERY_S = 0.05
_ORTHANC_PATH = "/usr/sbin:/usr/bin:/usr/local/sbin:/usr/local/bin"
_DICOMWEB_PLUGINS = (
    Path("/usr/share/orthanc/plugins/libOrthancDicomWeb.so"),
    Path("/usr/lib/orthanc/libOrthancDicomWeb.so"),
)


class PacsNotStarted(ApplianceError):
    """A PACS of the demonstration did not come up."""


def find_orthanc() -> Path | None:
    """The Orthanc program of this machine, or None."""
    found = shutil.which("Orthanc", path=f"{os.environ.get('PATH', '')}:{_ORTHANC_PATH}")
    return None if found is None else Path(found)


class _Pacs:
    """What both kinds of PACS share: a process that answers C-ECHO, or not."""

    kind = "PACS"

    def __init__(self) -> None:
        self._process: Process | None = None
        self._remote: RemoteAE | None = None

    @property
    def remote(self) -> RemoteAE:
        """Where the PACS answers.

        Raises:
            PacsNotStarted: it was not started.
        """
        if self._remote is None:
            raise PacsNotStarted(f"{self.kind}: not started")
        return self._remote

    @property
    def pid(self) -> int:
        """The process id.

        Raises:
            PacsNotStarted: it is not running.
        """
        if self._process is None:
            raise PacsNotStarted(f"{self.kind}: not running")
        return self._process.popen.pid

    def stop(self) -> None:
        """End the process; what it stored stays in its folder."""
        if self._process is not None:
            self._process.stop()
            self._process = None

    def _launch(self, command: list[str], folder: Path, ready: Callable[[], bool]) -> None:
        log = folder / "log.txt"
        self._process = start(self.kind, command, log)
        deadline = time.monotonic() + START_SECONDS
        pause = threading.Event()
        while not ready():
            status = self._process.popen.poll()
            if status is not None or time.monotonic() > deadline:
                cause = _cause(log)
                self.stop()
                what = f"did not answer in {START_SECONDS:g} s"
                if status is not None:
                    what = f"ended with status {status}"
                raise PacsNotStarted(f"{self.kind} {what}; its log says: {cause}")
            pause.wait(_LOOK_EVERY_S)


class OrthancPacs(_Pacs):
    """One Orthanc with a configuration, ports, storage and AE allow-list of its own.

    Only the peers that are given at the start may echo, find, move and store, and only under this
    PACS's own AE title. The web page serves this machine only and asks for no password. Debian's
    Orthanc has no setting for the address it binds its DICOM port to: see
    :mod:`appliance.demo.namespace`.
    """

    kind = "Orthanc"

    def __init__(self) -> None:
        super().__init__()
        self._http_port = 0

    @property
    def web_url(self) -> str:
        """The web page of Orthanc Explorer."""
        return f"http://{LOOPBACK}:{self._http_port}/app/explorer.html"

    @property
    def rest_url(self) -> str:
        """The root of the REST interface."""
        return f"http://{LOOPBACK}:{self._http_port}"

    @property
    def version(self) -> str:
        """The running program's version, as it says itself; empty where it does not."""
        try:
            with urllib.request.urlopen(f"{self.rest_url}/system", timeout=5.0) as answer:  # noqa: S310
                return str(json.load(answer).get("Version", ""))
        except (OSError, ValueError):
            return ""

    def start(
        self,
        folder: Path,
        ae_title: str,
        dicom_port: int,
        http_port: int,
        peers: Sequence[RemoteAE],
        extra: Mapping[str, object] | None = None,
    ) -> None:
        """Start and return when both the web server and the DICOM server answer.

        Args:
            folder: holds configuration, log and storage; made if absent.
            ae_title: the PACS's own AE title.
            dicom_port: TCP port of the DICOM server.
            http_port: TCP port of the web server, loopback only.
            peers: who may call, and where C-MOVE may send to.
            extra: further keys of Orthanc's configuration. Where they enable DICOM TLS, only the
                web server is waited for.

        Raises:
            PacsNotStarted: Orthanc is not installed, or ended, or did not answer in time.
        """
        program = find_orthanc()
        if program is None:
            raise PacsNotStarted("Orthanc is not installed: run `make setup` as root or with sudo")
        folder.mkdir(parents=True, exist_ok=True)
        configuration = folder / "orthanc.json"
        settings = orthanc_configuration(folder / "storage", ae_title, dicom_port, http_port, peers)
        settings |= extra or {}
        secure = bool(settings.get("DicomTlsEnabled"))
        configuration.write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")
        self._http_port = http_port
        self._remote = RemoteAE(ae_title, LOOPBACK, dicom_port)
        system = f"{self.rest_url}/system"
        self._launch(
            [str(program), str(configuration)],
            folder,
            lambda: _answers_http(system) and (secure or _answers_dicom(self.remote, peers)),
        )


class EmbeddedPacs(_Pacs):
    """pynetdicom's Query/Retrieve SCP application: for machines without Orthanc.

    It binds to loopback, knows its C-MOVE destinations, but has no allow-list of calling AE titles
    and no web page. It lists a study once per instance, which ``PacsClient.find_studies`` merges.
    """

    kind = "embedded PACS"

    @property
    def web_url(self) -> None:
        """There is no web page."""
        return

    def start(
        self,
        folder: Path,
        ae_title: str,
        dicom_port: int,
        http_port: int,  # noqa: ARG002 - same call as OrthancPacs
        peers: Sequence[RemoteAE],
    ) -> None:
        """Start and return when the DICOM server answers.

        Args:
            folder: holds configuration, log, database and instances; made if absent.
            ae_title: the PACS's own AE title.
            dicom_port: TCP port of the DICOM server.
            http_port: not used.
            peers: where C-MOVE may send to.

        Raises:
            PacsNotStarted: it ended or did not answer in time.
        """
        folder.mkdir(parents=True, exist_ok=True)
        configuration = folder / "qrscp.ini"
        with configuration.open("w", encoding="utf-8") as file:
            qrscp_configuration(folder, ae_title, dicom_port, peers).write(file)
        self._remote = RemoteAE(ae_title, LOOPBACK, dicom_port)
        self._launch(
            [sys.executable, "-m", "pynetdicom", "qrscp", "-q", "-c", str(configuration)],
            folder,
            lambda: _answers_dicom(self.remote, peers),
        )


def orthanc_configuration(
    storage: Path, ae_title: str, dicom_port: int, http_port: int, peers: Sequence[RemoteAE]
) -> dict[str, object]:
    """Orthanc's configuration for one hospital of the demonstration."""
    plugins = [str(path) for path in _DICOMWEB_PLUGINS if path.exists()][:1]
    return {
        "Name": ae_title,
        "StorageDirectory": str(storage),
        "IndexDirectory": str(storage),
        "Plugins": plugins,
        "DicomWeb": {"Enable": True},
        "HttpPort": http_port,
        "RemoteAccessAllowed": False,
        "AuthenticationEnabled": False,
        "DicomAet": ae_title,
        "DicomPort": dicom_port,
        "DicomCheckCalledAet": True,
        "DicomAlwaysAllowEcho": False,
        "DicomAlwaysAllowStore": False,
        "DicomAlwaysAllowFind": False,
        "DicomAlwaysAllowFindWorklist": False,
        "DicomAlwaysAllowGet": False,
        "DicomAlwaysAllowMove": False,
        "StrictAetComparison": True,
        "CaseSensitivePN": False,
        "UnknownSopClassAccepted": True,
        "DicomModalities": {
            peer.ae_title: {
                "AET": peer.ae_title,
                "Host": peer.host,
                "Port": peer.port,
                "AllowEcho": True,
                "AllowFind": True,
                "AllowGet": True,
                "AllowMove": True,
                "AllowStore": True,
                "AllowTranscoding": False,
                "Timeout": 60,
            }
            for peer in peers
        },
        "SynchronousCMove": True,
        "DicomScpTimeout": 60,
        "DicomScuTimeout": 60,
        "DicomThreadsCount": 4,
        "DicomAssociationCloseDelay": 1,
        "MaximumPduLength": 131072,
        "OverwriteInstances": False,
        "ConcurrentJobs": 2,
        "StableAge": 2,
        "SaveJobs": False,
        "ExecuteLuaEnabled": False,
        "HttpThreadsCount": 8,
    }


def _literal(value: object) -> str:
    """A value that configparser takes as it is."""
    return str(value).replace("%", "%%")


def qrscp_configuration(
    folder: Path, ae_title: str, dicom_port: int, peers: Sequence[RemoteAE]
) -> configparser.ConfigParser:
    """The qrscp application's configuration for one hospital of the demonstration."""
    configuration = configparser.ConfigParser()
    configuration["DEFAULT"] = {
        "ae_title": _literal(ae_title),
        "port": str(dicom_port),
        "bind_address": LOOPBACK,
        "max_pdu": "131072",
        "acse_timeout": "30",
        "dimse_timeout": "60",
        "network_timeout": "60",
        "instance_location": _literal(folder.resolve() / "instances"),
        "database_location": _literal(folder.resolve() / "instances.sqlite"),
        "log_identifier": "False",
    }
    for peer in peers:
        configuration[peer.ae_title] = {"address": _literal(peer.host), "port": str(peer.port)}
    return configuration


def _answers_http(url: str) -> bool:
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with direct.open(url, timeout=2.0) as answer:
            return bool(answer.status == 200)
    except (urllib.error.URLError, OSError):
        return False


def _answers_dicom(remote: RemoteAE, peers: Sequence[RemoteAE]) -> bool:
    caller = peers[0].ae_title if peers else "CLINODE"
    quick = Timeouts(connect_s=2.0, association_s=5.0, response_s=5.0)
    try:
        return PacsClient(remote, calling_ae=caller, timeouts=quick).echo().ok
    except AssociationRejected:
        return not peers
    except PeerError:
        return False


def _cause(log: Path) -> str:
    """The first error in Orthanc's log (its lines begin with E), otherwise the log's last line."""
    try:
        lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    return next((line for line in lines if line.startswith("E")), last_line(log))
