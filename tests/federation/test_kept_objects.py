"""Which objects the coordinator keeps: what is needed, all of it, and nothing that nobody names."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest

from federation.coordinator.control_client import CoordinatorClient
from federation.coordinator.reports import Reports
from federation.coordinator.states import TaskState
from federation.coordinator.update_check import UpdateFacts, check_update
from federation.spares import Spares
from federation.wire import federation_pb2 as pb
from tests.federation.by_hand import HandSite
from tests.federation.doubles import Federation, small_plan
from tests.federation.test_policy_runs import quick, started
from tests.federation.test_rounds import finished
from tests.waiting import wait_for

pytestmark = pytest.mark.integration


def test_a_refused_report_takes_nothing_of_others_with_it(
    federation: Federation, control: CoordinatorClient, hands: list[HandSite]
) -> None:
    """What a refused report names is dropped: but not the plan, the model, or another's update."""
    run_id = started(control, quick(small_plan(2)), hands)
    store, objects = federation.coordinator.store, federation.coordinator.objects
    handed = [p["sha256"] for t in store.tasks(run_id) for p in t.body["payloads"]]
    taken = hands[1].train(hands[1].task("train", 1))
    assert taken.accepted
    other = next(t for t in store.tasks(run_id, 1, "train") if t.site == "site-b").report
    assert other is not None
    task = hands[0].task("train", 1)
    named = [*sorted(set(handed)), other["update"], "../keys/ca.key", ""]
    report = pb.TaskReport(format=1, task_id=task.task_id, outcome=pb.OUTCOME_DONE, cases=3)
    report.payloads.extend(
        pb.Payload(
            kind=pb.PAYLOAD_KIND_UPDATE, sha256=name, size=9, update_kind=pb.UPDATE_KIND_PLAIN
        )
        for name in named
    )
    reply = hands[0].connection.report(report)
    assert not reply.accepted
    assert "exactly one update" in reply.words
    assert all(objects.has(name) for name in [*handed, other["update"]])


def test_an_update_that_comes_while_others_are_dropped_keeps_its_bytes(
    federation: Federation,
    control: CoordinatorClient,
    hands: list[HandSite],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """An asynchronous run closes a round while reports come in: the look and the drop are one."""
    run_id = started(control, quick(small_plan(2)), hands)
    store, objects = federation.coordinator.store, federation.coordinator.objects
    task = hands[0].task("train", 1)
    sender = threading.Thread(target=lambda: hands[0].train(task))
    names_of = store.update_objects

    def while_a_report_comes(run: str) -> set[str]:
        sender.start()
        sender.join(0.5)  # time enough for a writer whom nothing holds up
        return names_of(run)

    monkeypatch.setattr(store, "update_objects", while_a_report_comes)
    federation.coordinator.engine._synchronous.forget_updates(store.run(run_id))
    sender.join(20)
    (row,) = [t for t in store.tasks(run_id, 1, "train") if t.site == "site-a"]
    assert row.report is not None
    assert objects.has(row.report["update"])


def test_what_nothing_names_is_swept_away_but_not_while_a_site_trains(
    federation: Federation, control: CoordinatorClient, hands: list[HandSite]
) -> None:
    run_id = started(control, quick(small_plan(2)), hands)
    store, objects = federation.coordinator.store, federation.coordinator.objects
    engine = federation.coordinator.engine
    left = objects.put_bytes(b"sent whole, never reported")
    hands[0].task("train", 1)
    assert (engine.sweep(), objects.has(left)) == (0, True)
    assert hands[1].train(hands[1].task("train", 1)).accepted
    control.stop(run_id)
    wait_for(lambda: control.run(run_id)["state"] == "stopped", what="the stop")
    named = {p["sha256"] for t in store.tasks(run_id) for p in t.body["payloads"]}
    # The stopped run's update goes by itself, and its file is not kept for another.
    spare = federation.home / "objects" / "spare"
    kept = named | store.model_hashes() | {left}
    wait_for(lambda: set(objects.names()) == kept, what="the update to be dropped")
    wait_for(lambda: not any(spare.iterdir()), what="the spare files to be deleted")
    assert engine.sweep() == 1
    assert not objects.has(left)
    assert set(objects.names()) == named | store.model_hashes()


def test_an_update_whose_task_ends_while_it_is_checked_leaves_nothing(
    federation: Federation,
    control: CoordinatorClient,
    hands: list[HandSite],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run_id = started(control, quick(small_plan(2)), hands)
    store, objects = federation.coordinator.store, federation.coordinator.objects
    task, before = hands[0].task("train", 1), set(objects.names())

    def checked(*paths: Any, **options: Any) -> UpdateFacts:  # noqa: ANN401
        rows = [t for t in store.tasks(run_id, 1, "train") if t.site == "site-a"]
        with store.change() as change:
            change.expire(rows, "the operator stopped the run")
        return check_update(*paths, **options)

    monkeypatch.setattr("federation.coordinator.reports.check_update", checked)
    reply = hands[0].train(task)
    assert not reply.accepted
    assert "ended while" in reply.words
    assert set(objects.names()) == before


def test_a_run_over_used_files_is_the_same_to_the_bit(
    federation: Federation, control: CoordinatorClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Updates and models written over those of earlier rounds, and none of it is left."""
    reused: list[Path] = []
    reuse = Spares.reuse

    def counted(self: Spares, path: Path, size: int) -> bool:
        found = reuse(self, path, size)
        if found:
            reused.append(path)
        return found

    monkeypatch.setattr(Spares, "reuse", counted)
    cases = {"site-a": 2, "site-b": 3}
    sites = [federation.site(name, cases=count) for name, count in cases.items()]
    for site in sites:
        federation.start(site)
    over = finished(control, control.submit(small_plan(6))["run_id"])
    uploads = [path for path in reused if "incoming" in path.parts]
    assert len(uploads) >= 8
    assert len(reused) - len(uploads) >= 4
    monkeypatch.setattr("federation.spares.KEPT", 0)
    del reused[:]
    plan = small_plan(6).model_copy(update={"name": "again"})
    again = finished(control, control.submit(plan)["run_id"])
    assert reused == []
    weights = [view["rounds_done"][-1]["weights_sha256"] for view in (over, again)]
    assert weights[0] == weights[1]
    folders = [federation.home / "objects", *(site.folder for site in sites)]
    wait_for(
        lambda: not [p for folder in folders for p in folder.rglob("spare/*")],
        what="the spare files to be deleted",
    )


def test_an_update_that_was_lost_is_sent_again_not_trained_again(
    federation: Federation, control: CoordinatorClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two identical updates have one name: what is done with one may cost the other its bytes."""
    objects, take, lost = federation.coordinator.objects, Reports.take, []

    def forgetful(self: Reports, site: str, report: pb.TaskReport) -> tuple[bool, str]:
        if report.payloads and site not in lost:
            lost.append(site)
            objects.drop(report.payloads[0].sha256)
        return take(self, site, report)

    monkeypatch.setattr(Reports, "take", forgetful)
    sites = [federation.site(name) for name in ("site-a", "site-b")]
    for site in sites:
        federation.start(site)
    run_id = control.submit(small_plan(2))["run_id"]
    finished(control, run_id)
    assert sorted(lost) == ["site-a", "site-b"]
    for site in sites:
        assert (site.folder / "trainings.log").read_text().split() == ["1", "2"]
    tasks = federation.coordinator.store.tasks(run_id, kind="train")
    assert {(task.state, task.attempt) for task in tasks} == {(TaskState.DONE, 1)}
