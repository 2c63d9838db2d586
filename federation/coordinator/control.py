"""The control API ``clinode.coordinator.v1`` on a Unix socket that only its owner can open."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any

import grpc

from federation.audit_chain import tail, verify
from federation.clock import stamp
from federation.coordinator.front import TlsFront
from federation.coordinator.runs import Runs
from federation.coordinator.settings import CoordinatorSettings
from federation.errors import FederationError, PlanRefused, RunRefused
from federation.plan import parse_plan
from federation.wire import coordinator_pb2 as pb
from federation.wire.coordinator_pb2_grpc import ControlServicer, add_ControlServicer_to_server

FORMAT = 1
MAX_AUDIT = 1000
WORKERS = 16
"""Threads of the control server: whoever watches a run holds one."""


def bind_control(service: ControlServicer, path: Path) -> grpc.Server:
    """Serve the control API at ``path``; gives the started server."""
    path.unlink(missing_ok=True)
    server = grpc.server(ThreadPoolExecutor(WORKERS, thread_name_prefix="control"))
    add_ControlServicer_to_server(service, server)
    before = os.umask(0o177)
    try:
        server.add_insecure_port(f"unix:{path}")
    finally:
        os.umask(before)
    server.start()
    return server


class ControlService(ControlServicer):
    """Answers the data scientist's commands.

    Args:
        runs: does what they ask.
        settings: the coordinator's settings.
        front: loses the connections of a revoked site.
    """

    def __init__(self, runs: Runs, settings: CoordinatorSettings, front: TlsFront) -> None:
        self._runs = runs
        self._settings = settings
        self._front = front

    def Status(
        self,
        request: pb.StatusRequest,  # noqa: ARG002 - the service's form
        context: grpc.ServicerContext,
    ) -> pb.JsonReply:
        """The coordinator at a glance."""
        return _answer(context, self._runs.status)

    def AddSite(self, request: pb.AddSiteRequest, context: grpc.ServicerContext) -> pb.AddSiteReply:
        """Invite a site; the token is shown this once."""
        try:
            token = self._runs.add_site(request.name, request.valid_hours)
        except FederationError as error:
            _abort(context, error)
        return pb.AddSiteReply(format=FORMAT, token=token.to_text(), expires=stamp(token.expires))

    def ListSites(
        self,
        request: pb.ListRequest,  # noqa: ARG002 - the service's form
        context: grpc.ServicerContext,
    ) -> pb.JsonReply:
        """Every site."""
        return _answer(context, self._runs.sites)

    def RevokeSite(
        self, request: pb.RevokeSiteRequest, context: grpc.ServicerContext
    ) -> pb.JsonReply:
        """Bar a site now."""

        def _revoke() -> dict[str, Any]:
            view = self._runs.revoke_site(request.name, request.reason)
            self._front.drop(request.name)
            return view

        return _answer(context, _revoke)

    def SubmitRun(
        self, request: pb.SubmitRunRequest, context: grpc.ServicerContext
    ) -> pb.JsonReply:
        """Start a run of a plan."""

        def _submit() -> dict[str, Any]:
            run_id = self._runs.submit(parse_plan(request.plan_json), tuple(request.sites))
            return self._runs.show(run_id)

        return _answer(context, _submit)

    def ListRuns(
        self,
        request: pb.ListRequest,  # noqa: ARG002 - the service's form
        context: grpc.ServicerContext,
    ) -> pb.JsonReply:
        """Every run."""
        return _answer(context, self._runs.all)

    def ShowRun(self, request: pb.RunRequest, context: grpc.ServicerContext) -> pb.JsonReply:
        """Everything about a run."""
        return _answer(context, lambda: self._runs.show(request.run_id))

    def PauseRun(self, request: pb.RunRequest, context: grpc.ServicerContext) -> pb.JsonReply:
        """Pause a run."""
        run_id, reason, recall = request.run_id, request.reason, request.recall
        return _answer(context, lambda: self._runs.pause(run_id, reason, recall=recall))

    def ResumeRun(self, request: pb.RunRequest, context: grpc.ServicerContext) -> pb.JsonReply:
        """Go on with a paused run."""
        return _answer(context, lambda: self._runs.resume(request.run_id))

    def StopRun(self, request: pb.RunRequest, context: grpc.ServicerContext) -> pb.JsonReply:
        """End a run."""
        return _answer(context, lambda: self._runs.stop(request.run_id, request.reason))

    def InviteSite(
        self, request: pb.InviteSiteRequest, context: grpc.ServicerContext
    ) -> pb.JsonReply:
        """Invite a site to a run under way."""
        return _answer(context, lambda: self._runs.invite(request.run_id, request.site))

    def AmendRun(self, request: pb.AmendRunRequest, context: grpc.ServicerContext) -> pb.JsonReply:
        """Change the learning rate or the number of rounds of a run under way."""
        return _answer(
            context,
            lambda: self._runs.amend(
                request.run_id,
                learning_rate=request.learning_rate or None,
                rounds=request.rounds or None,
            ),
        )

    def MoveFirst(self, request: pb.RunRequest, context: grpc.ServicerContext) -> pb.JsonReply:
        """Put a run before all others in the queue."""
        return _answer(context, lambda: self._runs.first(request.run_id))

    def WatchRun(self, request: pb.WatchRunRequest, context: grpc.ServicerContext) -> pb.JsonReply:
        """What happened to a run since the last call; waits for something new."""
        run_id, offset, wait_s = request.run_id, request.offset, request.wait_seconds
        return _answer(context, lambda: self._runs.watch(run_id, offset, wait_s))

    def ExportRun(
        self, request: pb.ExportRunRequest, context: grpc.ServicerContext
    ) -> pb.JsonReply:
        """Copy the finished model out."""
        folder = Path(request.folder)
        return _answer(context, lambda: self._runs.export(request.run_id, folder))

    def TailAudit(
        self, request: pb.TailAuditRequest, context: grpc.ServicerContext
    ) -> pb.JsonReply:
        """The newest audit entries, oldest of them first."""
        count = min(request.count or 50, MAX_AUDIT)
        path = self._runs.audit.path
        return _answer(context, lambda: [asdict(entry) for entry in tail(path, count)])

    def VerifyAudit(
        self,
        request: pb.ListRequest,  # noqa: ARG002 - the service's form
        context: grpc.ServicerContext,
    ) -> pb.JsonReply:
        """Follow the audit log's chain."""
        return _answer(context, lambda: asdict(verify(self._runs.audit.path)))


def _abort(context: grpc.ServicerContext, error: FederationError) -> None:
    code = grpc.StatusCode.FAILED_PRECONDITION
    if isinstance(error, PlanRefused):
        code = grpc.StatusCode.INVALID_ARGUMENT
    elif isinstance(error, RunRefused) and "begin like that" in str(error):
        code = grpc.StatusCode.NOT_FOUND
    context.abort(code, str(error))


def _answer(context: grpc.ServicerContext, make: Callable[[], Any]) -> pb.JsonReply:
    try:
        value = make()
    except FederationError as error:
        _abort(context, error)
    return pb.JsonReply(format=FORMAT, json=json.dumps(value))
