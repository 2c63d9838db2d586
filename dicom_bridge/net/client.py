"""The node's side toward one PACS as SCU: C-ECHO, C-FIND, C-MOVE, C-GET, C-STORE, commitment."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, TypeVar

from pynetdicom import build_context

from dicom_bridge.net import find, send
from dicom_bridge.net.association import Link, associate, lost
from dicom_bridge.net.commitment import request_commitment
from dicom_bridge.net.find import FindRules
from dicom_bridge.net.get import GetBounds, GetOrder, Taker, get
from dicom_bridge.net.model import (
    CommitmentReport,
    CommitmentRequest,
    EchoResult,
    InstanceRef,
    MoveOutcome,
    MoveWatch,
    OurAddress,
    RemoteAE,
    RetryPolicy,
    SendOutcome,
    StudyCriteria,
    StudyMatch,
    Timeouts,
    check_ae_title,
)
from dicom_bridge.net.move import MoveTarget, move
from dicom_bridge.net.retrieve import RetrievePolicy, RetrieveReport, Traffic, retrieve_study
from dicom_bridge.net.stack import VERIFICATION
from dicom_bridge.net.tls import TlsFiles, client_context
from dicom_bridge.net.words import describe_status

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class PacsOptions:
    """How one PACS is spoken to, beyond its address.

    Attributes:
        retrieve: ``move``: the PACS sends to our receiver; ``get``: on our own association.
        destination_ae: our receiver's AE title; the calling AE title where it is empty.
        traffic: when, how fast, and on how many associations.
        find: how its answers to queries are read.
        tls: our certificate and whom we believe; None speaks without TLS.
        ours: where our receiver listens, for the words that tell the PACS's administrator.
        bounds: how much of one instance is held while it arrives by C-GET.
        report_wait_s: how long an association waits for a storage commitment report.
    """

    retrieve: Literal["move", "get"] = "move"
    destination_ae: str = ""
    traffic: Traffic = field(default_factory=Traffic)
    find: FindRules = field(default_factory=FindRules)
    tls: TlsFiles | None = None
    ours: OurAddress | None = None
    bounds: GetBounds = field(default_factory=GetBounds)
    report_wait_s: float = 2.0


class PacsClient:
    """Requests to one PACS.

    Thread safety: one client may be used from any number of threads. Each request opens an
    association of its own and nothing else is shared. C-FIND, C-MOVE, C-GET and C-STORE wait for
    each other, because one association at a time is what a PACS expects of one AE; where its
    administrator allows more (``options.traffic.associations``), so many run at once. C-ECHO does
    not wait, so a check answers while a long C-MOVE runs.

    Requests that fail for a passing reason (see :func:`dicom_bridge.net.model.is_transient`) are
    repeated as the retry policy says; C-ECHO is not, and C-MOVE and C-GET are left to
    :func:`dicom_bridge.net.retrieve.retrieve_study`, which repeats only what is missing.

    Raises:
        SettingsRefused: an AE title is none, or the TLS files cannot be used.
    """

    def __init__(
        self,
        remote: RemoteAE,
        *,
        calling_ae: str,
        timeouts: Timeouts | None = None,
        retry: RetryPolicy | None = None,
        options: PacsOptions | None = None,
    ) -> None:
        self._options = options or PacsOptions()
        tls = self._options.tls
        self._link = Link(
            remote,
            check_ae_title(calling_ae, "our AE"),
            timeouts or Timeouts(),
            None if tls is None else client_context(tls),
            self._options.ours,
        )
        self._retry = retry or RetryPolicy()
        self._turn = threading.BoundedSemaphore(max(1, self._options.traffic.associations))

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
                raise lost(self._link, "C-ECHO", association)
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
        return self._ask(lambda: find.find_studies(self._link, criteria, self._options.find))

    def find_instances(self, study_uid: str) -> list[InstanceRef]:
        """All instances of a study that the PACS lists; optional attributes may be empty.

        Raises:
            PeerError: see :func:`dicom_bridge.net.find.find_instances`.
        """
        return self._ask(lambda: find.find_instances(self._link, study_uid, self._options.find))

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

    def retrieve(
        self,
        study_uid: str,
        received: Callable[[], set[str]],
        *,
        expected: Sequence[InstanceRef],
        sink: Taker,
        policy: RetrievePolicy | None = None,
    ) -> RetrieveReport:
        """Retrieve a study; see :meth:`dicom_bridge.archive.Archive.retrieve`.

        Raises:
            PeerError: see :func:`dicom_bridge.net.retrieve.retrieve_study`.
            DataRefused: our own disk is full (C-GET).
        """
        options = self._options
        return retrieve_study(
            self if options.retrieve == "move" else _Getter(self, expected, sink),
            received,
            study_uid,
            options.destination_ae or self._link.calling_ae,
            expected=expected,
            policy=policy,
            traffic=options.traffic,
        )

    def get(
        self, target: MoveTarget, classes: frozenset[str], sink: Taker, watch: MoveWatch
    ) -> MoveOutcome:
        """Get what ``target`` names on our own association (C-GET).

        Args:
            target: a study, a series or instances.
            classes: the SOP Class UIDs in it; empty proposes the common ones.
            sink: takes what arrives.
            watch: what restarts the idle time-out, and what stops it.

        Raises:
            PeerError: see :func:`dicom_bridge.net.get.get`; a failure status is no error here.
            DataRefused: our own disk is full.
        """
        with self._turn:
            return get(self._link, GetOrder(target, classes, sink, self._options.bounds), watch)

    def commit(self, request: CommitmentRequest) -> CommitmentReport | None:
        """Ask the PACS to take responsibility; None where it will report later.

        Raises:
            PeerError: see :func:`dicom_bridge.net.commitment.request_commitment`.
        """
        wait_s = self._options.report_wait_s
        return self._ask(lambda: request_commitment(self._link, request, wait_s=wait_s))

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
        def in_turn() -> T:
            with self._turn:
                return request()

        return self._retry.ask(in_turn)


class _Getter:
    """C-GET in the place of C-MOVE: the same reconciliation, another service."""

    def __init__(self, client: PacsClient, expected: Sequence[InstanceRef], sink: Taker) -> None:
        self._client = client
        self._expected = expected
        self._sink = sink

    def move_study(
        self,
        study_uid: str,
        destination_ae: str,  # noqa: ARG002 - C-GET has no destination
        *,
        watch: MoveWatch | None = None,
    ) -> MoveOutcome:
        """Get a whole study."""
        return self._get(MoveTarget(study_uid), self._expected, watch)

    def move_series(
        self,
        study_uid: str,
        series_uid: str,
        destination_ae: str,  # noqa: ARG002 - C-GET has no destination
        *,
        watch: MoveWatch | None = None,
    ) -> MoveOutcome:
        """Get one series."""
        refs = [ref for ref in self._expected if ref.SeriesInstanceUID == series_uid]
        return self._get(MoveTarget(study_uid, series_uid), refs, watch)

    def move_instances(
        self,
        target: MoveTarget,
        destination_ae: str,  # noqa: ARG002 - C-GET has no destination
        *,
        watch: MoveWatch | None = None,
    ) -> MoveOutcome:
        """Get single instances."""
        refs = [ref for ref in self._expected if ref.SOPInstanceUID in target.sop_uids]
        return self._get(target, refs, watch)

    def _get(
        self, target: MoveTarget, refs: Sequence[InstanceRef], watch: MoveWatch | None
    ) -> MoveOutcome:
        told = {ref.SOPClassUID for ref in refs}
        classes = frozenset() if "" in told else frozenset(told)
        return self._client.get(target, classes, self._sink, watch or MoveWatch())
