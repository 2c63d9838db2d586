"""Bulk connections: the chunk calls without gRPC, and with it where a coordinator has no other."""

from __future__ import annotations

import os
import socket
import ssl
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from federation.chunks import CHUNK_BYTES
from federation.coordinator.control_client import CoordinatorClient
from federation.enrolment.client import SiteIdentity
from federation.errors import IdentityRefused, RequestRefused
from federation.node.clock_check import client_context
from federation.node.connection import CoordinatorConnection, RetryPolicy
from federation.pki import SERVER_NAME
from federation.wire import federation_pb2 as pb
from federation.wire.bulk import BULK_PROTOCOL, BulkStream, Kind
from federation.wire.dial import split_address
from federation.wire.frames import Piece
from tests.federation.doubles import Federation, small_plan
from tests.waiting import wait_for


def _pair() -> tuple[socket.socket, socket.socket]:
    return socket.socketpair()


@pytest.mark.parametrize("size", [0, 1, CHUNK_BYTES // 2])
def test_messages_go_over_as_they_are(size: int) -> None:
    left, right = _pair()
    data = os.urandom(size)
    with left, right:
        right.settimeout(20)
        sender = threading.Thread(
            target=lambda: BulkStream(left).send_piece(Piece(7, 9, data)),  # type: ignore[arg-type]
        )
        sender.start()
        message = BulkStream(right).receive()  # type: ignore[arg-type]
        sender.join()
        assert message.kind is Kind.PIECE
        assert (message.first, message.second, bytes(message.data)) == (7, 9, data)


@pytest.mark.parametrize(
    ("head", "words"),
    [
        (b"\x09" + bytes(12), "not a valid Kind"),
        (b"\x03" + bytes(8) + b"\xff\xff\xff\xff", "a message of"),
        (b"\x04" + bytes(8) + b"\x00\x20\x00\x00", "a message of"),
    ],
)
def test_what_is_no_message_is_refused_before_it_takes_memory(head: bytes, words: str) -> None:
    left, right = _pair()
    with left, right:
        left.sendall(head)
        with pytest.raises(ValueError, match=words):
            BulkStream(right).receive()  # type: ignore[arg-type]


@pytest.fixture
def offered(
    federation: Federation,
) -> Iterator[tuple[CoordinatorConnection, pb.Task, SiteIdentity]]:
    """A connection of site-a with its offer, whose plan it may fetch."""
    federation.enrolled("site-b")
    identity = federation.enrolled("site-a")
    link = CoordinatorConnection(identity, retry=RetryPolicy(first_s=0.02, longest_s=0.1))
    with CoordinatorClient(federation.home) as control:
        control.submit(small_plan(1))
        task = wait_for(lambda: link.poll(wait_s=1).task, what="the offer", seconds=20)
    yield link, task, identity
    link.close()


@pytest.mark.parametrize("bulk", [True, False])
def test_objects_come_with_and_without_bulk_connections(
    federation: Federation,
    offered: tuple[CoordinatorConnection, pb.Task, SiteIdentity],
    tmp_path: Path,
    bulk: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    link, task, _ = offered
    served: list[str] = []
    front = federation.coordinator._front
    assert front is not None
    real = front._bulk
    assert real is not None

    def _noted(tls: ssl.SSLSocket, name: str) -> None:
        served.append(name)
        real(tls, name)

    monkeypatch.setattr(front, "_bulk", _noted if bulk else None)
    front.reload()
    moved = link.download(task.task_id, task.payloads[0], tmp_path / "plan")
    assert moved.bytes == task.payloads[0].size
    assert bool(served) is bulk


def _bulk_call(identity: SiteIdentity, kind: Kind, data: bytes) -> tuple[Kind, str]:
    context = client_context(identity)
    context.set_alpn_protocols([BULK_PROTOCOL])
    host, port = split_address(identity.address)
    with (
        socket.create_connection((host, port), timeout=20) as raw,
        context.wrap_socket(raw, server_hostname=SERVER_NAME) as tls,
    ):
        stream = BulkStream(tls)
        stream.send(kind, data)
        answer = stream.receive()
        return answer.kind, str(answer.data, "utf-8", "replace")


def test_refusals_come_in_words(
    federation: Federation,
    offered: tuple[CoordinatorConnection, pb.Task, SiteIdentity],
    tmp_path: Path,
) -> None:
    link, task, identity = offered
    request = pb.GetChunksRequest(format=1, task_id=task.task_id, object="0" * 64)
    answer = _bulk_call(identity, Kind.GET, request.SerializeToString())
    assert answer == (Kind.REFUSED, "the task does not name such an object")
    kind, words = _bulk_call(identity, Kind.END, b"")
    assert kind is Kind.REFUSED
    assert "names task and object" in words
    with pytest.raises(RequestRefused, match="no such task"):
        link.download("elsewhere", task.payloads[0], tmp_path / "x")
    with CoordinatorClient(federation.home) as control:
        control.revoke_site("site-a", "stolen")
    kind, words = _bulk_call(identity, Kind.GET, request.SerializeToString())
    assert (kind, words.partition(";")[0]) == (Kind.REFUSED, "refused: certificate revoked")
    with pytest.raises(IdentityRefused, match="revoked"):
        link.download(task.task_id, task.payloads[0], tmp_path / "plan")


def test_revocation_ends_a_download_that_runs(
    federation: Federation,
    offered: tuple[CoordinatorConnection, pb.Task, SiteIdentity],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The serial is looked at before every piece, not only when the connection is made."""
    link, task, _ = offered
    front = federation.coordinator._front
    assert front is not None
    revoked = threading.Event()
    real = federation.coordinator.objects.read

    def _slow(name: str, wanted: list[tuple[int, int]]) -> Iterator[Piece]:
        for piece in real(name, wanted):
            # Standing alone, without the broken connection that revoking brings.
            federation.coordinator.registry.revoke("site-a", "stolen")
            revoked.set()
            yield piece

    monkeypatch.setattr(federation.coordinator.objects, "read", _slow)
    with pytest.raises(IdentityRefused, match="revoked"):
        link.download(task.task_id, task.payloads[0], tmp_path / "plan")
    assert revoked.is_set()


def test_closing_breaks_a_waiting_transfer_off(
    federation: Federation,
    offered: tuple[CoordinatorConnection, pb.Task, SiteIdentity],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    link, task, _ = offered
    begun, over = threading.Event(), threading.Event()

    def _hanging(name: str, wanted: list[tuple[int, int]]) -> Iterator[Piece]:
        begun.set()
        over.wait(30)
        yield from ()

    monkeypatch.setattr(federation.coordinator.objects, "read", _hanging)
    ended: list[BaseException] = []

    def _download() -> None:
        try:
            link.download(task.task_id, task.payloads[0], tmp_path / "plan")
        except Exception as error:
            ended.append(error)

    thread = threading.Thread(target=_download)
    thread.start()
    assert begun.wait(20)
    link.stop.set()
    link.close()
    thread.join(10)
    over.set()
    assert not thread.is_alive()
    assert ended
