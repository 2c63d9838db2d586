"""What the screens say, without a terminal."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from appliance.control import node_pb2 as pb
from tui import viewmodel
from tui.marks import ASCII, SHAPES, literal, mark
from tui.plain import plain_lines
from tui.snapshot import Snapshot


def snapshot(**more: object) -> Snapshot:
    status = pb.Status(site="hospital-a", time="2026-11-21T10:00:07Z", audit_intact=True)
    status.federation.state = "connected"
    fields: dict[str, object] = {"status": status, "taken": 100.0} | more
    return Snapshot(**fields)  # type: ignore[arg-type]


def plan(state: str = "pending", valid: bool = True) -> pb.Plan:
    return pb.Plan(
        hash="ab" * 32,
        name="ms-lesion",
        state=state,
        signature_valid=valid,
        rounds=24,
        sends=["update"],
        canonical='{"b":1,"a":[2]}',
    )


def test_header_says_site_link_and_age() -> None:
    words = viewmodel.header_words(snapshot(), 101.0)
    assert words == "NODE hospital-a  FED connected  nothing open  10:00:07Z  1 s old"


def test_header_says_stale_and_damaged() -> None:
    broken = snapshot()
    broken.status.audit_intact = False
    words = viewmodel.header_words(broken, 165.0)
    assert "STALE 01:05" in words
    assert "AUDIT LOG DAMAGED" in words
    assert viewmodel.is_stale(broken, 165.0)
    assert not viewmodel.is_stale(broken, 101.0)


def test_what_ends_soon_is_a_banner_and_an_open_item() -> None:
    warned = snapshot()
    assert viewmodel.banner_words(warned) == ""
    warned.status.warnings.append("this site's certificate ends in 12 days: look")
    assert viewmodel.banner_words(warned).startswith("WARNING: this site's certificate ends in 12")
    assert viewmodel.open_items(warned)[0].name == "warning"
    warned.status.warnings.append("the clock is wrong")
    lines = list(plain_lines(warned, 101.0))
    assert lines[1].startswith("WARNING 1 of 2: this site's certificate")
    assert any("the clock is wrong" in line for line in lines)


def test_header_before_the_first_answer_says_why() -> None:
    words = viewmodel.header_words(Snapshot(problem="no node is running"), 1.0)
    assert "no node is running" in words


def test_open_items_name_what_waits() -> None:
    study = pb.Study(key="st1", state="quarantined", reason="missing slice")
    found = viewmodel.open_items(
        snapshot(plans=(plan(),), studies=(study,), results=(pb.Result(state="held"),))
    )
    assert [line.name for line in found] == ["plan", "results", "studies"]


def test_late_images_are_told_on_overview_and_studies() -> None:
    late = pb.Study(key="st1", state="ready", late=2)
    (item,) = viewmodel.open_items(snapshot(studies=(late,)))
    assert "1 with late images" in item.value
    assert viewmodel.study_cells(late)[-1] == "2 late images in the PACS"
    second = pb.Study(key="st1", state="ready", version=2)
    assert "version 2" in viewmodel.study_cells(second)[-1]
    lines = [line.value for line in viewmodel.study_lines(pb.StudyDetail(study=second))]
    assert "version 2, after late images" in lines


def test_a_plan_with_a_bad_signature_cannot_be_approved() -> None:
    (good,) = viewmodel.approvals(snapshot(plans=(plan(),)))
    (bad,) = viewmodel.approvals(snapshot(plans=(plan(valid=False),)))
    assert [verb for _, verb, _ in good.verbs] == ["plan-approve", "plan-reject"]
    assert [verb for _, verb, _ in bad.verbs] == ["plan-reject"]
    assert "SIGNATURE INVALID" in bad.words


def test_what_is_open_comes_first() -> None:
    items = viewmodel.approvals(
        snapshot(plans=(plan("approved"),), results=(pb.Result(key="r1", state="held"),))
    )
    assert [(item.kind, bool(item.verbs)) for item in items] == [("result", True), ("plan", False)]


def test_each_state_of_a_result_offers_what_a_person_may_do() -> None:
    states = ("held", "refused", "failed", "stored", "committed", "superseded")
    results = tuple(pb.Result(key=f"r{s}", state=s, commitment="asked") for s in states)
    items = {item.state: item for item in viewmodel.approvals(snapshot(results=results))}
    assert {s: [verb for _, verb, _ in items[s].verbs] for s in states} == {
        "held": ["result-release"],
        "refused": ["result-release"],
        "failed": ["result-hold"],
        "stored": [],
        "committed": [],
        "superseded": [],
    }
    assert "commitment asked" in items["stored"].words
    assert mark("committed", plain=True).plain == "OK committed"


def test_runs_can_be_left_and_all_be_halted() -> None:
    runs = (pb.Run(run="r1", name="ms", state="taking part"), pb.Run(run="r2", state="left"))
    everything, first, second = viewmodel.approvals(snapshot(runs=runs))
    assert [verb for _, verb, _ in everything.verbs + first.verbs] == ["runs-halt", "run-leave"]
    assert "does not know yet" in second.words
    halted = snapshot(runs=runs)
    halted.status.federation.halted = True
    halted.status.federation.waits = "your `clinode run resume`"
    assert [verb for _, verb, _ in viewmodel.approvals(halted)[0].verbs] == ["runs-resume"]
    assert "HALTED" in viewmodel.header_words(halted, 101.0)
    assert "runs" in [line.name for line in viewmodel.open_items(halted)]
    shown = viewmodel.overview(halted)["Federation"]
    assert any("run resume" in line.value for line in shown if line.name == "waits for")


def test_an_amendment_says_what_it_changes() -> None:
    changed = plan()
    changed.amends = "cd" * 32
    changed.changes.append("rounds 2 -> 5 (+3)")
    (item,) = viewmodel.approvals(snapshot(plans=(changed,)))
    assert "AMENDMENT of cdcdcdcdcdcd: rounds 2 -> 5 (+3)" in item.words
    (line,) = viewmodel.open_items(snapshot(plans=(changed,)))
    assert "rounds 2 -> 5" in line.value


def test_detail_puts_the_reason_on_top() -> None:
    detail = pb.StudyDetail(
        study=pb.Study(key="st1", state="quarantined", reason="missing slice: 1 of 98"),
        qc=[pb.Metric(name="snr", value=12.5, unit="1", direction="higher")],
        qc_decision="fail",
        qc_reasons=["too noisy"],
    )
    lines = list(viewmodel.study_lines(detail))
    assert lines[1].value == "missing slice: 1 of 98"
    assert any("12.5" in line.value for line in lines)


def test_plan_text_is_indented_and_survives_garbage() -> None:
    assert viewmodel.plan_text(plan()).splitlines()[1].strip() == '"a": ['
    assert viewmodel.plan_text(pb.Plan(canonical="{broken")) == "{broken"


def test_marks_are_words_with_shapes_in_both_sets() -> None:
    for state in ("ready", "quarantined", "failed", "held", "receive"):
        for plain in (True, False):
            text = mark(state, plain=plain).plain
            assert text.endswith(state)
            assert text.split()[0] in (ASCII if plain else SHAPES).values()
        assert mark(state, plain=True).plain.isascii()


@given(st.text(max_size=60))
def test_literal_never_becomes_markup_nor_hides_anything(text: str) -> None:
    shown = literal(text)
    assert shown.spans == []
    assert all(c == "\n" or c.isprintable() or c.isspace() for c in shown.plain)


@given(st.text(alphabet="ab !:state", max_size=20))
def test_a_filter_gives_a_part_of_the_list(wanted: str) -> None:
    rows = [pb.Study(key=f"st{n}", state=state) for n, state in enumerate(("ready", "failed"))]
    assert all(study in rows for study in viewmodel.matching(rows, wanted))


def test_plain_prints_every_screen() -> None:
    study = pb.Study(key="st1", subject="sub-x", state="ready")
    text = "\n".join(plain_lines(snapshot(plans=(plan(),), studies=(study,)), 100.0))
    for words in ("hospital-a", "Services", "Studies", "st1", "Approvals", "plan ms-lesion"):
        assert words in text
