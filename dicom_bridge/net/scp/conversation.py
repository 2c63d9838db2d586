"""One association without its socket: PDUs in, PDUs out, objects to a sink.

The fast lane is `Conversation.on_data`: fragments of a C-STORE's data set go to the sink as they
come, command sets are read and made by hand. Requests are served one after the other
(asynchronous operations are not negotiated, PS3.7 D.3.3.3), so a peer that does not wait is slowed
by TCP and cannot fill memory.
"""

from __future__ import annotations

import io
from collections.abc import Callable

import structlog
from pydicom.dataset import Dataset
from pydicom.filereader import read_dataset

from dicom_bridge.errors import DataRefused
from dicom_bridge.net.intake import (
    CLASS_NOT_SUPPORTED,
    PROCESSING_FAILURE,
    STORED,
    StoreRefused,
    is_uid,
)
from dicom_bridge.net.model import CommitmentReport
from dicom_bridge.net.scp.command import (
    Command,
    CommandInvalid,
    Field,
    encode_response,
    parse_command,
)
from dicom_bridge.net.scp.machine import Action, Event, Machine, State, event_of
from dicom_bridge.net.scp.negotiation import Accepted, Context, Negotiator
from dicom_bridge.net.scp.pdu import (
    COMMAND_FRAGMENT,
    LAST_FRAGMENT,
    RELEASE_RP,
    PduInvalid,
    abort,
    data_pdus,
    fragments,
)
from dicom_bridge.net.scp.sink import Incoming, Sink, StoreRequest
from dicom_bridge.net.stack import STORAGE_COMMITMENT

UNRECOGNISED_OPERATION = 0x0211
NO_SUCH_EVENT_TYPE = 0x0113
NO_SUCH_CLASS = 0x0118
INVALID_ARGUMENT = 0x0115
"""PS3.7 Annex C."""

_LONGEST_COMMAND = 1 << 16
_LONGEST_REPORT = 32 << 20
_USER, _PROVIDER = 0, 2
_UNEXPECTED_PDU, _INVALID_VALUE = 2, 6
_log = structlog.get_logger(__name__)


class _Dropped:
    """Reads a data set that is not taken to its end, and answers why."""

    def __init__(self, refusal: StoreRefused) -> None:
        self._refusal = refusal

    def write(self, data: memoryview) -> None:
        pass

    def finish(self) -> None:
        raise self._refusal

    def discard(self) -> None:
        pass


class _Report:
    """Gathers the data set of a storage commitment report."""

    def __init__(self, sink: Sink, command: Command, context: Context) -> None:
        self._sink = sink
        self._command = command
        self._context = context
        self._data = bytearray()

    def write(self, data: memoryview) -> None:
        if len(self._data) + len(data) > _LONGEST_REPORT:
            raise ConnectionAbortedError("the peer sends a report larger than allowed")
        self._data += data

    def finish(self) -> None:
        self._sink.report(read_report(bytes(self._data), self._command, self._context))

    def discard(self) -> None:
        self._data.clear()


def read_report(encoded: bytes, command: Command, context: Context) -> CommitmentReport:
    """Read a storage commitment result (PS3.4 J.3.3).

    Raises:
        StoreRefused: it says something that the standard does not allow.
    """
    if context.abstract_syntax != STORAGE_COMMITMENT or command.sop_class != STORAGE_COMMITMENT:
        raise StoreRefused(NO_SUCH_CLASS, "only storage commitment reports events here")
    if command.event not in (1, 2):
        raise StoreRefused(NO_SUCH_EVENT_TYPE, "storage commitment has event types 1 and 2")
    syntax = context.transfer_syntax
    try:
        report = read_dataset(
            io.BytesIO(encoded),
            is_implicit_VR=syntax.is_implicit_VR,
            is_little_endian=syntax.is_little_endian,
        )
        transaction = str(report.get("TransactionUID", ""))
        committed = frozenset(_uids(report, "ReferencedSOPSequence"))
        failed = {
            str(item.ReferencedSOPInstanceUID): int(item.FailureReason)
            for item in report.get("FailedSOPSequence") or ()
        }
    except Exception as error:  # edge: hostile bytes; pydicom raises whatever it stumbles over
        raise StoreRefused(INVALID_ARGUMENT, "the report cannot be read") from error
    if not all(is_uid(uid) for uid in (transaction, *committed, *failed)):
        raise StoreRefused(INVALID_ARGUMENT, "the report has a UID that is none")
    if not committed and not failed:
        raise StoreRefused(INVALID_ARGUMENT, "the report names no instance")
    return CommitmentReport(transaction, committed - failed.keys(), failed)


def _uids(report: Dataset, keyword: str) -> list[str]:
    return [str(item.ReferencedSOPInstanceUID) for item in report.get(keyword) or ()]


class Conversation:
    """One association.

    Args:
        negotiator: judges the association request.
        sink: where objects go.
        on_refusal: told each status that was not success.

    Attributes:
        peer: the peer's AE title, once accepted or rejected.
    """

    def __init__(
        self,
        negotiator: Negotiator,
        sink: Sink,
        on_refusal: Callable[[int, str], None] = lambda _status, _words: None,
    ) -> None:
        self._machine = Machine()
        self._negotiator = negotiator
        self._sink = sink
        self._on_refusal = on_refusal
        self._contexts: dict[int, Context] = {}
        self._longest = 0
        self._command_bytes = bytearray()
        self._context_id = 0
        self._command: Command | None = None
        self._incoming: Incoming | None = None
        self.peer = ""

    @property
    def state(self) -> State:
        """Where the association stands."""
        return self._machine.state

    @property
    def is_open(self) -> bool:
        """Whether data may come."""
        return self._machine.state is State.OPEN

    @property
    def is_over(self) -> bool:
        """Whether the connection can be closed."""
        return self._machine.state is State.IDLE

    def on_pdu(self, kind: int, body: memoryview) -> bytes:
        """Take one PDU whose framing was checked; gives the bytes to send."""
        event = event_of(kind)
        if event is Event.DATA and self._machine.state is State.OPEN:
            return self.on_data(body)
        return self.on_event(event, body)

    def on_data(self, body: memoryview) -> bytes:
        """Take a P-DATA-TF of the open association; gives the bytes to send."""
        sent = b""
        try:
            for context_id, control, data in fragments(body):
                sent += self._fragment(context_id, control, data)
        except (PduInvalid, CommandInvalid, ConnectionAbortedError) as error:
            _log.warning("association_invalid", reason=str(error))
            return sent + self.on_event(Event.INVALID)
        return sent

    def on_event(self, event: Event, body: memoryview | None = None) -> bytes:
        """Take anything else that happened; gives the bytes to send."""
        action = self._machine.on(event)
        if action is Action.DECIDE:
            return self._decide(body if body is not None else memoryview(b""))
        if self._machine.state is not State.OPEN:
            self._let_go()
        if action is Action.CONFIRM_RELEASE:
            return RELEASE_RP
        if action is Action.SEND_ABORT:
            return abort(_USER, 0)
        if action is Action.SEND_PROVIDER_ABORT:
            return abort(_PROVIDER, _INVALID_VALUE if event is Event.INVALID else _UNEXPECTED_PDU)
        return b""

    def _decide(self, body: memoryview) -> bytes:
        try:
            decision = self._negotiator(body)
        except PduInvalid as error:
            _log.warning("association_invalid", reason=str(error))
            return self.on_event(Event.INVALID)
        self.peer = decision.calling
        if not isinstance(decision, Accepted):
            self._machine.on(Event.REJECTED)
            _log.warning(
                "association_rejected", calling_ae=decision.calling, reason=decision.reason
            )
            return decision.pdu
        self._contexts, self._longest = decision.contexts, decision.longest
        self._machine.on(Event.ACCEPTED)
        return decision.pdu

    def _fragment(self, context_id: int, control: int, data: memoryview) -> bytes:
        if control & COMMAND_FRAGMENT:
            if self._incoming is not None:
                raise PduInvalid("a command comes inside another message's data set")
            if self._command_bytes and context_id != self._context_id:
                raise PduInvalid("a message changes its presentation context")
            self._context_id = context_id
            if len(self._command_bytes) + len(data) > _LONGEST_COMMAND:
                raise PduInvalid("a command set is larger than allowed")
            self._command_bytes += data
            return self._begin() if control & LAST_FRAGMENT else b""
        if self._incoming is None or context_id != self._context_id:
            raise PduInvalid("a data set comes without its command")
        self._incoming.write(data)
        return self._end() if control & LAST_FRAGMENT else b""

    def _begin(self) -> bytes:
        command = parse_command(self._command_bytes)
        self._command_bytes.clear()
        context = self._contexts.get(self._context_id)
        if context is None:
            raise PduInvalid("a message in a presentation context that was not accepted")
        self._command = command
        if command.has_data:
            self._incoming = self._open(command, context)
            return b""
        if not command.is_request or command.field == Field.C_CANCEL:
            return b""
        if command.field == Field.C_ECHO:
            return self._respond(command, STORED)
        return self._respond(command, *_no_data(command))

    def _open(self, command: Command, context: Context) -> Incoming:
        try:
            if command.field == Field.N_EVENT_REPORT:
                return _Report(self._sink, command, context)
            if command.field != Field.C_STORE:
                raise StoreRefused(UNRECOGNISED_OPERATION, "this operation is not served")
            if not context.stores or command.sop_class != context.abstract_syntax:
                raise StoreRefused(
                    CLASS_NOT_SUPPORTED, "the SOP class is not that of the presentation context"
                )
            request = StoreRequest(command.sop_class, command.sop_uid, context.transfer_syntax)
            return self._sink.open(request)
        except StoreRefused as refusal:
            return _Dropped(refusal)
        except Exception as error:  # edge: whatever fails here is the sender's to repeat
            return _Dropped(_failed(error))

    def _end(self) -> bytes:
        command, incoming = self._command, self._incoming
        if command is None or incoming is None:
            raise PduInvalid("a data set comes without its command")
        status, words = STORED, ""
        try:
            incoming.finish()
        except StoreRefused as refusal:
            status, words = refusal.status, str(refusal)
        except DataRefused as refusal:
            status, words = PROCESSING_FAILURE, str(refusal)
        except Exception as error:  # edge: whatever fails here is the sender's to repeat
            failure = _failed(error)
            status, words = failure.status, str(failure)
        finally:
            self._let_go()
        return self._respond(command, status, words)

    def _respond(self, command: Command, status: int, words: str = "") -> bytes:
        if not command.is_request:
            return b""
        if status != STORED:
            self._on_refusal(status, words)
            _log.warning("instance_refused", status=f"0x{status:04X}", reason=words)
        encoded = encode_response(command, status, words)
        return data_pdus(self._context_id, encoded, self._longest)

    def _let_go(self) -> None:
        if self._incoming is not None:
            self._incoming.discard()
            self._incoming = None


def _no_data(command: Command) -> tuple[int, str]:
    if command.field in (Field.C_STORE, Field.N_EVENT_REPORT):
        return PROCESSING_FAILURE, "the request has no data set"
    return UNRECOGNISED_OPERATION, "this operation is not served"


def _failed(error: Exception) -> StoreRefused:
    _log.error("instance_failed", cause=type(error).__name__)
    return StoreRefused(PROCESSING_FAILURE, "the node failed; see its log")
