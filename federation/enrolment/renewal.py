"""A site's certificate is renewed before it ends, without a restart and without a person.

A new key is made here and only a signing request travels, over mutual TLS with the certificate that
still holds. Order on disk: ``node.key.next``, then ``node.crt.next``, then both take their places;
`adopt` finishes what a kill interrupted. The coordinator takes the old certificate for the site's
until the new one calls for the first time, and for nobody's afterwards.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path
from typing import Final

import structlog
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from federation.canonical import sync_folder, write_atomically
from federation.clock import Clock, utc_now
from federation.enrolment.authorities import accepted, issuer_of, read_bundle
from federation.enrolment.client import (
    AUTHORITY_FILE,
    CERTIFICATE_FILE,
    KEY_FILE,
    SiteIdentity,
    load_identity,
)
from federation.errors import EnrolmentRefused, SettingsRefused
from federation.keyfile import load_key, save_key
from federation.pki import common_name, new_key, signing_request

REMAINING_SHARE: Final = 1 / 3
"""Share of the certificate's time that is left when it is renewed."""
PAUSE: Final = timedelta(hours=1)
"""Between two tries, also after one that came about: a wrong clock must not ask without end."""

NEXT: Final = ".next"
Certify = Callable[[bytes], bytes]
"""Takes a signing request (PEM), gives the certificate (PEM)."""
_log = structlog.get_logger(__name__)


def due(identity: SiteIdentity, now: datetime) -> bool:
    """Whether a certificate should be renewed now: in its last third, or of a former authority."""
    certificate = x509.load_pem_x509_certificate(identity.certificate_pem)
    signs = read_bundle(identity.authority_pem)[0]
    if issuer_of(certificate, [signs]) is None:
        return True
    begins, ends = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    return now >= ends - (ends - begins) * REMAINING_SHARE


def adopt(keys_dir: Path) -> bool:
    """Put a renewed pair in its place, as far as it is complete; whether there was one."""
    key, certificate = keys_dir / (KEY_FILE + NEXT), keys_dir / (CERTIFICATE_FILE + NEXT)
    if not certificate.exists():
        return False
    if key.exists():
        key.replace(keys_dir / KEY_FILE)
        sync_folder(keys_dir)
    certificate.replace(keys_dir / CERTIFICATE_FILE)
    sync_folder(keys_dir)
    return True


class Renewal:
    """Renews one site's certificate.

    Args:
        keys_dir: the node's keys.
        clock: wall clock.
        passphrase: covers the key; None writes a plain file of mode 0600.
    """

    def __init__(
        self, keys_dir: Path, *, clock: Clock = utc_now, passphrase: bytes | None = None
    ) -> None:
        self._keys_dir = keys_dir
        self._passphrase = passphrase
        self._clock = clock
        self._not_before: datetime | None = None

    def due(self, identity: SiteIdentity) -> bool:
        """Whether to try now; a try that failed rests for an hour."""
        now = self._clock()
        return (self._not_before is None or now >= self._not_before) and due(identity, now)

    def renew(self, identity: SiteIdentity, certify: Certify) -> SiteIdentity:
        """Get a new certificate for a new key, put both in place, and read them.

        Raises:
            EnrolmentRefused: what came is not a certificate of our project for our key.
            FederationError: what `certify` raises; the present certificate stays.
        """
        self._not_before = self._clock() + PAUSE
        key = self._next_key()
        pem = certify(signing_request(key, identity.site, identity.project))
        self._check(pem, identity, key)
        write_atomically(self._keys_dir / (CERTIFICATE_FILE + NEXT), pem)
        adopt(self._keys_dir)
        renewed = load_identity(self._keys_dir, self._passphrase)
        _log.info("certificate_renewed", ends=renewed.certificate_ends)
        return renewed

    def take_authorities(self, identity: SiteIdentity, announced: bytes) -> SiteIdentity | None:
        """Keep the authorities that the coordinator announced; None where nothing changed.

        Raises:
            EnrolmentRefused: they do not follow from those that this site relies on.
        """
        bundle = accepted(identity.authority_pem, announced, identity.project)
        if bundle is None:
            return None
        write_atomically(self._keys_dir / AUTHORITY_FILE, bundle)
        _log.info("authorities_changed", number=bundle.count(b"BEGIN CERTIFICATE"))
        return load_identity(self._keys_dir, self._passphrase)

    def _next_key(self) -> ec.EllipticCurvePrivateKey:
        """The key of an earlier, unfinished try, or a fresh one, already on disk.

        The same key asks for the same certificate: a lost answer costs nothing.
        """
        path = self._keys_dir / (KEY_FILE + NEXT)
        if path.exists():
            try:
                kept = load_key(path, self._passphrase)
            except SettingsRefused:
                kept = None
            if isinstance(kept, ec.EllipticCurvePrivateKey):
                return kept
        key = new_key()
        save_key(path, key, self._passphrase)
        return key

    def _check(self, pem: bytes, identity: SiteIdentity, key: ec.EllipticCurvePrivateKey) -> None:
        authorities = read_bundle((self._keys_dir / AUTHORITY_FILE).read_bytes())
        try:
            certificate = x509.load_pem_x509_certificate(pem)
            if issuer_of(certificate, authorities) is None:
                raise ValueError("not of the project")
            name = common_name(certificate.subject)
        except Exception as error:  # edge: any defect of foreign bytes is one cause
            raise EnrolmentRefused("the renewed certificate is not of the project") from error
        if name != identity.site or certificate.public_key() != key.public_key():
            raise EnrolmentRefused(
                "the coordinator certified another key or another name than ours"
            )


def load_present(keys_dir: Path, passphrase: bytes | None = None) -> SiteIdentity:
    """The identity in use, after an interrupted renewal was finished.

    Raises:
        SettingsRefused: this node is not enrolled, or a file does not fit the others.
    """
    adopt(keys_dir)
    return load_identity(keys_dir, passphrase)
