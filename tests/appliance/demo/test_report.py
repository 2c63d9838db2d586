"""The demonstration's report and table: complete, self-contained, escaped."""

from __future__ import annotations

import io
import re
from dataclasses import replace
from html.parser import HTMLParser

import pytest
from rich.console import Console

from appliance.demo.outcome import (
    Dice,
    Hospital,
    Outcome,
    Picture,
    Round,
    SiteRound,
    UnlabelledStudy,
)
from appliance.demo.report import render_report
from appliance.demo.table import print_outcome
from appliance.reports.charts import Series, line_chart, stacked_bars

PIXEL = (
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk"
    "+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)


def hospital(name: str = "hospital-a") -> Hospital:
    return Hospital(
        name=name,
        scanner="Siemens 1.5 T",
        pacs="Orthanc 1.10.1",
        offered=12,
        fetched=12,
        converted=11,
        passed_qc=10,
        quarantined=(("slices missing <b>", 1), ("wrong body part", 1)),
        trained=6,
        dice_before=Dice(0.0, 0.0, 2),
        dice_after=Dice(0.615, 0.04, 2),
        segs_expected=1,
        segs_found=1,
        no_finding=0,
        unlabelled=(UnlabelledStudy("st0123456789ab", "phantom", "ready", "SEG in PACS", 3.25),),
        stage_seconds=(("convert", 12.5), ("register", 30.25)),
        approval="approved by policy",
        release="released by rule",
        picture=Picture(PIXEL, "FLAIR slice 12 of 40.", 3.1, 3.25, 0.66),
    )


def outcome(*problems: str) -> Outcome:
    sites = tuple(
        SiteRound(name, train_s=2.0, wait_s=0.5, transfer_s=0.1, loss=0.7, dice=0.4)
        for name in ("hospital-a", "hospital-b")
    )
    return Outcome(
        version="0.1.0",
        started="2026-11-21 10:00:00",
        seconds=431.0,
        phases=(("enrolment", 5.0), ("training", 200.0)),
        hospitals=(hospital(), hospital("hospital-b")),
        rounds=tuple(Round(n, 0.05, 2.9, sites) for n in range(1, 4)),
        plan_name="ms-lesion",
        plan_hash="ab" * 32,
        model_id="cd" * 32,
        problems=problems,
        notes=("a <note>",),
    )


class Links(HTMLParser):
    """Collects everything that would make a browser fetch or run something."""

    def __init__(self) -> None:
        super().__init__()
        self.outside: list[str] = []
        self.open: list[str] = []
        self.images = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag in ("script", "link", "iframe", "object"):
            self.outside.append(tag)
        for name, value in attrs:
            if name in ("src", "href") and not (value or "").startswith("data:image/png;base64,"):
                self.outside.append(f"{tag} {name}={value}")
        self.images += tag == "img"
        if tag not in ("meta", "br", "img"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.outside.extend(f"{tag} {n}" for n, _ in attrs if n in ("src", "href"))


def test_report_is_self_contained_and_well_formed() -> None:
    parser = Links()
    parser.feed(render_report(outcome()))
    assert parser.outside == []
    assert parser.open == []
    assert parser.images == 2


def test_report_escapes_what_it_shows() -> None:
    page = render_report(outcome())
    assert "slices missing &lt;b&gt;" in page
    assert "a &lt;note&gt;" in page
    assert "<note>" not in page


def test_report_says_what_is_not_true() -> None:
    good, bad = render_report(outcome()), render_report(outcome("hospital-a: 1 SEG is missing"))
    assert "All of it came true" in good
    assert "All of it came true" not in bad
    assert "hospital-a: 1 SEG is missing" in bad


def test_json_and_exit_follow_the_problems() -> None:
    assert outcome().document()["ok"] is True
    assert outcome("x").document()["ok"] is False
    assert "picture" not in outcome().document()["hospitals"][0]


@pytest.mark.parametrize("words", ["0.61 ± 0.04", "Orthanc 1.10.1", "2 quarantined", "1 of 1"])
def test_table_shows_each_figure(words: str) -> None:
    stream = io.StringIO()
    quarantined = replace(hospital(), quarantined=(("slices missing", 2),))
    print_outcome(replace(outcome(), hospitals=(quarantined,)), Console(file=stream, width=200))
    assert words in stream.getvalue()


def test_line_chart_places_values_by_height() -> None:
    svg = line_chart(
        [Series("a", ((1.0, 0.0), (2.0, 1.0)))],
        x_label="x",
        y_label="y",
        ranges=((0.0, 2.0), (0.0, 1.0)),
    )
    points = re.search(r"points='([^']+)'", svg)
    assert points is not None
    (_, low), (_, high) = (p.split(",") for p in points[1].split())
    assert float(low) > float(high), "1.0 stands above 0.0 on a screen"


def test_stacked_bars_are_as_long_as_their_sums() -> None:
    svg = stacked_bars(["train", "wait"], [("a", (3.0, 1.0)), ("b", (1.0, 1.0))], unit="s")
    widths = [float(w) for w in re.findall(r"width='([\d.]+)' height='20'", svg)]
    assert sum(widths[:2]) == pytest.approx(2 * sum(widths[2:]), rel=1e-2)
    assert ">4 s<" in svg
