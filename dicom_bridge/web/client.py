"""The node's side toward one DICOMweb server; the same requests as over DIMSE.

dicomweb-client makes the URLs and asks the queries. Retrieval and storing go past it: it decodes
what it receives and encodes it again, and holds whole messages in memory, where the bridge keeps
bytes as they were sent and bounds what it holds.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TypeVar

import requests
import structlog
from dicomweb_client.web import DICOMwebClient
from pydicom.errors import InvalidDicomError
from pydicom.filereader import read_file_meta_info

from dicom_bridge.errors import DataRefused, PeerError, PeerFailure, PeerUnreachable
from dicom_bridge.net.find import fits, merged
from dicom_bridge.net.get import GetBounds, Taker
from dicom_bridge.net.guard import SpillBuffer
from dicom_bridge.net.intake import OUT_OF_RESOURCES, StoreRefused
from dicom_bridge.net.model import (
    CommitmentReport,
    CommitmentRequest,
    EchoResult,
    InstanceRef,
    MoveOutcome,
    MoveWatch,
    RetryPolicy,
    SendOutcome,
    StudyCriteria,
    StudyMatch,
    Timeouts,
)
from dicom_bridge.net.move import MoveTarget
from dicom_bridge.net.retrieve import RetrievePolicy, RetrieveReport, Traffic, retrieve_study
from dicom_bridge.web import query, store
from dicom_bridge.web.multipart import DicomPart, boundary_of, parts
from dicom_bridge.web.session import WebAddress, describe_http, make_session, mapped, refusal

T = TypeVar("T")
_ACCEPT = 'multipart/related; type="application/dicom"; transfer-syntax=*'
_ACCEPT_PLAIN = 'multipart/related; type="application/dicom"'
_CHUNK = 1 << 16
_NOT_HELD = 0x0112
_CANCELLED = 0xFE00
_SOME_FAILED = 0xB000
_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class WebOptions:
    """How one server is spoken to, beyond its address.

    Attributes:
        traffic: when, how fast, and on how many connections.
        bounds: how much of one instance is held while it arrives.
        timeouts: how long to wait; ``response_s`` is between two bytes.
    """

    traffic: Traffic = field(default_factory=Traffic)
    bounds: GetBounds = field(default_factory=GetBounds)
    timeouts: Timeouts = field(default_factory=Timeouts)


class WebClient:
    """Requests to one DICOMweb server; satisfies :class:`dicom_bridge.archive.Archive`.

    Thread safety: one client may be used from any number of threads; each thread has a session of
    its own. At most ``options.traffic.associations`` requests run at once.

    Requests that fail for a passing reason (time-outs, HTTP 408, 429 and 5xx) are repeated as the
    retry policy says; retrieval repeats only what is missing.

    Raises:
        SettingsRefused: the authorities file cannot be used.
    """

    def __init__(
        self,
        address: WebAddress,
        *,
        retry: RetryPolicy | None = None,
        options: WebOptions | None = None,
    ) -> None:
        self._address = address
        self._options = options or WebOptions()
        self._retry = retry or RetryPolicy()
        self._local = threading.local()
        self._turn = threading.BoundedSemaphore(max(1, self._options.traffic.associations))
        make_session(address).close()

    @property
    def address(self) -> WebAddress:
        """The server."""
        return self._address

    def echo(self) -> EchoResult:
        """Ask for one study, as a sign of life.

        Raises:
            PeerError: nothing answers, or it refuses us; the text says why and what to do.
        """
        began = time.monotonic()
        with mapped(self._address):
            url = self._web().search_url
            headers = {"Accept": "application/dicom+json"}
            answer = self._web().session.get(
                url, params={"limit": "1"}, headers=headers, timeout=self._timeout
            )
            status = answer.status_code
            if not 200 <= status < 300:
                raise refusal(self._address, status)
            name = answer.headers.get("Server", "")[:64]
        return EchoResult(0, "QIDO-RS: success", time.monotonic() - began, name)

    def find_studies(self, criteria: StudyCriteria) -> list[StudyMatch]:
        """All studies that fit, each once, sorted by StudyInstanceUID.

        Raises:
            PeerError: the server cannot be asked, or will not say everything.
        """
        return self._ask(lambda: self._find_studies(criteria))

    def _find_studies(self, criteria: StudyCriteria) -> list[StudyMatch]:
        found: dict[str, StudyMatch] = {}
        fields = ["StudyDescription", "ModalitiesInStudy", "NumberOfStudyRelatedInstances"]
        for filters in query.study_filters(criteria):

            def ask(limit: int, offset: int, filters: dict[str, str] = filters) -> query.Page:
                """One page."""
                return self._web().client.search_for_studies(
                    fields=fields, limit=limit, offset=offset, search_filters=filters
                )

            for item in query.all_pages(ask, "StudyInstanceUID", str(self._address)):
                match = query.study_of(item)
                uid = match.StudyInstanceUID
                found[uid] = merged(found[uid], match) if uid in found else match
        here = bool(criteria.description) and not query.matched_there(criteria)
        return [
            found[uid]
            for uid in sorted(found)
            if fits(found[uid], criteria) and (found[uid].StudyDescription or not here)
        ]

    def find_instances(self, study_uid: str) -> list[InstanceRef]:
        """All instances of a study that the server lists, series by series.

        Raises:
            PeerError: the server cannot be asked, or will not say everything.
        """
        return self._ask(lambda: self._find_instances(study_uid))

    def _find_instances(self, study_uid: str) -> list[InstanceRef]:
        client = self._web().client
        series = query.all_pages(
            lambda limit, offset: client.search_for_series(
                study_uid,
                fields=["Modality", "NumberOfSeriesRelatedInstances"],
                limit=limit,
                offset=offset,
            ),
            "SeriesInstanceUID",
            str(self._address),
        )
        found: list[InstanceRef] = []
        for item in series:
            uid = query.text(item, "SeriesInstanceUID")
            count = query.number(item, "NumberOfSeriesRelatedInstances")
            listed = self._instances(study_uid, uid, count)
            if count is not None and count > len(listed):
                _log.warning("pacs_counts_differ", listed=len(listed), counted=count)
            modality = query.text(item, "Modality")
            found += [query.instance_of(instance, uid, modality) for instance in listed]
        return found

    def _instances(self, study_uid: str, series_uid: str, count: int | None) -> list[query.Item]:
        client = self._web().client
        return query.all_pages(
            lambda limit, offset: client.search_for_instances(
                study_uid, series_uid, fields=["SOPClassUID"], limit=limit, offset=offset
            ),
            "SOPInstanceUID",
            str(self._address),
            enough=count,
        )

    def retrieve(
        self,
        study_uid: str,
        received: Callable[[], set[str]],
        *,
        expected: Sequence[InstanceRef],
        sink: Taker,
        policy: RetrievePolicy | None = None,
    ) -> RetrieveReport:
        """Retrieve a study (WADO-RS); see :meth:`dicom_bridge.archive.Archive.retrieve`.

        Raises:
            PeerError: the server refuses for a reason that only a person can change.
            DataRefused: our own disk is full.
        """
        puller = _Puller(self, expected, sink)
        return retrieve_study(
            puller,
            received,
            study_uid,
            "",
            expected=expected,
            policy=policy,
            traffic=self._options.traffic,
        )

    def send(self, paths: Sequence[Path]) -> list[SendOutcome]:
        """Send files (STOW-RS); one outcome per path, in their order.

        Raises:
            PeerError: the server cannot be reached or refuses us before anything was sent.
        """
        outcomes: dict[Path, SendOutcome] = {}
        readable: dict[Path, str] = {}
        for path in paths:
            read = _uid_of(path)
            if isinstance(read, SendOutcome):
                outcomes[path] = read
            else:
                readable[path] = read
        for number, group in enumerate(store.groups(list(readable))):
            sent = {readable[path]: path for path in group}
            try:
                answers = self._ask(partial(self._post, sent))
            except PeerError as error:
                if not number:
                    raise
                answers = {u: SendOutcome(p, u, None, str(error)) for u, p in sent.items()}
            outcomes.update({outcome.path: outcome for outcome in answers.values()})
        return [outcomes[path] for path in paths]

    def _post(self, sent: dict[str, Path]) -> dict[str, SendOutcome]:
        body = store.Body(list(sent.values()))
        headers = {"Content-Type": body.content_type, "Accept": "application/dicom+json"}
        with mapped(self._address):
            answer = self._web().session.post(
                self._web().store_url, data=body, headers=headers, timeout=self._timeout
            )
            status = answer.status_code
            if not 200 <= status < 300 and status != 409:
                raise refusal(self._address, status)
            document = None
            if "json" in answer.headers.get("Content-Type", ""):
                document = answer.json()
        return store.outcomes_of(document, sent, describe_http(status))

    def commit(self, request: CommitmentRequest) -> CommitmentReport:
        """Whether the server lists the instances: DICOMweb knows no storage commitment.

        Raises:
            PeerError: the server cannot be asked.
        """
        listed = {ref.SOPInstanceUID for ref in self.find_instances(request.study_uid)}
        wanted = frozenset(request.sop_classes)
        failed = dict.fromkeys(sorted(wanted - listed), _NOT_HELD)
        return CommitmentReport(request.transaction_uid, wanted & listed, failed)

    def pull(self, target: MoveTarget, sink: Taker, watch: MoveWatch) -> MoveOutcome:
        """Retrieve a study, a series or one instance in one request.

        Raises:
            PeerUnreachable: the connection did not come about, broke, or took too long.
            PeerFailure: the server refuses this request.
            DataRefused: our own disk is full.
        """
        with self._turn:
            return self._pull(target, sink, watch)

    def _pull(self, target: MoveTarget, sink: Taker, watch: MoveWatch) -> MoveOutcome:
        deadline = time.monotonic() + self._options.timeouts.move_total_s
        completed = failed = 0
        words = "WADO-RS: success"
        with self._answer(self._web().retrieve_url(target)) as answer:
            boundary = boundary_of(answer.headers.get("Content-Type", ""))
            chunks = answer.iter_content(_CHUNK)
            for part in parts(_watched(chunks, watch, deadline), boundary, self._part):
                try:
                    sink.take(part.delivery())
                    completed += 1
                except DataRefused as refused:
                    if isinstance(refused, StoreRefused) and refused.status == OUT_OF_RESOURCES:
                        raise
                    failed += 1
                    words = f"WADO-RS: {refused}"
                    _log.warning("instance_refused", reason=str(refused))
                finally:
                    part.close()
        return MoveOutcome(_SOME_FAILED if failed else 0, completed, failed, 0, (), words)

    def _part(self) -> DicomPart:
        return DicomPart(SpillBuffer(self._options.bounds.message_bounds()))

    @contextmanager
    def _answer(self, url: str) -> Iterator[requests.Response]:
        """The answer to a retrieval, as a stream; in any transfer syntax, if the server can."""
        with mapped(self._address):
            session = self._web().session
            for accept in (_ACCEPT, _ACCEPT_PLAIN):
                answer = session.get(
                    url, headers={"Accept": accept}, stream=True, timeout=self._timeout
                )
                if answer.status_code not in (400, 406):
                    break
                answer.close()
            with answer:
                if not 200 <= answer.status_code < 300:
                    raise refusal(self._address, answer.status_code)
                yield answer

    @property
    def _timeout(self) -> tuple[float, float]:
        times = self._options.timeouts
        return times.connect_s, times.response_s

    def _web(self) -> _Web:
        web: _Web | None = getattr(self._local, "web", None)
        if web is None:
            web = self._local.web = _Web(self._address, self._timeout)
        return web

    def _ask(self, request: Callable[[], T]) -> T:
        def in_turn() -> T:
            with self._turn, mapped(self._address):
                return request()

        return self._retry.ask(in_turn)


class _Web:
    """One thread's session, and the URLs of a server."""

    def __init__(self, address: WebAddress, timeout: tuple[float, float]) -> None:
        self.session = make_session(address)
        self.client = DICOMwebClient(
            address.url,
            session=self.session,
            qido_url_prefix=address.qido_prefix or None,
            wado_url_prefix=address.wado_prefix or None,
            stow_url_prefix=address.stow_prefix or None,
            permissive_uid=True,
            timeout=timeout,
        )
        # The bridge repeats by its own policy, in one place for both transports.
        self.client.set_http_retry_params(retry=False)
        self._wado = _joined(address.url, address.wado_prefix)
        self.search_url = _joined(address.url, address.qido_prefix) + "/studies"
        self.store_url = _joined(address.url, address.stow_prefix) + "/studies"

    def retrieve_url(self, target: MoveTarget) -> str:
        """Where a study, a series or an instance is retrieved (PS3.18 Table 10.4.1-1)."""
        url = f"{self._wado}/studies/{target.study_uid}"
        if target.series_uid is not None:
            url += f"/series/{target.series_uid}"
        if target.sop_uids:
            url += f"/instances/{target.sop_uids[0]}"
        return url


def _joined(url: str, prefix: str) -> str:
    return f"{url}/{prefix.strip('/')}" if prefix.strip("/") else url


def _watched(chunks: Iterator[bytes], watch: MoveWatch, deadline: float) -> Iterator[bytes]:
    """The chunks of an answer, until it must be stopped or takes too long."""
    for chunk in chunks:
        if watch.stop is not None and watch.stop.is_set():
            raise PeerUnreachable("WADO-RS was stopped on request; what had arrived is kept")
        if time.monotonic() > deadline:
            raise PeerUnreachable("WADO-RS took too long; what had arrived is kept")
        yield chunk


def _uid_of(path: Path) -> str | SendOutcome:
    try:
        return str(read_file_meta_info(path).MediaStorageSOPInstanceUID)
    except (OSError, InvalidDicomError, AttributeError, ValueError, EOFError) as error:
        return SendOutcome(
            path, "", None, f"not sent: the file is no complete DICOM file ({type(error).__name__})"
        )


class _Puller:
    """WADO-RS in the place of C-MOVE: the same reconciliation, another service."""

    def __init__(self, client: WebClient, expected: Sequence[InstanceRef], sink: Taker) -> None:
        self._client = client
        self._expected = expected
        self._sink = sink

    def move_study(
        self,
        study_uid: str,
        destination_ae: str,  # noqa: ARG002 - WADO-RS has no destination
        *,
        watch: MoveWatch | None = None,
    ) -> MoveOutcome:
        """Retrieve a whole study."""
        return self._client.pull(MoveTarget(study_uid), self._sink, watch or MoveWatch())

    def move_series(
        self,
        study_uid: str,
        series_uid: str,
        destination_ae: str,
        *,
        watch: MoveWatch | None = None,
    ) -> MoveOutcome:
        """Retrieve one series; instance by instance where the server refuses series."""
        watch = watch or MoveWatch()
        try:
            return self._client.pull(MoveTarget(study_uid, series_uid), self._sink, watch)
        except PeerFailure as error:
            _log.warning("series_refused", cause=str(error))
        uids = [r.SOPInstanceUID for r in self._expected if r.SeriesInstanceUID == series_uid]
        target = MoveTarget(study_uid, series_uid, tuple(uids))
        return self.move_instances(target, destination_ae, watch=watch)

    def move_instances(
        self,
        target: MoveTarget,
        destination_ae: str,  # noqa: ARG002 - WADO-RS has no destination
        *,
        watch: MoveWatch | None = None,
    ) -> MoveOutcome:
        """Retrieve single instances, one request each."""
        watch = watch or MoveWatch()
        completed = failed = 0
        words = "WADO-RS: success"
        for uid in target.sop_uids:
            if watch.stop is not None and watch.stop.is_set():
                return MoveOutcome(_CANCELLED, completed, failed, 0, (), "WADO-RS: stopped")
            try:
                one = MoveTarget(target.study_uid, target.series_uid, (uid,))
                outcome = self._client.pull(one, self._sink, watch)
            except PeerFailure as error:
                outcome = MoveOutcome(_SOME_FAILED, 0, 1, 0, (), str(error))
            completed += outcome.completed
            failed += outcome.failed
            words = words if outcome.ok else outcome.words
        return MoveOutcome(_SOME_FAILED if failed else 0, completed, failed, 0, (), words)
