"""Windows on the wall clock, over midnight and over changes to and from summer time; the rate."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dicom_bridge.errors import SettingsRefused
from dicom_bridge.net.pace import DAYS, Meter, Pace, Schedule, parse_window

ZURICH = ZoneInfo("Europe/Zurich")
ZONES = ("UTC", "Europe/Zurich", "America/New_York", "Australia/Lord_Howe", "Asia/Kathmandu")


def at(text: str, zone: ZoneInfo = ZURICH, fold: int = 0) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=zone, fold=fold)


def schedule(*windows: str, zone: ZoneInfo = ZURICH) -> Schedule:
    return Schedule.parse(windows, zone)


def test_a_night_window_begins_on_its_days_and_ends_on_the_next() -> None:
    night = schedule("mon-fri 19:00-06:00")
    assert not night.is_open(at("2024-01-05 18:59"))
    assert night.is_open(at("2024-01-05 19:00"))  # a Friday
    assert night.is_open(at("2024-01-06 05:59"))
    assert not night.is_open(at("2024-01-06 06:00"))
    assert not night.is_open(at("2024-01-06 20:00"))
    assert not night.is_open(at("2024-01-08 05:00"))  # Sunday's night is none
    assert night.opens(at("2024-01-06 12:00")) == at("2024-01-08 19:00")
    assert night.closes(at("2024-01-05 23:00")) == at("2024-01-06 06:00")


def test_whole_days_and_days_over_the_end_of_the_week() -> None:
    weekend = schedule("fri-mon 00:00-24:00")
    assert weekend.closes(at("2024-01-05 00:00")) == at("2024-01-09 00:00")
    assert weekend.opens(at("2024-01-03 10:00")) == at("2024-01-05 00:00")


def test_no_window_is_always_open_and_never_closes() -> None:
    always = schedule()
    assert always.is_open(at("2024-01-05 18:59"))
    assert always.closes(at("2024-01-05 18:59")) is None
    assert schedule("mon-sun 00:00-24:00").closes(at("2024-01-05 18:59")) is None


def test_spring_an_hour_that_does_not_exist_is_not_waited_for() -> None:
    early = schedule("mon-sun 02:30-05:00")
    assert early.opens(at("2024-03-31 01:00")) == datetime(2024, 3, 31, 1, 0, tzinfo=UTC)
    assert early.closes(at("2024-03-31 03:30")) == datetime(2024, 3, 31, 3, 0, tzinfo=UTC)
    gone = schedule("sun 02:00-03:00")
    assert gone.opens(at("2024-03-31 01:59")) == at("2024-04-07 02:00")


def test_autumn_an_hour_that_comes_twice_counts_twice() -> None:
    early = schedule("sun 02:00-02:30")
    assert early.is_open(at("2024-10-27 02:10", fold=0))
    assert not early.is_open(at("2024-10-27 02:40", fold=0))
    assert early.is_open(at("2024-10-27 02:10", fold=1))
    assert early.opens(at("2024-10-27 02:40", fold=0)) == datetime(2024, 10, 27, 1, 0, tzinfo=UTC)
    night = schedule("sat 22:00-06:00")
    length = at("2024-10-27 06:00") - datetime(2024, 10, 26, 20, 0, tzinfo=UTC)
    assert length == timedelta(hours=9)
    assert night.closes(at("2024-10-26 22:00")) == at("2024-10-27 06:00")


@pytest.mark.parametrize(
    "text",
    ["", "mon", "mon 25:00-26:00", "mon 8:00-9:00", "xyz 08:00-09:00", "mon-xyz 08:00-09:00",
     "mon 08:00-09:60", "mon 24:00-09:00", "mon 08:00 09:00", "mon,tue 08:00-09:00"],
)  # fmt: skip
def test_what_is_no_window_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(SettingsRefused, match="mon-fri 19:00-06:00"):
        parse_window(text)


clock_times = st.builds(lambda h, m: f"{h:02d}:{m:02d}", st.integers(0, 23), st.integers(0, 59))
windows = st.builds(
    lambda first, last, start, end: f"{first}-{last} {start}-{end}",
    st.sampled_from(DAYS),
    st.sampled_from(DAYS),
    clock_times,
    clock_times | st.just("24:00"),
)
moments = st.datetimes(datetime(2024, 1, 1), datetime(2025, 12, 31)).map(  # noqa: DTZ001
    lambda naive: naive.replace(tzinfo=UTC, second=0, microsecond=0)
) | st.sampled_from(
    [datetime(2024, 3, 31, 0, 30, tzinfo=UTC), datetime(2024, 4, 6, 14, tzinfo=UTC)]
)


@settings(max_examples=60, deadline=None)
@given(st.lists(windows, min_size=1, max_size=2), st.sampled_from(ZONES), moments)
def test_the_next_change_is_the_first_that_a_minute_by_minute_look_finds(
    texts: list[str], zone: str, moment: datetime
) -> None:
    plan = Schedule.parse(texts, ZoneInfo(zone))
    is_open = plan.is_open(moment)
    change = plan.closes(moment) if is_open else plan.opens(moment)
    step, looked = moment, 0
    while plan.is_open(step) == is_open and looked < 3 * 24 * 60:
        step, looked = step + timedelta(minutes=1), looked + 1
    if looked < 3 * 24 * 60:
        assert change == step
    else:
        assert change is None or change > step - timedelta(minutes=1)


@given(st.lists(windows, min_size=1, max_size=3), st.sampled_from(ZONES), moments)
def test_where_it_is_open_it_opens_now(texts: list[str], zone: str, moment: datetime) -> None:
    plan = Schedule.parse(texts, ZoneInfo(zone))
    opens = plan.opens(moment)
    assert opens is None or plan.is_open(opens)
    assert (opens == moment) == plan.is_open(moment)


@given(
    st.floats(0.1, 1000.0), st.lists(st.tuples(st.integers(0, 50), st.floats(0, 5)), max_size=30)
)
def test_the_rate_holds_over_every_stretch(rate: float, chunks: list[tuple[int, float]]) -> None:
    now = [100.0]
    meter = Meter(rate, lambda: now[0])
    began = now[0]
    total = 0
    for instances, took in chunks:
        meter.started()
        now[0] += took
        total += instances
        now[0] += meter.pay(instances)
        assert total <= rate * (now[0] - began) * 1.0001 + 1e-6


def test_chunks_are_about_ten_seconds_worth() -> None:
    assert Pace(per_second=None).chunk(500) == 500
    assert Pace(per_second=0.01).chunk(500) == 1
    assert Pace(per_second=5).chunk(500) == 50
    assert Pace(per_second=5).chunk(32) == 32
    with pytest.raises(SettingsRefused):
        Pace(per_second=0)
