"""What a running coordinator does for its certificates by itself: renew its own, warn of the rest.

Looks once an hour, also across a wrong clock that is set right; nothing is restarted and no
connection is broken.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from datetime import timedelta
from typing import Any, Final

import grpc
import structlog

from federation.clock import Clock, parse_stamp
from federation.coordinator.keyring import KeyRing
from federation.coordinator.settings import CoordinatorSettings
from federation.coordinator.store import Store
from federation.enrolment.expiry import (
    DailyLog,
    Kind,
    Notice,
    Term,
    Thresholds,
    notices,
    term_of,
)
from federation.errors import FederationError

LOOK_S: Final = 3600.0
TOKEN_TOLD: Final = timedelta(days=7)
"""How long after its end an unused token is still spoken of."""
_log = structlog.get_logger(__name__)


def thresholds_of(settings: CoordinatorSettings) -> Thresholds:
    """When the coordinator warns."""
    return Thresholds(
        certificate=timedelta(days=settings.certificate_warning_days),
        authority=timedelta(days=settings.authority_warning_days),
        token=timedelta(hours=settings.token_warning_hours),
    )


class Upkeep:
    """Keeps the coordinator's certificate fresh and says what ends soon.

    Args:
        ring: the keys.
        store: sites and tokens.
        thresholds: when to warn.
        clock: wall clock.
        every_s: seconds between two looks.
    """

    def __init__(
        self,
        ring: KeyRing,
        store: Store,
        thresholds: Thresholds,
        clock: Clock,
        *,
        every_s: float = LOOK_S,
    ) -> None:
        self._ring = ring
        self._store = store
        self._thresholds = thresholds
        self._clock = clock
        self._every_s = every_s
        self._log = DailyLog(clock)
        self._renewed: list[Callable[[], None]] = []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="upkeep", daemon=True)

    def on_renewed(self, told: Callable[[], None]) -> None:
        """Have ``told`` called when the coordinator has another certificate."""
        self._renewed.append(told)

    def start(self) -> None:
        """Look at once, then again and again."""
        self._thread.start()

    def stop(self) -> None:
        """End the looking."""
        self._stop.set()
        if self._thread.ident is not None:
            self._thread.join(5)

    def look(self) -> None:
        """Renew what is due, log what ends soon."""
        if self._ring.ensure_server():
            for told in self._renewed:
                told()
        self._log.tell(self.notices())

    def notices(self) -> list[Notice]:
        """What ends soon, or has ended."""
        return notices(self._terms(), self._clock(), self._thresholds)

    def _terms(self) -> list[Term]:
        prepared = "the next one is made: `clinode coordinator authority show`"
        note = prepared if self._ring.authorities.prepared else ""
        terms = [
            term_of(self._ring.authority.certificate, Kind.AUTHORITY, note=note),
            term_of(self._ring.server, Kind.SERVER),
        ]
        for site in self._store.sites():
            if site.state == "enrolled" and site.certificate_ends:
                seen = f"last seen {site.last_seen[:16]}Z" if site.last_seen else "never seen"
                ends = parse_stamp(site.certificate_ends)
                terms.append(Term(Kind.SITE, site.name, None, ends, seen))
        oldest = self._clock() - TOKEN_TOLD
        terms += [
            Term(Kind.TOKEN, token.site, None, ends)
            for token in self._store.open_tokens()
            if (ends := parse_stamp(token.expires)) > oldest
        ]
        return terms

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                self.look()
            except (FederationError, OSError) as error:
                _log.error("server_certificate_not_renewed", words=str(error))
            except Exception as error:  # edge: the thread must live as long as the coordinator
                _log.error("upkeep_failed", cause=type(error).__name__)
            self._stop.wait(self._every_s)


def enrolment_credentials(ring: KeyRing) -> grpc.ServerCredentials:
    """TLS of the enrolment listener, which shows a renewed certificate without a restart."""

    def _configuration() -> grpc.ServerCertificateConfiguration:
        return grpc.ssl_server_certificate_configuration([ring.enrolment_pair()])

    shown: list[bytes] = [ring.enrolment_pair()[1]]

    def _fetch() -> Any:  # noqa: ANN401 - grpc's type is private; None keeps what is shown
        chain = ring.enrolment_chain()
        if chain == shown[0]:
            return None
        shown[0] = chain
        return _configuration()

    return grpc.dynamic_ssl_server_credentials(_configuration(), _fetch)
