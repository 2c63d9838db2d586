"""A patient's withdrawal: nothing of her is left, nobody else is touched, she is refused later."""

from __future__ import annotations

import contextlib
import hashlib
import json
import sqlite3
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import pytest

from appliance.datasets import Datasets, SplitRule
from appliance.erasure import Erasure, ErasureParts, PatientGone, pruned
from appliance.errors import NotAllowed
from appliance.home import Home, NodeKeys, create_keys
from appliance.identity import REFUSAL, Identities
from appliance.intake import Spool
from appliance.keying import patient_marks
from appliance.pipeline.pool import WorkerPool
from appliance.pipeline.runner import Runner, StageTable
from appliance.pipeline.states import ARROWS, Event, Stage, State
from appliance.preparation import Preparer, PreparerOptions
from appliance.research import CaseFiles, ensure_tree
from appliance.settings import default_settings
from appliance.store import NodeState, Outcome, StudyRow
from appliance.store.database import StoreBusy
from dicom_bridge.errors import VaultError
from dicom_bridge.net.model import StudyMatch
from dicom_bridge.vault import Vault
from federation.learning.prepared import (
    CaseEntry,
    PreparedManifest,
    Split,
    read_manifest,
    write_manifest,
)
from federation.plan import ms_lesion_demo_plan
from tests.appliance.core.values import MATCH, held

HER = replace(
    MATCH,
    StudyInstanceUID="1.2.840.99.1.7001",
    PatientID="ZQ-4711-88",
    PatientName="Zykowiak^Evelyn",
    AccessionNumber="ACCZQ001",
)
HERS = (
    HER,
    replace(HER, StudyInstanceUID="1.2.840.99.1.7002", AccessionNumber="ACCZQ002"),
)
OTHER = replace(
    MATCH, StudyInstanceUID="1.2.840.99.2.1", PatientID="BX-1", PatientName="Borowitz^Xaver"
)


@dataclass
class Life:
    """One life of a node without PACS and pipeline; what it holds lies in the home."""

    home: Home
    keys: NodeKeys
    state: NodeState
    identities: Identities
    other_project: Identities
    datasets: Datasets
    erasure: Erasure

    def of(self, match: StudyMatch, project: str = "p") -> StudyRow:
        identities = self.identities if project == "p" else self.other_project
        return self.state.studies.get(identities.study_key(match.StudyInstanceUID))


@contextlib.contextmanager
def living(root: Path) -> Iterator[Life]:
    home = Home(root, "p")
    home.create()
    keys, other = create_keys(home), home.with_project("q")
    other.create()
    state = NodeState(home.state_file)
    identities = Identities(home, keys)
    other_project = Identities(other, create_keys(other))
    datasets = Datasets(state, home, SplitRule(keys.site_secret, 0.0, 9))
    pool = cast("WorkerPool", None)
    preparer = Preparer(state, home, datasets, pool, PreparerOptions(b"s" * 32, {}, 1))
    runner = Runner(state, home, default_settings("a", "p"), pool, StageTable(run={}))

    def withdraw_results(study_key: str) -> None:
        for result in state.results.select(study_key=study_key):
            for path in (home.results / result.key).glob("*"):
                path.unlink()

    parts = ErasureParts(
        state=state,
        home=home,
        identities=identities,
        datasets=datasets,
        preparer=preparer,
        settling=runner.settling,
        withdraw_results=withdraw_results,
        stop_fetch=lambda _key: None,
    )
    try:
        yield Life(home, keys, state, identities, other_project, datasets, Erasure(parts))
    finally:
        other_project.close()
        identities.close()
        state.close()


def bring(life: Life, match: StudyMatch, project: str = "p") -> StudyRow:
    """A ready study with files of every kind."""
    identities = life.identities if project == "p" else life.other_project
    newcomer = identities.newcomer(match, "main")
    identities.keep(match, "main")
    life.state.studies.add(newcomer)
    finish(life, newcomer.study_key)
    write_case(life, life.state.studies.get(newcomer.study_key), match, project)
    return life.state.studies.get(newcomer.study_key)


def finish(life: Life, key: str) -> None:
    for arrow in ARROWS:
        claim = life.state.studies.claim_study(key, arrow.stage)
        assert claim is not None
        outcome = Outcome(inputs=("FLAIR",), labelled=True)
        life.state.studies.finish(claim, outcome, seconds=1.0)


def write_case(life: Life, study: StudyRow, match: StudyMatch, project: str = "p") -> None:
    identities = life.identities if project == "p" else life.other_project
    home = life.home.with_project(project)
    ensure_tree(home)
    files = CaseFiles(study.subject, study.session)
    for path in (files.image("FLAIR"), files.label(), files.qc()):
        (home.research / path).parent.mkdir(parents=True, exist_ok=True)
        (home.research / path).write_bytes(f"voxels of {study.case}".encode())
    source = {
        "study": {"StudyInstanceUID": match.StudyInstanceUID},
        "series": {"SeriesInstanceUID": f"{match.StudyInstanceUID}.5"},
        "frames": [{"SOPInstanceUID": f"{match.StudyInstanceUID}.5.{n}"} for n in range(40)],
    }
    identities.keep_sources(study.study_key, {"FLAIR": source}, version=study.version)
    life.state.instances.record(study.study_key, f"i{study.version}", "00")
    run = home.models / "runs" / "run-1" / "trainer"
    for name in ("inbox", "outbox"):
        (run / name).mkdir(parents=True, exist_ok=True)
    scores = run / "outbox" / "000001.json"
    known = json.loads(scores.read_bytes())["cases"] if scores.exists() else []
    document = {"cases": [*known, {"case": study.case, "dice": 0.5}]}
    scores.write_text(json.dumps(document), encoding="utf-8")
    with (run / "trainer.log").open("a", encoding="utf-8") as log:
        log.write(f"case {study.case} is large\n")
    (home.models / "m1" / "masks").mkdir(parents=True, exist_ok=True)
    (home.models / "m1" / "masks" / f"{study.case}.npz").write_bytes(b"mask")


def everything(life: Life) -> None:
    """Her three studies (one of them twice, one in another project), somebody else's, all uses."""
    studies = [bring(life, match) for match in HERS]
    bring(life, HER, "q")
    other = bring(life, OTHER)
    life.datasets.create("auto")
    life.datasets.freeze("auto")
    life.state.studies.apply(studies[0].study_key, Event.REOPEN)
    finish(life, studies[0].study_key)
    write_case(life, life.of(HER), HER)
    folder = life.home.derivatives / "prepared-1"
    folder.mkdir()
    names = [study.case for study in (*studies, other)]
    for name in names:
        (folder / f"{name}.safetensors").write_bytes(name.encode())
    entries = tuple(CaseEntry(name, Split.TRAIN, True) for name in names)
    plan = ms_lesion_demo_plan(rounds=1)
    write_manifest(folder, PreparedManifest(plan.preparation, entries, ("FLAIR",)))
    life.state.activity.trained("run-1", names)
    life.state.activity.record("study.late", {"study": studies[0].study_key, "instances": 1})
    life.state.results.add(held("rs1", studies[0].study_key))
    (life.home.results / "rs1").mkdir()
    (life.home.results / "rs1" / "seg.dcm").write_bytes(HER.PatientName.encode())
    spool = life.home.study(studies[1].study_key) / "received"
    spool.mkdir(parents=True)
    (spool / "1.dcm").write_bytes(HER.PatientID.encode())


def hers(life: Life) -> set[bytes]:
    """Everything that could name her: values, UIDs, pseudonyms, keys; before and as new UIDs."""
    words = {HER.PatientName, HER.PatientID, HER.PatientName.split("^")[0]}
    for match in HERS:
        words |= {match.StudyInstanceUID, match.AccessionNumber}
    for identities in (life.identities, life.other_project):
        for match in HERS:
            newcomer = identities.newcomer(match, "main")
            words |= {newcomer.study_key, newcomer.subject, newcomer.session, newcomer.patient_key}
            words.add(identities.pseudonymizer.uid(match.StudyInstanceUID))
    return {word.encode() for word in words}


def found(life: Life, words: set[bytes]) -> list[str]:
    """Where any of the words stands: file names, folder names and bytes of the whole home."""
    places = []
    for path in life.home.root.rglob("*"):
        name = str(path.relative_to(life.home.root)).encode()
        content = path.read_bytes() if path.is_file() else b""
        places += [f"{path.name}: {w!r}" for w in words if w in name or w in content]
    return places


def sealed(life: Life) -> set[bytes]:
    """Pieces of the ciphertexts of her records in the vault, as a copy of the file shows them."""
    with contextlib.closing(sqlite3.connect(life.home.vault / "vault.sqlite")) as connection:
        rows = connection.execute("SELECT sealed FROM records").fetchall()
    return {row[0][at : at + 24] for row in rows for at in (24, len(row[0]) - 24)}


def assert_gone(life: Life, words: set[bytes]) -> None:
    assert found(life, words) == []
    other = life.of(OTHER)
    image = life.home.research / CaseFiles(other.subject, other.session).image("FLAIR")
    assert image.read_bytes() == f"voxels of {other.case}".encode()
    assert life.identities.original(other.study_key).study.PatientID == OTHER.PatientID
    assert life.identities.original_uid(
        other.study_key, life.identities.pseudonymizer.uid(f"{OTHER.StudyInstanceUID}.5.3")
    ) == (f"{OTHER.StudyInstanceUID}.5.3")
    manifest = read_manifest(life.home.derivatives / "prepared-1")
    assert [entry.case for entry in manifest.cases] == [other.case]
    row = life.state.datasets.get("auto")
    assert (row.cases, row.training, row.erased) == (4, 4, 3)
    record = json.loads((life.home.datasets / "auto.json").read_bytes())
    assert record["erased"] == 3
    assert [case["case"] for case in record["cases"]] == [other.case]
    log = life.home.models / "runs" / "run-1" / "trainer" / "trainer.log"
    assert log.read_text(encoding="utf-8") == f"case {other.case} is large\n"
    assert [row.study_key for row in life.state.studies.select()] == [other.study_key]
    for match in HERS:
        assert life.identities.refused_study(match.StudyInstanceUID)
    assert life.identities.refused("", HER.PatientID)
    assert life.identities.refused("SOME-ISSUER", f" {HER.PatientID} ")
    assert not life.identities.refused("", OTHER.PatientID)
    assert not life.identities.refused_study(OTHER.StudyInstanceUID)


def test_nothing_of_her_is_left_and_nobody_else_is_touched(tmp_path: Path) -> None:
    with living(tmp_path) as life:
        everything(life)
        words = hers(life)
        seen = found(life, words)
        for place in ("state.sqlite-wal", "auto.json", "seg.dcm", "1.dcm", "manifest.json"):
            assert any(entry.startswith(place) for entry in seen), f"the search sees {place}"
        before = sealed(life)
        gone = life.erasure.withdraw_patient(life.of(HERS[1]).study_key, reason="she asked")
        assert gone == PatientGone(studies=3, datasets=1, in_pacs=0)
        assert "3 studies erased" in gone.words
        assert_gone(life, words | (before - sealed(life)))
        assert len(before - sealed(life)) > 8
        spool = Spool(life.state, life.home, life.identities)
        key = life.identities.study_key(HER.StudyInstanceUID)
        spool.expect(key, frozenset({life.identities.instance_key("1.2.3")}))
        assert not spool.wanted(HER.StudyInstanceUID, "1.2.3"), "not even where a job is open"
        assert life.state.activity.select()[0].detail == {"studies": 3}
    with living(tmp_path) as life:
        assert_gone(life, words)


def test_the_tombstone_says_nothing_without_the_sites_secret(tmp_path: Path) -> None:
    with living(tmp_path) as life:
        everything(life)
        life.erasure.withdraw_patient(life.of(HER).study_key, reason="x")
        secret = life.keys.site_secret
        marks = life.identities._vault.tombstones()
    assert len(marks) == 4, "her identity, her number and her two study UIDs"
    assert {len(mark) for mark in marks} == {32}
    assert set(patient_marks(secret, "", HER.PatientID)) < marks
    values = [HER.PatientID, f"\x00{HER.PatientID}", *(match.StudyInstanceUID for match in HERS)]
    for value in values:
        assert hashlib.sha256(value.encode()).digest() not in marks
    assert marks.isdisjoint(patient_marks(b"x" * 32, "", HER.PatientID))
    assert HER.PatientID not in REFUSAL


class Killed(BaseException):
    """The process dies here."""


def die(*_arguments: object, **_named: object) -> None:
    raise Killed


def after(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function, and then death."""

    def call(*arguments: object, **named: object) -> None:
        function(*arguments, **named)
        raise Killed

    return call


@pytest.mark.parametrize(
    "instant",
    [
        "marked",
        "vault",
        "first file",
        "half of the files",
        "files",
        "rows",
    ],
)
def test_a_withdrawal_that_died_is_finished_at_the_next_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, instant: str
) -> None:
    with living(tmp_path) as life:
        everything(life)
        words = hers(life)
        with monkeypatch.context() as patch:
            match instant:
                case "marked":
                    patch.setattr(life.identities, "forget_patient", die)
                case "vault":
                    patch.setattr(
                        life.identities, "forget_patient", after(life.identities.forget_patient)
                    )
                case "first file":
                    patch.setattr("appliance.erasure.remove_tree", die)
                case "half of the files":
                    patch.setattr("appliance.erasure.erase_case", die)
                case "files":
                    patch.setattr("appliance.store.erasure.PatientErasure.erase", die)
                case "rows":
                    patch.setattr(life.datasets, "write_record", die)
            with pytest.raises(Killed):
                life.erasure.withdraw_patient(life.of(HER).study_key, reason="x")
    with living(tmp_path) as life:
        finished = life.erasure.finish()
        assert finished == (0 if instant == "rows" else 1)
        if instant == "rows":
            life.datasets.write_record(life.state.datasets.get("auto"))
        assert_gone(life, words)
        assert life.erasure.finish() == 0


def test_an_erasure_that_a_reader_hinders_is_repeated(tmp_path: Path) -> None:
    with living(tmp_path) as life:
        everything(life)
        words = hers(life)
        life.state.database._connection.execute("PRAGMA busy_timeout=50")
        reader = sqlite3.connect(life.home.state_file, isolation_level=None)
        with contextlib.closing(reader):
            reader.execute("BEGIN")
            reader.execute("SELECT count(*) FROM studies").fetchone()
            with pytest.raises(StoreBusy, match="close"):
                life.erasure.withdraw_patient(life.of(HER).study_key, reason="x")
    with living(tmp_path) as life:
        life.erasure.finish()
        assert found(life, words) == []


def test_a_vault_that_could_not_erase_is_asked_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with living(tmp_path) as life:
        everything(life)
        words, key = hers(life), life.of(HER).study_key
        with monkeypatch.context() as patch:
            failing = Vault._scrub
            patch.setattr(Vault, "_scrub", lambda _vault: (_ for _ in ()).throw(VaultError("x")))
            with pytest.raises(VaultError):
                life.erasure.withdraw_patient(key, reason="x")
        assert Vault._scrub is failing
        life.erasure.withdraw_patient(key, reason="x")
        assert_gone(life, words)


def test_a_patient_without_a_number_cannot_be_told_from_others(tmp_path: Path) -> None:
    with living(tmp_path) as life:
        first = bring(life, replace(HER, PatientID=" "))
        second = bring(life, replace(OTHER, PatientID=""))
        with pytest.raises(NotAllowed, match="each study on its own"):
            life.erasure.withdraw_patient(first.study_key, reason="x")
        assert life.state.studies.get(second.study_key).state is State.READY
        life.erasure.withdraw(first.study_key, reason="x")
        assert not life.identities.refused("", "")
        assert life.identities.refused_study(HER.StudyInstanceUID)
        assert life.state.studies.get(second.study_key).state is State.READY


def test_issuers_keep_equal_numbers_apart(tmp_path: Path) -> None:
    with living(tmp_path) as life:
        study = bring(life, replace(HER, IssuerOfPatientID="A"))
        life.erasure.withdraw_patient(study.study_key, reason="x")
        assert life.identities.refused("A", HER.PatientID)
        assert life.identities.refused("", HER.PatientID), "a PACS that gives no issuer"
        assert not life.identities.refused("B", HER.PatientID), "somebody else's number"


def test_a_single_study_keeps_its_row_and_loses_the_rest(tmp_path: Path) -> None:
    with living(tmp_path) as life:
        everything(life)
        key = life.of(HER).study_key
        row = life.erasure.withdraw(key, reason="asked")
        assert row.state is State.WITHDRAWN
        assert life.identities.refused_study(HER.StudyInstanceUID)
        assert not life.identities.refused("", HER.PatientID), "her other studies may come"
        for version in row.versions():
            assert found(life, {f"{version.case}_".encode()}) == []
        with pytest.raises(VaultError):
            life.identities.original(key)
        assert life.of(HERS[1]).state is State.READY


def test_a_stage_that_ends_after_the_erasure_leaves_nothing(tmp_path: Path) -> None:
    with living(tmp_path) as life:
        newcomer = life.identities.newcomer(HER, "main")
        life.identities.keep(HER, "main")
        life.state.studies.add(newcomer)
        claim = life.state.studies.claim((Stage.REQUEST,))
        assert claim is not None
        life.erasure.withdraw_patient(newcomer.study_key, reason="x")
        assert not life.state.studies.holds(claim)
        assert not life.state.studies.finish(claim, Outcome(), seconds=1.0)
        assert not life.state.studies.stop(claim, Event.FAIL, "x")
        life.state.instances.record(newcomer.study_key, "i", "00")
        assert life.state.instances.keys(newcomer.study_key) == set()
        assert not life.identities.refused_study(OTHER.StudyInstanceUID)


def test_a_folder_that_a_stage_still_fills_goes_when_the_stage_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with living(tmp_path) as life:
        everything(life)
        words = hers(life)

        def busy(_folder: Path) -> None:
            raise OSError(39, "Directory not empty")

        with monkeypatch.context() as patch:
            patch.setattr("appliance.erasure.remove_tree", busy)
            life.erasure.withdraw_patient(life.of(HER).study_key, reason="x")
        assert found(life, words)
        Runner(
            life.state,
            life.home,
            default_settings("a", "p"),
            cast("WorkerPool", None),
            StageTable(run={}),
        ).recover()
        assert_gone(life, words)


def test_json_is_pruned_by_case() -> None:
    document = {"case": "x", "list": ["a", "b"], "masks": {"a": 1}, "path": "/masks/a.npz"}
    assert pruned(document, frozenset({"a"})) == {
        "case": "x",
        "list": ["b"],
        "masks": {},
        "path": "",
    }
