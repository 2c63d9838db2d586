"""What site and coordinator tell each other beside tasks: clocks, authorities, certificates."""

from __future__ import annotations

import time
from typing import Final

import structlog

from federation.canonical import JSON
from federation.clock import Clock, parse_stamp
from federation.enrolment.renewal import Renewal
from federation.errors import EnrolmentRefused, RequestRefused
from federation.node.clock_check import clock_words
from federation.node.connection import CoordinatorConnection
from federation.node.site_port import SitePort
from federation.wire import federation_pb2 as pb

GREET_AGAIN_S: Final = 3600.0
"""How often the coordinator is greeted anew."""
_log = structlog.get_logger(__name__)


class Greeting:
    """Greets the coordinator, and keeps to what it says.

    Args:
        connection: to the coordinator; gets renewed certificates.
        site: its audit log.
        renewal: renews certificates and takes authorities; None does neither.
        clock: wall clock.

    Attributes:
        clock_words: what is said about clocks that differ, or "".
    """

    def __init__(
        self,
        connection: CoordinatorConnection,
        site: SitePort,
        renewal: Renewal | None,
        clock: Clock,
    ) -> None:
        self._connection = connection
        self._site = site
        self._renewal = renewal
        self._clock = clock
        self._greeted = 0.0
        self.clock_words = ""

    def greet(self) -> None:
        """Begin: agree on a version. Errors as :meth:`CoordinatorConnection.handshake`."""
        reply = self._exchange()
        detail: dict[str, JSON] = {
            "protocol": reply.protocol_version,
            "coordinator": reply.software_version,
            "project": reply.project,
            "certificate_ends": reply.certificate_ends,
        }
        self._site.record("federation.connected", detail)

    def keep_up(self) -> None:
        """Between two tasks: renew what ends, greet anew once an hour. Errors as :meth:`greet`."""
        self._renew()
        if time.monotonic() - self._greeted > GREET_AGAIN_S:
            self._exchange()

    def _exchange(self) -> pb.HandshakeReply:
        reply = self._connection.handshake()
        self._greeted = time.monotonic()
        self._compare_clocks(reply)
        self._take_authorities(reply)
        return reply

    def _compare_clocks(self, reply: pb.HandshakeReply) -> None:
        try:
            self.clock_words = clock_words(self._clock(), parse_stamp(reply.coordinator_time))
        except ValueError:
            return
        if self.clock_words:
            _log.warning("clock_differs", words=self.clock_words)

    def _take_authorities(self, reply: pb.HandshakeReply) -> None:
        """Rely on the authorities that the coordinator announces, and tell it so."""
        renewal, present = self._renewal, self._connection.identity
        if renewal is None:
            return
        try:
            changed = renewal.take_authorities(present, reply.authorities_pem)
        except (EnrolmentRefused, OSError) as error:
            _log.warning("authorities_not_taken", cause=type(error).__name__)
            self._site.record("authorities.refused", {"words": str(error)})
            return
        if changed is not None:
            self._connection.use(changed)
            self._connection.handshake()
            detail: dict[str, JSON] = {"authorities": list(changed.authorities)}
            self._site.record("authorities.changed", detail)

    def _renew(self) -> None:
        """Renew the certificate when its time has come; a failure waits for the next try."""
        renewal, present = self._renewal, self._connection.identity
        if renewal is None or not renewal.due(present):
            return
        try:
            renewed = renewal.renew(present, self._connection.renew)
        except (RequestRefused, EnrolmentRefused, OSError) as error:
            _log.warning("certificate_not_renewed", cause=type(error).__name__)
            self._site.record("certificate.not_renewed", {"words": str(error)})
            return
        self._connection.use(renewed)
        self.greet()
        detail: dict[str, JSON] = {"serial": renewed.serial, "ends": renewed.certificate_ends}
        self._site.record("certificate.renewed", detail)
