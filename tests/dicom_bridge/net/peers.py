"""Peers that misbehave on purpose: a scripted SCP and a relay that cuts connections."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from pynetdicom import AE, evt

from dicom_bridge.net import RemoteAE
from dicom_bridge.net.stack import STUDY_ROOT_FIND, STUDY_ROOT_MOVE, VERIFICATION
from tests.pacs import LOOPBACK


@contextmanager
def scripted_scp(
    find: Callable[[evt.Event], Iterator[tuple[int, object]]] | None = None,
    move: Callable[[evt.Event], Iterator[object]] | None = None,
    *,
    services: tuple[str, ...] = (VERIFICATION, STUDY_ROOT_FIND, STUDY_ROOT_MOVE),
) -> Iterator[RemoteAE]:
    """A real SCP whose answers a test writes."""
    entity = AE(ae_title="SCRIPTED")
    entity.maximum_associations = 20
    for service in services:
        entity.add_supported_context(service)
    handlers: list[tuple[object, object]] = [(evt.EVT_C_ECHO, lambda _event: 0x0000)]
    if find is not None:
        handlers.append((evt.EVT_C_FIND, find))
    if move is not None:
        handlers.append((evt.EVT_C_MOVE, move))
    server = entity.start_server((LOOPBACK, 0), block=False, evt_handlers=handlers)
    try:
        yield RemoteAE("SCRIPTED", LOOPBACK, server.server_address[1])
    finally:
        server.shutdown()
        for association in server.active_associations:
            association.abort()


class CuttingRelay:
    """Passes bytes between a client and a server, and cuts the first ``cuts`` connections.

    A connection that is to be cut ends after ``after`` bytes from the client.
    """

    def __init__(self, target_port: int, *, port: int = 0, after: int, cuts: int) -> None:
        self._target = target_port
        self._after = after
        self._cuts_left = cuts
        self.connections = 0
        self._listener = socket.create_server((LOOPBACK, port))
        self.port = int(self._listener.getsockname()[1])
        self._open: list[socket.socket] = []
        self._thread = threading.Thread(target=self._accept, daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop and close everything."""
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join()
        for connection in self._open:
            connection.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            self.connections += 1
            server = socket.create_connection((LOOPBACK, self._target))
            self._open += [client, server]
            allowed = None
            if self._cuts_left:
                self._cuts_left -= 1
                allowed = self._after
            for source, sink, limit in ((client, server, allowed), (server, client, None)):
                threading.Thread(target=_pump, args=(source, sink, limit), daemon=True).start()


def _pump(source: socket.socket, sink: socket.socket, limit: int | None) -> None:
    passed = 0
    with contextlib.suppress(OSError):
        while data := source.recv(4096):
            if limit is not None and passed + len(data) > limit:
                sink.sendall(data[: limit - passed])
                break
            sink.sendall(data)
            passed += len(data)
    for end in (source, sink):
        with contextlib.suppress(OSError):
            end.shutdown(socket.SHUT_RDWR)


@contextmanager
def cutting_relay(
    target_port: int, *, port: int = 0, after: int, cuts: int = 1
) -> Iterator[CuttingRelay]:
    """A relay in front of ``target_port``; see :class:`CuttingRelay`."""
    relay = CuttingRelay(target_port, port=port, after=after, cuts=cuts)
    try:
        yield relay
    finally:
        relay.close()
