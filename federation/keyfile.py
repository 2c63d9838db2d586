"""Private keys in files: who may read them, and the passphrase that may cover them.

A key that others can read is not used: the refusal names the command that repairs it. A passphrase
covers a key as PKCS#8 under PBES2 with scrypt (RFC 7914) and AES-256-CBC (RFC 8018), which OpenSSL
and `cryptography` read; it is written here because `cryptography` writes PBKDF2 with 2048
iterations only (version 50).
"""

from __future__ import annotations

import base64
import getpass
import os
import secrets
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Final

import structlog
from cryptography.hazmat.primitives import padding
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.kdf.scrypt import Scrypt
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)

from federation.canonical import write_atomically
from federation.errors import SettingsRefused

PrivateKey = ec.EllipticCurvePrivateKey | Ed25519PrivateKey
SCRYPT_N: Final = 1 << 14
SCRYPT_R: Final = 8
SCRYPT_P: Final = 5
"""16 MiB and about a quarter of a second for each guess; OpenSSL refuses more than 32 MiB."""
MAX_PASSPHRASE_BYTES: Final = 1024
CREDENTIALS_FOLDER: Final = "CREDENTIALS_DIRECTORY"
"""Where systemd puts what ``LoadCredential=`` names (systemd.exec(5))."""

_PBES2: Final = "1.2.840.113549.1.5.13"
_SCRYPT: Final = "1.3.6.1.4.1.11591.4.11"
_AES256_CBC: Final = "2.16.840.1.101.3.4.1.42"
_SEQUENCE, _INTEGER, _OCTETS, _OBJECT = 0x30, 0x02, 0x04, 0x06
_ENCRYPTED: Final = b"-----BEGIN ENCRYPTED PRIVATE KEY-----"
_log = structlog.get_logger(__name__)


def check_private(path: Path, *, folder: bool = True) -> None:
    """Check that a key's file, and the folder around it, are this account's alone.

    Args:
        path: the file.
        folder: look at the folder, too.

    Raises:
        SettingsRefused: somebody else may read it; the words hold the command that repairs it.
        OSError: there is no such file.
    """
    mode, around = path.stat().st_mode & 0o777, path.parent.stat().st_mode & 0o777
    name = f"{path.parent.name}/{path.name}"
    if mode & 0o077:
        raise SettingsRefused(
            f"{name} is open to others (mode {mode:04o}, expected 0600): the key may be known to"
            f" them; `chmod 600 {name}`, and have it replaced if somebody else uses this machine"
        )
    if folder and around & 0o077:
        raise SettingsRefused(
            f"the folder {path.parent.name} is open to others (mode {around:04o}, expected 0700):"
            f" `chmod 700 {path.parent.name}`"
        )


def read_passphrase(
    source: str, ask: Callable[[str], str] = getpass.getpass, *, twice: bool = False
) -> bytes | None:
    """The passphrase that covers the keys, from where the settings say; None for none.

    Args:
        source: empty; ``credential:NAME`` (systemd's ``LoadCredential=``); ``file:PATH``;
            ``environment:NAME`` (systemd's ``EnvironmentFile=``); or ``prompt``.
        ask: reads a line from the terminal without showing it.
        twice: have a new passphrase typed twice.

    Raises:
        SettingsRefused: there is nothing there, or it is not a passphrase.
    """
    if not source:
        return None
    kind, _, name = source.partition(":")
    if source == "prompt":
        given = _asked(ask)
        if twice and _asked(ask, " again") != given:
            raise SettingsRefused("the two passphrases differ: nothing was made, try again")
    elif kind == "environment" and name:
        given = os.environ.get(name, "").encode()
    elif kind == "credential" and name and "/" not in name:
        folder = os.environ.get(CREDENTIALS_FOLDER, "")
        if not folder:
            raise SettingsRefused(
                f"key_passphrase is credential:{name}, and systemd gave this service no "
                f"credentials: add LoadCredential={name}:PATH to the unit"
            )
        given = _content(Path(folder) / name)
    elif kind == "file" and name:
        given = _content(Path(name))
        check_private(Path(name), folder=False)
    else:
        raise SettingsRefused(
            "key_passphrase is empty, credential:NAME, file:PATH, environment:NAME or prompt"
        )
    given = given.rstrip(b"\r\n")
    if not given or len(given) > MAX_PASSPHRASE_BYTES:
        raise SettingsRefused(f"there is no passphrase of 1 to 1024 bytes at {kind}:{name}")
    return given


def _asked(ask: Callable[[str], str], again: str = "") -> bytes:
    try:
        return ask(f"Passphrase of the keys{again}: ").encode()
    except (EOFError, OSError) as error:
        raise SettingsRefused(
            "key_passphrase is prompt, and there is no terminal to ask at: a service takes it"
            " from credential:NAME"
        ) from error


def _content(path: Path) -> bytes:
    try:
        with path.open("rb") as stream:
            return stream.read(MAX_PASSPHRASE_BYTES + 2)
    except OSError as error:
        raise SettingsRefused(
            f"the passphrase's file {path.name} cannot be read ({error.strerror})"
        ) from error


def load_key(path: Path, passphrase: bytes | None = None) -> PrivateKey:
    """Read a private key that only this account can read.

    A key without cover is covered on the way where there is a passphrase.

    Raises:
        SettingsRefused: it is open to others, is none of our kinds, or the passphrase is missing
            or wrong.
        OSError: it cannot be read.
    """
    check_private(path)
    pem = path.read_bytes()
    covered = _ENCRYPTED in pem
    if covered and passphrase is None:
        raise SettingsRefused(
            f"{path.name} is covered by a passphrase, and the settings name no key_passphrase"
        )
    try:
        key = load_pem_private_key(pem, passphrase if covered else None)
    except (ValueError, TypeError) as error:
        words = "its passphrase is another one" if covered else "it is damaged"
        raise SettingsRefused(
            f"{path.name} cannot be read: {words}; take it from the backup"
        ) from (error)
    if not isinstance(key, ec.EllipticCurvePrivateKey | Ed25519PrivateKey):
        raise SettingsRefused(f"{path.name} holds a key of another kind than clinode makes")
    if passphrase is not None and not covered:
        save_key(path, key, passphrase)
        _log.info("key_covered", key=path.name)
    return key


def save_key(path: Path, key: PrivateKey, passphrase: bytes | None = None) -> None:
    """Write a private key with mode 0600, covered where there is a passphrase."""
    write_atomically(path, key_pem(key, passphrase), mode=0o600)


def key_pem(key: PrivateKey, passphrase: bytes | None = None) -> bytes:
    """A private key in PKCS#8 PEM; without a passphrase for a file of mode 0600 only."""
    if passphrase is None:
        return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    return _covered(
        key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption()), passphrase
    )


def _covered(pkcs8: bytes, passphrase: bytes) -> bytes:
    """EncryptedPrivateKeyInfo (RFC 5958 section 3) in PEM."""
    salt, vector = secrets.token_bytes(16), secrets.token_bytes(16)
    secret = Scrypt(salt=salt, length=32, n=SCRYPT_N, r=SCRYPT_R, p=SCRYPT_P).derive(passphrase)
    pad = padding.PKCS7(128).padder()
    cipher = Cipher(algorithms.AES256(secret), modes.CBC(vector)).encryptor()
    hidden = cipher.update(pad.update(pkcs8) + pad.finalize()) + cipher.finalize()
    parameters = _der(
        _SEQUENCE,
        _der(_OCTETS, salt) + _integer(SCRYPT_N) + _integer(SCRYPT_R) + _integer(SCRYPT_P),
    )
    scheme = _der(_SEQUENCE, _object(_SCRYPT) + parameters) + _der(
        _SEQUENCE, _object(_AES256_CBC) + _der(_OCTETS, vector)
    )
    algorithm = _der(_SEQUENCE, _object(_PBES2) + _der(_SEQUENCE, scheme))
    document = base64.b64encode(_der(_SEQUENCE, algorithm + _der(_OCTETS, hidden))).decode()
    body = "\n".join(textwrap.wrap(document, 64))
    return f"{_ENCRYPTED.decode()}\n{body}\n-----END ENCRYPTED PRIVATE KEY-----\n".encode()


def _der(tag: int, content: bytes) -> bytes:
    """One element of X.690: tag, length, content."""
    size = len(content)
    if size < 0x80:
        return bytes((tag, size)) + content
    length = size.to_bytes((size.bit_length() + 7) // 8, "big")
    return bytes((tag, 0x80 | len(length))) + length + content


def _integer(value: int) -> bytes:
    return _der(_INTEGER, value.to_bytes(value.bit_length() // 8 + 1, "big"))


def _object(dotted: str) -> bytes:
    first, second, *rest = (int(part) for part in dotted.split("."))
    out = bytearray([40 * first + second])
    for part in rest:
        groups = [part & 0x7F]
        while part := part >> 7:
            groups.append(0x80 | (part & 0x7F))
        out += bytes(reversed(groups))
    return _der(_OBJECT, bytes(out))
