"""C-MOVE of a study, a series or single instances (PS3.4 C.4.2), watched for progress."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import structlog
from pydicom.dataset import Dataset
from pydicom.uid import UID
from pynetdicom import build_context
from pynetdicom.association import Association

from dicom_bridge.errors import PeerUnreachable
from dicom_bridge.net.association import Extras, Link, associate, lost
from dicom_bridge.net.model import MoveOutcome, MoveWatch
from dicom_bridge.net.stack import STUDY_ROOT_MOVE
from dicom_bridge.net.words import describe_status

_LOOK_EVERY_S = 0.25
_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True, repr=False)
class MoveTarget:
    """What to move; the deepest level that is given decides the query level."""

    study_uid: str
    series_uid: str | None = None
    sop_uids: tuple[str, ...] = ()

    def identifier(self) -> Dataset:
        """The C-MOVE identifier (PS3.4 C.4.2.2.1)."""
        query = Dataset()
        query.StudyInstanceUID = self.study_uid
        query.QueryRetrieveLevel = "STUDY"
        if self.series_uid is not None:
            query.SeriesInstanceUID = self.series_uid
            query.QueryRetrieveLevel = "SERIES"
        if self.sop_uids:
            query.SOPInstanceUID = (
                self.sop_uids[0] if len(self.sop_uids) == 1 else list(self.sop_uids)
            )
            query.QueryRetrieveLevel = "IMAGE"
        return query


def move(link: Link, target: MoveTarget, destination_ae: str, watch: MoveWatch) -> MoveOutcome:
    """Ask the PACS to send ``target`` to ``destination_ae`` and follow it to its end.

    Raises:
        PeerUnreachable: no association, the connection broke, or nothing moved for too long.
        AssociationRejected: the PACS refused the association.
    """
    # The watchdog keeps the time: pynetdicom's own time-out knows nothing of received instances.
    extras = Extras(response_s=link.timeouts.move_total_s + 60.0)
    with associate(link, [build_context(STUDY_ROOT_MOVE)], extras) as association:
        with watched(association, link, watch, Request("C-MOVE", STUDY_ROOT_MOVE)) as watchdog:
            responses = association.send_c_move(
                target.identifier(), destination_ae, STUDY_ROOT_MOVE, msg_id=watchdog.message_id
            )
            for status, identifier in responses:
                if "Status" not in status:
                    raise watchdog.error()
                watchdog.touch()
                if int(status.Status) != 0xFF00:
                    return outcome_of("C-MOVE", status, identifier, link)
        raise lost(link, "C-MOVE", association)


def outcome_of(
    service: str, status: Dataset, identifier: Dataset | None, link: Link
) -> MoveOutcome:
    """The final response of a C-MOVE or C-GET as a value."""
    code = int(status.Status)
    failed_uids: tuple[str, ...] = ()
    if identifier is not None and identifier.get("FailedSOPInstanceUIDList"):
        listed = identifier.FailedSOPInstanceUIDList
        failed_uids = (str(listed),) if isinstance(listed, str) else tuple(map(str, listed))
    return MoveOutcome(
        status=code,
        completed=int(status.get("NumberOfCompletedSuboperations") or 0),
        failed=int(status.get("NumberOfFailedSuboperations") or 0),
        warning=int(status.get("NumberOfWarningSuboperations") or 0),
        failed_uids=failed_uids,
        words=describe_status(service, code, ours=link.ours),
    )


@dataclass(frozen=True, slots=True)
class Request:
    """The request in progress: the service's name, and the model for its C-CANCEL."""

    service: str
    model: UID


@contextmanager
def watched(
    association: Association, link: Link, watch: MoveWatch, request: Request
) -> Iterator[Watchdog]:
    """Watch a C-MOVE or C-GET for as long as the body runs."""
    watchdog = Watchdog(association, link, watch, request)
    watchdog.start()
    try:
        yield watchdog
    finally:
        watchdog.finish()


class Watchdog(threading.Thread):
    """Ends a C-MOVE or C-GET that was told to stop or shows no progress for too long."""

    def __init__(
        self, association: Association, link: Link, watch: MoveWatch, request: Request
    ) -> None:
        super().__init__(name=f"{request.service.lower()}-watchdog", daemon=True)
        self.message_id = 1
        self._association = association
        self._link = link
        self._watch = watch
        self._request = request
        self._done = threading.Event()
        self._started_at = self._last = time.monotonic()
        self._seen = watch.progress() if watch.progress else 0
        self._reason: str | None = None

    def touch(self) -> None:
        """A response arrived."""
        self._last = time.monotonic()

    def finish(self) -> None:
        """The request is over."""
        self._done.set()
        self.join()

    def error(self) -> PeerUnreachable:
        """Why the responses ended early."""
        if self._reason is not None:
            return PeerUnreachable(self._reason)
        broken = lost(self._link, self._request.service, self._association)
        return PeerUnreachable(f"{broken}; what had arrived is kept, the rest is asked for again")

    def run(self) -> None:
        """Look at progress until the request is over or must be ended."""
        while not self._done.wait(_LOOK_EVERY_S):
            self._look_for_progress()
            self._reason = self._why_to_end()
            if self._reason is not None:
                self._end()
                return

    def _look_for_progress(self) -> None:
        if self._watch.progress is not None:
            seen = self._watch.progress()
            if seen != self._seen:
                self._seen = seen
                self.touch()

    def _why_to_end(self) -> str | None:
        now = time.monotonic()
        times = self._link.timeouts
        who = f"{self._link.remote}: {self._request.service}"
        if self._watch.stop is not None and self._watch.stop.is_set():
            return f"{self._request.service} was stopped on request"
        if now - self._last > times.move_idle_s:
            return (
                f"{who} showed no progress for {times.move_idle_s:g} s and was ended; "
                "what had arrived is kept, the rest is asked for again"
            )
        if now - self._started_at > times.move_total_s:
            return (
                f"{who} took longer than {times.move_total_s:g} s and was ended; "
                "what had arrived is kept, the rest is asked for again"
            )
        return None

    def _end(self) -> None:
        """C-CANCEL (PS3.4 C.4.2.2.3); abort if the PACS does not end by itself."""
        _log.warning("retrieval_ended_early", reason=self._reason)
        try:
            self._association.send_c_cancel(self.message_id, query_model=self._request.model)
        except (RuntimeError, ValueError) as error:
            _log.debug("c_cancel_not_sent", cause=type(error).__name__)
        if not self._done.wait(self._link.timeouts.cancel_grace_s):
            self._association.abort()
            self._association.dimse.msg_queue.put((None, None))


def chunks(uids: Sequence[str], size: int) -> Iterator[tuple[str, ...]]:
    """Cut a list of UIDs into tuples of at most ``size``.

    Example:
        >>> list(chunks(["1", "2", "3"], 2))
        [('1', '2'), ('3',)]
    """
    for start in range(0, len(uids), size):
        yield tuple(uids[start : start + size])
