"""A connection that is reset before its handshake leaves nothing open."""

from __future__ import annotations

import select
import socket
import ssl
import struct
import warnings
from collections.abc import Iterator

import pytest

from federation.wire.tls import ConnectedSocket


@pytest.fixture
def reset() -> Iterator[socket.socket]:
    """The end of a TCP connection that the other end has reset."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        other = socket.create_connection(listener.getsockname())
        ours, _ = listener.accept()
    other.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    other.close()
    with ours:
        poller = select.poll()
        poller.register(ours, select.POLLIN)
        assert poller.poll(10_000)
        yield ours


@pytest.mark.parametrize("server_side", [True, False])
def test_a_reset_connection_is_closed(reset: socket.socket, server_side: bool) -> None:
    kind = ssl.PROTOCOL_TLS_SERVER if server_side else ssl.PROTOCOL_TLS_CLIENT
    context = ssl.SSLContext(kind)
    context.check_hostname = False
    context.sslsocket_class = ConnectedSocket
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        with pytest.raises(ConnectionResetError):
            context.wrap_socket(reset, server_side=server_side)
    assert [str(one.message) for one in caught] == []
