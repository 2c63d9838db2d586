"""DICOM over TLS: contexts for both roles by the profiles of PS3.15 Annex B, failures in words.

The profiles, and what is made of them here:

- ``bcp195``: the BCP 195 profiles (PS3.15 B.9, since 2022 B.12 with RFC 8996 and RFC 9325). B.9
  allowed TLS 1.0 and 1.1 for old peers; RFC 8996 forbids both, so TLS 1.2 is the least here. After
  the recommended suites, forward-secret ones with CBC and SHA-2 are offered for peers of TLS 1.2
  that lack GCM.
- ``non-downgrading``: PS3.15 B.10 (the restricted suites of B.13 too): TLS 1.2 or 1.3, only
  forward-secret suites with authenticated encryption, nothing else in any case.

Both ask each peer for a certificate and believe only the authorities that were configured.
"""

from __future__ import annotations

import ssl
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from dicom_bridge.errors import SettingsRefused

Profile = Literal["bcp195", "non-downgrading"]

_AUTHENTICATED = (
    "ECDHE-ECDSA-AES256-GCM-SHA384",
    "ECDHE-RSA-AES256-GCM-SHA384",
    "ECDHE-ECDSA-CHACHA20-POLY1305",
    "ECDHE-RSA-CHACHA20-POLY1305",
    "ECDHE-ECDSA-AES128-GCM-SHA256",
    "ECDHE-RSA-AES128-GCM-SHA256",
    "DHE-RSA-AES256-GCM-SHA384",
    "DHE-RSA-AES128-GCM-SHA256",
)
_OLDER = (
    "ECDHE-ECDSA-AES256-SHA384",
    "ECDHE-RSA-AES256-SHA384",
    "ECDHE-ECDSA-AES128-SHA256",
    "ECDHE-RSA-AES128-SHA256",
)
CIPHERS: dict[Profile, tuple[str, ...]] = {
    "bcp195": (*_AUTHENTICATED, *_OLDER),
    "non-downgrading": _AUTHENTICATED,
}
"""TLS 1.2 suites by profile, OpenSSL's names; TLS 1.3 has only authenticated ones (RFC 8446)."""


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """Our certificate and whom we believe; all files are PEM.

    Attributes:
        certificate: our certificate, followed by intermediate ones if there are any.
        key: its private key without passphrase; only its owner may read the file.
        authorities: certificates of the authorities whose peers are believed.
        profile: which suites are offered, see this module.
        check_name: as SCU: the peer's certificate must name the host that is called.
    """

    certificate: Path
    key: Path
    authorities: Path
    profile: Profile = "bcp195"
    check_name: bool = True


def server_context(files: TlsFiles) -> ssl.SSLContext:
    """The context of an SCP; a peer without a certificate that we believe is refused.

    Raises:
        SettingsRefused: a file is absent, unsafe, or not what it should be.
    """
    context = _context(ssl.PROTOCOL_TLS_SERVER, files)
    context.options |= ssl.OP_CIPHER_SERVER_PREFERENCE
    context.verify_mode = ssl.CERT_REQUIRED
    return context


def client_context(files: TlsFiles) -> ssl.SSLContext:
    """The context of an SCU; it shows our certificate and checks the peer's.

    Raises:
        SettingsRefused: a file is absent, unsafe, or not what it should be.
    """
    context = _context(ssl.PROTOCOL_TLS_CLIENT, files)
    context.check_hostname = files.check_name
    context.verify_mode = ssl.CERT_REQUIRED
    return context


def _context(protocol: int, files: TlsFiles) -> ssl.SSLContext:
    if files.profile not in CIPHERS:
        raise SettingsRefused(
            f"DICOM TLS: the profile {files.profile!r} is unknown; "
            f"use one of {', '.join(sorted(CIPHERS))}"
        )
    context = ssl.SSLContext(protocol)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers(":".join(CIPHERS[files.profile]))
    context.options |= ssl.OP_NO_COMPRESSION | ssl.OP_NO_RENEGOTIATION
    for path, what in (
        (files.certificate, "our certificate"),
        (files.key, "our private key"),
        (files.authorities, "the authorities' certificates"),
    ):
        _check_readable(path, what)
    _check_private(files.key)
    try:
        # OpenSSL would ask at the terminal for a passphrase; an empty one fails instead.
        context.load_cert_chain(files.certificate, files.key, password=b"")
    except (ssl.SSLError, OSError, ValueError) as error:
        raise SettingsRefused(_words_for_chain(files, error)) from error
    try:
        context.load_verify_locations(cafile=files.authorities)
    except (ssl.SSLError, OSError) as error:
        raise SettingsRefused(
            f"DICOM TLS: {files.authorities.name} holds no certificate in PEM form; "
            "enter the file of the authority that signed the peers' certificates"
        ) from error
    return context


def _check_readable(path: Path, what: str) -> None:
    try:
        with path.open("rb"):
            return
    except OSError as error:
        raise SettingsRefused(
            f"DICOM TLS: {what} ({path.name}) cannot be read ({error.strerror}); "
            "correct the path in the settings"
        ) from error


def _check_private(key: Path) -> None:
    mode = stat.S_IMODE(key.stat().st_mode)
    if mode & (stat.S_IRWXG | stat.S_IRWXO):
        raise SettingsRefused(
            f"DICOM TLS: our private key ({key.name}) has mode {mode:03o}, so that others than "
            "its owner may use it; run `chmod 600` on it, and replace it if others had access"
        )


def _words_for_chain(files: TlsFiles, error: Exception) -> str:
    reason = getattr(error, "reason", None) or ""
    if reason in ("KEY_VALUES_MISMATCH", "KEY_TYPE_MISMATCH", "NO_CERTIFICATE_ASSIGNED"):
        return (
            f"DICOM TLS: the private key ({files.key.name}) does not belong to the certificate "
            f"({files.certificate.name}); enter the pair that was made together"
        )
    return (
        f"DICOM TLS: {files.certificate.name} and {files.key.name} are no certificate and key in "
        f"PEM form without passphrase ({reason or type(error).__name__}); export them so"
    )


_BY_VERIFY_CODE: dict[int, str] = {
    9: "its certificate is not valid yet; check the clocks on both sides",
    10: "its certificate has expired; ask its administrator to renew it (and check our clock)",
    18: "its certificate is signed by itself; add it to the authorities, or ask for a signed one",
    19: "its certificate comes from an authority that we do not know; add that authority's "
    "certificate to the authorities file",
    20: "its certificate comes from an authority that we do not know; add that authority's "
    "certificate to the authorities file",
    21: "its certificate's chain is incomplete; ask its administrator to send intermediate "
    "certificates, or add them to the authorities file",
    23: "its certificate was revoked; ask its administrator for a new one",
    26: "its certificate is not meant for this use; ask its administrator for one for TLS servers",
    62: "its certificate names another host than the one that we call; enter the host as the "
    "certificate names it, or ask its administrator for a certificate with this name",
    64: "its certificate does not name this IP address; enter the host name that the certificate "
    "has, or ask its administrator for a certificate with this address",
}
"""By X509_V_ERR code of OpenSSL."""

_BY_REASON: dict[str, str] = {
    "WRONG_VERSION_NUMBER": "it speaks no TLS on this port; use its TLS port, or tls = false",
    "HTTP_REQUEST": "it speaks HTTP instead of TLS; check host and port",
    "ALERT_UNKNOWN_CA": "it does not know the authority of our certificate; ask its "
    "administrator to add it",
    "CERTIFICATE_EXPIRED": "it says that our certificate has expired; renew the certificate in "
    "[dicom.tls]",
    "CERTIFICATE_REVOKED": "it says that our certificate was revoked; get a new one",
    "CERTIFICATE_REQUIRED": "it asks for a certificate that we did not show; check [dicom.tls]",
    "PEER_DID_NOT_RETURN_A_CERTIFICATE": "it showed no certificate; ask its administrator to "
    "enable TLS client authentication",
    "BAD_CERTIFICATE": "it refuses our certificate; ask its administrator which authority it "
    "must come from",
    "CERTIFICATE_UNKNOWN": "it refuses our certificate; ask its administrator which authority it "
    "must come from",
    "UNSUPPORTED_CERTIFICATE": "it cannot use our certificate; ask its administrator for the "
    "kinds that it takes",
    "PROTOCOL_VERSION": "it has no TLS version in common with us (1.2 or 1.3); ask its "
    "administrator to update it",
    "UNSUPPORTED_PROTOCOL": "it has no TLS version in common with us (1.2 or 1.3); ask its "
    "administrator to update it",
    "NO_SHARED_CIPHER": "it has no cipher suite in common with us; ask its administrator for a "
    "BCP 195 profile",
    "HANDSHAKE_FAILURE": "it has no cipher suite in common with us, or wants another "
    "certificate; ask its administrator for a BCP 195 profile",
    "UNEXPECTED_EOF": "it ended the connection during the handshake; it may speak no TLS on this "
    "port, or refuse our certificate",
}
"""By OpenSSL's reason; the first that is part of it counts."""


def describe_tls_failure(error: BaseException) -> str:
    """Say why a TLS connection to a peer did not come about, and what to do.

    Args:
        error: what the handshake, or the first read after it, raised.

    Returns:
        A clause whose subject is the peer ("its certificate has expired; ask ...").

    Example:
        >>> describe_tls_failure(TimeoutError())[:31]
        'it did not answer the handshake'
    """
    if isinstance(error, ssl.SSLCertVerificationError):
        known = _BY_VERIFY_CODE.get(error.verify_code)
        return known or f"its certificate is not believed ({error.verify_message}); ask for another"
    if isinstance(error, TimeoutError):
        return "it did not answer the handshake; it may speak no TLS on this port"
    reason = (getattr(error, "reason", None) or "").upper()
    for part, words in _BY_REASON.items():
        if part in reason:
            return words
    if isinstance(error, (ssl.SSLEOFError, ssl.SSLZeroReturnError, ConnectionError)):
        return _BY_REASON["UNEXPECTED_EOF"]
    return f"the handshake failed ({reason or type(error).__name__}); look into its log"
