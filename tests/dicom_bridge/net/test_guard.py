"""Bounds on what a peer can make the receiver hold."""

from __future__ import annotations

import resource
import socket
import struct
import threading
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pynetdicom import AE
from pynetdicom.association import Association
from pynetdicom.dimse_primitives import C_ECHO

from dicom_bridge.net import PacsClient
from dicom_bridge.net.guard import GuardedSocket, MessageBounds, RequestorDimse, SpillBuffer
from tests.pacs import LOOPBACK, ONCE, QUICK, FolderInbox, running_receiver
from tests.waiting import wait_for


def pdu(kind: int, body: bytes) -> bytes:
    return struct.pack(">BBL", kind, 0, len(body)) + body


def connected_pair() -> tuple[socket.socket, socket.socket]:
    """Two ends of a TCP connection over loopback."""
    with socket.create_server((LOOPBACK, 0)) as listener:
        theirs = socket.create_connection(listener.getsockname())
        ours, _ = listener.accept()
    return ours, theirs


def read_exactly(guarded: GuardedSocket, count: int) -> bytes:
    data = b""
    while len(data) < count:
        piece = guarded.recv(min(4096, count - len(data)))
        if not piece:
            break
        data += piece
    return data


@given(
    st.lists(st.binary(max_size=9000), min_size=1, max_size=5),
    st.lists(st.integers(1, 5000), min_size=1, max_size=5),
)
def test_framing_passes_every_pdu_unchanged(bodies: list[bytes], cuts: list[int]) -> None:
    stream = b"".join(pdu(4, body) for body in bodies)
    ours, theirs = connected_pair()
    with GuardedSocket(fileno=ours.detach()) as guarded, theirs:

        def send() -> None:
            at, turn = 0, 0
            while at < len(stream):
                step = cuts[turn % len(cuts)]
                theirs.sendall(stream[at : at + step])
                at, turn = at + step, turn + 1

        sender = threading.Thread(target=send)
        sender.start()
        for body in bodies:
            header = read_exactly(guarded, 6)
            assert struct.unpack(">BBL", header) == (4, 0, len(body))
            assert read_exactly(guarded, len(body)) == body
        sender.join()


@pytest.mark.parametrize(
    ("kind", "length"), [(4, 1 << 31), (1, 1 << 24), (7, 1 << 20), (4, 131072 + 1025)]
)
def test_lying_length_is_refused_before_memory_is_taken(kind: int, length: int) -> None:
    ours, theirs = connected_pair()
    with GuardedSocket(fileno=ours.detach()) as guarded, theirs:
        theirs.sendall(struct.pack(">BBL", kind, 0, length))
        with pytest.raises(ConnectionAbortedError, match="longer than negotiated"):
            read_exactly(guarded, 6)


def test_started_pdu_must_be_finished_in_time() -> None:
    ours, theirs = connected_pair()
    with GuardedSocket(fileno=ours.detach()) as guarded, theirs:
        guarded.pdu_s = 0.1
        theirs.sendall(b"\x04\x00")
        with pytest.raises(TimeoutError):
            read_exactly(guarded, 6)


def test_end_of_stream_inside_a_pdu_gives_what_there_is() -> None:
    ours, theirs = connected_pair()
    with GuardedSocket(fileno=ours.detach()) as guarded:
        theirs.sendall(pdu(4, b"x" * 100)[:50])
        theirs.close()
        read_exactly(guarded, 6)
        assert read_exactly(guarded, 100) == b"x" * 44


@given(st.lists(st.binary(max_size=300), max_size=12), st.integers(0, 400), st.integers(0, 500))
def test_spill_buffer_keeps_every_byte(pieces: list[bytes], limit: int, head: int) -> None:
    buffer = SpillBuffer(MessageBounds(limit, 1 << 20, Path("/tmp")))
    for piece in pieces:
        assert buffer.write(piece) == len(piece)
    whole = b"".join(pieces)
    assert buffer.size == len(whole)
    assert buffer.head(head) == whole[:head]
    assert b"".join(bytes(part) for part in buffer.pieces()) == whole
    buffer.close()


def test_spilled_file_has_no_name(tmp_path: Path) -> None:
    buffer = SpillBuffer(MessageBounds(10, 1 << 20, tmp_path))
    buffer.write(b"x" * 1000)
    assert list(tmp_path.iterdir()) == []
    assert len(buffer.getbuffer()) == 0
    buffer.close()


def test_a_response_is_kept_for_the_request_that_waits_for_it() -> None:
    provider = RequestorDimse(Association(AE(), "requestor"))
    response = C_ECHO()
    provider.msg_queue.put((1, response))
    assert provider.get_msg() == (None, None)
    assert provider.get_msg(block=True) == (1, response)


def test_too_large_a_data_set_ends_the_association() -> None:
    buffer = SpillBuffer(MessageBounds(10, 100, None))
    buffer.write(b"x" * 100)
    with pytest.raises(ConnectionAbortedError, match="larger than allowed"):
        buffer.write(b"x")
    buffer.close()


def test_hostile_connections_leave_the_receiver_to_others(tmp_path: Path) -> None:
    """A lying PDU, a stalled header and silence: each is dropped, a good peer is served."""
    inbox = FolderInbox(tmp_path / "inbox")
    limits = {"max_associations": 4, "pdu_s": 0.3, "idle_s": 1.0}
    with running_receiver(inbox, **limits) as (_, remote):
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        starts = (struct.pack(">BBL", 1, 0, 0xFFFFFFFF), b"\x01\x00\x00", b"")
        hostile = []
        for start in starts:
            connection = socket.create_connection((remote.host, remote.port))
            connection.sendall(start)
            hostile.append(connection)
        good = PacsClient(remote, calling_ae="STORESCU", timeouts=QUICK, retry=ONCE)
        assert good.echo().ok
        for connection in hostile:
            connection.settimeout(10)
            wait_for(lambda c=connection: _is_closed(c), what="the receiver to hang up")
            connection.close()
        assert good.echo().ok
        grown_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert grown_kib < 64 * 1024


def _is_closed(connection: socket.socket) -> bool:
    try:
        data = connection.recv(1024)
    except OSError:
        return True
    return data == b""
