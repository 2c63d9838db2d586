"""Storage commitment by the push model (PS3.4 Annex J): the request, and reports to it.

The PACS may report on the association of the request, or hours later on one that it opens to our
receiver; only the second is always supported. So the request waits a moment for the first, and the
receiver passes what comes later to :func:`report_of`.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping

from pydicom.dataset import Dataset
from pynetdicom import build_context, build_role, evt
from pynetdicom.association import Association
from pynetdicom.dimse_primitives import N_EVENT_REPORT
from pynetdicom.pdu import P_DATA_TF

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
NO_SUCH_EVENT = 0x0113
_LOOK_EVERY_S = 0.2
_ANSWER_S = 5.0


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
    reports = _Reports(request.transaction_uid)
    extras = Extras(
        roles=(build_role(STORAGE_COMMITMENT, scu_role=True, scp_role=False),),
        handlers=(
            (evt.EVT_N_EVENT_REPORT, reports.on_report),
            (evt.EVT_PDU_SENT, reports.on_sent),
        ),
    )
    with associate(link, [build_context(STORAGE_COMMITMENT)], extras) as association:
        status, _ = association.send_n_action(
            information, REQUEST_ACTION, STORAGE_COMMITMENT, STORAGE_COMMITMENT_INSTANCE
        )
        if "Status" not in status:
            raise lost(link, "N-ACTION", association)
        code = int(status.Status)
        if code not in (0x0000, 0x0001) and not 0xB000 <= code <= 0xBFFF:
            raise PeerFailure(f"{link.remote}: {describe_status('N-ACTION', code)}", status=code)
        return reports.wait(association, wait_s)


class _Reports:
    """Takes the report to one transaction on the association of the request.

    pynetdicom answers an N-EVENT-REPORT in a thread of its own, also before the N-ACTION response.
    The association must not be released before that answer is out.
    """

    def __init__(self, transaction_uid: str) -> None:
        self._transaction = transaction_uid
        self._came = threading.Event()
        self._answering = False
        self._report: CommitmentReport | None = None

    def on_report(self, event: evt.Event) -> tuple[int, None]:
        """Read a report; one that is none, or answers another request, is refused."""
        self._answering = True
        try:
            request = event.request
            if not isinstance(request, N_EVENT_REPORT) or request.EventTypeID not in EVENTS:
                return NO_SUCH_EVENT, None
            report = report_of(event.event_information)
        except Exception:  # edge: hostile bytes; pydicom raises whatever it stumbles over
            return PROCESSING_FAILURE, None
        if report.transaction_uid != self._transaction:
            return PROCESSING_FAILURE, None
        self._report = report
        return 0x0000, None

    def on_sent(self, event: evt.Event) -> None:
        """The answer to a report is out."""
        if self._answering and isinstance(event.pdu, P_DATA_TF):
            self._answering = False
            if self._report is not None:
                self._came.set()

    def wait(self, association: Association, seconds: float) -> CommitmentReport | None:
        """The report if it comes in time and before the PACS ends the association."""
        deadline = time.monotonic() + seconds
        while association.is_established and (left := deadline - time.monotonic()) > 0:
            if self._came.wait(min(left, _LOOK_EVERY_S)):
                break
        deadline = time.monotonic() + _ANSWER_S
        while self._answering and association.is_established and time.monotonic() < deadline:
            self._came.wait(_LOOK_EVERY_S)
        return self._report
