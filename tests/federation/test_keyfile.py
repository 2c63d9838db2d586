"""Private keys: who may read them, the passphrase over them, and keys that are somewhere else."""

from __future__ import annotations

import stat
import subprocess
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from federation.clock import utc_now
from federation.coordinator.process import init_coordinator
from federation.coordinator.settings import CoordinatorSettings, Home
from federation.errors import SettingsRefused
from federation.keyfile import key_pem, load_key, read_passphrase, save_key
from federation.pki import KeyPair, issue_server, issue_site, make_authority, new_key
from federation.plan import ms_lesion_demo_plan, sign, verify
from federation.signing import SignerKey

WORDS = b"four words of cover"


@pytest.fixture
def quick_cover(monkeypatch: pytest.MonkeyPatch) -> None:
    """Cheap scrypt where its strength is not the question."""
    monkeypatch.setattr("federation.keyfile.SCRYPT_N", 1 << 6)


@pytest.fixture
def keys(tmp_path: Path) -> Path:
    folder = tmp_path / "keys"
    folder.mkdir(mode=0o700)
    return folder


def numbers(key: object) -> object:
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    return key.private_numbers()


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o644])
def test_key_open_to_others_is_refused_with_the_repair(keys: Path, mode: int) -> None:
    path = keys / "node.key"
    save_key(path, new_key())
    path.chmod(mode)
    with pytest.raises(SettingsRefused, match=rf"mode {mode:04o}, .*`chmod 600 keys/node.key`"):
        load_key(path)
    path.chmod(0o600)
    load_key(path)
    keys.chmod(0o750)
    with pytest.raises(SettingsRefused, match="`chmod 700 keys`"):
        load_key(path)


def test_covered_key_is_read_by_us_and_by_openssl(keys: Path) -> None:
    path = keys / "node.key"
    for key in (new_key(), Ed25519PrivateKey.generate()):
        save_key(path, key, WORDS)
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        read = load_key(path, WORDS)
        assert key_pem(read) == key_pem(key)
        shown = subprocess.run(
            ["openssl", "asn1parse", "-in", path], capture_output=True, text=True, check=True
        ).stdout
        assert ":scrypt" in shown
        assert ":4000" in shown  # N = 2^14
        assert ":aes-256-cbc" in shown
        subprocess.run(
            ["openssl", "pkey", "-in", path, "-passin", f"pass:{WORDS.decode()}", "-noout"],
            capture_output=True,
            check=True,
        )


@pytest.mark.usefixtures("quick_cover")
def test_wrong_or_missing_passphrase_is_told(keys: Path) -> None:
    path = keys / "ca.key"
    save_key(path, new_key(), WORDS)
    with pytest.raises(SettingsRefused, match="settings name no key_passphrase"):
        load_key(path)
    with pytest.raises(SettingsRefused, match="its passphrase is another one"):
        load_key(path, b"wrong")
    path.write_bytes(b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n")
    with pytest.raises(SettingsRefused, match="it is damaged; take it from the backup"):
        load_key(path)


@pytest.mark.usefixtures("quick_cover")
def test_plain_key_is_covered_when_a_passphrase_is_set(keys: Path) -> None:
    path, key = keys / "node.key", new_key()
    save_key(path, key)
    assert numbers(load_key(path, WORDS)) == numbers(key)
    assert b"ENCRYPTED" in path.read_bytes()
    assert numbers(load_key(path, WORDS)) == numbers(key)


def test_where_a_passphrase_comes_from(keys: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert read_passphrase("") is None
    monkeypatch.setenv("CLINODE_TEST_WORDS", WORDS.decode())
    assert read_passphrase("environment:CLINODE_TEST_WORDS") == WORDS
    (keys / "words").write_bytes(WORDS + b"\n")
    (keys / "words").chmod(0o600)
    assert read_passphrase(f"file:{keys / 'words'}") == WORDS
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(keys))
    assert read_passphrase("credential:words") == WORDS
    assert read_passphrase("prompt", lambda _: WORDS.decode()) == WORDS
    answers = iter(("one", "two"))
    with pytest.raises(SettingsRefused, match="the two passphrases differ"):
        read_passphrase("prompt", lambda _: next(answers), twice=True)


def _no_terminal(prompt: str) -> str:
    raise EOFError(prompt)


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("environment:CLINODE_NOT_SET", "no passphrase of 1 to 1024 bytes"),
        ("credential:words", "add LoadCredential=words:PATH"),
        ("credential:../etc/passwd", "key_passphrase is empty, credential:NAME"),
        ("plain words", "key_passphrase is empty, credential:NAME"),
        ("prompt", "there is no terminal"),
    ],
)
def test_passphrase_that_is_nowhere(
    source: str, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CREDENTIALS_DIRECTORY", raising=False)
    with pytest.raises(SettingsRefused, match=words):
        read_passphrase(source, _no_terminal)


def test_passphrase_file_open_to_others_is_refused(keys: Path) -> None:
    (keys / "words").write_bytes(WORDS)
    (keys / "words").chmod(0o644)
    with pytest.raises(SettingsRefused, match="chmod 600"):
        read_passphrase(f"file:{keys / 'words'}")


class Module:
    """A signing module: keys inside, signatures and public halves outside."""

    def __init__(self) -> None:
        self._authority, self._plan = new_key(), Ed25519PrivateKey.generate()
        self.signed = 0

    def authority(self) -> Any:  # noqa: ANN401
        return _AuthorityInside(self, self._authority)

    def plan(self) -> Any:  # noqa: ANN401
        return _PlanInside(self, self._plan)


class _AuthorityInside:
    def __init__(self, module: Module, key: ec.EllipticCurvePrivateKey) -> None:
        self._module, self._key = module, key

    def public_key(self) -> ec.EllipticCurvePublicKey:
        return self._key.public_key()

    def sign(self, data: bytes, /) -> bytes:
        self._module.signed += 1
        return self._key.sign(data, ec.ECDSA(hashes.SHA256()))


class _PlanInside:
    def __init__(self, module: Module, key: Ed25519PrivateKey) -> None:
        self._module, self._key = module, key

    def public_key(self) -> Ed25519PublicKey:
        return self._key.public_key()

    def sign(self, data: bytes, /) -> bytes:
        self._module.signed += 1
        return self._key.sign(data)


def test_certificates_and_plans_signed_by_a_module(tmp_path: Path) -> None:
    """The signing keys are in no file and in no memory of ours; both kinds of signatures hold."""
    module = Module()
    home = tmp_path / "c"
    init_coordinator(home, CoordinatorSettings(project="p"), keys=module)
    paths = Home(home)
    assert not paths.authority_key.exists()
    assert not paths.plan_key.exists()
    certificate = make_authority("p", utc_now(), module.authority()).certificate
    authority = KeyPair(SignerKey(module.authority()), certificate)
    site = issue_site(authority, ("site-a", "p"), new_key().public_key(), utc_now())
    site.verify_directly_issued_by(authority.certificate)
    issue_server(authority, "p", (), utc_now()).certificate.verify_directly_issued_by(
        authority.certificate
    )
    before = module.signed
    verify(sign(ms_lesion_demo_plan(1), module.plan()))
    assert module.signed == before + 1
    with pytest.raises(SettingsRefused, match="cannot be taken out"):
        authority.key_pem()
