"""The accept loop: takes connections and starts their threads, and does nothing else.

Nothing that a peer does or leaves undone can hold this loop up: there is no read, no write and no
TLS handshake in it.
"""

from __future__ import annotations

import contextlib
import os
import select
import socket
import threading
import time

import structlog

from dicom_bridge.net.scp.connection import Connection, Surroundings, start

_YIELD_S = 0.002
_PAUSE_S = 0.1
_log = structlog.get_logger(__name__)


class AcceptorServer:
    """Accepts on a listening socket, which several processes may share.

    Args:
        listener: bound and listening.
        surroundings: what connections share.
    """

    def __init__(self, listener: socket.socket, surroundings: Surroundings) -> None:
        self._listener = listener
        self._around = surroundings
        self._wake_out, self._wake_in = os.pipe()
        self._stopping = threading.Event()
        self._lock = threading.Lock()
        self._open: dict[Connection, threading.Thread] = {}
        listener.setblocking(False)

    def serve(self) -> None:
        """Accept until `stop`."""
        poll = select.poll()
        poll.register(self._listener, select.POLLIN)
        poll.register(self._wake_out, select.POLLIN)
        while not self._stopping.is_set():
            ready = {descriptor for descriptor, _ in poll.poll()}
            if self._stopping.is_set():
                break
            if self._listener.fileno() in ready:
                if self._around.board.has_emptier:
                    time.sleep(_YIELD_S)  # a process with fewer associations goes first
                self._accept()
        os.close(self._wake_out)

    def stop(self, *, join_s: float = 10.0) -> None:
        """Stop listening and end what is open; what is being recorded is finished first."""
        if self._stopping.is_set():
            return
        self._stopping.set()
        os.close(self._wake_in)
        self._listener.close()
        with self._lock:
            threads = dict(self._open)
        for connection in threads:
            connection.stop()
        deadline = time.monotonic() + join_s
        for thread in threads.values():
            thread.join(timeout=max(0.0, deadline - time.monotonic()))

    def _accept(self) -> None:
        try:
            plain, address = self._listener.accept()
        except (BlockingIOError, ConnectionAbortedError):
            return
        except OSError as error:
            if not self._stopping.is_set():
                _log.error("accept_failed", cause=error.strerror)
                time.sleep(_PAUSE_S)
            return
        host = str(address[0])
        if not self._around.waiting.enter(host):
            _log.warning("connection_refused", address=host, reason="too many wait already")
            with contextlib.suppress(OSError):
                plain.close()
            return
        connection = Connection(plain, host, self._around)
        with self._lock:
            self._open[connection] = threading.current_thread()
        thread = start(connection, self._forget)
        with self._lock:
            if connection in self._open:
                self._open[connection] = thread

    def _forget(self, connection: Connection) -> None:
        with self._lock:
            self._open.pop(connection, None)
