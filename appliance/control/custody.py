"""Calls that touch identity: look-up by a custodian, withdrawal, reopening. Each is audited."""

from __future__ import annotations

from collections.abc import Mapping

import grpc

from appliance.control import node_pb2 as pb
from appliance.control.operations import NodeOperations
from appliance.control.peers import TICKET_METADATA, Custodians
from appliance.errors import NotAllowed
from appliance.store import NodeState
from federation.audit_chain import AuditChain
from federation.canonical import JSON

SUBJECT = "sub-"


class Custody:
    """The custodian's calls.

    Args:
        state: the node's state.
        audit: the node's audit log.
        operations: the verbs of the running node.
        custodians: who may see identities; None admits nobody.
    """

    def __init__(
        self,
        state: NodeState,
        audit: AuditChain,
        operations: NodeOperations,
        custodians: Custodians | None,
    ) -> None:
        self._state = state
        self._audit = audit
        self._operations = operations
        self._custodians = custodians

    def reveal(self, request: pb.ActionRequest, context: grpc.ServicerContext) -> pb.Identity:
        """Who a study key or a pseudonym is; the look-up is in the audit log before the answer.

        Raises:
            NotAllowed: no reason, or not a custodian.
            NotFound: no such study.
            VaultError: the vault knows nothing of it.
        """
        if not request.reason.strip():
            raise NotAllowed("say why with --reason: the look-up is written to the audit log")
        key = self.study_key(request.key)
        person = self._admit(context, key)
        view = self._operations.identity(key)
        self._audit.append(person, "identity.revealed", key, {"reason": request.reason})
        study = view.study
        return pb.Identity(
            key=key,
            pacs=view.pacs,
            patient_name=study.PatientName,
            patient_id=study.PatientID,
            issuer=study.IssuerOfPatientID,
            birth_date=study.PatientBirthDate,
            sex=study.PatientSex,
            study_date=study.StudyDate,
            accession=study.AccessionNumber,
            study_uid=study.StudyInstanceUID,
            description=study.StudyDescription,
        )

    def study_key(self, text: str) -> str:
        """The study that is meant: its key or the beginning of it, or ``sub-<pseudonym>``.

        Raises:
            NotFound: nothing or several are meant.
        """
        if not text.startswith(SUBJECT):
            return self._state.studies.resolve(text)
        studies = self._state.studies.of_subject(text.removeprefix(SUBJECT))
        return studies[0].study_key

    def withdraw_patient(self, request: pb.ActionRequest, actor: str) -> pb.ActionReply:
        """Erase everything of a study's patient."""
        key = self.study_key(request.key)
        gone = self._operations.withdraw_patient(key, reason=request.reason)
        detail: dict[str, JSON] = {"studies": gone.studies, "reason": request.reason}
        self._audit.append(actor, "patient.withdrawn", key, detail)
        self._operations.wake()
        return pb.ActionReply(key=key, state="withdrawn", message=gone.words)

    def _admit(self, context: grpc.ServicerContext, key: str) -> str:
        metadata: Mapping[str, str | bytes] = dict(context.invocation_metadata())
        ticket = metadata.get(TICKET_METADATA, "")
        try:
            if self._custodians is None:
                raise NotAllowed("this node answers no look-ups")
            return self._custodians.admit(ticket if isinstance(ticket, str) else "")
        except NotAllowed as error:
            self._audit.append("node", "identity.refused", key, {"reason": str(error)})
            raise
