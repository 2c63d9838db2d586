"""The control API over its real socket: calls, errors, the audit, the socket's privacy."""

from __future__ import annotations

import json
import socket
import stat
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from appliance.control import node_pb2 as pb
from appliance.control.client import ACTIONS, NodeClient
from appliance.control.node_pb2 import DESCRIPTOR
from appliance.control.socket_path import LONGEST_SOCKET_PATH, control_socket
from appliance.errors import ControlError, NotAllowed, NotFound, NotRunning
from federation.audit_chain import AuditChain
from federation.fingerprint import Fingerprint
from federation.plan import parse_plan, sign
from tests.appliance.control.served import ACTOR, HELD, PATIENT, Served, key_of, serve


def test_every_call_has_a_method_of_the_client() -> None:
    service = DESCRIPTOR.services_by_name["NodeControl"]
    calls = {method.name for method in service.methods}
    looks = {
        "GetStatus": "status",
        "EchoPacs": "echo",
        "FindStudies": "find",
        "PullStudies": "pull",
        "ListStudies": "studies",
        "ShowStudy": "study",
        "ListDatasets": "datasets",
        "ShowDataset": "dataset",
        "CreateDataset": "create_dataset",
        "FreezeDataset": "freeze_dataset",
        "ImportLabels": "import_labels",
        "FingerprintDataset": "fingerprint",
        "ReportStudy": "study_report",
        "ReportDataset": "dataset_report",
        "ListPlans": "plans",
        "ShowPlan": "plan",
        "ListRuns": "runs",
        "ListModels": "models",
        "ShowModel": "model",
        "ListResults": "results",
        "ShowResult": "result",
        "ListAudit": "audit",
        "VerifyAudit": "verify_audit",
        "RevealIdentity": "identity",
    }
    assert all(callable(getattr(NodeClient, name)) for name in looks.values())
    assert calls == set(looks) | set(ACTIONS.values())


def test_status_shows_the_whole_node(node: Served) -> None:
    with node.client() as client:
        status = client.status()
    assert (status.site, status.project) == ("hospital-t", "ms")
    assert [(c.name, c.state) for c in status.components] == [("receiver", "running")]
    assert {(c.state, c.count) for c in status.studies} == {("ready", 1), ("quarantined", 2)}
    assert (status.funnel.offered, status.funnel.converted, status.funnel.ready) == (3, 2, 1)
    reasons = {r.reason: r.count for r in status.funnel.quarantine_reasons}
    assert reasons == {"FLAIR noise is high": 1, "slices missing": 1}
    assert (status.federation.state, status.federation.round) == ("connected", 3)
    assert status.open_items == 5, "a plan, a model, a result and two studies wait"
    assert status.audit_intact
    assert status.disk_free_bytes > 0
    assert [entry.action for entry in status.recent] == ["plan.offered", "model.offered"]
    assert status.dicom_address == "CLINODE @ 127.0.0.1:11112"
    assert {s.stage for s in status.stages} >= {"request", "publish"}


def test_pacs_calls(node: Served) -> None:
    with node.client() as client:
        echo = client.echo()
        assert (echo.pacs, echo.ok, echo.message) == ("main", True, "success")
        assert echo.milliseconds == 1.5
        (found,) = client.find().studies
        assert (found.key, found.patient, found.date) == (key_of(7), "hidden", "hidden")
        assert (client.pull().matched, client.pull().added) == (1, 0)
        assert client.pull(keys=("nobody",)).matched == 0
        assert client.study(key_of(7)).study.state == "found"
    assert [e.detail["added"] for e in node.entries("pacs.pulled")] == [1, 0, 0]


def test_revealing_is_audited_and_hiding_is_not(node: Served) -> None:
    with node.client() as client:
        client.find()
        assert node.entries("pacs.revealed") == []
        (found,) = client.find(reveal=True).studies
    assert found.patient == PATIENT
    (entry,) = node.entries("pacs.revealed")
    assert (entry.actor, entry.detail) == (ACTOR, {"count": 1})
    assert PATIENT.encode() not in node.audit.path.read_bytes()


def test_studies_are_listed_shown_and_filtered(node: Served) -> None:
    with node.client() as client:
        everything = client.studies()
        assert [s.key for s in everything.studies] == [key_of(n) for n in (1, 2, 3)]
        ready = client.studies(state="ready")
        assert (ready.total, [s.key for s in ready.studies]) == (1, [key_of(1)])
        assert [s.key for s in client.studies(limit=1, offset=1).studies] == [key_of(2)]
        detail = client.study(key_of(1))
    assert (detail.study.subject, detail.study.session) == ("sub-p1", "ses-s1")
    assert [run.stage for run in detail.study.stages][-1] == "publish"
    assert (detail.qc_decision, list(detail.qc_reasons)) == ("review", ["FLAIR noise is high"])
    assert [(m.name, m.value) for m in detail.qc] == [("flair_snr", 12.5)]
    assert [r.key for r in detail.results] == [HELD]
    assert len(detail.files) == 1


def test_study_actions_move_the_study_wake_the_node_and_are_audited(node: Served) -> None:
    with node.client() as client:
        assert client.act("study-release", key_of(2), reason="looked at it").state == "registered"
        assert client.act("study-retry", key_of(3)).state == "deidentified"
        assert client.act("study-withdraw", key_of(1), reason="asked for").state == "withdrawn"
    assert node.operations.woken == 3
    (released,) = node.entries("study.release")
    assert (released.actor, released.object) == (ACTOR, key_of(2))
    assert released.detail == {"reason": "looked at it"}
    assert len(node.entries("study.retry")) == len(node.entries("study.withdraw")) == 1


def test_a_data_set_from_open_to_revoked(node: Served) -> None:
    with node.client() as client:
        assert client.create_dataset("first", ("ms",)).state == "open"
        frozen = client.freeze_dataset("first", "enough")
        assert (frozen.state, frozen.cases, list(frozen.tags)) == ("frozen", 1, ["ms"])
        assert client.studies(state="ready").studies[0].split == "train"
        fingerprint = client.fingerprint("first")
        assert Fingerprint.from_json(fingerprint.document).patients == 6
        assert client.act("dataset-approve", "first").state == "approved"
        assert client.act("dataset-revoke", "first", reason="ended").state == "revoked"
        assert [d.state for d in client.datasets().datasets] == ["revoked"]
        assert client.dataset("first").hash == "1" * 64
    for action in ("created", "frozen", "approved", "revoked"):
        assert [e.actor for e in node.entries(f"dataset.{action}")] == [ACTOR]


def test_plans_show_the_signed_bytes_and_are_decided(node: Served) -> None:
    beginning = node.signed.hash[:8]
    with node.client() as client:
        plan = client.plan(beginning)
        assert plan.signature_valid
        assert json.loads(plan.canonical)["name"] == node.signed.plan.name
        assert (plan.rounds, list(plan.sends)) == (2, ["update", "metrics", "fingerprint"])
        with pytest.raises(NotAllowed, match="approved data set"):
            client.act("plan-approve", beginning)
        client.create_dataset("first")
        client.freeze_dataset("first")
        client.act("dataset-approve", "first")
        assert client.act("plan-approve", beginning).state == "approved"
        assert client.act("plan-reject", beginning, reason="changed").state == "rejected"
        assert [p.state for p in client.plans().plans] == ["rejected"]
    assert [e.actor for e in node.entries("plan.rejected")] == [ACTOR]


def test_a_plan_whose_stored_bytes_were_changed_is_shown_as_invalid(node: Served) -> None:
    changed = node.signed.to_json().decode().replace("ms-lesion", "ms-lesiom")
    assert changed != node.signed.to_json().decode()
    node.state.plans.offer("f" * 64, name="forged", signer="x", document=changed)
    with node.client() as client:
        assert not client.plan("f" * 64).signature_valid
        assert client.plan(node.signed.hash).signature_valid


def test_models_are_accepted_and_rejected(node: Served) -> None:
    with node.client() as client:
        assert [m.state for m in client.models().models] == ["offered"]
        assert client.act("model-accept", node.model.id[:8]).state == "accepted"
        assert client.model(node.model.id).state == "accepted"
        with pytest.raises(NotAllowed, match="--reason"):
            client.act("model-reject", node.model.id)
        assert client.act("model-reject", node.model.id, reason="too old").state == "rejected"
    assert [e.object for e in node.entries("model.accepted")] == [node.model.id]


def test_results_are_held_released_and_sent(node: Served) -> None:
    with node.client() as client:
        assert [r.state for r in client.results().results] == ["held"]
        with pytest.raises(NotAllowed, match="held"):
            client.act("result-send", HELD)
        assert client.act("result-hold", HELD, reason="wait").state == "held"
        assert client.act("result-release", HELD, destination="archive").state == "released"
        assert client.act("result-send", HELD[:6]).state == "sent"
        shown = client.result(HELD)
        assert (shown.destination, shown.commitment) == ("archive", "off")
        states = ["held", "held", "released", "sending", "sent"]
        assert [step.state for step in shown.history] == states
    assert [e.detail["destination"] for e in node.entries("result.released")] == ["archive"]
    assert [e.actor for e in node.entries("result.send-asked")] == [ACTOR]


def test_the_audit_is_listed_filtered_and_verified(node: Served) -> None:
    with node.client() as client:
        client.pull()
        listed = client.audit(2)
        assert (len(listed.entries), listed.total) == (2, 3)
        assert [e.action for e in client.audit(9, "pacs.pulled").entries] == ["pacs.pulled"]
        checked = client.verify_audit()
        assert (checked.intact, checked.entries) == (True, 3)


def test_a_damaged_audit_log_is_said_and_does_not_blind_the_node(node: Served) -> None:
    path = node.audit.path
    text = path.read_bytes()
    path.write_bytes(text.replace(b"plan.offered", b"plan.0ffered", 1))
    with node.client() as client:
        status = client.status()
        assert not status.audit_intact
        assert status.site == "hospital-t"
        assert not client.verify_audit().intact
        with pytest.raises(ControlError, match="audit verify"):
            client.audit()


@pytest.mark.parametrize(
    "ask",
    [
        lambda c: c.study("st999999999999"),
        lambda c: c.study("st0"),
        lambda c: c.study("st00"),
        lambda c: c.dataset("none"),
        lambda c: c.plan("ffffffff"),
        lambda c: c.model("ffffffff"),
        lambda c: c.result("ffffffff"),
        lambda c: c.echo("elsewhere"),
        lambda c: c.act("study-retry", "st999999999999"),
    ],
)
def test_what_is_unknown_or_ambiguous_is_not_found(node: Served, ask: object) -> None:
    assert callable(ask)
    with node.client() as client, pytest.raises(NotFound):
        ask(client)


@pytest.mark.parametrize(
    "ask",
    [
        lambda c: c.act("study-release", key_of(2)),
        lambda c: c.act("study-release", key_of(3), reason="not a QC refusal"),
        lambda c: c.act("study-retry", key_of(1)),
        lambda c: c.studies(state="elsewhere"),
        lambda c: c.create_dataset("twice") and c.create_dataset("twice"),
        lambda c: c.act("dataset-approve", c.create_dataset("open").name),
    ],
)
def test_what_the_state_forbids_is_not_allowed(node: Served, ask: object) -> None:
    assert callable(ask)
    with node.client() as client, pytest.raises(NotAllowed) as refused:
        ask(client)
    assert str(refused.value)


def test_faults_of_the_pacs_and_of_ours_are_told_apart(node: Served) -> None:
    node.operations.down = True
    with node.client() as client:
        with pytest.raises(ControlError, match="could not do this: nothing answers"):
            client.find()
        node.operations.broken = True
        with pytest.raises(ControlError, match=r"internal error \(ZeroDivisionError\)") as fault:
            client.find()
        assert PATIENT not in str(fault.value)
        assert client.status().site == "hospital-t", "the service goes on"


def test_the_actor_is_who_the_client_says(node: Served) -> None:
    for actor, expected in (("berta", "berta"), ("x" * 100, "x" * 64), ("jürgen", "j?rgen")):
        with node.client(actor) as client:
            client.pull()
        assert node.entries("pacs.pulled")[-1].actor == expected


def test_nobody_running_is_said(runtime: Path, tmp_path: Path) -> None:
    with NodeClient(tmp_path) as client, pytest.raises(NotRunning, match="clinode node run"):
        client.status()


def test_the_socket_is_private_and_a_stale_one_is_replaced(runtime: Path, tmp_path: Path) -> None:
    path = control_socket(tmp_path / "home")
    stale = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    stale.bind(str(path))
    stale.close()
    assert path.exists()
    with serve(tmp_path / "home") as served:
        mode = path.stat().st_mode
        assert stat.S_ISSOCK(mode)
        assert stat.S_IMODE(mode) == 0o600
        assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
        with served.client() as client:
            assert isinstance(client.status(), pb.Status)
    assert not path.exists()


def test_two_homes_have_two_sockets_and_one_home_has_one(runtime: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "a")
    (tmp_path / "a").mkdir()
    assert control_socket(tmp_path / "a") == control_socket(tmp_path / "link")
    assert control_socket(tmp_path / "a") != control_socket(tmp_path / "b")


def test_a_runtime_folder_with_too_long_a_path_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path / ("x" * LONGEST_SOCKET_PATH)))
    with pytest.raises(ControlError, match="XDG_RUNTIME_DIR"):
        NodeClient(tmp_path)


def test_a_runtime_folder_open_to_others_is_refused(runtime: Path, tmp_path: Path) -> None:
    (runtime / "clinode").mkdir(mode=0o755)
    (runtime / "clinode").chmod(0o755)
    with pytest.raises(ControlError, match="0700"):
        NodeClient(tmp_path)


def test_the_chain_goes_on_after_another_process_wrote(node: Served) -> None:
    with node.client() as client:
        client.create_dataset("first")
    again = AuditChain(node.audit.path)
    again.append("test", "test.note", "x")
    again.close()
    with node.client() as client:
        client.create_dataset("second")
        assert client.verify_audit().entries == 5


def test_runs_are_left_halted_and_resumed(node: Served) -> None:
    node.state.runs.seen("run-0001", node.signed.hash)
    node.state.runs.seen("run-0002", node.signed.hash)
    with node.client() as client:
        assert [(r.name, r.state) for r in client.runs().runs] == [
            (node.signed.plan.name, "taking part")
        ] * 2
        assert "left for good" in client.act("run-leave", "run-0001", reason="vote").message
        assert "halted since" in client.act("runs-halt", "", reason="audit").message
        assert client.status().federation.halted
        shown = {r.run: (r.state, r.reason) for r in client.runs().runs}
        assert shown == {"run-0001": ("left", "vote"), "run-0002": ("halted", "audit")}
        client.act("runs-resume", "")
        assert not client.status().federation.halted
        with pytest.raises(NotAllowed, match="nothing is halted"):
            client.act("runs-resume", "")
        with pytest.raises(NotFound):
            client.act("run-leave", "run-0009")
    said = [node.entries(action)[0].actor for action in ("run.left", "runs.halted", "runs.resumed")]
    assert said == [ACTOR] * 3


def test_an_amendment_is_shown_with_exactly_what_changes(node: Served) -> None:
    document = node.signed.plan.model_dump(mode="json") | {"amends": node.signed.hash}
    document["training"]["rounds"] += 3
    changed = sign(parse_plan(document), Ed25519PrivateKey.generate())
    node.governance.offer_plan(changed)
    with node.client() as client:
        plan = client.plan(changed.hash)
        assert (plan.amends, list(plan.changes)) == (node.signed.hash, ["rounds 2 -> 5 (+3)"])
        assert not client.plan(node.signed.hash).amends
