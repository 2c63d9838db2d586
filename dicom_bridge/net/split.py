"""Splitting a study query by dates and times, for a PACS that cuts its answers off.

Pure: spans of StudyDate and StudyTime (PS3.4 C.2.2.2.5) and their halves.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, timedelta

EARLIEST = date(1970, 1, 1)
"""Older studies are asked for together; few archives hold any."""

_DAY_MINUTES = 24 * 60
_LEAST = 50


@dataclass(frozen=True, slots=True)
class Span:
    """A span of study dates, or of times of one day; all limits are inclusive.

    Attributes:
        first: the first day; None for "and all before ``last``".
        last: the last day; None for "and all after ``first``".
        minute: for one day: its first minute after midnight.
        last_minute: for one day: its last minute.
    """

    first: date | None
    last: date | None
    minute: int = 0
    last_minute: int = _DAY_MINUTES - 1

    @property
    def dates(self) -> str:
        """The value of StudyDate that asks for it."""
        first = f"{self.first:%Y%m%d}" if self.first else ""
        last = f"{self.last:%Y%m%d}" if self.last else ""
        return first if first == last else f"{first}-{last}"

    @property
    def times(self) -> str:
        """The value of StudyTime that asks for it, empty for whole days."""
        if (self.minute, self.last_minute) == (0, _DAY_MINUTES - 1):
            return ""
        first, last = self.minute, self.last_minute
        return f"{first // 60:02d}{first % 60:02d}00-{last // 60:02d}{last % 60:02d}59.999999"


def spans_of(first: date | None, last: date | None, today: date) -> list[Span]:
    """Bounded spans, and open ones where the query is open, that together cover a query.

    Example:
        >>> [span.dates for span in spans_of(date(2024, 1, 1), None, date(2024, 3, 1))]
        ['20240101-20240302', '20240303-']
    """
    end = last or max(today, first or today) + timedelta(days=1)
    spans = []
    if first is None and end < EARLIEST:
        spans.append(Span(None, end))
    else:
        if first is None:
            spans.append(Span(None, EARLIEST - timedelta(days=1)))
        spans.append(Span(first or EARLIEST, end))
    if last is None:
        spans.append(Span(end + timedelta(days=1), None))
    return spans


def split(span: Span, days: Sequence[date] = ()) -> tuple[Span, Span] | None:
    """The two halves of a span, by days, then by minutes; None where it has none.

    Args:
        span: what to split.
        days: days of known studies: where given, their median divides the days.

    Example:
        >>> [half.dates for half in split(Span(date(2024, 1, 1), date(2024, 1, 3)))]
        ['20240101-20240102', '20240103']
    """
    if span.first is None or span.last is None:
        return None
    length = (span.last - span.first).days
    if length > 0:
        middle = span.first + timedelta(days=length // 2)
        inside = sorted(day for day in days if span.first <= day <= span.last)
        if inside:
            middle = min(inside[len(inside) // 2], span.last - timedelta(days=1))
        return Span(span.first, middle), Span(middle + timedelta(days=1), span.last)
    if span.minute >= span.last_minute:
        return None
    noon = (span.minute + span.last_minute) // 2
    return (
        Span(span.first, span.last, span.minute, noon),
        Span(span.first, span.last, noon + 1, span.last_minute),
    )


def looks_cut(count: int) -> bool:
    """Whether a number of answers looks like the limit of a PACS: round in decimal or binary.

    Example:
        >>> [count for count in range(1, 300) if looks_cut(count)]
        [50, 64, 100, 128, 150, 200, 250, 256]
    """
    if count < _LEAST:
        return False
    return count % 50 == 0 or count & (count - 1) == 0
