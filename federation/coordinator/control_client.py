"""Client of a running coordinator's control API. It loads neither torch nor Textual."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar, cast

import grpc

from federation.coordinator.settings import control_socket
from federation.errors import CoordinatorUnreachable, RunRefused
from federation.plan import Plan, canonical_json, load_plan
from federation.wire import coordinator_pb2 as pb
from federation.wire.coordinator_pb2_grpc import ControlStub

FORMAT = 1
DEFAULT_TIMEOUT_S = 30.0

Q = TypeVar("Q")
R = TypeVar("R")
Document = dict[str, Any]


class CoordinatorClient:
    """One connection to a coordinator's control socket; every method asks one question.

    Args:
        home: the coordinator's home folder.
        timeout_s: seconds after which a call is given up.

    Raises:
        CoordinatorUnreachable: (each method) no coordinator runs on this home.
        RunRefused: (each method) the coordinator refused, in words.
    """

    def __init__(self, home: Path, *, timeout_s: float = DEFAULT_TIMEOUT_S) -> None:
        self._timeout_s = timeout_s
        self._channel = grpc.insecure_channel(
            f"unix:{control_socket(home)}", options=(("grpc.enable_http_proxy", 0),)
        )
        self._stub = ControlStub(self._channel)

    def __enter__(self) -> CoordinatorClient:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection."""
        self._channel.close()

    def status(self) -> Document:
        """The coordinator at a glance."""
        return cast("Document", self._json(self._stub.Status, pb.StatusRequest(format=FORMAT)))

    def add_site(self, name: str, valid_hours: float = 0.0) -> str:
        """Invite a site; gives the token's text, shown this once."""
        request = pb.AddSiteRequest(format=FORMAT, name=name, valid_hours=valid_hours)
        return self._call(self._stub.AddSite, request).token

    def sites(self) -> list[Document]:
        """Every site: name, state, serial, certificate_ends, last_seen, ..."""
        request = pb.ListRequest(format=FORMAT)
        return cast("list[Document]", self._json(self._stub.ListSites, request))

    def revoke_site(self, name: str, reason: str = "") -> Document:
        """Bar a site now."""
        request = pb.RevokeSiteRequest(format=FORMAT, name=name, reason=reason)
        return cast("Document", self._json(self._stub.RevokeSite, request))

    def submit(self, plan: Plan | Path, sites: Sequence[str] = ()) -> Document:
        """Start a run of a plan (or a plan's file) at ``sites``, all enrolled ones where empty."""
        loaded = load_plan(plan) if isinstance(plan, Path) else plan
        request = pb.SubmitRunRequest(
            format=FORMAT, plan_json=canonical_json(loaded), sites=list(sites)
        )
        return cast("Document", self._json(self._stub.SubmitRun, request))

    def runs(self) -> list[Document]:
        """Every run in one line."""
        request = pb.ListRequest(format=FORMAT)
        return cast("list[Document]", self._json(self._stub.ListRuns, request))

    def run(self, run_id: str) -> Document:
        """Everything about a run: sites, rounds, times, metrics."""
        request = pb.RunRequest(format=FORMAT, run_id=run_id)
        return cast("Document", self._json(self._stub.ShowRun, request))

    def pause(self, run_id: str, reason: str = "", *, recall: bool = False) -> Document:
        """Hand no further tasks out; with ``recall`` also end those that the sites work at."""
        request = pb.RunRequest(format=FORMAT, run_id=run_id, reason=reason, recall=recall)
        return cast("Document", self._json(self._stub.PauseRun, request))

    def resume(self, run_id: str) -> Document:
        """Go on with a paused run."""
        request = pb.RunRequest(format=FORMAT, run_id=run_id)
        return cast("Document", self._json(self._stub.ResumeRun, request))

    def stop(self, run_id: str, reason: str = "") -> Document:
        """End a run."""
        request = pb.RunRequest(format=FORMAT, run_id=run_id, reason=reason)
        return cast("Document", self._json(self._stub.StopRun, request))

    def invite(self, run_id: str, site: str) -> Document:
        """Invite a site to a run under way; it joins at the next round."""
        request = pb.InviteSiteRequest(format=FORMAT, run_id=run_id, site=site)
        return cast("Document", self._json(self._stub.InviteSite, request))

    def amend(
        self, run_id: str, *, learning_rate: float | None = None, rounds: int | None = None
    ) -> Document:
        """Change the learning rate or the number of rounds of a run under way."""
        request = pb.AmendRunRequest(
            format=FORMAT, run_id=run_id, learning_rate=learning_rate or 0.0, rounds=rounds or 0
        )
        return cast("Document", self._json(self._stub.AmendRun, request))

    def first(self, run_id: str) -> Document:
        """Put a run before all others in the queue."""
        request = pb.RunRequest(format=FORMAT, run_id=run_id)
        return cast("Document", self._json(self._stub.MoveFirst, request))

    def watch(self, run_id: str, offset: int = 0, wait_s: float = 10.0) -> Document:
        """What happened to a run since ``offset``: events, the new offset, the run's line.

        Waits ``wait_s`` seconds at most (20 is the coordinator's limit) for something new.
        """
        request = pb.WatchRunRequest(
            format=FORMAT, run_id=run_id, offset=offset, wait_seconds=wait_s
        )
        return cast("Document", self._json(self._stub.WatchRun, request, wait_s + 30.0))

    def export(self, run_id: str, folder: Path) -> Document:
        """Copy the finished model, plan and numbers to a new folder."""
        path = str(folder.absolute())
        request = pb.ExportRunRequest(format=FORMAT, run_id=run_id, folder=path)
        return cast("Document", self._json(self._stub.ExportRun, request, 300.0))

    def audit(self, count: int = 50) -> list[Document]:
        """The newest audit entries, oldest of them first."""
        request = pb.TailAuditRequest(format=FORMAT, count=count)
        return cast("list[Document]", self._json(self._stub.TailAudit, request))

    def verify_audit(self) -> Document:
        """Follow the audit log's chain: ok, entries, last_hash, words."""
        request = pb.ListRequest(format=FORMAT)
        return cast("Document", self._json(self._stub.VerifyAudit, request, 300.0))

    def _json(
        self, method: Callable[..., pb.JsonReply], request: Q, timeout_s: float | None = None
    ) -> object:
        return json.loads(self._call(method, request, timeout_s).json)

    def _call(self, method: Callable[..., R], request: Q, timeout_s: float | None = None) -> R:
        try:
            return method(request, timeout=timeout_s or self._timeout_s)
        except grpc.RpcError as error:
            # gRPC raises objects that are errors and calls at once: its stubs cannot express it.
            call = cast("grpc.Call", error)
            if call.code() is grpc.StatusCode.UNAVAILABLE:
                raise CoordinatorUnreachable(
                    "no coordinator is running on this home folder: start it with "
                    "`clinode coordinator run`"
                ) from None
            raise RunRefused(call.details() or "the coordinator gave no reason") from None
