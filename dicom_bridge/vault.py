"""The encrypted vault of original identities: pseudonym to identity, and headers for the way back.

One file per record, AES-256-GCM (NIST SP 800-38D) with a fresh 96-bit nonce; the record's name is
bound to its content as additional data, so that records cannot be exchanged. File names are keyed
hashes of the records' names: a listing of the folder tells nothing.

File: ``CLVT``, one byte of format version, 12 bytes of nonce, then ciphertext with its tag. The
plain text is JSON ``{"name": ..., "document": ...}``.
"""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, BinaryIO

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from dicom_bridge.errors import VaultError

MAGIC = b"CLVT"
FORMAT = 1
NONCE = 12
KEY = 32
LARGEST = 64 * 1024 * 1024
SUFFIX = ".rec"


class Vault:
    """Encrypted records in a folder, each written whole or not at all.

    Args:
        folder: where the records lie; made (mode 0700) where absent.
        key: 32 bytes, kept outside the folder.
        random: gives N random bytes.

    Raises:
        VaultError: the key has a wrong length.
    """

    def __init__(
        self, folder: Path, key: bytes, *, random: Callable[[int], bytes] = os.urandom
    ) -> None:
        if len(key) != KEY:
            raise VaultError(f"the vault's key must have {KEY} bytes, got {len(key)}")
        self._folder = folder
        self._cipher = AESGCM(key)
        self._name_key = hmac.digest(key, b"clinode vault file names", hashlib.sha256)
        self._random = random
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)

    def put(self, name: str, document: Mapping[str, Any]) -> None:
        """Write or replace the record ``name`` durably (fsync, then rename).

        Raises:
            VaultError: the document is no JSON, too large, or the disk refuses.
        """
        try:
            plain = json.dumps({"name": name, "document": dict(document)}).encode()
        except (TypeError, ValueError) as error:
            raise VaultError("a vault record must be plain JSON") from error
        if len(plain) > LARGEST:
            raise VaultError(f"a vault record may have {LARGEST} bytes, this one has {len(plain)}")
        nonce = self._random(NONCE)
        path = self._path(name)
        head = MAGIC + bytes([FORMAT])
        sealed = head + nonce + self._cipher.encrypt(nonce, plain, head + path.name.encode())
        part = path.with_name(f"{path.name}.{self._random(4).hex()}.part")
        try:
            with _open_private(part) as stream:
                stream.write(sealed)
                stream.flush()
                os.fsync(stream.fileno())
            part.replace(path)
            _sync_folder(self._folder)
        except OSError as error:
            with contextlib.suppress(OSError):
                part.unlink(missing_ok=True)
            raise VaultError(f"the vault cannot be written: {error.strerror}") from error

    def get(self, name: str) -> dict[str, Any]:
        """The record's document.

        Raises:
            VaultError: there is none, the key is another, or the file was altered or exchanged.
        """
        try:
            sealed = self._path(name).read_bytes()
        except FileNotFoundError as error:
            raise VaultError("the vault has no such record") from error
        except OSError as error:
            raise VaultError(f"the vault cannot be read: {error.strerror}") from error
        found, document = self._unseal(sealed, self._file_name(name))
        if found != name:
            raise VaultError("a vault record carries another name than its own: restore a backup")
        return document

    def names(self) -> list[str]:
        """The names of all records, sorted.

        Raises:
            VaultError: a record cannot be read with this key.
        """
        found = []
        for path in self._folder.glob(f"*{SUFFIX}"):
            with contextlib.suppress(FileNotFoundError):
                found.append(self._unseal(path.read_bytes(), path.name)[0])
        return sorted(found)

    def delete(self, name: str) -> None:
        """Erase the record; nothing happens where there is none.

        Raises:
            VaultError: the disk refuses.
        """
        try:
            self._path(name).unlink(missing_ok=True)
            _sync_folder(self._folder)
        except OSError as error:
            raise VaultError(f"the vault cannot be written: {error.strerror}") from error

    def _unseal(self, sealed: bytes, file_name: str) -> tuple[str, dict[str, Any]]:
        head, body = sealed[: len(MAGIC) + 1], sealed[len(MAGIC) + 1 :]
        if head[:-1] != MAGIC or head[-1:] != bytes([FORMAT]) or len(body) <= NONCE:
            raise VaultError(f"a vault record has not format {FORMAT}: restore a backup")
        try:
            bound = head + file_name.encode()
            plain = json.loads(self._cipher.decrypt(body[:NONCE], body[NONCE:], bound))
        except (InvalidTag, ValueError) as error:
            message = "a vault record cannot be opened: another key, or the file was altered"
            raise VaultError(message) from error
        return str(plain["name"]), dict(plain["document"])

    def _file_name(self, name: str) -> str:
        return hmac.digest(self._name_key, name.encode(), hashlib.sha256).hex()[:40] + SUFFIX

    def _path(self, name: str) -> Path:
        return self._folder / self._file_name(name)


def _open_private(path: Path) -> BinaryIO:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    return os.fdopen(descriptor, "wb")


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
