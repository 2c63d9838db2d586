"""When and how fast to retrieve from a PACS: time windows and a rate.

A window is written ``mon-fri 19:00-06:00``: the days on which it begins, and wall clock times in
the site's time zone. It ends on the next day where the end is not after the beginning. A moment is
inside when the clock on the wall shows a time of the window, so that changes to and from summer
time need no rule of their own: an hour that does not exist is not waited for, one that comes twice
counts twice.

Everything here is pure; clock and sleep are arguments.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time, timedelta, tzinfo

from dicom_bridge.errors import SettingsRefused

DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
_GRAMMAR = re.compile(
    r"(?P<first>[a-z]{3})(?:-(?P<last>[a-z]{3}))? "
    r"(?P<start>(?:[01]\d|2[0-3]):[0-5]\d)-(?P<end>(?:[01]\d|2[0-3]):[0-5]\d|24:00)"
)
_DAY_MINUTES = 24 * 60
_HORIZON_DAYS = 9
_CHUNK_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class Window:
    """A span of wall clock time on some days of the week.

    Attributes:
        days: the days on which it begins, 0 for Monday.
        start: minutes after midnight, 0 to 1439.
        end: minutes after the same midnight, above ``start``, up to 2879 (the next day).
    """

    days: frozenset[int]
    start: int
    end: int

    def holds(self, wall: datetime) -> bool:
        """Whether the clock on the wall shows a time of this window."""
        minutes = wall.hour * 60 + wall.minute
        today = wall.weekday()
        if today in self.days and self.start <= minutes < self.end:
            return True
        return (today - 1) % 7 in self.days and minutes + _DAY_MINUTES < self.end


def parse_window(text: str) -> Window:
    """A window from its text.

    Raises:
        SettingsRefused: the text is not of the form ``mon-fri 19:00-06:00``.

    Example:
        >>> parse_window("sat 22:30-01:00")
        Window(days=frozenset({5}), start=1350, end=1500)
    """
    match = _GRAMMAR.fullmatch(" ".join(text.lower().split()))
    if match is None or match["first"] not in DAYS or (match["last"] or "mon") not in DAYS:
        raise SettingsRefused(
            f"a window is written like 'mon-fri 19:00-06:00' or 'sat 00:00-24:00', "
            f"not {text[:40]!r}; correct it"
        )
    first = DAYS.index(match["first"])
    last = DAYS.index(match["last"] or match["first"])
    days = frozenset((first + step) % 7 for step in range((last - first) % 7 + 1))
    start, end = _minutes(match["start"]), _minutes(match["end"])
    return Window(days, start, end if end > start else end + _DAY_MINUTES)


def _minutes(text: str) -> int:
    hours, minutes = text.split(":")
    return int(hours) * 60 + int(minutes)


@dataclass(frozen=True, slots=True)
class Schedule:
    """Windows in a time zone; without any window it is always open.

    Attributes:
        windows: when it is open; they may overlap.
        zone: the zone of the clock on the wall.
    """

    windows: tuple[Window, ...] = ()
    zone: tzinfo = UTC

    @classmethod
    def parse(cls, windows: Sequence[str], zone: tzinfo = UTC) -> Schedule:
        """A schedule from the texts of its windows.

        Raises:
            SettingsRefused: a text is no window.
        """
        return cls(tuple(parse_window(text) for text in windows), zone)

    def is_open(self, moment: datetime) -> bool:
        """Whether ``moment`` (with a time zone) is inside a window."""
        wall = moment.astimezone(self.zone)
        return not self.windows or any(window.holds(wall) for window in self.windows)

    def closes(self, moment: datetime) -> datetime | None:
        """The end of the open time that holds ``moment``, in UTC.

        ``moment`` itself is returned where it is closed then, None where it stays open for more
        than a week.
        """
        return self._next(moment, wanted=False)

    def opens(self, moment: datetime) -> datetime | None:
        """The first open moment from ``moment`` on, in UTC; None where there is none in a week."""
        return self._next(moment, wanted=True)

    def _next(self, moment: datetime, *, wanted: bool) -> datetime | None:
        now = moment.astimezone(UTC)
        if self.is_open(now) == wanted:
            return now
        for candidate in sorted(set(self._changes(now))):
            if candidate > now and self.is_open(candidate) == wanted:
                return candidate
        return None

    def _changes(self, now: datetime) -> Iterator[datetime]:
        """Every moment of the next days at which a window may begin or end, in UTC."""
        first = now.astimezone(self.zone).date() - timedelta(days=2)
        for offset in range(_HORIZON_DAYS + 2):
            day = first + timedelta(days=offset)
            yield from self._zone_change(day)
            for window in self.windows:
                for minutes in (window.start, window.end):
                    yield from self._moments(day, minutes)

    def _moments(self, day: date, minutes: int) -> Iterator[datetime]:
        wall = datetime.combine(day, time(), self.zone) + timedelta(minutes=minutes)
        for fold in (0, 1):
            yield wall.replace(fold=fold).astimezone(UTC)

    def _zone_change(self, day: date) -> Iterator[datetime]:
        """The moment of the day at which the zone's offset changes, to the second."""
        low = datetime.combine(day, time(), UTC)
        high = low + timedelta(days=1)
        before, after = self._offset(low), self._offset(high)
        if before == after:
            return
        while high - low > timedelta(seconds=1):
            middle = low + (high - low) / 2
            middle = middle.replace(microsecond=0)
            low, high = (middle, high) if self._offset(middle) == before else (low, middle)
        yield high

    def _offset(self, moment: datetime) -> timedelta | None:
        return moment.astimezone(self.zone).utcoffset()


def _now() -> datetime:
    return datetime.now(UTC)


@dataclass(frozen=True, slots=True)
class Pace:
    """When and how fast one PACS may be asked for images.

    Attributes:
        schedule: when.
        per_second: instances per second at most, over a few seconds; None does not slow down.
        clock: tells the time, with a time zone.
    """

    schedule: Schedule = field(default_factory=Schedule)
    per_second: float | None = None
    clock: Callable[[], datetime] = _now

    def __post_init__(self) -> None:
        if self.per_second is not None and not self.per_second > 0:
            raise SettingsRefused("instances per second must be above 0; leave it out for no limit")

    def is_open(self) -> bool:
        """Whether images may be asked for now."""
        return self.schedule.is_open(self.clock())

    def resumes(self) -> datetime | None:
        """When images may be asked for again; None where no window comes."""
        return self.schedule.opens(self.clock())

    def chunk(self, most: int) -> int:
        """How many instances to ask for at once, 1 to ``most``: about ten seconds' worth."""
        if self.per_second is None:
            return most
        return max(1, min(most, int(self.per_second * _CHUNK_SECONDS)))


class Meter:
    """Keeps a number of threads together below a rate; they pay after they have received.

    Args:
        per_second: the rate, None for none.
        monotonic: a clock in seconds that never goes back.
    """

    def __init__(self, per_second: float | None, monotonic: Callable[[], float]) -> None:
        self._per_second = per_second
        self._monotonic = monotonic
        self._mutex = threading.Lock()
        self._free_at = monotonic()

    def started(self) -> float:
        """The moment from which the next instances count; time before it is not saved up."""
        with self._mutex:
            self._free_at = max(self._free_at, self._monotonic())
            return self._free_at

    def pay(self, instances: int) -> float:
        """Count instances received; returns the seconds to wait before asking for more."""
        if self._per_second is None or instances <= 0:
            return 0.0
        with self._mutex:
            self._free_at += instances / self._per_second
            return max(0.0, self._free_at - self._monotonic())
