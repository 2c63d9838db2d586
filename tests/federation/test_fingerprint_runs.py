"""Fingerprints in a run: asked where the plan lists them, merged at the coordinator."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from federation.coordinator.control_client import CoordinatorClient
from federation.coordinator.reports import _fingerprint
from federation.errors import FingerprintRefused
from federation.fingerprint import Fingerprint, merge
from federation.node.work import RunFiles, Worker
from federation.plan import SignedPlan, sign
from federation.wire import federation_pb2 as pb
from tests.federation.doubles import FakeSite, Federation, small_plan
from tests.federation.test_rounds import finished


@pytest.mark.integration
def test_the_coordinator_merges_what_the_sites_tell(
    federation: Federation, control: CoordinatorClient
) -> None:
    sites = [federation.site(name, cases=n) for name, n in {"site-a": 2, "site-bb": 5}.items()]
    for site in sites:
        federation.start(site)
    view = finished(control, control.submit(small_plan(1))["run_id"])
    told = view["fingerprint"]
    assert [(s["site"], s["state"]) for s in told["sites"]] == [
        ("site-a", "done"),
        ("site-bb", "done"),
    ]
    expected = merge(Fingerprint.from_json(site.fingerprint("")) for site in sites)
    assert told["merged"] == expected.model_dump(mode="json")
    assert (told["merged"]["sites"], told["merged"]["patients"]) == (2, 7)
    assert told["figures"]["channels"]["FLAIR"]["spacing_mm"] == [1.7, 1.0, 3.0]
    kept = json.loads((federation.home / "runs" / view["run_id"] / "fingerprint.json").read_text())
    assert kept["merged"] == told["merged"]


@pytest.mark.integration
def test_a_plan_that_does_not_list_them_asks_nobody(
    federation: Federation, control: CoordinatorClient
) -> None:
    for name in ("site-a", "site-b"):
        federation.start(federation.site(name))
    plan = small_plan(1).model_copy(update={"sends": ("update", "metrics")})
    view = finished(control, control.submit(plan)["run_id"])
    assert view["fingerprint"] is None
    assert not (federation.home / "runs" / view["run_id"] / "fingerprint.json").exists()


KEY = Ed25519PrivateKey.generate()


class Chatty(FakeSite):
    """A site whose fingerprint names a patient."""

    def fingerprint(self, plan_hash: str) -> bytes:
        return b'{"patients":["sub-001"]}'


def task_of(signed: SignedPlan) -> pb.Task:
    return pb.Task(task_id="t", run_id="r", kind=pb.TASK_KIND_FINGERPRINT, plan_hash=signed.hash)


def files_with(folder: Path, signed: SignedPlan) -> RunFiles:
    files = RunFiles(folder / "run")
    files.keep_plan(signed)
    return files


def test_a_node_tells_only_what_its_plan_lists(tmp_path: Path) -> None:
    site = FakeSite("a", tmp_path)
    silent = sign(small_plan().model_copy(update={"sends": ("update",)}), KEY)
    report = Worker(site).do(task_of(silent), files_with(tmp_path / "silent", silent))
    assert report is not None
    assert report.outcome == pb.OUTCOME_REFUSED
    assert not report.fingerprint
    open_plan = sign(small_plan(), KEY)
    told = Worker(site).do(task_of(open_plan), files_with(tmp_path / "open", open_plan))
    assert told is not None
    assert told.fingerprint == site.fingerprint("")
    with pytest.raises(FingerprintRefused):
        Worker(Chatty("a", tmp_path)).do(task_of(open_plan), files_with(tmp_path / "c", open_plan))


@pytest.mark.parametrize("raw", [b"", b"{}", b"x" * 300_000])
def test_the_coordinator_refuses_what_is_none(raw: bytes) -> None:
    with pytest.raises(FingerprintRefused):
        _fingerprint(pb.TaskReport(fingerprint=raw))


def test_a_site_speaks_for_itself_only(tmp_path: Path) -> None:
    one = Fingerprint.from_json(FakeSite("a", tmp_path).fingerprint(""))
    assert _fingerprint(pb.TaskReport(fingerprint=one.to_json()))["sites"] == 1
    with pytest.raises(FingerprintRefused, match="of one site"):
        _fingerprint(pb.TaskReport(fingerprint=merge([one, one]).to_json()))
