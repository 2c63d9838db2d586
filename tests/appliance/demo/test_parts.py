"""The demonstration's parts: cohort, ports, processes, pictures, and what it gathers."""

from __future__ import annotations

import io
import os
import signal
import socket
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from PIL import Image

from appliance.control import node_pb2 as pb
from appliance.datasets import SplitRule, draw_split
from appliance.demo.cohort import (
    FEWEST_LABELLED,
    LABELLED,
    UNLABELLED,
    NoStudies,
    find_real_studies,
    plan_studies,
    scanner_words,
    uses_of,
)
from appliance.demo.gather import dice_of, rounds_of, unlabelled_row
from appliance.demo.namespace import free_ports
from appliance.demo.orchestrator import asked, completed_rounds, demo_plan, run_words
from appliance.demo.outcome import Dice
from appliance.demo.phantom import STYLES, Fault
from appliance.demo.pictures import EXPERT_COLOUR, MODEL_COLOUR, best_slice, overlay
from appliance.demo.processes import (
    MOST_RESTARTS,
    Process,
    ProcessDied,
    clinode,
    last_line,
    run,
    start,
    tree_bytes,
)
from appliance.errors import NotFound, NotRunning
from appliance.settings import SplitSection
from federation.plan import ms_lesion_demo_plan, parse_plan
from tests.dicom_bridge.deid.objects import mr_image, write
from tests.waiting import wait_for


@pytest.mark.parametrize("hospitals", [1, 2, 3, 5, 8])
def test_each_hospital_gets_its_cohort_and_each_fault_is_planted_once(hospitals: int) -> None:
    planned = plan_studies(hospitals, Path("studies"), seed=20, half=True)
    faults = [p.request.fault for p in planned if p.request.fault is not None]
    assert sorted(faults) == sorted(Fault)
    for hospital in range(hospitals):
        mine = [p for p in planned if p.hospital == hospital]
        assert sum(p.segmentation for p in mine) == LABELLED
        clean = [p for p in mine if not p.segmentation and p.request.fault is None]
        assert len(clean) == UNLABELLED
        assert not any(p.segmentation for p in mine if p.request.fault is not None)
        assert {p.request.style for p in mine} <= set(STYLES)
        assert len({p.request.style for p in mine}) == 1
    assert len({p.folder for p in planned}) == len(planned)
    assert len({(p.request.seed, p.request.index) for p in planned}) == len(planned)
    assert planned == plan_studies(hospitals, Path("studies"), seed=20, half=True)
    assert planned != plan_studies(hospitals, Path("studies"), seed=21, half=True)


def test_a_smaller_cohort_has_the_same_faults_at_every_hospital() -> None:
    whole = plan_studies(3, Path("studies"), seed=20, half=True)
    small = plan_studies(3, Path("studies"), seed=20, half=True, labelled=FEWEST_LABELLED)
    assert [(p.hospital, p.request.fault) for p in small if p.request.fault] == [
        (p.hospital, p.request.fault) for p in whole if p.request.fault
    ]
    for hospital in range(3):
        mine = [p for p in small if p.hospital == hospital]
        assert sum(p.segmentation for p in mine) == FEWEST_LABELLED


@pytest.mark.parametrize("labelled", range(FEWEST_LABELLED, 20))
def test_labelled_studies_are_used_as_a_site_and_a_plan_divide_them(labelled: int) -> None:
    uses = uses_of(labelled)
    section = SplitSection()
    rule = SplitRule(b"k" * 32, section.test_share, section.minimum_labelled)
    split = draw_split([f"p{n}" for n in range(labelled)], {}, rule)
    rest = labelled - uses.test
    assert list(split.values()).count("test") == uses.test
    share = ms_lesion_demo_plan().evaluation.validation_fraction
    assert uses.validation == max(1, round(share * rest))
    assert uses.training == rest - uses.validation


def test_three_hospitals_have_three_scanners() -> None:
    words = [scanner_words(n) for n in range(4)]
    assert len(set(words)) == 3
    assert words[0] == words[3]
    assert all(w.endswith(" T") for w in words)


def test_real_studies_are_found_by_their_headers(tmp_path: Path) -> None:
    for study, name in (("1.2.3", "a"), ("1.2.3", "b"), ("1.2.4", "c")):
        path = tmp_path / "deep" / name
        path.parent.mkdir(exist_ok=True)
        write(mr_image(study=study), path)
    (tmp_path / "notes.txt").write_text("no DICOM", encoding="ascii")
    found = find_real_studies(tmp_path)
    assert [(s.StudyInstanceUID, len(s.files)) for s in found] == [("1.2.3", 2), ("1.2.4", 1)]
    assert "1.2.3" not in repr(found)


def test_a_folder_without_studies_is_refused_in_words(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("no DICOM", encoding="ascii")
    with pytest.raises(NoStudies, match="no DICOM file"):
        find_real_studies(tmp_path)
    with pytest.raises(NoStudies, match="is no folder"):
        find_real_studies(tmp_path / "absent")


def test_free_ports_are_distinct_and_can_be_taken() -> None:
    ports = free_ports(12)
    assert len(set(ports)) == 12
    sockets = [socket.create_server(("127.0.0.1", port)) for port in ports]
    for taken in sockets:
        taken.close()


SLEEPER = (sys.executable, "-c", "import signal; print('up', flush=True); signal.pause()")


@pytest.fixture
def sleeper(tmp_path: Path) -> Iterator[Process]:
    process = start("sleeper", SLEEPER, tmp_path / "logs" / "sleeper.log")
    wait_for(lambda: ups(process) == 1, what="the process")
    yield process
    process.stop()


def ups(process: Process) -> int:
    """How often the process has come up."""
    return process.log.read_text(encoding="utf-8").count("up\n")


def test_a_killed_process_is_started_again_but_not_for_ever(sleeper: Process) -> None:
    for restart in range(1, MOST_RESTARTS + 1):
        before = sleeper.popen.pid
        os.kill(before, signal.SIGKILL)
        sleeper.popen.wait(10)
        sleeper.revive()
        sleeper.check()
        assert (sleeper.restarts, sleeper.popen.pid != before) == (restart, True)
        wait_for(lambda expected=restart + 1: ups(sleeper) == expected, what="the next life")  # type: ignore[misc]
    os.kill(sleeper.popen.pid, signal.SIGKILL)
    sleeper.popen.wait(10)
    sleeper.revive()
    with pytest.raises(ProcessDied, match=r"sleeper ended with status -9.*ends with: up"):
        sleeper.check()


def test_a_process_that_ends_by_itself_is_reported_with_its_last_line(tmp_path: Path) -> None:
    command = [sys.executable, "-c", "print('all is lost'); raise SystemExit(3)"]
    process = start("short", command, tmp_path / "short.log")
    process.popen.wait(10)
    process.revive()
    assert process.restarts == 0
    with pytest.raises(ProcessDied, match=r"short ended with status 3.*all is lost"):
        process.check()


def test_stop_ends_the_process_and_is_repeatable(sleeper: Process) -> None:
    sleeper.check()
    assert tree_bytes(psutil.Process(sleeper.popen.pid)) > 1_000_000
    assert sleeper.stop() == -signal.SIGTERM
    assert sleeper.stop() == -signal.SIGTERM
    sleeper.revive()
    assert sleeper.restarts == 0, "a process that was asked to stop stays stopped"


def test_children_die_with_their_parent(tmp_path: Path) -> None:
    code = (
        "import signal, sys; from pathlib import Path;"
        "from appliance.demo.processes import start;"
        f"p = start('child', {SLEEPER!r}, Path({str(tmp_path / 'child.log')!r}));"
        "print(p.popen.pid, flush=True); signal.pause()"
    )
    parent = start("parent", [sys.executable, "-c", code], tmp_path / "parent.log")
    child = int(wait_for(lambda: parent.log.read_text().strip(), what="the child's number"))
    wait_for(lambda: (tmp_path / "child.log").read_text().strip(), what="the child")
    os.kill(parent.popen.pid, signal.SIGKILL)
    parent.popen.wait(10)
    wait_for(lambda: not alive(child), what="the child's end")


def alive(pid: int) -> bool:
    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def test_run_gives_the_output_or_the_commands_own_sentence() -> None:
    assert run(clinode("--version")).startswith("clinode ")
    with pytest.raises(ProcessDied, match="No such command 'bogus'"):
        run(clinode("bogus"))


def test_the_last_line_of_a_log(tmp_path: Path) -> None:
    log = tmp_path / "log"
    assert last_line(log) == "(no log)"
    log.write_text("\n\n", encoding="ascii")
    assert last_line(log) == "(empty)"
    log.write_text("first\n" + "x" * 400 + "end\n\n", encoding="ascii")
    assert (last_line(log)[-3:], len(last_line(log))) == ("end", 300)


def masks() -> tuple[np.ndarray[Any, np.dtype[np.bool_]], np.ndarray[Any, np.dtype[np.bool_]]]:
    expert, model = np.zeros((2, 20, 24, 10), dtype=bool)
    expert[8:12, 8:12, 3] = True
    model[4:12, 4:12, 6] = True
    return expert, model


def test_the_best_slice_has_the_most_of_both() -> None:
    expert, model = masks()
    assert best_slice(expert, model, 2) == 6
    assert best_slice(expert, np.zeros_like(model), 2) == 3
    assert best_slice(expert & False, model & False, 2) == 5
    assert 8 <= best_slice(expert, model, 0) <= 11


def test_the_overlay_shows_both_contours_at_the_right_place() -> None:
    expert, model = np.zeros((2, 40, 60), dtype=bool)
    expert[5:15, 10:20] = True
    model[25:35, 40:50] = True
    plane = np.linspace(0, 100, 2400, dtype=np.float32).reshape(40, 60)
    picture = np.asarray(Image.open(io.BytesIO(overlay(plane, expert, model, (2.0, 1.0)))))
    height, width, channels = picture.shape
    assert channels == 3
    assert abs(width / height - 80 / 60) < 0.02, "millimetres, not voxels"
    for mask, colour in ((expert, EXPERT_COLOUR), (model, MODEL_COLOUR)):
        rows, columns = np.nonzero(np.all(picture == colour, axis=2))
        assert rows.size > 20
        i, j = np.nonzero(mask)
        assert abs(columns.mean() / width - (i.mean() + 0.5) / 40) < 0.03
        assert abs(rows.mean() / height - (j.mean() + 0.5) / 60) < 0.03


def test_an_even_slice_without_findings_is_drawn_too() -> None:
    empty = np.zeros((16, 16), dtype=bool)
    drawn = overlay(np.zeros((16, 16), dtype=np.float32), empty, empty, (1.0, 1.0))
    assert np.asarray(Image.open(io.BytesIO(drawn))).max() == 0


def metric(
    site: str, split: str, mean: float, cases: int = 2, name: str = "dice"
) -> dict[str, Any]:
    return {"site": site, "split": split, "metric": name, "mean": mean, "sd": 0.1, "cases": cases}


def part(site: str, loss: float | None = 0.5) -> dict[str, Any]:
    times = {"train_s": 2.0, "wait_s": 0.5, "transfer_s": 0.25}
    return {"site": site, "times": times, "loss": loss}


def round_of(number: int, state: str, sites: list[Any], metrics: list[Any]) -> dict[str, Any]:
    times = {"aggregate_s": 0.1, "total_s": 3.0}
    means = [
        {"split": m["split"], "metric": m["metric"], "mean": m["mean"]}
        for m in metrics
        if m["metric"] == "dice"
    ]
    return {
        "round": number,
        "state": state,
        "sites": sites,
        "metrics": metrics,
        "times": times,
        "means": means,
    }


DETAIL: dict[str, Any] = {
    "state": "running",
    "rounds_done": [
        round_of(0, "closed", [], [metric("a", "test", 0.01), metric("b", "test", 0.02)]),
        round_of(
            1,
            "closed",
            [part("b"), part("a")],
            [
                metric("a", "validation", 0.3, 1),
                metric("b", "validation", 0.0, 0),
                metric("a", "validation", 0.9, 1, "precision"),
            ],
        ),
        round_of(2, "closed", [part("a"), part("b", None)], [metric("a", "test", 0.6)]),
        round_of(3, "training", [part("a")], []),
    ],
}


def test_the_dice_before_and_after_are_of_the_test_cases() -> None:
    assert dice_of(DETAIL, "a", 0) == Dice(0.01, 0.1, 2)
    assert dice_of(DETAIL, "a", -1) == Dice(0.6, 0.1, 2)
    assert dice_of(DETAIL, "b", 0) == Dice(0.02, 0.1, 2)
    assert dice_of(DETAIL, "b", -1) is None, "evaluated once is before only"
    assert dice_of(DETAIL, "c", 0) is None


def test_rounds_hold_every_sites_times_and_validation_dice() -> None:
    rounds = rounds_of(DETAIL)
    assert [r.number for r in rounds] == [1, 2, 3], "round 0 trains nothing"
    first = rounds[0]
    assert [s.site for s in first.sites] == ["a", "b"]
    assert [s.dice for s in first.sites] == [0.3, None]
    assert (first.sites[0].train_s, first.aggregate_s, first.total_s) == (2.0, 0.1, 3.0)
    assert rounds[1].sites[1].loss is None


def test_completed_rounds_are_the_closed_ones() -> None:
    assert completed_rounds(DETAIL) == 2
    assert completed_rounds({"rounds_done": []}) == 0
    assert run_words(DETAIL) == "running, test Dice 0.60"
    assert run_words({"state": "offered", "rounds_done": []}) == "offered"


def test_the_plan_fits_the_number_of_hospitals() -> None:
    for hospitals in (1, 2, 3):
        plan = parse_plan(demo_plan(7, hospitals))
        assert plan.training.rounds == 7
        assert plan.strategy.minimum_sites <= hospitals
    assert parse_plan(demo_plan(7, 3)).strategy.minimum_sites > 1


def test_a_service_that_starts_is_no_answer_and_a_refusal_is_an_error() -> None:
    def starting() -> int:
        raise NotRunning("not yet")

    def refused() -> int:
        raise NotFound("nothing has this key")

    assert asked(starting) is None
    assert asked(lambda: 4) == 4
    with pytest.raises(NotFound):
        asked(refused)


@pytest.mark.parametrize(
    ("study", "result", "words"),
    [
        (
            pb.Study(state="quarantined", reason="slices missing"),
            None,
            "quarantined: slices missing",
        ),
        (pb.Study(state="ready", reason="input FLAIR missing"), None, "input FLAIR missing"),
        (pb.Study(state="ready"), None, "no result"),
        (pb.Study(state="ready"), pb.Result(state="no finding"), "no finding"),
        (pb.Study(state="ready"), pb.Result(state="held", reason="gone"), "held: gone"),
        (pb.Study(state="ready"), pb.Result(state="sent"), "sent, but not found in the PACS"),
    ],
)
def test_what_became_of_an_unlabelled_study(
    study: pb.Study, result: pb.Result | None, words: str
) -> None:
    row = unlabelled_row(study, "phantom", result, [])
    assert (row.outcome, row.proof) == (words, "")
