"""Where an association's objects go: what a conversation asks of the other side."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from pydicom.uid import UID

from dicom_bridge.errors import SettingsRefused
from dicom_bridge.net.guard import MessageBounds, SpillBuffer
from dicom_bridge.net.intake import PROCESSING_FAILURE, Delivery, Intake, StoreRefused
from dicom_bridge.net.model import CommitmentReport


@dataclass(frozen=True, slots=True, repr=False)
class StoreRequest:
    """A C-STORE request whose data set is about to come.

    Attributes:
        sop_class: AffectedSOPClassUID of the command.
        sop_uid: AffectedSOPInstanceUID of the command.
        syntax: the context's transfer syntax.
    """

    sop_class: str
    sop_uid: str
    syntax: UID


class Incoming(Protocol):
    """One data set on its way in; used by one thread."""

    def write(self, data: memoryview) -> None:
        """Take a fragment; it is only valid during the call.

        Raises:
            ConnectionAbortedError: the data set is larger than allowed.
        """
        ...

    def finish(self) -> None:
        """Make it durable and record it; success is answered when this returns.

        Raises:
            StoreRefused: it is not taken; the status is answered.
        """
        ...

    def discard(self) -> None:
        """The association ended before the data set did; also called after `finish`."""
        ...


class Sink(Protocol):
    """Takes what associations bring; called from several threads at once."""

    def open(self, request: StoreRequest) -> Incoming:
        """Begin one object.

        Raises:
            StoreRefused: it is not taken; its data set is read and dropped.
        """
        ...

    def report(self, report: CommitmentReport) -> None:
        """Keep a storage commitment report durably.

        Raises:
            StoreRefused: it is not taken.
        """
        ...


class IntakeSink:
    """A sink in the node's own process: everything goes through an `Intake`.

    Args:
        intake: where deliveries go.
        bounds: how much of a data set is held in memory, and where the rest goes.
    """

    def __init__(self, intake: Intake, bounds: MessageBounds) -> None:
        self._intake = intake
        self._bounds = bounds

    def open(self, request: StoreRequest) -> Incoming:
        """Begin one object; it is judged when it is complete."""
        return _Spilled(self._intake, self._bounds, request)

    def report(self, report: CommitmentReport) -> None:
        """Refuse: nothing here could keep it.

        Raises:
            StoreRefused: always.
        """
        del report
        raise StoreRefused(PROCESSING_FAILURE, "this receiver takes no reports")


class _Spilled:
    def __init__(self, intake: Intake, bounds: MessageBounds, request: StoreRequest) -> None:
        self._intake = intake
        self._request = request
        self._buffer = SpillBuffer(bounds)

    def write(self, data: memoryview) -> None:
        self._buffer.write(data)

    def finish(self) -> None:
        request = self._request
        self._intake.take(
            Delivery(self._buffer, request.syntax, request.sop_class, request.sop_uid)
        )

    def discard(self) -> None:
        self._buffer.close()


@dataclass(frozen=True, slots=True)
class Titles:
    """Who we are and who may call.

    Attributes:
        ours: our AE title.
        allowed: calling AE titles.
    """

    ours: str
    allowed: frozenset[str]

    def __post_init__(self) -> None:
        if not self.allowed:
            raise SettingsRefused("Storage SCP: the list of allowed calling AE titles is empty")
