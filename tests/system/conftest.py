"""One demonstration for all system tests: real processes, real studies, a node and the
coordinator killed during the rounds.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest

from federation.coordinator.control_client import CoordinatorClient
from federation.errors import FederationError
from tests.studies import raw_ms_pairs, write_raw_ms_study
from tests.tools import REPOSITORY, in_ci, shared_dir
from tests.waiting import wait_for

LIMIT_S = 2400.0  # a machine whose cores are shared may be three times slower than alone


@dataclass(frozen=True, slots=True)
class Size:
    """How much a demonstration does; what it shows is the same.

    Attributes:
        labelled: labelled phantoms per hospital.
        training: of them, how many train at least.
        held_out: of them, how many are held out at least.
        rounds: federated rounds.
        kills: closed rounds after which a node and the coordinator are killed.
        dice: what every hospital's held-out Dice reaches.
        real: names of the real studies of each hospital.
    """

    labelled: int
    training: int
    held_out: int
    rounds: int
    kills: tuple[int, int]
    dice: float
    real: tuple[tuple[str, ...], ...]


SMALL = Size(5, 3, 1, 8, (1, 4), 0.25, (("patient01",), ("nema",)))
FULL = Size(9, 6, 2, 12, (2, 5), 0.40, (("patient01",), ("nema",), ("patient04", "prisma")))


@dataclass(frozen=True, slots=True)
class Shown:
    """A finished demonstration.

    Attributes:
        returncode: of ``clinode demo``.
        outcome: its JSON.
        workdir: everything it left.
        capture: wire messages as serialised.
        report: the HTML file.
        errors: standard error.
        real: whether real studies took part.
        killed: names of the services that were killed.
        size: what was asked for.
    """

    returncode: int
    outcome: dict[str, Any]
    workdir: Path
    capture: Path
    report: Path
    errors: str
    real: bool
    killed: tuple[str, ...]
    size: Size

    def hospital(self, name: str) -> dict[str, Any]:
        """One hospital's part of the JSON."""
        return next(h for h in self.outcome["hospitals"] if h["name"] == name)


def real_folders(root: Path, wanted: tuple[tuple[str, ...], ...]) -> list[Path]:
    """A folder of real studies for each hospital, or none where the data are absent."""
    try:
        pairs = {(p.patient, p.study): p for p in raw_ms_pairs()}
        nema = shared_dir("data", "dicom", "nema_enhanced_brain", "tumour_study")
        prisma = shared_dir("data", "dicom", "siemens_prisma_mprage.tar.xz")
    except pytest.skip.Exception:
        return []
    folders = []
    for number, names in enumerate(wanted):
        folder = root / f"real-{number}"
        folder.mkdir(parents=True)
        for name in names:
            if name == "nema":
                shutil.copytree(nema, folder / "nema")
            elif name == "prisma":
                subprocess.run(["tar", "-xJf", str(prisma), "-C", str(folder)], check=True)
            else:
                write_raw_ms_study(pairs[name, 1], folder / "raw")
        folders.append(folder)
    return folders


def kill_during_rounds(
    workdir: Path, kills: tuple[int, int], killed: list[str], ended: threading.Event
) -> None:
    """SIGKILL a node and, some rounds later, the coordinator."""
    services = (("hospital-b/node", "node run"), ("coordinator", "coordinator run"))
    targets = [(after, *which) for after, which in zip(kills, services, strict=True)]
    home = workdir / "coordinator"
    for after, name, command in targets:

        def reached(after: int = after) -> bool:
            return ended.is_set() or closed_rounds(home) >= after

        wait_for(reached, what=f"round {after}", seconds=LIMIT_S, every=0.25)
        if ended.is_set():
            return
        process = service(workdir / name, command)
        process.send_signal(signal.SIGKILL)
        killed.append(name)


def closed_rounds(home: Path) -> int:
    """Closed training rounds of the only run; -1 before there is one."""
    if not (home / "settings.toml").exists():
        return -1
    try:
        with CoordinatorClient(home, timeout_s=5.0) as client:
            runs = client.runs()
            if not runs:
                return -1
            done = client.run(runs[0]["run_id"])["rounds_done"]
    except FederationError:
        return -1
    return max((r["round"] for r in done if r["state"] == "closed"), default=-1)


def service(home: Path, command: str) -> psutil.Process:
    """The process that runs ``clinode --home HOME COMMAND``."""
    for process in psutil.process_iter(["cmdline"]):
        line = " ".join(process.info["cmdline"] or [])
        if f"--home {home} {command}" in line:
            return process
    raise AssertionError(f"no process runs `{command}` for {home.name}")


@pytest.fixture(
    scope="session",
    params=[
        pytest.param(SMALL, id="small"),
        pytest.param(FULL, id="full", marks=pytest.mark.long),
    ],
)
def shown(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Shown:
    """Run ``clinode demo`` once as a stranger would, with real studies beside the phantoms."""
    size: Size = request.param
    root = tmp_path_factory.mktemp("demo")
    workdir, capture, report = root / "work", root / "capture", root / "demo-report.html"
    real = real_folders(root, size.real)
    command = [
        *(sys.executable, "-m", "appliance.cli", "demo", "--json"),
        *("--rounds", str(size.rounds), "--labelled", str(size.labelled)),
        *("--workdir", str(workdir), "--report", str(report), "--capture", str(capture)),
        *("--pacs", "orthanc" if in_ci() else "auto"),
        *(part for folder in real for part in ("--dicom", str(folder))),
    ]
    killed: list[str] = []
    ended = threading.Event()
    killer = threading.Thread(target=kill_during_rounds, args=(workdir, size.kills, killed, ended))
    killer.start()
    begun = time.monotonic()
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            check=False,
            cwd=REPOSITORY,
            timeout=LIMIT_S,
            env=os.environ | {"CLINODE_DEBUG": "1"},
        )
    finally:
        ended.set()
        killer.join()
    sys.stderr.write(f"clinode demo took {time.monotonic() - begun:.0f} s\n")
    assert done.stdout.strip(), f"no outcome: {done.stderr[-3000:]}"
    return Shown(
        returncode=done.returncode,
        outcome=json.loads(done.stdout),
        workdir=workdir,
        capture=capture,
        report=report,
        errors=done.stderr,
        real=bool(real),
        killed=tuple(killed),
        size=size,
    )
