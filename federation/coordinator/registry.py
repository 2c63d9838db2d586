"""Sites, their tokens and certificates: who belongs to the project now."""

from __future__ import annotations

import hashlib
import hmac
import threading
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from federation.audit_chain import AuditChain
from federation.clock import Clock, parse_stamp, stamp
from federation.coordinator.causes import Cause
from federation.coordinator.rollover import Rollover
from federation.coordinator.schema import RenewalRow, SiteRow, TokenRow
from federation.coordinator.store import Store
from federation.enrolment.expiry import Notice
from federation.enrolment.token import EnrolmentToken, make_token
from federation.errors import EnrolmentRefused, RunRefused
from federation.pki import (
    KeyPair,
    check_site_name,
    fingerprint,
    issue_site,
    read_request,
    serial_of,
)

ATTEMPTS_PER_TOKEN: Final = 5
"""Wrong secrets after which a token is burned."""
STRANGERS_PER_MINUTE: Final = 20
"""Enrolment attempts with unknown tokens that are looked at in one minute."""
ACTOR_OPERATOR: Final = "operator"


@dataclass(frozen=True, slots=True)
class Project:
    """What the registry certifies for.

    Attributes:
        name: the project.
        enrolment_address: ``host:port`` that tokens name.
        federation_address: ``host:port`` that enrolled sites dial.
        token_hours: default validity of a token.
    """

    name: str
    enrolment_address: str
    federation_address: str
    token_hours: float


def _key_sha256(key: ec.EllipticCurvePublicKey) -> str:
    der = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return hashlib.sha256(der).hexdigest()


class Registry:
    """Adds, enrols and revokes sites, and says how a certificate stands.

    Args:
        store: the coordinator's state.
        audit: the coordinator's log.
        authority: the project's authority.
        project: names and addresses.
        clock: wall clock.
        authorities: who is trusted, and what the sites know of it.
        notices: gives what ends soon.
    """

    def __init__(
        self,
        store: Store,
        audit: AuditChain,
        authority: KeyPair,
        project: Project,
        clock: Clock,
        authorities: Rollover,
        notices: Callable[[], Sequence[Notice]] = tuple,
    ) -> None:
        self._store = store
        self._audit = audit
        self._authority = authority
        self._project = project
        self._clock = clock
        self.authorities = authorities
        self.notices = notices
        self._lock = threading.Lock()
        self._strangers: deque[float] = deque(maxlen=STRANGERS_PER_MINUTE)
        self._standing: dict[str, SiteRow] = {site.name: site for site in store.sites()}
        self._renewed: dict[str, RenewalRow] = {row.site: row for row in store.renewals()}

    @property
    def project(self) -> Project:
        """Names and addresses."""
        return self._project

    def authority_pem(self) -> bytes:
        """The project authority's certificate."""
        return self._authority.certificate_pem()

    def add(self, name: str, valid_hours: float = 0.0) -> EnrolmentToken:
        """Invite a site (or invite it again) with a fresh token; older tokens of it end.

        Raises:
            SettingsRefused: the name cannot be a site's.
            RunRefused: the site is enrolled already.
        """
        check_site_name(name)
        hours = valid_hours or self._project.token_hours
        token = make_token(
            name,
            self._project.name,
            self._project.enrolment_address,
            fingerprint(self._authority.certificate),
            self._clock() + timedelta(hours=hours),
        )
        with self._store.change() as change:
            row = change.execute("SELECT state FROM sites WHERE name = ?", (name,)).fetchone()
            if row is not None and row["state"] == "enrolled":
                raise RunRefused(f"site {name} is enrolled: revoke it first to enrol it anew")
            if row is None:
                change.insert("sites", {"name": name, "state": "invited", "added_at": change.now})
            change.execute(
                "UPDATE tokens SET state = 'burned' WHERE site = ? AND state = 'open'", (name,)
            )
            change.insert(
                "tokens",
                {
                    "token_id": token.token_id,
                    "site": name,
                    "secret_sha256": hashlib.sha256(token.secret).hexdigest(),
                    "expires": stamp(token.expires),
                    "state": "open",
                },
            )
        self._refresh(name)
        detail = {"token": token.token_id, "expires": stamp(token.expires)}
        self._audit.append(ACTOR_OPERATOR, "site.added", name, detail)
        return token

    def revoke(self, name: str, reason: str) -> None:
        """Bar a site's certificate from now on.

        Raises:
            RunRefused: there is no such site.
        """
        with self._store.change() as change:
            row = change.execute("SELECT state FROM sites WHERE name = ?", (name,)).fetchone()
            if row is None:
                raise RunRefused(f"there is no site {name[:63]!r}")
            change.set(
                "sites",
                {"name": name},
                {"state": "revoked", "revoked_at": change.now, "reason": reason[:200]},
            )
            change.execute(
                "UPDATE tokens SET state = 'burned' WHERE site = ? AND state = 'open'", (name,)
            )
            change.execute("DELETE FROM renewals WHERE site = ?", (name,))
        self._renewed.pop(name, None)
        self._refresh(name)
        self._audit.append(ACTOR_OPERATOR, "site.revoked", name, {"reason": reason[:200]})

    def standing(self, site: str, serial: str) -> Cause | None:
        """Why a certificate may not call; None where it may."""
        row = self._standing.get(site)
        if row is not None and row.state == "revoked":
            return Cause.REVOKED
        renewed = self._renewed.get(site)
        if renewed is not None and renewed.serial == serial:
            self._supersede(renewed)
            return None
        return Cause.NOT_REGISTERED if row is None or row.serial != serial else None

    def renew(self, site: str, request_pem: bytes) -> bytes:
        """Certify a new key of a site whose present certificate called; PEM.

        The present one holds until the new one calls for the first time. The same key gets the
        same certificate again.

        Raises:
            EnrolmentRefused: the request does not fit the site.
        """
        with self._lock:
            key = read_request(request_pem, site)
            key_sha256 = _key_sha256(key)
            waiting = self._renewed.get(site)
            if waiting is not None and waiting.key_sha256 == key_sha256:
                return waiting.certificate.encode()
            certificate = issue_site(
                self._authority, (site, self._project.name), key, self._clock()
            )
            pem = certificate.public_bytes(Encoding.PEM)
            ends = stamp(certificate.not_valid_after_utc)
            with self._store.change() as change:
                row = RenewalRow(
                    site, serial_of(certificate), ends, key_sha256, pem.decode(), change.now
                )
                change.execute("DELETE FROM renewals WHERE site = ?", (site,))
                change.insert(
                    "renewals", {name: getattr(row, name) for name in RenewalRow.__slots__}
                )
            self._renewed[site] = row
            self._audit.append(site, "certificate.renewed", site, {"serial": row.serial})
            return pem

    def _supersede(self, renewed: RenewalRow) -> None:
        """The new certificate has called: it is the site's, the old one nobody's."""
        with self._lock:
            if self._renewed.get(renewed.site) is not renewed:
                return
            with self._store.change() as change:
                fields = {"serial": renewed.serial, "certificate_ends": renewed.certificate_ends}
                change.set("sites", {"name": renewed.site}, fields)
                change.execute("DELETE FROM renewals WHERE site = ?", (renewed.site,))
            self._refresh(renewed.site)
            del self._renewed[renewed.site]
            detail = {"serial": renewed.serial}
            self._audit.append(renewed.site, "certificate.in_use", renewed.site, detail)

    def seen(self, site: str, software: str = "") -> None:
        """Remember that a site called."""
        with self._store.change(quiet=True) as change:
            fields = {"last_seen": change.now} | ({"software": software[:40]} if software else {})
            change.set("sites", {"name": site}, fields)

    def enrol(self, token_id: str, secret: bytes, request_pem: bytes) -> bytes:
        """Certify a site's key by its token; gives the certificate in PEM.

        The same key with the same token gets the same certificate again: a lost answer costs
        nothing.

        Raises:
            EnrolmentRefused: token unknown, wrong, used, expired, tried too often, or a request
                that does not fit. The audit names the cause; the caller hears no more than needed.
        """
        with self._lock:
            token = self._token_of(token_id, secret)
            key = read_request(request_pem, token.site)
            key_sha256 = _key_sha256(key)
            if token.state == "used":
                if token.key_sha256 == key_sha256 and token.certificate:
                    return token.certificate.encode()
                raise self._refusal(token.site, "token used already")
            if parse_stamp(token.expires) <= self._clock():
                raise self._refusal(token.site, "token expired")
            return self._certify(token, key, key_sha256)

    def _certify(self, token: TokenRow, key: ec.EllipticCurvePublicKey, key_sha256: str) -> bytes:
        who = (token.site, self._project.name)
        certificate = issue_site(self._authority, who, key, self._clock())
        pem = certificate.public_bytes(Encoding.PEM)
        with self._store.change() as change:
            change.set(
                "tokens",
                {"token_id": token.token_id},
                {
                    "state": "used",
                    "used_at": change.now,
                    "key_sha256": key_sha256,
                    "certificate": pem.decode(),
                },
            )
            change.set("sites", {"name": token.site}, self._enrolled(certificate, change.now))
        self._refresh(token.site)
        detail = {"serial": serial_of(certificate), "token": token.token_id}
        self._audit.append(token.site, "site.enrolled", token.site, detail)
        return pem

    @staticmethod
    def _enrolled(certificate: x509.Certificate, now: str) -> dict[str, str | None]:
        return {
            "state": "enrolled",
            "serial": serial_of(certificate),
            "certificate_ends": stamp(certificate.not_valid_after_utc),
            "enrolled_at": now,
            "revoked_at": None,
            "reason": "",
        }

    def _token_of(self, token_id: str, secret: bytes) -> TokenRow:
        token = self._store.token(token_id[:32])
        if token is None:
            self._count_stranger()
            raise self._refusal("unknown", "token unknown", "the token is not valid")
        if token.state == "burned" or token.attempts >= ATTEMPTS_PER_TOKEN:
            raise self._refusal(token.site, "token no longer valid")
        given = hashlib.sha256(secret).hexdigest()
        if hmac.compare_digest(given, token.secret_sha256):
            return token
        with self._store.change() as change:
            attempts = token.attempts + 1
            state = "burned" if attempts >= ATTEMPTS_PER_TOKEN else token.state
            fields = {"attempts": attempts, "state": state}
            change.set("tokens", {"token_id": token.token_id}, fields)
        cause = "wrong secret"
        if attempts >= ATTEMPTS_PER_TOKEN:
            cause = f"wrong secret, {attempts} attempts: token burned"
        raise self._refusal(token.site, cause, "the token is not valid")

    def _count_stranger(self) -> None:
        now = self._clock().timestamp()
        if len(self._strangers) == STRANGERS_PER_MINUTE and now - self._strangers[0] < 60:
            raise EnrolmentRefused("too many attempts: wait a minute and try again")
        self._strangers.append(now)

    def _refusal(self, site: str, cause: str, words: str = "") -> EnrolmentRefused:
        self._audit.append(site, "enrolment.refused", site, {"cause": cause})
        return EnrolmentRefused(
            f"enrolment refused: {words or cause}; ask the coordinator's operator for a new token"
        )

    def _refresh(self, name: str) -> None:
        row = self._store.site(name)
        if row is not None:
            self._standing[name] = row
