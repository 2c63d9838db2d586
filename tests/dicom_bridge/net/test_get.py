"""C-GET from real PACS: through the intake, within the context limit, reconciled and stoppable."""

from __future__ import annotations

import dataclasses
import threading
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom import dcmread
from pydicom.uid import JPEG2000Lossless, MRImageStorage, generate_uid

from dicom_bridge.errors import DataRefused
from dicom_bridge.net import (
    InstanceRef,
    MoveTarget,
    MoveWatch,
    Pace,
    PacsClient,
    PacsOptions,
    RetrievePolicy,
    Schedule,
    Traffic,
)
from dicom_bridge.net.get import COMMON_CLASSES, GetBounds, storage_contexts
from dicom_bridge.net.intake import OUT_OF_RESOURCES, Delivery, Intake, StoreRefused, Tally
from tests.dicom_bridge.net.conftest import NODE, Site
from tests.dicom_bridge.net.peers import scripted_scp
from tests.pacs import ONCE, QUICK, FolderInbox, SmallStudy, StudyForm, write_small_study

FAST = RetrievePolicy(rounds=3, settle_s=0.2, first_wait_s=0.05, longest_wait_s=0.2)


@pytest.fixture(params=["orthanc", "embedded"])
def site(request: pytest.FixtureRequest) -> Site:
    found: Site = request.getfixturevalue(request.param)
    return found


def getter(site: Site, **changes: object) -> PacsClient:
    options = PacsOptions(retrieve="get", **changes)  # type: ignore[arg-type]
    return PacsClient(
        site.pacs.remote, calling_ae=NODE, timeouts=QUICK, retry=ONCE, options=options
    )


def stored(site: Site, folder: Path, form: StudyForm) -> SmallStudy:
    study = write_small_study(folder, form)
    assert all(outcome.ok for outcome in site.client.send(study.paths))
    return study


@dataclasses.dataclass
class Box:
    """An inbox, the intake in front of it, and what may be changed on the way."""

    inbox: FolderInbox
    tally: Tally = dataclasses.field(default_factory=Tally)

    def take(self, delivery: Delivery) -> None:
        Intake(self.inbox, reserve_bytes=0, tally=self.tally).take(delivery)


@pytest.fixture
def box(tmp_path: Path) -> Box:
    return Box(FolderInbox(tmp_path / "inbox"))


@pytest.mark.integration
def test_a_study_comes_on_our_own_association(site: Site, box: Box, tmp_path: Path) -> None:
    study = stored(site, tmp_path / "source", StudyForm(series=2, slices=5))
    node = getter(site, bounds=GetBounds(memory_bytes=256, spool=tmp_path))
    listed = node.find_instances(study.study_uid)
    box.inbox.study_uids = {study.study_uid}
    report = node.retrieve(study.study_uid, box.inbox.uids, expected=listed, sink=box, policy=FAST)
    assert report.complete, report.words
    assert (report.rounds, box.tally.stored, box.tally.repeated) == (1, 10, 0)
    for source in study.paths:
        sent = dcmread(source)
        path = box.inbox.path_for(study.study_uid, sent.SeriesInstanceUID, sent.SOPInstanceUID)
        assert dcmread(path).PixelData == sent.PixelData


@pytest.mark.integration
def test_only_what_is_missing_is_asked_for_and_nothing_else_enters(
    site: Site, box: Box, tmp_path: Path
) -> None:
    study = stored(site, tmp_path / "source", StudyForm(slices=6))
    node = getter(site)
    listed = node.find_instances(study.study_uid)
    box.inbox.study_uids = set()
    report = node.retrieve(study.study_uid, box.inbox.uids, expected=listed, sink=box, policy=FAST)
    assert not report.complete
    assert box.inbox.files() == []
    box.inbox.study_uids = {study.study_uid}
    first = node.get(
        MoveTarget(study.study_uid, listed[0].SeriesInstanceUID, (listed[0].SOPInstanceUID,)),
        frozenset({listed[0].SOPClassUID}),
        box,
        MoveWatch(),
    )
    assert first.ok
    report = node.retrieve(study.study_uid, box.inbox.uids, expected=listed, sink=box, policy=FAST)
    assert report.complete
    assert (box.tally.stored, box.tally.repeated) == (6, 0)


@pytest.mark.integration
def test_compressed_images_come_as_they_are(orthanc: Site, box: Box, tmp_path: Path) -> None:
    study = write_small_study(tmp_path / "source", StudyForm(slices=1, side=64))
    ds = dcmread(study.paths[0])
    ds.compress(JPEG2000Lossless, generate_instance_uid=False)
    ds.save_as(study.paths[0])
    [outcome] = orthanc.client.send(study.paths)
    assert outcome.ok
    node = getter(orthanc)
    listed = node.find_instances(study.study_uid)
    report = node.retrieve(study.study_uid, box.inbox.uids, expected=listed, sink=box, policy=FAST)
    assert report.complete
    got = dcmread(box.inbox.files()[0])
    assert got.file_meta.TransferSyntaxUID == JPEG2000Lossless
    assert got.PixelData == ds.PixelData


@pytest.mark.integration
def test_a_class_that_the_pacs_does_not_tell_is_found_among_the_common_ones(
    orthanc: Site, box: Box, tmp_path: Path
) -> None:
    study = stored(orthanc, tmp_path / "source", StudyForm(slices=2))
    node = getter(orthanc)
    listed = [
        dataclasses.replace(ref, SOPClassUID="") for ref in node.find_instances(study.study_uid)
    ]
    report = node.retrieve(study.study_uid, box.inbox.uids, expected=listed, sink=box, policy=FAST)
    assert report.complete


@pytest.mark.integration
def test_a_window_that_closes_ends_it_and_the_next_one_brings_the_rest(
    orthanc: Site, box: Box, tmp_path: Path
) -> None:
    study = stored(orthanc, tmp_path / "source", StudyForm(series=3, slices=4))
    closed = threading.Event()

    class Door(Schedule):
        """Open until the first series is here."""

        def is_open(self, _moment: object) -> bool:
            return not closed.is_set()

    def received() -> set[str]:
        if len(box.inbox.uids()) >= 4:
            closed.set()
        return box.inbox.uids()

    node = getter(orthanc, traffic=Traffic(Pace(Door())))
    listed = node.find_instances(study.study_uid)
    first = node.retrieve(study.study_uid, received, expected=listed, sink=box, policy=FAST)
    assert 4 <= len(first.received) < 12
    assert "time window" in first.words
    before = box.tally.stored
    second = getter(orthanc).retrieve(
        study.study_uid, box.inbox.uids, expected=listed, sink=box, policy=FAST
    )
    assert second.complete
    assert (box.tally.stored, box.tally.repeated) == (12, 0)
    assert before < 12


@pytest.mark.integration
def test_a_full_disk_ends_it_and_says_so(site: Site, box: Box, tmp_path: Path) -> None:
    study = stored(site, tmp_path / "source", StudyForm(slices=5))

    class Full:
        def take(self, delivery: Delivery) -> None:
            raise StoreRefused(OUT_OF_RESOURCES, "less disk space is left than is reserved")

    node = getter(site)
    listed = node.find_instances(study.study_uid)
    with pytest.raises(DataRefused, match="disk space"):
        node.retrieve(study.study_uid, box.inbox.uids, expected=listed, sink=Full(), policy=FAST)


@pytest.mark.integration
def test_an_instance_larger_than_allowed_is_not_held(
    orthanc: Site, box: Box, tmp_path: Path
) -> None:
    study = stored(orthanc, tmp_path / "source", StudyForm(slices=1, side=128))
    node = getter(orthanc, bounds=GetBounds(memory_bytes=4096))
    listed = node.find_instances(study.study_uid)
    policy = dataclasses.replace(FAST, rounds=1)
    report = node.retrieve(
        study.study_uid, box.inbox.uids, expected=listed, sink=box, policy=policy
    )
    assert not report.complete
    assert box.inbox.files() == []


def test_a_pacs_without_c_get_is_said_so(box: Box) -> None:
    with scripted_scp(services=(str(MRImageStorage),)) as remote:
        node = PacsClient(
            remote,
            calling_ae=NODE,
            timeouts=QUICK,
            retry=ONCE,
            options=PacsOptions(retrieve="get"),
        )
        outcome = node.get(MoveTarget("1.2"), frozenset({str(MRImageStorage)}), box, MoveWatch())
        assert outcome.status == 0x0122
        assert "does not offer C-GET" in outcome.words


@given(st.integers(0, 127))
def test_contexts_fit_one_association_and_each_class_has_the_native_ones(count: int) -> None:
    classes = [f"1.2.840.10008.5.1.4.1.1.{n}" for n in range(1, count + 1)]
    contexts = storage_contexts(classes)
    wanted = set(classes) or set(COMMON_CLASSES)
    assert len(contexts) <= 127
    assert {str(context.abstract_syntax) for context in contexts} == wanted
    assert all(len(context.transfer_syntax) == 2 for context in contexts[: len(wanted)])


def test_too_many_classes_are_refused_in_words() -> None:
    with pytest.raises(DataRefused, match="retrieve = 'move'"):
        storage_contexts([f"1.2.{n}" for n in range(128)])


def test_a_reference_masks_itself() -> None:
    ref = InstanceRef("1.2", generate_uid(), "", "MR")
    assert ref.SOPInstanceUID not in repr(ref)
