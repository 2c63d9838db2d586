"""What ends when, and what to do about it: certificates, the authority, tokens (pure).

Both sides warn in words, days before anything stops: what ends, when, why it was not renewed by
itself, and who does what. A certificate that has not begun yet is a wrong clock, not an old one.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Final

import structlog
from cryptography import x509

from federation.clock import minute

LOG_PAUSE: Final = timedelta(days=1)
"""Between two log lines about the same thing."""
_log = structlog.get_logger(__name__)


class Kind(StrEnum):
    """What ends."""

    OWN = "this site's certificate"
    SITE = "a site's certificate"
    SERVER = "the coordinator's certificate"
    AUTHORITY = "the project's authority"
    ROOT = "the authority that this site relies on"
    TOKEN = "an enrolment token"  # noqa: S105 - no secret


_TODO: Final = {
    Kind.OWN: (
        "a running, connected node renews it by itself: run `clinode node check`",
        "ask the coordinator's operator for a new token, move keys/node.crt away and enrol again",
    ),
    Kind.SITE: (
        "the site renews it by itself while its node runs and is connected: call the hospital",
        "revoke the site and add it again: it needs a new token",
    ),
    Kind.SERVER: (
        "a running coordinator renews it by itself: look for server_certificate in its log",
        "restart the coordinator: it makes a new one; no site has to do anything",
    ),
    Kind.AUTHORITY: (
        "begin its replacement: `clinode coordinator authority next`",
        "no site can connect: a new project authority and new tokens for all sites are needed",
    ),
    Kind.ROOT: (
        "the coordinator's operator replaces it while this node is connected: tell them",
        "ask the coordinator's operator for a new token, move keys/node.crt away and enrol again",
    ),
    Kind.TOKEN: (
        "it has not been used: remind the hospital",
        "make another: `clinode coordinator site add NAME`",
    ),
}
"""What to do before the end, and after it."""


@dataclass(frozen=True, slots=True)
class Term:
    """Something with an end.

    Attributes:
        kind: what it is.
        name: whose it is; empty where there is only one.
        begins: UTC; None where it does not matter.
        ends: UTC.
        note: what else the reader should know; empty for nothing.
    """

    kind: Kind
    name: str
    begins: datetime | None
    ends: datetime
    note: str = ""


@dataclass(frozen=True, slots=True)
class Notice:
    """A warning.

    Attributes:
        kind: what ends.
        name: whose.
        ends: UTC, ISO 8601 to the second.
        days: days left, negative afterwards.
        state: ``soon``, ``over`` or ``clock``.
        words: one or two sentences with what to do.
    """

    kind: str
    name: str
    ends: str
    days: float
    state: str
    words: str

    def document(self) -> dict[str, str | float]:
        """Plain JSON."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Thresholds:
    """How long before the end a warning begins.

    Attributes:
        certificate: of a site's and of the coordinator's certificate.
        authority: of the project's authority.
        token: of an unused token.
    """

    certificate: timedelta = timedelta(days=30)
    authority: timedelta = timedelta(days=365)
    token: timedelta = timedelta(hours=24)

    def of(self, kind: Kind) -> timedelta:
        """The threshold of one kind."""
        others = {
            Kind.AUTHORITY: self.authority,
            Kind.ROOT: self.authority,
            Kind.TOKEN: self.token,
        }
        return others.get(kind, self.certificate)


def term_of(certificate: x509.Certificate, kind: Kind, name: str = "", note: str = "") -> Term:
    """A certificate's term."""
    return Term(kind, name, certificate.not_valid_before_utc, certificate.not_valid_after_utc, note)


def notices(terms: Iterable[Term], now: datetime, thresholds: Thresholds) -> list[Notice]:
    """The warnings that are due, the most urgent first."""
    found = [notice for term in terms if (notice := _notice(term, now, thresholds)) is not None]
    return sorted(found, key=lambda notice: (notice.days, notice.kind, notice.name))


def _notice(term: Term, now: datetime, thresholds: Thresholds) -> Notice | None:
    left = term.ends - now
    what = f"{term.kind} ({term.name})" if term.name else str(term.kind)
    if term.begins is not None and now < term.begins:
        state, words = (
            "clock",
            (
                f"{what} begins on {minute(term.begins)} and this machine's clock says "
                f"{minute(now)}: the clock is wrong, set it by a time server (NTP)"
            ),
        )
    elif left <= timedelta():
        state, words = (
            "over",
            (
                f"{what} expired on {minute(term.ends)} (this machine's clock: {minute(now)}): "
                f"{_TODO[term.kind][1]}"
            ),
        )
    elif left <= thresholds.of(term.kind):
        state, words = "soon", f"{what} ends in {span(left)}, on {minute(term.ends)}: "
        words += _TODO[term.kind][0]
    else:
        return None
    if term.note:
        words += f" ({term.note})"
    ends = term.ends.isoformat(timespec="seconds")
    days = round(left.total_seconds() / 86_400, 2)
    return Notice(term.kind.name.lower(), term.name, ends, days, state, words)


def span(left: timedelta) -> str:
    """A time to wait, in days, or in hours where it is short.

    >>> span(timedelta(days=12, hours=5)), span(timedelta(days=1)), span(timedelta(minutes=90))
    ('12 days', '24 hours', '1 hour')
    """
    hours = int(left.total_seconds() // 3600)
    if hours >= 48:
        return f"{hours // 24} days"
    return f"{hours} hour{'' if hours == 1 else 's'}"


def not_at_this_time(certificate: x509.Certificate, here: datetime) -> str:
    """Why a certificate of the coordinator does not hold at our time; empty where it does."""
    begins, ends = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    if begins <= here <= ends:
        return ""
    return (
        f"the coordinator's certificate is valid from {minute(begins)} to {minute(ends)}, and this "
        f"machine's clock says {minute(here)}"
    )


class DailyLog:
    """Puts every warning into the log once a day, at once where it is new or worse.

    Args:
        clock: wall clock.
    """

    def __init__(self, clock: Callable[[], datetime]) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._told: dict[tuple[str, str, str], datetime] = {}

    def tell(self, found: Sequence[Notice]) -> int:
        """Log what is due; gives the number of lines."""
        now, due = self._clock(), []
        with self._lock:
            for notice in found:
                key = (notice.kind, notice.name, notice.state)
                told = self._told.get(key)
                if told is None or abs(now - told) >= LOG_PAUSE:
                    self._told[key] = now
                    due.append(notice)
        for notice in due:
            _log.warning(
                "expiry",
                what=notice.kind,
                name=notice.name,
                state=notice.state,
                days=notice.days,
                ends=notice.ends,
                words=notice.words,
            )
        return len(due)
