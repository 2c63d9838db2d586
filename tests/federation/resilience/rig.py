"""A federation of real processes that a scenario disturbs, and what it measures of it."""

# ruff: noqa: ANN401 - what gRPC and JSON give has no narrower type
from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from federation.coordinator.control_client import CoordinatorClient
from federation.coordinator.settings import load_settings
from federation.errors import CoordinatorUnreachable, RunRefused
from federation.plan import Plan
from tests.federation.doubles import make_home, small_plan
from tests.federation.resilience.network import HOST, Network
from tests.federation.resilience.nursery import Life, Nursery, Supervised
from tests.federation.resilience.relay import Relay
from tests.waiting import wait_for

OVER = ("finished", "failed", "stopped")


@dataclass(frozen=True, slots=True)
class RigOptions:
    """How a rig is made.

    Attributes:
        sites: their names and training cases.
        elements: numbers in the model.
        network: real links in place of the relays.
        settings: of the coordinator.
        environment: variables of a process: ``coordinator`` or a site's name.
        trainer: ``real`` for the trainer process, else the numpy stand-in.
        longest_s: longest pause between two tries of a site.
    """

    sites: Mapping[str, int] = field(default_factory=lambda: {"site-a": 3, "site-b": 4})
    elements: int = 1000
    network: Network | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    environment: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    trainer: str = ""
    longest_s: float = 1.0


class Rig:
    """A coordinator and its sites, each a process that is started again when it ends.

    Args:
        folder: everything lies below it.
        nursery: starts the processes.
        options: see :class:`RigOptions`.
    """

    def __init__(self, folder: Path, nursery: Nursery, options: RigOptions | None = None) -> None:
        self.folder = folder
        self.options = options or RigOptions()
        self._nursery = nursery
        self._network = self.options.network
        settings = {"patience_s": 3600.0, **self.options.settings}
        if self._network is not None:
            settings["host"] = HOST
        folder.mkdir(parents=True, exist_ok=True)
        self.home = make_home(folder / "coordinator", **settings)
        self.settings = load_settings(self.home / "settings.toml")
        self.coordinator = Supervised(self._start_coordinator)
        self.control = CoordinatorClient(self.home, timeout_s=5)
        self.relays: dict[str, Relay] = {}
        self.agents: dict[str, Supervised] = {}
        wait_for(lambda: self.asked(self.control.status), what="the coordinator", seconds=120)
        for name in self.options.sites:
            self.enrol(name)
            self.start(name)

    # -- processes

    def trace_folder(self, who: str) -> Path:
        """Where a process's trace lies: ``coordinator`` or a site's name."""
        return self.folder / "traces" / who

    def _start_coordinator(self, ended: Callable[[Life], None]) -> Life:
        network = self._network
        return self._nursery.start(
            "coordinator",
            {
                "home": str(self.home),
                "trace": str(self.trace_folder("coordinator")),
                "elements": self.options.elements,
                "trainer": self.options.trainer,
            },
            self.folder / "coordinator.log",
            namespace=network.coordinator if network is not None else "",
            environment=self.options.environment.get("coordinator"),
            whenever=ended,
        )

    def enrol(self, name: str) -> None:
        """Enrol a site by a process of its own, in the site's namespace."""
        site = self.folder / name
        site.mkdir(exist_ok=True)
        life = self._nursery.start(
            "enrol",
            {"token": self.control.add_site(name), "keys": str(site / "keys"), "name": name},
            self.folder / f"{name}.log",
            namespace=self._space(name),
        )
        life.over.wait(30)
        assert life.status == 0, (self.folder / f"{name}.log").read_text()
        if self._network is None:
            target = (self.settings.host, self.settings.federation_port)
            # A Unix socket's path must be short: it lies beside the control socket.
            short = hashlib.sha256(str(site).encode()).hexdigest()[:12]
            self.relays[name] = Relay(target, Path(control_folder()) / f"{short}.relay")

    def start(self, name: str) -> None:
        """Start an enrolled site's agent."""
        relay = self.relays.get(name)
        config = {
            "folder": str(self.folder / name),
            "keys": str(self.folder / name / "keys"),
            "name": name,
            "cases": self.options.sites.get(name, 1),
            "trace": str(self.trace_folder(name)),
            "address": relay.address if relay is not None else "",
            "trainer": self.options.trainer,
            "longest_s": self.options.longest_s,
        }
        self.agents[name] = Supervised(
            lambda ended: self._nursery.start(
                "agent",
                config,
                self.folder / f"{name}.log",
                namespace=self._space(name),
                environment=self.options.environment.get(name),
                whenever=ended,
            )
        )

    def _space(self, name: str) -> str:
        return self._network.sites[name] if self._network is not None else ""

    def process(self, who: str) -> Supervised:
        """A process by name."""
        return self.coordinator if who == "coordinator" else self.agents[who]

    def close(self) -> None:
        """End everything; nothing is removed from the folders."""
        self.control.close()
        for life in (*self.agents.values(), self.coordinator):
            life.close()
        for relay in self.relays.values():
            relay.close()

    # -- asking

    def asked(self, question: Callable[[], Any]) -> Any:
        """An answer, or None while there is no coordinator."""
        try:
            return question()
        except CoordinatorUnreachable:
            return None

    def insist(self, act: Callable[[], Any], done: Callable[[], bool], what: str) -> None:
        """Ask a coordinator that may die meanwhile until it has done it."""

        def _tried() -> bool:
            try:
                if done():
                    return True
                act()
            except (CoordinatorUnreachable, RunRefused):
                return False
            return False

        wait_for(_tried, what=what, seconds=60)

    def submit(self, name: str, plan: Plan | None = None, rounds: int = 2) -> str:
        """Submit a run of this name; gives its id."""
        made = (plan or small_plan(rounds)).model_copy(update={"name": name})

        def _there() -> list[str]:
            return [str(run["run_id"]) for run in self.control.runs() if run["name"] == name]

        self.insist(lambda: self.control.submit(made), lambda: bool(_there()), f"{name} to be kept")
        found = wait_for(lambda: self.asked(_there), what=f"run {name}")
        return str(found[0])

    def view(self, run_id: str) -> dict[str, Any]:
        """What `run show` shows; empty while there is no coordinator."""
        return self.asked(lambda: self.control.run(run_id)) or {}

    def finished(self, run_id: str, seconds: float = 120.0) -> dict[str, Any]:
        """The run once it is over."""

        def _over() -> dict[str, Any] | None:
            found = self.view(run_id)
            return found if found.get("state") in OVER else None

        return wait_for(_over, what=f"run {run_id} to end", seconds=seconds)

    def told(self, run_id: str, *parts: str, seconds: float = 60.0) -> str:
        """Wait for words in `run show` that hold all parts; gives them."""

        def _words() -> str:
            for text in all_words(self.view(run_id)):
                if all(part in text for part in parts):
                    return text
            return ""

        return wait_for(_words, what=f"words with {parts} in run show", seconds=seconds)

    # -- measuring

    def model(self, run_id: str) -> str:
        """SHA-256 of the finished model's file."""
        path = self.home / "runs" / run_id / "model" / "weights.safetensors"
        return hashlib.sha256(path.read_bytes()).hexdigest() if path.exists() else ""

    def trainings(self, name: str) -> int:
        """How many trainings all sites have begun in the run of this name."""
        count = 0
        for site in self.agents:
            path = self.folder / site / "trainings.log"
            lines = path.read_text().splitlines() if path.exists() else []
            count += sum(line.split()[0] == name for line in lines)
        return count

    def carried(self) -> int:
        """Bytes that have passed all lines."""
        if self._network is not None:
            return sum(self._network.carried(site) for site in self.agents)
        return sum(relay.carried for relay in self.relays.values())

    def arm(self, who: str, point: str) -> None:
        """Let a process die at a point, once."""
        folder = self.trace_folder(who)
        part = folder / "kill.part"
        part.write_text(point)
        part.replace(folder / "kill")

    def lose(self, site: str, method: str, side: str, how: str) -> None:
        """Lose the next message of this kind between the site and the coordinator."""
        folder = self.trace_folder("coordinator" if side == "reply" else site)
        wanted = {"method": method, "side": side, "how": how}
        wanted["relay"] = str(self.relays[site].control)
        part = folder / "lose.part"
        part.write_text(json.dumps(wanted))
        part.replace(folder / "lose")

    def script(self, site: str, rounds: Mapping[int, Mapping[str, Any]]) -> None:
        """How a site behaves in each round from now on."""
        path = self.folder / site / "script.json"
        path.write_text(json.dumps({str(number): dict(rounds[number]) for number in rounds}))

    def trace(self, who: str) -> list[tuple[float, str]]:
        """A process's trace: monotonic time and point."""
        try:
            text = (self.trace_folder(who) / "trace").read_text()
        except FileNotFoundError:
            return []
        lines = [line.partition(" ") for line in text.splitlines()]
        return [(float(at), point) for at, _, point in lines if point]

    def moment(self, who: str, beginning: str, after: float = 0.0) -> float:
        """When a point that begins like this was traced first after a time; 0 if never."""
        times = (t for t, point in self.trace(who) if t > after and point.startswith(beginning))
        return next(times, 0.0)

    def progress(self, who: Sequence[str], after: float) -> float | None:
        """Seconds from ``after`` to the first step that one of these processes took."""
        times = [
            at
            for one in who
            for at, point in self.trace(one)
            if at > after and not point.startswith(("life", "killed", "lost", "words"))
        ]
        return min(times) - after if times else None

    def leftovers(self) -> list[str]:
        """Unfinished files at the coordinator after everything is over."""
        return [path.name for path in (self.home / "objects").rglob("*.part*") if path.is_file()]


def all_words(found: Any) -> list[str]:
    """Every text in a document, with the texts below it."""
    if isinstance(found, str):
        return [found]
    if isinstance(found, Mapping):
        return [text for value in found.values() for text in all_words(value)]
    if isinstance(found, list | tuple):
        return [text for value in found for text in all_words(value)]
    return []


def control_folder() -> str:
    """The folder of control sockets: short paths, for this account only."""
    import os

    return os.environ["XDG_RUNTIME_DIR"]


def now() -> float:
    """The clock of the traces."""
    return time.monotonic()
