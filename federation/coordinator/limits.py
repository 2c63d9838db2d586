"""The audit's share of refused connections: every cause is named, a flood is counted."""

from __future__ import annotations

import threading
from typing import Final

from federation.audit_chain import AuditChain
from federation.canonical import JSON
from federation.clock import Clock

PER_MINUTE: Final = 30
"""Refusals of one cause that are written one by one in a minute; the rest is counted."""


class RefusalLog:
    """Writes refused connections to the audit log.

    Args:
        audit: the log.
        clock: wall clock.
    """

    def __init__(self, audit: AuditChain, clock: Clock) -> None:
        self._audit = audit
        self._clock = clock
        self._lock = threading.Lock()
        self._minute: dict[str, tuple[int, int]] = {}

    def refused(self, cause: str, address: str) -> None:
        """Note one refusal.

        Args:
            cause: why, in closed words.
            address: the caller's network address.
        """
        minute = int(self._clock().timestamp() // 60)
        with self._lock:
            since, count = self._minute.get(cause, (minute, 0))
            if since != minute:
                if count > PER_MINUTE:
                    more: dict[str, JSON] = {"cause": cause, "uncounted": count - PER_MINUTE}
                    self._audit.append("stranger", "connection.refused.more", "listener", more)
                count = 0
            self._minute[cause] = (minute, count + 1)
        if count < PER_MINUTE:
            detail: dict[str, JSON] = {"cause": cause, "address": address}
            self._audit.append("stranger", "connection.refused", "listener", detail)
