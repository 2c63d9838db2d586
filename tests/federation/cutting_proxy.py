"""A TCP relay that cuts connections after a number of bytes: a bad line, for real."""

from __future__ import annotations

import contextlib
import socket
import threading


class CuttingProxy:
    """Relays to ``target``; each connection ends once ``limit`` bytes went the watched way.

    Args:
        target: host and port behind it.
        limit: bytes per connection; None relays without end.
        upward: watch bytes from the caller (uploads), else bytes to the caller (downloads).
    """

    def __init__(self, target: tuple[str, int], limit: int | None, *, upward: bool) -> None:
        self._target = target
        self.limit = limit
        self._upward = upward
        self.cuts = 0
        self.carried = 0
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self._pairs: list[threading.Thread] = []
        self._links: list[socket.socket] = []
        self._thread = threading.Thread(target=self._accept, daemon=True)
        self._thread.start()

    def close(self) -> None:
        """End everything."""
        for link in (self._listener, *self._links):
            with contextlib.suppress(OSError):
                link.shutdown(socket.SHUT_RDWR)
        self._thread.join(5)
        for pair in self._pairs:
            pair.join(5)
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                caller, _ = self._listener.accept()
            except OSError:
                return
            try:
                server = socket.create_connection(self._target)
            except OSError:
                caller.close()
                continue
            self._links += [caller, server]
            pair = threading.Thread(target=self._carry, args=(caller, server), daemon=True)
            self._pairs.append(pair)
            pair.start()

    def _carry(self, caller: socket.socket, server: socket.socket) -> None:
        down = threading.Thread(
            target=self._relay, args=(server, caller, not self._upward), daemon=True
        )
        down.start()
        self._relay(caller, server, self._upward)
        down.join()
        caller.close()
        server.close()

    def _relay(self, source: socket.socket, sink: socket.socket, watched: bool) -> None:
        moved = 0
        try:
            while data := source.recv(1 << 14):
                sink.sendall(data)
                moved += len(data)
                if watched:
                    self.carried += len(data)
                    if self.limit is not None and moved > self.limit:
                        self.cuts += 1
                        break
        except OSError:
            pass
        for link in (source, sink):
            with contextlib.suppress(OSError):
                link.shutdown(socket.SHUT_RDWR)
