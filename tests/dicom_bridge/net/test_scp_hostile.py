"""What hostile or broken peers cannot do to the acceptor, on real sockets."""

from __future__ import annotations

import io
import select
import socket
import ssl
import struct
import threading
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path

import psutil
import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.filewriter import dcmwrite

from dicom_bridge.errors import AssociationRejected
from dicom_bridge.net import PacsClient, PacsOptions, RemoteAE, TlsFiles
from dicom_bridge.net.scp.supervisor import ReceiverProcesses, Sizes
from dicom_bridge.net.stack import STORAGE_COMMITMENT
from tests.certificates import Authority
from tests.dicom_bridge.net import raw
from tests.dicom_bridge.net.processes import Zone, running_processes
from tests.pacs import (
    LOOPBACK,
    ONCE,
    QUICK,
    FolderInbox,
    SmallStudy,
    StudyForm,
    running_receiver,
    write_small_study,
)
from tests.waiting import wait_for


def client(remote: RemoteAE, tls: TlsFiles | None = None) -> PacsClient:
    options = PacsOptions(tls=tls)
    return PacsClient(remote, calling_ae="STORESCU", timeouts=QUICK, retry=ONCE, options=options)


@pytest.fixture
def study(tmp_path: Path) -> SmallStudy:
    return write_small_study(tmp_path / "source", StudyForm(slices=2, side=16))


@pytest.fixture
def inbox(tmp_path: Path) -> FolderInbox:
    return FolderInbox(tmp_path / "inbox")


@contextmanager
def held(port: int, count: int, data: bytes = b"") -> Iterator[list[socket.socket]]:
    """Connections that send something and then nothing."""
    with ExitStack() as stack:
        connections = []
        for _ in range(count):
            connection = stack.enter_context(
                closing(socket.create_connection((LOOPBACK, port), timeout=20))
            )
            connection.sendall(data)
            connections.append(connection)
        yield connections


def test_silent_tls_clients_keep_nobody_waiting(
    tmp_path: Path, study: SmallStudy, inbox: FolderInbox
) -> None:
    authority = Authority(tmp_path / "ca", "Hospital")
    pair = authority.issue("node")
    files = TlsFiles(pair.certificate, pair.key, authority.path)
    with (
        running_receiver(inbox, tls=files, idle_s=3.0) as (_, remote),
        held(remote.port, 6) as silent,
        held(remote.port, 3, b"\x16\x03\x01\x02\x00\x01") as started,
    ):
        sender = client(remote, files)
        assert sender.echo().ok
        assert [o.status for o in sender.send(study.paths)] == [0, 0]
        for connection in (*silent, *started):
            assert drained(connection), "dropped after the deadline"
        plain = raw.RawPeer(remote.port)
        plain.send(raw.association_request())
        assert plain.pdu()[0] != raw.AC
        plain.close()
        assert sender.echo().ok


def test_a_tls_client_without_our_certificate_is_refused(
    tmp_path: Path, inbox: FolderInbox
) -> None:
    authority, stranger = Authority(tmp_path / "ca", "Hospital"), Authority(tmp_path / "x", "X")
    pair, theirs = authority.issue("node"), stranger.issue("peer")
    files = TlsFiles(pair.certificate, pair.key, authority.path)
    context = ssl.create_default_context(cafile=str(authority.path))
    context.load_cert_chain(theirs.certificate, theirs.key)
    with running_receiver(inbox, tls=files) as (_, remote):
        plain = socket.create_connection((LOOPBACK, remote.port), timeout=20)
        with closing(plain):
            assert not speaks_tls(context, plain)
        assert client(remote, files).echo().ok


def speaks_tls(context: ssl.SSLContext, plain: socket.socket) -> bool:
    """Whether an association request over TLS is answered."""
    try:
        with context.wrap_socket(plain, server_hostname=LOOPBACK) as secured:
            secured.sendall(raw.association_request())
            return bool(secured.recv(10))
    except OSError:
        return False


def drained(connection: socket.socket) -> bool:
    """Whether the other side ends the connection."""
    try:
        while connection.recv(4096):
            pass
    except ConnectionError:
        return True
    except TimeoutError:
        return False
    return True


def test_a_header_that_stalls_inside_an_association_ends_it(
    study: SmallStudy, inbox: FolderInbox
) -> None:
    with running_receiver(inbox, pdu_s=0.5, max_associations=2) as (_, remote):
        with raw.raw_peer(remote.port) as first, raw.raw_peer(remote.port) as second:
            for peer, start in ((first, b"\x04\x00\x00"), (second, b"\x04\x00\x00\x00\x10\x00abc")):
                peer.associate()
                peer.send(start)
            with pytest.raises(AssociationRejected):
                client(remote).echo()
            for peer in (first, second):
                assert peer.pdu()[0] == raw.ABORT
        assert wait_for(lambda: can_echo(remote), what="a free seat")


def test_a_rejection_is_not_followed_by_our_end_of_the_connection(inbox: FolderInbox) -> None:
    """A requestor that finds both at once may take the rejection for a broken connection."""
    with running_receiver(inbox) as (_, remote), raw.raw_peer(remote.port) as peer:
        peer.send(raw.association_request(calling="STRANGER"))
        assert peer.pdu()[0] == raw.RJ
        readable, _, _ = select.select([peer.socket], [], [], 0.4)
        assert not readable, "the requestor closes, not we"


def can_echo(remote: RemoteAE) -> bool:
    try:
        return client(remote).echo().ok
    except AssociationRejected:
        return False


def test_bytes_that_drip_do_not_stretch_the_deadline(inbox: FolderInbox) -> None:
    with running_receiver(inbox, pdu_s=0.6) as (_, remote), raw.raw_peer(remote.port) as peer:
        peer.associate()
        peer.send(b"\x04\x00\x00\x00\x40\x00")
        ended = threading.Event()

        def drip() -> None:
            try:
                while not ended.wait(0.05):
                    peer.send(b"x")
            except OSError:
                return

        thread = threading.Thread(target=drip)
        thread.start()
        assert peer.pdu()[0] == raw.ABORT
        ended.set()
        thread.join()


@pytest.mark.parametrize("associated", [True, False])
def test_two_gibibytes_announced_are_refused_from_six_bytes(
    study: SmallStudy, inbox: FolderInbox, associated: bool
) -> None:
    with running_receiver(inbox) as (_, remote), raw.raw_peer(remote.port) as peer:
        before = psutil.Process().memory_info().rss
        if associated:
            peer.associate()
        peer.send(struct.pack(">BBL", 4 if associated else 1, 0, 1 << 31))
        assert peer.pdu() == (raw.ABORT, bytes([0, 0, 2 if associated else 0, 6 * associated]))
        assert swallowed(peer) < 64 << 20
        assert client(remote).echo().ok
        assert psutil.Process().memory_info().rss - before < 32 << 20


def swallowed(peer: raw.RawPeer) -> int:
    """How many bytes of the announced 2 GiB are taken before the connection is reset."""
    for number in range(1 << 15):
        try:
            peer.send(b"x" * 65536)
        except OSError:
            return number << 16
    return 1 << 31


def test_a_flood_is_rejected_for_the_moment_and_leaves_no_trace(
    study: SmallStudy, inbox: FolderInbox
) -> None:
    with running_receiver(inbox, max_associations=3) as (_, remote):
        with ExitStack() as stack:
            answers = []
            for _ in range(12):
                peer = stack.enter_context(raw.raw_peer(remote.port))
                peer.send(raw.association_request())
                answers.append(peer.pdu())
            assert [kind for kind, _ in answers] == [raw.AC] * 3 + [raw.RJ] * 9
            assert {body for kind, body in answers if kind == raw.RJ} == {b"\0\x02\x03\x02"}
        wait_for(lambda: can_echo(remote), what="a free seat")
        assert [o.status for o in client(remote).send(study.paths)] == [0, 0]


def test_silent_connections_have_an_end_and_take_no_seat(
    study: SmallStudy, inbox: FolderInbox
) -> None:
    """One address may let 16 connections wait; those that are associated do not count."""
    with running_receiver(inbox, idle_s=2.0) as (_, remote), raw.raw_peer(remote.port) as peer:
        peer.associate()
        with held(remote.port, 40) as silent:
            ended = [drained(connection) for connection in silent]
            assert all(ended)
        peer.send(raw.store_messages(study.paths[0]) if not peer_gone(peer) else b"")
        wait_for(lambda: can_echo(remote), what="the waiting room to empty")


def peer_gone(peer: raw.RawPeer) -> bool:
    peer.socket.setblocking(False)
    try:
        return peer.socket.recv(1, socket.MSG_PEEK) is not None
    except BlockingIOError:
        return False
    finally:
        peer.socket.settimeout(20)


def test_a_peer_that_does_not_wait_for_answers_is_served_in_order(
    study: SmallStudy, inbox: FolderInbox
) -> None:
    with running_receiver(inbox) as (_, remote), raw.raw_peer(remote.port) as peer:
        peer.associate()
        peer.send(b"".join(raw.store_messages(p) for p in study.paths * 5) + raw.RELEASE_RQ)
        assert [peer.status() for _ in range(10)] == [0] * 10
        assert peer.pdu()[0] == raw.RELEASE_RP
    assert len(inbox.files()) == 2


def cut_at(remote: RemoteAE, stream: bytes, cut: int, *, reset: bool) -> None:
    """Send so much of a conversation and end the connection, gently or not."""
    connection = socket.create_connection((remote.host, remote.port), timeout=20)
    if reset:
        linger = struct.pack("ii", 1, 0)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
    with closing(connection):
        connection.sendall(stream[:cut])


def cuts(step: int, tmp_path: Path) -> None:
    study = write_small_study(tmp_path / "one", StudyForm(slices=1, side=8))
    stream = raw.association_request() + raw.store_messages(study.paths[0]) + raw.RELEASE_RQ
    inbox = FolderInbox(tmp_path / "inbox")
    names = {thread.name for thread in threading.enumerate()}
    with running_receiver(inbox) as (_, remote):
        for cut in range(0, len(stream) - len(raw.RELEASE_RQ), step):
            for reset in (False, True):
                cut_at(remote, stream, cut, reset=reset)
        wait_for(lambda: can_echo(remote), what="the receiver to have let go")
        assert inbox.files() == []
        assert [o.status for o in client(remote).send(study.paths)] == [0]
        wait_for(
            lambda: not any(t.name == "dicom-association" for t in threading.enumerate()),
            what="the last connection's thread to end",
        )
    assert {thread.name for thread in threading.enumerate()} <= names


def test_a_connection_cut_at_many_bytes_leaves_nothing(tmp_path: Path) -> None:
    cuts(41, tmp_path)


@pytest.mark.long
def test_a_connection_cut_at_every_byte_leaves_nothing(tmp_path: Path) -> None:
    cuts(1, tmp_path)


def report(committed: list[str], failed: dict[str, int], transaction: str = "1.2.99") -> bytes:
    ds = Dataset()
    ds.TransactionUID = transaction
    ds.ReferencedSOPSequence = []
    for uid in committed:
        item = Dataset()
        item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = raw.MR, uid
        ds.ReferencedSOPSequence.append(item)
    if failed:
        ds.FailedSOPSequence = []
    for uid, reason in failed.items():
        item = Dataset()
        item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = raw.MR, uid
        item.FailureReason = reason
        ds.FailedSOPSequence.append(item)
    buffer = io.BytesIO()
    dcmwrite(buffer, ds, implicit_vr=False, little_endian=True, enforce_file_format=False)
    return buffer.getvalue()


def event_report(content: bytes, event: int = 2, sop_class: str = str(STORAGE_COMMITMENT)) -> bytes:
    request = raw.command(0x0100, sop_class=sop_class, sop_uid="1.2.840.10008.1.20.1.1")
    body = request[12:] + raw.element(0x1002, struct.pack("<H", event))
    request = raw.element(0, struct.pack("<L", len(body))) + body
    return raw.p_data(raw.pdv(1, 3, request), raw.pdv(1, 2, content))


@pytest.mark.integration
@pytest.mark.parametrize("with_role", [True, False])
def test_a_pacs_reports_commitment_on_its_own_association(tmp_path: Path, with_role: bool) -> None:
    zone = Zone(tmp_path / "identified")
    roles = ((str(STORAGE_COMMITMENT), False, True),) if with_role else ()
    request = raw.association_request((str(STORAGE_COMMITMENT), [raw.EXPLICIT]), roles=roles)
    with running_processes(zone) as (receiver, remote):
        with raw.raw_peer(remote.port) as peer:
            peer.associate(request)
            peer.send(event_report(report(["1.2.3", "1.2.4"], {"1.2.5": 0x0112})))
            assert peer.status() == 0
            for content, event, status in (
                (report(["1.2.3"], {}), 3, 0x0113),
                (report([], {}), 1, 0x0115),
                (report(["1.2.3"], {}, transaction="x/y"), 1, 0x0115),
                (b"no data set at all, not even nearly", 1, 0x0115),
            ):
                peer.send(event_report(content, event))
                assert peer.status() == status
        assert receiver.counts.refused == 4
        [entry] = wait_for(
            lambda: [e for e in zone.read() if e.kind == "commitment"], what="the report"
        )
    assert entry.values == {
        "transaction": "1.2.99",
        "committed": ["1.2.3", "1.2.4"],
        "failed": {"1.2.5": 0x0112},
    }


def resident(receiver: ReceiverProcesses) -> int:
    return sum(psutil.Process(pid).memory_info().rss for pid in receiver.pids)


def flat_memory(tmp_path: Path, form: StudyForm, sizes: Sizes, *, times: int) -> None:
    study = write_small_study(tmp_path / "source", form)
    zone = Zone(tmp_path / "identified")
    with running_processes(zone, sizes=sizes) as (receiver, remote):
        zone.expect(study.paths)
        with raw.raw_peer(remote.port) as peer:
            peer.associate()
            messages = [raw.store_messages(path) for path in study.paths]
            grown = []
            for turn in range(times):
                for message in messages:
                    peer.send(message)
                    assert peer.status() == 0
                due = (turn + 1) * len(study.paths)
                wait_for(lambda n=due: len(zone.read()) >= n, what="the journal")  # type: ignore[misc]
                grown.append(resident(receiver))
                if turn < times - 1:
                    for path in zone.files():
                        path.unlink()
        first = zone.file(str(dcmread(study.paths[0]).SOPInstanceUID))
        assert dcmread(first) == dcmread(study.paths[0])
    assert max(grown) - grown[0] < 6 << 20, grown


@pytest.mark.integration
def test_memory_stays_flat_over_large_objects(tmp_path: Path) -> None:
    flat_memory(tmp_path, StudyForm(slices=4, side=1000), Sizes(), times=3)


@pytest.mark.long
def test_memory_stays_flat_over_2000_instances(tmp_path: Path) -> None:
    flat_memory(tmp_path, StudyForm(slices=400, side=256), Sizes(), times=5)


@pytest.mark.long
def test_memory_stays_flat_over_8_megabyte_objects(tmp_path: Path) -> None:
    flat_memory(tmp_path, StudyForm(slices=6, side=2048), Sizes(), times=5)
