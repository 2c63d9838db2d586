"""The TLS front alone: it carries bytes both ways unharmed and bounds what callers may take."""

from __future__ import annotations

import contextlib
import hashlib
import os
import socket
import ssl
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from federation.clock import utc_now
from federation.coordinator.causes import Cause
from federation.coordinator.front import FrontSettings, Identity, TlsFront
from federation.pki import (
    SERVER_NAME,
    KeyPair,
    issue_server,
    issue_site,
    make_authority,
    new_key,
    save_key,
)
from tests.waiting import wait_for


@dataclass
class Rig:
    """A front before an echo server."""

    front: TlsFront
    port: int
    client: ssl.SSLContext
    refused: list[Cause] = field(default_factory=list)
    peers: list[Identity | None] = field(default_factory=list)


def _echo(listener: socket.socket, rig: list[Rig]) -> None:
    while True:
        try:
            link, peer = listener.accept()
        except OSError:
            return
        rig[0].peers.append(rig[0].front.identity(f"unix:{peer}"))
        threading.Thread(target=_echo_link, args=(link,), daemon=True).start()


def _echo_link(link: socket.socket) -> None:
    with link:
        while data := link.recv(1 << 16):
            link.sendall(data)


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    authority = make_authority("p", utc_now())
    server = issue_server(authority, "p", ("127.0.0.1",), utc_now())
    key = new_key()
    site = KeyPair(key, issue_site(authority, ("site-a", "p"), key.public_key(), utc_now()))
    for name, pair in (("ca", authority), ("server", server), ("site", site)):
        (tmp_path / f"{name}.crt").write_bytes(pair.certificate_pem())
        save_key(tmp_path / f"{name}.key", pair.key)
    client = ssl.create_default_context(cafile=str(tmp_path / "ca.crt"))
    client.load_cert_chain(tmp_path / "site.crt", tmp_path / "site.key")
    client.set_alpn_protocols(["h2"])
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(tmp_path / "echo"))
    listener.listen()
    refused: list[Cause] = []
    settings = FrontSettings(
        host="127.0.0.1",
        port=0,
        certificate=tmp_path / "server.crt",
        key=tmp_path / "server.key",
        authority=tmp_path / "ca.crt",
        handshake_s=0.3,
        max_connections=3,
    )
    front = TlsFront(settings, tmp_path / "echo", lambda cause, _: refused.append(cause))
    made = Rig(front, front.start(), client, refused)
    threading.Thread(target=_echo, args=(listener, [made]), daemon=True).start()
    yield made
    front.stop()
    socket.socket.shutdown(listener, socket.SHUT_RDWR)
    listener.close()


def _dial(rig: Rig) -> ssl.SSLSocket:
    raw = socket.create_connection(("127.0.0.1", rig.port), timeout=20)
    return rig.client.wrap_socket(raw, server_hostname=SERVER_NAME)


def test_many_megabytes_go_through_both_ways(rig: Rig) -> None:
    sent = os.urandom(8 << 20)
    with _dial(rig) as link:
        got = hashlib.sha256()
        count = 0
        for begin in range(0, len(sent), 50_000):
            piece = sent[begin : begin + 50_000]
            link.sendall(piece)
            left = len(piece)
            while left:
                data = link.recv(left)
                assert data
                got.update(data)
                left -= len(data)
                count += len(data)
    assert count == len(sent)
    assert got.hexdigest() == hashlib.sha256(sent).hexdigest()
    assert rig.peers[0] is not None
    assert rig.peers[0].site == "site-a"


def test_large_burst_does_not_stall(rig: Rig) -> None:
    """More decrypted bytes than the buffer holds wait in OpenSSL, where no poll sees them."""
    sent = os.urandom(3 << 20)
    received = bytearray()
    with _dial(rig) as link:
        link.setblocking(False)
        view, done = memoryview(sent), 0
        while len(received) < len(sent):
            if done < len(sent):
                with contextlib.suppress(ssl.SSLWantWriteError, ssl.SSLWantReadError):
                    done += link.send(view[done : done + (1 << 20)])
            with contextlib.suppress(ssl.SSLWantWriteError, ssl.SSLWantReadError):
                received += link.recv(1 << 20)
    assert bytes(received) == sent


def test_slow_handshake_and_too_many_connections_are_ended(rig: Rig) -> None:
    slow = [socket.create_connection(("127.0.0.1", rig.port)) for _ in range(4)]
    wait_for(lambda: Cause.TOO_MANY in rig.refused, what="the fourth to be refused", seconds=5)
    wait_for(
        lambda: rig.refused.count(Cause.TOO_SLOW) == 3, what="handshakes to time out", seconds=5
    )
    for link in slow:
        link.close()
    with _dial(rig) as link:
        link.sendall(b"x")
        assert link.recv(1) == b"x"


def test_dropped_site_loses_its_connection(rig: Rig) -> None:
    with _dial(rig) as link:
        link.sendall(b"x")
        assert link.recv(1) == b"x"
        assert rig.front.drop("site-b") == 0
        assert rig.front.drop("site-a") == 1
        with contextlib.suppress(ssl.SSLError, ConnectionError):
            assert link.recv(1) == b""
    wait_for(lambda: rig.front.drop("site-a") == 0, what="the link to be forgotten", seconds=5)
