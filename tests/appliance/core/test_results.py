"""Results: held by default, fresh values before sending, held again where the study is gone."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pydicom
import pytest

from appliance.errors import NotAllowed
from appliance.pipeline.states import Event
from appliance.result_sending import refresh
from appliance.result_states import Verb
from appliance.result_writing import REPORT_FILE, SEG_FILE, segments_of
from appliance.settings import SettingsInvalid, settings_from
from appliance.store import ResultState
from federation.manifest import ModelManifest
from federation.plan import ms_lesion_demo_plan
from tests.appliance.core.result_bench import REPORT_UID, SEG_UID, Bench, write_object
from tests.appliance.core.values import MATCH, held


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    made = Bench(tmp_path)
    yield made
    made.close()


def test_nothing_is_sent_before_a_release(bench: Bench) -> None:
    assert bench.results.send_due() == 0
    with pytest.raises(NotAllowed):
        bench.results.send(bench.key)
    assert bench.now().state is ResultState.HELD


def test_released_results_are_sent_with_fresh_values(bench: Bench) -> None:
    bench.peer.matches = [replace(MATCH, PatientName="DOE^JANE^MARRIED", AccessionNumber="A2")]
    bench.results.release(bench.key, actor="me")
    assert bench.results.send_due() == 1
    assert bench.now().state is ResultState.STORED
    assert bench.now().sent_at is not None
    assert bench.peer.sent == [SEG_UID, REPORT_UID], "the segmentation first, each once"
    for sent in bench.peer.got.values():
        assert str(sent.PatientName) == "DOE^JANE^MARRIED"
        assert sent.AccessionNumber == "A2"
    assert bench.audited == ["result.sent", "result.stored"]
    assert bench.objects() == {"seg": "stored", "sr": "stored"}
    states = [event.state.value for event in bench.state.results.events(bench.key)]
    assert states == ["held", "released", "sending", "sent", "stored"]
    with pytest.raises(NotAllowed):
        bench.results.hold(bench.key)
    assert bench.results.send_due() == 0, "nothing is left to do"


def test_a_study_that_is_gone_holds_its_result(bench: Bench) -> None:
    bench.peer.matches = []
    bench.results.release(bench.key, actor="me")
    bench.results.send_due()
    assert (bench.now().state, bench.peer.got) == (ResultState.HELD, {})
    assert "no longer in the PACS" in bench.now().reason


def test_a_study_under_another_patient_waits_for_a_person(bench: Bench) -> None:
    bench.peer.matches = [replace(MATCH, PatientID="P77", PatientName="ROE^JANE")]
    bench.results.release(bench.key, actor="policy")
    bench.results.send_due()
    assert (bench.now().state, bench.peer.got) == (ResultState.HELD, {})
    assert "another PatientID" in bench.now().reason
    assert "P77" not in bench.now().reason
    bench.results.release(bench.key, actor="policy")
    bench.results.send_due()
    assert bench.now().state is ResultState.HELD, "a rule confirms nothing"
    bench.results.release(bench.key, actor="me")
    bench.results.send_due()
    assert bench.now().state is ResultState.STORED
    assert {str(d.PatientID) for d in bench.peer.got.values()} == {"P77"}


def test_a_patient_confirmed_once_is_not_another_one(bench: Bench) -> None:
    bench.peer.matches = [replace(MATCH, PatientID="P77")]
    bench.results.release(bench.key, actor="me")
    bench.results.send_due()
    bench.peer.matches = [replace(MATCH, PatientID="P88")]
    bench.results.release(bench.key, actor="me")
    bench.results.send_due()
    assert (bench.now().state, bench.peer.got) == (ResultState.HELD, {})


def test_an_issuer_that_only_one_answer_gives_is_no_other_patient(bench: Bench) -> None:
    bench.peer.matches = [replace(MATCH, IssuerOfPatientID="HOSPITAL")]
    bench.results.release(bench.key, actor="me")
    bench.results.send_due()
    assert bench.now().state is ResultState.STORED


def test_a_withdrawn_study_holds_its_result_and_erasing_marks_it(bench: Bench) -> None:
    bench.results.release(bench.key, actor="me")
    bench.state.studies.apply(bench.study_key, Event.WITHDRAW)
    bench.results.send_due()
    assert "withdrawn" in bench.now().reason
    bench.results.withdraw(bench.study_key)
    assert bench.now().state is ResultState.WITHDRAWN
    assert not bench.results.folder(bench.key).exists()


def test_a_vanished_file_holds_the_result(bench: Bench) -> None:
    (bench.results.folder(bench.key) / SEG_FILE).unlink()
    bench.results.release(bench.key, actor="me")
    bench.results.send_due()
    assert "file is gone" in bench.now().reason
    bench.identities.forget(bench.study_key)
    bench.results.release(bench.key, actor="me")
    bench.results.send_due()
    assert "vault" in bench.now().reason


def test_a_failing_pacs_is_tried_again_later(bench: Bench) -> None:
    bench.peer.answers = [None, False, True]
    bench.results.release(bench.key, actor="me")
    for attempt in (1, 2):
        assert bench.results.send_due() == 1
        assert (bench.now().state, bench.now().attempt) == (ResultState.FAILED, attempt)
        assert bench.results.send_due() == 0, "the back-off has not passed"
        bench.clock.now += timedelta(minutes=5)
    assert "out of resources" in bench.now().reason
    bench.results.send_due()
    assert bench.now().state is ResultState.STORED


def test_only_what_is_not_stored_is_sent_again(bench: Bench) -> None:
    bench.peer.answers = [True, False]
    bench.results.release(bench.key, actor="me")
    bench.results.send_due()
    assert bench.objects() == {"seg": "sent", "sr": "failed"}
    bench.clock.now += timedelta(minutes=5)
    bench.results.send_due()
    assert bench.now().state is ResultState.STORED
    assert bench.peer.sent == [SEG_UID, REPORT_UID]


def test_a_pacs_that_refuses_again_and_again_ends_with_a_person(bench: Bench) -> None:
    bench.peer.answers = [False] * bench.settings.retry.attempts
    bench.results.release(bench.key, actor="me")
    while bench.results.send_due():
        bench.clock.now += timedelta(hours=2)
    assert bench.now().state is ResultState.REFUSED
    assert "refused it 5 times: seg: out of resources" in bench.now().reason
    bench.clock.now += timedelta(days=2)
    assert bench.results.send_due() == 0


def test_a_pacs_that_is_down_is_asked_for_ever_with_growing_pauses(bench: Bench) -> None:
    bench.peer.down = True
    bench.results.release(bench.key, actor="me")
    attempts = 0
    for _ in range(400):
        attempts += bench.results.send_due()
        bench.clock.now += timedelta(minutes=5)
    assert bench.now().state is ResultState.FAILED
    assert 20 < attempts < 60, "the pauses grow to an hour"
    bench.peer.down = False
    bench.clock.now += timedelta(hours=1)
    bench.results.send_due()
    assert bench.now().state is ResultState.STORED


def test_what_the_pacs_took_and_does_not_list_is_sent_again_a_few_times(bench: Bench) -> None:
    bench.peer.lost = {REPORT_UID}
    bench.results.release(bench.key, actor="me")
    for _ in range(100):
        bench.results.send_due()
        bench.clock.now += timedelta(hours=1)
    assert bench.now().state is ResultState.REFUSED
    assert "does not list" in bench.now().reason
    assert bench.peer.sent.count(SEG_UID) == 1
    assert bench.peer.sent.count(REPORT_UID) == 3


def test_a_person_may_send_again_and_nothing_listed_is_sent_twice(bench: Bench) -> None:
    bench.results.release(bench.key, actor="me")
    bench.results.send_due()
    del bench.peer.got[REPORT_UID]
    assert bench.results.send(bench.key).state is ResultState.STORED
    assert bench.peer.sent == [SEG_UID, REPORT_UID, REPORT_UID]


def test_a_death_while_sending_sends_only_what_the_pacs_lacks(bench: Bench) -> None:
    bench.results.release(bench.key, actor="me")
    bench.state.results.step(bench.key, Verb.START)
    seg = bench.results.folder(bench.key) / SEG_FILE
    bench.peer.got[SEG_UID] = pydicom.dcmread(seg)
    bench.results = bench.again()
    bench.results.recover()
    bench.results.send_due()
    assert bench.peer.sent == [REPORT_UID]
    assert bench.now().state is ResultState.STORED


def test_the_rule_releases_what_nobody_held(tmp_path: Path) -> None:
    bench = Bench(tmp_path, release="all")
    try:
        bench.results.recover()
        assert bench.now().state is ResultState.RELEASED
        assert bench.now().decided_by == "policy"
        bench.results.hold(bench.key)
        bench.results.recover()
        assert bench.now().state is ResultState.HELD, "a person's word stands"
    finally:
        bench.close()


def test_a_result_of_an_earlier_version_is_taken_over(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    try:
        old = replace(held("rsold", bench.study_key), model_id="o" * 64)
        bench.state.results.add(old)
        uid = bench.results.uids(bench.study_key, "o" * 64).seg
        write_object(bench.results.folder("rsold") / SEG_FILE, uid)
        (bench.home.results / "rsdead.part").mkdir()
        bench.results.recover()
        (item,) = bench.state.results.objects("rsold")
        assert item.object_key == bench.identities.instance_key(uid)
        assert not (bench.home.results / "rsdead.part").exists()
        bench.results.release("rsold", actor="me")
        bench.results.send_due()
        assert bench.peer.sent == [uid]
    finally:
        bench.close()


def test_a_name_beyond_latin_keeps_the_other_values(tmp_path: Path) -> None:
    path = write_object(tmp_path / "r" / REPORT_FILE, REPORT_UID)
    fresh = replace(MATCH, PatientName="ΠΑΠΑΔΟΠΟΥΛΟΥ^ΑΝΝΑ")
    dataset = pydicom.dcmread(refresh(path, fresh, tmp_path / "copy.dcm"))
    assert str(dataset.PatientName) == "ΠΑΠΑΔΟΠΟΥΛΟΥ^ΑΝΝΑ"
    assert str(dataset.ReferringPhysicianName) == "MÜLLER^ANNA"


def test_uids_follow_from_study_and_model(bench: Bench) -> None:
    uids, others = bench.results.uids("st1", "m"), bench.results.uids("st1v2", "m")
    assert uids == bench.results.uids("st1", "m")
    five = {uids.seg, uids.seg_series, uids.report, uids.report_series, uids.picture_series}
    assert len(five | {others.seg, others.report}) == 7
    assert all(uid.startswith("2.25.") and len(uid) <= 64 for uid in five)


def test_a_report_needs_its_segmentation() -> None:
    document = {"node": {"site": "a"}, "results": {"form": ["sr", "sc"]}}
    with pytest.raises(SettingsInvalid, match="add 'seg'"):
        settings_from(document)


def test_segments_name_plan_and_model() -> None:
    plan = ms_lesion_demo_plan()
    manifest = ModelManifest(
        plan_name=plan.name,
        plan_hash="a" * 64,
        round=1,
        weights_sha256="b" * 64,
        weights_size=1,
        parents=(),
        preparation={},
        inputs=[],
        labels=[label.model_dump(mode="json") for label in plan.labels],
        network={},
    )
    (segment,) = segments_of(manifest)
    assert (segment.number, segment.label) == (1, "lesion")
    assert segment.type.value == "52988006"
    assert (segment.algorithm_name, segment.algorithm_version) == (plan.name, manifest.id)
