"""Time as a constructor argument: wall clock in UTC and its one spelling."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Final

TIME_PROTOCOL: Final = "clinode-time"
"""ALPN name (RFC 7301) by which a site asks the coordinator for its time and nothing else."""
Clock = Callable[[], datetime]
"""Gives the present time with its zone (UTC)."""


def utc_now() -> datetime:
    """The present time in UTC."""
    return datetime.now(UTC)


def stamp(moment: datetime) -> str:
    """ISO 8601 in UTC with microseconds and a ``Z``.

    >>> stamp(datetime(2026, 3, 1, 12, 0, tzinfo=UTC))
    '2026-03-01T12:00:00.000000Z'
    """
    return moment.astimezone(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")


def minute(moment: datetime) -> str:
    """For people, to the minute.

    >>> minute(datetime(2026, 3, 1, 12, 0, 59, tzinfo=UTC))
    '2026-03-01 12:00 UTC'
    """
    return f"{moment.astimezone(UTC):%Y-%m-%d %H:%M} UTC"


def parse_stamp(text: str) -> datetime:
    """The moment that :func:`stamp` spelled.

    >>> parse_stamp("2026-03-01T12:00:00.000000Z").hour
    12
    """
    return datetime.fromisoformat(text.replace("Z", "+00:00"))
