"""Reports of a node: where they lie, who asks for them, what a data set's page says."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from appliance.cli.app import run_command
from appliance.erasure import forget_in_files
from appliance.errors import NotFound
from appliance.pipeline.states import Stage, State
from appliance.pipeline.work import REPORT_FILE, STAGES
from appliance.reports.site import (
    dataset_content,
    reason_class,
    relinked,
    report_path,
    write_dataset_report,
)
from appliance.research import CaseFiles, case_hash, ensure_tree
from appliance.settings import default_settings
from tests.appliance.control.served import Served, bring, key_of, refuse, serve, short_runtime
from tui.viewmodel import study_lines

SETTINGS = default_settings("hospital-t", "ms")


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Served]:
    with short_runtime(), serve(tmp_path / "home") as served:
        yield served


def put(node: Served, number: int, *, decision: str = "pass", snr: float = 24.0) -> CaseFiles:
    """Publish a quality report of a study, in both forms."""
    files = CaseFiles.of(node.state.studies.get(key_of(number)).case)
    document = {
        "format": 1,
        "decision": decision,
        "reasons": [] if decision == "pass" else ["the FLAIR is noisy: flair_snr is 4, below 10"],
        "metrics": [
            {"name": "flair_snr", "value": snr, "unit": "ratio", "direction": "higher"},
        ],
    }
    for path, text in (
        (files.qc(), json.dumps(document)),
        (files.report(), "<!doctype html>of " + files.case),
    ):
        (node.home.research / path).parent.mkdir(parents=True, exist_ok=True)
        (node.home.research / path).write_text(text)
    return files


def test_a_ready_study_has_its_report_in_the_research_zone(node: Served) -> None:
    study = node.state.studies.get(key_of(1))
    assert report_path(node.home, study) is None
    files = put(node, 1)
    assert report_path(node.home, study) == node.home.research / files.report()


def test_a_held_study_has_its_report_in_the_identified_zone(node: Served) -> None:
    study = node.state.studies.get(key_of(2))
    assert study.state is State.QUARANTINED
    staged = node.home.study(study.study_key) / STAGES / Stage.CHECK.value / REPORT_FILE
    staged.parent.mkdir(parents=True)
    staged.write_text("<!doctype html>")
    assert report_path(node.home, study) == staged
    assert node.home.identified in staged.parents


def test_the_report_is_no_part_of_what_a_data_set_freezes(node: Served) -> None:
    files = put(node, 1)
    before = case_hash(node.home, files)
    (node.home.research / files.report()).write_text("drawn anew")
    assert case_hash(node.home, files) == before
    (node.home.research / files.qc()).write_text("{}")
    assert case_hash(node.home, files) != before


def test_the_validator_skips_reports(node: Served) -> None:
    ensure_tree(node.home)
    ignored = (node.home.derivatives / "qc" / ".bidsignore").read_text().splitlines()
    assert "*_report.html" in ignored


def test_the_control_api_tells_where_a_report_lies(node: Served) -> None:
    lies = node.home.research / "derivatives" / f"{key_of(1)}.html"
    lies.write_text("<!doctype html>one")
    with node.client() as client:
        assert client.study_report(key_of(1)).path == str(lies)
        detail = client.study(key_of(1))
        with pytest.raises(NotFound, match=r"no report yet.*quarantined.*slices missing"):
            client.study_report(key_of(3))
        with pytest.raises(NotFound):
            client.dataset_report("absent")
    assert detail.report == str(lies)
    shown = {line.name: line.value for line in study_lines(detail)}
    assert str(lies) in shown["report"]


def test_commands_print_the_place_or_copy(
    node: Served, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = put(node, 1)
    lies = node.home.research / "derivatives" / f"{key_of(1)}.html"
    lies.write_text("<!doctype html>one")
    home = ["--home", str(node.home.root)]
    assert run_command([*home, "study", "report", key_of(1)]) == 0
    assert capsys.readouterr().out.strip() == str(lies)
    copy = tmp_path / "copy.html"
    assert run_command([*home, "study", "report", key_of(1), "--out", str(copy)]) == 0
    assert copy.read_text() == "<!doctype html>one"
    assert run_command([*home, "study", "report", key_of(1), "--redraw"]) != 0
    with node.client() as client:
        client.create_dataset("ms-1")
    capsys.readouterr()
    group = tmp_path / "elsewhere" / "group.html"
    group.parent.mkdir()
    assert run_command([*home, "dataset", "report", "ms-1", "--out", str(group)]) == 0
    text = group.read_text()
    target = text.split('href="')[1].split('"')[0]
    assert (group.parent / target).resolve() == (node.home.research / files.report()).resolve()
    missing = tmp_path / "no" / "folder.html"
    assert run_command([*home, "study", "report", key_of(1), "--out", str(missing)]) != 0


def test_links_hold_where_the_page_is_copied(tmp_path: Path) -> None:
    page = '<a href="../derivatives/qc/x.html">'
    moved = relinked(page, tmp_path / "research" / "p" / "datasets", tmp_path / "copies")
    assert moved == '<a href="../research/p/derivatives/qc/x.html">'


def test_a_data_set_says_who_is_in_and_who_is_not(node: Served) -> None:
    for number in range(10, 18):
        bring(node.state, number, State.READY)
        put(node, number, snr=24.0 + 0.1 * number)
    put(node, 1, decision="review", snr=4.0)
    for number, snr in ((20, "4.1"), (21, "3.9")):
        refuse(
            node.state,
            number,
            Stage.CHECK,
            f"quality: the FLAIR is noisy: flair_snr is {snr}, below 5",
        )
    node.state.datasets.create("ms-1", ())
    content = dataset_content(node.state, node.home, SETTINGS, "ms-1")
    assert dict(content.funnel)["would be in this data set"] == 9
    excluded = dict(content.excluded)
    assert excluded["quality: the FLAIR is noisy"] == 2, "counted without the figures of one study"
    assert excluded["slices missing"] == 1
    path = write_dataset_report(node.state, node.home, SETTINGS, "ms-1")
    page = path.read_text()
    first = page.index("Look at these first")
    assert first < page.index("From the PACS") < page.index("All figures")
    assert page.index("sub-p1_ses-s1", first) < page.index("From the PACS")
    link = page.split('href="')[1].split('"')[0]
    assert (path.parent / link).resolve().is_file()
    assert "st0000" not in page, "study keys stay outside the research zone"


def test_a_frozen_data_set_loses_the_withdrawn(node: Served) -> None:
    bring(node.state, 10, State.READY)
    node.state.datasets.create("ms-1", ())
    node.operations.freeze_dataset("ms-1")
    node.operations.withdraw(key_of(10), reason="")
    content = dataset_content(node.state, node.home, SETTINGS, "ms-1")
    assert [case.name for case in content.cases] == ["sub-p1_ses-s1"]
    assert dict(content.excluded)["withdrawn"] == 1


def test_a_page_that_names_a_withdrawn_study_is_removed(node: Served) -> None:
    put(node, 1)
    node.state.datasets.create("ms-1", ())
    node.state.datasets.create("other", ())
    path = write_dataset_report(node.state, node.home, SETTINGS, "ms-1")
    unrelated = path.with_name("unrelated.html")
    unrelated.write_text("<!doctype html>")
    forget_in_files(node.home, ["sub-p1_ses-s1"])
    assert not path.exists()
    assert unrelated.exists()


@pytest.mark.parametrize(
    ("reason", "expected"),
    [
        ("geometry of the FLAIR: voxels of 1 x 1 x 9 mm are outside", "geometry of the FLAIR"),
        ("quality: the T1 is noisy: t1w_snr is 8", "quality: the T1 is noisy"),
        ("", "no reason was given"),
        ("a slice is missing", "a slice is missing"),
    ],
)
def test_reasons_are_counted_without_figures(reason: str, expected: str) -> None:
    assert reason_class(reason) == expected
