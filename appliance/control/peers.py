"""Who calls: the kernel's word for the account behind a local connection, not the caller's own.

gRPC does not show a peer's credentials, so a caller that needs a role fetches a ticket first, from
a plain Unix socket beside the control socket. There the kernel says who connected (SO_PEERCRED,
unix(7)); the ticket then travels in the call's metadata, once, within seconds.

The control socket admits the node's own account only, so several people reach it as that account
(`sudo -u clinode`). The audit login id of Linux (``/proc/PID/loginuid``) survives that and names
the person who logged in; where it is not set (containers, services) the account counts.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import secrets
import socket
import struct
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import structlog

from appliance.control.socket_path import control_socket
from appliance.errors import ControlError, NotAllowed, NotRunning

TICKET_METADATA = "clinode-ticket"
"""Metadata key of a ticket."""
VALID_S = 20.0
MOST_TICKETS = 256

_TICKET_BYTES = 32
_CREDENTIALS = struct.Struct("3i")
_TIMEOUT_S = 5.0
_UNSET = 2**32 - 1

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Caller:
    """Who connected.

    Attributes:
        uid: the account of the calling process.
        login_uid: the account that the person logged in with; equal to `uid` where unknown.
    """

    uid: int
    login_uid: int

    @property
    def name(self) -> str:
        """The person's account by name, or ``uid-N`` where it has none."""
        try:
            return pwd.getpwuid(self.login_uid).pw_name
        except KeyError:
            return f"uid-{self.login_uid}"


def login_uid(pid: int, uid: int) -> int:
    """The audit login id of a process, or `uid` where none is set."""
    try:
        found = int(Path(f"/proc/{pid}/loginuid").read_text(encoding="ascii"))
    except (OSError, ValueError):
        return uid
    return uid if found == _UNSET else found


class Tickets:
    """Gives tickets to local callers and tells whose a ticket was.

    Args:
        home: the home folder that names the socket.
        login: finds the person behind a process (pid, uid).
        clock: monotonic seconds.
    """

    def __init__(
        self,
        home: Path,
        *,
        login: Callable[[int, int], int] = login_uid,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._path = ticket_socket(home)
        self._login = login
        self._clock = clock
        self._mutex = threading.Lock()
        self._given: dict[str, tuple[Caller, float]] = {}
        self._listener: socket.socket | None = None
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Listen; a socket left by a killed node is replaced."""
        self._path.unlink(missing_ok=True)
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        listener.bind(str(self._path))
        self._path.chmod(0o600)
        listener.listen(8)
        self._listener = listener
        self._thread = threading.Thread(target=self._serve, name="tickets", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Close the socket."""
        if self._listener is not None:
            with contextlib.suppress(OSError):
                self._listener.shutdown(socket.SHUT_RDWR)
            self._listener.close()
            self._listener = None
        if self._thread is not None:
            self._thread.join(_TIMEOUT_S)
            self._thread = None
        self._path.unlink(missing_ok=True)

    def redeem(self, ticket: str) -> Caller:
        """Whose ticket this is; it counts once.

        Raises:
            NotAllowed: no such ticket was given in the last seconds.
        """
        with self._mutex:
            self._drop_old()
            found = self._given.pop(ticket, None)
        if found is None:
            raise NotAllowed("the node does not know who asks: use the command of this version")
        return found[0]

    def _serve(self) -> None:
        listener = self._listener
        while listener is not None:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            with connection:
                try:
                    connection.settimeout(_TIMEOUT_S)
                    connection.sendall(self._give(connection).encode("ascii"))
                except OSError:
                    _log.debug("ticket_not_given")

    def _give(self, connection: socket.socket) -> str:
        raw = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
        pid, uid, _ = _CREDENTIALS.unpack(raw)
        ticket = secrets.token_hex(_TICKET_BYTES)
        with self._mutex:
            self._drop_old()
            while len(self._given) >= MOST_TICKETS:
                del self._given[next(iter(self._given))]
            self._given[ticket] = (Caller(uid, self._login(pid, uid)), self._clock())
        return ticket

    def _drop_old(self) -> None:
        limit = self._clock() - VALID_S
        for ticket in [t for t, (_, at) in self._given.items() if at < limit]:
            del self._given[ticket]


@dataclass(frozen=True, slots=True)
class Custodians:
    """Who may see identities.

    Attributes:
        tickets: tells who asks.
        accounts: account names or numbers (``[access] custodians``); empty means the account that
            the service runs as, whoever uses it.
    """

    tickets: Tickets
    accounts: Sequence[str]

    def admit(self, ticket: str) -> str:
        """The name of the person who asks.

        Raises:
            NotAllowed: nobody known asks, or not a custodian.
        """
        caller = self.tickets.redeem(ticket)
        if self.accounts:
            allowed = not {caller.name, str(caller.login_uid)}.isdisjoint(self.accounts)
        else:
            allowed = caller.uid == os.getuid()
        if not allowed:
            raise NotAllowed(
                f"{caller.name} is not a custodian: [access] custodians of the settings names who"
                " may see identities"
            )
        return caller.name


def ticket_socket(home: Path) -> Path:
    """Where tickets are given: beside the control socket."""
    return control_socket(home).with_suffix(".who")


def fetch_ticket(home: Path) -> str:
    """A ticket for the next call of this process.

    Raises:
        NotRunning: no node runs on this home.
        ControlError: the node gave none.
    """
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(_TIMEOUT_S)
        try:
            connection.connect(str(ticket_socket(home)))
            parts = []
            while part := connection.recv(256):
                parts.append(part)
        except (FileNotFoundError, ConnectionRefusedError) as error:
            raise NotRunning(
                "no node is running on this home folder: start it with `clinode node run`"
            ) from error
        except OSError as error:
            raise ControlError("the node did not say who is asking: try again") from error
    return b"".join(parts).decode("ascii", "replace")
