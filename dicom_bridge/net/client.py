"""The node's side toward one PACS: C-ECHO, C-FIND, C-MOVE and C-STORE as SCU."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

import structlog
from pynetdicom import build_context

from dicom_bridge.net import find, send
from dicom_bridge.net.association import Link, associate, lost
from dicom_bridge.net.model import (
    EchoResult,
    InstanceRef,
    MoveOutcome,
    MoveWatch,
    RemoteAE,
    RetryPolicy,
    SendOutcome,
    StudyCriteria,
    StudyMatch,
    Timeouts,
    check_ae_title,
)
from dicom_bridge.net.move import MoveTarget, move
from dicom_bridge.net.stack import VERIFICATION
from dicom_bridge.net.words import describe_status

T = TypeVar("T")
_log = structlog.get_logger(__name__)


class PacsClient:
    """Requests to one PACS.

    Thread safety: one client may be used from any number of threads. Each request opens an
    association of its own and nothing else is shared. C-FIND, C-MOVE and C-STORE wait for each
    other, because one association at a time is what a PACS expects of one AE; C-ECHO does not wait,
    so a check answers while a long C-MOVE runs.

    Requests that fail for a passing reason (see :func:`dicom_bridge.net.model.is_transient`) are
    repeated as the retry policy says; C-ECHO is not, and C-MOVE is left to
    :func:`dicom_bridge.net.retrieve.retrieve_study`, which repeats only what is missing.
    """

    def __init__(
        self,
        remote: RemoteAE,
        *,
        calling_ae: str,
        timeouts: Timeouts | None = None,
        retry: RetryPolicy | None = None,
    ) -> None:
        self._link = Link(remote, check_ae_title(calling_ae, "our AE"), timeouts or Timeouts())
        self._retry = retry or RetryPolicy()
        self._turn = threading.Lock()

    @property
    def remote(self) -> RemoteAE:
        """The PACS."""
        return self._link.remote

    def echo(self) -> EchoResult:
        """Ask the PACS for a sign of life (C-ECHO, PS3.7 9.1.5).

        Raises:
            PeerUnreachable: nothing there speaks DICOM.
            AssociationRejected: the PACS refuses us; the text says why and what to do.
        """
        began = time.monotonic()
        with associate(self._link, [build_context(VERIFICATION)]) as association:
            status = association.send_c_echo()
            if "Status" not in status:
                raise lost(self._link, "C-ECHO")
            code = int(status.Status)
            name = association.acceptor.implementation_version_name or ""
            return EchoResult(
                code, describe_status("C-ECHO", code), time.monotonic() - began, str(name)
            )

    def find_studies(self, criteria: StudyCriteria) -> list[StudyMatch]:
        """Studies that fit, each once, sorted by StudyInstanceUID.

        Raises:
            PeerError: see :func:`dicom_bridge.net.find.find_studies`.
        """
        return self._ask(lambda: find.find_studies(self._link, criteria))

    def find_instances(self, study_uid: str) -> list[InstanceRef]:
        """All instances of a study that the PACS lists; optional attributes may be empty.

        Raises:
            PeerError: see :func:`dicom_bridge.net.find.find_instances`.
        """
        return self._ask(lambda: find.find_instances(self._link, study_uid))

    def move_study(
        self, study_uid: str, destination_ae: str, *, watch: MoveWatch | None = None
    ) -> MoveOutcome:
        """Have a whole study sent to an AE that the PACS knows (C-MOVE, study level).

        Raises:
            PeerError: see :func:`dicom_bridge.net.move.move`; a failure status is no error here.
        """
        return self._move(MoveTarget(study_uid), destination_ae, watch)

    def move_series(
        self,
        study_uid: str,
        series_uid: str,
        destination_ae: str,
        *,
        watch: MoveWatch | None = None,
    ) -> MoveOutcome:
        """Have one series sent to an AE that the PACS knows (C-MOVE, series level).

        Raises:
            PeerError: see :func:`dicom_bridge.net.move.move`; a failure status is no error here.
        """
        return self._move(MoveTarget(study_uid, series_uid), destination_ae, watch)

    def move_instances(
        self, target: MoveTarget, destination_ae: str, *, watch: MoveWatch | None = None
    ) -> MoveOutcome:
        """Have single instances sent to an AE that the PACS knows (C-MOVE, image level).

        Raises:
            PeerError: see :func:`dicom_bridge.net.move.move`; a failure status is no error here.
        """
        return self._move(target, destination_ae, watch)

    def send(self, paths: Sequence[Path]) -> list[SendOutcome]:
        """Send files to the PACS (C-STORE); one outcome per path, in their order.

        Raises:
            PeerError: no association came about; see :func:`dicom_bridge.net.send.send_files`.
        """
        if not paths:
            return []
        return self._ask(lambda: send.send_files(self._link, paths))

    def _move(
        self, target: MoveTarget, destination_ae: str, watch: MoveWatch | None
    ) -> MoveOutcome:
        destination = check_ae_title(destination_ae, "move destination")
        with self._turn:
            return move(self._link, target, destination, watch or MoveWatch())

    def _ask(self, request: Callable[[], T]) -> T:
        for attempt in self._retry.retrying():
            with attempt:
                number = attempt.retry_state.attempt_number
                if number > 1:
                    _log.info("pacs_request_repeated", attempt=number)
                with self._turn:
                    return request()
        raise AssertionError("unreachable: tenacity returns or re-raises")
