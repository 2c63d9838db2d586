"""Enrolment: the right site joins once; every wrong try is refused in words and audited."""

from __future__ import annotations

import dataclasses
import socket
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509

from federation.audit_chain import read_entries
from federation.clock import utc_now
from federation.coordinator.process import init_coordinator
from federation.coordinator.registry import ATTEMPTS_PER_TOKEN, STRANGERS_PER_MINUTE
from federation.coordinator.settings import CoordinatorSettings, Home, control_socket, load_settings
from federation.enrolment import EnrolmentToken, enrol, load_identity, parse_token
from federation.enrolment.client import _ask, pinned_authority
from federation.errors import (
    CoordinatorUnreachable,
    EnrolmentRefused,
    RunRefused,
    SettingsRefused,
)
from federation.pki import new_key, signing_request
from tests.federation.doubles import PROJECT, Federation, make_home
from tests.tools import free_port


def _causes(federation: Federation, action: str = "enrolment.refused") -> list[str]:
    entries = read_entries(federation.home / "audit.jsonl")
    return [str(e.detail["cause"]) for e in entries if e.action == action]


def test_site_joins_and_its_key_never_travels(federation: Federation, tmp_path: Path) -> None:
    token = federation.coordinator.registry.add("site-a")
    keys = tmp_path / "keys"
    text = tmp_path / "token.txt"
    text.write_text(token.to_text() + "\n")
    identity = enrol(text, keys, "site-a")
    assert identity == load_identity(keys)
    assert identity.site == "site-a"
    assert identity.address == federation.coordinator.registry.project.federation_address
    assert (keys / "node.key").stat().st_mode & 0o777 == 0o600
    certificate = x509.load_pem_x509_certificate((keys / "node.crt").read_bytes())
    usage = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert [purpose.dotted_string for purpose in usage] == ["1.3.6.1.5.5.7.3.2"]
    secret_lines = (keys / "node.key").read_text().splitlines()[1:-1]
    for path in federation.home.rglob("*"):
        if path.is_file():
            assert secret_lines[0].encode() not in path.read_bytes()
            assert token.secret not in path.read_bytes()
    shown = repr(token) + repr(identity)
    assert "secret" not in shown
    assert "PRIVATE" not in shown


def test_token_is_used_once_but_a_lost_answer_costs_nothing(
    federation: Federation, tmp_path: Path
) -> None:
    token = federation.coordinator.registry.add("site-a")
    first = enrol(token, tmp_path / "one", "site-a")
    # The same node asks again as if the answer had been lost: same key, same certificate.
    (tmp_path / "one" / "node.crt").unlink()
    again = enrol(token, tmp_path / "one", "site-a")
    assert again.serial == first.serial
    with pytest.raises(EnrolmentRefused, match="token used already"):
        enrol(token, tmp_path / "two", "site-a")
    with pytest.raises(EnrolmentRefused, match="enrolled already"):
        enrol(token, tmp_path / "one", "site-a")
    assert _causes(federation) == ["token used already"]


def test_wrong_fingerprint_hears_nothing(federation: Federation, tmp_path: Path) -> None:
    token = federation.coordinator.registry.add("site-a")
    forged = dataclasses.replace(token, authority="0" * 64)
    with pytest.raises(EnrolmentRefused, match="is not the coordinator of this token"):
        enrol(forged, tmp_path / "keys", "site-a")
    assert not (tmp_path / "keys").exists()
    assert federation.coordinator.store.token(token.token_id).attempts == 0  # type: ignore[union-attr]


def test_impostor_with_the_true_authority_in_its_chain_is_refused(
    federation: Federation, tmp_path: Path, runtime: None
) -> None:
    """Showing the public authority certificate is not enough: the key must be certified by it."""
    token = federation.coordinator.registry.add("site-a")
    port = free_port()
    impostor_home = Home(make_home(tmp_path / "impostor", enrolment_port=port))
    true = Home(federation.home).authority.read_bytes()
    chain = impostor_home.server.read_bytes() + true
    impostor_home.enrolment_chain.write_bytes(chain)
    from federation.coordinator.process import Coordinator

    impostor = Coordinator(impostor_home.folder)
    impostor.start()
    try:
        lured = dataclasses.replace(token, address=f"127.0.0.1:{port}")
        assert pinned_authority(lured) == true
        with pytest.raises(CoordinatorUnreachable):
            enrol(lured, tmp_path / "keys", "site-a")
        assert not any(
            entry.action.startswith("enrolment") for entry in read_entries(impostor_home.audit)
        )
    finally:
        impostor.stop()


def test_too_many_attempts_burn_the_token(federation: Federation, tmp_path: Path) -> None:
    token = federation.coordinator.registry.add("site-a")
    wrong = dataclasses.replace(token, secret=bytes(32))
    for attempt in range(ATTEMPTS_PER_TOKEN):
        with pytest.raises(EnrolmentRefused, match="the token is not valid"):
            enrol(wrong, tmp_path / f"k{attempt}", "site-a")
    with pytest.raises(EnrolmentRefused, match="token no longer valid"):
        enrol(token, tmp_path / "true", "site-a")
    assert _causes(federation) == [
        *["wrong secret"] * (ATTEMPTS_PER_TOKEN - 1),
        f"wrong secret, {ATTEMPTS_PER_TOKEN} attempts: token burned",
        "token no longer valid",
    ]


def test_unknown_tokens_are_limited_in_time(federation: Federation, tmp_path: Path) -> None:
    token = federation.coordinator.registry.add("site-a")
    stranger = dataclasses.replace(token, token_id="f" * 16)
    request = signing_request(new_key(), "site-a", PROJECT)
    authority = pinned_authority(stranger)
    for _ in range(STRANGERS_PER_MINUTE):
        with pytest.raises(EnrolmentRefused, match="the token is not valid"):
            _ask(stranger, authority, request)
    with pytest.raises(EnrolmentRefused, match="too many attempts"):
        _ask(stranger, authority, request)
    assert _causes(federation) == ["token unknown"] * STRANGERS_PER_MINUTE
    # Who holds a true token is not kept out by strangers.
    assert enrol(token, tmp_path / "keys", "site-a").site == "site-a"


def test_expired_token(federation: Federation, tmp_path: Path) -> None:
    token = federation.coordinator.registry.add("site-a")
    late = lambda: utc_now() + timedelta(days=30)  # noqa: E731
    with pytest.raises(EnrolmentRefused, match="has expired"):
        enrol(token, tmp_path / "keys", "site-a", clock=late)
    with federation.coordinator.store.change() as change:
        change.set("tokens", {"token_id": token.token_id}, {"expires": "2020-01-01T00:00:00Z"})
    with pytest.raises(EnrolmentRefused, match="token expired"):
        enrol(token, tmp_path / "keys", "site-a")
    assert _causes(federation) == ["token expired"]


def test_another_sites_name(federation: Federation, tmp_path: Path) -> None:
    token = federation.coordinator.registry.add("site-a")
    with pytest.raises(EnrolmentRefused, match="the token is for site site-a, this node is site-b"):
        enrol(token, tmp_path / "keys", "site-b")
    request = signing_request(new_key(), "site-b", PROJECT)
    with pytest.raises(EnrolmentRefused, match="names another site than the token"):
        _ask(token, pinned_authority(token), request)
    with pytest.raises(EnrolmentRefused, match="cannot be read"):
        _ask(token, pinned_authority(token), b"nonsense")


def test_nobody_answers(tmp_path: Path) -> None:
    token = EnrolmentToken(
        "0" * 16, "site-a", PROJECT, f"127.0.0.1:{free_port()}", "0" * 64,
        datetime(2999, 1, 1, tzinfo=UTC), bytes(32),
    )  # fmt: skip
    with pytest.raises(CoordinatorUnreachable, match="outgoing TCP"):
        enrol(token, tmp_path / "keys", "site-a")


def test_damaged_tokens_are_named(federation: Federation) -> None:
    text = federation.coordinator.registry.add("site-a").to_text()
    assert parse_token(f"  {text[:40]}\n{text[40:]}  ").site == "site-a"
    for damaged, words in (
        ("hello", "this is no enrolment token"),
        (text.replace("enrol-1.", "enrol-9."), "another version"),
        (text[:-30], "damaged"),
        (text[:20] + "!" + text[20:], "damaged"),
        ("clinode-enrol-1." + "A" * 5000, "no enrolment token"),
    ):
        with pytest.raises(EnrolmentRefused, match=words):
            parse_token(damaged)


def test_revoked_site_enrols_anew_with_a_new_token(federation: Federation, tmp_path: Path) -> None:
    registry = federation.coordinator.registry
    first = enrol(registry.add("site-a"), tmp_path / "one", "site-a")
    with pytest.raises(RunRefused, match="is enrolled"):
        registry.add("site-a")
    registry.revoke("site-a", "key stolen")
    assert registry.standing("site-a", first.serial) is not None
    second = enrol(registry.add("site-a"), tmp_path / "two", "site-a")
    assert registry.standing("site-a", second.serial) is None
    assert registry.standing("site-a", first.serial) is not None
    with pytest.raises(RunRefused, match="no site"):
        registry.revoke("nobody", "")
    with pytest.raises(SettingsRefused, match="lower-case"):
        registry.add("Site A")


def test_init_again_keeps_the_authority(tmp_path: Path) -> None:
    home = Home(make_home(tmp_path / "c"))
    before = home.authority.read_bytes(), home.plan_key.read_bytes()
    settings = load_settings(home.settings)
    init_coordinator(home.folder, settings)
    assert (home.authority.read_bytes(), home.plan_key.read_bytes()) == before
    for key in (home.authority_key, home.server_key, home.plan_key):
        assert key.stat().st_mode & 0o777 == 0o600
    with pytest.raises(SettingsRefused, match="another project"):
        init_coordinator(home.folder, CoordinatorSettings(project="other"))
    home.settings.write_text('project = "x/y"\nfederation_port = 0\n')
    with pytest.raises(SettingsRefused, match=r"project: .*; federation_port: "):
        load_settings(home.settings)


def test_control_socket_is_short_and_private(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    open_folder = tmp_path / "open"
    (open_folder / "clinode").mkdir(parents=True)
    (open_folder / "clinode").chmod(0o755)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(open_folder))
    with pytest.raises(SettingsRefused, match="mode 0700"):
        control_socket(tmp_path)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path / ("long" * 30)))
    with pytest.raises(SettingsRefused, match="too long"):
        control_socket(tmp_path)
    deep = tmp_path / ("deep" * 20)
    monkeypatch.delenv("XDG_RUNTIME_DIR")
    path = control_socket(deep)
    assert len(str(path)) <= 107
    with socket.socket(socket.AF_UNIX) as link:
        link.bind(str(path))
    path.unlink()
