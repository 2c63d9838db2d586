"""The command line against a real control socket: what it prints, and how it ends."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest

from appliance.cli.failures import exit_code_of
from appliance.cli.output import printable
from appliance.home import Home, load_keys
from appliance.settings import load_settings
from appliance.store import NewStudy
from tests.appliance.cli.conftest import Run
from tests.appliance.control.served import HELD, PATIENT, Served, key_of

LISTINGS = {
    "study": "st000000000001",
    "dataset": "first",
    "plan": "ms-lesion",
    "model": "offered",
    "result": HELD,
    "audit": "plan.offered",
}


@pytest.fixture
def dataset(node: Served) -> None:
    with node.client() as client:
        client.create_dataset("first")


@pytest.mark.parametrize(("group", "shown"), LISTINGS.items())
@pytest.mark.usefixtures("dataset")
def test_every_listing_is_a_table_and_json(node: Served, run: Run, group: str, shown: str) -> None:
    table = run(group, "list")
    assert table.code == 0
    assert shown in table.out
    assert table.err == ""
    listed = run(group, "list", "--json")
    assert listed.code == 0
    rows = json.loads(listed.out)
    assert rows
    assert all(isinstance(row, dict) for row in rows)
    assert shown in listed.out


@pytest.mark.parametrize("group", ["study", "dataset", "plan", "model", "result"])
@pytest.mark.usefixtures("dataset")
def test_every_item_is_shown_as_text_and_json(node: Served, run: Run, group: str) -> None:
    key = {
        "study": key_of(2),
        "dataset": "first",
        "plan": node.signed.hash[:8],
        "model": node.model.id[:8],
        "result": HELD,
    }[group]
    text = run(group, "show", key)
    assert (text.code, text.err) == (0, "")
    assert text.out.strip()
    document = json.loads(run(group, "show", key, "--json").out)
    assert isinstance(document, dict)


@pytest.mark.usefixtures("dataset")
def test_a_fingerprint_is_shown_before_it_leaves(run: Run) -> None:
    text = run("dataset", "fingerprint", "first")
    assert (text.code, text.err) == (0, "")
    for words in ("patients        6", "FLAIR     median spacing, mm", "0.7", "184", "208"):
        assert words in text.out
    document = json.loads(run("dataset", "fingerprint", "first", "--json").out)
    assert document["figures"]["channels"]["FLAIR"]["spacing_mm"] == [0.7, 0.7, 3.0]
    assert document["fingerprint"]["minimum_patients"] == 5
    assert run("dataset", "fingerprint", "absent").code == 1


def test_a_study_is_shown_with_stages_and_metrics(node: Served, run: Run) -> None:
    said = run("study", "show", key_of(2))
    for words in ("quarantined", "FLAIR noise is high", "register", "flair_snr", "12.5"):
        assert words in said.out
    only = run("study", "list", "--state", "ready", "--json")
    assert [row["key"] for row in json.loads(only.out)] == [key_of(1)]


def test_status_names_what_waits(node: Served, run: Run) -> None:
    said = run("node", "status")
    assert said.code == 0
    for words in ("hospital-t", "1 ready", "2 quarantined", "waiting for a person", "intact"):
        assert words in said.out
    assert json.loads(run("node", "status", "--json").out)["funnel"]["ready"] == 1


def test_the_pacs_is_asked_and_identity_stays_hidden(node: Served, run: Run) -> None:
    assert run("pacs", "echo").out == "main: success (2 ms)\n"
    hidden = run("pacs", "find")
    assert "hidden" in hidden.out
    assert PATIENT not in hidden.out
    assert PATIENT in run("pacs", "find", "--reveal").out
    assert run("pacs", "pull").out == "1 studies match, 1 of them are new and will be fetched\n"
    assert json.loads(run("pacs", "pull", "--json").out)["added"] == 0
    node.operations.down = True
    assert run("pacs", "echo").code == 1
    found = run("pacs", "find")
    assert (found.code, found.out) == (1, "")
    assert "nothing answers" in found.sentence


def test_a_custodians_day(node: Served, run: Run) -> None:
    steps = [
        ("study", "release", key_of(2), "--reason", "looked at it"),
        ("study", "retry", key_of(3)),
        ("dataset", "create", "first", "--tag", "ms"),
        ("dataset", "freeze", "first", "--json"),
        ("dataset", "approve", "first"),
        ("plan", "approve", node.signed.hash[:8]),
        ("model", "accept", node.model.id[:8], "--reason", "good"),
        ("result", "hold", HELD, "--reason", "later"),
        ("result", "release", HELD, "--to", "archive"),
        ("result", "send", HELD),
        ("study", "withdraw", key_of(1), "--yes", "--reason", "asked for"),
        ("model", "reject", node.model.id[:8], "--reason", "too old"),
        ("plan", "reject", node.signed.hash[:8], "--reason", "changed"),
        ("dataset", "revoke", "first"),
        ("audit", "verify"),
    ]
    for step in steps:
        said = run(*step)
        assert (said.code, said.err) == (0, ""), step
        assert said.out.strip(), step
    actions = {row["action"] for row in json.loads(run("audit", "list", "--json").out)}
    expected = {f"{step[0]}.{step[1]}" for step in steps if step[0] == "study"}
    assert actions >= expected | {"dataset.frozen", "plan.approved", "result.released"}


def test_runs_of_a_node_are_listed_left_halted_and_resumed(node: Served, run: Run) -> None:
    assert "no run has been offered" in run("run", "list").out
    node.state.runs.seen("r0001-abc", node.signed.hash)
    for step in (
        ("run", "leave", "r0001", "--reason", "vote"),
        ("run", "halt", "--reason", "audit"),
        ("run", "list"),
        ("node", "status"),
        ("run", "resume"),
    ):
        said = run(*step)
        assert (said.code, said.err) == (0, ""), step
    (row,) = json.loads(run("run", "list", "--json").out)
    assert (row["run"], row["state"], row["reason"]) == ("r0001-abc", "left", "vote")
    assert run("run", "resume").sentence.endswith("the node takes part in its runs")
    assert run("run", "leave", "r0009").code == 1


def test_withdrawing_asks_first(node: Served, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("n\n"))  # edge: pytest closes standard input
    said = run("study", "withdraw", key_of(1))
    assert said.code == 1
    assert "stopped by the operator" in said.err
    assert node.state.studies.get(key_of(1)).state == "ready"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("study", "show", "st999999999999"), "nothing has this key"),
        (("study", "show", "st00"), "several keys begin so"),
        (("study", "show", "st"), "first four characters"),
        (("study", "release", "st000000000002"), "--reason"),
        (("study", "retry", "st000000000001"), "not possible"),
        (("dataset", "show", "none"), "no data set"),
        (("plan", "approve", "ffffffff"), "nothing has this key"),
        (("pacs", "echo", "--pacs", "elsewhere"), "[[pacs]]"),
        (("result", "send", HELD), "held"),
    ],
)
def test_what_fails_ends_with_one_sentence_and_1(
    node: Served, run: Run, arguments: tuple[str, ...], words: str
) -> None:
    said = run(*arguments)
    assert (said.code, said.out) == (1, "")
    assert words in said.sentence


def test_status_begins_with_what_ends_soon(node: Served, run: Run) -> None:
    node.operations.warnings = ("this site's certificate ends in 12 days",)
    said = run("node", "status")
    assert said.out.startswith("WARNING: this site's certificate ends in 12 days\n\n")
    assert "12 days" in json.loads(run("node", "status", "--json").out)["warnings"][0]


def test_no_node_running_says_how_to_start_it(run: Run) -> None:
    said = run("study", "list")
    assert said.code == 1
    assert "no node is running" in said.sentence
    assert "`clinode node run`" in said.sentence


def test_no_coordinator_running_says_how_to_start_it(run: Run) -> None:
    said = run("run", "list")
    assert said.code == 1
    assert "clinode coordinator run" in said.sentence


@pytest.mark.parametrize(
    "arguments",
    [
        ("bogus",),
        ("study",),
        ("study", "show"),
        ("study", "list", "--state", "nowhere"),
        ("study", "list", "--bogus"),
        ("audit", "list", "--limit", "0"),
        ("node", "run", "--log-level", "loud"),
        ("node", "init"),
        ("coordinator", "init"),
        ("coordinator", "init", "--project", "p", "--port", "70000"),
        ("demo", "--hospitals", "99"),
        ("tools", "phantom"),
        ("tools", "segment", "model", "only-one-path"),
    ],
)
def test_wrong_usage_ends_with_2(run: Run, arguments: tuple[str, ...]) -> None:
    said = run(*arguments)
    assert said.code == 2
    assert "clinode" in said.err + said.out


def test_help_and_version_end_with_0(run: Run) -> None:
    assert run("--version").out.startswith("clinode 0.")
    assert "Usage: clinode study" in run("study", "--help").out


def test_init_makes_a_home_once(run: Run, tmp_path: Path) -> None:
    said = run("node", "init", "--site", "hospital-a", "--project", "ms")
    assert said.code == 0
    home = Home(tmp_path / "home", "ms")
    assert load_settings(home.settings_file).node.site == "hospital-a"
    keys = load_keys(home)
    again = run("node", "init", "--site", "hospital-b")
    assert again.code == 1
    assert "exists already" in again.sentence
    assert load_keys(home) == keys
    wrong = run("node", "init", "--site", "Hospital A!")
    assert wrong.code in (1, 2)


def test_all_problems_of_the_settings_are_reported_together(run: Run, tmp_path: Path) -> None:
    assert run("node", "init", "--site", "UPPER").code == 2
    assert run("node", "init", "--site", "hospital-a").code == 0
    (tmp_path / "home" / "settings.toml").write_text(
        '[node]\nsite = "Bad Site"\n[dicom]\nport = 99999\nbogus = 1\n[results]\nrelease = "all"\n',
        encoding="utf-8",
    )
    problems = ("node.site", "dicom.port", "dicom.bogus", "results.destination")
    check = run("node", "check", "--json")
    assert check.code == 2
    found = json.loads(check.out)
    assert all(not f["ok"] and f["check"] == "settings" for f in found)
    assert len(found) == len(problems)
    for command in (("node", "run"), ("node", "enrol", "token")):
        said = run(*command)
        assert said.code == 2
        assert "4 problems" in said.sentence
        for problem in problems:
            assert problem in said.sentence
            assert any(problem in f["message"] for f in found)


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (("node", "run"), 2),
        (("node", "check"), 2),
        (("run", "submit", "absent.toml"), 1),
        (("tools", "classify", "absent"), 1),
        (("tools", "convert", "absent", "out"), 1),
        (("tools", "qc", "absent.nii.gz"), 1),
        (("tools", "deface", "absent.nii.gz", "out.nii.gz"), 1),
        (("tools", "brain-mask", "absent.nii.gz", "out.nii.gz"), 1),
        (("tools", "register", "absent.nii.gz", "absent.nii.gz"), 1),
        (("tools", "seg-read", "absent.dcm", "out"), 1),
        (("tools", "seg-check", "absent", "absent.dcm"), 1),
        (("tools", "seg-write", "absent", "absent.nii.gz", "out.dcm"), 1),
        (("tools", "segment", "absent", "absent.nii.gz", "out.nii.gz"), 1),
        (("tools", "deidentify", "absent", "out"), 2),
    ],
)
def test_a_missing_file_is_said_in_one_sentence(
    run: Run,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    arguments: tuple[str, ...],
    code: int,
) -> None:
    monkeypatch.chdir(tmp_path)
    said = run(*arguments)
    assert said.code == code, said.err
    if arguments != ("node", "check"):
        assert said.sentence


ESCAPE = "\x1b[2Jgone\nfaked  line\u202eright"


def test_hostile_characters_are_printed_visibly(node: Served, run: Run) -> None:
    node.state.studies.add(NewStudy("st00000000beef", "pt", ESCAPE, "s", "main"))
    node.state.plans.offer("e" * 64, name=ESCAPE, signer=ESCAPE, document="{}")
    node.state.models.offer(
        "d" * 64, plan_hash="e" * 64, round_number=1, manifest=ESCAPE, weights="x"
    )
    node.audit.append(ESCAPE, "test.note", ESCAPE, {"x": ESCAPE})
    shown = [
        run("study", "list"),
        run("study", "show", "st00000000beef"),
        run("plan", "list"),
        run("plan", "show", "eeee"),
        run("model", "show", "dddd"),
        run("audit", "list"),
        run("study", "show", "st00000000beef", "--json"),
        run("dataset", "show", ESCAPE),
    ]
    for said in shown:
        text = said.out + said.err
        assert "\x1b[2J" not in text
        assert "\u202e" not in text
        assert not any(line.startswith("faked") for line in text.splitlines())
        assert said.code in (0, 1)
    assert r"\x1b[2Jgone\nfaked" in shown[3].out
    assert printable(ESCAPE) == r"\x1b[2Jgone\nfaked  line\u202eright"


def test_a_defect_names_its_class_and_nothing_else(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CLINODE_DEBUG", raising=False)
    assert exit_code_of(KeyError(PATIENT)) == 1
    said = capsys.readouterr()
    assert "KeyError" in said.err
    assert PATIENT not in said.err
    monkeypatch.setenv("CLINODE_DEBUG", "1")
    exit_code_of(KeyError("x"))
    assert "KeyError: 'x'" in capsys.readouterr().err


def test_a_token_file_is_never_replaced(run: Run, tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("old", encoding="ascii")
    said = run("coordinator", "site", "add", "hospital-a", "--out", token)
    assert said.code == 2
    assert "exists already" in said.err
    assert token.read_text(encoding="ascii") == "old"
