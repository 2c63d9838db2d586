"""Whole runs: averaging is exact, sick updates are refused in words, people steer."""

from __future__ import annotations

import base64
import hashlib
import json
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file
from tensorboard.backend.event_processing.event_file_loader import EventFileLoader

from federation.chunks import ChunkList
from federation.coordinator.control_client import CoordinatorClient
from federation.coordinator.process import Coordinator, CoordinatorOptions
from federation.errors import CoordinatorUnreachable, FederationError, RunRefused
from federation.manifest import ModelManifest
from federation.node.connection import CoordinatorConnection, RetryPolicy
from federation.node.site_port import PlanDecision
from federation.plan import Plan, SignedPlan
from tests.federation.doubles import (
    FakeSite,
    Federation,
    initial_tensors,
    numpy_initialiser,
    small_plan,
    trained,
)
from tests.waiting import wait_for


def finished(
    control: CoordinatorClient, run_id: str, states: tuple[str, ...] = ("finished",)
) -> dict[str, Any]:
    """The run's detail once it is over."""

    def over() -> dict[str, Any] | None:
        view = control.run(run_id)
        return view if view["state"] in ("finished", "failed", "stopped") else None

    view = wait_for(over, what="the run to end", seconds=60)
    assert view["state"] in states, view["words"]
    return view


def centralised(sites: dict[str, int], rounds: int) -> dict[str, np.ndarray[Any, Any]]:
    """The same training computed in one place, in float64."""
    model = initial_tensors()
    total = sum(sites.values())
    for number in range(rounds):
        updates = {site: trained(site, number, model) for site in sites}
        averaged = {}
        for name, value in model.items():
            if value.dtype.kind != "f":
                averaged[name] = max(update[name] for update in updates.values())
                continue
            exact = sum(
                updates[site][name].astype(np.float64) * cases / total
                for site, cases in sites.items()
            )
            averaged[name] = np.asarray(exact).astype(value.dtype)
        model = averaged
    return model


def final_weights(federation: Federation, view: dict[str, Any]) -> dict[str, Any]:
    """The finished model's tensors."""
    folder = federation.home / "runs" / view["run_id"] / "model"
    manifest = ModelManifest.from_json((folder / "manifest.json").read_bytes())
    assert manifest.id == view["model_id"]
    return load_file(folder / "weights.safetensors")


def same(got: dict[str, Any], expected: dict[str, Any]) -> None:
    """To float32 accuracy."""
    assert set(got) == set(expected)
    for name, value in expected.items():
        np.testing.assert_allclose(got[name], value, rtol=1e-6, atol=1e-6)


def test_run_equals_central_training(federation: Federation, control: CoordinatorClient) -> None:
    cases = {"site-a": 2, "site-b": 3, "site-c": 7}
    sites = {name: federation.site(name, cases=count) for name, count in cases.items()}
    for site in sites.values():
        federation.start(site)
    run_id = control.submit(small_plan(3))["run_id"]
    view = finished(control, run_id)
    same(final_weights(federation, view), centralised(cases, 3))
    assert view["rounds"] == 3
    assert [at["round"] for at in view["rounds_done"]] == [0, 1, 2, 3]
    for at in view["rounds_done"][1:]:
        assert [row["cases"] for row in at["sites"]] == [2, 3, 7]
        assert all(row["times"]["train_s"] > 0 for row in at["sites"])
        assert all(row["times"]["uploaded_bytes"] > 0 for row in at["sites"])
        assert at["times"]["aggregate_s"] > 0
    splits = {(row["split"], row["site"]) for row in view["rounds_done"][0]["metrics"]}
    assert splits == {(s, site) for s in ("validation", "test") for site in cases}
    assert {row["split"] for row in view["rounds_done"][1]["metrics"]} == {"validation"}
    assert {row["split"] for row in view["rounds_done"][3]["metrics"]} == {"validation", "test"}
    mean = view["rounds_done"][0]["means"][0]
    assert mean["sites"] == 3
    assert mean["metric"] == "dice"
    for site in sites.values():
        assert site.published == [view["model_id"]]
        model = site.folder / "models" / view["model_id"]
        assert (
            model.read_bytes()
            == (federation.home / "runs" / run_id / "model" / "weights.safetensors").read_bytes()
        )
    assert view["sites"][0]["publish"]["segmented"] == 1
    assert control.verify_audit()["ok"]
    assert control.runs()[0]["state"] == "finished"
    _exported(control, run_id, federation.folder / "export", view)
    _events_are_whole(federation, run_id)


def _exported(control: CoordinatorClient, run_id: str, folder: Path, view: dict[str, Any]) -> None:
    control.export(run_id, folder)
    signed = SignedPlan.from_json((folder / "plan.json").read_bytes())
    assert signed.hash == view["plan_hash"]
    manifest = ModelManifest.from_json((folder / "manifest.json").read_bytes())
    assert manifest.id == view["model_id"]
    assert manifest.plan_hash == signed.hash
    assert len(manifest.parents) == 1
    raw = (folder / "weights.safetensors").read_bytes()
    assert manifest.weights_sha256 == hashlib.sha256(raw).hexdigest()
    assert manifest.weights == ChunkList.of_bytes(raw).name
    assert manifest.describes(folder / "weights.safetensors")
    assert view["rounds_done"][-1]["model_id"] == manifest.id
    with pytest.raises(RunRefused, match="not empty"):
        control.export(run_id, folder)


def _scalars(folder: Path) -> dict[tuple[str, int], float]:
    found: dict[tuple[str, int], float] = {}
    for path in sorted(folder.glob("events.out.tfevents.*")):
        for event in EventFileLoader(str(path)).Load():
            for value in event.summary.value:
                key = (value.tag, event.step)
                assert key not in found, f"{key} twice"
                found[key] = float(value.tensor.float_val[0])
    return found


def _events_are_whole(federation: Federation, run_id: str) -> None:
    folder = federation.home / "runs" / run_id / "tensorboard"
    before = _scalars(folder)
    assert ("test/dice/site-a", 3) in before
    assert ("time/train_s/site-b", 2) in before
    assert ("validation/dice/mean_of_sites", 1) in before
    federation.coordinator.engine._parts.records.restore(federation.coordinator.store.run(run_id))
    assert _scalars(folder) == before


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        ("nan", "NaN or infinity"),
        ("shape", "has shape [5], expected [10]"),
        ("dtype", "has type F64, expected F32"),
        ("missing", "1 of 4 tensors are missing"),
        ("norm", "the update moves the model by"),
        ("weight-0", "the update's weight is 0 training cases"),
        ("weight-huge", "the site's frozen data set has 5"),
        ("fail", "the site could not do it (RuntimeError)"),
    ],
)
def test_sick_update_is_refused_and_the_round_goes_on(
    federation: Federation, control: CoordinatorClient, spoil: str, words: str
) -> None:
    sick = federation.site("site-c", cases=5, spoil={1: spoil})
    federation.start(federation.site("site-a", cases=2))
    federation.start(federation.site("site-b", cases=3))
    federation.start(sick)
    view = finished(control, control.submit(small_plan(2))["run_id"])
    first = {row["site"]: row for row in view["rounds_done"][1]["sites"]}
    assert words in first["site-c"]["words"]
    assert first["site-c"]["state"] == ("failed" if spoil == "fail" else "refused")
    assert first["site-a"]["state"] == first["site-b"]["state"] == "done"
    # The next round counts the site again.
    second = {row["site"]: row["state"] for row in view["rounds_done"][2]["sites"]}
    assert second == {"site-a": "done", "site-b": "done", "site-c": "done"}
    told = [detail for action, detail in sick.records if action == "task.reported"]
    assert any(not d["accepted"] and words in str(d["words"]) for d in told)
    model = centralised({"site-a": 2, "site-b": 3}, 1)
    kept = load_file(federation.home / "runs" / view["run_id"] / "rounds" / "00001.safetensors")
    same(kept, model)
    _only_models_left(federation, view)


def _only_models_left(federation: Federation, view: dict[str, Any]) -> None:
    """Neither the updates that counted nor the refused one stay on the coordinator's disk."""
    large = {
        path.name
        for path in (federation.home / "objects").glob("??/*")
        if len(path.name) == 64 and path.stat().st_size > 3000
    }
    assert large == {row["weights_sha256"] for row in view["rounds_done"]}


def test_round_without_quorum_is_asked_for_again_then_fails(
    federation: Federation, control: CoordinatorClient
) -> None:
    federation.start(federation.site("site-a"))
    federation.start(federation.site("site-b", spoil={1: "nan"}))
    view = finished(control, control.submit(small_plan(1))["run_id"], ("failed",))
    assert "1 usable updates after 3 tries, the plan needs 2" in view["words"]
    assert "NaN" in view["words"]
    trainings = (federation.folder / "site-a" / "trainings.log").read_text().split()
    assert trainings == ["1"], "what site-a delivered is kept, not asked for again"


def test_single_sites_update_is_the_model_and_stays(
    federation: Federation, control: CoordinatorClient
) -> None:
    """The mean of one update has the update's bytes: forgetting the one must not lose the other."""
    federation.start(federation.site("site-a"))
    view = finished(control, control.submit(small_plan(3, minimum_sites=1))["run_id"])
    same(final_weights(federation, view), centralised({"site-a": 3}, 3))
    for at in view["rounds_done"]:
        assert federation.coordinator.objects.has(at["weights_sha256"])


def test_silent_site_does_not_hold_the_round(
    federation: Federation, control: CoordinatorClient
) -> None:
    """A site that takes its task and never answers: the deadline passes, the quorum goes on."""
    federation.start(federation.site("site-a"))
    federation.start(federation.site("site-b"))
    identity = federation.enrolled("site-c")
    silent = CoordinatorConnection(identity)
    run_id = control.submit(small_plan(1, deadline_s=1))["run_id"]
    from federation.wire import federation_pb2 as pb

    offer = wait_for(lambda: silent.poll(wait_s=1).task, what="the offer", seconds=20)
    report = pb.TaskReport(format=1, task_id=offer.task_id, outcome=pb.OUTCOME_DONE)
    report.summary.training = 4
    assert silent.report(report).accepted
    wait_for(lambda: control.run(run_id)["state"] == "publishing", what="the model", seconds=40)
    # The silent site will never infer: the data scientist ends the run, the model stays.
    assert control.stop(run_id, "site-c is silent")["state"] == "finished"
    view = control.run(run_id)
    assert view["model_id"]
    trained_sites = {row["site"]: row for row in view["rounds_done"][1]["sites"]}
    assert trained_sites["site-c"]["state"] == "expired"
    assert trained_sites["site-a"]["state"] == "done"
    late = pb.TaskReport(
        format=1, task_id=f"{run_id}.00001.train.site-c.1", outcome=pb.OUTCOME_DONE, cases=4
    )
    reply = silent.report(late)
    assert not reply.accepted
    assert "went on without" in reply.words
    silent.close()


def test_rejected_plan_and_missing_quorum(
    federation: Federation, control: CoordinatorClient
) -> None:
    federation.start(federation.site("site-a"))
    federation.start(
        federation.site("site-b", answer=PlanDecision.rejected("no consent for this purpose"))
    )
    view = finished(control, control.submit(small_plan(1))["run_id"], ("failed",))
    assert "sites joined, the plan needs 2 (site-b: no consent for this purpose)" in view["words"]


def test_too_few_cases_do_not_join(federation: Federation, control: CoordinatorClient) -> None:
    federation.start(federation.site("site-a"))
    federation.start(federation.site("site-b", cases=0))
    view = finished(control, control.submit(small_plan(1))["run_id"], ("failed",))
    assert "0 training cases, the plan asks for at least 1" in view["words"]


def test_custodians_take_their_time(federation: Federation, control: CoordinatorClient) -> None:
    """A plan undecided and a model not accepted wait, and do not hold other work up."""
    slow = federation.site("site-a", answer=PlanDecision.pending(), accepts=False)
    federation.start(slow)
    federation.start(federation.site("site-b"))
    run_id = control.submit(small_plan(1))["run_id"]
    wait_for(lambda: "task.waits" in [a for a, _ in slow.records], what="the offer to wait")
    assert control.run(run_id)["state"] == "offered"
    slow.answer = PlanDecision.approved()
    wait_for(lambda: control.run(run_id)["state"] == "publishing", what="publication", seconds=40)
    wait_for(lambda: any(slow.folder.glob("models/*")), what="the model to be offered")
    assert not slow.published
    slow.accepts = True
    view = finished(control, run_id)
    assert slow.published == [view["model_id"]]


def test_pause_resume_stop(federation: Federation, control: CoordinatorClient) -> None:
    sites = [federation.site(name) for name in ("site-a", "site-b")]
    for site in sites:
        federation.start(site)
    run_id = control.submit(small_plan(200))["run_id"]
    wait_for(lambda: control.run(run_id)["round"] >= 2, what="round 2", seconds=40)
    assert control.pause(run_id, "a meeting")["state"] == "paused"
    with pytest.raises(RunRefused, match="paused cannot become paused"):
        control.pause(run_id)
    paused_at = control.run(run_id)["round"]
    other = control.submit(small_plan(1))["run_id"]
    finished(control, other)
    assert control.run(run_id)["round"] <= paused_at
    assert control.resume(run_id)["state"] == "running"
    with pytest.raises(RunRefused, match="not paused"):
        control.resume(run_id)
    wait_for(lambda: control.run(run_id)["round"] > paused_at, what="a further round", seconds=40)
    assert control.stop(run_id, "enough")["state"] == "stopped"
    with pytest.raises(RunRefused, match="it is over"):
        control.stop(run_id)
    with pytest.raises(RunRefused, match="no finished model"):
        control.export(run_id, federation.folder / "x")


def test_revoked_site_leaves_a_running_round(
    federation: Federation, control: CoordinatorClient
) -> None:
    for name in ("site-a", "site-b"):
        federation.start(federation.site(name))
    lost = CoordinatorConnection(federation.enrolled("site-c"))
    from federation.wire import federation_pb2 as pb

    run_id = control.submit(small_plan(2))["run_id"]
    offer = wait_for(lambda: lost.poll(wait_s=1).task, what="the offer", seconds=20)
    report = pb.TaskReport(format=1, task_id=offer.task_id, outcome=pb.OUTCOME_DONE)
    report.summary.training = 4
    lost.report(report)
    wait_for(lambda: control.run(run_id)["state"] == "running", what="the run", seconds=20)
    control.revoke_site("site-c", "stolen")
    view = finished(control, run_id)
    assert {row["site"]: row["state"] for row in view["sites"]}["site-c"] == "left"
    assert [row["state"] for row in control.sites()] == ["enrolled", "enrolled", "revoked"]
    lost.close()


def test_submission_is_checked(federation: Federation, control: CoordinatorClient) -> None:
    with pytest.raises(RunRefused, match="0 sites, the plan asks for at least 2"):
        control.submit(small_plan(1))
    federation.enrolled("site-a")
    with pytest.raises(RunRefused, match="not enrolled: site-x"):
        control.submit(small_plan(1), ["site-a", "site-x"])
    other = Plan.model_validate(small_plan(1).model_dump() | {"project": "another"})
    with pytest.raises(RunRefused, match="for project another"):
        control.submit(other)
    with pytest.raises(RunRefused, match="no runs begin"):
        control.run("")
    status = control.status()
    assert status["sites"] == {"invited": 0, "enrolled": 1, "revoked": 0}
    assert [e["action"] for e in control.audit(2)] == ["site.added", "site.enrolled"]
    token = control.add_site("site-b", 1.0)
    assert token.startswith("clinode-enrol-1.")


def test_failing_initialiser(tmp_path: Path, runtime: None) -> None:
    class Broken(Exception):
        pass

    calls = []

    def initialiser(plan: SignedPlan, out: Path, work: Path) -> None:
        calls.append(plan.hash)
        if len(calls) == 1:
            raise Broken("may pass")
        raise FederationError("this network cannot be made")

    made = Federation(tmp_path, initialiser=initialiser)
    try:
        for name in ("site-a", "site-b"):
            made.enrolled(name)
        with CoordinatorClient(made.home) as control:
            view = finished(control, control.submit(small_plan(1))["run_id"], ("failed",))
            assert view["words"] == "this network cannot be made"
            assert "run.stumbled" in [entry["action"] for entry in control.audit(20)]
    finally:
        made.close()


def test_messages_are_captured_before_tls_and_name_no_case(tmp_path: Path, runtime: None) -> None:
    made = Federation(tmp_path, capture=tmp_path / "capture")
    try:
        for name in ("site-a", "site-b"):
            made.start(made.site(name))
        with CoordinatorClient(made.home) as control:
            finished(control, control.submit(small_plan(1))["run_id"])
    finally:
        made.close()
    names = {path.name.split("-", 1)[1] for path in (tmp_path / "capture").iterdir()}
    for method in ("Enrol", "Handshake", "PollTask", "GetChunks", "PutChunks", "ReportTask"):
        assert {f"in-{method}.bin", f"out-{method}.bin"} <= names
    everything = b"".join(p.read_bytes() for p in sorted((tmp_path / "capture").iterdir()))
    # The evaluation's cases are called sub-1_ses-a and so on: they stay at the site.
    assert b"ses-a" not in everything
    assert base64.b64encode(b"sub-1_ses-a") not in everything
    assert str(tmp_path).encode() not in everything
    # The search itself finds what is there.
    assert b"conv.weight" in everything


def test_no_coordinator_is_said_in_words(tmp_path: Path, runtime: None) -> None:
    with (
        CoordinatorClient(tmp_path) as control,
        pytest.raises(CoordinatorUnreachable, match="clinode coordinator run"),
    ):
        control.status()


def test_coordinator_restarts_in_the_middle(tmp_path: Path, runtime: None) -> None:
    """An orderly restart: agents wait, then go on; the audit chain is one."""
    made = Federation(tmp_path)
    sites: list[FakeSite] = [made.site(name) for name in ("site-a", "site-b")]
    for site in sites:
        made.start(site)
    with CoordinatorClient(made.home) as control:
        run_id = control.submit(small_plan(6))["run_id"]
        wait_for(lambda: control.run(run_id)["round"] >= 2, what="round 2", seconds=40)
    made.coordinator.stop()
    made.coordinator = Coordinator(made.home, CoordinatorOptions(initialiser=numpy_initialiser))
    made.coordinator.start()
    try:
        with CoordinatorClient(made.home) as control:
            view = finished(control, run_id)
            assert control.verify_audit()["ok"]
        same(final_weights(made, view), centralised({"site-a": 3, "site-b": 3}, 6))
        for site in sites:
            rounds = (site.folder / "trainings.log").read_text().split()
            assert rounds == [str(number) for number in range(1, 7)]
    finally:
        made.close()


def test_waiting_agent_stops_at_once(federation: Federation) -> None:
    identity = federation.enrolled("site-a")
    pauses: list[float] = []
    stop = threading.Event()
    away = CoordinatorConnection(
        identity,
        address="127.0.0.1:1",
        retry=RetryPolicy(
            sleep=lambda s: (pauses.append(s), stop.set() if len(pauses) == 3 else None)[0],
            jitter=lambda: 0.5,
        ),
        stop=stop,
    )
    with pytest.raises(CoordinatorUnreachable):
        away.handshake()
    assert pauses == [0.5, 1.0, 2.0]
    away.close()


def test_records_are_json(federation: Federation, control: CoordinatorClient) -> None:
    for name in ("site-a", "site-b"):
        federation.start(federation.site(name))
    run_id = control.submit(small_plan(1))["run_id"]
    finished(control, run_id)
    folder = federation.home / "runs" / run_id
    document = json.loads((folder / "rounds" / "00001.json").read_text())
    assert document["format"] == 1
    assert document["state"] == "closed"
    assert not list((federation.home / "objects" / "incoming").rglob("*.part"))
