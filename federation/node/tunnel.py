"""gRPC's way through a proxy: a Unix socket of our own, behind which every connection is dialled.

gRPC can use HTTP proxies by itself, but neither by TLS nor with an authority of the hospital's, and
it does not say what went wrong. Here each connection that gRPC opens is dialled by
:func:`federation.wire.dial.dial`, whose words are kept for the operator.
"""

from __future__ import annotations

import shutil
import socket
import tempfile
import threading
from pathlib import Path
from typing import Final

import structlog

from federation.errors import FederationError
from federation.wire.dial import Proxy, dial
from federation.wire.pump import Pump

DIAL_S: Final = 20.0
_log = structlog.get_logger(__name__)


class Tunnel:
    """Listens on a private Unix socket and passes each connection on to the coordinator.

    Args:
        address: the coordinator's ``host:port``.
        proxy: None dials directly.
        timeout_s: for each step of dialling.
    """

    def __init__(self, address: str, proxy: Proxy | None, *, timeout_s: float = DIAL_S) -> None:
        self._address = address
        self._proxy = proxy
        self._timeout_s = timeout_s
        self._stopping = threading.Event()
        self._problem = ""
        # Only this account may enter a folder of mkdtemp, so nobody else can use the way out.
        self._folder = Path(tempfile.mkdtemp(prefix="clinode-out-"))
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._listener.bind(str(self._folder / "s"))
        self._listener.listen(16)
        self._thread = threading.Thread(target=self._accept, name="tunnel", daemon=True)
        self._thread.start()

    @property
    def target(self) -> str:
        """What gRPC dials."""
        return f"unix:{self._folder / 's'}"

    @property
    def problem(self) -> str:
        """Why the last connection could not be made; empty where it could."""
        return self._problem

    def close(self) -> None:
        """Stop listening; open connections end by themselves."""
        self._stopping.set()
        try:
            self._listener.shutdown(socket.SHUT_RDWR)
        except OSError:
            _log.debug("tunnel_closed_already")
        self._listener.close()
        self._thread.join(5)
        shutil.rmtree(self._folder, ignore_errors=True)

    def _accept(self) -> None:
        while not self._stopping.is_set():
            try:
                inner, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(
                target=self._serve, args=(inner,), name="tunnel-link", daemon=True
            ).start()

    def _serve(self, inner: socket.socket) -> None:
        with inner:
            try:
                outer = dial(self._address, self._proxy, self._timeout_s)
            except (FederationError, OSError) as error:
                self._problem = str(error)
                _log.warning("coordinator_not_reached", cause=type(error).__name__)
                return
            self._problem = ""
            with outer:
                outer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                outer.setblocking(False)
                inner.setblocking(False)
                try:
                    Pump(outer, inner).run(self._stopping)
                except OSError as error:
                    _log.debug("tunnel_link_ended", cause=type(error).__name__)
