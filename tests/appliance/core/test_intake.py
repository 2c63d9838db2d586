"""Intake: what is new, late, ours, missing or in conflict; a kill at any instant loses nothing."""

from __future__ import annotations

import hashlib
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import cast

import pytest

from appliance.archives import client_for
from appliance.demo.pacs import OrthancPacs
from appliance.errors import NotAllowed, NotFound
from appliance.home import Home, create_keys
from appliance.identity import Identities
from appliance.intake import Intake, IntakeParts, Spool
from appliance.pipeline.states import ARROWS, Event, Point, Stage, StageEvent, State, kill_points
from appliance.pipeline.work import RECEIVED
from appliance.settings import Settings, settings_from
from appliance.store import NodeState, Outcome, ResultRow, ResultState
from dicom_bridge.errors import PeerFailure, PeerUnreachable
from dicom_bridge.net import PacsClient, Receiver, ReceiverSettings, RemoteAE
from dicom_bridge.net.model import InstanceRef, MoveOutcome, MoveWatch, StudyCriteria, StudyMatch
from dicom_bridge.net.move import MoveTarget
from dicom_bridge.net.retrieve import RetrievePolicy, RetrieveReport, retrieve_study
from tests.appliance.core.values import MATCH, Clock, held
from tests.pacs import StudyForm, running_orthanc, write_small_study
from tests.tools import free_port
from tests.waiting import wait_for

INTAKE = (Stage.REQUEST, Stage.RECEIVE)
RUNNING = threading.Event()
QUICK = RetrievePolicy(rounds=2, settle_s=0.0, first_wait_s=0.0, sleep=lambda _seconds: None)


def ref(number: int, modality: str = "MR") -> InstanceRef:
    return InstanceRef(f"1.2.3.{modality == 'SEG'}", f"1.2.3.4.{number}", "1.2", modality)


class Peer:
    """A PACS whose C-MOVE stores into the spool as the receiver does."""

    def __init__(self) -> None:
        self.studies = [MATCH]
        self.instances = [ref(1), ref(2), ref(3, "SEG"), ref(4, "PR")]
        self.withheld: set[str] = set()
        self.error: Exception | None = None
        self.spool: Spool | None = None
        self.content = b"content"
        self.moves = 0
        self.resume_at: datetime | None = None

    def find_studies(self, criteria: StudyCriteria) -> list[StudyMatch]:
        if self.error is not None:
            raise self.error
        return self.studies

    def find_instances(self, study_uid: str) -> list[InstanceRef]:
        if self.error is not None:
            raise self.error
        return self.instances

    def move_series(
        self, study_uid: str, series_uid: str, destination: str, *, watch: MoveWatch | None = None
    ) -> MoveOutcome:
        self.moves += 1
        sent = [r for r in self.instances if r.SeriesInstanceUID == series_uid]
        return self.store(study_uid, [r for r in sent if r.SOPInstanceUID not in self.withheld])

    def move_instances(
        self, target: MoveTarget, destination: str, *, watch: MoveWatch | None = None
    ) -> MoveOutcome:
        wanted = set(target.sop_uids) - self.withheld
        return self.store(
            target.study_uid, [r for r in self.instances if r.SOPInstanceUID in wanted]
        )

    def retrieve(
        self,
        study_uid: str,
        received: Callable[[], set[str]],
        *,
        expected: Sequence[InstanceRef],
        sink: object,
        policy: RetrievePolicy,
    ) -> RetrieveReport:
        report = retrieve_study(
            cast("PacsClient", self), received, study_uid, "NODE", expected=expected, policy=policy
        )
        return replace(report, resume_at=self.resume_at if not report.complete else None)

    def store(self, study_uid: str, refs: Sequence[InstanceRef]) -> MoveOutcome:
        assert self.spool is not None
        for r in refs:
            if self.spool.wanted(study_uid, r.SOPInstanceUID):
                path = self.spool.path_for(study_uid, r.SeriesInstanceUID, r.SOPInstanceUID)
                path.write_bytes(self.content)
                digest = hashlib.sha256(self.content).hexdigest()
                self.spool.recorded(study_uid, r.SOPInstanceUID, digest)
        return MoveOutcome(0, len(refs), 0, 0, (), "done")


class Bench:
    """An intake over the stand-in PACS."""

    def __init__(self, root: Path) -> None:
        self.home = Home(root, "p")
        self.home.create()
        self.identities = Identities(self.home, create_keys(self.home))
        self.clock = Clock()
        self.state = NodeState(self.home.state_file, clock=self.clock)
        self.spool = Spool(self.state, self.home, self.identities)
        self.peer = Peer()
        self.peer.spool = self.spool
        self.received = 0
        self.settings = settings_from(
            {
                "node": {"site": "a", "project": "p"},
                "pacs": [{"name": "main", "ae_title": "PACS", "host": "h", "port": 1}],
                "retry": {"attempts": 2, "first_wait_s": 10},
            }
        )
        self.intake = Intake(
            IntakeParts(
                state=self.state,
                home=self.home,
                settings=self.settings,
                identities=self.identities,
                spool=self.spool,
                client=lambda _pacs: cast("PacsClient", self.peer),
                on_received=self.count,
                policy=QUICK,
            )
        )
        self.key = self.identities.study_key(MATCH.StudyInstanceUID)

    def count(self) -> None:
        self.received += 1

    def fetch(self) -> None:
        while self.intake.fetch_next(RUNNING):
            pass

    def pull(self) -> None:
        assert self.intake.poll_all()
        self.fetch()


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    made = Bench(tmp_path)
    yield made
    made.state.close()


def test_a_new_study_is_found_fetched_and_reconciled(bench: Bench) -> None:
    bench.pull()
    row = bench.state.studies.get(bench.key)
    assert row.state is State.RECEIVED
    assert (row.expected, row.received) == (3, 3), "the presentation state stays in the PACS"
    files = list((bench.home.study(bench.key) / RECEIVED).rglob("*.dcm"))
    assert len(files) == 3
    assert not [path for path in files if "1.2.3" in str(path.relative_to(bench.home.root))]
    assert bench.received == 1
    assert bench.intake.polled
    original = bench.identities.original(bench.key)
    assert original.study == MATCH
    assert "DOE" not in repr(original)


def test_a_second_query_adds_nothing(bench: Bench) -> None:
    bench.pull()
    pulled = bench.intake.poll(bench.settings.pacs[0])
    assert (pulled.matched, pulled.added, pulled.late) == (1, 0, 0)


def test_only_the_asked_for_studies(bench: Bench) -> None:
    assert bench.intake.poll(bench.settings.pacs[0], ["st000000000000"]).added == 0
    assert bench.intake.poll(bench.settings.pacs[0], [bench.key]).added == 1
    with pytest.raises(NotFound):
        bench.intake.pacs("other")


def test_late_instances_are_noticed_and_our_own_results_are_not(bench: Bench) -> None:
    bench.pull()
    result: ResultRow = held("rs1", bench.key)
    bench.state.results.add(result)
    ours = bench.identities.result_uid(bench.key, result.model_id, "sop")
    bench.peer.instances.append(InstanceRef("1.2.9", ours, "1.2", "SEG"))
    bench.peer.studies = [replace(MATCH, instances=5)]
    assert bench.intake.poll(bench.settings.pacs[0]).late == 0
    bench.peer.instances.append(ref(9))
    bench.peer.studies = [replace(MATCH, instances=6)]
    assert bench.intake.poll(bench.settings.pacs[0]).late == 1
    assert bench.state.studies.get(bench.key).late == 1
    assert bench.state.activity.select()[0].action == "study.late"
    assert bench.state.results.get("rs1").state is ResultState.HELD


def make_ready(bench: Bench) -> None:
    """Finish the stages that follow the fetch."""
    for arrow in ARROWS:
        claim = bench.state.studies.claim_study(bench.key, arrow.stage)
        if claim is not None:
            bench.state.studies.finish(claim, Outcome(), seconds=0.0)
    assert bench.state.studies.get(bench.key).state is State.READY


def test_late_instances_wait_until_the_study_rests(bench: Bench) -> None:
    bench.pull()
    bench.peer.instances.append(ref(9))
    bench.peer.studies = [replace(MATCH, instances=5)]
    pulled = bench.intake.poll(bench.settings.pacs[0])
    assert (pulled.late, pulled.reopened) == (1, 0), "it is on its way"
    make_ready(bench)
    pulled = bench.intake.poll(bench.settings.pacs[0])
    assert (pulled.late, pulled.reopened) == (1, 1), "the same count, noted before"
    row = bench.state.studies.get(bench.key)
    assert (row.state, row.version) == (State.FOUND, 2)
    bench.fetch()
    assert bench.state.studies.get(bench.key).received == 4
    assert bench.intake.poll(bench.settings.pacs[0]).late == 0


def test_what_was_never_received_is_not_late(bench: Bench) -> None:
    bench.peer.withheld = {ref(2).SOPInstanceUID}
    bench.pull()
    assert bench.state.studies.get(bench.key).state is State.FAILED
    pulled = bench.intake.poll(bench.settings.pacs[0])
    assert (pulled.late, pulled.reopened) == (0, 0), "the fetch itself asks again"


def test_a_pacs_that_gives_no_counts_is_listed_once_a_day(bench: Bench) -> None:
    bench.peer.studies = [replace(MATCH, instances=None)]
    bench.pull()
    make_ready(bench)
    assert bench.intake.poll(bench.settings.pacs[0]).late == 0
    bench.peer.instances.append(ref(9))
    assert bench.intake.poll(bench.settings.pacs[0]).late == 0
    bench.clock.now += timedelta(hours=25)
    assert bench.intake.poll(bench.settings.pacs[0]).reopened == 1


def test_a_withdrawn_patient_is_neither_taken_nor_received(bench: Bench) -> None:
    bench.intake.poll(bench.settings.pacs[0])
    bench.identities.forget_patient([bench.key])
    pulled = bench.intake.poll(bench.settings.pacs[0])
    assert (pulled.matched, pulled.added, pulled.refused) == (1, 0, 1)
    pulled = bench.intake.poll(bench.settings.pacs[0], ["st000000000000"])
    assert pulled.refused == 0, "only what was asked for is counted"
    with pytest.raises(NotAllowed, match="withdrawn"):
        bench.spool.expect(bench.key, frozenset(), study_uid=MATCH.StudyInstanceUID)


def test_missing_instances_are_asked_for_again_then_quarantined(bench: Bench) -> None:
    bench.peer.withheld = {ref(2).SOPInstanceUID}
    bench.pull()
    row = bench.state.studies.get(bench.key)
    assert (row.state, row.stage) == (State.FAILED, Stage.RECEIVE)
    assert "2 of 3" in row.reason
    bench.clock.now += timedelta(minutes=1)
    bench.fetch()
    row = bench.state.studies.get(bench.key)
    assert row.state is State.QUARANTINED
    bench.peer.withheld = set()
    bench.state.studies.apply(bench.key, Event.RETRY)
    bench.peer.instances = [r for r in bench.peer.instances if r != ref(2)]
    bench.fetch()
    assert bench.state.studies.get(bench.key).state is State.RECEIVED


@pytest.mark.parametrize(
    "error", [PeerUnreachable("away"), PeerFailure("unknown AE", status=0xA801)]
)
def test_a_pacs_that_fails_never_costs_a_study(bench: Bench, error: Exception) -> None:
    assert bench.intake.poll_all()
    bench.peer.error = error
    assert not bench.intake.poll_all()
    assert "main" in bench.intake.problem
    for _ in range(4):
        bench.fetch()
        bench.clock.now += timedelta(hours=2)
    assert bench.state.studies.get(bench.key).state is State.FAILED
    bench.peer.error = None
    bench.pull()
    assert bench.state.studies.get(bench.key).state is State.RECEIVED
    assert bench.intake.problem == ""


def test_a_closed_window_costs_no_attempt_and_what_has_come_is_kept(bench: Bench) -> None:
    bench.peer.withheld = {ref(2).SOPInstanceUID}
    bench.intake.poll_all()
    for _ in range(4):
        bench.peer.resume_at = bench.clock.now + timedelta(hours=5)
        bench.fetch()
        row = bench.state.studies.get(bench.key)
        assert (row.state, row.received, row.attempt) == (State.REQUESTED, 2, 0)
        moves = bench.peer.moves
        bench.clock.now += timedelta(hours=4)
        bench.fetch()
        assert bench.peer.moves == moves, "nothing is asked for before the window opens"
        bench.clock.now += timedelta(hours=2)
    bench.peer.withheld = set()
    bench.fetch()
    assert bench.state.studies.get(bench.key).state is State.RECEIVED


def test_a_study_without_wanted_instances_is_quarantined(bench: Bench) -> None:
    bench.peer.instances = [ref(1, "PR")]
    bench.pull()
    row = bench.state.studies.get(bench.key)
    assert row.state is State.QUARANTINED
    assert "no instance" in row.reason


def test_other_content_under_the_same_uid_is_quarantined(bench: Bench) -> None:
    bench.intake.poll_all()
    bench.state.instances.record(bench.key, "x", "a")
    bench.spool.conflicting(MATCH.StudyInstanceUID, ref(1).SOPInstanceUID)
    bench.state.instances.forget(bench.key)
    name = bench.identities.instance_key(ref(1).SOPInstanceUID)
    path = bench.spool.path_for(MATCH.StudyInstanceUID, "1.2.3.0", ref(1).SOPInstanceUID)
    path.write_bytes(b"first")
    bench.state.instances.record(bench.key, name, "0" * 64)
    bench.spool.conflicting(MATCH.StudyInstanceUID, ref(1).SOPInstanceUID)
    bench.fetch()
    row = bench.state.studies.get(bench.key)
    assert row.state is State.QUARANTINED
    assert "different content" in row.reason


def test_nothing_is_wanted_outside_a_fetch(bench: Bench) -> None:
    bench.pull()
    assert not bench.spool.wanted(MATCH.StudyInstanceUID, ref(1).SOPInstanceUID)
    assert not bench.spool.wanted("9.9", ref(1).SOPInstanceUID)


def test_a_reopened_study_is_fetched_afresh(bench: Bench) -> None:
    bench.pull()
    claim = bench.state.studies.claim((Stage.CLASSIFY,))
    assert claim is not None
    bench.state.studies.stop(claim, Event.REFUSE, "x")
    bench.state.studies.apply(bench.key, Event.REOPEN)
    for path in (bench.home.study(bench.key) / RECEIVED).rglob("*.dcm"):
        path.unlink()
    bench.fetch()
    row = bench.state.studies.get(bench.key)
    assert (row.state, row.received) == (State.RECEIVED, 3)


def test_a_stop_leaves_the_fetch_for_the_next_start(bench: Bench) -> None:
    bench.intake.poll_all()
    stop = threading.Event()
    bench.intake.fetch_next(stop)
    stop.set()
    bench.intake.fetch_next(stop)
    assert bench.state.studies.get(bench.key).claim is not None
    bench.state.studies.recover()
    bench.fetch()
    assert bench.state.studies.get(bench.key).state is State.RECEIVED


def test_the_loop_polls_and_fetches_until_it_is_stopped(bench: Bench) -> None:
    stop = threading.Event()
    thread = threading.Thread(target=bench.intake.run, args=(stop,))
    thread.start()
    wait_for(lambda: bench.state.studies.count(State.RECEIVED) == 1, what="the study", seconds=20)
    stop.set()
    bench.intake.wake()
    thread.join(10)
    assert not thread.is_alive()


def real_settings(pacs: RemoteAE, port: int) -> Settings:
    entry = {"name": "main", "ae_title": pacs.ae_title, "host": pacs.host, "port": pacs.port}
    return settings_from(
        {
            "node": {"site": "a", "project": "p"},
            "dicom": {"ae_title": "NODE_K", "port": port},
            "pacs": [entry],
            "intake": {"instance_modalities": []},
        }
    )


def fetch_all(root: Path, settings: Settings, observer: Callable[[StageEvent], None]) -> None:
    """What a node does until its studies are received."""
    home = Home(root, "p")
    home.create()
    identities = Identities(home, create_keys(home))
    state = NodeState(home.state_file)
    spool = Spool(state, home, identities)
    receiver = Receiver(
        ReceiverSettings("NODE_K", "127.0.0.1", settings.dicom.port, settings.allowed_ae()), spool
    )
    receiver.start()
    try:
        state.studies.recover()
        intake = Intake(
            IntakeParts(
                state=state,
                home=home,
                settings=settings,
                identities=identities,
                spool=spool,
                client=client_for(settings),
                observer=observer,
                policy=RetrievePolicy(settle_s=0.2),
            )
        )
        assert intake.poll_all()
        while intake.fetch_next(RUNNING):
            pass
    finally:
        receiver.stop()
        state.close()


def fetch_until(root: Path, settings: Settings, stage: str, point: str) -> None:
    """As above, in a process of its own that is killed at one instant."""

    def kill(event: StageEvent) -> None:
        if (event.stage.value, event.point.value) == (stage, point):
            os.kill(os.getpid(), signal.SIGKILL)

    fetch_all(root, settings, kill)


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[OrthancPacs, int]]:
    """An Orthanc with one study of twelve instances, and the port of the node it moves to."""
    root, port = tmp_path_factory.mktemp("archive"), free_port()
    peers = [RemoteAE("NODE_K", "127.0.0.1", port), RemoteAE("FILLER", "127.0.0.1", free_port())]
    with running_orthanc(root / "pacs", peers) as pacs:
        client = PacsClient(pacs.remote, calling_ae="FILLER")
        study = write_small_study(root / "files", StudyForm(series=2, slices=6))
        assert all(outcome.ok for outcome in client.send(study.paths))
        yield pacs, port


@pytest.mark.integration
@pytest.mark.parametrize(
    ("stage", "point"), [point for point in kill_points() if point[0] in INTAKE]
)
def test_kill_at_any_instant_of_the_fetch(
    tmp_path: Path, archive: tuple[OrthancPacs, int], stage: Stage, point: Point
) -> None:
    pacs, port = archive
    settings = real_settings(pacs.remote, port)
    context = multiprocessing.get_context("spawn")
    arguments = (tmp_path, settings, stage.value, point.value)
    process = context.Process(target=fetch_until, args=arguments)
    process.start()
    process.join(60)
    assert process.exitcode == -signal.SIGKILL
    fetch_all(tmp_path, settings, lambda _event: None)
    state = NodeState(Home(tmp_path, "p").state_file)
    try:
        (row,) = state.studies.select()
        assert (row.state, row.expected, row.received) == (State.RECEIVED, 12, 12)
        done = [run.stage for run in state.studies.runs(row.study_key) if run.outcome == "done"]
        assert done == list(INTAKE)
        spool = Home(tmp_path, "p").study(row.study_key) / RECEIVED
        assert len(list(spool.rglob("*.dcm"))) == 12
    finally:
        state.close()
