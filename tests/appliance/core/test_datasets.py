"""Data sets: the site's split keeps its promises whatever arrives in whatever order."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.datasets import TEST, TRAIN, Datasets, SplitRule, draw_split
from appliance.errors import NotAllowed
from appliance.home import Home
from appliance.pipeline.states import ARROWS, Event
from appliance.preparation import divide, planned_labels
from appliance.research import CaseFiles, case_hash, erase_case
from appliance.store import Member, NewStudy, NodeState, Outcome
from federation.learning.prepared import Split
from federation.plan import EvaluationSpec, ms_lesion_demo_plan

RULE = SplitRule(b"s" * 32, 2 / 9, 5)
patients = st.lists(st.integers(0, 500).map(lambda n: f"pt{n:04}"), unique=True, max_size=60)


@given(patients)
def test_one_freeze(keys: list[str]) -> None:
    places = draw_split(keys, {}, RULE)
    assert set(places) == set(keys)
    tests = sum(place == TEST for place in places.values())
    assert tests == (
        round(len(keys) * 2 / 9) if len(keys) < 5 else max(1, round(len(keys) * 2 / 9))
    )
    if len(keys) > 1:
        assert tests < len(keys)


@given(st.lists(patients, min_size=1, max_size=5))
def test_many_freezes_never_move_anybody_and_keep_the_share(waves: list[list[str]]) -> None:
    placed: dict[str, str] = {}
    everybody: set[str] = set()
    for wave in waves:
        everybody |= set(wave)
        new = draw_split(everybody, placed, RULE)
        assert not set(new) & set(placed)
        placed.update(new)
        assert set(placed) == everybody
        tests = sum(place == TEST for place in placed.values())
        assert tests <= max(1, round(len(everybody) * 2 / 9))
        if len(everybody) >= 5:
            assert tests >= 1


@given(patients)
def test_the_draw_does_not_depend_on_the_order_and_does_on_the_secret(keys: list[str]) -> None:
    assert draw_split(keys, {}, RULE) == draw_split(reversed(keys), {}, RULE)
    other = SplitRule(b"t" * 32, 0.5, 5)
    assert sorted(draw_split(keys, {}, other)) == sorted(keys)
    assert "ssss" not in repr(RULE)


def member(number: int, split: str, inputs: tuple[str, ...] = ("FLAIR", "T1w")) -> Member:
    return Member(f"st{number:012}", f"sub-{number}_ses-1", split, split != "infer", inputs, "c")


@given(
    train=st.integers(0, 12),
    test=st.integers(0, 3),
    infer=st.integers(0, 3),
    share=st.sampled_from([0.0, 0.1, 0.2, 0.5]),
)
def test_plans_divide_only_the_training_part(
    train: int, test: int, infer: int, share: float
) -> None:
    kinds = ["train"] * train + ["test"] * test + ["infer"] * infer
    members = [(member(n, kind), f"pt{n // 2}") for n, kind in enumerate(kinds)]
    plan = ms_lesion_demo_plan().model_copy(
        update={"evaluation": EvaluationSpec(validation_fraction=share)}
    )
    uses = divide(members, plan, b"k" * 32, salt="x", labels=True)
    for used, use in uses:
        allowed = {Split.TRAIN, Split.VALIDATION} if used.split == "train" else {Split(used.split)}
        assert use in allowed
    of_patient: dict[str, set[Split]] = {}
    for (used, patient), (_, use) in zip(members, uses, strict=True):
        if used.split == "train":
            of_patient.setdefault(patient, set()).add(use)
    assert all(len(found) == 1 for found in of_patient.values()), "visits stay together"
    count = sum(found == {Split.VALIDATION} for found in of_patient.values())
    if share == 0.0 or len(of_patient) < 2:
        assert count == 0
    elif len(of_patient) >= 3:
        assert 1 <= count < len(of_patient)


def test_cases_without_a_required_input_are_left_out() -> None:
    members = [(member(1, "infer", ("T1w",)), "pt1"), (member(2, "infer", ("FLAIR",)), "pt2")]
    uses = divide(members, ms_lesion_demo_plan(), b"k" * 32, salt="x", labels=True)
    assert [used.study_key for used, _ in uses] == [member(2, "infer").study_key]


def test_labels_map_by_code_and_without_one_everything_is_for_inference() -> None:
    plan = ms_lesion_demo_plan()
    assert planned_labels(plan, {"SCT:52988006": 7}) == {7: 1}
    assert planned_labels(plan, {"SCT:1": 7}) == {}
    uses = divide([(member(1, "train"), "pt1")], plan, b"k" * 32, salt="x", labels=False)
    assert [use for _, use in uses] == [Split.INFER]


@pytest.fixture
def node(tmp_path: Path) -> Iterator[tuple[NodeState, Home, Datasets]]:
    home = Home(tmp_path, "p")
    home.create()
    state = NodeState(home.state_file)
    yield state, home, Datasets(state, home, RULE)
    state.close()


def add_ready(state: NodeState, home: Home, number: int, *, labelled: bool = True) -> str:
    """A ready study with one file in the research zone."""
    key = f"st{number:012x}"
    state.studies.add(NewStudy(key, f"pt{number}", f"s{number}", "v1", "main"))
    for arrow in ARROWS:
        claim = state.studies.claim_study(key, arrow.stage)
        assert claim is not None
        outcome = Outcome(inputs=("FLAIR",), labelled=labelled)
        state.studies.finish(claim, outcome, seconds=0.0)
    image = home.research / CaseFiles(f"s{number}", "v1").image("FLAIR")
    image.parent.mkdir(parents=True)
    image.write_bytes(str(number).encode())
    return key


def test_a_freeze_fixes_members_places_and_content(
    node: tuple[NodeState, Home, Datasets],
) -> None:
    state, home, datasets = node
    datasets.create("first")
    with pytest.raises(NotAllowed, match="ready"):
        datasets.freeze("first")
    keys = [add_ready(state, home, number, labelled=number < 9) for number in range(10)]
    row = datasets.freeze("first")
    assert (row.cases, row.training, row.test, row.unlabelled) == (10, 7, 2, 1)
    record = json.loads((home.datasets / "first.json").read_bytes())
    assert record["hash"] == row.hash
    assert len(record["cases"]) == 10
    add_ready(state, home, 20)
    datasets.create("second")
    second = datasets.freeze("second")
    assert second.hash != row.hash
    assert state.datasets.members("first") == state.datasets.members("first")
    first_places = {m.study_key: m.split for m in state.datasets.members("first")}
    second_places = {m.study_key: m.split for m in state.datasets.members("second")}
    assert {key: second_places[key] for key in keys} == first_places
    state.studies.apply(keys[0], Event.WITHDRAW)
    assert keys[0] not in {m.study_key for m in datasets.usable("first")}


def test_names_are_plain(node: tuple[NodeState, Home, Datasets]) -> None:
    for name in ("", "../up", "Upper", "a" * 80):
        with pytest.raises(NotAllowed):
            node[2].create(name)


def test_the_content_hash_sees_every_byte(node: tuple[NodeState, Home, Datasets]) -> None:
    state, home, _ = node
    add_ready(state, home, 1)
    files = CaseFiles("s1", "v1")
    before = case_hash(home, files)
    (home.research / files.image("FLAIR")).write_bytes(b"2")
    assert case_hash(home, files) != before
    erase_case(home, files)
    assert not list(home.bids.glob("sub-*"))
    assert TRAIN == "train"
