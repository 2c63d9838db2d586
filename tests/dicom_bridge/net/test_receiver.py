"""The Storage SCP, called by our own client and by raw associations."""

from __future__ import annotations

import hashlib
import io
import socket
import threading
import zlib
from pathlib import Path
from typing import Any

import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.filewriter import dcmwrite
from pydicom.uid import (
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    generate_uid,
)
from pynetdicom.transport import AssociationSocket
from structlog.testing import capture_logs

from dicom_bridge.errors import AssociationRejected, SettingsRefused
from dicom_bridge.net import PacsClient, Receiver, ReceiverSettings, RemoteAE, SendOutcome
from dicom_bridge.net.intake import NOT_UNDERSTOOD, StoreRefused, read_head
from tests.dicom_bridge.net.peers import cutting_relay
from tests.pacs import (
    LOOPBACK,
    ONCE,
    QUICK,
    FolderInbox,
    SmallStudy,
    StudyForm,
    running_receiver,
    write_small_study,
)
from tests.waiting import wait_for


def client(remote: RemoteAE, calling_ae: str = "STORESCU") -> PacsClient:
    return PacsClient(remote, calling_ae=calling_ae, timeouts=QUICK, retry=ONCE)


def statuses(outcomes: list[SendOutcome]) -> list[int | None]:
    return [outcome.status for outcome in outcomes]


@pytest.fixture
def study(tmp_path: Path) -> SmallStudy:
    return write_small_study(tmp_path / "source", StudyForm(slices=3))


@pytest.fixture
def inbox(tmp_path: Path) -> FolderInbox:
    return FolderInbox(tmp_path / "inbox")


def test_bytes_arrive_as_sent_and_are_recorded(study: SmallStudy, inbox: FolderInbox) -> None:
    with running_receiver(inbox) as (receiver, remote):
        outcomes = client(remote).send(study.paths)
        assert statuses(outcomes) == [0, 0, 0]
        assert receiver.counts.stored == 3
    assert len(inbox.files()) == 3
    for source in study.paths:
        sent = dcmread(source)
        stored = inbox.path_for(study.study_uid, sent.SeriesInstanceUID, sent.SOPInstanceUID)
        assert dcmread(stored) == sent
        assert (
            inbox.received[sent.SOPInstanceUID] == hashlib.sha256(stored.read_bytes()).hexdigest()
        )
        meta = dcmread(stored).file_meta
        assert meta.TransferSyntaxUID == ExplicitVRLittleEndian
        assert "SourceApplicationEntityTitle" not in meta


def test_a_large_data_set_passes_through_the_spool(tmp_path: Path, inbox: FolderInbox) -> None:
    study = write_small_study(tmp_path / "source", StudyForm(slices=1, side=600))
    with running_receiver(inbox, memory_bytes=10_000) as (_, remote):
        assert statuses(client(remote).send(study.paths)) == [0]
    [stored] = inbox.files()
    assert dcmread(stored).PixelData == dcmread(study.paths[0]).PixelData
    assert list((tmp_path / "spool").iterdir()) == []


def test_a_data_set_beyond_the_limit_ends_the_association(
    tmp_path: Path, inbox: FolderInbox
) -> None:
    study = write_small_study(tmp_path / "source", StudyForm(slices=1, side=600))
    with running_receiver(inbox, memory_bytes=10_000, instance_bytes=100_000) as (_, remote):
        [outcome] = client(remote).send(study.paths)
        assert outcome.status is None
        assert not outcome.ok
        assert client(remote).echo().ok
    assert inbox.files() == []


def test_what_nobody_asked_for_is_refused(study: SmallStudy, inbox: FolderInbox) -> None:
    inbox.study_uids = {"1.2.3"}
    with running_receiver(inbox) as (receiver, remote):
        outcomes = client(remote).send(study.paths)
        assert receiver.counts.refused == 3
    assert statuses(outcomes) == [0x0124] * 3
    assert inbox.files() == []


def test_only_listed_callers_and_our_own_title(study: SmallStudy, inbox: FolderInbox) -> None:
    with running_receiver(inbox) as (_, remote):
        with pytest.raises(AssociationRejected, match="does not know our AE title STRANGER"):
            client(remote, "STRANGER").echo()
        other = RemoteAE("OTHER", remote.host, remote.port)
        with pytest.raises(AssociationRejected, match="does not answer to the AE title OTHER"):
            client(other).send(study.paths)
        assert client(remote).echo().ok
    assert inbox.files() == []


def test_a_rejection_that_comes_early_is_a_rejection(
    inbox: FolderInbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The rejection is read, and the connection closed, before our own thread looks at it."""

    class LateEvent(threading.Event):
        owner: AssociationSocket

        def wait(self, timeout: float | None = None) -> bool:
            told = super().wait(timeout)
            wait_for(lambda: not self.owner._is_connected, what="the connection to be over")
            return told

    made = AssociationSocket.__init__

    def late(self: AssociationSocket, *args: Any, **kwargs: Any) -> None:  # noqa: ANN401
        made(self, *args, **kwargs)
        self._ready = LateEvent()
        self._ready.owner = self

    with running_receiver(inbox) as (_, remote):
        monkeypatch.setattr(AssociationSocket, "__init__", late)
        with pytest.raises(AssociationRejected, match="does not know our AE title STRANGER"):
            client(remote, "STRANGER").echo()


def test_the_same_again_is_success_and_other_content_is_kept_apart(
    study: SmallStudy, inbox: FolderInbox, tmp_path: Path
) -> None:
    [path] = study.paths[:1]
    ds = dcmread(path)
    ds.PatientName = "Someone^Else"
    altered = tmp_path / "altered.dcm"
    ds.save_as(altered)
    with running_receiver(inbox) as (receiver, remote):
        sender = client(remote)
        assert statuses(sender.send([path, path])) == [0, 0]
        [first] = inbox.files()
        before = first.read_bytes()
        assert statuses(sender.send([altered])) == [0x0110]
        assert receiver.counts.repeated == 1
        assert receiver.counts.conflicts == 1
    assert first.read_bytes() == before
    conflict = first.with_name(first.name + ".conflict")
    assert inbox.files() == [first, conflict]
    assert str(dcmread(conflict).PatientName) == "Someone^Else"
    assert inbox.conflicts == [ds.SOPInstanceUID]


def test_full_disk_is_answered_as_such(study: SmallStudy, inbox: FolderInbox) -> None:
    class FullInbox(FolderInbox):
        def path_for(self, study_uid: str, series_uid: str, sop_uid: str) -> Path:
            final = super().path_for(study_uid, series_uid, sop_uid)
            final.parent.mkdir(parents=True, exist_ok=True)
            final.with_name(final.name + ".part").symlink_to("/dev/full")
            return final

    full = FullInbox(inbox.folder)
    with running_receiver(full) as (_, remote):
        assert statuses(client(remote).send(study.paths[:1])) == [0xA700]
    assert full.received == {}
    assert inbox.files() == []


def test_reserved_space_is_not_used_up(study: SmallStudy, inbox: FolderInbox) -> None:
    with running_receiver(inbox, reserve_bytes=1 << 60) as (_, remote):
        [outcome] = client(remote).send(study.paths[:1])
    assert outcome.status == 0xA700
    assert "disk may be full" in outcome.words
    assert inbox.files() == []


def test_no_success_without_a_record_and_the_repeat_completes(
    study: SmallStudy, inbox: FolderInbox
) -> None:
    class Forgetful(FolderInbox):
        broken = True

        def recorded(self, study_uid: str, sop_uid: str, sha256: str) -> None:
            if self.broken:
                raise RuntimeError("the database is locked")
            super().recorded(study_uid, sop_uid, sha256)

    forgetful = Forgetful(inbox.folder)
    with running_receiver(forgetful) as (_, remote):
        assert statuses(client(remote).send(study.paths[:1])) == [0x0110]
        forgetful.broken = False
        assert statuses(client(remote).send(study.paths[:1])) == [0]
    assert len(forgetful.received) == 1
    assert len(forgetful.files()) == 1


def test_a_left_over_part_file_is_replaced(study: SmallStudy, inbox: FolderInbox) -> None:
    ds = dcmread(study.paths[0])
    final = inbox.path_for(study.study_uid, ds.SeriesInstanceUID, ds.SOPInstanceUID)
    final.parent.mkdir(parents=True)
    final.with_name(final.name + ".part").write_bytes(b"half a file, longer than nothing" * 9999)
    with running_receiver(inbox) as (_, remote):
        assert statuses(client(remote).send(study.paths[:1])) == [0]
    assert inbox.files() == [final]
    assert dcmread(final) == ds


def test_an_abort_in_mid_transfer_leaves_no_half_file(tmp_path: Path, inbox: FolderInbox) -> None:
    study = write_small_study(tmp_path / "source", StudyForm(slices=2, side=512))
    with (
        running_receiver(inbox, memory_bytes=100_000) as (_, remote),
        cutting_relay(remote.port, after=700_000) as relay,
    ):
        through = client(RemoteAE(remote.ae_title, LOOPBACK, relay.port))
        outcomes = through.send(study.paths)
        assert statuses(outcomes) == [0, None]
        wait_for(lambda: client(remote).echo().ok, what="the receiver to answer")
        assert len(inbox.files()) == 1
        assert list((tmp_path / "spool").iterdir()) == []
        assert statuses(through.send(study.paths)) == [0, 0]
    assert len(inbox.files()) == 2


def test_logs_and_answers_hold_no_identifier(study: SmallStudy, inbox: FolderInbox) -> None:
    inbox.study_uids = set()
    with capture_logs() as logs, running_receiver(inbox) as (_, remote):
        outcomes = client(remote).send(study.paths)
    told = repr(logs) + repr(outcomes)
    assert "instance_refused" in told
    for path in study.paths:
        ds = dcmread(path)
        for secret in (ds.SOPInstanceUID, ds.StudyInstanceUID, ds.PatientID, "Doe", str(path)):
            assert secret not in told


def test_a_port_in_use_is_said_in_words(inbox: FolderInbox) -> None:
    with socket.create_server((LOOPBACK, 0)) as taken:
        port = taken.getsockname()[1]
        receiver = Receiver(ReceiverSettings("NODE", LOOPBACK, port, frozenset({"A"})), inbox)
        with pytest.raises(SettingsRefused, match="cannot be bound"):
            receiver.start()
    receiver.stop()


def encoded(ds: Dataset, syntax: UID) -> bytes:
    buffer = io.BytesIO()
    dcmwrite(
        buffer,
        ds,
        implicit_vr=syntax == ImplicitVRLittleEndian,
        little_endian=syntax != ExplicitVRBigEndian,
        enforce_file_format=False,
    )
    content = buffer.getvalue()
    if syntax == DeflatedExplicitVRLittleEndian:
        packer = zlib.compressobj(wbits=-zlib.MAX_WBITS)
        content = packer.compress(content) + packer.flush()
    return content


def minimal(**values: str) -> Dataset:
    ds = Dataset()
    ds.SOPClassUID = "1.2.840.10008.5.1.4.1.1.4"
    ds.SOPInstanceUID, ds.StudyInstanceUID, ds.SeriesInstanceUID = "1.2.3", "1.2.4", "1.2.5"
    item = Dataset()
    item.ReferencedSOPInstanceUID = "9.9.9"
    item.StudyInstanceUID = "9.9.8"
    ds.ReferencedStudySequence = [item]
    ds.PatientName = "Doe^Jane"
    for keyword, value in values.items():
        setattr(ds, keyword, value)
    return ds


@pytest.mark.parametrize(
    "syntax",
    [
        ImplicitVRLittleEndian,
        ExplicitVRLittleEndian,
        ExplicitVRBigEndian,
        DeflatedExplicitVRLittleEndian,
    ],
)
def test_head_is_read_in_every_encoding_and_not_from_sequences(syntax: UID) -> None:
    head = read_head(encoded(minimal(), syntax), syntax)
    assert (head.sop_uid, head.study_uid, head.series_uid) == ("1.2.3", "1.2.4", "1.2.5")
    assert head.sop_class == "1.2.840.10008.5.1.4.1.1.4"


@pytest.mark.parametrize("keyword", ["SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID"])
@pytest.mark.parametrize("value", ["", "../../etc/x", "1.2/3", "1..2", "1" * 65])
def test_a_missing_or_hostile_uid_is_not_understood(keyword: str, value: str) -> None:
    # Written as long text under a UID's tag: the writer must not correct what is hostile.
    ds = minimal()
    ds[keyword].VR = "LO"
    ds[keyword]._value = value
    with pytest.raises(StoreRefused) as caught:
        read_head(encoded(ds, ImplicitVRLittleEndian), ImplicitVRLittleEndian)
    assert caught.value.status == NOT_UNDERSTOOD
    assert value == "" or value not in str(caught.value)


@pytest.mark.parametrize("junk", [b"", b"\0" * 64, b"\xff" * 64, b"not a data set at all....."])
@pytest.mark.parametrize("syntax", [ImplicitVRLittleEndian, DeflatedExplicitVRLittleEndian])
def test_bytes_that_are_no_data_set_are_refused(junk: bytes, syntax: UID) -> None:
    with pytest.raises(StoreRefused):
        read_head(junk, syntax)


def test_a_command_that_names_another_instance_is_refused(
    tmp_path: Path, inbox: FolderInbox
) -> None:
    study = write_small_study(tmp_path / "source", StudyForm(slices=1))
    ds = dcmread(study.paths[0])
    ds.file_meta.MediaStorageSOPInstanceUID = generate_uid()
    lying = tmp_path / "lying.dcm"
    dcmwrite(lying, ds)
    with running_receiver(inbox) as (_, remote):
        assert statuses(client(remote).send([lying])) == [0xA900]
    assert inbox.files() == []
