"""Client of a running node's control API: all that the command line and the terminal UI know.

It imports neither torch nor Textual and opens no database.
"""

from __future__ import annotations

import getpass
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import TypeVar, cast

import grpc

from appliance.control import node_pb2 as pb
from appliance.control.node_pb2_grpc import NodeControlStub
from appliance.control.peers import TICKET_METADATA, fetch_ticket
from appliance.control.socket_path import control_socket
from appliance.errors import ControlError, NotAllowed, NotFound, NotRunning

ACTOR_METADATA = "clinode-actor"
"""Metadata key of the local account's name, which the audit log records."""

DEFAULT_TIMEOUT_S = 20.0

Q = TypeVar("Q")
R = TypeVar("R")


class NodeClient:
    """One connection to a node's control socket.

    Every method sends one request and returns the answer's message; see ``node.proto``.

    Raises:
        NotRunning: nobody listens.
        NotFound: the key names nothing, or more than one item.
        NotAllowed: the item's state forbids the action.
        ControlError: anything else, in words.
    """

    def __init__(
        self, home: Path, *, actor: str | None = None, timeout_s: float = DEFAULT_TIMEOUT_S
    ) -> None:
        """Prepare the connection; nothing is sent yet.

        Args:
            home: the node's home folder.
            actor: the account that the audit log names; default is the local account.
            timeout_s: seconds after which a call is given up.
        """
        self._home = home
        self._timeout_s = timeout_s
        self._metadata = ((ACTOR_METADATA, metadata_text(actor or local_account())),)
        self._channel = grpc.insecure_channel(
            f"unix:{control_socket(home)}", options=(("grpc.enable_http_proxy", 0),)
        )
        self._stub = NodeControlStub(self._channel)

    def __enter__(self) -> NodeClient:
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

    def _call(self, method: Callable[..., R], request: Q, timeout_s: float | None = None) -> R:
        try:
            return method(request, timeout=timeout_s or self._timeout_s, metadata=self._metadata)
        except grpc.RpcError as error:
            raise control_error(error, "node", "clinode node run") from None

    def status(self) -> pb.Status:
        """The node's state at a glance."""
        return self._call(self._stub.GetStatus, pb.StatusRequest())

    def echo(self, pacs: str = "") -> pb.PacsEcho:
        """C-ECHO to the named PACS, or to the first one."""
        return self._call(self._stub.EchoPacs, pb.PacsRequest(pacs=pacs), 60.0)

    def find(self, pacs: str = "", *, reveal: bool = False) -> pb.FindReply:
        """C-FIND by the configured criteria; identifiers stay hidden unless ``reveal``."""
        return self._call(self._stub.FindStudies, pb.FindRequest(pacs=pacs, reveal=reveal), 120.0)

    def pull(self, pacs: str = "", keys: tuple[str, ...] = ()) -> pb.PullReply:
        """Take in the matching studies, or only those with ``keys``."""
        return self._call(self._stub.PullStudies, pb.PullRequest(pacs=pacs, keys=keys), 120.0)

    def studies(self, *, state: str = "", limit: int = 0, offset: int = 0) -> pb.StudyList:
        """The studies, newest change first; ``limit`` 0 means all."""
        request = pb.ListStudiesRequest(state=state, limit=limit, offset=offset)
        return self._call(self._stub.ListStudies, request)

    def study(self, key: str) -> pb.StudyDetail:
        """One study with its stages, QC and results."""
        return self._call(self._stub.ShowStudy, pb.ItemRequest(key=key))

    def study_report(self, key: str) -> pb.Report:
        """Where a study's report for people lies."""
        return self._call(self._stub.ReportStudy, pb.ItemRequest(key=key))

    def dataset_report(self, name: str) -> pb.Report:
        """Draw a data set's report for people and tell where it lies."""
        return self._call(self._stub.ReportDataset, pb.ItemRequest(key=name), 600.0)

    def datasets(self) -> pb.DatasetList:
        """The data sets."""
        return self._call(self._stub.ListDatasets, pb.ListRequest())

    def dataset(self, name: str) -> pb.Dataset:
        """One data set."""
        return self._call(self._stub.ShowDataset, pb.ItemRequest(key=name))

    def create_dataset(self, name: str, tags: tuple[str, ...] = ()) -> pb.Dataset:
        """Make an open data set."""
        return self._call(self._stub.CreateDataset, pb.CreateDatasetRequest(name=name, tags=tags))

    def freeze_dataset(self, name: str, reason: str = "") -> pb.Dataset:
        """Fix a data set's members and its split."""
        request = pb.ActionRequest(key=name, reason=reason)
        return self._call(self._stub.FreezeDataset, request, 120.0)

    def fingerprint(self, name: str) -> pb.DatasetFingerprint:
        """What would leave the site; every image of the data set is read for it."""
        return self._call(self._stub.FingerprintDataset, pb.ItemRequest(key=name), 1800.0)

    def import_labels(self, request: pb.ImportLabelsRequest) -> Iterator[pb.ImportedLabel]:
        """Import a table of masks; gives each row as soon as it is done."""
        try:
            yield from self._stub.ImportLabels(request, metadata=self._metadata)
        except grpc.RpcError as error:
            raise control_error(error, "node", "clinode node run") from None

    def plans(self) -> pb.PlanList:
        """The training plans that were offered."""
        return self._call(self._stub.ListPlans, pb.ListRequest())

    def plan(self, key: str) -> pb.Plan:
        """One plan with the exact bytes that were signed."""
        return self._call(self._stub.ShowPlan, pb.ItemRequest(key=key))

    def runs(self) -> pb.RunList:
        """The federated runs that this site knows of."""
        return self._call(self._stub.ListRuns, pb.ListRequest())

    def models(self) -> pb.ModelList:
        """The models that were offered for inference."""
        return self._call(self._stub.ListModels, pb.ListRequest())

    def model(self, key: str) -> pb.Model:
        """One model."""
        return self._call(self._stub.ShowModel, pb.ItemRequest(key=key))

    def results(self) -> pb.ResultList:
        """The results that were made."""
        return self._call(self._stub.ListResults, pb.ListRequest())

    def result(self, key: str) -> pb.Result:
        """One result."""
        return self._call(self._stub.ShowResult, pb.ItemRequest(key=key))

    def act(
        self, verb: str, key: str, *, reason: str = "", destination: str = ""
    ) -> pb.ActionReply:
        """Do one of the actions in :data:`ACTIONS` on an item."""
        request = pb.ActionRequest(key=key, reason=reason, destination=destination)
        method: Callable[..., pb.ActionReply] = getattr(self._stub, ACTIONS[verb])
        return self._call(method, request, 120.0)

    def identity(self, key: str, *, reason: str) -> pb.Identity:
        """Who a study key or ``sub-<pseudonym>`` is; the kernel tells the node who asks."""
        ticket = ((TICKET_METADATA, fetch_ticket(self._home)),)
        request = pb.ActionRequest(key=key, reason=reason)
        try:
            return self._stub.RevealIdentity(
                request, timeout=self._timeout_s, metadata=(*self._metadata, *ticket)
            )
        except grpc.RpcError as error:
            raise control_error(error, "node", "clinode node run") from None

    def audit(self, limit: int = 100, action: str = "") -> pb.AuditList:
        """The newest audit entries, oldest of them first."""
        return self._call(self._stub.ListAudit, pb.ListAuditRequest(limit=limit, action=action))

    def verify_audit(self) -> pb.AuditVerification:
        """Check the audit log's hash chain."""
        return self._call(self._stub.VerifyAudit, pb.ListRequest(), 120.0)


ACTIONS = {
    "study-retry": "RetryStudy",
    "study-release": "ReleaseStudy",
    "study-reopen": "ReopenStudy",
    "study-withdraw": "WithdrawStudy",
    "patient-withdraw": "WithdrawPatient",
    "dataset-approve": "ApproveDataset",
    "dataset-revoke": "RevokeDataset",
    "plan-approve": "ApprovePlan",
    "plan-reject": "RejectPlan",
    "run-leave": "LeaveRun",
    "runs-halt": "HaltRuns",
    "runs-resume": "ResumeRuns",
    "model-accept": "AcceptModel",
    "model-reject": "RejectModel",
    "result-release": "ReleaseResult",
    "result-hold": "HoldResult",
    "result-send": "SendResult",
}
"""Verb of :meth:`NodeClient.act` to the call that carries it."""


def local_account() -> str:
    """The local account's name, or its number where it has none (containers)."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return f"uid-{os.getuid()}"


def metadata_text(name: str) -> str:
    """The name as gRPC metadata may carry it: printable ASCII, anything else as a question mark.

    >>> metadata_text("jürgen")
    'j?rgen'
    """
    return "".join(c if " " <= c <= "~" else "?" for c in name)


def control_error(error: grpc.RpcError, who: str, start: str) -> ControlError:
    """Map a failed control call to our error, once and completely.

    Args:
        error: what gRPC raised.
        who: ``node`` or ``coordinator``.
        start: the command that starts it.
    """
    # gRPC raises objects that are errors and calls at once, which its stubs cannot express.
    call = cast("grpc.Call", error)
    code = call.code()
    text = call.details() or "no reason was given"
    if code is grpc.StatusCode.UNAVAILABLE:
        return NotRunning(f"no {who} is running on this home folder: start it with `{start}`")
    if code is grpc.StatusCode.NOT_FOUND:
        return NotFound(text)
    if code in (grpc.StatusCode.FAILED_PRECONDITION, grpc.StatusCode.INVALID_ARGUMENT):
        return NotAllowed(text)
    if code is grpc.StatusCode.DEADLINE_EXCEEDED:
        return ControlError(f"the {who} did not answer in time: it is busy or stopped; try again")
    return ControlError(f"the {who} could not do this: {text}")
