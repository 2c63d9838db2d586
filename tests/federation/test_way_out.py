"""The way out of a hospital: a real proxy, its refusals, and what each hindrance is called."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from federation.enrolment.client import enrol
from federation.errors import (
    CoordinatorUnreachable,
    NameUnknown,
    ProxyRefused,
    RouteClosed,
    SettingsRefused,
)
from federation.node.connection import CoordinatorConnection, RetryPolicy
from federation.node.route import Step, Way, examine, examine_token
from federation.wire.dial import Proxy, dial, environment_proxy
from tests.certificates import Authority
from tests.federation.doubles import Federation
from tests.federation.real_proxy import PASSWORD, USER, TinyProxy, TlsInFront
from tests.tools import free_port

integration = pytest.mark.integration


@pytest.fixture
def proxy(federation: Federation, tmp_path: Path) -> Iterator[TinyProxy]:
    """A proxy that lets CONNECT through to the coordinator's two ports, with a password."""
    made = TinyProxy(tmp_path / "proxy", ports_of(federation), free_port(), password=PASSWORD)
    yield made
    made.kill()


def ports_of(federation: Federation) -> tuple[int, int]:
    settings = federation.coordinator.settings
    return settings.enrolment_port, settings.federation_port


def through(port: int, **fields: object) -> Proxy:
    return Proxy("127.0.0.1", port, **{"user": USER, "password": PASSWORD, **fields})  # type: ignore[arg-type]


@contextmanager
def answering(answer: bytes) -> Iterator[int]:
    """A server that says this to whoever connects, whatever was asked."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def _serve() -> None:
            with contextlib.suppress(OSError):
                while True:
                    link, _ = listener.accept()
                    with link, contextlib.suppress(OSError):
                        link.recv(4096)
                        link.sendall(answer)

        thread = threading.Thread(target=_serve, daemon=True)
        thread.start()
        yield int(listener.getsockname()[1])
        listener.shutdown(socket.SHUT_RDWR)
        thread.join(5)


def words_of(steps: Iterator[Step]) -> dict[str, str]:
    """Step to words; all but the last are fine."""
    seen = list(steps)
    assert all(step.ok for step in seen[:-1])
    return {step.name: step.words for step in seen}


@integration
def test_enrolment_and_calls_go_through_a_real_proxy(
    federation: Federation, proxy: TinyProxy, tmp_path: Path
) -> None:
    token = federation.coordinator.registry.add("site-a")
    before = words_of(examine_token(Way(token.address, through(proxy.port)), token))
    assert list(before) == ["name", "route", "proxy", "TLS"]
    identity = enrol(token, tmp_path / "keys", "site-a", proxy=through(proxy.port))
    link = CoordinatorConnection(identity, proxy=through(proxy.port))
    assert link.handshake().project == federation.coordinator.settings.project
    link.close()
    assert proxy.connects() >= 4
    seen = words_of(examine(Way(identity.address, through(proxy.port)), identity))
    assert list(seen) == ["name", "route", "proxy", "TLS", "identity", "clock", "version"]
    assert "site-a is known" in seen["identity"]


@integration
def test_a_call_goes_on_when_the_proxy_comes_back(
    federation: Federation, proxy: TinyProxy, tmp_path: Path
) -> None:
    identity = federation.enrolled("site-a")
    pauses: list[str] = []
    link = CoordinatorConnection(
        identity, proxy=through(proxy.port), retry=RetryPolicy(sleep=lambda _: revive())
    )

    def revive() -> None:
        """The first pause brings the proxy back: nothing else does."""
        if not pauses:
            proxy.start()
        pauses.append("waited")

    assert link.handshake().protocol_version >= 1
    proxy.kill()
    assert link.handshake().protocol_version >= 1
    assert pauses
    link.close()


@integration
@pytest.mark.parametrize(
    ("password", "target", "status", "words"),
    [
        ("wrong", "", "401", "check them in the settings"),
        ("", "", "407", "user and a password"),
        (PASSWORD, "127.0.0.1:9", "403", "allow CONNECT"),
    ],
)
def test_what_a_proxy_refuses_is_told_with_whom_to_ask(
    proxy: TinyProxy,
    federation: Federation,
    password: str,
    target: str,
    status: str,
    words: str,
) -> None:
    address = target or f"127.0.0.1:{ports_of(federation)[1]}"
    with pytest.raises(ProxyRefused) as refused:
        dial(address, through(proxy.port, user=USER if password else "", password=password), 5)
    assert status in str(refused.value)
    assert words in str(refused.value)
    assert not password or password not in str(refused.value)


@integration
def test_the_words_of_the_proxy_reach_whoever_calls(
    federation: Federation, proxy: TinyProxy
) -> None:
    stop = threading.Event()
    stop.set()
    link = CoordinatorConnection(
        federation.enrolled("site-a"), proxy=through(proxy.port, password="no"), stop=stop
    )
    with pytest.raises(CoordinatorUnreachable, match="401"):
        link.handshake()
    link.close()


@integration
def test_a_proxy_that_is_spoken_to_by_tls(
    federation: Federation, proxy: TinyProxy, tmp_path: Path
) -> None:
    authority = Authority(tmp_path / "ca", "hospital-ca")
    front = TlsInFront(authority.issue("proxy"), proxy.port)
    good = through(front.port, tls=True, authorities=authority.path)
    identity = federation.enrolled("site-a")
    link = CoordinatorConnection(identity, proxy=good)
    assert link.handshake().protocol_version >= 1
    link.close()
    with pytest.raises(ProxyRefused, match="authority's file"):
        dial(identity.address, through(front.port, tls=True), 5)
    front.close()


@integration
def test_tls_that_is_opened_on_the_way_is_named(federation: Federation, tmp_path: Path) -> None:
    identity = federation.enrolled("site-a")
    inspector = Authority(tmp_path / "ca", "inspection")
    front = TlsInFront(inspector.issue("clinode-coordinator"), ports_of(federation)[1])
    seen = words_of(examine(Way(f"127.0.0.1:{front.port}"), identity))
    assert list(seen)[-1] == "TLS"
    assert "exempt this address from TLS inspection" in seen["TLS"]
    front.close()


@integration
def test_a_wrong_clock_is_named(federation: Federation) -> None:
    identity = federation.enrolled("site-a")
    for shift, words in ((200.0, "ahead of"), (-200.0, "behind")):

        def _clock(shift: float = shift) -> datetime:
            return datetime.now(UTC) + timedelta(seconds=shift)

        seen = words_of(examine(Way(identity.address), identity, clock=_clock))
        assert list(seen)[-1] == "clock"
        assert words in seen["clock"]


@integration
def test_nothing_there_and_no_tls_there(federation: Federation) -> None:
    identity = federation.enrolled("site-a")
    closed = words_of(examine(Way(f"127.0.0.1:{free_port()}"), identity))
    assert list(closed)[-1] == "route"
    assert "refuses the port" in closed["route"]
    with answering(b"SSH-2.0-OpenSSH_9\r\n") as port:
        steps = {step.name: step for step in examine(Way(f"127.0.0.1:{port}"), identity)}
    assert "no TLS at" in steps["TLS"].words
    unknown = words_of(examine(Way("no-such-host.invalid:8440"), identity))
    assert list(unknown) == ["name"]
    assert "is not known here" in unknown["name"]


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (b"", "as an HTTP proxy does"),
        (b"SSH-2.0-OpenSSH_9\r\n\r\n", "no HTTP proxy"),
        (b"HTTP/1.1 abc\r\n\r\n", "no HTTP proxy"),
        (b"HTTP/1.1 502 Bad Gateway\r\n\r\n", "cannot reach the address"),
        (b"HTTP/1.0 418 x\r\n\r\n", "418"),
        (b"HTTP/1.1 200 " + b"a" * 20_000, "as an HTTP proxy does"),
    ],
)
def test_odd_answers_of_a_proxy(answer: bytes, words: str) -> None:
    with answering(answer) as port, pytest.raises(ProxyRefused, match=words):
        dial("coordinator.example.org:8440", Proxy("127.0.0.1", port), 5)


def test_a_name_and_a_port_that_are_not_there() -> None:
    with pytest.raises(NameUnknown, match="no-such-proxy"):
        dial("127.0.0.1:1", Proxy("no-such-proxy.invalid", 3128), 2)
    with pytest.raises(RouteClosed, match="firewall team"):
        dial(f"127.0.0.1:{free_port()}", None, 2)


@pytest.mark.parametrize(
    "url",
    ["proxy:3128", "ftp://proxy:21", "http://", "http://user:word@proxy:3128", "http://proxy:x"],
)
def test_urls_that_are_no_proxy(url: str) -> None:
    with pytest.raises(SettingsRefused, match="expected http://HOST:PORT"):
        Proxy.parse(url)


Setter = Callable[[str, str], None]


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> Setter:
    for name in ("https_proxy", "HTTPS_PROXY", "no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    return monkeypatch.setenv


def test_the_proxy_of_the_environment(environment: Setter) -> None:
    assert environment_proxy("fed.example.org:8440") is None
    environment("https_proxy", "http://a%40b:p%3Aw@proxy.example.org:8080")
    found = environment_proxy("fed.example.org:8440")
    assert found == Proxy("proxy.example.org", 8080, user="a@b", password="p:w")
    assert "p:w" not in repr(found)
    environment("no_proxy", "localhost, .example.org")
    assert environment_proxy("fed.example.org:8440") is None
    assert environment_proxy("fed.example.com:8440") == found
    environment("no_proxy", "*")
    assert environment_proxy("fed.example.com:8440") is None
