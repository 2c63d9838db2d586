"""Storage commitment by the push model (PS3.4 Annex J): the request, and reports to it.

The PACS may report on the association of the request, or hours later on one that it opens to our
receiver; only the second is always supported. So the request waits a moment for the first, and the
receiver passes what comes later to :func:`report_of`.
"""

from __future__ import annotations

import time
from collections.abc import Mapping

from pydicom.dataset import Dataset
from pydicom.uid import UID
from pynetdicom import build_context, build_role
from pynetdicom.association import Association
from pynetdicom.dimse_primitives import N_EVENT_REPORT
from pynetdicom.dsutils import decode

from dicom_bridge.errors import DataRefused, PeerFailure, SettingsRefused
from dicom_bridge.net.association import Extras, Link, associate, lost
from dicom_bridge.net.model import CommitmentReport, CommitmentRequest
from dicom_bridge.net.stack import STORAGE_COMMITMENT, STORAGE_COMMITMENT_INSTANCE
from dicom_bridge.net.words import describe_status

REQUEST_ACTION = 1
"""Action Type ID of a request (PS3.4 Table J.3-1)."""

EVENTS = frozenset({1, 2})
"""Event Type IDs of a report: everything is committed, or failures exist (PS3.4 Table J.3-2)."""

MOST_INSTANCES = 10_000
"""More instances than this in one request or report are refused: memory stays bounded."""

PROCESSING_FAILURE = 0x0110
_LOOK_EVERY_S = 0.2


def request_of(request: CommitmentRequest) -> Dataset:
    """The Action Information of a request (PS3.4 Table J.3-1).

    Raises:
        SettingsRefused: it names no instance, or more than :data:`MOST_INSTANCES`.
    """
    if not 1 <= len(request.sop_classes) <= MOST_INSTANCES:
        raise SettingsRefused(
            f"storage commitment: {len(request.sop_classes)} instances in one request; "
            f"ask for 1 to {MOST_INSTANCES}"
        )
    information = Dataset()
    information.TransactionUID = request.transaction_uid
    items = []
    for sop_uid, sop_class in sorted(request.sop_classes.items()):
        item = Dataset()
        item.ReferencedSOPClassUID = sop_class
        item.ReferencedSOPInstanceUID = sop_uid
        items.append(item)
    information.ReferencedSOPSequence = items
    return information


def report_of(information: Dataset) -> CommitmentReport:
    """A report from the Event Information of an N-EVENT-REPORT (PS3.4 Table J.3-2).

    An instance that is named as committed and as failed counts as failed.

    Raises:
        DataRefused: the information is no report; nothing in it may be relied on.
    """
    transaction = str(information.get("TransactionUID") or "").strip("\0 ")
    if not transaction:
        raise DataRefused("a storage commitment report without a transaction UID; ignored")
    committed = _uids(information, "ReferencedSOPSequence")
    failed = _uids(information, "FailedSOPSequence")
    return CommitmentReport(transaction, frozenset(set(committed) - set(failed)), failed)


def _uids(information: Dataset, keyword: str) -> dict[str, int]:
    items = information.get(keyword) or []
    if len(items) > MOST_INSTANCES:
        raise DataRefused(
            f"a storage commitment report of {len(items)} instances; at most {MOST_INSTANCES}"
        )
    found = {}
    for item in items:
        uid = str(item.get("ReferencedSOPInstanceUID") or "").strip("\0 ")
        reason = item.get("FailureReason")
        if uid:
            found[uid] = int(reason) if isinstance(reason, int) else PROCESSING_FAILURE
    return found


def describe_failures(failed: Mapping[str, int]) -> str:
    """Why a PACS did not commit, without naming an instance.

    Example:
        >>> describe_failures({"1.2": 0x0112, "1.3": 0x0112})[:66]
        '2 instances: storage commitment 0x0112: the PACS does not hold thi'
    """
    counts: dict[int, int] = {}
    for reason in failed.values():
        counts[reason] = counts.get(reason, 0) + 1
    return "; ".join(
        f"{count} instances: {describe_status('storage commitment', reason)}"
        for reason, count in sorted(counts.items())
    )


def request_commitment(
    link: Link, request: CommitmentRequest, *, wait_s: float
) -> CommitmentReport | None:
    """Ask a PACS to take responsibility, and wait a moment for its report.

    Args:
        link: the PACS.
        request: what to keep safe.
        wait_s: how long to keep the association open for a report on it.

    Returns:
        The report, or None where the PACS will send it on an association of its own.

    Raises:
        PeerUnreachable: see :func:`dicom_bridge.net.association.associate`; no answer came.
        AssociationRejected: the PACS refuses us, or does not offer storage commitment.
        PeerFailure: the PACS refused the request.
    """
    information = request_of(request)
    role = build_role(STORAGE_COMMITMENT, scu_role=True, scp_role=False)
    with associate(link, [build_context(STORAGE_COMMITMENT)], Extras(roles=(role,))) as association:
        status, _ = association.send_n_action(
            information, REQUEST_ACTION, STORAGE_COMMITMENT, STORAGE_COMMITMENT_INSTANCE
        )
        if "Status" not in status:
            raise lost(link, "N-ACTION", association)
        code = int(status.Status)
        if code not in (0x0000, 0x0001) and not 0xB000 <= code <= 0xBFFF:
            raise PeerFailure(f"{link.remote}: {describe_status('N-ACTION', code)}", status=code)
        return _await_report(association, request.transaction_uid, wait_s)


def _await_report(
    association: Association, transaction_uid: str, wait_s: float
) -> CommitmentReport | None:
    """The report to this transaction if it comes in time; other reports are refused."""
    deadline = time.monotonic() + wait_s
    while association.is_established and (left := deadline - time.monotonic()) > 0:
        association.dimse_timeout = min(left, _LOOK_EVERY_S)
        context_id, message = association.dimse.get_msg(block=True)
        if message is None or context_id is None:
            continue
        if not isinstance(message, N_EVENT_REPORT):
            return None
        report = _read(association, message, context_id)
        taken = report is not None and report.transaction_uid == transaction_uid
        _answer(association, message, context_id, 0x0000 if taken else PROCESSING_FAILURE)
        if taken:
            return report
    return None


def _read(
    association: Association, message: N_EVENT_REPORT, context_id: int
) -> CommitmentReport | None:
    if message.EventTypeID not in EVENTS or message.EventInformation is None:
        return None
    syntax = next(
        (
            UID(context.transfer_syntax[0])
            for context in association.accepted_contexts
            if context.context_id == context_id
        ),
        None,
    )
    if syntax is None:
        return None
    try:
        content = message.EventInformation
        return report_of(decode(content, syntax.is_implicit_VR, syntax.is_little_endian))
    except Exception:  # edge: hostile bytes; pydicom raises whatever it stumbles over
        return None


def _answer(
    association: Association, message: N_EVENT_REPORT, context_id: int, status: int
) -> None:
    """The response to an N-EVENT-REPORT (PS3.7 10.1.1)."""
    response = N_EVENT_REPORT()
    response.MessageIDBeingRespondedTo = message.MessageID
    response.AffectedSOPClassUID = message.AffectedSOPClassUID
    response.AffectedSOPInstanceUID = message.AffectedSOPInstanceUID
    response.EventTypeID = message.EventTypeID
    response.Status = status
    association.dimse.send_msg(response, context_id)
