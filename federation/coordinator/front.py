"""The mutual-TLS front: it knows who calls, says why somebody is refused, and passes the rest on.

gRPC's Python server hides why a handshake failed and which certificate a connection carries, so
TLS ends here, in OpenSSL by the standard library, and the plain bytes go to the gRPC server through
a Unix socket in a private folder. Each onward connection is bound to a socket path of its own;
gRPC names that path as its peer, which is how a call finds the certificate it came with.
"""

from __future__ import annotations

import itertools
import select
import shutil
import socket
import ssl
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import structlog
from cryptography import x509

from federation.clock import TIME_PROTOCOL, Clock, stamp, utc_now
from federation.coordinator.causes import Cause, cause_of
from federation.pki import common_name, serial_of
from federation.wire.bulk import BULK_PROTOCOL
from federation.wire.pump import Pump
from federation.wire.tls import ConnectedSocket

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Identity:
    """Who a connection's certificate says it is."""

    site: str
    serial: str
    ends: str


@dataclass(frozen=True, slots=True)
class FrontSettings:
    """Where the front listens and what it bears.

    Attributes:
        host: address to bind.
        port: 0 takes a free one.
        certificate: the coordinator's certificate, PEM.
        key: its key, PEM.
        authority: the project's authority, PEM: the only root.
        handshake_s: whole time a handshake may take.
        max_connections: connections held at once.
        passphrase: what covers the key; None for a plain file.
        clock: what a site is told that asks for the time.
    """

    host: str
    port: int
    certificate: Path
    key: Path
    authority: Path
    handshake_s: float = 10.0
    max_connections: int = 256
    passphrase: bytes | None = field(default=None, repr=False)
    clock: Clock = utc_now


Refused = Callable[[Cause, str], None]
"""Called with the cause and the caller's network address."""
Bulk = Callable[[ssl.SSLSocket, str], None]
"""Serves a bulk connection (:mod:`federation.wire.bulk`), which has a name for :meth:`identity`."""


class TlsFront:
    """Listens, ends TLS, passes admitted connections to ``backend``.

    Args:
        settings: addresses and limits.
        backend: path of the gRPC server's Unix socket.
        refused: told of every refusal, from the connection's thread.
    """

    def __init__(self, settings: FrontSettings, backend: Path, refused: Refused) -> None:
        self._settings = settings
        self._backend = backend
        self._refused = refused
        self._bulk: Bulk | None = None
        self._context = self._server_context()
        self._folder = Path(tempfile.mkdtemp(prefix="clinode-front-"))
        self._numbers = itertools.count(1)
        self._lock = threading.Lock()
        self._live: dict[str, tuple[Identity, socket.socket]] = {}
        self._threads: set[threading.Thread] = set()
        self._stopping = threading.Event()
        self._listener: socket.socket | None = None
        self._acceptor: threading.Thread | None = None

    def serve_bulk(self, bulk: Bulk) -> None:
        """Hand bulk connections to ``bulk``, in the connection's thread; before :meth:`start`."""
        self._bulk = bulk
        self.reload()

    def start(self) -> int:
        """Bind and serve; gives the port."""
        family = socket.AF_INET6 if ":" in self._settings.host else socket.AF_INET
        listener = socket.create_server(
            (self._settings.host, self._settings.port), family=family, backlog=64
        )
        self._listener = listener
        self._acceptor = threading.Thread(target=self._accept, name="front", daemon=True)
        self._acceptor.start()
        return int(listener.getsockname()[1])

    def stop(self) -> None:
        """Close the listener and every connection."""
        self._stopping.set()
        if self._listener is not None:
            _break(self._listener)
            self._listener.close()
        if self._acceptor is not None:
            self._acceptor.join(5)
        with self._lock:
            live, threads = list(self._live.values()), list(self._threads)
        for _, raw in live:
            _break(raw)
        for thread in threads:
            thread.join(5)
        shutil.rmtree(self._folder, ignore_errors=True)

    def reload(self) -> None:
        """Show the certificate and believe the authorities that the files hold now.

        Connections that stand are left as they are.
        """
        self._context = self._server_context()

    def _server_context(self) -> ssl.SSLContext:
        return _server_context(self._settings, () if self._bulk is None else (BULK_PROTOCOL,))

    def identity(self, peer: str) -> Identity | None:
        """The certificate behind ``context.peer()`` of a call; None where nobody came this way."""
        with self._lock:
            found = self._live.get(peer.removeprefix("unix:"))
        return found[0] if found else None

    def drop(self, site: str) -> int:
        """Break every connection of a site; gives their number."""
        with self._lock:
            sockets = [raw for identity, raw in self._live.values() if identity.site == site]
        for raw in sockets:
            _break(raw)
        return len(sockets)

    def _accept(self) -> None:
        listener = self._listener
        while listener is not None and not self._stopping.is_set():
            try:
                raw, address = listener.accept()
            except OSError:
                if self._stopping.is_set():
                    return
                _log.warning("accept_failed")
                self._stopping.wait(0.1)
                continue
            with self._lock:
                full = len(self._threads) >= self._settings.max_connections
            if full:
                self._refused(Cause.TOO_MANY, str(address[0]))
                raw.close()
                continue
            thread = threading.Thread(
                target=self._serve, args=(raw, str(address[0])), name="front-link", daemon=True
            )
            with self._lock:
                self._threads.add(thread)
            thread.start()

    def _serve(self, raw: socket.socket, address: str) -> None:
        try:
            with raw:
                self._admit(raw, address)
        except OSError as error:
            _log.debug("link_ended", cause=type(error).__name__)
        finally:
            with self._lock:
                self._threads.discard(threading.current_thread())

    def _admit(self, raw: socket.socket, address: str) -> None:
        raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        raw.setblocking(False)
        tls = self._context.wrap_socket(raw, server_side=True, do_handshake_on_connect=False)
        with tls:
            try:
                _handshake(tls, time.monotonic() + self._settings.handshake_s)
                identity = _identity(tls)
            except (OSError, ValueError) as error:
                cause = cause_of(error)
                _log.info("connection_refused", cause=cause.value)
                if cause is not Cause.BROKEN_OFF:
                    self._refused(cause, address)
                return
            if identity is None:
                # A site whose clock is wrong takes our certificate for old: it may ask the time.
                tls.send(stamp(self._settings.clock()).encode())
                return
            if self._bulk is not None and tls.selected_alpn_protocol() == BULK_PROTOCOL:
                self._carry(self._bulk, tls, identity)
            else:
                self._pass_on(tls, identity)

    def _carry(self, bulk: Bulk, tls: ssl.SSLSocket, identity: Identity) -> None:
        name = f"bulk-{next(self._numbers)}"
        with self._lock:
            self._live[name] = (identity, tls)
        try:
            bulk(tls, name)
        finally:
            with self._lock:
                self._live.pop(name, None)

    def _pass_on(self, tls: ssl.SSLSocket, identity: Identity) -> None:
        path = self._folder / f"link-{next(self._numbers)}"
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as plain:
            plain.bind(str(path))
            with self._lock:
                self._live[str(path)] = (identity, tls)
            try:
                plain.connect(str(self._backend))
                path.unlink()
                plain.setblocking(False)
                Pump(tls, plain).run(self._stopping)
            finally:
                with self._lock:
                    self._live.pop(str(path), None)
                path.unlink(missing_ok=True)


def _server_context(settings: FrontSettings, further: Sequence[str]) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.sslsocket_class = ConnectedSocket
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.verify_mode = ssl.CERT_REQUIRED
    # Never None: OpenSSL would ask at the terminal for the passphrase of a covered key.
    context.load_cert_chain(settings.certificate, settings.key, settings.passphrase or b"")
    context.load_verify_locations(cafile=str(settings.authority))
    context.set_alpn_protocols(["h2", TIME_PROTOCOL, *further])
    context.options |= ssl.OP_NO_RENEGOTIATION | ssl.OP_NO_COMPRESSION
    return context


def _wait(link: socket.socket, events: int, deadline: float) -> None:
    poller = select.poll()
    poller.register(link, events)
    left = deadline - time.monotonic()
    if left <= 0 or not poller.poll(left * 1000):
        raise TimeoutError("the handshake took too long")


def _handshake(tls: ssl.SSLSocket, deadline: float) -> None:
    while True:
        try:
            tls.do_handshake()
        except ssl.SSLWantReadError:
            _wait(tls, select.POLLIN, deadline)
        except ssl.SSLWantWriteError:
            _wait(tls, select.POLLOUT, deadline)
        else:
            return


def _identity(tls: ssl.SSLSocket) -> Identity | None:
    if tls.selected_alpn_protocol() == TIME_PROTOCOL:
        return None
    if tls.selected_alpn_protocol() not in ("h2", BULK_PROTOCOL):
        raise ValueError("the caller does not speak HTTP/2")
    shown = tls.getpeercert(binary_form=True)
    if shown is None:
        raise ValueError("no certificate")
    certificate = x509.load_der_x509_certificate(shown)
    ends = certificate.not_valid_after_utc.isoformat()
    return Identity(common_name(certificate.subject), serial_of(certificate), ends)


def _break(link: socket.socket) -> None:
    """End a socket under the feet of whoever waits on it."""
    try:
        # shutdown of the descriptor itself: SSLSocket.shutdown would drop its TLS state mid-use.
        socket.socket.shutdown(link, socket.SHUT_RDWR)
    except OSError:
        _log.debug("already_closed")
