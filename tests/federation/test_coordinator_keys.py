"""The coordinator's keys over the years: its certificate renews itself, its authority stays."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import structlog
from cryptography import x509

from appliance.cli.app import run_command
from federation.coordinator.process import Coordinator, init_coordinator
from federation.coordinator.settings import CoordinatorSettings, Home, load_settings
from federation.enrolment import enrol, load_identity
from federation.enrolment.client import _served_chain
from federation.enrolment.renewal import Renewal
from federation.errors import SettingsRefused
from federation.keyfile import load_key
from federation.node.connection import CoordinatorConnection, RetryPolicy
from federation.pki import new_key, save_key
from tests.federation.doubles import PROJECT, Federation, make_home
from tests.tools import free_port

QUICK = RetryPolicy(first_s=0.02, longest_s=0.1)
WORDS = "correct horse battery"


@pytest.fixture(autouse=True)
def quick_cover(monkeypatch: pytest.MonkeyPatch) -> None:
    """Cheap scrypt: how strong it is, `test_keyfile` looks at."""
    monkeypatch.setattr("federation.keyfile.SCRYPT_N", 1 << 6)


class Clock:
    """The present time plus an offset that a test moves."""

    def __init__(self, days: float) -> None:
        self.days = days

    def __call__(self) -> datetime:
        return datetime.now(UTC) + timedelta(days=self.days)


def shown(address: str) -> int:
    """Serial number of the certificate that a listener shows."""
    return x509.load_der_x509_certificate(_served_chain(address, None, 10.0)[0]).serial_number


@pytest.mark.integration
def test_its_certificate_is_renewed_while_sites_are_connected(
    tmp_path: Path, runtime: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both listeners show the new one; no restart, no connection breaks, no site does anything."""
    clock = Clock(-552)
    home = tmp_path / "coordinator"
    settings = CoordinatorSettings(
        project=PROJECT, enrolment_port=free_port(), federation_port=free_port()
    )
    init_coordinator(home, settings, clock=clock)
    monkeypatch.setattr("tests.federation.doubles.make_home", lambda *_, **__: home)
    clock.days = -2.5  # two thirds of its time are over in half a day
    federation = Federation(tmp_path, clock=clock)
    try:
        project = federation.coordinator.registry.project
        waiting = federation.coordinator.registry.add("site-b")
        old = shown(project.federation_address)
        assert shown(project.enrolment_address) == old
        link = CoordinatorConnection(federation.enrolled("site-a"), retry=QUICK)
        assert link.handshake().project
        front = federation.coordinator._front
        assert front is not None
        live = set(front._live)
        federation.coordinator.upkeep.look()
        assert shown(project.federation_address) == old  # not due yet
        clock.days = 0
        federation.coordinator.upkeep.look()
        new = shown(project.federation_address)
        assert new != old
        assert shown(project.enrolment_address) == new
        assert link.poll(wait_s=0).format
        assert live <= set(front._live)
        late = CoordinatorConnection(enrol(waiting, tmp_path / "b", "site-b"), retry=QUICK)
        for site in (late, CoordinatorConnection(link.identity, retry=QUICK)):
            assert site.handshake().project
            site.close()
        link.close()
    finally:
        federation.close()


def contents(home: Home) -> dict[str, bytes]:
    kept = (home.authority_key, home.authority, home.plan_key)
    return {path.name: path.read_bytes() for path in kept if path.exists()}


def _remove(path: Path) -> None:
    path.unlink()


def _damage(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:60])


def _open(path: Path) -> None:
    path.chmod(0o644)


def _other(path: Path) -> None:
    save_key(path, new_key())


@pytest.mark.parametrize(
    ("name", "harm", "words"),
    [
        ("ca.key", _remove, r"ca.key cannot be read .*put it back from the backup; it is never"),
        ("ca.key", _damage, "ca.key cannot be read: it is damaged; take it from the backup"),
        ("ca.key", _open, "`chmod 600 keys/ca.key`"),
        ("ca.key", _other, "do not belong together: put both back from one backup"),
        ("ca.crt", _remove, "every enrolled site has a copy as keys/ca.crt"),
        ("ca.crt", _damage, "ca.crt is damaged: every enrolled site has a copy"),
        ("plan.key", _remove, "plan.key cannot be read"),
        ("plan.key", _damage, "plan.key cannot be read: it is damaged"),
        ("plan.key", _other, "plan.key holds no Ed25519 key"),
    ],
)
def test_a_harmed_authority_is_refused_in_words_and_never_replaced(
    tmp_path: Path, runtime: None, name: str, harm: Callable[[Path], None], words: str
) -> None:
    home = Home(make_home(tmp_path / "c"))
    harm(home.keys / name)
    before = contents(home)
    with pytest.raises(SettingsRefused, match=words):
        init_coordinator(home.folder, load_settings(home.settings))
    with pytest.raises(SettingsRefused, match=words):
        Coordinator(home.folder)
    assert contents(home) == before


@pytest.mark.parametrize("made", [("ca.key",), ("ca.key", "plan.key"), ("ca.key", "ca.crt"), ()])
def test_a_broken_off_init_goes_on_with_what_it_had(tmp_path: Path, made: tuple[str, ...]) -> None:
    home = Home(make_home(tmp_path / "c"))
    before = contents(home)
    for path in (*home.keys.iterdir(), home.settings):
        if path.name not in made:
            path.unlink()
    init_coordinator(home.folder, CoordinatorSettings(project=PROJECT))
    after = contents(home)
    assert {name: after[name] for name in made} == {name: before[name] for name in made}
    assert len(after) == 3


def test_a_home_of_an_older_version_opens_and_keeps_its_authority(
    tmp_path: Path, runtime: None
) -> None:
    """Format 1 as first released: fewer settings, no bundle of authorities, no chain."""
    home = Home(make_home(tmp_path / "c"))
    before = contents(home)
    settings = load_settings(home.settings)
    home.settings.write_text(
        f'format = 1\nproject = "{PROJECT}"\nhost = "127.0.0.1"\nbind = ""\n'
        f"enrolment_port = {settings.enrolment_port}\n"
        f"federation_port = {settings.federation_port}\ntoken_hours = 48.0\n"
    )
    for path in (home.authorities, home.enrolment_chain):
        path.unlink()
    _damage(home.server_key)  # the coordinator's own pair heals: sites rely on the authority only
    coordinator = Coordinator(home.folder)
    coordinator.start()
    try:
        identity = enrol(coordinator.registry.add("site-a"), tmp_path / "a", "site-a")
        link = CoordinatorConnection(identity, retry=QUICK)
        assert link.handshake().project == PROJECT
        link.close()
    finally:
        coordinator.stop()
    assert contents(home) == before
    moved = CoordinatorSettings(project=PROJECT, host="127.0.0.2")
    assert init_coordinator(home.folder, moved).token_hours == 48.0
    assert contents(home) == before


def test_keys_under_a_passphrase_do_everything(
    tmp_path: Path, runtime: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CLINODE_WORDS", WORDS)
    source = "environment:CLINODE_WORDS"
    federation = Federation(tmp_path, settings={"key_passphrase": source})
    try:
        token = federation.coordinator.registry.add("site-a")
        keys = tmp_path / "a" / "keys"
        identity = enrol(token, keys, "site-a", passphrase=WORDS.encode())
        link = CoordinatorConnection(identity, retry=QUICK)
        assert link.handshake().project
        renewal = Renewal(keys, passphrase=WORDS.encode())
        link.use(renewal.renew(identity, link.renew))
        assert link.handshake().project
        link.close()
    finally:
        federation.close()
    covered = list(tmp_path.rglob("*.key"))
    assert len(covered) == 4
    for path in covered:
        assert b"BEGIN ENCRYPTED PRIVATE KEY" in path.read_bytes()
    with pytest.raises(SettingsRefused, match="covered by a passphrase"):
        load_identity(keys)
    monkeypatch.setenv("CLINODE_WORDS", "another")
    with pytest.raises(SettingsRefused, match="its passphrase is another one"):
        Coordinator(federation.home)


def test_secrets_are_in_no_output_and_no_log(
    tmp_path: Path,
    runtime: None,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("CLINODE_WORDS", WORDS)
    with structlog.testing.capture_logs() as lines:
        federation = Federation(tmp_path)
        centre, node = str(federation.home), str(tmp_path / "node")
        settings = load_settings(Home(federation.home).settings)
        token = federation.coordinator.registry.add("hospital-a").to_text()
        handed = tmp_path / "token.txt"
        handed.write_text(token)
        more = [
            *("--port", str(settings.federation_port)),
            *("--enrolment-port", str(settings.enrolment_port)),
            *("--key-passphrase", "environment:CLINODE_WORDS"),
        ]
        try:
            for command in (
                ["--home", node, "node", "init", "--site", "hospital-a"],
                ["--home", node, "node", "enrol", str(handed)],
                ["--home", node, "node", "check"],
                ["--home", node, "node", "check", "--json"],
                ["--home", node, "node", "enrol", str(handed)],
                ["--home", centre, "coordinator", "site", "list", "--json"],
                ["--home", centre, "coordinator", "status", "--json"],
                ["--home", centre, "coordinator", "init", "--project", PROJECT, *more],
                ["--home", centre, "coordinator", "site", "revoke", "hospital-a"],
            ):
                run_command(command)
        finally:
            federation.close()
    secrets = {WORDS, token, token.removeprefix("clinode-enrol-1.")[40:80]}
    for path in (*Path(node, "keys").iterdir(), *Home(federation.home).keys.iterdir()):
        raw = path.read_bytes()
        if b"PRIVATE" in raw:
            secrets |= {line for line in raw.decode().splitlines() if "-----" not in line}
        elif path.suffix != ".crt" and path.suffix != ".json":
            secrets |= {raw.hex()}
    for key in (Home(federation.home).authority_key, Home(federation.home).plan_key):
        assert load_key(key, WORDS.encode())
    out = "".join(capfd.readouterr()) + repr(lines)
    assert "hospital-a is enrolled" in out
    assert "hospital-a is revoked" in out
    audit = (federation.home / "audit.jsonl").read_text()
    assert len(secrets) > 8
    assert not [secret for secret in secrets if secret in out or secret in audit]
    shutil.rmtree(node)
