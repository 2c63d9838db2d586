"""The site's side of enrolment: know the coordinator by the token, get this site's key certified.

The coordinator's chain is fetched without trust first; only the authority whose SHA-256 stands in
the token becomes the single root of the real connection, which then checks chain and name. So an
impostor hears neither the token's secret nor the request.
"""

from __future__ import annotations

import hashlib
import ssl
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, cast

import grpc
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

from federation.canonical import read_json, write_atomically, write_json
from federation.clock import Clock, utc_now
from federation.enrolment.authorities import issuer_of, read_bundle
from federation.enrolment.expiry import Kind, Term, not_at_this_time, term_of
from federation.enrolment.token import EnrolmentToken, parse_token
from federation.errors import CoordinatorUnreachable, EnrolmentRefused
from federation.keyfile import load_key, save_key
from federation.node.tunnel import Tunnel
from federation.pki import (
    SERVER_NAME,
    common_name,
    fingerprint,
    load_pair,
    new_key,
    serial_of,
    signing_request,
)
from federation.wire import federation_pb2 as pb
from federation.wire.dial import Proxy, dial
from federation.wire.federation_pb2_grpc import EnrolmentStub
from federation.wire.tls import ConnectedSocket

KEY_FILE: Final = "node.key"
CERTIFICATE_FILE: Final = "node.crt"
AUTHORITY_FILE: Final = "ca.crt"
COORDINATOR_FILE: Final = "coordinator.json"
TIMEOUT_S: Final = 20.0


@dataclass(frozen=True, slots=True)
class SiteIdentity:
    """What a site keeps after enrolment, read from its ``keys`` folder.

    Attributes:
        site: the name in the certificate.
        project: the project.
        address: ``host:port`` of the federation listener.
        certificate_ends: end of the certificate, UTC ISO 8601.
        serial: the certificate's serial number.
    """

    site: str
    project: str
    address: str
    certificate_ends: str
    serial: str
    key_pem: bytes
    certificate_pem: bytes
    authority_pem: bytes

    @property
    def authorities(self) -> list[str]:
        """Fingerprints of the authorities that this site relies on."""
        return [fingerprint(one) for one in read_bundle(self.authority_pem)]

    @property
    def issuer(self) -> str:
        """Fingerprint of the authority that signed the certificate; empty where none fits."""
        certificate = x509.load_pem_x509_certificate(self.certificate_pem)
        found = issuer_of(certificate, read_bundle(self.authority_pem))
        return "" if found is None else fingerprint(found)

    def __repr__(self) -> str:
        return f"SiteIdentity(site={self.site!r}, serial={self.serial!r})"


def load_identity(keys_dir: Path, passphrase: bytes | None = None) -> SiteIdentity:
    """Read what :func:`enrol` wrote.

    Args:
        keys_dir: the node's keys.
        passphrase: what covers the key; None for a plain file of mode 0600.

    Raises:
        SettingsRefused: this node is not enrolled, a file does not fit the others, or the key is
            open to others.
    """
    pair = load_pair(keys_dir / KEY_FILE, keys_dir / CERTIFICATE_FILE, passphrase)
    document = cast("dict[str, Any]", read_json(keys_dir / COORDINATOR_FILE))
    return SiteIdentity(
        site=common_name(pair.certificate.subject),
        project=str(document["project"]),
        address=str(document["address"]),
        certificate_ends=pair.certificate.not_valid_after_utc.isoformat(),
        serial=serial_of(pair.certificate),
        key_pem=pair.key_pem(),
        certificate_pem=pair.certificate_pem(),
        authority_pem=(keys_dir / AUTHORITY_FILE).read_bytes(),
    )


def site_terms(keys_dir: Path) -> list[Term]:
    """What ends at this site: its certificate and the authority; nothing before enrolment.

    Only public files are read; one that cannot be read is left out, `load_identity` says why.
    """
    terms = []
    for name, kind in ((CERTIFICATE_FILE, Kind.OWN), (AUTHORITY_FILE, Kind.ROOT)):
        try:
            found = x509.load_pem_x509_certificates((keys_dir / name).read_bytes())
        except (OSError, ValueError):
            continue
        terms.append(max((term_of(one, kind) for one in found), key=lambda term: term.ends))
    return terms


def _served_chain(address: str, proxy: Proxy | None, timeout_s: float) -> list[bytes]:
    """DER certificates that the listener shows, unverified."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.sslsocket_class = ConnectedSocket
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.set_alpn_protocols(["h2"])
    with (
        dial(address, proxy, timeout_s) as raw,
        context.wrap_socket(raw, server_hostname=SERVER_NAME) as tls,
    ):
        # The unverified chain is public on SSLSocket from Python 3.13 on.
        source: Any = tls if hasattr(tls, "get_unverified_chain") else cast("Any", tls)._sslobj
        shown = source.get_unverified_chain() or []
        return [c if isinstance(c, bytes) else cast("Any", c).public_bytes(2) for c in shown]


def pinned_authority(
    token: EnrolmentToken,
    proxy: Proxy | None = None,
    *,
    timeout_s: float = TIMEOUT_S,
    clock: Clock = utc_now,
) -> bytes:
    """The project authority's certificate in PEM, as the listener shows it and the token names it.

    Raises:
        CoordinatorUnreachable: no TLS answer at the token's address.
        EnrolmentRefused: what answers there is not the token's coordinator, or its certificate
            does not hold at this machine's time.
    """
    try:
        chain = _served_chain(token.address, proxy, timeout_s)
    except (OSError, ValueError) as error:
        raise CoordinatorUnreachable(
            f"no TLS answer at {token.address}: check the address and that the firewall lets this "
            "machine dial out to that port"
        ) from error
    for der in chain:
        if hashlib.sha256(der).hexdigest() == token.authority:
            authority = x509.load_der_x509_certificate(der)
            for shown in (x509.load_der_x509_certificate(chain[0]), authority):
                if words := not_at_this_time(shown, clock()):
                    raise EnrolmentRefused(
                        f"{words}: set the clock by a time server (NTP) and try again; if it is "
                        "right, the coordinator's operator restarts the coordinator"
                    )
            return authority.public_bytes(Encoding.PEM)
    raise EnrolmentRefused(
        f"what answers at {token.address} is not the coordinator of this token: none of its "
        f"{len(chain)} certificates has the fingerprint that the token names; do not go on, ask "
        "the coordinator's operator (an interception proxy looks like this too)"
    )


def _own_key(keys_dir: Path, passphrase: bytes | None) -> ec.EllipticCurvePrivateKey:
    """The key of an earlier, unfinished try, or a fresh one, already on disk."""
    path = keys_dir / KEY_FILE
    if path.exists():
        kept = load_key(path, passphrase)
        if isinstance(kept, ec.EllipticCurvePrivateKey):
            return kept
        raise EnrolmentRefused(f"{KEY_FILE} holds no ECDSA key: move it away and enrol again")
    key = new_key()
    save_key(path, key, passphrase)
    return key


def _ask(
    token: EnrolmentToken, authority_pem: bytes, request: bytes, proxy: Proxy | None = None
) -> pb.EnrolReply:
    credentials = grpc.ssl_channel_credentials(root_certificates=authority_pem)
    options = (
        ("grpc.ssl_target_name_override", SERVER_NAME),
        ("grpc.use_local_subchannel_pool", 1),
        ("grpc.enable_http_proxy", 0),
    )
    with ExitStack() as opened:
        target = token.address
        if proxy is not None:
            target = opened.enter_context(closing(Tunnel(token.address, proxy))).target
        channel = opened.enter_context(grpc.secure_channel(target, credentials, options=options))
        message = pb.EnrolRequest(
            format=1,
            token_id=token.token_id,
            secret=token.secret,
            signing_request_pem=request,
        )
        try:
            return EnrolmentStub(channel).Enrol(message, timeout=TIMEOUT_S)
        except grpc.RpcError as error:
            call = cast("grpc.Call", error)
            if call.code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED):
                raise CoordinatorUnreachable(
                    f"the connection to {token.address} broke: try again, the token still holds"
                ) from None
            if call.code() is grpc.StatusCode.RESOURCE_EXHAUSTED:
                raise CoordinatorUnreachable(
                    f"{token.address} is busy with others: try again, the token still holds"
                ) from None
            raise EnrolmentRefused(call.details() or "the coordinator gave no reason") from None


def enrol(
    token: EnrolmentToken | str | Path,
    keys_dir: Path,
    site: str,
    *,
    clock: Clock = utc_now,
    proxy: Proxy | None = None,
    passphrase: bytes | None = None,
) -> SiteIdentity:
    """Join a project: make a key here, have it certified, keep both with the authority.

    Writes ``node.key`` (0600), ``node.crt``, ``ca.crt`` and ``coordinator.json`` below
    ``keys_dir``. Interrupted, it can be repeated with the same token.

    Args:
        token: as the coordinator printed it, or the file that holds it.
        keys_dir: the node's keys.
        site: this node's name.
        clock: wall clock.
        proxy: goes through it; None dials directly.
        passphrase: covers the key; None writes a plain file of mode 0600.

    Raises:
        EnrolmentRefused: the token, this site's name or the coordinator does not fit.
        CoordinatorUnreachable: no answer; try again.
    """
    if not isinstance(token, EnrolmentToken):
        token = parse_token(token)
    if token.site != site:
        raise EnrolmentRefused(
            f"the token is for site {token.site}, this node is {site}: ask for a token of your own"
        )
    if clock() >= token.expires:
        raise EnrolmentRefused(
            f"the token has expired: it ended on {token.expires:%Y-%m-%d %H:%M} UTC and this "
            f"machine's clock says {clock():%Y-%m-%d %H:%M} UTC; if the clock is right, ask the "
            "coordinator's operator for another"
        )
    if (keys_dir / CERTIFICATE_FILE).exists():
        raise EnrolmentRefused(
            f"this node is enrolled already: move {CERTIFICATE_FILE} away to enrol anew"
        )
    authority_pem = pinned_authority(token, proxy, clock=clock)
    keys_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
    key = _own_key(keys_dir, passphrase)
    reply = _ask(token, authority_pem, signing_request(key, site, token.project), proxy)
    _check_reply(reply, token, site, key)
    write_atomically(keys_dir / AUTHORITY_FILE, authority_pem)
    write_json(
        keys_dir / COORDINATOR_FILE,
        {"format": 1, "project": token.project, "address": reply.federation_address},
    )
    write_atomically(keys_dir / CERTIFICATE_FILE, reply.certificate_pem)
    return load_identity(keys_dir, passphrase)


def _check_reply(
    reply: pb.EnrolReply, token: EnrolmentToken, site: str, key: ec.EllipticCurvePrivateKey
) -> None:
    try:
        certificate = x509.load_pem_x509_certificate(reply.certificate_pem)
        authority = x509.load_pem_x509_certificate(reply.authority_pem)
        certificate.verify_directly_issued_by(authority)
        name = common_name(certificate.subject)
    except Exception as error:  # edge: any defect of foreign bytes is one cause
        raise EnrolmentRefused("the coordinator's certificate for us is not valid") from error
    fits = (
        fingerprint(authority) == token.authority
        and name == site
        and certificate.public_key() == key.public_key()
    )
    if not fits:
        raise EnrolmentRefused("the coordinator certified another key or another name than ours")
