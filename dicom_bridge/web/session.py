"""HTTP towards one DICOMweb server: credentials, trust, and every failure in words.

URLs hold UIDs and queries hold patients' ids: neither ever gets into an error or a log, so the
loggers of the libraries below are switched off here, and their errors are mapped here once.
"""

from __future__ import annotations

import logging
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import requests
import urllib3
from requests.auth import AuthBase, _basic_auth_str

from dicom_bridge.errors import (
    AssociationRejected,
    PeerError,
    PeerFailure,
    PeerUnreachable,
    SettingsRefused,
)
from dicom_bridge.net.tls import describe_tls_failure

_MOST_SECRET_BYTES = 65_536

for _name in ("dicomweb_client", "urllib3"):
    _logger = logging.getLogger(_name)
    _logger.addHandler(logging.NullHandler())
    _logger.setLevel(logging.CRITICAL)
    _logger.propagate = False


@dataclass(frozen=True, slots=True)
class WebAddress:
    """Where a PACS speaks DICOMweb, and how we prove who we are.

    Attributes:
        url: the service's root, ``http`` or ``https``, without credentials in it.
        qido_prefix: path below the root for queries, empty for the root itself.
        wado_prefix: path below the root for retrieval.
        stow_prefix: path below the root for storing.
        token_file: a file with a bearer token, read anew for each request.
        user: a user for basic authentication; needs ``password_file``.
        password_file: a file with the password, read anew for each request.
        authorities: certificates (PEM) that vouch for the server; None uses the system's.
    """

    url: str
    qido_prefix: str = ""
    wado_prefix: str = ""
    stow_prefix: str = ""
    token_file: Path | None = None
    user: str = ""
    password_file: Path | None = None
    authorities: Path | None = None

    def __post_init__(self) -> None:
        parts = urlsplit(self.url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise SettingsRefused(
                "DICOMweb: the URL is not of the form https://host[:port]/path; correct it"
            )
        if parts.username or parts.password or parts.query or parts.fragment:
            raise SettingsRefused(
                "DICOMweb: the URL holds credentials or a query; enter user and password_file, "
                "or token_file"
            )
        if self.token_file is not None and self.user:
            raise SettingsRefused(
                "DICOMweb: both a token and a user are given; leave one of them out"
            )
        if bool(self.user) != (self.password_file is not None):
            raise SettingsRefused("DICOMweb: user and password_file go together; enter both")
        object.__setattr__(self, "url", self.url.rstrip("/"))

    def __str__(self) -> str:
        parts = urlsplit(self.url)
        return f"{parts.scheme}://{parts.netloc}"


class _Credentials(AuthBase):
    """Adds our credentials to each request, and corrects what servers stumble over.

    dicomweb-client sets Host without the port, which a server that looks at it refuses, and encodes
    the wildcard ``*``, which need not be (RFC 3986 3.4) and which not every server decodes.
    """

    def __init__(self, address: WebAddress) -> None:
        self._address = address

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        """The request with its Authorization header."""
        request.headers.pop("Host", None)
        if request.url is not None and "?" in request.url:
            path, values = request.url.split("?", 1)
            request.url = f"{path}?{values.replace('%2A', '*')}"
        address = self._address
        if address.token_file is not None:
            token = _secret(address.token_file, "token")
            request.headers["Authorization"] = f"Bearer {token}"
        elif address.password_file is not None:
            password = _secret(address.password_file, "password")
            request.headers["Authorization"] = _basic_auth_str(
                address.user.encode(), password.encode()
            )
        return request


def _secret(path: Path, what: str) -> str:
    try:
        with path.open("rb") as file:
            text = file.read(_MOST_SECRET_BYTES).decode("utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsRefused(
            f"DICOMweb: the {what} file {path.name} cannot be read; correct path and permissions"
        ) from error
    if not text or not text.isprintable():
        raise SettingsRefused(f"DICOMweb: the {what} file {path.name} holds no {what}; correct it")
    return text


def make_session(address: WebAddress) -> requests.Session:
    """A session that trusts whom it should, goes directly, and follows no redirection.

    Raises:
        SettingsRefused: the authorities file cannot be used.
    """
    session = requests.Session()
    session.trust_env = False
    session.max_redirects = 0
    session.auth = _Credentials(address)
    session.verify = _authorities(address)
    return session


def _authorities(address: WebAddress) -> str | bool:
    if address.authorities is None:
        system = ssl.get_default_verify_paths()
        return system.cafile or system.capath or True
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(cafile=address.authorities)
    except (OSError, ssl.SSLError) as error:
        raise SettingsRefused(
            f"DICOMweb: {address.authorities.name} holds no certificate in PEM form or cannot be "
            "read; enter the file of the authority that signed the server's certificate"
        ) from error
    return str(address.authorities)


_BY_STATUS: dict[int, str] = {
    400: "it finds the request wrong; look into its log",
    401: "it does not accept our credentials; enter a valid token_file, or user and password_file",
    403: "it does not allow us this; ask its administrator to grant our account the operation",
    404: "it does not hold what was asked for, or has no DICOMweb service at this URL; "
    "check url and prefixes",
    405: "it does not offer this operation; ask its administrator to enable it",
    406: "it cannot answer in a form that we understand; ask its administrator",
    408: "it waited too long for us; it is tried again",
    409: "it stored nothing of what was sent; see the reason of each instance",
    411: "it wants to know the length beforehand; ask the administrator of a proxy between",
    413: "it finds the request too large; ask its administrator to raise the limit",
    415: "it does not take this media type or transfer syntax; ask its administrator",
    429: "it has too many requests; it is tried again, lower instances_per_second",
    500: "it failed; it is tried again, then look into its log",
    501: "it does not offer this operation; ask its administrator to enable it",
    502: "a proxy before it got no good answer; it is tried again, then check the PACS",
    503: "it is busy or down; it is tried again, then check the PACS",
    504: "a proxy before it got no answer in time; it is tried again, then check the PACS",
    507: "its disk is full; tell its administrator",
}
_BY_CLASS: dict[int, str] = {
    3: "it redirects to another URL; enter the URL that it redirects to",
    4: "it refuses the request; look into its log",
    5: "it failed; it is tried again, then look into its log",
}
_PASSING = frozenset({408, 429})


def describe_http(status: int) -> str:
    """Say what an HTTP status of a DICOMweb server means and what to do.

    Example:
        >>> describe_http(503)
        'HTTP 503: it is busy or down; it is tried again, then check the PACS'
    """
    words = _BY_STATUS.get(status) or _BY_CLASS.get(status // 100)
    return f"HTTP {status}: {words or 'an answer that DICOMweb does not define; look into its log'}"


def refusal(address: WebAddress, status: int) -> PeerError:
    """The error for an HTTP status that is no success."""
    words = f"{address}: {describe_http(status)}"
    if status in (401, 403):
        return AssociationRejected(words, result=1, reason=status)
    if status in _PASSING or (status >= 500 and status not in (501, 507)):
        return PeerUnreachable(words)
    return PeerFailure(words, status=status)


@contextmanager
def mapped(address: WebAddress) -> Iterator[None]:
    """Map what the HTTP libraries raise to this package's errors.

    Raises:
        PeerUnreachable: nothing answers, the connection broke, or the server is busy.
        AssociationRejected: the server refuses our credentials.
        PeerFailure: it refuses the request, or its answer cannot be understood.
    """
    try:
        yield
    except requests.HTTPError as error:
        status = error.response.status_code if error.response is not None else 0
        raise refusal(address, status) from None
    except requests.TooManyRedirects:
        raise refusal(address, 302) from None
    except (requests.RequestException, urllib3.exceptions.HTTPError, OSError) as error:
        raise _unreachable(address, error) from None


def _unreachable(address: WebAddress, error: Exception) -> PeerError:
    causes = list(_causes(error))
    secure = next((cause for cause in causes if isinstance(cause, ssl.SSLError)), None)
    if secure is not None:
        return PeerUnreachable(f"{address}: {describe_tls_failure(secure)}")
    if isinstance(error, requests.exceptions.JSONDecodeError):
        return PeerFailure(
            f"{address} does not answer with DICOM JSON; check that the URL is a DICOMweb service",
            status=0,
        )
    if isinstance(error, requests.Timeout | TimeoutError):
        return PeerUnreachable(f"{address} did not answer in time; try again, then check it")
    if any(isinstance(cause, ConnectionRefusedError) for cause in causes):
        return PeerUnreachable(
            f"{address}: connection refused; check that the service runs and the port is right"
        )
    if any(isinstance(cause, urllib3.exceptions.NameResolutionError) for cause in causes):
        return PeerUnreachable(
            f"{address}: no address is known for the host; correct the URL or the DNS"
        )
    return PeerUnreachable(
        f"{address} ended the connection ({type(error).__name__}); "
        "what had arrived is kept, the rest is asked for again"
    )


def _causes(error: BaseException) -> Iterator[BaseException]:
    """An error and everything that it wraps, in whatever way."""
    waiting: list[BaseException] = [error]
    seen: set[int] = set()
    while waiting:
        current = waiting.pop(0)
        if id(current) in seen:
            continue
        seen.add(id(current))
        yield current
        inner = (*current.args, getattr(current, "reason", None), current.__cause__)
        waiting += [item for item in (*inner, current.__context__) if isinstance(item, Exception)]
