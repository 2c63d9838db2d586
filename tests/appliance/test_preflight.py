"""``node check``: every finding in words, a good node passes, and each fault is named."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from pynetdicom import AE, evt

from appliance.home import Home, create_keys, load_keys
from appliance.preflight import Finding, check_node
from appliance.settings import SettingsInvalid, load_settings, settings_from, settings_toml
from appliance.way_out import proxy_of
from dicom_bridge.vault import Vault
from federation.enrolment import enrol
from federation.errors import SettingsRefused
from tests.appliance.control.served import serve, short_runtime
from tests.federation.doubles import Federation


@pytest.fixture(autouse=True)
def runtime() -> Iterator[Path]:
    with short_runtime() as folder:
        yield folder


HOSPITAL, PROJECT = "hospital-p", "ms"


@contextmanager
def echo_scp(status: int = 0x0000) -> Iterator[int]:
    """A PACS that answers C-ECHO with this status; gives its port."""
    entity = AE(ae_title="PACS")
    entity.add_supported_context("1.2.840.10008.1.1")
    handlers = [(evt.EVT_C_ECHO, lambda _event: status)]
    server = entity.start_server(("127.0.0.1", 0), block=False, evt_handlers=handlers)
    try:
        yield int(server.server_address[1])
    finally:
        server.shutdown()


def make_node(root: Path, pacs_port: int, **tables: object) -> Home:
    """The home of a node with one PACS."""
    home = Home(root, PROJECT)
    home.create()
    create_keys(home)
    pacs = {"name": "main", "ae_title": "PACS", "host": "127.0.0.1", "port": pacs_port}
    document = {
        "node": {"site": HOSPITAL, "project": PROJECT},
        "dicom": {"port": 0},
        "pacs": [pacs],
        **tables,
    }
    home.settings_file.write_text(settings_toml(settings_from(document)), encoding="utf-8")
    return home


def by_check(findings: list[Finding]) -> dict[str, Finding]:
    assert all(f.message for f in findings)
    return {f.check: f for f in findings}


@pytest.mark.integration
def test_a_good_node_passes_and_a_revoked_or_old_one_is_told(tmp_path: Path) -> None:
    federation = Federation(tmp_path)
    try:
        with echo_scp() as port:
            home = make_node(tmp_path / "home", port)
            enrol(federation.coordinator.registry.add(HOSPITAL), home.keys, HOSPITAL)
            found = check_node(home.root)
            assert {f.check: f.message for f in found if not f.ok} == {}
            assert "C-ECHO" in by_check(found)["PACS main"].message
            later = datetime.now(UTC) + timedelta(days=3650)
            old = by_check(check_node(home.root, now=later))["certificate"]
            assert (old.ok, "expired" in old.message) == (False, True)
            federation.coordinator.registry.revoke(HOSPITAL, "left")
            revoked = by_check(check_node(home.root))
            assert "revoked" in revoked["coordinator, identity"].message
            assert {c for c, f in revoked.items() if not f.ok} == {"coordinator, identity"}
    finally:
        federation.close()
    gone = by_check(check_node(tmp_path / "home"))
    assert "firewall team" in gone["coordinator, route"].message
    assert not gone["PACS main"].ok


def test_a_node_that_is_not_enrolled_is_told_how_to(tmp_path: Path) -> None:
    with echo_scp() as port:
        found = by_check(check_node(make_node(tmp_path / "home", port).root))
    assert {check for check, f in found.items() if not f.ok} == {"certificate", "coordinator"}
    assert "clinode node enrol" in found["certificate"].message


@pytest.mark.integration
def test_the_way_is_tried_with_a_token_before_enrolment(tmp_path: Path) -> None:
    federation = Federation(tmp_path)
    try:
        home = make_node(tmp_path / "home", 9, pacs=[])
        token = federation.coordinator.registry.add(HOSPITAL).to_text()
        found = by_check(check_node(home.root, token=token))
        steps = [name for name in found if name.startswith("coordinator, ")]
        assert steps == ["coordinator, name", "coordinator, route", "coordinator, TLS"]
        assert all(found[name].ok for name in steps)
    finally:
        federation.close()
    gone = by_check(check_node(home.root, token=token))
    assert "firewall team" in gone["coordinator, route"].message


def test_a_proxy_of_the_settings_is_tried_first(tmp_path: Path) -> None:
    home = make_node(
        tmp_path / "home",
        9,
        pacs=[],
        federation={"proxy": {"url": "http://no-such-proxy.invalid:3128"}},
    )
    proxy = proxy_of(load_settings(home.settings_file), "fed.example.org:8440")
    assert proxy is not None
    assert proxy.address == "no-such-proxy.invalid:3128"


@pytest.mark.parametrize(
    "table",
    [
        {"url": "proxy:3128"},
        {"url": "http://user:word@proxy:3128"},
        {"url": "http://proxy:3128", "user": "node"},
    ],
)
def test_a_proxy_that_cannot_be_used_is_told_by_the_settings(table: dict[str, str]) -> None:
    with pytest.raises(SettingsInvalid, match=r"federation\.proxy"):
        settings_from({"node": {"site": "a"}, "federation": {"proxy": table}})


def test_the_password_of_a_proxy_comes_from_its_file(tmp_path: Path) -> None:
    word = tmp_path / "word"
    word.write_text("s3cret\n")
    table = {"url": "http://proxy:3128", "user": "node", "password_file": str(word)}
    made = settings_from({"node": {"site": "a"}, "federation": {"proxy": table}})
    proxy = proxy_of(made, "fed.example.org:8440")
    assert proxy is not None
    assert proxy.password == "s3cret"
    assert "s3cret" not in repr(proxy)
    word.unlink()
    with pytest.raises(SettingsRefused, match="password file"):
        proxy_of(made, "fed.example.org:8440")


def test_a_pacs_that_answers_with_a_failure_does_not_pass(tmp_path: Path) -> None:
    with echo_scp(0x0122) as port:
        found = by_check(check_node(make_node(tmp_path / "home", port).root))
    assert not found["PACS main"].ok


def test_a_taken_port_is_a_problem_unless_it_is_our_own(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        home = make_node(tmp_path / "home", 9, dicom={"port": port}, pacs=[])
        found = by_check(check_node(home.root))
        assert "cannot be bound" in found["receiver"].message
        assert not found["PACS"].ok
        with serve(home.root):
            assert "the node is running" in by_check(check_node(home.root))["receiver"].message


def test_secrets_open_to_others_and_a_full_disk_are_problems(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = make_node(tmp_path / "home", 9, pacs=[])
    (home.keys / "vault.key").chmod(0o644)
    monkeypatch.setattr("appliance.preflight.SMALLEST_DISK_BYTES", 2**62)  # edge: no full disk
    found = by_check(check_node(home.root))
    assert "chmod 600" in found["secrets"].message
    assert "make room" in found["disk"].message
    assert not found["secrets"].ok
    assert not found["disk"].ok


def test_wrong_settings_are_all_that_is_said(tmp_path: Path) -> None:
    home = make_node(tmp_path / "home", 9)
    home.settings_file.write_text('[node]\nsite = "X Y"\n[dicom]\nport = "a"\n', encoding="utf-8")
    found = check_node(home.root)
    assert [f.check for f in found] == ["settings", "settings"]
    assert not any(f.ok for f in found)
    (absent,) = check_node(tmp_path / "nowhere")
    assert "node init" in absent.message


def test_a_damaged_certificate_is_a_problem(tmp_path: Path) -> None:
    home = make_node(tmp_path / "home", 9, pacs=[])
    (home.keys / "node.crt").write_text("no certificate", encoding="ascii")
    assert "enrol again" in by_check(check_node(home.root))["certificate"].message


def test_the_vault_is_opened_record_by_record(tmp_path: Path) -> None:
    home = make_node(tmp_path / "home", 9, pacs=[])
    assert "empty" in by_check(check_node(home.root))["vault"].message
    with closing(Vault(home.vault, load_keys(home).vault_key)) as vault:
        vault.put("a", {"n": 1})
    assert by_check(check_node(home.root))["vault"].message.startswith("1 records")
    (home.keys / "vault.key").write_bytes(bytes(32))
    found = by_check(check_node(home.root))["vault"]
    assert not found.ok
    assert "another key" in found.message
