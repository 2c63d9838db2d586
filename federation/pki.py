"""The project's certificate authority, the coordinator's certificate and the sites'.

All keys are ECDSA on P-256 (FIPS 186-5). A certificate's role is its extended key usage (RFC 5280
section 4.2.1.12): ``serverAuth`` for the coordinator, ``clientAuth`` for a site, whose name is the
subject's common name. A site's key never leaves it: only its signing request (RFC 2986) travels.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import ipaddress
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from federation.errors import EnrolmentRefused, SettingsRefused
from federation.keyfile import key_pem, load_key
from federation.keyfile import save_key as save_key
from federation.signing import AuthoritySigner, SignerKey

SERVER_NAME: Final = "coordinator.clinode.internal"
"""The name that every coordinator's certificate carries: sites check it, whatever the address."""
AUTHORITY_DAYS: Final = 3650
SERVER_DAYS: Final = 825
SITE_DAYS: Final = 398
MAX_REQUEST_BYTES: Final = 8192
_BACKDATE = dt.timedelta(minutes=10)
_SITE = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?")


def check_site_name(name: str) -> str:
    """Give ``name`` back when it can be a site's name.

    >>> check_site_name("hospital-a")
    'hospital-a'

    Raises:
        SettingsRefused: it is not 1 to 63 lower-case letters, digits and inner hyphens.
    """
    if _SITE.fullmatch(name) is None:
        raise SettingsRefused(
            "a site's name has 1 to 63 lower-case letters, digits and inner hyphens "
            "(for example hospital-a)"
        )
    return name


@dataclass(frozen=True, slots=True)
class KeyPair:
    """A private key with its certificate; the key is never shown."""

    key: ec.EllipticCurvePrivateKey
    certificate: x509.Certificate

    def __repr__(self) -> str:
        return f"KeyPair(serial={serial_of(self.certificate)})"

    def certificate_pem(self) -> bytes:
        """The certificate in PEM."""
        return self.certificate.public_bytes(Encoding.PEM)

    def key_pem(self) -> bytes:
        """The private key in PKCS#8 PEM, not encrypted: for a file of mode 0600 only."""
        return key_pem(self.key)


def new_key() -> ec.EllipticCurvePrivateKey:
    """A fresh P-256 key."""
    return ec.generate_private_key(ec.SECP256R1())


def fingerprint(certificate: x509.Certificate) -> str:
    """SHA-256 of the certificate's DER bytes in hexadecimal."""
    return hashlib.sha256(certificate.public_bytes(Encoding.DER)).hexdigest()


def serial_of(certificate: x509.Certificate) -> str:
    """The serial number in lower-case hexadecimal."""
    return f"{certificate.serial_number:x}"


def common_name(subject: x509.Name) -> str:
    """The single common name of a subject.

    Raises:
        ValueError: there is none, or more than one.
    """
    values = subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    if len(values) != 1:
        raise ValueError(f"{len(values)} common names, expected one")
    return str(values[0].value)


def _name(common: str, project: str) -> x509.Name:
    return x509.Name(
        [
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, project),
            x509.NameAttribute(NameOID.COMMON_NAME, common),
        ]
    )


def _usage(*, authority: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not authority,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=authority,
        crl_sign=authority,
        encipher_only=False,
        decipher_only=False,
    )


def make_authority(
    project: str, now: dt.datetime, signer: AuthoritySigner | None = None
) -> KeyPair:
    """A self-signed certificate authority for one project, valid for ten years.

    Args:
        project: the project's name.
        now: the present time.
        signer: the authority's key; None makes one.
    """
    key = new_key() if signer is None else SignerKey(signer)
    name = _name("clinode project authority", project)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _BACKDATE)
        .not_valid_after(now + dt.timedelta(days=AUTHORITY_DAYS))
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(authority=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )
    return KeyPair(key, certificate)


@dataclass(frozen=True, slots=True)
class _Leaf:
    subject: x509.Name
    public_key: ec.EllipticCurvePublicKey
    role: x509.ObjectIdentifier
    names: tuple[x509.GeneralName, ...]
    days: int


def _issue(authority: KeyPair, leaf: _Leaf, now: dt.datetime) -> x509.Certificate:
    """Certify a leaf, at most as long as the authority lasts.

    Raises:
        EnrolmentRefused: the authority's time is over.
    """
    ends = now + dt.timedelta(days=leaf.days)
    if now >= authority.certificate.not_valid_after_utc:
        raise EnrolmentRefused(
            "the project's authority expired on "
            f"{authority.certificate.not_valid_after_utc:%Y-%m-%d} (this machine's clock: "
            f"{now:%Y-%m-%d %H:%M} UTC): nothing can be certified"
        )
    builder = (
        x509.CertificateBuilder()
        .subject_name(leaf.subject)
        .issuer_name(authority.certificate.subject)
        .public_key(leaf.public_key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _BACKDATE)
        .not_valid_after(min(ends, authority.certificate.not_valid_after_utc))
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(authority=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([leaf.role]), critical=True)
        .add_extension(x509.SubjectAlternativeName(list(leaf.names)), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(authority.key.public_key()),
            critical=False,
        )
    )
    return builder.sign(authority.key, hashes.SHA256())


def issue_server(
    authority: KeyPair, project: str, hosts: tuple[str, ...], now: dt.datetime
) -> KeyPair:
    """The coordinator's own certificate, for :data:`SERVER_NAME` and every address in ``hosts``."""
    names: list[x509.GeneralName] = [x509.DNSName(SERVER_NAME)]
    for host in dict.fromkeys(hosts):
        try:
            names.append(x509.IPAddress(ipaddress.ip_address(host)))
        except ValueError:
            names.append(x509.DNSName(host))
    key = new_key()
    leaf = _Leaf(
        _name("coordinator", project),
        key.public_key(),
        ExtendedKeyUsageOID.SERVER_AUTH,
        tuple(names),
        SERVER_DAYS,
    )
    return KeyPair(key, _issue(authority, leaf, now))


def server_hosts(certificate: x509.Certificate) -> set[str]:
    """Names and addresses that a coordinator's certificate is for."""
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return set()
    return {
        *names.get_values_for_type(x509.DNSName),
        *(str(address) for address in names.get_values_for_type(x509.IPAddress)),
    }


def signing_request(key: ec.EllipticCurvePrivateKey, site: str, project: str) -> bytes:
    """A signing request for a site's key, PEM. Only this travels, never the key."""
    builder = x509.CertificateSigningRequestBuilder().subject_name(_name(site, project))
    return builder.sign(key, hashes.SHA256()).public_bytes(Encoding.PEM)


def read_request(pem: bytes, site: str) -> ec.EllipticCurvePublicKey:
    """Check a signing request: size, signature, curve, and that it names ``site``.

    Raises:
        EnrolmentRefused: naming what does not fit.
    """
    if len(pem) > MAX_REQUEST_BYTES:
        raise EnrolmentRefused(f"a signing request of {len(pem)} bytes; at most 8192 are taken")
    try:
        request = x509.load_pem_x509_csr(pem)
        valid, name = request.is_signature_valid, common_name(request.subject)
        key = request.public_key()
    except (ValueError, InvalidSignature, TypeError) as error:
        raise EnrolmentRefused("the signing request cannot be read") from error
    if not valid:
        raise EnrolmentRefused("the signing request is not signed by its own key")
    if name != site:
        raise EnrolmentRefused("the signing request names another site than the token")
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1):
        raise EnrolmentRefused("the signing request's key is not ECDSA on P-256")
    return key


def issue_site(
    authority: KeyPair,
    who: tuple[str, str],
    public_key: ec.EllipticCurvePublicKey,
    now: dt.datetime,
) -> x509.Certificate:
    """A site's certificate.

    Args:
        authority: the project's authority.
        who: site's name and project.
        public_key: from the site's signing request.
        now: the present time.
    """
    site, project = who
    leaf = _Leaf(
        _name(check_site_name(site), project),
        public_key,
        ExtendedKeyUsageOID.CLIENT_AUTH,
        (x509.DNSName(f"{site}.site.clinode.internal"),),
        SITE_DAYS,
    )
    return _issue(authority, leaf, now)


def load_pair(key: Path, certificate: Path, passphrase: bytes | None = None) -> KeyPair:
    """Read a key and its certificate.

    Raises:
        SettingsRefused: a file is missing, cannot be read, others may read the key, its passphrase
            is missing or wrong, or the two do not belong together.
    """
    try:
        private = load_key(key, passphrase)
        public = x509.load_pem_x509_certificate(certificate.read_bytes())
    except OSError as error:
        raise SettingsRefused(
            f"{key.name} or {certificate.name} cannot be read ({error.strerror}): "
            "has `init` or `enrol` been run on this home?"
        ) from error
    except ValueError as error:
        raise SettingsRefused(f"{certificate.name} is not PEM") from error
    if not isinstance(private, ec.EllipticCurvePrivateKey):
        raise SettingsRefused(f"{key.name} holds no ECDSA key")
    if private.public_key() != public.public_key():
        raise SettingsRefused(f"{key.name} and {certificate.name} do not belong together")
    return KeyPair(private, public)
