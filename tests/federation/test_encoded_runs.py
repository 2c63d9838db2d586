"""Whole runs with encoded updates: near full precision, the same after kills, sick ones named."""

from __future__ import annotations

import errno
import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from federation.coordinator import reports
from federation.coordinator.control_client import CoordinatorClient
from federation.node import work
from federation.node.owed import Owed
from federation.node.states import kill_points
from federation.node.transfer import payload_of
from federation.node.work import RunFiles
from federation.plan import Plan, UpdateSpec
from federation.wire import federation_pb2 as pb
from tests.federation.doubles import Federation, initial_tensors, small_plan
from tests.federation.test_policy import plan_with
from tests.federation.test_rounds import centralised, final_weights, finished
from tests.federation.zygote import Reviver

KINDS = ("offer", "train", "evaluate", "fingerprint", "publish")
KILLS = ("worked:entering", "worked:entered", "sent:entered", "reported:entering")


def encoded_plan(rounds: int, name: str = "encoded", **update: str) -> Plan:
    spec = UpdateSpec.model_validate(update)
    return small_plan(rounds).model_copy(update={"update": spec, "name": name})


def near(got: dict[str, Any], exact: dict[str, Any], part: float) -> None:
    """Within a part of how far the run has moved each tensor; counters exactly."""
    first = initial_tensors()
    for name, value in exact.items():
        if value.dtype.kind != "f":
            assert got[name] == value
            continue
        moved = np.abs(value.astype(np.float64) - first[name]).max()
        error = np.abs(got[name].astype(np.float64) - value).max()
        assert error <= moved * part, name


@pytest.mark.parametrize(
    ("update", "part"),
    [
        ({"encoding": "int8", "compression": "zstd"}, 1 / 100),
        ({"encoding": "bf16"}, 1 / 200),
        ({"encoding": "fp32", "compression": "zstd"}, 1e-6),
    ],
)
def test_a_run_is_near_one_in_full_precision(
    federation: Federation, control: CoordinatorClient, update: dict[str, str], part: float
) -> None:
    cases = {"site-a": 2, "site-b": 3}
    sites = [federation.site(name, cases=count) for name, count in cases.items()]
    for site in sites:
        federation.start(site)
    view = finished(control, control.submit(encoded_plan(3, **update))["run_id"])
    near(final_weights(federation, view), centralised(cases, 3), part)
    assert [row["state"] for row in view["rounds_done"][3]["sites"]] == ["done", "done"]
    models = {path.stem for path in (federation.home / "objects").glob("??/*")}
    named = federation.coordinator.store.model_hashes()
    assert len(models) <= len(named) + 2, "updates are dropped, encoded and decoded"
    assert not list((federation.home / "objects" / "scratch").glob("*"))
    for site in sites:
        assert not list((site.folder / "runs").glob("*/agent/owed/*"))
        assert not list((site.folder / "runs").glob("*/agent/out/*"))


def test_a_sick_update_is_refused_by_name_and_owes_nothing(
    federation: Federation, control: CoordinatorClient
) -> None:
    sites = {name: federation.site(name) for name in ("site-a", "site-b", "site-c")}
    sites["site-c"].spoil = {1: "nan", 2: "shape"}
    for site in sites.values():
        federation.start(site)
    plan = encoded_plan(3, encoding="int8", compression="zstd")
    view = finished(control, control.submit(plan)["run_id"])
    rows = [
        next(row for row in at["sites"] if row["site"] == "site-c")
        for at in view["rounds_done"]
        if at["round"]
    ]
    assert [row["state"] for row in rows] == ["refused", "failed", "done"]
    assert "tensor conv.bias holds NaN or infinity" in rows[0]["words"]
    assert "tensor conv.bias has shape [5], expected [10]" in rows[1]["words"]


def test_what_is_not_what_the_plan_asks_for_is_refused(
    federation: Federation, control: CoordinatorClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One site says that its update is plain; then it sends plain weights as if encoded."""
    honest = work._sent

    def lying(task: pb.Task, files: RunFiles, spec: UpdateSpec, weights: Path) -> pb.Payload:
        payload = honest(task, files, spec, weights)
        if ".site-b." not in task.task_id:
            return payload
        if task.round == 1:
            payload.update_kind, payload.encoding = pb.UPDATE_KIND_PLAIN, ""
            return payload
        files.trained(task.task_id).replace(files.update(task.task_id))
        other = payload_of(pb.PAYLOAD_KIND_UPDATE, payload.name, files.update(task.task_id))
        other.update_kind, other.encoding = payload.update_kind, payload.encoding
        return other

    monkeypatch.setattr(work, "_sent", lying)
    for name in ("site-a", "site-b", "site-c"):
        federation.start(federation.site(name))
    plan = encoded_plan(2, encoding="int8", compression="zstd")
    view = finished(control, control.submit(plan)["run_id"])
    rows = [
        next(row for row in at["sites"] if row["site"] == "site-b")
        for at in view["rounds_done"]
        if at["round"]
    ]
    assert [row["state"] for row in rows] == ["refused", "refused"]
    assert "of another kind than the plan asks for" in rows[0]["words"]
    assert "not whole and valid zstd" in rows[1]["words"]
    owed = list((federation.folder / "site-b" / "runs").glob("*/agent/owed/*"))
    assert not owed


def test_what_is_owed_counts_once_and_only_if_the_update_was_used(tmp_path: Path) -> None:
    owed = Owed(tmp_path / "owed")
    assert owed.before(1) is None
    for number in (1, 2, 3, 4):
        owed.open(f"run.{number}").write_text(f"after {number}")
        assert owed.unsettled() == [f"run.{number}"]
        for _ in range(2):
            owed.settle(f"run.{number}", number, used=number != 3)
        assert owed.unsettled() == []
    found = owed.before(5)
    assert found is not None
    assert found.read_text() == "after 4"
    # A round that is done again starts from what it started from the first time.
    again = owed.before(4)
    assert again is not None
    assert again.read_text() == "after 2"
    owed.forget()
    assert owed.before(5) is None


@pytest.mark.integration
@pytest.mark.timeout(240)
def test_killed_around_the_report_a_run_gives_the_same_bytes(tmp_path: Path, runtime: None) -> None:
    """SIGKILL before and after the update is journalled, sent, and its report answered."""
    plan = encoded_plan(3, encoding="int8", compression="zstd")
    steady = _weights(Federation(tmp_path / "steady"), plan, None)
    markers = tmp_path / "markers"
    markers.mkdir()
    for kind, point in itertools.product(KINDS, kill_points()):
        if kind != "train" or not point.endswith(KILLS):
            (markers / f"{kind}-{point}".replace(":", "_")).touch()
    killed = _weights(Federation(tmp_path / "killed"), plan, markers)
    assert len(list(markers.iterdir())) == len(KINDS) * len(kill_points())
    for tensor, value in steady.items():
        np.testing.assert_array_equal(killed[tensor], value)
    near(steady, centralised({"site-a": 3, "site-b": 4}, 3), 1 / 100)


def _weights(made: Federation, plan: Plan, markers: Path | None) -> dict[str, Any]:
    """The model of a run in which site-a is killed at each point that has no marker yet."""
    made.start(made.site("site-b", cases=4))
    victim, life = made.site("site-a"), None
    if markers is None:
        made.start(victim)
    else:
        made.enrolled("site-a")
        life = Reviver("agent", (str(victim.folder), "site-a", str(markers)))
    try:
        with CoordinatorClient(made.home) as control:
            weights = final_weights(made, finished(control, control.submit(plan)["run_id"]))
        assert life is None or not life.other_ends
    finally:
        if life is not None:
            life.close()
        made.close()
    return weights


def test_a_full_disk_at_the_coordinator_costs_no_update(
    federation: Federation, control: CoordinatorClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Decoding finds no space at first: the site waits and reports again."""
    real, refused = reports.decode, []

    def full_at_first(came: Path, model: Path, out: Path, spec: UpdateSpec) -> None:
        if len(refused) < 3:
            refused.append(out)
            out.write_bytes(b"a part")
            raise OSError(errno.ENOSPC, "no space")
        real(came, model, out, spec)

    monkeypatch.setattr(reports, "decode", full_at_first)
    for name in ("site-a", "site-b"):
        federation.start(federation.site(name))
    plan = encoded_plan(1, encoding="int8")
    view = finished(control, control.submit(plan)["run_id"])
    assert len(refused) == 3
    assert not any(path.exists() for path in refused)
    rows = view["rounds_done"][1]["sites"]
    assert [(row["state"], row["attempt"]) for row in rows] == [("done", 1), ("done", 1)]


def test_asynchronous_training_takes_encoded_updates(
    federation: Federation, control: CoordinatorClient
) -> None:
    """The double moves every weight by the same: what differs between weights is rounding."""
    for name in ("site-a", "site-b"):
        federation.start(federation.site(name))
    spec = UpdateSpec(encoding="int8", compression="zstd")
    plan = plan_with(mode="asynchronous", buffer_size=2).model_copy(update={"update": spec})
    view = finished(control, control.submit(plan)["run_id"])
    assert {row["site"] for row in view["updates"]} == {"site-a", "site-b"}
    got = final_weights(federation, view)["conv.weight"].astype(np.float64)
    moved = got - initial_tensors()["conv.weight"]
    assert abs(moved.mean()) > 0.1
    assert moved.std() < abs(moved.mean()) / 100
