"""Bytes both ways between two sockets, without a copy more than the kernel's."""

from __future__ import annotations

import select
import socket
import ssl
import threading
from typing import Final

BUFFER_BYTES: Final = 1 << 18


class _Flow:
    """One direction: a buffer that is filled from one side and emptied into the other."""

    def __init__(self) -> None:
        self.buffer = memoryview(bytearray(BUFFER_BYTES))
        self.start = 0
        self.stop = 0
        self.ended = False

    @property
    def empty(self) -> bool:
        """Nothing waits to be sent."""
        return self.start == self.stop

    def fill(self, source: socket.socket) -> None:
        """Receive until the buffer is full; the socket's exception says that no more is there."""
        if self.empty:
            self.start = self.stop = 0
        while self.stop < BUFFER_BYTES and not self.ended:
            count = source.recv_into(self.buffer[self.stop :])
            self.ended = count == 0
            self.stop += count

    def drain(self, sink: socket.socket) -> None:
        """Send what waits."""
        while not self.empty:
            self.start += sink.send(self.buffer[self.start : self.stop])


class Pump:
    """Moves bytes both ways between two non-blocking sockets, TLS or plain, in one thread.

    One thread, because OpenSSL's connection object must not be read and written at once.

    Args:
        outer: one side.
        inner: the other side.
    """

    def __init__(self, outer: socket.socket, inner: socket.socket) -> None:
        self._outer, self._inner = outer, inner
        self._inward, self._outward = _Flow(), _Flow()
        self._wanted: dict[int, int] = {}

    def run(self, stopping: threading.Event) -> None:
        """Until either side ends."""
        while not stopping.is_set():
            self._wanted = {self._outer.fileno(): 0, self._inner.fileno(): 0}
            again = self._move(self._inward, self._outer, self._inner)
            again |= self._move(self._outward, self._inner, self._outer)
            if any(flow.ended and flow.empty for flow in (self._inward, self._outward)):
                return
            if again:
                continue
            poller = select.poll()
            for descriptor, events in self._wanted.items():
                poller.register(descriptor, events)
            poller.poll(30_000)

    def _move(self, flow: _Flow, source: socket.socket, sink: socket.socket) -> bool:
        """One step of one direction; whether more may be had without waiting.

        OpenSSL may hold decrypted bytes that no poll shows: a buffer that was filled to its end
        and emptied is filled again at once.
        """
        again = False
        try:
            flow.fill(source)
            again = not flow.ended
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError, BlockingIOError) as error:
            self._want(source, error, select.POLLIN)
        except ssl.SSLZeroReturnError:
            flow.ended = True
        try:
            flow.drain(sink)
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError, BlockingIOError) as error:
            self._want(sink, error, select.POLLOUT)
            return False
        if not flow.ended:
            self._wanted[source.fileno()] |= select.POLLIN
        return again

    def _want(self, link: socket.socket, error: OSError, otherwise: int) -> None:
        events = otherwise
        if isinstance(error, ssl.SSLWantReadError):
            events = select.POLLIN
        elif isinstance(error, ssl.SSLWantWriteError):
            events = select.POLLOUT
        self._wanted[link.fileno()] |= events
