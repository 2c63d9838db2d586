"""The node's Storage SCP: takes what was asked for, durably, and answers C-ECHO."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import structlog
from pydicom.dataset import Dataset
from pydicom.uid import UID, ExplicitVRLittleEndian, ImplicitVRLittleEndian
from pynetdicom import AE, evt
from pynetdicom.dimse_primitives import C_STORE

from dicom_bridge.errors import SettingsRefused
from dicom_bridge.net.guard import (
    BoundedDimse,
    GuardedServer,
    GuardedSocket,
    MessageBounds,
    SpillBuffer,
)
from dicom_bridge.net.intake import (
    PROCESSING_FAILURE,
    STORED,
    Delivery,
    Inbox,
    Intake,
    StoreRefused,
    Tally,
    answer,
)
from dicom_bridge.net.model import check_ae_title
from dicom_bridge.net.stack import MAXIMUM_PDU_BYTES, VERIFICATION

_ACCEPT_POLL_S = 0.2
_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class ReceiverSettings:
    """How the receiver listens.

    Attributes:
        ae_title: our AE title; a request for another one is rejected.
        host: the address to bind, e.g. ``127.0.0.1``.
        port: the TCP port; 0 takes a free one.
        allowed_ae: AE titles that may call us; must not be empty.
        max_associations: more at once are rejected for the moment.
        idle_s: an association without any PDU for so long is aborted.
        pdu_s: a PDU must be complete so long after its first byte.
        memory_bytes: a data set larger than this goes to a nameless file in ``spool`` while it
            arrives; with ``max_associations`` this bounds memory.
        instance_bytes: a larger data set ends the association.
        reserve_bytes: free disk space that is never used up; below it 0xA700 is answered.
        spool: folder for those nameless files, in the identified zone. Without it no data set
            larger than ``memory_bytes`` is taken.
    """

    ae_title: str
    host: str
    port: int
    allowed_ae: frozenset[str]
    max_associations: int = 8
    idle_s: float = 120.0
    pdu_s: float = 60.0
    memory_bytes: int = 32 << 20
    instance_bytes: int = 4 << 30
    reserve_bytes: int = 256 << 20
    spool: Path | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "ae_title", check_ae_title(self.ae_title, "Storage SCP"))
        if not self.allowed_ae:
            raise SettingsRefused(
                "Storage SCP: the list of allowed calling AE titles is empty; "
                "enter the AE titles of the PACS that may send to this node"
            )
        allowed = frozenset(check_ae_title(title, "allowed AE") for title in self.allowed_ae)
        object.__setattr__(self, "allowed_ae", allowed)
        if self.max_associations < 1:
            raise SettingsRefused("Storage SCP: max_associations must be at least 1")


@dataclass(frozen=True, slots=True)
class ReceiverCounts:
    """How many C-STORE requests were answered how, since the receiver started.

    Attributes:
        stored: new instances.
        repeated: instances that were there already, with the same content.
        conflicts: other content under a UID already received.
        refused: everything else that was not taken.
    """

    stored: int
    repeated: int
    conflicts: int
    refused: int


class Receiver:
    """A Storage and Verification SCP.

    ``inbox`` is called from one thread per association, several at once.
    """

    def __init__(self, settings: ReceiverSettings, inbox: Inbox) -> None:
        self._settings = settings
        self._tally = Tally()
        self._intake = Intake(inbox, reserve_bytes=settings.reserve_bytes, tally=self._tally)
        limit = settings.instance_bytes if settings.spool else settings.memory_bytes
        self._bounds = MessageBounds(settings.memory_bytes, limit, settings.spool)
        self._server: GuardedServer | None = None
        self._thread: threading.Thread | None = None

    def start(self) -> int:
        """Bind and listen.

        Returns:
            The TCP port that is bound.

        Raises:
            SettingsRefused: the address cannot be bound.
        """
        settings = self._settings
        if settings.spool is not None:
            settings.spool.mkdir(parents=True, exist_ok=True)
        entity = AE(ae_title=settings.ae_title)
        entity.maximum_pdu_size = MAXIMUM_PDU_BYTES
        entity.maximum_associations = settings.max_associations
        entity.require_called_aet = True
        entity.require_calling_aet = sorted(settings.allowed_ae)
        entity.acse_timeout = min(30.0, settings.idle_s)
        entity.network_timeout = settings.idle_s
        entity.dimse_timeout = settings.idle_s
        entity.add_supported_context(VERIFICATION, [ExplicitVRLittleEndian, ImplicitVRLittleEndian])
        try:
            made = entity.make_server(
                (settings.host, settings.port),
                evt_handlers=[
                    (evt.EVT_CONN_OPEN, self._on_open),
                    (evt.EVT_C_STORE, self._on_store),
                    (evt.EVT_C_ECHO, _on_echo),
                    (evt.EVT_REJECTED, _on_rejected),
                    (evt.EVT_ABORTED, _on_aborted),
                ],
                server_class=GuardedServer,
            )
        except OSError as error:
            raise SettingsRefused(
                f"Storage SCP: {settings.host}:{settings.port} cannot be bound "
                f"({error.strerror}); choose a free port and an address of this machine"
            ) from error
        server = cast(GuardedServer, made)
        self._server = server
        self._thread = threading.Thread(
            target=server.serve_forever, args=(_ACCEPT_POLL_S,), name="storage-scp", daemon=True
        )
        self._thread.start()
        port = int(server.server_address[1])
        _log.info("storage_scp_listening", ae_title=settings.ae_title, port=port)
        return port

    def stop(self) -> None:
        """Stop listening and abort what is open; an instance being written is finished first."""
        if self._server is None or self._thread is None:
            return
        self._server.shutdown()
        self._thread.join()
        for association in self._server.active_associations:
            association.abort()
            association.join(timeout=10.0)
        self._server = self._thread = None
        _log.info("storage_scp_stopped", ae_title=self._settings.ae_title)

    @property
    def counts(self) -> ReceiverCounts:
        """How requests were answered so far."""
        tally = self._tally
        with tally.lock:
            return ReceiverCounts(tally.stored, tally.repeated, tally.conflicts, tally.refused)

    def _on_open(self, event: evt.Event) -> None:
        association = event.assoc
        association.dimse = BoundedDimse(association, self._bounds)
        transport = association.dul.socket
        if transport is not None and isinstance(transport.socket, GuardedSocket):
            transport.socket.pdu_s = self._settings.pdu_s

    def _on_store(self, event: evt.Event) -> Dataset:
        request = event.request
        if not isinstance(request, C_STORE):
            return answer(PROCESSING_FAILURE, "not a C-STORE request")
        content = request.DataSet
        try:
            if not isinstance(content, SpillBuffer):
                return answer(PROCESSING_FAILURE, "the request has no data set")
            self._intake.take(
                Delivery(
                    content,
                    UID(event.context.transfer_syntax),
                    str(request.AffectedSOPClassUID),
                    str(request.AffectedSOPInstanceUID),
                )
            )
        except StoreRefused as refusal:
            self._tally.add("refused")
            _log.warning("instance_refused", status=f"0x{refusal.status:04X}", reason=str(refusal))
            return answer(refusal.status, str(refusal))
        except Exception as error:  # edge: whatever fails here is the sender's to repeat
            self._tally.add("refused")
            _log.error("instance_failed", cause=type(error).__name__)
            return answer(PROCESSING_FAILURE, "the node failed; see its log")
        finally:
            if isinstance(content, SpillBuffer):
                content.close()
        return answer(STORED, "")


def _on_echo(_event: evt.Event) -> int:
    return STORED


def _on_rejected(event: evt.Event) -> None:
    requestor = event.assoc.requestor
    _log.warning("association_rejected", calling_ae=requestor.ae_title, address=requestor.address)


def _on_aborted(event: evt.Event) -> None:
    requestor = event.assoc.requestor
    _log.warning("association_aborted", calling_ae=requestor.ae_title, address=requestor.address)
