"""Which objects the coordinator keeps: what is needed, all of it, and nothing that nobody names."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from federation.coordinator.control_client import CoordinatorClient
from federation.coordinator.update_check import UpdateFacts, check_update
from federation.wire import federation_pb2 as pb
from tests.federation.by_hand import HandSite
from tests.federation.doubles import Federation, small_plan
from tests.federation.test_policy_runs import quick, started
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
    assert engine.sweep() >= 1
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
