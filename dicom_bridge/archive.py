"""What the appliance asks of a PACS, whatever the transport: DIMSE or DICOMweb.

:class:`dicom_bridge.net.client.PacsClient` and :class:`dicom_bridge.web.client.WebClient` are the
two that exist. Nothing above this line needs to know which of them it holds.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

from dicom_bridge.net.intake import Delivery
from dicom_bridge.net.model import (
    CommitmentReport,
    CommitmentRequest,
    EchoResult,
    InstanceRef,
    SendOutcome,
    StudyCriteria,
    StudyMatch,
)
from dicom_bridge.net.retrieve import RetrievePolicy, RetrieveReport


class Sink(Protocol):
    """Where instances go that arrive on a connection of ours (C-GET, WADO-RS)."""

    def take(self, delivery: Delivery) -> None:
        """Store one instance durably, as :meth:`dicom_bridge.net.intake.Intake.take` does.

        Raises:
            StoreRefused: it is not taken; nothing of it remains.
        """
        ...


class Archive(Protocol):
    """A PACS; one object may be used from any number of threads."""

    def echo(self) -> EchoResult:
        """Ask for a sign of life.

        Raises:
            PeerError: nothing answers, or it refuses us; the text says why and what to do.
        """
        ...

    def find_studies(self, criteria: StudyCriteria) -> list[StudyMatch]:
        """All studies that fit, each once, sorted by StudyInstanceUID, whatever the PACS's limits.

        Raises:
            PeerError: the PACS cannot be asked, or will not say everything.
        """
        ...

    def find_instances(self, study_uid: str) -> list[InstanceRef]:
        """All instances of a study that the PACS lists; optional attributes may be empty.

        Raises:
            PeerError: the PACS cannot be asked, or will not say everything.
        """
        ...

    def retrieve(
        self,
        study_uid: str,
        received: Callable[[], set[str]],
        *,
        expected: Sequence[InstanceRef],
        sink: Sink,
        policy: RetrievePolicy | None = None,
    ) -> RetrieveReport:
        """Retrieve a study until what is expected is here, within pace and windows of this PACS.

        Args:
            study_uid: the study.
            received: SOP Instance UIDs of the study that are durably stored so far; asked often.
            expected: what the PACS says exists and is wanted.
            sink: takes what arrives on our own connection; with C-MOVE the receiver takes it.
            policy: how stubbornly.

        Returns:
            What came of it; ``resume_at`` is set where a window closed before the end.

        Raises:
            PeerError: the PACS refuses for a reason that only a person can change.
        """
        ...

    def send(self, paths: Sequence[Path]) -> list[SendOutcome]:
        """Send files; one outcome per path, in their order.

        Raises:
            PeerError: no connection came about.
        """
        ...

    def commit(self, request: CommitmentRequest) -> CommitmentReport | None:
        """Ask the PACS to take responsibility for instances that it was sent.

        Returns:
            Its report, or None where it took the request and will report later on an association
            that it opens to our receiver.

        Raises:
            PeerError: it cannot be asked, or refuses the request.
        """
        ...
