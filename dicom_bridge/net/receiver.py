"""The node's Storage SCP: takes what was asked for, durably, and answers C-ECHO.

`Receiver` serves in threads of the calling process and hands objects to an `Inbox`;
:class:`~dicom_bridge.net.scp.supervisor.ReceiverProcesses` serves the same protocol in processes of
its own. Why neither is pynetdicom's acceptor: see :mod:`dicom_bridge.net.scp`.
"""

from __future__ import annotations

import socket
import threading
from dataclasses import dataclass
from pathlib import Path

import structlog

from dicom_bridge.errors import SettingsRefused
from dicom_bridge.net.guard import MessageBounds
from dicom_bridge.net.intake import Inbox, Intake, Tally
from dicom_bridge.net.model import check_ae_title
from dicom_bridge.net.scp.connection import Rules, Surroundings
from dicom_bridge.net.scp.rooms import Board, Limits, WaitingRoom
from dicom_bridge.net.scp.server import AcceptorServer
from dicom_bridge.net.scp.sink import IntakeSink, Titles
from dicom_bridge.net.tls import TlsFiles, server_context

_BACKLOG = 128
_ASSOCIATION_S = 30.0
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
        per_address: of them from one peer address; None for no limit of its own.
        idle_s: an association without any PDU for so long is aborted.
        pdu_s: a PDU must be complete so long after its first byte.
        memory_bytes: a data set larger than this goes to a nameless file in ``spool`` while it
            arrives; with ``max_associations`` this bounds memory.
        instance_bytes: a larger data set ends the association.
        reserve_bytes: free disk space that is never used up; below it 0xA700 is answered.
        spool: folder for those nameless files, in the identified zone. Without it no data set
            larger than ``memory_bytes`` is taken.
        tls: our certificate; associations are then taken over TLS only.
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
    per_address: int | None = None
    tls: TlsFiles | None = None

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


def rules_of(settings: ReceiverSettings) -> Rules:
    """What every connection is held to."""
    most = settings.max_associations
    return Rules(
        Titles(settings.ae_title, settings.allowed_ae),
        Limits(most, settings.per_address or most),
        idle_s=settings.idle_s,
        pdu_s=settings.pdu_s,
        association_s=min(_ASSOCIATION_S, settings.idle_s),
    )


def listen(settings: ReceiverSettings) -> socket.socket:
    """The listening socket.

    Raises:
        SettingsRefused: the address cannot be bound.
    """
    try:
        family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
        return socket.create_server((settings.host, settings.port), family=family, backlog=_BACKLOG)
    except OSError as error:
        raise SettingsRefused(
            f"Storage SCP: {settings.host}:{settings.port} cannot be bound "
            f"({error.strerror}); choose a free port and an address of this machine"
        ) from error


class Receiver:
    """A Storage and Verification SCP in this process.

    ``inbox`` is called from one thread per association, several at once.
    """

    def __init__(self, settings: ReceiverSettings, inbox: Inbox) -> None:
        self._settings = settings
        self._tally = Tally()
        self._board = Board(1, 0)
        intake = Intake(inbox, reserve_bytes=settings.reserve_bytes, tally=self._tally)
        limit = settings.instance_bytes if settings.spool else settings.memory_bytes
        bounds = MessageBounds(settings.memory_bytes, limit, settings.spool)
        rules = rules_of(settings)
        self._around = Surroundings(
            rules,
            self._board,
            WaitingRoom(rules.limits),
            IntakeSink(intake, bounds),
            server_context(settings.tls) if settings.tls else None,
        )
        self._server: AcceptorServer | None = None
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
        listener = listen(settings)
        port = int(listener.getsockname()[1])
        self._server = AcceptorServer(listener, self._around)
        self._thread = threading.Thread(target=self._server.serve, name="storage-scp", daemon=True)
        self._thread.start()
        _log.info("storage_scp_listening", ae_title=settings.ae_title, port=port)
        return port

    def stop(self) -> None:
        """Stop listening and abort what is open; an instance being written is finished first."""
        if self._server is None or self._thread is None:
            return
        self._server.stop()
        self._thread.join()
        self._server = self._thread = None
        _log.info("storage_scp_stopped", ae_title=self._settings.ae_title)

    @property
    def counts(self) -> ReceiverCounts:
        """How requests were answered so far."""
        tally = self._tally
        with tally.lock:
            return ReceiverCounts(
                tally.stored, tally.repeated, tally.conflicts, self._board.total("refused")
            )
