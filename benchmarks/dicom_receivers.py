"""The receivers that are held against each other, each started, emptied and measured alike."""

from __future__ import annotations

import os
import shutil
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil

from appliance.demo.namespace import free_ports
from appliance.demo.pacs import OrthancPacs
from appliance.demo.processes import start
from dicom_bridge.net import PacsClient, ReceiverSettings, RemoteAE
from dicom_bridge.net.scp.supervisor import ReceiverProcesses
from tests.dicom_bridge.net.processes import Zone

LOOPBACK = "127.0.0.1"
SENDER = "BENCHSCU"
ORTHANC = "BENCHPACS"


@dataclass
class Contender:
    """One receiver.

    Attributes:
        name: as the table shows it.
        remote: where it listens.
        durable: what is on disk when it answers.
        pids: its processes (their children are counted too).
        empty: forget all that was received.
        settled: whether everything received is in its final place.
    """

    name: str
    remote: RemoteAE
    durable: str
    pids: Callable[[], Sequence[int]]
    empty: Callable[[], None]
    settled: Callable[[int], bool]

    def cpu_seconds(self) -> float:
        """User and system time of the process trees, ended children included."""
        total = 0.0
        for pid in self.pids():
            for process in _tree(pid):
                try:
                    times = process.cpu_times()
                except psutil.NoSuchProcess:
                    continue  # a child that has just ended: its parent's children_ times have it
                total += times.user + times.system
                total += times.children_user + times.children_system
        return total

    def peak_bytes(self) -> int:
        """Highest resident size of its processes so far, summed (shared pages count each time)."""
        total = 0
        for pid in self.pids():
            for process in _tree(pid):
                try:
                    status = Path(f"/proc/{process.pid}/status").read_text()
                except OSError:
                    continue
                [line] = [row for row in status.splitlines() if row.startswith("VmHWM")] or ["x 0"]
                total += int(line.split()[1]) * 1024
        return total


def _tree(pid: int) -> list[psutil.Process]:
    try:
        process = psutil.Process(pid)
        return [process, *process.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def clear(folder: Path) -> None:
    """Empty a folder."""
    for path in folder.iterdir():
        shutil.rmtree(path) if path.is_dir() else path.unlink()


@contextmanager
def clinode(
    folder: Path, port: int, processes: int, files: Sequence[Path], allowed: frozenset[str]
) -> Iterator[Contender]:
    """Our receiver processes with a job for everything."""
    zone = Zone(folder)
    settings = ReceiverSettings(
        f"CLINODE{processes}", LOOPBACK, port, allowed, reserve_bytes=0, max_associations=16
    )
    receiver = ReceiverProcesses(settings, zone.layout, processes=processes)
    receiver.start()
    zone.expect(files)
    ended: dict[str, int] = {"entries": 0}

    def empty() -> None:
        for path in zone.files():
            path.unlink()
        ended["entries"] = len(zone.read())

    def settled(count: int) -> bool:
        return len(zone.read()) - ended["entries"] >= count

    try:
        yield Contender(
            f"clinode, {processes} process{'es' if processes > 1 else ''}",
            RemoteAE(f"CLINODE{processes}", LOOPBACK, port),
            "object and journal record, synced",
            lambda: receiver.pids,
            empty,
            settled,
        )
    finally:
        receiver.stop()


@contextmanager
def storescp(folder: Path, port: int, *, fork: bool) -> Iterator[Contender]:
    """DCMTK's storescp."""
    folder.mkdir(parents=True)
    title = "STORESCPF" if fork else "STORESCP"
    options = ["--fork"] if fork else []
    command = ["/usr/bin/storescp", "-aet", title, "-pdu", "131072", "-od", str(folder)]
    os.environ["TCP_NODELAY"] = "1"
    process = start(title, [*command, *options, str(port)], folder.parent / f"{title}.log")
    try:
        yield Contender(
            f"DCMTK storescp{' --fork' if fork else ''}",
            RemoteAE(title, LOOPBACK, port),
            "nothing (page cache)",
            lambda: [process.popen.pid],
            lambda: clear(folder),
            lambda _count: True,
        )
    finally:
        process.stop()


@contextmanager
def pynetdicom(folder: Path, port: int) -> Iterator[Contender]:
    """Plain pynetdicom."""
    folder.mkdir(parents=True)
    command = [sys.executable, "-m", "benchmarks.pynetdicom_receiver", "PYNETDICOM", str(port)]
    process = start("pynetdicom", [*command, str(folder)], folder.parent / "pynetdicom.log")
    try:
        yield Contender(
            "pynetdicom, decode and save",
            RemoteAE("PYNETDICOM", LOOPBACK, port),
            "nothing (page cache)",
            lambda: [process.popen.pid],
            lambda: clear(folder),
            lambda _count: True,
        )
    finally:
        process.stop()


@contextmanager
def orthanc(folder: Path, port: int, allowed: frozenset[str]) -> Iterator[Contender]:
    """A second Orthanc."""
    pacs = OrthancPacs()
    (callers_port, http) = free_ports(2)
    callers = [RemoteAE(title, LOOPBACK, callers_port) for title in sorted(allowed)]
    pacs.start(folder, "ORTHANC2", port, http, callers)

    def empty() -> None:
        import json

        with urllib.request.urlopen(f"{pacs.rest_url}/studies", timeout=60) as answer:
            studies = json.load(answer)
        for study in studies:
            request = urllib.request.Request(f"{pacs.rest_url}/studies/{study}", method="DELETE")
            urllib.request.urlopen(request, timeout=120).close()

    try:
        yield Contender(
            f"Orthanc {pacs.version}",
            pacs.remote,
            "file synced (SyncStorageArea); index in SQLite, not synced",
            lambda: [pacs.pid],
            empty,
            lambda _count: True,
        )
    finally:
        pacs.stop()


def wait_until_it_listens(contender: Contender) -> None:
    """Wait for C-ECHO."""
    client = PacsClient(contender.remote, calling_ae=SENDER)
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        try:
            if client.echo().ok:
                return
        except Exception:  # edge: not up yet
            time.sleep(0.1)
    raise RuntimeError(f"{contender.name} does not answer")
