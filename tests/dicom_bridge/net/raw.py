"""PDUs and messages byte by byte, for peers that misbehave on purpose."""

from __future__ import annotations

import contextlib
import socket
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pydicom import dcmread
from pydicom.uid import UID
from pynetdicom.pdu import A_ASSOCIATE_RQ
from pynetdicom.pdu_primitives import (
    A_ASSOCIATE,
    ImplementationClassUIDNotification,
    MaximumLengthNotification,
    SCP_SCU_RoleSelectionNegotiation,
)
from pynetdicom.presentation import build_context

MR = "1.2.840.10008.5.1.4.1.1.4"
EXPLICIT = "1.2.840.10008.1.2.1"
VERIFICATION = "1.2.840.10008.1.1"
RELEASE_RQ = struct.pack(">BBLL", 5, 0, 4, 0)
AC, RJ, DATA, RELEASE_RP, ABORT = 2, 3, 4, 6, 7


def association_request(
    *contexts: tuple[str, list[str]],
    called: str = "NODE",
    calling: str = "STORESCU",
    roles: tuple[tuple[str, bool, bool], ...] = (),
    application: str = "1.2.840.10008.3.1.1.1",
) -> bytes:
    """An A-ASSOCIATE-RQ; contexts get the ids 1, 3, 5..."""
    asked = A_ASSOCIATE()
    asked.application_context_name = UID(application)
    asked.calling_ae_title, asked.called_ae_title = calling, called
    proposed = []
    for number, (abstract, transfer) in enumerate(contexts or ((MR, [EXPLICIT]),)):
        context = build_context(abstract, transfer)
        context.context_id = 2 * number + 1
        proposed.append(context)
    asked.presentation_context_definition_list = proposed
    length = MaximumLengthNotification()
    length.maximum_length_received = 16382
    implementation = ImplementationClassUIDNotification()
    implementation.implementation_class_uid = UID("1.2.3.4")
    information: list[object] = [length, implementation]
    for uid, scu, scp in roles:
        role = SCP_SCU_RoleSelectionNegotiation()
        role.sop_class_uid, role.scu_role, role.scp_role = UID(uid), scu, scp
        information.append(role)
    asked.user_information = information  # type: ignore[assignment]
    return bytes(A_ASSOCIATE_RQ(asked).encode())


def element(tag: int, value: bytes) -> bytes:
    return struct.pack("<HHL", 0, tag, len(value)) + value


def uid_value(uid: str) -> bytes:
    return uid.encode() + b"\0" * (len(uid) % 2)


def command(field: int, *, sop_class: str = MR, sop_uid: str = "", data: bool = True) -> bytes:
    """A request's command set with message id 7."""
    body = element(0x0002, uid_value(sop_class)) + element(0x0100, struct.pack("<H", field))
    body += element(0x0110, struct.pack("<H", 7))
    body += element(0x0800, struct.pack("<H", 0x0001 if data else 0x0101))
    if sop_uid:
        body += element(0x1000, uid_value(sop_uid))
    return element(0x0000, struct.pack("<L", len(body))) + body


def pdv(context: int, control: int, data: bytes) -> bytes:
    return struct.pack(">LBB", len(data) + 2, context, control) + data


def p_data(*items: bytes) -> bytes:
    body = b"".join(items)
    return struct.pack(">BBL", 4, 0, len(body)) + body


def store_messages(path: Path, *, piece: int = 16_000) -> bytes:
    """A whole C-STORE request for a file in context 1."""
    ds, raw = dcmread(path, stop_before_pixels=True), path.read_bytes()
    (group_length,) = struct.unpack_from("<L", raw, 140)
    data = raw[144 + group_length :]
    request = command(0x0001, sop_uid=ds.SOPInstanceUID)
    pdus = [p_data(pdv(1, 3, request))]
    for at in range(0, len(data), piece):
        last = at + piece >= len(data)
        pdus.append(p_data(pdv(1, 2 if last else 0, data[at : at + piece])))
    return b"".join(pdus)


class RawPeer:
    """A connected peer that sends what it is told and reads PDUs."""

    def __init__(self, port: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=20)
        self._held = b""

    def send(self, data: bytes) -> None:
        self.socket.sendall(data)

    def pdu(self) -> tuple[int, bytes]:
        """The next PDU; (0, b"") where the connection ended."""
        header = self._exactly(6)
        if len(header) < 6:
            return 0, b""
        kind, length = struct.unpack(">BxL", header)
        return kind, self._exactly(length)

    def status(self) -> int:
        """The DIMSE status of the next response."""
        kind, body = self.pdu()
        assert kind == DATA, f"PDU of type {kind}: {body!r}"
        at = body.index(struct.pack("<HHL", 0, 0x0900, 2)) + 8
        return int(struct.unpack_from("<H", body, at)[0])

    def associate(self, request: bytes | None = None) -> None:
        self.send(request or association_request())
        kind, body = self.pdu()
        assert kind == AC, f"PDU of type {kind}: {body!r}"

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self.socket.close()

    def _exactly(self, count: int) -> bytes:
        data = b""
        while len(data) < count:
            try:
                piece = self.socket.recv(count - len(data))
            except ConnectionError:
                break
            if not piece:
                break
            data += piece
        return data


@contextmanager
def raw_peer(port: int) -> Iterator[RawPeer]:
    peer = RawPeer(port)
    try:
        yield peer
    finally:
        peer.close()
