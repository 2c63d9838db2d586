"""A data set's report: what stands out is on top, whatever the number of studies."""

from __future__ import annotations

import time
from dataclasses import replace

import numpy as np
import pytest

from appliance.reports.figures import SWARM, Dot, swarm
from appliance.reports.group import Case, GroupContent, render_group
from appliance.reports.metrics import Quality, Row
from tests.appliance.reports.bodies import Page
from tests.appliance.reports.test_study_report import EVIL


def case(number: int, snr: float, **changes: object) -> Case:
    rows = (
        Row("flair_snr", snr, "ratio", "higher", 10.0, 5.0),
        Row("t1w_cjv", 0.4 + 0.001 * (number % 7), "ratio", "lower"),
        Row("flair_spacing_x", 1.0, "mm", "lower"),
        Row("flair_qi2", None, "share", "lower"),
    )
    name = f"sub-{number:04d}_ses-1"
    made = Case(name, Quality("pass", (), rows), f"../derivatives/qc/{name}.html", "train", True)
    return replace(made, **changes)  # type: ignore[arg-type]


def cases(count: int) -> list[Case]:
    rng = np.random.default_rng(3)
    return [case(n, float(rng.normal(24, 1))) for n in range(count)]


def content(*given: Case, **changes: object) -> GroupContent:
    facts = {"title": "ms-1", "cases": tuple(given), "funnel": (("offered", 60), ("ready", 44))}
    return GroupContent(**{**facts, "excluded": (("motion", 3),), **changes})  # type: ignore[arg-type]


def test_the_page_is_sound_and_leads_to_the_reports() -> None:
    given = [*cases(30), case(90, 12.0), case(91, 4.0)]
    shown = Page(render_group(content(*given)))
    shown.assert_sound()
    text = shown.shown
    top = text[text.index("Look at these first") : text.index("From the PACS")]
    assert "sub-0090" in top, "unusual, though within the bounds"
    assert "sub-0091" in top
    assert "sub-0001_ses-1" not in top
    assert given[30].link in shown.links
    assert "motion" in text
    assert "2 of 32 studies stand out" in text


def test_the_worst_come_first() -> None:
    given = [
        *cases(30),
        case(70, 14.0),
        case(80, 24.0, quality=Quality("review", ("look at it",), ())),
        case(90, 24.0, quality=Quality("fail", ("motion",), ())),
        case(60, 12.0),
    ]
    text = Page(render_group(content(*given))).shown
    top = text[text.index("Look at these first") :]
    places = [top.index(f"sub-00{n}_") for n in (90, 80, 60, 70)]
    assert places == sorted(places)


def test_the_good_direction_is_not_unusual() -> None:
    shown = Page(render_group(content(*cases(30), case(90, 60.0)))).shown
    assert "None of 31 studies stands out" in shown


def test_figures_that_are_not_compared_are_not_unusual() -> None:
    given = cases(30)
    rows = tuple(
        replace(r, value=9.0) if r.name == "flair_spacing_x" else r for r in given[4].quality.rows
    )
    given[4] = replace(given[4], quality=Quality("pass", (), rows))
    assert "None of 30" in Page(render_group(content(*given, limit=6.0))).shown


def test_hundreds_of_studies() -> None:
    given = cases(800)
    given += [case(n, 12.0) for n in range(900, 940)]
    begin = time.process_time()
    text = render_group(content(*given))
    assert time.process_time() - begin < 5.0, "about half a second on an idle core"
    shown = Page(text)
    shown.assert_sound()
    assert "15 more" in shown.shown, "25 on top, the others folded away"
    assert len(text) < 1_500_000


@pytest.mark.parametrize("count", [0, 1, 2, 4])
def test_few_studies(count: int) -> None:
    shown = Page(render_group(content(*cases(count), funnel=(), excluded=())))
    shown.assert_sound()
    assert f"{count} studies" in shown.shown
    assert "stand out" not in shown.shown


def test_studies_without_figures() -> None:
    shown = Page(render_group(content(case(1, 1.0, quality=Quality(), link=""))))
    shown.assert_sound()
    assert "sub-0001" in shown.shown
    assert not shown.links


def test_nothing_is_read_as_markup() -> None:
    rows = (Row(EVIL, 1.0, EVIL, "higher", 2.0, 0.5),)
    odd = Case(EVIL, Quality("review", (EVIL,), rows), "x.html", EVIL)
    changes = {"title": EVIL, "funnel": ((EVIL, 1),), "excluded": ((EVIL, 2),), "note": EVIL}
    shown = Page(render_group(content(odd, facts=((EVIL, EVIL),), **changes)))
    shown.assert_sound()
    assert "<script>" in shown.shown


def test_one_broken_study_does_not_hide_the_others() -> None:
    dots = [Dot(20.0 + n / 10) for n in range(30)]
    drawing = swarm([*dots, Dot(1e9, "fail", "broken", "x.html")], (10.0, None), "snr")
    places = [float(part.split(" ")[0]) for part in drawing.split('d="M')[1].split("M")]
    assert max(places) - min(places) > SWARM[0] / 10
    assert 'href="x.html"' in drawing
    assert "<title>broken</title>" in drawing


@pytest.mark.parametrize("values", [[], [5.0], [5.0] * 9, [0.0, 0.0], [-1e-12, 1e12]])
def test_any_values_can_be_drawn(values: list[float]) -> None:
    drawing = swarm([Dot(v) for v in values], (None, None), "x")
    assert (drawing == "") == (not values)
    assert "nan" not in drawing
