"""Canonical JSON (RFC 8785), SHA-256 of files, and files written whole or not at all."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Union, cast

import rfc8785

JSON = Union[None, bool, int, float, str, Sequence["JSON"], Mapping[str, "JSON"]]  # noqa: UP007
"""A value that JSON can hold."""

_BLOCK = 1 << 20


def canonical_json(value: JSON) -> bytes:
    """RFC 8785 bytes of a JSON value.

    >>> canonical_json({"b": 1, "a": [True, None]})
    b'{"a":[true,null],"b":1}'
    """
    return rfc8785.dumps(cast("dict[str, object]", value))  # type: ignore[arg-type]


def sha256_hex(data: bytes) -> str:
    """SHA-256 of bytes in lower-case hexadecimal."""
    return hashlib.sha256(data).hexdigest()


def sha256_file(path: Path) -> str:
    """SHA-256 of a file's bytes in lower-case hexadecimal, read block by block."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while block := stream.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()


def sync_folder(folder: Path) -> None:
    """Make a rename inside ``folder`` durable."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_atomically(path: Path, data: bytes, *, mode: int = 0o644) -> None:
    """Write ``data`` to ``path`` so that a reader sees the old file or the new one, never a part.

    Args:
        path: the file; its folder exists.
        data: the whole content.
        mode: permission bits of the new file.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode)
    try:
        with os.fdopen(descriptor, "wb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        temporary.chmod(mode)
        temporary.replace(path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def write_json(path: Path, value: JSON, *, mode: int = 0o644) -> None:
    """Write a JSON value, indented, atomically."""
    text = json.dumps(value, indent=1, sort_keys=True, ensure_ascii=False, allow_nan=False)
    write_atomically(path, (text + "\n").encode(), mode=mode)


def read_json(path: Path, *, limit: int = 16 << 20) -> JSON:
    """Read a JSON file of at most ``limit`` bytes.

    Raises:
        ValueError: the file is larger than ``limit`` or is not JSON.
    """
    if path.stat().st_size > limit:
        raise ValueError(f"{path.name} is larger than {limit} bytes: not a file of this program")
    return cast("JSON", json.loads(path.read_text(encoding="utf-8")))
