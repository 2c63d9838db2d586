"""Storage commitment: Orthanc, which reports on an association of its own, and the other ways."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom.dataset import Dataset
from pydicom.uid import MRImageStorage, generate_uid
from pynetdicom import AE, build_role, evt
from pynetdicom.association import Association
from pynetdicom.dimse_primitives import N_EVENT_REPORT
from pynetdicom.dsutils import encode
from pynetdicom.pdu import P_DATA_TF

from dicom_bridge.errors import AssociationRejected, DataRefused, PeerFailure, SettingsRefused
from dicom_bridge.net import CommitmentReport, CommitmentRequest, PacsClient, PacsOptions, RemoteAE
from dicom_bridge.net.commitment import describe_failures, report_of, request_of
from dicom_bridge.net.stack import (
    STORAGE_COMMITMENT,
    STORAGE_COMMITMENT_INSTANCE,
    VERIFICATION,
)
from tests.dicom_bridge.net.peers import scripted_scp
from tests.pacs import (
    LOOPBACK,
    ONCE,
    QUICK,
    StudyForm,
    running_orthanc,
    write_small_study,
)
from tests.tools import free_port
from tests.waiting import wait_for

MR = str(MRImageStorage)
OPTIONS = PacsOptions(report_wait_s=5.0)


def request(*uids: str) -> CommitmentRequest:
    return CommitmentRequest(generate_uid(), "1.2", dict.fromkeys(uids, MR))


def client(remote: RemoteAE, options: PacsOptions = OPTIONS) -> PacsClient:
    return PacsClient(remote, calling_ae="NODE", timeouts=QUICK, retry=ONCE, options=options)


@contextmanager
def listening(port: int) -> Iterator[list[CommitmentReport]]:
    """An SCP of pynetdicom that takes reports, as the node's receiver does."""
    taken: list[CommitmentReport] = []

    def on_report(event: evt.Event) -> tuple[int, None]:
        taken.append(report_of(event.event_information))
        return 0x0000, None

    entity = AE(ae_title="NODE")
    entity.add_supported_context(STORAGE_COMMITMENT, scu_role=False, scp_role=True)
    entity.add_supported_context(VERIFICATION)
    handlers = [(evt.EVT_N_EVENT_REPORT, on_report)]
    server = entity.start_server((LOOPBACK, port), block=False, evt_handlers=handlers)
    try:
        yield taken
    finally:
        server.shutdown()


@pytest.mark.integration
def test_orthanc_reports_on_an_association_of_its_own(tmp_path: Path) -> None:
    port = free_port()
    study = write_small_study(tmp_path / "source", StudyForm(slices=2))
    peers = [RemoteAE("NODE", LOOPBACK, port)]
    with running_orthanc(tmp_path / "orthanc", peers) as pacs, listening(port) as reports:
        node = client(pacs.remote, PacsOptions(report_wait_s=0.2))
        sent = [outcome.SOPInstanceUID for outcome in node.send(study.paths)]
        asked = request(*sent, "1.2.3.4.5")
        assert node.commit(asked) is None
        report = wait_for(lambda: reports[:1], what="Orthanc's report")[0]
    assert report.transaction_uid == asked.transaction_uid
    assert report.committed == set(sent)
    assert dict(report.failed) == {"1.2.3.4.5": 0x0112}
    assert not report.complete
    assert describe_failures(report.failed).startswith("1 instances: storage commitment 0x0112")


Reporter = Callable[[Association, Dataset], None]


@contextmanager
def committing(reporter: Reporter, *, status: int = 0x0000) -> Iterator[RemoteAE]:
    """A PACS that answers an N-ACTION with ``status`` and then reports on the same association."""

    def on_action(event: evt.Event) -> tuple[int, None]:
        event.assoc.asked = event.action_information
        return status, None

    def on_sent(event: evt.Event) -> None:
        # The first data that goes out is the answer to the request; the report must follow it.
        asked = getattr(event.assoc, "asked", None)
        if asked is not None and isinstance(event.pdu, P_DATA_TF):
            event.assoc.asked = None
            reporter(event.assoc, asked)

    entity = AE(ae_title="COMMITS")
    entity.add_supported_context(STORAGE_COMMITMENT)
    handlers = [(evt.EVT_N_ACTION, on_action), (evt.EVT_PDU_SENT, on_sent)]
    server = entity.start_server((LOOPBACK, 0), block=False, evt_handlers=handlers)
    try:
        yield RemoteAE("COMMITS", LOOPBACK, server.server_address[1])
    finally:
        server.shutdown()


def report_to(asked: Dataset, transaction: str) -> Dataset:
    information = Dataset()
    information.TransactionUID = transaction
    information.ReferencedSOPSequence = asked.ReferencedSOPSequence
    return information


def send_report(association: Association, information: Dataset, answers: list[int]) -> None:
    """Send an N-EVENT-REPORT and take its answer, beside pynetdicom's own loop."""
    message = N_EVENT_REPORT()
    message.MessageID = 7
    message.AffectedSOPClassUID = STORAGE_COMMITMENT
    message.AffectedSOPInstanceUID = STORAGE_COMMITMENT_INSTANCE
    message.EventTypeID = 1
    context = association.accepted_contexts[0]
    syntax = context.transfer_syntax[0]
    encoded = encode(information, syntax.is_implicit_VR, syntax.is_little_endian)
    message.EventInformation = BytesIO(encoded or b"")
    association.dimse.send_msg(message, context.context_id)
    answers.append(1)


@pytest.mark.integration
def test_a_report_on_the_same_association_is_taken() -> None:
    answers: list[int] = []
    asked = request("1.2.1", "1.2.2")

    def reporter(association: Association, information: Dataset) -> None:
        send_report(association, report_to(information, asked.transaction_uid), answers)

    with committing(reporter) as remote:
        report = client(remote).commit(asked)
    assert report is not None
    assert report.complete
    assert report.committed == {"1.2.1", "1.2.2"}


@pytest.mark.integration
def test_a_report_to_another_request_is_not_ours() -> None:
    def reporter(association: Association, information: Dataset) -> None:
        send_report(association, report_to(information, "1.9.9"), [])

    with committing(reporter) as remote:
        assert client(remote, PacsOptions(report_wait_s=0.7)).commit(request("1.2.1")) is None


@pytest.mark.integration
def test_a_refusal_is_an_error_in_words() -> None:
    short = PacsOptions(report_wait_s=0.1)
    busy = committing(lambda *_: None, status=0x0213)
    words = r"N-ACTION 0x0213: .*try again later"
    with busy as remote, pytest.raises(PeerFailure, match=words) as caught:
        client(remote, short).commit(request("1.2.1"))
    assert caught.value.status == 0x0213
    with scripted_scp() as remote, pytest.raises(AssociationRejected, match="none of the services"):
        client(remote).commit(request("1.2.1"))


def test_requests_and_reports_are_bounded() -> None:
    for count in (0, 10_001):
        with pytest.raises(SettingsRefused, match="1 to 10000"):
            request_of(request(*(f"1.2.{n}" for n in range(count))))
    with pytest.raises(DataRefused, match="transaction"):
        report_of(Dataset())


uids = st.from_regex(r"1\.2\.[1-9][0-9]{0,5}", fullmatch=True)


@given(uids, st.sets(uids), st.dictionaries(uids, st.sampled_from([0x0110, 0x0112, 0x0213])))
def test_a_report_is_read_and_failure_outweighs_success(
    transaction: str, committed: set[str], failed: dict[str, int]
) -> None:
    information = Dataset()
    information.TransactionUID = transaction
    for keyword, found in (("ReferencedSOPSequence", committed), ("FailedSOPSequence", failed)):
        items = []
        for uid in found:
            item = Dataset()
            item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = MR, uid
            if keyword.startswith("Failed"):
                item.FailureReason = failed[uid]
            items.append(item)
        setattr(information, keyword, items)
    report = report_of(information)
    assert report.transaction_uid == transaction
    assert report.committed == committed - set(failed)
    assert dict(report.failed) == failed
    assert build_role(STORAGE_COMMITMENT, scu_role=True) is not None
