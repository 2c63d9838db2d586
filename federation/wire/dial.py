"""The way out of a hospital: name, route, proxy. Each hindrance has a class and words of its own.

A connection is made directly or through an HTTP proxy by CONNECT (RFC 9110 9.3.6). TLS inside the
tunnel is between node and coordinator: the proxy sees the coordinator's address and nothing else.
"""

from __future__ import annotations

import base64
import socket
import ssl
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final
from urllib.parse import unquote, urlsplit
from urllib.request import getproxies_environment

from federation.errors import (
    NameUnknown,
    ProxyRefused,
    RouteClosed,
    SettingsRefused,
)
from federation.wire.tls import ConnectedSocket

LONGEST_ANSWER: Final = 16_384
"""Bytes of a proxy's answer to CONNECT that are read."""

_PORTS: Final = {"http": 3128, "https": 3129}
_STATUS_WORDS: Final = {
    401: "it does not take this user and password: check them in the settings ([federation.proxy])",
    403: "its rules forbid this address or port: ask the proxy's administrator to allow CONNECT",
    407: "it asks for a user and a password: set them in the settings ([federation.proxy])",
    502: "it cannot reach the address: ask the proxy's administrator",
    503: "it cannot reach the address: ask the proxy's administrator",
    504: "it got no answer from the address in time: ask the proxy's administrator",
}


@dataclass(frozen=True, slots=True)
class Proxy:
    """An HTTP proxy.

    Attributes:
        host: name or address.
        port: TCP port.
        tls: whether the proxy itself is spoken to by TLS.
        authorities: PEM file that vouches for the proxy; None uses the system's.
        user: for basic authentication (RFC 7617); empty for none.
        password: the same.
    """

    host: str
    port: int
    tls: bool = False
    authorities: Path | None = None
    user: str = ""
    password: str = field(default="", repr=False)

    @classmethod
    def parse(
        cls, url: str, *, authorities: Path | None = None, user: str = "", password: str = ""
    ) -> Proxy:
        """A proxy from its URL.

        Raises:
            SettingsRefused: no ``http://`` or ``https://`` URL of a host and a port.

        Examples:
            >>> Proxy.parse("http://proxy.example.org:8080").port
            8080
        """
        parts = urlsplit(url)
        try:
            port = parts.port or _PORTS.get(parts.scheme, 0)
        except ValueError:
            port = 0
        if parts.scheme not in _PORTS or not parts.hostname or not port or parts.username:
            raise SettingsRefused(
                "the proxy is not usable: expected http://HOST:PORT or https://HOST:PORT, with user"
                " and password in settings of their own"
            )
        tls = parts.scheme == "https"
        return cls(parts.hostname, port, tls, authorities, user, password)

    @property
    def address(self) -> str:
        """``host:port``."""
        return joined(self.host, self.port)


def environment_proxy(address: str) -> Proxy | None:
    """The proxy that the environment names for an address (``https_proxy``, ``no_proxy``).

    Args:
        address: the coordinator's ``host:port``.

    Raises:
        SettingsRefused: the variable holds no usable URL.
    """
    host, _ = split_address(address)
    named = getproxies_environment()
    url = named.get("https", "")
    if not url or _excepted(host, named.get("no", "")):
        return None
    parts = urlsplit(url if "//" in url else f"http://{url}")
    bare = parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()
    return Proxy.parse(
        bare, user=unquote(parts.username or ""), password=unquote(parts.password or "")
    )


def _excepted(host: str, exceptions: str) -> bool:
    """Whether ``no_proxy`` names a host, a domain above it, or everything."""
    names = [name.strip().lstrip(".").lower() for name in exceptions.split(",")]
    wanted = host.lower()
    return any(n and (n == "*" or wanted == n or wanted.endswith(f".{n}")) for n in names)


def split_address(address: str) -> tuple[str, int]:
    """Host and port of ``host:port``; an IPv6 address stands in brackets.

    Examples:
        >>> split_address("[::1]:8440")
        ('::1', 8440)
    """
    host, _, port = address.rpartition(":")
    return host.strip("[]"), int(port)


def joined(host: str, port: int) -> str:
    """``host:port`` as URLs and CONNECT write it.

    Examples:
        >>> joined("::1", 8440)
        '[::1]:8440'
    """
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def resolved(host: str, port: int) -> list[str]:
    """The addresses that a name stands for.

    Raises:
        NameUnknown: name resolution has no answer.
    """
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise NameUnknown(
            f"the name {host} is not known here: check it, or ask for its entry in the name server"
        ) from error
    return list(dict.fromkeys(str(entry[4][0]) for entry in found))


def connect(host: str, port: int, timeout_s: float) -> socket.socket:
    """A TCP connection to one of a name's addresses.

    Raises:
        NameUnknown: name resolution has no answer.
        RouteClosed: nothing answers there, or it refuses.
    """
    addresses = resolved(host, port)
    where = f"{joined(host, port)} ({', '.join(addresses[:3])})"
    words = "nothing answers"
    deadline = time.monotonic() + timeout_s
    for address in addresses:
        try:
            left = max(0.1, deadline - time.monotonic())
            return socket.create_connection((address, port), timeout=left)
        except ConnectionRefusedError:
            words = "the machine is there and refuses the port: is the service running there?"
        except TimeoutError:
            words = f"no answer in {timeout_s:g} s, as when a firewall drops the packets"
        except OSError as error:
            words = f"no way there ({error.strerror or type(error).__name__})"
    raise RouteClosed(
        f"{where}: {words}. For the firewall team: allow outgoing TCP from this machine to {where}"
    )


def dial(address: str, proxy: Proxy | None, timeout_s: float) -> socket.socket:
    """A stream to the coordinator, direct or through the proxy.

    Args:
        address: the coordinator's ``host:port``.
        proxy: None goes directly.
        timeout_s: for each step.

    Raises:
        NameUnknown: the name of the proxy, or without one the coordinator's, is not known.
        RouteClosed: the proxy, or without one the coordinator, does not answer.
        ProxyRefused: the proxy does not let us through.
    """
    host, port = split_address(address)
    if proxy is None:
        return connect(host, port, timeout_s)
    link = connect(proxy.host, proxy.port, timeout_s)
    try:
        if proxy.tls:
            link = _with_tls(link, proxy)
        _tunnel(link, joined(host, port), proxy)
    except (OSError, ProxyRefused) as error:
        link.close()
        if isinstance(error, ProxyRefused):
            raise
        raise ProxyRefused(
            f"the proxy {proxy.address} broke the connection off ({type(error).__name__}): is it"
            " an HTTP proxy that allows CONNECT?"
        ) from error
    return link


def _with_tls(link: socket.socket, proxy: Proxy) -> ssl.SSLSocket:
    context = ssl.create_default_context(
        cafile=None if proxy.authorities is None else str(proxy.authorities)
    )
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.sslsocket_class = ConnectedSocket
    try:
        return context.wrap_socket(link, server_hostname=proxy.host)
    except ssl.SSLCertVerificationError as error:
        raise ProxyRefused(
            f"the proxy {proxy.address} shows a certificate that is not believed"
            f" ({error.verify_message}): give the authority's file in the settings"
        ) from error


def _tunnel(link: socket.socket, target: str, proxy: Proxy) -> None:
    lines = [f"CONNECT {target} HTTP/1.1", f"Host: {target}"]
    if proxy.user:
        pair = base64.b64encode(f"{proxy.user}:{proxy.password}".encode()).decode()
        lines.append(f"Proxy-Authorization: Basic {pair}")
    link.sendall(("\r\n".join([*lines, "", ""])).encode())
    head = bytearray()
    # One byte at a time: what follows the empty line belongs to the tunnel and is not ours.
    while not head.endswith(b"\r\n\r\n"):
        byte = link.recv(1)
        if not byte or len(head) >= LONGEST_ANSWER:
            raise ProxyRefused(
                f"{proxy.address} did not answer CONNECT as an HTTP proxy does: check the address"
            )
        head += byte
    status = _status(bytes(head).split(b"\r\n", 1)[0].split(b" "))
    if not 200 <= status < 300:
        words = _STATUS_WORDS.get(status, "ask the proxy's administrator to allow CONNECT there")
        raise ProxyRefused(f"the proxy {proxy.address} answers {status} for {target}: {words}")


def _status(words: Sequence[bytes]) -> int:
    if len(words) >= 2 and words[0].startswith(b"HTTP/") and words[1].isdigit():
        return int(words[1])
    raise ProxyRefused("what answers at the proxy's address is no HTTP proxy: check the address")
