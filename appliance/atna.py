"""The audit chain told in ATNA form: one message per entry, in a file and to a repository.

The chain stays the evidence. Line N of ``atna.log`` is entry N of the chain, so after a crash the
feed goes on where the file ends; what was sent last may be sent twice, nothing is left out.
"""

from __future__ import annotations

import socket
import ssl
import threading
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import structlog

from appliance.home import Home
from appliance.settings import Settings
from dicom_bridge import atna
from dicom_bridge.atna import AuditMessage, AuditObject, Participant, Term
from dicom_bridge.net.tls import TlsFiles, client_context
from federation.audit_chain import AuditEntry, entries_from

_log = structlog.get_logger(__name__)

_LOOK_S = 2.0
_RETRY_S = 60.0
_SEND_S = 10.0
_OWN_SCHEME = "99CLINODE"
_PROCESSES = frozenset({"node", "system", "policy", "agent"})


@dataclass(frozen=True, slots=True)
class _Kind:
    """How an action of the chain is told: EventID, EventActionCode, the object's life cycle."""

    event: Term
    action: str = "E"
    type: Term | None = None
    role: str = atna.ROLE_JOB
    life_cycle: str = ""


_ACTIONS: Mapping[str, _Kind] = {
    "node.started": _Kind(atna.APPLICATION_ACTIVITY, type=atna.APPLICATION_START),
    "node.stopped": _Kind(atna.APPLICATION_ACTIVITY, type=atna.APPLICATION_STOP),
    "study.received": _Kind(atna.INSTANCES_TRANSFERRED, "C", role=atna.ROLE_REPORT, life_cycle="1"),
    "study.withdraw": _Kind(atna.STUDY_DELETED, "D", role=atna.ROLE_REPORT, life_cycle="14"),
    "patient.withdrawn": _Kind(atna.STUDY_DELETED, "D", role=atna.ROLE_REPORT, life_cycle="14"),
    "identity.revealed": _Kind(atna.INSTANCES_ACCESSED, "R", role=atna.ROLE_REPORT, life_cycle="6"),
    "identity.refused": _Kind(atna.INSTANCES_ACCESSED, "R", role=atna.ROLE_REPORT, life_cycle="6"),
    "result.sent": _Kind(atna.INSTANCES_TRANSFERRED, "R", role=atna.ROLE_REPORT, life_cycle="10"),
    "pacs.queried": _Kind(atna.QUERY),
    "audit.read": _Kind(atna.AUDIT_LOG_USED, "R", role=atna.ROLE_SECURITY_RESOURCE),
    "audit.repaired": _Kind(atna.SECURITY_ALERT, role=atna.ROLE_SECURITY_RESOURCE),
}
_OTHER = _Kind(atna.APPLICATION_ACTIVITY)


def message_of(entry: AuditEntry, *, node: str, site: str) -> AuditMessage:
    """An entry of the chain as an ATNA message.

    Args:
        entry: the entry; it names studies and results by the node's own keys.
        node: the node's name as audit source: host or AE title.
        site: the site's name.
    """
    kind = _ACTIONS.get(entry.action, _OTHER)
    person = entry.actor not in _PROCESSES
    participants = [Participant(node, not person, atna.APPLICATION_ROLE)]
    if person:
        participants.insert(0, Participant(entry.actor, True))
    of_study = entry.action.startswith(("study.", "identity.", "patient."))
    about = atna.STUDY_KEY if of_study else atna.OTHER_KEY
    details = tuple((name, str(value)) for name, value in sorted(entry.detail.items()))
    failed = entry.action.endswith((".refused", ".failed"))
    return AuditMessage(
        event=kind.event,
        action=kind.action,
        at=entry.at,
        outcome=4 if failed else 0,
        source=node,
        site=site,
        participants=tuple(participants),
        kind=kind.type or Term(entry.action, _OWN_SCHEME, entry.action),
        objects=(AuditObject(entry.object, about, kind.role, kind.life_cycle, details),),
        words=str(entry.detail.get("reason", "")),
    )


class Sender(Protocol):
    """Takes syslog lines to a repository."""

    def send(self, line: str) -> None:
        """Send one line.

        Raises:
            OSError: it could not be sent.
        """
        ...


class UdpSender:
    """One datagram a line (RFC 5426)."""

    def __init__(self, host: str, port: int) -> None:
        self._address = (host, port)

    def send(self, line: str) -> None:
        """Send one line; nobody tells whether it arrived."""
        family = socket.getaddrinfo(*self._address, type=socket.SOCK_DGRAM)[0][0]
        with socket.socket(family, socket.SOCK_DGRAM) as out:
            out.sendto(line.encode(), self._address)


class TlsSender:
    """A TLS connection that is kept open (RFC 5425)."""

    def __init__(self, host: str, port: int, context: Callable[[], ssl.SSLContext]) -> None:
        self._address = (host, port)
        self._context = context
        self._connection: ssl.SSLSocket | None = None

    def send(self, line: str) -> None:
        """Send one line; a broken connection is opened again once."""
        frame = atna.octet_counted(line)
        try:
            self._open().sendall(frame)
        except OSError:
            self.close()
            self._open().sendall(frame)

    def close(self) -> None:
        """Close the connection."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _open(self) -> ssl.SSLSocket:
        if self._connection is None:
            with ExitStack() as undone:
                plain = socket.create_connection(self._address, timeout=_SEND_S)
                undone.callback(plain.close)
                self._connection = self._context().wrap_socket(
                    plain, server_hostname=self._address[0]
                )
                undone.pop_all()
        return self._connection


@dataclass(frozen=True, slots=True)
class AtnaParts:
    """What the feed works with.

    Attributes:
        chain: the audit chain's file.
        log: the file of messages, in the node's home.
        node: the node's name as audit source.
        site: the site's name.
        host: the host name of the syslog line.
        sender: takes messages to a repository; None for none.
    """

    chain: Path
    log: Path
    node: str
    site: str
    host: str
    sender: Sender | None = None


def atna_feed(home: Home, settings: Settings) -> AtnaFeed:
    """The feed of a node, with the repository of its settings."""
    audit, tls = settings.audit, settings.dicom.tls
    sender: Sender | None = None
    if audit.host is not None and audit.transport == "udp":
        sender = UdpSender(audit.host, audit.port)
    elif audit.host is not None and tls is not None:
        files = TlsFiles(tls.certificate, tls.key, tls.authorities, tls.profile)
        sender = TlsSender(audit.host, audit.port, lambda: client_context(files))
    return AtnaFeed(
        AtnaParts(
            chain=home.audit_file,
            log=home.atna_file,
            node=settings.dicom.ae_title,
            site=settings.node.site,
            host=socket.gethostname(),
            sender=sender,
        )
    )


class AtnaFeed:
    """Follows the chain and writes its messages. Used by one thread."""

    def __init__(self, parts: AtnaParts) -> None:
        self._parts = parts
        self._sent_file = parts.log.with_suffix(".sent")
        self._offset = self._read = 0
        self._written = -1
        self.problem = ""

    def run(self, stop: threading.Event) -> None:
        """Follow the chain until `stop` is set; a repository that is away is tried again."""
        wait = _LOOK_S
        while not stop.wait(wait):
            self.catch_up()
            wait = _LOOK_S if self.forward() else _RETRY_S
        self.catch_up()

    def catch_up(self) -> int:
        """Write a message for every entry that has none; gives how many were written."""
        chain = self._parts.chain
        if not chain.exists() or chain.stat().st_size == self._offset:
            return 0
        done = self._lines() if self._written < 0 else self._written
        number = self._read
        with self._parts.log.open("a", encoding="utf-8") as out:
            self._parts.log.chmod(0o600)
            for entry, offset in entries_from(chain, self._offset):
                number, self._offset = number + 1, offset
                if number <= done:
                    continue
                message = message_of(entry, node=self._parts.node, site=self._parts.site)
                out.write(atna.syslog_line(message, host=self._parts.host, number=number) + "\n")
        self._read, self._written = number, max(number, done)
        return max(0, number - done)

    def forward(self) -> bool:
        """Send what the repository has not got; False where it is away."""
        sender = self._parts.sender
        if sender is None or not self._parts.log.exists():
            return True
        done = self._sent()
        if done >= self._written >= 0:
            return True
        with self._parts.log.open(encoding="utf-8") as lines:
            for number, line in enumerate(lines, start=1):
                if number <= done:
                    continue
                try:
                    sender.send(line.rstrip("\n"))
                except OSError as error:
                    self.problem = f"the audit repository does not take messages ({error})"
                    _log.warning("audit_not_forwarded", cause=type(error).__name__)
                    return False
                self._sent_file.write_text(str(number))
        self.problem = ""
        return True

    def _lines(self) -> int:
        """Whole lines in the file; a torn last one is cut off."""
        log = self._parts.log
        if not log.exists():
            return 0
        count = end = 0
        with log.open("rb") as lines:
            for line in lines:
                if not line.endswith(b"\n"):
                    break
                count, end = count + 1, end + len(line)
        if end < log.stat().st_size:
            with log.open("r+b") as out:
                out.truncate(end)
        return count

    def _sent(self) -> int:
        try:
            return int(self._sent_file.read_text())
        except (OSError, ValueError):
            return 0
