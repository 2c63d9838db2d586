"""Round policy in whole federations: who is waited for, what is late, what changes midway."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file
from typer.testing import CliRunner

from appliance.cli.run import app as run_commands
from federation.coordinator.control_client import CoordinatorClient
from federation.errors import RequestRefused, RunRefused
from federation.manifest import ModelManifest
from federation.node.agent import AgentOptions
from federation.plan import Plan, SignedPlan
from federation.wire import federation_pb2 as pb
from tests.federation.by_hand import HandSite
from tests.federation.doubles import Federation, initial_tensors, small_plan, trained
from tests.federation.test_leaving import Patient, agent_of
from tests.federation.test_policy import plan_with
from tests.federation.test_rounds import finished, same
from tests.waiting import wait_for

pytestmark = pytest.mark.integration


def quick(plan: Plan, **fields: Any) -> Plan:  # noqa: ANN401
    """The plan without evaluation in between and without fingerprints."""
    return plan.model_copy(
        update={
            "evaluation": plan.evaluation.model_copy(update={"every": 5000}),
            "sends": ("update", "metrics"),
            **fields,
        }
    )


def started(control: CoordinatorClient, plan: Plan, hands: list[HandSite]) -> str:
    """Submit a plan that all sites approve; its run once it runs."""
    run_id = str(control.submit(plan)["run_id"])
    for site in hands:
        site.join()
    wait_for(lambda: control.run(run_id)["state"] == "running", what="the run", seconds=20)
    settle(control, run_id, hands)
    return run_id


def settle(control: CoordinatorClient, run_id: str, hands: list[HandSite]) -> None:
    """Evaluate the initial model at every site, so that round 1 opens."""

    def opened() -> bool:
        for site in hands:
            site.idle()
        return bool(control.run(run_id)["round"] >= 1)

    wait_for(opened, what="round 1", seconds=20)


def state_of(control: CoordinatorClient, run_id: str, site: str) -> str:
    """A site's part in a run."""
    return {s["site"]: s["state"] for s in control.run(run_id)["sites"]}[site]


# -- mandatory sites


def test_a_round_waits_for_its_mandatory_site_and_says_so(
    federation: Federation, control: CoordinatorClient, hands: list[HandSite]
) -> None:
    plan = quick(plan_with(mandatory_sites=["site-c"], round_deadline_s=1))
    run_id = started(control, plan, hands)
    one, two, needed = hands
    tasks = [site.task("train", 1) for site in hands]
    for site, task in zip((one, two), tasks, strict=False):
        assert site.train(task).accepted
    view = wait_for(
        lambda: (v := control.run(run_id))["rounds_done"][1]["words"] and v,
        what="the extension",
        seconds=20,
    )
    words = "the deadline passed: waiting on for the mandatory site site-c"
    assert view["rounds_done"][1]["words"] == words
    assert words in (control.runs()[0]["attention"])
    assert needed.train(tasks[2]).accepted
    wait_for(lambda: control.run(run_id)["round"] == 2, what="round 2", seconds=20)
    words = "the custodian withdrew the consent"
    assert needed.connection.leave(run_id, words).words
    view = finished(control, run_id, ("failed",))
    assert view["words"] == f"round 2: the mandatory site site-c left: {words}"
    assert needed.connection.leave(run_id, words).words == "the run is over already"
    assert not [t for t in federation.coordinator.store.open_tasks("site-a") if t.run_id == run_id]


def test_a_mandatory_site_that_refuses_or_is_not_invited_ends_it_in_words(
    control: CoordinatorClient, hands: list[HandSite]
) -> None:
    plan = quick(plan_with(mandatory_sites=["site-c"]))
    with pytest.raises(RunRefused, match="mandatory but not invited: site-c"):
        control.submit(plan, ["site-a", "site-b"])
    run_id = control.submit(plan)["run_id"]
    hands[2].end(hands[2].task("offer"), pb.OUTCOME_REFUSED, "no consent for this purpose")
    view = finished(control, run_id, ("failed",))
    assert (
        view["words"] == "the mandatory site site-c refused the plan: no consent for this purpose"
    )


# -- late updates


def late_scene(
    control: CoordinatorClient, hands: list[HandSite], plan: Plan
) -> tuple[str, pb.Task]:
    """Round 1 is closed without site-c, which has its task still."""
    run_id = started(control, plan, hands)
    late = hands[2].task("train", 1)
    for site in hands[:2]:
        assert site.train(site.task("train", 1)).accepted
    wait_for(lambda: control.run(run_id)["round"] == 2, what="round 2", seconds=20)
    return run_id, late


def test_a_late_update_is_folded_into_the_next_round_once(
    federation: Federation, control: CoordinatorClient, hands: list[HandSite]
) -> None:
    plan = quick(plan_with(late_updates="keep", round_deadline_s=1), seed=1)
    run_id, late = late_scene(control, hands, plan)
    reply = hands[2].train(late)
    assert (reply.accepted, reply.words) == (
        True,
        "round 1 had closed: the update is kept for the next one",
    )
    for site in hands[:2]:
        assert site.train(site.task("train", 2)).accepted
    view = wait_for(
        lambda: (v := control.run(run_id))["rounds_done"][2]["weights_sha256"] and v,
        what="the model",
        seconds=20,
    )
    folded = [(u["site"], u["folded_in"], u["staleness"]) for u in view["updates"]]
    assert sorted(folded) == [
        ("site-a", 1, 0),
        ("site-a", 2, 0),
        ("site-b", 1, 0),
        ("site-b", 2, 0),
        ("site-c", 2, 1),
    ]
    weights = {u["site"]: u["weight"] for u in view["updates"] if u["folded_in"] == 2}
    assert weights == {"site-a": 3.0, "site-b": 3.0, "site-c": pytest.approx(3 / 2**0.5)}
    first = initial_tensors()
    base = load_file(federation.home / "runs" / run_id / "rounds" / "00001.safetensors")
    total = sum(weights.values())
    expected = base["conv.weight"].astype(np.float64)
    for site, start in (("site-a", base), ("site-b", base), ("site-c", first)):
        number = 0 if site == "site-c" else 1
        step = trained(site, number, start)["conv.weight"].astype(np.float64)
        expected += weights[site] / total * (step - start["conv.weight"].astype(np.float64))
    objects = federation.coordinator.objects
    model = load_file(objects.path(view["rounds_done"][2]["weights_sha256"]))
    np.testing.assert_allclose(model["conv.weight"], expected, rtol=1e-5, atol=1e-5)
    assert hands[2].again().accepted, "a lost acknowledgement is repeated"
    assert finished_by(control, run_id, hands)["state"] == "finished"


def test_a_late_update_is_dropped_in_words(
    control: CoordinatorClient, hands: list[HandSite]
) -> None:
    run_id, late = late_scene(control, hands, quick(plan_with(round_deadline_s=1)))
    report = pb.TaskReport(format=1, task_id=late.task_id, outcome=pb.OUTCOME_DONE, cases=3)
    reply = hands[2].connection.report(report)
    assert not reply.accepted
    assert reply.words == "too late: the round went on without this site"
    assert control.run(run_id)["rounds_done"][1]["sites"][2]["state"] == "expired"


# -- asynchronous training


def test_asynchronous_models_are_what_the_recorded_order_says(
    federation: Federation, control: CoordinatorClient, hands: list[HandSite]
) -> None:
    plan = quick(plan_with(mode="asynchronous", buffer_size=2, minimum_sites=2))
    run_id = started(control, plan, hands)
    fast, second, slow = hands
    slow_task = slow.task("train", 1)
    first = fast.task("train", 1)
    assert fast.train(first).accepted
    again = fast.task("train", 1)
    assert (again.task_id != first.task_id, again.turn, again.attempt) == (True, 2, 2)
    assert second.train(second.task("train", 1)).accepted
    wait_for(lambda: control.run(run_id)["round"] == 2, what="model 1", seconds=20)
    assert slow.train(slow_task).accepted
    assert fast.train(again).accepted
    view = finished_by(control, run_id, hands)
    updates = [(u["sequence"], u["site"], u["folded_in"], u["staleness"]) for u in view["updates"]]
    assert updates == [
        (1, "site-a", 1, 0),
        (2, "site-b", 1, 0),
        (3, "site-c", 2, 1),
        (4, "site-a", 2, 1),
    ]
    model = initial_tensors()
    steps = {1: ("site-a", 0), 2: ("site-b", 0), 3: ("site-c", 0), 4: ("site-a", 1)}
    for pair in ((1, 2), (3, 4)):
        start = initial_tensors()
        moved = [
            trained(*steps[n], start)["conv.weight"].astype(np.float64)
            - start["conv.weight"].astype(np.float64)
            for n in pair
        ]
        model["conv.weight"] = model["conv.weight"] + np.mean(moved, axis=0)
    folder = federation.home / "runs" / run_id / "model"
    got = load_file(folder / "weights.safetensors")["conv.weight"]
    np.testing.assert_allclose(got, model["conv.weight"], rtol=1e-5, atol=1e-5)
    # Folded again from the record, the models have the same bytes.
    store, rounds = federation.coordinator.store, federation.coordinator.engine._asynchronous
    run = store.run(run_id)
    row = store.rounds(run_id)[2]
    for update in store.updates(run_id):
        report = next(t for t in store.tasks(run_id) if t.task_id == update.task_id).report
        assert report is not None
        source = federation.folder / f"{update.site}-by-hand" / f"{update.task_id}.safetensors"
        target = federation.coordinator.objects.path(report["update"])
        target.parent.mkdir(exist_ok=True)
        target.write_bytes(source.read_bytes())
    chosen = [u for u in store.updates(run_id) if u.folded_in == 2]
    assert rounds._fold(run, row, chosen[::-1])[0] == row.weights_sha256


def finished_by(control: CoordinatorClient, run_id: str, hands: list[HandSite]) -> dict[str, Any]:
    """The run's detail once all sites have done what is left."""

    def over() -> dict[str, Any] | None:
        for site in hands:
            site.idle()
        view = control.run(run_id)
        return view if view["state"] in ("finished", "failed", "stopped") else None

    return wait_for(over, what="the run to end", seconds=30)


def test_asynchronous_training_survives_a_restart_and_a_site_that_cannot(
    federation: Federation, control: CoordinatorClient
) -> None:
    """Real agents; one site always fails: the others make the models."""
    plan = small_plan(4)
    strategy = plan_with(mode="asynchronous", buffer_size=2).strategy
    plan = quick(plan, strategy=strategy)
    federation.start(federation.site("site-a"))
    federation.start(federation.site("site-b", spoil=dict.fromkeys(range(1, 9), "fail")))
    federation.start(federation.site("site-c"))
    run_id = control.submit(plan)["run_id"]
    wait_for(lambda: control.run(run_id)["round"] >= 2, what="model 1", seconds=40)
    federation.restart()
    with CoordinatorClient(federation.home) as fresh:
        view = finished(fresh, run_id)
    folded = [u["folded_in"] for u in view["updates"] if u["folded_in"] is not None]
    assert sorted(folded) == [1, 1, 2, 2, 3, 3, 4, 4]
    assert {u["site"] for u in view["updates"]} == {"site-a", "site-c"}
    assert any(t["site"] == "site-b" for t in view["troubles"])


# -- joining and leaving


def test_sites_leave_come_back_and_join_in_mid_run(
    control: CoordinatorClient, federation: Federation, hands: list[HandSite]
) -> None:
    plan = quick(small_plan(4))
    run_id = started(control, plan, hands)
    one, two, leaver = hands
    held = leaver.task("train", 1)
    reply = leaver.connection.leave(run_id, "the ethics board asked us to")
    assert "goes on without this site" in reply.words
    assert leaver.connection.leave(run_id, "again").words == "the site has left already"
    assert state_of(control, run_id, "site-c") == "left"
    ended = leaver.connection.poll((held.task_id,), 0.0)
    assert list(ended.ended_task_ids) == [held.task_id]
    with pytest.raises(RunRefused, match="takes part in run"):
        control.invite(run_id, "site-a")
    late = HandSite(federation, "site-d")
    with pytest.raises(RequestRefused, match="was not invited to such a run"):
        late.connection.leave(run_id, "nothing")
    for name in ("site-c", "site-d"):
        assert control.invite(run_id, name)["state"] == "running"
    with pytest.raises(RunRefused, match="invited already"):
        control.invite(run_id, "site-d")
    with pytest.raises(RunRefused, match="not enrolled: site-x"):
        control.invite(run_id, "site-x")
    late.join()
    leaver.join()
    assert [state_of(control, run_id, n) for n in ("site-c", "site-d")] == ["joined", "joined"]
    for site in (one, two):
        assert site.train(site.task("train", 1)).accepted
    wait_for(lambda: control.run(run_id)["round"] == 2, what="round 2", seconds=20)
    for site in (*hands, late):
        assert site.train(site.task("train", 2)).accepted
    view = wait_for(
        lambda: (v := control.run(run_id))["round"] == 3 and v, what="round 3", seconds=20
    )
    parts = {row["site"]: row["state"] for row in view["rounds_done"][2]["sites"]}
    assert parts == dict.fromkeys(("site-a", "site-b", "site-c", "site-d"), "done")
    actions = [e["action"] for e in control.audit(100)]
    assert actions.count("run.left") == 1
    late.close()


# -- pause, amendment, queue


def test_a_pause_may_recall_what_is_out_and_asks_for_it_again(
    control: CoordinatorClient, hands: list[HandSite]
) -> None:
    run_id = started(control, quick(small_plan(1)), hands)
    held = [site.task("train", 1) for site in hands]
    assert hands[0].train(held[0]).accepted
    assert control.pause(run_id, "maintenance", recall=True)["state"] == "paused"
    reply = hands[1].connection.poll((held[1].task_id,), 0.0)
    assert list(reply.ended_task_ids) == [held[1].task_id]
    assert not reply.HasField("task")
    refused = hands[1].end(held[1], pb.OUTCOME_DONE)
    assert (refused.accepted, "paused" in refused.words) == (False, True)
    assert control.resume(run_id)["state"] == "running"
    for site in hands[1:]:
        fresh = site.task("train", 1)
        assert fresh.attempt == 2
        assert site.train(fresh).accepted
    view = finished_by(control, run_id, hands)
    assert view["rounds_done"][1]["attempt"] == 1, "a pause is no failed try"
    assert {u["site"] for u in view["updates"]} == {"site-a", "site-b", "site-c"}


def test_an_amendment_is_approved_between_rounds_and_recorded(
    federation: Federation, control: CoordinatorClient, hands: list[HandSite]
) -> None:
    run_id = started(control, quick(small_plan(2)), hands)
    before = control.run(run_id)["plan_hash"]
    tasks = [site.task("train", 1) for site in hands]
    with pytest.raises(RunRefused, match="nothing changes"):
        control.amend(run_id)
    with pytest.raises(RunRefused, match="give at least 2 rounds"):
        control.amend(run_id, rounds=1)
    with pytest.raises(RunRefused, match="learning_rate"):
        control.amend(run_id, learning_rate=7.0)
    control.amend(run_id, learning_rate=1e-4, rounds=3)
    with pytest.raises(RunRefused, match="waits already for round 1"):
        control.amend(run_id, rounds=5)
    assert control.run(run_id)["plan_hash"] == before
    for site, task in zip(hands, tasks, strict=True):
        assert site.train(task).accepted
    offers = [site.task("offer") for site in hands]
    amended = str(control.run(run_id)["plan_hash"])
    assert {offer.plan_hash for offer in offers} == {amended}
    assert amended != before
    raw = federation.coordinator.objects.path(offers[0].payloads[0].sha256).read_bytes()
    plan = SignedPlan.from_json(raw).plan
    assert (plan.amends, plan.training.rounds, plan.optimiser.learning_rate) == (before, 3, 1e-4)
    assert hands[0].join(offers[0]).accepted
    assert hands[1].poll((offers[1].task_id,)) is None, "no work before the approval"
    waits = "round 2 waits for the custodians of site-b, site-c"
    wait_for(lambda: control.run(run_id)["words"] == waits, what=waits)
    hands[2].end(offers[2], pb.OUTCOME_REFUSED, "the rate was chosen for our scanner")
    assert hands[1].join(offers[1]).accepted
    for number in (2, 3):
        for site in hands[:2]:
            task = site.task("train", number)
            assert task.plan_hash == amended
            assert site.train(task).accepted
    refuser = hands[2].poll()
    assert refuser is None, "who has not approved gets nothing of the new plan"
    view = finished_by(control, run_id, hands)
    assert view["state"] == "finished"
    assert [at["plan_hash"] for at in view["rounds_done"]] == [before, before, amended, amended]
    first, second = view["plans"]
    assert (first["plan_hash"], first["in_force"]) == (before, False)
    assert "learning rate 0.006 -> 0.0001" in second["changes"]
    assert (second["from_round"], second["in_force"]) == (2, True)
    answers = {a["site"]: (a["answer"], a["words"]) for a in second["answers"]}
    assert answers["site-a"] == answers["site-b"] == ("approved", "")
    assert answers["site-c"] == ("refused", "the rate was chosen for our scanner")
    manifest = federation.home / "runs" / run_id / "model" / "manifest.json"
    assert ModelManifest.from_json(manifest.read_bytes()).plan_hash == amended
    actions = [e["action"] for e in control.audit(200)]
    assert actions.index("run.amended") < actions.index("plan.in_force")


def test_runs_wait_in_a_queue_and_start_by_themselves(
    federation: Federation, control: CoordinatorClient, hands: list[HandSite]
) -> None:
    first = started(control, quick(small_plan(1)), hands)
    others = []
    for name in ("second", "third"):
        plan = quick(small_plan(1), name=name)
        others.append(str(control.submit(plan)["run_id"]))
        for site in hands:
            site.join()
        wait_for(lambda: control.run(others[-1])["state"] == "queued", what=f"{name} to queue")
    second, third = others
    lines = {run["run_id"]: run for run in control.runs()}
    assert lines[second]["words"] == (
        f"number 1 in the queue: 1 run may be active at a time, active: {first}"
    )
    assert lines[third]["queue_position"] == 2
    assert control.first(third)["queue_position"] == 1
    with pytest.raises(RunRefused, match="does not wait for its turn"):
        control.first(first)
    # A pause frees the slot; the resumed run waits in its turn.
    control.pause(first)
    wait_for(lambda: control.run(third)["state"] == "running", what="the moved run")
    assert control.resume(first)["state"] == "queued"
    assert control.run(first)["queue_position"] == 1
    settle(control, third, hands)
    assert hands[0].task("train", 1).run_id == third
    control.stop(third)
    wait_for(lambda: control.run(first)["state"] == "running", what="the first run again")
    for site in hands:
        assert site.train(site.task("train", 1)).accepted
    settle(control, second, hands)
    for site in hands:
        assert site.task("train", 1).run_id == second
    assert control.run(first)["state"] in ("publishing", "finished", "running")


# -- failures in words


def test_a_failure_is_told_as_it_happens(
    federation: Federation, control: CoordinatorClient, hands: list[HandSite]
) -> None:
    run_id = started(control, quick(small_plan(1)), hands)
    seen = control.watch(run_id, 0, 0.0)
    assert {"run.submitted", "run.offered"} <= {e["action"] for e in seen["events"]}
    for site in hands[1:]:
        words = "the loss is not a finite number\nat step 3"
        site.end(site.task("train", 1), pb.OUTCOME_FAILED, words)
    told = control.watch(run_id, seen["offset"], 5.0)["events"]
    failed = [e for e in told if e.get("state") == "failed"]
    assert failed[0]["words"] == "the loss is not a finite number at step 3"
    assert (failed[0]["kind"], failed[0]["round"]) == ("train", 1)
    line = control.runs()[0]
    assert line["attention"].startswith("site-")
    assert "failed train: the loss is not a finite number at step 3" in line["attention"]
    view = control.run(run_id)
    assert [t["site"] for t in view["troubles"]].count("site-b") == 1
    assert all(s["last_seen"] for s in view["sites"])
    assert view["silent"] == []


def test_bad_answers_change_nothing_and_are_answered_in_words(
    federation: Federation, control: CoordinatorClient, hands: list[HandSite]
) -> None:
    run_id = started(control, quick(small_plan(3)), hands[:2] + hands[2:])
    one, two, third = hands
    task = one.task("train", 1)
    assert one.train(task).accepted
    store = federation.coordinator.store
    before = store.updates(run_id)
    assert one.again().accepted, "the very same report is a lost acknowledgement"
    other = pb.TaskReport(format=1, task_id=task.task_id, outcome=pb.OUTCOME_DONE, cases=2)
    reply = one.connection.report(other)
    assert (reply.accepted, "changes nothing" in reply.words) == (False, True)
    with pytest.raises(RequestRefused, match="no such task of this site"):
        two.connection.report(other)
    heavy = two.task("train", 1)
    two.cases = 10**9
    reply = two.train(heavy)
    assert (reply.accepted, "frozen data set has 3" in reply.words) == (False, True)
    assert store.updates(run_id) == before
    two.cases = 3
    assert third.train(third.task("train", 1)).accepted
    wait_for(lambda: control.run(run_id)["round"] == 2, what="round 2", seconds=20)
    # A site that sends its old update again for the next round.
    replay = one.task("train", 2)
    reply = one.send(replay, one.folder / f"{task.task_id}.safetensors")
    assert reply.words == "this very update came for round 1 already: it counts once"
    assert not reply.accepted


def test_same_bytes_whatever_the_order(
    federation: Federation, control: CoordinatorClient, hands: list[HandSite]
) -> None:
    """The plain mean is untouched by the record of arrivals."""
    run_id = started(control, quick(small_plan(1)), hands)
    for site in hands[::-1]:
        assert site.train(site.task("train", 1)).accepted
    view = finished_by(control, run_id, hands)
    updates = [trained(site.name, 0, initial_tensors()) for site in hands]
    expected = {
        name: np.asarray(np.mean([u[name] for u in updates], axis=0, dtype=np.float64)).astype(
            value.dtype
        )
        for name, value in initial_tensors().items()
    }
    got = load_file(federation.coordinator.objects.path(view["rounds_done"][1]["weights_sha256"]))
    same(got, expected)


def test_a_recall_ends_the_work_at_the_site_within_seconds(
    federation: Federation, control: CoordinatorClient
) -> None:
    site, patient = federation.site("site-a"), Patient()
    options = AgentOptions(trainers=patient.factory(site), deferred_poll_s=0.2, look_s=0.1)
    agent_of(federation, site, options)
    run_id = str(control.submit(quick(small_plan(1, minimum_sites=1)))["run_id"])
    wait_for(patient.begun.is_set, what="the training", seconds=30)
    control.pause(run_id, recall=True)
    wait_for(lambda: patient.closed, what="the trainer's end", seconds=10)
    patient.go.set()
    control.resume(run_id)
    view = finished(control, run_id)
    assert [row["attempt"] for row in view["rounds_done"][1]["sites"]] == [2]
    told = [detail for action, detail in site.records if action == "task.reported"]
    assert any("paused" in str(detail["words"]) for detail in told)


def said(federation: Federation, *arguments: str, code: int = 0) -> str:
    """What `clinode run` prints on the coordinator's home."""
    result = CliRunner().invoke(run_commands, list(arguments), obj=federation.home)
    assert result.exit_code == code, result.output
    return result.output


def test_the_data_scientist_sees_it_in_words(
    federation: Federation, control: CoordinatorClient, hands: list[HandSite]
) -> None:
    run_id = started(control, quick(small_plan(2, minimum_sites=3)), hands)
    hands[2].end(hands[2].task("train", 1), pb.OUTCOME_FAILED, "memory ran out at step 7")
    assert "site-c failed train: memory ran out at step 7" in said(federation, "list")
    assert "memory ran out at step 7" in said(federation, "show", run_id)
    assert "rounds 2 -> 4 (+2)" in said(federation, "amend", run_id, "--rounds", "4")
    assert "after this round" in said(federation, "show", run_id)
    assert run_id in said(federation, "queue")
    assert "paused" in said(federation, "pause", run_id, "--recall")
    assert "running" in said(federation, "resume", run_id)
    HandSite(federation, "site-d").close()
    assert "site-d is invited" in said(federation, "invite", run_id, "site-d")
    control.stop(run_id, "enough seen")
    story = said(federation, "watch", run_id, code=1)
    assert "site-c  train of round 1: failed  memory ran out at step 7" in story
    for words in ("run.amended", "run.paused", "run.invited", "stopped enough seen"):
        assert words in story
    assert json.loads(said(federation, "watch", run_id, "--json", code=1).splitlines()[0])["at"]
