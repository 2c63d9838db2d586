"""A TCP relay that stands for the line between a site and the coordinator and fails like one."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable
from pathlib import Path

PIECE = 1 << 16


def order(control: Path, what: str) -> None:
    """Tell a relay in another process to ``cut`` or ``swallow``; returns once it has."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as link:
        link.connect(str(control))
        link.sendall(what.encode())
        link.recv(16)


class Relay:
    """Relays to ``target`` and counts bytes both ways.

    * ``cut``: every connection ends now, as after a reset; new ones are relayed.
    * ``swallow``: nothing more passes the connections that stand, they stay open and silent; new
      ones are relayed. A state table of a firewall that has forgotten them does this.
    * ``dead = True``: as ``swallow``, and new connections pass nothing either.

    Args:
        target: host and port behind it.
        control: path of a Unix socket that takes ``cut`` and ``swallow`` from other processes.
    """

    def __init__(self, target: tuple[str, int], control: Path) -> None:
        self._target = target
        self.control = control
        self.carried = 0
        self._counted = threading.Lock()
        self._dead = False
        self._links: list[tuple[socket.socket, socket.socket, threading.Event]] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self._orders = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._orders.bind(str(control))
        self._orders.listen()
        self._threads = [
            _started(lambda: self._accept(self._listener, self._connect)),
            _started(lambda: self._accept(self._orders, self._obey)),
        ]

    @property
    def dead(self) -> bool:
        """Whether nothing passes at all."""
        return self._dead

    @dead.setter
    def dead(self, value: bool) -> None:
        self._dead = value
        if value:
            self.swallow()
        else:
            self.cut()

    def cut(self) -> None:
        """End every connection."""
        links, self._links = self._links, []
        for caller, server, _ in links:
            for side in (caller, server):
                with contextlib.suppress(OSError):
                    side.shutdown(socket.SHUT_RDWR)

    def swallow(self) -> None:
        """Let nothing more pass the connections that stand."""
        for _, _, silent in self._links:
            silent.set()

    def close(self) -> None:
        """End everything."""
        for listener in (self._listener, self._orders):
            with contextlib.suppress(OSError):
                listener.shutdown(socket.SHUT_RDWR)
            listener.close()
        self.cut()
        for thread in self._threads:
            thread.join(5)
        self.control.unlink(missing_ok=True)

    def _accept(self, listener: socket.socket, act: Callable[[socket.socket], None]) -> None:
        while True:
            try:
                link, _ = listener.accept()
            except OSError:
                return
            act(link)

    def _obey(self, link: socket.socket) -> None:
        with link:
            what = link.recv(64).decode().strip()
            {"cut": self.cut, "swallow": self.swallow}[what]()
            link.sendall(b"done\n")

    def _connect(self, caller: socket.socket) -> None:
        try:
            server = socket.create_connection(self._target)
        except OSError:
            caller.close()
            return
        silent = threading.Event()
        if self._dead:
            silent.set()
        self._links.append((caller, server, silent))
        both = [
            _started(lambda: self._carry(caller, server, silent)),
            _started(lambda: self._carry(server, caller, silent)),
        ]
        self._threads += both
        self._threads.append(_started(lambda: _close_after(both, (caller, server))))

    def _carry(self, source: socket.socket, sink: socket.socket, silent: threading.Event) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(PIECE):
                if silent.is_set():
                    continue
                sink.sendall(data)
                with self._counted:
                    self.carried += len(data)
        for side in (source, sink):
            with contextlib.suppress(OSError):
                side.shutdown(socket.SHUT_RDWR)


def _close_after(threads: list[threading.Thread], sockets: tuple[socket.socket, ...]) -> None:
    for thread in threads:
        thread.join()
    for link in sockets:
        link.close()


def _started(work: Callable[[], None]) -> threading.Thread:
    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    return thread
