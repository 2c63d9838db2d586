"""The socket of the control API: one gRPC server that only the home folder's owner can reach."""

from __future__ import annotations

from concurrent import futures
from contextlib import suppress
from pathlib import Path

import grpc

from appliance.control.node_pb2_grpc import (
    NodeControlServicer,
    add_NodeControlServicer_to_server,
)
from appliance.control.peers import Tickets
from appliance.control.socket_path import control_socket

WORKERS = 8
STOP_GRACE_S = 2.0


class ControlServer:
    """The socket: open while the node runs."""

    def __init__(
        self, home: Path, servicer: NodeControlServicer, tickets: Tickets | None = None
    ) -> None:
        """Prepare the server.

        Args:
            home: the home folder that names the socket.
            servicer: answers the calls.
            tickets: tells the servicer who calls; started and stopped with the server.
        """
        self._tickets = tickets
        self._path = control_socket(home)
        self._server = grpc.server(
            futures.ThreadPoolExecutor(WORKERS, thread_name_prefix="control"),
            options=(("grpc.so_reuseport", 0),),
        )
        add_NodeControlServicer_to_server(servicer, self._server)

    def start(self) -> None:
        """Listen. A socket left by a killed node is replaced: its home's lock is ours by now."""
        with suppress(FileNotFoundError):
            self._path.unlink()
        self._server.add_insecure_port(f"unix:{self._path}")
        self._server.start()
        self._path.chmod(0o600)
        if self._tickets is not None:
            self._tickets.start()

    def stop(self) -> None:
        """Finish running calls and close the socket."""
        if self._tickets is not None:
            self._tickets.stop()
        self._server.stop(STOP_GRACE_S).wait()
        with suppress(FileNotFoundError):
            self._path.unlink()
