"""Storage commitment of sent results (PS3.4 Annex J): ask, wait for hours, believe the answer.

A transaction is kept before the PACS is asked, because its answer may come on another association
before the request has returned, or hours later, or after this node was started again.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

import structlog
from pydicom.uid import generate_uid

from appliance.identity import Identities
from appliance.result_sending import COMMITTED, FAILED, Delivery, Observer, Obstacle
from appliance.result_states import IN_PACS, Instant, Verb
from appliance.settings import Settings
from appliance.store import Commitment, NodeState, ResultRow, ResultState
from appliance.store.database import Value
from dicom_bridge.archive import Archive
from dicom_bridge.errors import DicomBridgeError, PeerError
from dicom_bridge.net.model import CommitmentReport, CommitmentRequest, is_transient
from federation.clock import parse_stamp, stamp

_log = structlog.get_logger(__name__)

MOST_ROUNDS = 3
PLANNED, PENDING, ANSWERED, EXPIRED = "planned", "pending", "answered", "expired"
FAILURES: Mapping[int, str] = {
    0x0110: "a processing failure",
    0x0112: "it has no such instance",
    0x0119: "the class of an instance conflicts with its own record",
    0x0122: "it does not commit to this class of objects",
    0x0131: "it has seen this transaction before",
    0x0213: "it lacks resources now",
}
"""Failure Reason (PS3.3 C.14.1.1) in words."""


@dataclass(frozen=True, slots=True)
class CommitmentParts:
    """What commitment works with; see `appliance.results.ResultsParts`.

    Attributes:
        delivery: knows a result's instances.
        on_committed: called with the key of a result that the PACS has committed to whole.
        new_uid: makes transaction UIDs.
    """

    state: NodeState
    settings: Settings
    identities: Identities
    client: Callable[[str], Archive]
    delivery: Delivery
    audit: Callable[[str, str, str, Mapping[str, Value]], None]
    observer: Observer
    on_committed: Callable[[str], None]
    new_uid: Callable[[], str] = lambda: str(generate_uid(prefix=None))


class Commitments:
    """Asks for storage commitment and takes the reports."""

    def __init__(self, parts: CommitmentParts) -> None:
        self._parts = parts
        self._state = parts.state

    def recover(self) -> None:
        """Ask anew where a process died between planning a request and its end."""
        for row in self._state.results.select(state=ResultState.STORED):
            for transaction in self._state.results.commitments(row.key):
                if transaction.state == PLANNED:
                    self._state.results.mark_commitment(transaction.transaction_key, EXPIRED)
                    now = stamp(self._state.clock())
                    self._state.results.update(row.key, {"not_before": now})

    def pursue(self, row: ResultRow, later: Callable[[int], str]) -> None:
        """Ask the PACS, or see that its time has passed and ask again; a few times.

        Args:
            row: a stored result that is due.
            later: the time of the next attempt after a number of failed ones.
        """
        self._expire(row)
        if self._all_committed(row):
            self._conclude(row, "")
            self._clear(row)
            return
        if row.rounds >= MOST_ROUNDS:
            self._give_up(row, "the PACS did not report storage commitment in time")
            return
        try:
            request = self._plan(row)
            report = self._parts.client(row.destination).commit(request)
        except Obstacle as obstacle:
            self._give_up(row, str(obstacle))
        except DicomBridgeError as error:
            self._not_asked(row, error, later)
        else:
            self._parts.observer(row.key, Instant.ASKED)
            name = self._parts.identities.instance_key(request.transaction_uid)
            self._state.results.mark_commitment(name, PENDING, unless=ANSWERED)
            if report is not None:
                self.report(report)

    def _plan(self, row: ResultRow) -> CommitmentRequest:
        study_uid, classes = self._parts.delivery.instances(row)
        request = CommitmentRequest(self._parts.new_uid(), study_uid, classes)
        deadline = self._deadline()
        name = self._parts.identities.instance_key(request.transaction_uid)
        with self._state.database.transaction():
            self._state.results.plan_commitment(row.key, name, deadline)
            self._state.results.update(
                row.key, {"not_before": stamp(deadline), "reason": "", "attempt": 0}
            )
        self._parts.observer(row.key, Instant.PLANNED)
        return request

    def _deadline(self) -> datetime:
        hours = self._parts.settings.results.commitment_hours
        return self._state.clock() + timedelta(hours=hours)

    def _expire(self, row: ResultRow) -> None:
        for transaction in self._state.results.commitments(row.key):
            passed = parse_stamp(transaction.deadline) <= self._state.clock()
            if transaction.state in (PLANNED, PENDING) and passed:
                self._state.results.mark_commitment(transaction.transaction_key, EXPIRED)

    def _not_asked(
        self, row: ResultRow, error: DicomBridgeError, later: Callable[[int], str]
    ) -> None:
        """The request did not come through: again later; a refusal counts as a round."""
        passing = isinstance(error, PeerError) and is_transient(error)
        present = self._state.results.get(row.key)
        if present.state is not ResultState.STORED:
            return
        for transaction in self._state.results.commitments(row.key):
            if transaction.state == PLANNED:
                self._state.results.mark_commitment(transaction.transaction_key, EXPIRED)
        attempt = row.attempt + 1
        changes: dict[str, Value] = {
            "attempt": attempt,
            "not_before": later(attempt),
            "reason": f"stored, but storage commitment could not be asked for: {error}",
        }
        if passing:
            changes["rounds"] = max(0, present.rounds - 1)
        self._state.results.update(row.key, changes)

    def _give_up(self, row: ResultRow, words: str) -> None:
        told = f"stored, not committed: {words}"
        changes: dict[str, Value] = {"not_before": None, "reason": told}
        self._state.results.update(row.key, changes)
        self._parts.audit("node", "result.not-committed", row.key, {"reason": words})
        _log.warning("result_not_committed", result=row.key, reason=words)

    def report(self, report: CommitmentReport) -> bool:
        """Take a report; False where no transaction of this node has its UID.

        The same report may come twice: failures of a transaction that was answered are old news.
        """
        name = self._parts.identities.instance_key
        transaction = self._state.results.commitment(name(report.transaction_uid))
        if transaction is None:
            _log.warning("commitment_unknown", instances=len(report.committed))
            return False
        committed = {name(uid) for uid in report.committed}
        failed = {name(uid): reason for uid, reason in report.failed.items()}
        if transaction.state == ANSWERED:
            failed = {}
        with self._state.database.transaction():
            self._state.results.mark_commitment(transaction.transaction_key, ANSWERED)
            row, words = self._mark(transaction, committed, failed)
            self._conclude(row, words)
        if self._all_committed(row):
            self._clear(row)
        return True

    def _clear(self, row: ResultRow) -> None:
        self._parts.observer(row.key, Instant.COMMITTED)
        self._parts.on_committed(row.key)

    def _all_committed(self, row: ResultRow) -> bool:
        return all(item.state == COMMITTED for item in self._state.results.objects(row.key))

    def _mark(
        self, transaction: Commitment, committed: set[str], failed: Mapping[str, int]
    ) -> tuple[ResultRow, str]:
        """Keep what became of each object; gives the result and the first failure in words."""
        row = self._state.results.get(transaction.result)
        words = ""
        for item in self._state.results.objects(row.key):
            if item.object_key in committed:
                self._state.results.mark_objects(row.key, [item.file], COMMITTED)
            elif item.object_key in failed and item.state != COMMITTED:
                cause = failed[item.object_key]
                told = FAILURES.get(cause, f"failure 0x{cause:04X}")
                words = words or f"the PACS does not commit to the {item.form}: {told}"
                self._state.results.mark_objects(row.key, [item.file], FAILED, told)
        return row, words

    def _conclude(self, row: ResultRow, words: str) -> None:
        """Committed whole, or sent again where something failed."""
        if row.state not in IN_PACS or row.state is ResultState.COMMITTED:
            return
        if self._all_committed(row):
            changes: dict[str, Value] = {
                "committed_at": stamp(self._state.clock()),
                "reason": "" if row.found else "the model found nothing",
                "not_before": None,
                "attempt": 0,
            }
            self._state.results.step(row.key, Verb.COMMIT, changes)
            detail: dict[str, Value] = {"destination": row.destination}
            self._parts.audit("node", "result.committed", row.key, detail)
            _log.info("result_committed", result=row.key)
        elif words and row.rounds >= MOST_ROUNDS:
            self._give_up(row, words)
        elif words:
            now = stamp(self._state.clock())
            self._state.results.step(row.key, Verb.LOSE, {"reason": words, "not_before": now})
