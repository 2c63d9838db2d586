"""The folders and key files of a node home.

```
HOME/
  settings.toml  state.sqlite  audit.jsonl
  keys/          secrets, mode 0600
  identified/    spool, vault, staging: node service only (mode 0700)
  research/PROJECT/{bids,derivatives,datasets,models}
```
"""

from __future__ import annotations

import os
import re
import secrets
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from appliance.errors import ApplianceError

SECRET_BYTES = 32

_STUDY_KEY = re.compile(r"st[0-9a-f]{12}")


class HomeInvalid(ApplianceError):
    """The node home lacks something, or holds something that cannot be used."""


@dataclass(frozen=True, slots=True)
class Home:
    """The paths of one node home.

    Attributes:
        root: the home's folder, absolute.
        project: the project whose research folder is meant.
    """

    root: Path
    project: str = "research"

    @property
    def settings_file(self) -> Path:
        """The settings (TOML)."""
        return self.root / "settings.toml"

    @property
    def state_file(self) -> Path:
        """The state (SQLite, WAL)."""
        return self.root / "state.sqlite"

    @property
    def audit_file(self) -> Path:
        """The audit log (JSON lines with a hash chain)."""
        return self.root / "audit.jsonl"

    @property
    def atna_file(self) -> Path:
        """The audit log once more as ATNA messages (syslog lines)."""
        return self.root / "atna.log"

    @property
    def lock_file(self) -> Path:
        """Locked by the one process that owns the home."""
        return self.root / "node.lock"

    @property
    def keys(self) -> Path:
        """Secrets and the site's certificate."""
        return self.root / "keys"

    @property
    def identified(self) -> Path:
        """All that still has identity."""
        return self.root / "identified"

    @property
    def vault(self) -> Path:
        """Encrypted records: pseudonym to original identifiers and headers."""
        return self.identified / "vault"

    @property
    def studies(self) -> Path:
        """One folder per study on its way to `ready`."""
        return self.identified / "studies"

    @property
    def results(self) -> Path:
        """Segmentation objects with original identifiers, held or sent."""
        return self.identified / "results"

    @property
    def research(self) -> Path:
        """The project's research folder."""
        return self.root / "research" / self.project

    @property
    def bids(self) -> Path:
        """The BIDS data set of defaced images."""
        return self.research / "bids"

    @property
    def derivatives(self) -> Path:
        """Derived data sets: labels, masks, transforms, qc, prepared-<hash>."""
        return self.research / "derivatives"

    @property
    def datasets(self) -> Path:
        """Frozen data sets (JSON)."""
        return self.research / "datasets"

    @property
    def models(self) -> Path:
        """Runs and models."""
        return self.research / "models"

    def study(self, study_key: str) -> Path:
        """The identified folder of one study.

        Raises:
            HomeInvalid: the key has not the form ``st`` + 12 hexadecimal digits.
        """
        if not _STUDY_KEY.fullmatch(study_key):
            raise HomeInvalid("a study key is 'st' and 12 hexadecimal digits")
        return self.studies / study_key

    def run(self, run_id: str) -> Path:
        """The folder of one federated run at this site.

        Raises:
            HomeInvalid: the id is not a plain name.
        """
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}", run_id):
            raise HomeInvalid("a run id is a plain name of letters, digits, '.', '_' and '-'")
        return self.models / "runs" / run_id

    def with_project(self, project: str) -> Home:
        """The same home seen from one project."""
        return Home(self.root, project)

    def create(self) -> None:
        """Make every folder; the private ones with mode 0700. Existing folders stay."""
        self.root.mkdir(mode=0o750, parents=True, exist_ok=True)
        for folder in (self.keys, self.identified, self.vault, self.studies, self.results):
            folder.mkdir(mode=0o700, exist_ok=True)
            folder.chmod(0o700)
        for folder in (self.bids, self.derivatives, self.datasets, self.models):
            folder.mkdir(mode=0o750, parents=True, exist_ok=True)


@dataclass(frozen=True, slots=True)
class NodeKeys:
    """The node's own secrets, 32 bytes each; the representation never shows them.

    Attributes:
        project_secret: keys the pseudonyms and UIDs of one project.
        site_secret: keys what is the same in all projects: a patient's place in the split.
        vault_key: AES-256 key of the identity vault.
    """

    project_secret: bytes
    site_secret: bytes
    vault_key: bytes

    def __repr__(self) -> str:
        return "NodeKeys(***)"


def create_keys(home: Home, *, random: Callable[[int], bytes] = secrets.token_bytes) -> NodeKeys:
    """Make the secrets that are missing, mode 0600, and give all of them back.

    A present secret is never replaced: pseudonyms and the vault depend on it.

    Raises:
        HomeInvalid: a present key file has a wrong length or others may read it.
    """
    home.keys.mkdir(mode=0o700, parents=True, exist_ok=True)
    for path in _key_files(home):
        if not path.exists():
            write_private(path, random(SECRET_BYTES))
    return load_keys(home)


def load_keys(home: Home) -> NodeKeys:
    """The node's secrets.

    Raises:
        HomeInvalid: a key file is absent, has a wrong length, or others may read it.
    """
    values = []
    for path in _key_files(home):
        if not path.exists():
            raise HomeInvalid(f"keys/{path.name} is absent: run `clinode node init`")
        if path.stat().st_mode & 0o077:
            raise HomeInvalid(f"keys/{path.name} is open to others: chmod 600 it")
        value = path.read_bytes()
        if len(value) != SECRET_BYTES:
            raise HomeInvalid(f"keys/{path.name}: expected {SECRET_BYTES} bytes, got {len(value)}")
        values.append(value)
    return NodeKeys(*values)


def write_private(path: Path, content: bytes) -> None:
    """Write a file with mode 0600, whole or not at all, and make it durable."""
    part = path.with_name(path.name + ".part")
    part.unlink(missing_ok=True)
    descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as stream:
        stream.write(content)
        stream.flush()
        os.fsync(stream.fileno())
    part.replace(path)
    sync_folder(path.parent)


def write_atomic(path: Path, content: bytes) -> None:
    """Replace a file by rename, so that a reader sees the old content or the new one."""
    part = path.with_name(path.name + ".part")
    with part.open("wb") as stream:
        stream.write(content)
        stream.flush()
        os.fsync(stream.fileno())
    part.replace(path)
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Make renames inside a folder durable."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def remove_tree(folder: Path) -> None:
    """Remove a folder and all in it; an absent one is fine."""
    shutil.rmtree(folder, ignore_errors=False) if folder.exists() else None


def _key_files(home: Home) -> tuple[Path, ...]:
    return (
        home.keys / f"{home.project}.secret",
        home.keys / "site.secret",
        home.keys / "vault.key",
    )


def key_file(path: Path | None, *, random: Callable[[int], bytes] = secrets.token_bytes) -> bytes:
    """A secret of 32 bytes from a file, made with mode 0600 where absent; None gives a fresh one.

    Raises:
        HomeInvalid: the file has a wrong length or others may read it.
    """
    if path is None:
        return random(SECRET_BYTES)
    if not path.exists():
        write_private(path, random(SECRET_BYTES))
    if path.stat().st_mode & 0o077:
        raise HomeInvalid(f"{path.name} is open to others: chmod 600 it")
    value = path.read_bytes()
    if len(value) != SECRET_BYTES:
        raise HomeInvalid(f"{path.name}: expected {SECRET_BYTES} bytes, got {len(value)}")
    return value
