"""The coordinator's settings and its home folder."""

from __future__ import annotations

import hashlib
import os
import tempfile
import tomllib
from pathlib import Path
from typing import Annotated, Final, Literal

import tomli_w
from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from federation.canonical import write_atomically
from federation.errors import SettingsRefused

DEFAULT_NORM_RATIO: Final = 1000.0
"""An update that moves the model by more than this times the model's own norm is refused."""

LONGEST_SOCKET_PATH: Final = 107
"""Bytes that ``sun_path`` holds on Linux without its closing zero (unix(7))."""


class CoordinatorSettings(BaseModel):
    """``settings.toml`` of a coordinator.

    Attributes:
        format: version of this file.
        project: the project, as plans name it.
        host: the address that sites dial; written into tokens and the certificate.
        bind: the address to listen on; empty means ``host``.
        enrolment_port: the enrolment listener's port.
        federation_port: the mutual-TLS listener's port.
        token_hours: default validity of an enrolment token.
        patience_s: how long a run with quorum waits for undecided sites before it starts, and a
            round for sites that have not answered an amended plan.
        active_runs: how many runs train at a time; the others wait in a queue.
        update_norm_ratio: largest norm of an update's change, in norms of the global model.
        key_passphrase: where the passphrase of the key files is: empty for none,
            ``credential:NAME`` (systemd), ``file:PATH``, ``environment:NAME`` or ``prompt``.
        certificate_warning_days: warns so long before a site's or its own certificate ends.
        authority_warning_days: warns so long before the project's authority ends.
        token_warning_hours: warns so long before an unused token ends.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: Literal[1] = 1
    project: Annotated[str, StringConstraints(pattern=r"\A[A-Za-z0-9][A-Za-z0-9._-]{0,63}\z")]
    host: Annotated[str, StringConstraints(pattern=r"\A[A-Za-z0-9.:-]{1,253}\z")] = "127.0.0.1"
    bind: str = ""
    enrolment_port: Annotated[int, Field(ge=1, le=65535)] = 8441
    federation_port: Annotated[int, Field(ge=1, le=65535)] = 8442
    token_hours: Annotated[float, Field(gt=0, le=24 * 60)] = 72.0
    patience_s: Annotated[float, Field(ge=0, le=30 * 86_400)] = 600.0
    active_runs: Annotated[int, Field(ge=1, le=64)] = 1
    update_norm_ratio: Annotated[float, Field(gt=0)] = DEFAULT_NORM_RATIO
    key_passphrase: Annotated[str, StringConstraints(max_length=300)] = ""
    certificate_warning_days: Annotated[int, Field(ge=1, le=365)] = 30
    authority_warning_days: Annotated[int, Field(ge=1, le=3650)] = 365
    token_warning_hours: Annotated[float, Field(ge=0, le=24 * 60)] = 24.0

    def address(self, port: int) -> str:
        """``host:port`` with an IPv6 host in brackets."""
        return f"[{self.host}]:{port}" if ":" in self.host else f"{self.host}:{port}"


class Home:
    """The paths of a coordinator's home folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.settings = folder / "settings.toml"
        self.state = folder / "state.sqlite"
        self.audit = folder / "audit.jsonl"
        self.keys = folder / "keys"
        self.objects = folder / "objects"
        self.runs = folder / "runs"
        self.work = folder / "work"
        self.authority_key = self.keys / "ca.key"
        self.authority = self.keys / "ca.crt"
        self.server_key = self.keys / "coordinator.key"
        self.server = self.keys / "coordinator.crt"
        self.next_authority_key = self.keys / "ca-next.key"
        self.next_authority = self.keys / "ca-next.crt"
        self.former_authority = self.keys / "ca-former.crt"
        self.known_authorities = folder / "authorities.json"
        self.authorities = self.keys / "authorities.crt"
        self.enrolment_chain = self.keys / "enrolment-chain.crt"
        self.plan_key = self.keys / "plan.key"


def save_settings(path: Path, settings: CoordinatorSettings) -> None:
    """Write ``settings.toml``."""
    write_atomically(path, tomli_w.dumps(settings.model_dump()).encode(), mode=0o600)


def load_settings(path: Path) -> CoordinatorSettings:
    """Read ``settings.toml``.

    Raises:
        SettingsRefused: with every problem at once.
    """
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
        return CoordinatorSettings.model_validate(document)
    except OSError as error:
        raise SettingsRefused(
            f"{path.name} cannot be read ({error.strerror}): run `clinode coordinator init` first"
        ) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SettingsRefused(f"{path.name} is not TOML: {error}") from error
    except ValidationError as error:
        problems = "; ".join(
            f"{'.'.join(str(part) for part in detail['loc'])}: {detail['msg']}"
            for detail in error.errors(include_url=False, include_input=False)
        )
        raise SettingsRefused(f"{path.name}: {problems}") from None


def control_socket(home: Path) -> Path:
    """Where the control socket of a coordinator's home lies: a short path, for its owner only.

    Raises:
        SettingsRefused: the runtime folder belongs to somebody else or its path is too long.
    """
    runtime = os.environ.get("XDG_RUNTIME_DIR")
    folder = (
        Path(runtime) / "clinode"
        if runtime
        else Path(tempfile.gettempdir()) / f"clinode-{os.getuid()}"
    )
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    status = folder.stat()
    if status.st_uid != os.getuid() or status.st_mode & 0o077:
        raise SettingsRefused(
            f"the runtime folder {folder} must belong to this account with mode 0700: remove it "
            "or set XDG_RUNTIME_DIR"
        )
    name = hashlib.sha256(os.fsencode(home.resolve())).hexdigest()[:16]
    path = folder / f"{name}-coordinator.sock"
    if len(os.fsencode(path)) > LONGEST_SOCKET_PATH:
        raise SettingsRefused("the runtime folder's path is too long: set XDG_RUNTIME_DIR shorter")
    return path
