"""The vault's first format, one file per record: read once, taken over, removed.

File: ``CLVT``, one byte of format version, 12 bytes of nonce, then AES-256-GCM ciphertext with its
tag; the head and the file's name are additional data. The plain text is JSON
``{"name": ..., "document": ...}``.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from dicom_bridge.errors import VaultError

SUFFIX = ".rec"
BATCH = 100

_HEAD = b"CLVT\x01"
_NONCE = 12


class OldVault:
    """The record files of a folder.

    Args:
        folder: where they lie; there may be none.
        key: the vault's key.
    """

    def __init__(self, folder: Path, key: bytes) -> None:
        self._folder = folder
        self._cipher = AESGCM(key)

    def batches(self) -> Iterator[Sequence[Path]]:
        """The record files, at most `BATCH` at a time."""
        paths = sorted(self._folder.glob(f"*{SUFFIX}"))
        for start in range(0, len(paths), BATCH):
            yield paths[start : start + BATCH]

    def read(self, path: Path) -> tuple[str, dict[str, Any]]:
        """Name and document of one record.

        Raises:
            VaultError: the key is another, or the file was altered or cannot be read.
        """
        try:
            sealed = path.read_bytes()
        except OSError as error:
            raise VaultError(f"the old vault cannot be read: {error.strerror}") from error
        head, body = sealed[: len(_HEAD)], sealed[len(_HEAD) :]
        if head != _HEAD or len(body) <= _NONCE:
            raise VaultError("a record of the old vault has not format 1: restore a backup")
        try:
            bound = head + path.name.encode()
            plain = json.loads(self._cipher.decrypt(body[:_NONCE], body[_NONCE:], bound))
        except (InvalidTag, ValueError) as error:
            raise VaultError(
                "a record of the old vault cannot be opened: another key, or it was altered"
            ) from error
        return str(plain["name"]), dict(plain["document"])

    def remove(self, paths: Sequence[Path]) -> None:
        """Remove records that are safe elsewhere.

        Raises:
            VaultError: the disk refuses.
        """
        try:
            for path in paths:
                path.unlink(missing_ok=True)
            _sync(self._folder)
        except OSError as error:
            raise VaultError(f"the old vault cannot be removed: {error.strerror}") from error

    def finish(self) -> None:
        """Remove what an interrupted write of the first format left."""
        self.remove(list(self._folder.glob(f"*{SUFFIX}.*.part")))


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
