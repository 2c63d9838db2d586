"""Memory and restarts with models that matter: real processes, anonymous memory seen from outside.

The coordinator needs at most twice the model and 300 MB, however many sites; a node twice the model
beyond its trainer. Anonymous memory is what ``/proc/<pid>/smaps_rollup`` calls so (proc(5)): pages
of mapped files are the system's cache and go when somebody else needs the room.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from federation.chunks import CHUNK_BYTES
from federation.coordinator.control_client import CoordinatorClient
from federation.enrolment.client import enrol
from federation.errors import CoordinatorUnreachable
from federation.node.agent import AgentOptions, SiteAgent
from federation.node.connection import CoordinatorConnection, RetryPolicy
from federation.tensorfile import open_tensors
from tests.federation.doubles import make_home, small_plan
from tests.federation.large import LargeSite, write_model
from tests.tools import REPOSITORY
from tests.waiting import wait_for

MEGA = 1_000_000


def anonymous(pid: int) -> int:
    """Anonymous bytes of a process."""
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Anonymous:"):
                return int(line.split()[1]) * 1024
    return 0


class Watched:
    """A process of :mod:`tests.federation.large` and the most memory that it was seen with."""

    def __init__(self, *args: str) -> None:
        self._command = [sys.executable, "-m", "tests.federation.large", *args]
        self.peak = 0
        self._over = threading.Event()
        self.process = self._start()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def _start(self) -> subprocess.Popen[bytes]:
        return subprocess.Popen(self._command, cwd=REPOSITORY)

    def _watch(self) -> None:
        while not self._over.wait(0.05):
            self.peak = max(self.peak, anonymous(self.process.pid))

    def kill_and_revive(self) -> None:
        """SIGKILL, and another life."""
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()
        self.process = self._start()

    def close(self) -> None:
        """End it."""
        self._over.set()
        self._thread.join()
        self.process.kill()
        self.process.wait()


@contextlib.contextmanager
def coordinator(home: Path, size: int) -> Iterator[tuple[Watched, CoordinatorClient]]:
    """A coordinator in a process of its own, once it answers."""
    made = Watched("coordinator", str(home), str(size))
    try:
        with CoordinatorClient(home) as control:
            wait_for(lambda: _answers(control), what="the coordinator", seconds=200)
            yield made, control
    finally:
        made.close()


def _answers(control: CoordinatorClient) -> bool:
    try:
        control.runs()
    except CoordinatorUnreachable:
        return False
    return True


def _finished(control: CoordinatorClient, run_id: str, seconds: float) -> dict[str, Any]:
    def over() -> dict[str, Any] | None:
        try:
            view = control.run(run_id)
        except CoordinatorUnreachable:
            return None
        return view if view["state"] in ("finished", "failed", "stopped") else None

    view = wait_for(over, what="the run to end", seconds=seconds)
    assert view["state"] == "finished", view["words"]
    return view


def _peak_with(folder: Path, sites: int, size: int) -> int:
    """The coordinator's peak in a run of so many sites, which are threads of this process."""
    home = make_home(folder / "coordinator", patience_s=600.0)
    stop, threads = threading.Event(), []
    with coordinator(home, size) as (process, control):
        for number in range(sites):
            name = f"site-{number:02d}"
            (folder / name).mkdir()
            site = LargeSite(name, folder / name)
            identity = enrol(control.add_site(name), folder / name / "keys", name)
            link = CoordinatorConnection(identity, retry=RetryPolicy(first_s=0.1, longest_s=0.5))
            agent = SiteAgent(link, site, AgentOptions(trainers=site.trainer))
            threads.append(threading.Thread(target=agent.run, args=(stop,), daemon=True))
            threads[-1].start()
        run_id = control.submit(small_plan(1, minimum_sites=sites))["run_id"]
        view = _finished(control, run_id, 200)
        stop.set()
        for thread in threads:
            thread.join(20)
    assert len(view["rounds_done"][1]["sites"]) == sites
    shutil.rmtree(folder)
    sys.stdout.write(f"{sites} sites: peak {process.peak / MEGA:.0f} MB\n")
    return process.peak


@pytest.mark.integration
@pytest.mark.timeout(300)
def test_coordinators_memory_does_not_grow_with_the_sites(tmp_path: Path, runtime: None) -> None:
    size = 32 * MEGA
    peaks = {sites: _peak_with(tmp_path / f"{sites}", sites, size) for sites in (3, 12)}
    assert all(0 < peak <= 2 * size + 300 * MEGA for peak in peaks.values()), peaks
    assert peaks[12] - peaks[3] < 80 * MEGA, peaks


@pytest.fixture
def roomy(tmp_path: Path) -> Iterator[Path]:
    """A folder that is emptied at once: what lies in it is too large to be kept."""
    yield tmp_path
    shutil.rmtree(tmp_path, ignore_errors=True)


@pytest.mark.long
@pytest.mark.timeout(900)
def test_four_gibibytes_and_a_restart_of_either_side(roomy: Path, runtime: None) -> None:
    tmp_path, size = roomy, 4 << 30
    if shutil.disk_usage(tmp_path).free < 8 * size:
        pytest.skip(f"needs {8 * size >> 30} GiB of free disk")
    home = make_home(tmp_path / "coordinator")
    folder = tmp_path / "site-a"
    folder.mkdir()
    with coordinator(home, size) as (server, control):
        enrol(control.add_site("site-a"), folder / "keys", "site-a")
        node = Watched("node", str(folder), "site-a")
        try:
            run_id = control.submit(small_plan(1, minimum_sites=1, deadline_s=3000))["run_id"]
            parts = folder / "runs" / run_id / "agent" / "objects"
            wait_for(lambda: _part(parts) > size // 8, what="a part of the model", seconds=120)
            node.kill_and_revive()
            incoming = home / "objects" / "incoming" / "site-a"
            wait_for(lambda: _part(incoming) > size // 8, what="part of the update", seconds=300)
            server.kill_and_revive()
            view = _finished(control, run_id, 300)
        finally:
            node.close()
    trained = view["rounds_done"][1]["sites"][0]
    # What had arrived was not sent again, in either direction.
    assert trained["times"]["uploaded_bytes"] < size + 8 * CHUNK_BYTES
    write_model(size, tmp_path / "expected")
    _one_half_more(tmp_path / "expected", home / "runs" / run_id / "model" / "weights.safetensors")
    sys.stdout.write(
        f"peaks: coordinator {server.peak / MEGA:.0f} MB, node {node.peak / MEGA:.0f} MB\n"
    )
    # Far below what is allowed: neither side ever holds a tensor.
    assert server.peak < 500 * MEGA
    assert node.peak < 500 * MEGA


def _part(folder: Path) -> int:
    return max((os.stat(path).st_size for path in folder.glob("*.part")), default=0)


def _one_half_more(before: Path, after: Path) -> None:
    one, two = open_tensors(before), open_tensors(after)
    for name in one.tensors:
        old, new = one.flat(name), two.flat(name)
        for at in range(0, len(old), 1 << 22):
            part = slice(at, at + (1 << 22))
            assert np.array_equal(new[part], old[part] + np.float32(0.5))
