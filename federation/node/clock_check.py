"""A certificate that looks old, or not begun, by a clock that is wrong: told as a clock problem.

What the coordinator's time is, it says itself, by a TLS connection on which only the dates are not
looked at: the chain is, so nobody else can tell us a time.
"""

from __future__ import annotations

import os
import ssl
from contextlib import suppress
from datetime import datetime, timedelta
from typing import Final

from cryptography import x509

from federation.clock import TIME_PROTOCOL, minute, parse_stamp
from federation.enrolment.client import SiteIdentity
from federation.errors import FederationError
from federation.pki import SERVER_NAME
from federation.wire.dial import Proxy, dial
from federation.wire.tls import ConnectedSocket

NO_CHECK_TIME: Final = 0x200000
"""X509_V_FLAG_NO_CHECK_TIME (OpenSSL, x509_vfy.h), which the standard library does not name."""
APART: Final = timedelta(minutes=1)
"""How far two clocks may be apart."""
_LONGEST: Final = 64


def client_context(identity: SiteIdentity) -> ssl.SSLContext:
    """TLS as this site, towards the project's coordinator."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.sslsocket_class = ConnectedSocket
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.load_verify_locations(cadata=identity.authority_pem.decode("ascii"))
    context.set_alpn_protocols(["h2"])
    # load_cert_chain reads files only: one in memory, so that no uncovered key reaches a disk.
    pair = os.memfd_create("pair", os.MFD_CLOEXEC)
    try:
        os.write(pair, identity.key_pem + identity.certificate_pem)
        context.load_cert_chain(f"/proc/self/fd/{pair}")
    finally:
        os.close(pair)
    return context


def coordinator_time(
    address: str, proxy: Proxy | None, identity: SiteIdentity, timeout_s: float
) -> datetime | None:
    """The coordinator's time, UTC; None where it does not say (an older one, or it refuses us)."""
    context = client_context(identity)
    context.verify_flags = ssl.VerifyFlags(context.verify_flags | NO_CHECK_TIME)
    context.set_alpn_protocols([TIME_PROTOCOL])
    told = b""
    try:
        with (
            dial(address, proxy, timeout_s) as raw,
            context.wrap_socket(raw, server_hostname=SERVER_NAME) as tls,
            suppress(ssl.SSLEOFError, ConnectionError),
        ):
            while len(told) < _LONGEST and (more := tls.recv(_LONGEST)):
                told += more
        return parse_stamp(told.decode("ascii"))
    except (FederationError, OSError, ValueError):
        return None


def clock_words(here: datetime, there: datetime) -> str:
    """What is said of two clocks; empty where they agree."""
    apart = here - there
    if abs(apart) <= APART:
        return ""
    side = "ahead of" if apart > timedelta() else "behind"
    return (
        f"this machine's clock says {minute(here)} and the coordinator's {minute(there)}: ours is "
        f"{_long(abs(apart))} {side} it. Set this machine's clock by a time server (NTP): "
        "certificates are read by it"
    )


def refused_as_old(identity: SiteIdentity, here: datetime) -> str:
    """What is said where the coordinator takes our certificate for old or not begun."""
    certificate = x509.load_pem_x509_certificate(identity.certificate_pem)
    begins, ends = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    if here > ends:
        return (
            f"this site's certificate expired on {minute(ends)}: ask the coordinator's operator for"
            " a new token, move keys/node.crt away and enrol again"
        )
    return (
        "the coordinator refuses this site's certificate by its date, and it is valid from "
        f"{minute(begins)} to {minute(ends)} by this machine's clock, which says {minute(here)}: "
        "one of the two clocks is wrong; check ours against a time server (NTP) and tell the"
        " coordinator's operator to do the same"
    )


def _long(apart: timedelta) -> str:
    seconds = apart.total_seconds()
    for size, name in ((86_400, "days"), (3_600, "hours"), (60, "minutes")):
        if seconds >= 2 * size:
            return f"{round(seconds / size)} {name}"
    return f"{round(seconds)} s"
