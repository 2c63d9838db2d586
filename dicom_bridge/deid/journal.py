"""The journal of an output folder: which input gave which output, so that a run can go on.

One JSON line per output in ``OUT/.clinode/journal.jsonl``: digests, new UIDs, counts. It holds no
identifier. Its first line says by which profile and key everything in the folder was made: a
folder never mixes two.
"""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dicom_bridge.errors import SettingsRefused

FOLDER = ".clinode"
JOURNAL_FORMAT = 1
LONGEST_LINE = 64 * 1024
_CHUNK = 1 << 20


@dataclass(frozen=True, slots=True)
class Entry:
    """One output.

    Attributes:
        source: SHA-256 of the input file. written: SHA-256 of the output file.
        study, series, instance: the new UIDs. sop_class: SOPClassUID.
        actions: counts per action. codes: codes of CID 7050 that ran.
    """

    source: str
    written: str
    study: str
    series: str
    instance: str
    sop_class: str
    actions: dict[str, int]
    codes: tuple[str, ...]

    @property
    def place(self) -> Path:
        """The output's path below the folder."""
        return Path(self.study) / self.series / f"{self.instance}.dcm"


class Journal:
    """The journal of one output folder.

    Args:
        destination: the output folder.
        profile_hash: hash of the profile.
        key_mark: a value that only this key and project give, and that does not tell the key.

    Raises:
        SettingsRefused: the folder was made with another profile, key or version of the journal.
    """

    def __init__(self, destination: Path, profile_hash: str, key_mark: str) -> None:
        self._destination = destination
        self._path = destination / FOLDER / "journal.jsonl"
        self._head = {"format": JOURNAL_FORMAT, "profile": profile_hash, "key": key_mark}
        self.entries: dict[str, Entry] = {}
        if self._there():
            self._read()

    def _there(self) -> bool:
        return self._path.exists() and self._path.stat().st_size > 0

    def _read(self) -> None:
        with self._path.open("rb") as stream:
            head = _json(stream.readline(LONGEST_LINE))
            self._same(head)
            for line in stream:
                fields = _json(line)
                if fields is None:
                    continue  # the last line of a run that was killed
                entry = Entry(**{**fields, "codes": tuple(fields["codes"])})
                self.entries[entry.source] = entry

    def _same(self, head: dict[str, Any] | None) -> None:
        if head == self._head:
            return
        if head is None or head.get("format") != JOURNAL_FORMAT:
            raise SettingsRefused("the journal of the output folder cannot be read: choose another")
        what = "key" if head.get("key") != self._head["key"] else "profile"
        raise SettingsRefused(
            f"the output folder was made with another {what}: give the same one or choose an "
            "empty folder, one folder never mixes two"
        )

    def begin(self) -> None:
        """Make the folder, and the journal where there is none."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        if not self._there():
            self._append(self._head)
            return
        with self._path.open("rb+") as stream:
            stream.seek(-1, os.SEEK_END)
            if stream.read(1) != b"\n":
                stream.write(b"\n")

    def add(self, entry: Entry) -> None:
        """Record an output that stands in its place."""
        self.entries[entry.source] = entry
        fields = {name: getattr(entry, name) for name in Entry.__slots__}
        self._append(fields)

    def _append(self, fields: dict[str, Any]) -> None:
        with self._path.open("ab") as stream:
            stream.write(json.dumps(fields, separators=(",", ":")).encode() + b"\n")

    def intact(self, entry: Entry) -> bool:
        """Whether the output is there as it was written."""
        return file_digest(self._destination / entry.place) == entry.written


def file_digest(path: Path) -> str:
    """SHA-256 of a file in pieces; empty where there is none."""
    digest = hashlib.sha256()
    try:
        with path.open("rb") as stream:
            while chunk := stream.read(_CHUNK):
                digest.update(chunk)
    except FileNotFoundError:
        return ""
    return digest.hexdigest()


def _json(line: bytes) -> dict[str, Any] | None:
    if not line.endswith(b"\n"):
        return None
    try:
        value = json.loads(line)
    except ValueError:
        return None
    return value if isinstance(value, dict) else None
