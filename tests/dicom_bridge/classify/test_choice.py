"""Several candidates of one kind: chosen by rule, or sent to a person with one clear sentence."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dicom_bridge.classify import (
    Classification,
    SeriesFiles,
    SeriesKind,
    StudyScan,
    choose,
    choose_inputs,
    scan_studies,
    select_inputs,
)
from dicom_bridge.classify.timing import Run
from dicom_bridge.errors import DataRefused
from tests.dicom_bridge.classify.test_study import T1, put

K = SeriesKind
RUN = Run(start="20260101101500", echo_time=90, repetition_time=9000, inversion_time=2500)
PLAIN = Classification(K.FLAIR, 0.98, "fluid-attenuated+name", dimension="2D", plane="axial")


def series(number: int, slices: int = 24, run: Run = RUN, **changes: object) -> SeriesFiles:
    what = replace(PLAIN, run=run, **changes)  # type: ignore[arg-type]
    return SeriesFiles(f"1.2.{number}", number, (), what, slices, slices)


def study(*members: SeriesFiles) -> StudyScan:
    return StudyScan(members, (), 1)


def at(clock: str, **changes: object) -> Run:
    return replace(RUN, start=f"20260101{clock}", **changes)  # type: ignore[arg-type]


RULES = [
    ("original over derived", series(3), series(9, original=False)),
    ("before contrast agent", series(3), series(9, agent=True)),
    ("3-D", series(3, dimension="3D"), series(9, slices=200)),
    ("3-D although sagittal", series(3, dimension="3D", plane="sagittal"), series(9)),
    ("distortion-corrected", series(3, corrected=True), series(9)),
    ("axial", series(3), series(9, plane="coronal")),
    ("last run", series(3, run=at("1100")), series(2, run=at("1030"))),
    ("last complete run", series(3, run=at("1000")), series(9, slices=20, run=at("1030"))),
    ("last run without times", series(9, run=Run()), series(3, run=Run())),
    ("sure over doubtful", series(3), series(9, confidence=0.5, dimension="3D")),
]


@pytest.mark.parametrize(("name", "best", "other"), RULES, ids=[row[0] for row in RULES])
def test_rules_of_choice(name: str, best: SeriesFiles, other: SeriesFiles) -> None:
    del name
    for members in ((best, other), (other, best)):
        found = choose(study(*members), K.FLAIR)
        assert found is not None
        assert found.series is best
        assert found.why


def test_the_reason_is_said() -> None:
    runs = study(
        series(3, run=at("1000")),
        series(5, run=at("1010")),
        series(7, slices=11, run=at("1020")),
    )
    found = choose(runs, K.FLAIR)
    assert found is not None
    assert found.why == "the last complete one of 3 runs (series 3, 5, 7); series 7 incomplete"
    alone = choose(study(series(3)), K.FLAIR)
    assert alone is not None
    assert alone.why == "the only one"
    volume = choose(study(series(3, dimension="3D"), series(4)), K.FLAIR)
    assert volume is not None
    assert volume.why == "3-D, before series 4"


def test_different_protocols_need_a_person() -> None:
    other = replace(RUN, echo_time=140.0)
    with pytest.raises(DataRefused, match=r"2 different FLAIR protocols .*series 3, 4.*\[series\]"):
        select_inputs(study(series(3), series(4, run=other)), [K.FLAIR])


def test_after_the_agent_only_what_says_so_is_free_of_it() -> None:
    enhanced = series(5, kind=K.T1W_CE, agent=True, run=at("1100"))
    late = series(6, kind=K.T1W, run=at("1130"))
    early = series(2, kind=K.T1W, run=at("1030"))
    found = choose(study(early, enhanced, late), K.T1W)
    assert found is not None
    assert found.series is early
    with pytest.raises(DataRefused, match="series 6 of kind T1w was acquired after"):
        select_inputs(study(enhanced, late), [K.T1W])
    assert select_inputs(study(enhanced, late), [K.T1W_CE])[K.T1W_CE] is enhanced


def test_a_reformat_alone_and_a_doubt_are_for_a_person() -> None:
    reformat = series(9, kind=K.DERIVED, rival=K.FLAIR, original=False)
    with pytest.raises(DataRefused, match="series 9 is only derived from a FLAIR"):
        select_inputs(study(reformat), [K.FLAIR])
    assert select_inputs(study(series(3), reformat), [K.FLAIR])[K.FLAIR].SeriesNumber == 3
    named = series(4, kind=K.T1W, rival=K.FLAIR, confidence=0.5, rule="x-against-name")
    for wanted in (K.FLAIR, K.T1W):
        with pytest.raises(DataRefused, match="its description contradict"):
            select_inputs(study(named), [wanted])
    by_site = replace(
        named, classification=replace(named.classification, rule="site-name-1-against-x")
    )
    with pytest.raises(DataRefused, match="the site's rule contradict"):
        select_inputs(study(by_site), [K.T1W])


def test_other_body_parts_on_request_only() -> None:
    prostate = study(series(4, kind=K.T2W, body_part="prostate", body_part_ok=False))
    with pytest.raises(DataRefused, match="wrong body part: prostate"):
        select_inputs(prostate, [K.T2W])
    assert select_inputs(prostate, [K.T2W], "other")[K.T2W].SeriesNumber == 4


MEMBERS = st.lists(
    st.builds(
        series,
        number=st.integers(1, 9),
        slices=st.sampled_from([12, 24]),
        dimension=st.sampled_from(["2D", "3D"]),
        original=st.booleans(),
        run=st.sampled_from([RUN, at("1100"), at("1100", echo_time=140.0), Run()]),
        confidence=st.sampled_from([0.5, 0.98]),
    ),
    min_size=1,
    max_size=5,
    unique_by=lambda item: item.SeriesNumber,
)


@given(MEMBERS, st.randoms(use_true_random=False))
def test_the_choice_does_not_depend_on_the_order(
    members: list[SeriesFiles], random: st.DataObject
) -> None:
    shuffled = list(members)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    first, second = choose(study(*members), K.FLAIR), choose(study(*shuffled), K.FLAIR)
    assert first is not None
    assert second is not None
    assert first.series == second.series
    assert first.series is None or first.series.confidence >= 0.6


def test_repeated_acquisition_on_disk(tmp_path: Path) -> None:
    from tests.dicom_bridge.convert.phantom import Layout

    put(tmp_path, 3, AcquisitionDate="20260101", AcquisitionTime="101500")
    put(tmp_path, 4, AcquisitionDate="20260101", AcquisitionTime="102500")
    short = Layout(rows=12, columns=10, slices=5)
    put(tmp_path, 5, short, AcquisitionDate="20260101", AcquisitionTime="103500")
    (scan,) = scan_studies(tmp_path)
    found = choose_inputs(scan, [K.FLAIR])[K.FLAIR]
    assert found.series is not None
    assert found.series.SeriesNumber == 4
    assert "series 5 incomplete" in found.why
    assert "20260101" not in repr(scan)


def test_images_that_came_twice_count_once(tmp_path: Path) -> None:
    files = put(tmp_path, 3, AcquisitionTime="101500")
    put(tmp_path, 4, AcquisitionTime="102500")
    (tmp_path / "again.dcm").write_bytes(files[0].read_bytes())
    (scan,) = scan_studies(tmp_path)
    assert [(s.instances, s.slices) for s in scan.series] == [(7, 6), (6, 6)]
    assert select_inputs(scan, [K.FLAIR])[K.FLAIR].SeriesNumber == 4


def test_several_studies_are_told_apart(tmp_path: Path) -> None:
    put(tmp_path / "a", 3)
    put(tmp_path / "b", 4, StudyInstanceUID="1.2.3", **T1)
    (tmp_path / "note.txt").write_text("no DICOM")
    first, second = scan_studies(tmp_path)
    assert [s.kind for s in first.series] == [K.FLAIR]
    assert [s.kind for s in second.series] == [K.T1W]
    assert len(first.unreadable) == 1
    (tmp_path / "empty").mkdir()
    assert scan_studies(tmp_path / "empty")[0].series == ()
