"""The coordinator's keys: the authority it was born with, its own certificate, the plan key.

The authority is made once, in an empty home, and never again: every site relies on it. The
coordinator's own certificate is made anew whenever a third of its time is left, its pair is
damaged, its addresses changed or another authority signs now.
"""

from __future__ import annotations

import ipaddress
import threading
from datetime import datetime
from pathlib import Path
from typing import Final

import structlog
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from federation.canonical import write_atomically
from federation.clock import Clock
from federation.coordinator.rollover import Rollover
from federation.coordinator.settings import CoordinatorSettings, Home
from federation.errors import SettingsRefused
from federation.keyfile import check_private, load_key, read_passphrase
from federation.pki import KeyPair, issue_server, load_pair, make_authority, new_key, save_key
from federation.pki import server_hosts as hosts_of
from federation.signing import FileKeys, KeySource, PlanSigner, SignerKey, check_fits

REMAINING_SHARE: Final = 1 / 3
"""Share of the server certificate's time that is left when it is made anew."""
_log = structlog.get_logger(__name__)


def make_keys(
    paths: Home, settings: CoordinatorSettings, now: datetime, keys: KeySource | None = None
) -> None:
    """Make what a new coordinator needs; what is there stays, above all the authority.

    Args:
        paths: the home.
        settings: project, addresses, and where the passphrase is.
        now: the present time.
        keys: where the signing keys are; None makes them in files.

    Raises:
        SettingsRefused: a home in use lacks its authority or its plan key, or they are damaged.
    """
    # The settings are written last: a home without them was never finished, thus never used.
    used = paths.settings.exists() or paths.state.exists()
    passphrase = read_passphrase(settings.key_passphrase, twice=not used)
    if keys is None:
        if not used and not paths.authority.exists() and not paths.authority_key.exists():
            save_key(paths.authority_key, new_key(), passphrase)
        if not used and not paths.plan_key.exists():
            save_key(paths.plan_key, Ed25519PrivateKey.generate(), passphrase)
        keys = FileKeys(paths.authority_key, paths.plan_key, passphrase)
    if not used and not paths.authority.exists():
        made = make_authority(settings.project, now, keys.authority())
        write_atomically(paths.authority, made.certificate_pem())
    ring = KeyRing(paths, settings, clock=lambda: now, keys=keys, passphrase=passphrase)
    ring.plan()
    ring.renew_server()


def default_keys(paths: Home, passphrase: bytes | None) -> KeySource:
    """Both signing keys in the home's files."""
    return FileKeys(paths.authority_key, paths.plan_key, passphrase)


class KeyRing:
    """A coordinator's keys and certificates, as they are now.

    Args:
        paths: the home.
        settings: project and addresses.
        clock: wall clock.
        keys: where the signing keys are; None takes the home's files.
        passphrase: what covers the key files.

    Attributes:
        authority: signs the certificates.
        authorities: who is trusted, and what the sites know of it.

    Raises:
        SettingsRefused: the authority is missing or damaged; it is not replaced.
    """

    def __init__(
        self,
        paths: Home,
        settings: CoordinatorSettings,
        *,
        clock: Clock,
        keys: KeySource | None = None,
        passphrase: bytes | None = None,
    ) -> None:
        self._paths = paths
        self._settings = settings
        self._clock = clock
        self._keys = keys or default_keys(paths, passphrase)
        self.passphrase = passphrase
        self._lock = threading.Lock()
        self.authorities = Rollover(paths)
        if passphrase is not None and paths.next_authority_key.exists():
            load_key(paths.next_authority_key, passphrase)  # covers it on the way
        signer = self._keys.authority()
        self.authority = KeyPair(SignerKey(signer), check_fits(signer, paths.authority))

    def plan(self) -> PlanSigner:
        """The key under plans."""
        return self._keys.plan()

    @property
    def server(self) -> x509.Certificate:
        """The coordinator's own certificate."""
        return x509.load_pem_x509_certificate(self._paths.server.read_bytes())

    def enrolment_pair(self) -> tuple[bytes, bytes]:
        """Key and chain of the enrolment listener, PEM; gRPC takes the key uncovered only."""
        with self._lock:
            pair = load_pair(self._paths.server_key, self._paths.server, self.passphrase)
            return pair.key_pem(), self._paths.enrolment_chain.read_bytes()

    def enrolment_chain(self) -> bytes:
        """The chain that the enrolment listener shows, PEM."""
        return self._paths.enrolment_chain.read_bytes()

    def server_due(self) -> str:
        """Why the coordinator's certificate has to be made anew; empty where it has not.

        Raises:
            SettingsRefused: its key is open to others.
        """
        try:
            check_private(self._paths.server_key)
        except OSError:
            return "its key is missing"
        try:
            pair = load_pair(self._paths.server_key, self._paths.server, self.passphrase)
            pair.certificate.verify_directly_issued_by(self.authority.certificate)
        except SettingsRefused:
            return "its files are missing or damaged"
        except Exception:  # edge: any defect of the signature is one cause
            return "another authority signed it"
        if not self._paths.enrolment_chain.exists():
            return "its chain is missing"
        if not set(self._hosts()) <= hosts_of(pair.certificate):
            return "the coordinator's address is another one now"
        begins = pair.certificate.not_valid_before_utc
        ends = pair.certificate.not_valid_after_utc
        if self._clock() >= ends - (ends - begins) * REMAINING_SHARE:
            return f"it ends on {ends:%Y-%m-%d}"
        return ""

    def renew_server(self) -> x509.Certificate:
        """Make the coordinator's key and certificate anew; sites check the authority, not these."""
        now = self._clock()
        made = issue_server(self.authority, self._settings.project, self._hosts(), now)
        with self._lock:
            save_key(self._paths.server_key, made.key, self.passphrase)
            write_atomically(self._paths.server, made.certificate_pem())
            write_atomically(
                self._paths.enrolment_chain,
                made.certificate_pem() + self.authority.certificate_pem(),
            )
            write_atomically(self._paths.authorities, self.trusted_pem())
        return made.certificate

    def trusted_pem(self) -> bytes:
        """Authorities whose site certificates are taken now."""
        return self.authorities.bundle_pem()

    def ensure_server(self) -> bool:
        """Make the coordinator's certificate anew where it is due; whether it was."""
        cause = self.server_due()
        if not cause:
            self._write_trusted()
            return False
        ends = self.renew_server().not_valid_after_utc
        _log.info("server_certificate_renewed", cause=cause, ends=f"{ends:%Y-%m-%d}")
        return True

    def _write_trusted(self) -> None:
        trusted = self.trusted_pem()
        path: Path = self._paths.authorities
        if not path.exists() or path.read_bytes() != trusted:
            write_atomically(path, trusted)

    def _hosts(self) -> tuple[str, ...]:
        try:
            return (str(ipaddress.ip_address(self._settings.host)), "localhost")
        except ValueError:
            return (self._settings.host, "localhost")
