"""``clinode node check``: what a node needs before it runs, checked one by one.

Every finding is a sentence with what to do; no check stops another one.
"""

from __future__ import annotations

import shutil
import socket
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from cryptography import x509

from appliance.control.client import NodeClient
from appliance.errors import ApplianceError, NotRunning
from appliance.expiry import thresholds_of
from appliance.home import Home, load_keys
from appliance.settings import PacsSection, Settings, SettingsInvalid, load_settings
from dicom_bridge.errors import DicomBridgeError, VaultError
from dicom_bridge.vault import FILE as VAULT_FILE
from dicom_bridge.vault import Vault
from federation.clock import utc_now
from federation.enrolment.client import site_terms
from federation.enrolment.expiry import notices
from federation.errors import FederationError
from federation.keyfile import check_private, read_passphrase

SMALLEST_DISK_BYTES = 10 * 2**30
_BEFORE = "`clinode node check --token FILE` tries the way already"
RENEW = "ask for a new token, move keys/node.crt away and enrol again"


@dataclass(frozen=True, slots=True)
class Finding:
    """One check's outcome in words."""

    check: str
    ok: bool
    message: str


def check_node(root: Path, *, now: datetime | None = None, token: str = "") -> list[Finding]:
    """Check settings, keys, disk, receiver, PACS, certificate and coordinator.

    Args:
        root: the node's home folder.
        now: the present time (UTC).
        token: an enrolment token: tries the way to its coordinator before this node is enrolled.
    """
    home = Home(root)
    try:
        settings = load_settings(home.settings_file)
    except SettingsInvalid as error:
        return [Finding("settings", False, problem) for problem in error.problems]
    home = home.with_project(settings.node.project)
    found = [Finding("settings", True, f"site {settings.node.site}, {len(settings.pacs)} PACS")]
    found.append(_checked("secrets", lambda: _keys(home)))
    found.append(_checked("vault", lambda: _vault(home)))
    found.append(_disk(home))
    found.append(_receiver(home, settings))
    if not settings.pacs:
        found.append(Finding("PACS", False, "none is configured: add a [[pacs]] table"))
    found.extend(_pacs(settings, pacs) for pacs in settings.pacs)
    found.append(_certificate(home, settings, now or datetime.now(UTC)))
    found.extend(_way(home, settings, now, token))
    return found


def _checked(name: str, check: Callable[[], str]) -> Finding:
    try:
        return Finding(name, True, check())
    except (ApplianceError, DicomBridgeError, OSError) as error:
        return Finding(name, False, str(error))


def _keys(home: Home) -> str:
    load_keys(home)
    return "present, readable by this account only"


def _vault(home: Home) -> str:
    """Every record of the vault, where there is one."""
    if not (home.vault / VAULT_FILE).exists():
        return "empty until the first study comes"
    with closing(Vault(home.vault, load_keys(home).vault_key)) as vault:
        checked = vault.check()
    if not checked.ok:
        raise VaultError("; ".join(checked.problems))
    return (
        f"{checked.records} records, all can be opened; {checked.tombstones} marks of withdrawals"
    )


def _disk(home: Home) -> Finding:
    free = shutil.disk_usage(home.root).free
    words = f"{free / 2**30:.0f} GiB free"
    if free < SMALLEST_DISK_BYTES:
        return Finding("disk", False, f"{words}; at least 10 GiB are needed: make room")
    return Finding("disk", True, words)


def _receiver(home: Home, settings: Settings) -> Finding:
    """The receiver's port: ours already when the node runs, else free to take."""
    dicom = settings.dicom
    where = f"{dicom.ae_title} at {dicom.host}:{dicom.port}"
    try:
        with NodeClient(home.root, timeout_s=2.0) as client:
            client.status()
        return Finding("receiver", True, f"{where}, the node is running")
    except NotRunning:
        pass
    except (ApplianceError, OSError) as error:
        return Finding("receiver", False, str(error))
    try:
        family = socket.AF_INET6 if ":" in dicom.host else socket.AF_INET
        with socket.socket(family, socket.SOCK_STREAM) as s:
            s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            s.bind((dicom.host, dicom.port))
    except OSError as error:
        return Finding(
            "receiver", False, f"{where} cannot be bound ({error.strerror}): choose another port"
        )
    return Finding("receiver", True, f"{where} is free")


def _pacs(settings: Settings, pacs: PacsSection) -> Finding:
    from appliance.archives import client_for, where

    def _echo() -> str:
        answer = client_for(settings)(pacs).echo()
        if not answer.ok:
            raise ApplianceError(f"the echo was answered with a failure: {answer.words}")
        service = "QIDO-RS" if pacs.transport == "dicomweb" else "C-ECHO"
        return f"{where(pacs)} answers {service}"

    return _checked(f"PACS {pacs.name}", _echo)


def _certificate(home: Home, settings: Settings, now: datetime) -> Finding:
    """The site's certificate and key: there, ours alone, and not near their end."""
    path = home.keys / "node.crt"
    if not path.exists():
        return Finding("certificate", False, "not enrolled: run `clinode node enrol TOKEN`")
    try:
        ends = x509.load_pem_x509_certificate(path.read_bytes()).not_valid_after_utc
    except (OSError, ValueError):
        return Finding("certificate", False, f"keys/node.crt cannot be read: {RENEW}")
    try:
        check_private(home.keys / "node.key")
    except OSError:
        return Finding("certificate", False, f"keys/node.key is missing: {RENEW}")
    except FederationError as error:
        return Finding("certificate", False, str(error))
    found = notices(site_terms(home.keys), now, thresholds_of(settings))
    if found:
        return Finding("certificate", False, "; ".join(notice.words for notice in found))
    return Finding("certificate", True, f"valid for {(ends - now).days} days")


def _way(home: Home, settings: Settings, now: datetime | None, token: str) -> Iterator[Finding]:
    """The way to the coordinator, step by step up to the first that fails."""
    from appliance.way_out import proxy_of
    from federation.enrolment.client import CERTIFICATE_FILE, load_identity
    from federation.enrolment.token import parse_token
    from federation.node.route import Way, examine, examine_token

    try:
        if token:
            given = parse_token(token)
            steps = examine_token(Way(given.address, proxy_of(settings, given.address)), given)
        elif not (home.keys / CERTIFICATE_FILE).exists():
            yield Finding("coordinator", False, "not enrolled; with the token " + _BEFORE)
            return
        else:
            passphrase = read_passphrase(settings.federation.key_passphrase)
            identity = load_identity(home.keys, passphrase)
            way = Way(identity.address, proxy_of(settings, identity.address))
            steps = examine(way, identity, clock=utc_now if now is None else lambda: now)
        for step in steps:
            yield Finding(f"coordinator, {step.name}", step.ok, step.words)
    except (FederationError, OSError, ValueError) as error:
        yield Finding("coordinator", False, str(error))
