"""What the terminal shows at one instant: answers of the control API, and how old they are."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Protocol

from appliance.control import node_pb2 as pb
from appliance.control.client import NodeClient
from appliance.errors import ApplianceError


@dataclass(frozen=True, slots=True)
class Snapshot:
    """One look at the node.

    Attributes:
        taken: monotonic seconds of the last look that succeeded; None before the first.
        problem: why the newest look failed, in words; empty when it did not.
    """

    status: pb.Status = field(default_factory=pb.Status)
    studies: tuple[pb.Study, ...] = ()
    plans: tuple[pb.Plan, ...] = ()
    runs: tuple[pb.Run, ...] = ()
    models: tuple[pb.Model, ...] = ()
    results: tuple[pb.Result, ...] = ()
    datasets: tuple[pb.Dataset, ...] = ()
    taken: float | None = None
    problem: str = ""


class NodeSource(Protocol):
    """Where snapshots and details come from, and where actions go."""

    def look(self, before: Snapshot, now: float) -> Snapshot:
        """A new snapshot; on failure the one before with the problem in it."""
        ...

    def detail(self, key: str) -> pb.StudyDetail:
        """One study in full."""
        ...

    def plan(self, key: str) -> pb.Plan:
        """One plan in full."""
        ...

    def act(self, verb: str, key: str, reason: str) -> str:
        """Do an action; returns what happened in words."""
        ...


class ControlSource:
    """The running node's control API."""

    def __init__(self, home: Path) -> None:
        """Prepare the client.

        Args:
            home: the node's home folder.
        """
        self._client = NodeClient(home)

    def look(self, before: Snapshot, now: float) -> Snapshot:
        """Ask for everything that the screens list."""
        try:
            return Snapshot(
                status=self._client.status(),
                studies=tuple(self._client.studies().studies),
                plans=tuple(self._client.plans().plans),
                runs=tuple(self._client.runs().runs),
                models=tuple(self._client.models().models),
                results=tuple(self._client.results().results),
                datasets=tuple(self._client.datasets().datasets),
                taken=now,
            )
        except ApplianceError as error:
            return replace(before, problem=str(error))

    def detail(self, key: str) -> pb.StudyDetail:
        """One study in full."""
        return self._client.study(key)

    def plan(self, key: str) -> pb.Plan:
        """One plan in full."""
        return self._client.plan(key)

    def act(self, verb: str, key: str, reason: str) -> str:
        """Do an action."""
        return self._client.act(verb, key, reason=reason).message
