"""Who may call: each stranger is refused for its own reason while a good site works on."""

from __future__ import annotations

import dataclasses
import socket
import ssl
import threading
from pathlib import Path

import grpc
import pytest

from federation.audit_chain import read_entries
from federation.clock import utc_now
from federation.coordinator.causes import Cause
from federation.coordinator.control_client import CoordinatorClient
from federation.coordinator.settings import Home
from federation.enrolment import SiteIdentity
from federation.errors import (
    CoordinatorUnreachable,
    IdentityRefused,
    RequestRefused,
    VersionRefused,
)
from federation.node.connection import CoordinatorConnection, RetryPolicy
from federation.node.transfer import payload_of
from federation.pki import (
    SERVER_NAME,
    KeyPair,
    issue_server,
    issue_site,
    load_pair,
    make_authority,
    new_key,
)
from federation.wire import federation_pb2 as pb
from federation.wire.federation_pb2_grpc import FederationStub
from tests.federation.doubles import PROJECT, Federation
from tests.waiting import wait_for


def _with(identity: SiteIdentity, pair: KeyPair) -> SiteIdentity:
    return dataclasses.replace(
        identity, key_pem=pair.key_pem(), certificate_pem=pair.certificate_pem()
    )


def _certified(authority: KeyPair, site: str) -> KeyPair:
    key = new_key()
    certificate = issue_site(authority, (site, PROJECT), key.public_key(), utc_now())
    return KeyPair(key, certificate)


class _GiveUp:
    """A sleep that ends the retries after the first pause."""

    def __init__(self) -> None:
        self.stop = threading.Event()

    def __call__(self, seconds: float) -> None:
        self.stop.set()


def _refused(identity: SiteIdentity) -> None:
    """The connection never comes to an answer."""
    pause = _GiveUp()
    link = CoordinatorConnection(identity, retry=RetryPolicy(sleep=pause), stop=pause.stop)
    try:
        with pytest.raises((CoordinatorUnreachable, IdentityRefused)):
            link.handshake()
    finally:
        link.close()


def _causes(federation: Federation, action: str) -> list[str]:
    entries = read_entries(federation.home / "audit.jsonl")
    return [str(e.detail["cause"]) for e in entries if e.action == action]


def _seen(federation: Federation, cause: Cause, action: str = "connection.refused") -> None:
    wait_for(
        lambda: cause.value in _causes(federation, action), what=f"{action}: {cause}", seconds=10
    )


def test_strangers_are_refused_while_a_good_site_succeeds(
    federation: Federation, control: CoordinatorClient
) -> None:
    good_identity = federation.enrolled("site-good")
    victim = federation.enrolled("site-victim")
    revoked = federation.enrolled("site-revoked")
    good = CoordinatorConnection(good_identity)
    assert good.handshake().project == PROJECT
    held = CoordinatorConnection(revoked)
    assert held.handshake().protocol_version == 2

    _refused_without_certificate(federation, good_identity)
    assert good.poll(wait_s=0).format == 1

    other = make_authority(PROJECT, utc_now())
    _refused(_with(victim, _certified(other, "site-victim")))
    _seen(federation, Cause.OTHER_AUTHORITY)
    assert good.poll(wait_s=0).format == 1

    # A certificate of the true authority, for the victim's name, that was never handed out here.
    home = Home(federation.home)
    authority = load_pair(home.authority_key, home.authority)
    forged = CoordinatorConnection(_with(victim, _certified(authority, "site-victim")))
    with pytest.raises(IdentityRefused, match="not registered for this site"):
        forged.handshake()
    forged.close()
    _seen(federation, Cause.NOT_REGISTERED, "call.refused")

    # A good certificate that claims another's name.
    claimant = CoordinatorConnection(dataclasses.replace(good_identity, site="site-victim"))
    with pytest.raises(IdentityRefused, match="site name not its own"):
        claimant.handshake()
    claimant.close()
    _seen(federation, Cause.NAME_NOT_ITS_OWN, "call.refused")

    # The coordinator's own certificate is no site's.
    server = issue_server(authority, PROJECT, (), utc_now())
    _refused(_with(victim, server))
    _seen(federation, Cause.WRONG_ROLE)

    control.revoke_site("site-revoked", "key stolen")
    with pytest.raises(IdentityRefused, match="certificate revoked"):
        held.poll(wait_s=0)
    again = CoordinatorConnection(revoked)
    with pytest.raises(IdentityRefused, match="certificate revoked"):
        again.handshake()
    _seen(federation, Cause.REVOKED, "call.refused")

    assert good.poll(wait_s=0).format == 1
    for link in (good, held, again):
        link.close()


def _refused_without_certificate(federation: Federation, identity: SiteIdentity) -> None:
    credentials = grpc.ssl_channel_credentials(root_certificates=identity.authority_pem)
    options = (("grpc.ssl_target_name_override", SERVER_NAME),)
    with grpc.secure_channel(identity.address, credentials, options=options) as channel:
        with pytest.raises(grpc.RpcError) as caught:
            FederationStub(channel).Handshake(pb.HandshakeRequest(format=1), timeout=5)
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE  # type: ignore[attr-defined]
    _seen(federation, Cause.NO_CERTIFICATE)


def _address(federation: Federation) -> tuple[str, int]:
    host, port = federation.coordinator.registry.project.federation_address.split(":")
    return host, int(port)


def test_noise_is_named(federation: Federation) -> None:
    with socket.create_connection(_address(federation)) as link:
        link.sendall(b"GET / HTTP/1.1\r\n\r\n")
        _seen(federation, Cause.NOT_TLS)


def test_site_without_http2_is_refused(federation: Federation, tmp_path: Path) -> None:
    identity = federation.enrolled("site-a")
    keys = federation.folder / "site-a" / "keys"
    context = ssl.create_default_context(cadata=identity.authority_pem.decode())
    context.load_cert_chain(keys / "node.crt", keys / "node.key")
    with (
        socket.create_connection(_address(federation)) as raw,
        context.wrap_socket(raw, server_hostname=SERVER_NAME) as link,
    ):
        assert link.recv(1) == b""
    _seen(federation, Cause.NO_HTTP2)


def test_backend_socket_gives_nothing_without_the_front(federation: Federation) -> None:
    """Whoever reaches the plain socket behind the front has no certificate and is refused."""
    backend = federation.coordinator.control_path.with_suffix(".backend")
    with grpc.insecure_channel(f"unix:{backend}") as channel:
        with pytest.raises(grpc.RpcError) as caught:
            FederationStub(channel).PollTask(pb.PollRequest(format=1), timeout=5)
        assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED  # type: ignore[attr-defined]


def test_site_refuses_another_coordinator(federation: Federation) -> None:
    """The node checks its coordinator: a certificate of another authority is not dialled."""
    identity = federation.enrolled("site-a")
    other = make_authority(PROJECT, utc_now())
    _refused(dataclasses.replace(identity, authority_pem=other.certificate_pem()))


@pytest.mark.parametrize(
    ("versions", "words"),
    [
        ((7, 8), r"the site speaks 7, 8.*upgrade the coordinator"),
        ((1,), "upgrade the site"),
        ((), "the site speaks none"),
    ],
)
def test_unknown_protocol_versions_are_refused_in_words(
    federation: Federation, versions: tuple[int, ...], words: str
) -> None:
    link = CoordinatorConnection(federation.enrolled("site-a"), versions=versions)
    with pytest.raises(VersionRefused, match=words):
        link.handshake()
    link.close()


def test_another_sites_task_cannot_be_touched(
    federation: Federation, control: CoordinatorClient, tmp_path: Path
) -> None:
    from tests.federation.doubles import small_plan

    one = CoordinatorConnection(federation.enrolled("site-a"))
    two = CoordinatorConnection(federation.enrolled("site-b"))
    control.submit(small_plan(), ["site-a", "site-b"])
    task = wait_for(lambda: one.poll(wait_s=1).task, what="the offer", seconds=20)
    assert task.task_id.endswith("site-a.1")
    with pytest.raises(RequestRefused, match="no such task"):
        two.report(pb.TaskReport(format=1, task_id=task.task_id, outcome=pb.OUTCOME_DONE))
    source = tmp_path / "update"
    source.write_bytes(b"x")
    payload = payload_of(pb.PAYLOAD_KIND_UPDATE, "u", source)
    with pytest.raises(RequestRefused, match="no such task"):
        two.upload(task.task_id, payload, source)
    for link in (one, two):
        link.close()
