"""The way to the coordinator, looked at step by step: which step fails, and whom to tell what.

Name, route, proxy, TLS, identity, clock, version: in this order, because each needs the one
before. The first that fails is the answer; what comes after it is not tried.
"""

from __future__ import annotations

import ssl
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from federation.clock import Clock, minute, parse_stamp, utc_now
from federation.enrolment.client import SiteIdentity, pinned_authority
from federation.enrolment.token import EnrolmentToken
from federation.errors import (
    CoordinatorUnreachable,
    FederationError,
    ProxyRefused,
    RouteClosed,
    VersionRefused,
)
from federation.node.clock_check import (
    client_context,
    clock_words,
    coordinator_time,
    refused_as_old,
)
from federation.node.connection import CoordinatorConnection
from federation.pki import SERVER_NAME
from federation.wire import federation_pb2 as pb
from federation.wire.dial import Proxy, connect, dial, resolved, split_address

STEPS: Final = ("name", "route", "proxy", "TLS", "identity", "clock", "version")
WAIT_S: Final = 10.0

_DATES: Final = frozenset({9, 10})
"""X509_V_ERR_CERT_NOT_YET_VALID and X509_V_ERR_CERT_HAS_EXPIRED (OpenSSL, x509_vfy.h)."""


@dataclass(frozen=True, slots=True)
class Step:
    """What one step showed.

    Attributes:
        name: one of `STEPS`.
        ok: whether the next one may be tried.
        words: what was found, and where it failed what to do.
    """

    name: str
    ok: bool
    words: str


@dataclass(frozen=True, slots=True)
class Way:
    """Whom to reach, and how.

    Attributes:
        coordinator: ``host:port``.
        proxy: None for a direct way.
        timeout_s: for each step.
    """

    coordinator: str
    proxy: Proxy | None = None
    timeout_s: float = WAIT_S


def examine(way: Way, identity: SiteIdentity, *, clock: Clock = utc_now) -> Iterator[Step]:
    """Go the way to the coordinator step by step, up to the first that fails.

    Args:
        way: to the federation's listener.
        identity: the site's key and certificates.
        clock: this machine's.
    """
    answer: list[pb.HandshakeReply] = []
    looks: dict[str, Callable[[], str]] = {
        "TLS": lambda: _tls(way, identity, clock()),
        "identity": lambda: _identity(way, identity, answer),
        "clock": lambda: _clock(clock(), answer[0]),
        "version": lambda: _version(answer[0]),
    }
    yield from _tried(way, looks)


def examine_token(way: Way, token: EnrolmentToken, *, clock: Clock = utc_now) -> Iterator[Step]:
    """Go the way to the enrolment listener before the site is enrolled; the token is not used up.

    Args:
        way: to the enrolment's listener.
        token: names the coordinator's authority.
        clock: this machine's.
    """

    def _pinned() -> str:
        pinned_authority(token, way.proxy, timeout_s=way.timeout_s, clock=clock)
        return "the coordinator shows the authority that the token names"

    yield from _tried(way, {"TLS": _pinned})


def _tried(way: Way, further: Mapping[str, Callable[[], str]]) -> Iterator[Step]:
    looks: dict[str, Callable[[], str]] = {"name": lambda: _name(way), "route": lambda: _route(way)}
    if way.proxy is not None:
        looks["proxy"] = lambda: _through(way)
    looks.update(further)
    for name in [step for step in STEPS if step in looks]:
        try:
            yield Step(name, True, looks[name]())
        except VersionRefused as error:
            yield Step("version", False, str(error))
            return
        except (FederationError, OSError) as error:
            yield Step(name, False, str(error))
            return


def _name(way: Way) -> str:
    host, port = split_address(way.coordinator)
    if way.proxy is not None:
        host, port = way.proxy.host, way.proxy.port
    return f"{host} is {', '.join(resolved(host, port)[:4])}"


def _route(way: Way) -> str:
    host, port = split_address(way.coordinator)
    if way.proxy is not None:
        host, port = way.proxy.host, way.proxy.port
    with connect(host, port, way.timeout_s):
        return f"{host} answers at port {port}"


def _through(way: Way) -> str:
    if way.proxy is None:
        raise ProxyRefused("no proxy is set")
    with dial(way.coordinator, way.proxy, way.timeout_s):
        return f"{way.proxy.address} lets us through to {way.coordinator}"


def _tls(way: Way, identity: SiteIdentity, here: datetime) -> str:
    """The handshake alone: is what answers certified by the project's authority, and are we?"""
    try:
        with (
            dial(way.coordinator, way.proxy, way.timeout_s) as raw,
            client_context(identity).wrap_socket(raw, server_hostname=SERVER_NAME) as tls,
        ):
            # In TLS 1.3 a refusal of our certificate comes with the first answer only.
            tls.recv(1)
            return f"{tls.version()} with the project's authority"
    except ssl.SSLCertVerificationError as error:
        raise CoordinatorUnreachable(_not_believed(way, identity, here, error)) from error
    except ssl.SSLError as error:
        if "CERTIFICATE_EXPIRED" in (error.reason or ""):
            raise CoordinatorUnreachable(refused_as_old(identity, here)) from error
        raise CoordinatorUnreachable(
            f"no TLS at {way.coordinator} ({error.reason or type(error).__name__}): check address"
            " and port, and whether something in between answers in its place"
        ) from error
    except (TimeoutError, ConnectionError) as error:
        raise CoordinatorUnreachable(
            f"the TLS handshake with {way.coordinator} was broken off: for the firewall team: let"
            " TLS pass to this address unopened"
        ) from error


def _not_believed(
    way: Way, identity: SiteIdentity, here: datetime, error: ssl.SSLCertVerificationError
) -> str:
    if error.verify_code in _DATES:
        there = coordinator_time(way.coordinator, way.proxy, identity, way.timeout_s)
        if there is not None and (words := clock_words(here, there)):
            return words
        return (
            f"the certificate of {way.coordinator} is not valid at this machine's time, which is"
            f" {minute(here)} ({error.verify_message}): is the clock right? Else the coordinator's"
            " operator has to restart the coordinator, which renews it"
        )
    return (
        f"what answers at {way.coordinator} is not certified by the project's authority"
        f" ({error.verify_message}): a proxy or firewall that opens TLS looks like this; for the"
        " firewall team: exempt this address from TLS inspection"
    )


def _identity(way: Way, identity: SiteIdentity, answer: list[pb.HandshakeReply]) -> str:
    """One call by mutual TLS, as the node makes it."""
    once = threading.Event()
    once.set()
    connection = CoordinatorConnection(
        identity, address=way.coordinator, stop=once, proxy=way.proxy
    )
    with closing(connection):
        answer.append(connection.handshake())
    return f"{identity.site} is known to project {answer[0].project}"


def _clock(here: datetime, answer: pb.HandshakeReply) -> str:
    there = parse_stamp(answer.coordinator_time)
    if words := clock_words(here, there):
        raise RouteClosed(words)
    return f"{abs((here - there).total_seconds()):.0f} s from the coordinator's"


def _version(answer: pb.HandshakeReply) -> str:
    if answer.protocol_version <= 0:
        raise VersionRefused("the coordinator named no protocol version: upgrade it")
    return (
        f"protocol {answer.protocol_version}; the coordinator runs clinode "
        f"{answer.software_version}"
    )
