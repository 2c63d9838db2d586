"""Why a connection or a call is refused, in closed words for the audit."""

from __future__ import annotations

import ssl
from enum import StrEnum
from typing import Final


class Cause(StrEnum):
    """The cause, as the audit names it."""

    NO_CERTIFICATE = "no certificate shown"
    OTHER_AUTHORITY = "certificate of another authority"
    EXPIRED = "certificate expired or not yet valid"
    WRONG_ROLE = "certificate is not a site's"
    INVALID = "certificate or handshake not valid"
    NOT_TLS = "not TLS"
    NO_HTTP2 = "not HTTP/2, or no site name in the certificate"
    TOO_SLOW = "handshake took too long"
    TOO_MANY = "too many connections"
    BROKEN_OFF = "connection broken off"
    NOT_REGISTERED = "certificate not registered for this site"
    REVOKED = "certificate revoked"
    NAME_NOT_ITS_OWN = "site name not its own"
    NO_IDENTITY = "call came by no admitted connection"
    VERSION = "no common protocol version"


_VERIFY_CODES: Final = {
    7: Cause.OTHER_AUTHORITY,  # signature fails: an authority of the same name, another key
    9: Cause.EXPIRED,
    10: Cause.EXPIRED,
    18: Cause.OTHER_AUTHORITY,
    19: Cause.OTHER_AUTHORITY,
    20: Cause.OTHER_AUTHORITY,
    21: Cause.OTHER_AUTHORITY,
    26: Cause.WRONG_ROLE,
}
"""OpenSSL's X509_V_ERR_* numbers (x509_vfy.h) to causes."""

_REASONS: Final = {
    "PEER_DID_NOT_RETURN_A_CERTIFICATE": Cause.NO_CERTIFICATE,
    "HTTP_REQUEST": Cause.NOT_TLS,
    "WRONG_VERSION_NUMBER": Cause.NOT_TLS,
    "UNEXPECTED_EOF_WHILE_READING": Cause.BROKEN_OFF,
}


def cause_of(error: Exception) -> Cause:
    """The cause of a failed handshake."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return _VERIFY_CODES.get(error.verify_code, Cause.INVALID)
    if isinstance(error, ssl.SSLEOFError | ConnectionError):
        return Cause.BROKEN_OFF
    if isinstance(error, ssl.SSLError):
        return _REASONS.get(error.reason or "", Cause.INVALID)
    if isinstance(error, TimeoutError):
        return Cause.TOO_SLOW
    if isinstance(error, ValueError):
        return Cause.NO_HTTP2
    return Cause.BROKEN_OFF
