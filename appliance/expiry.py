"""What ends soon at this site, for status, log and `node check`."""

from __future__ import annotations

import threading
from datetime import datetime, timedelta
from pathlib import Path

from appliance.settings import Settings
from federation.clock import Clock
from federation.enrolment.client import site_terms
from federation.enrolment.expiry import DailyLog, Notice, Thresholds, notices

LOOK_EVERY = timedelta(minutes=1)


def thresholds_of(settings: Settings) -> Thresholds:
    """When the node warns."""
    section = settings.federation
    return Thresholds(
        certificate=timedelta(days=section.certificate_warning_days),
        authority=timedelta(days=section.authority_warning_days),
    )


class ExpiryWatch:
    """Looks at the site's certificates and says what ends soon, or where the clock is wrong.

    Args:
        keys: the node's keys.
        settings: of the node.
        clock: wall clock.
    """

    def __init__(self, keys: Path, settings: Settings, clock: Clock) -> None:
        self._keys = keys
        self._thresholds = thresholds_of(settings)
        self._clock = clock
        self._log = DailyLog(clock)
        self._lock = threading.Lock()
        self._looked: datetime | None = None

    def notices(self) -> list[Notice]:
        """What ends soon, as the files say now."""
        return notices(site_terms(self._keys), self._clock(), self._thresholds)

    def look(self) -> None:
        """Log what ends soon, once a day; may be called as often as one likes."""
        now = self._clock()
        with self._lock:
            if self._looked is not None and abs(now - self._looked) < LOOK_EVERY:
                return
            self._looked = now
        self._log.tell(self.notices())
