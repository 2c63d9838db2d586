"""What ends soon is told in words before it ends; a wrong clock is told as a wrong clock."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import structlog

from appliance.expiry import ExpiryWatch
from appliance.settings import settings_from
from federation.coordinator.keyring import KeyRing
from federation.coordinator.settings import Home, load_settings
from federation.coordinator.store import Store
from federation.coordinator.upkeep import Upkeep, thresholds_of
from federation.enrolment.expiry import DailyLog, Kind, Notice, Term, Thresholds, notices, span
from federation.pki import SERVER_DAYS, SITE_DAYS
from tests.federation.doubles import Federation, make_home

START = datetime(2026, 11, 21, 12, 0, tzinfo=UTC)
DAY = timedelta(days=1)


class Clock:
    """A clock that a test moves."""

    def __init__(self, at: datetime = START) -> None:
        self.at = at

    def __call__(self) -> datetime:
        return self.at


def told(term: Term, now: datetime) -> Notice | None:
    found = notices([term], now, Thresholds())
    return found[0] if found else None


def term(kind: Kind, days: float, name: str = "") -> Term:
    return Term(kind, name, START - DAY, START + timedelta(days=days))


@pytest.mark.parametrize(
    ("kind", "quiet", "soon"),
    [
        (Kind.OWN, 31, 29),
        (Kind.SITE, 31, 29),
        (Kind.SERVER, 31, 29),
        (Kind.AUTHORITY, 366, 364),
        (Kind.ROOT, 366, 364),
        (Kind.TOKEN, 1.1, 0.9),
    ],
)
def test_each_kind_has_its_threshold_and_says_what_to_do(
    kind: Kind, quiet: float, soon: float
) -> None:
    assert told(term(kind, quiet), START) is None
    notice = told(term(kind, soon), START)
    assert notice is not None
    assert notice.state == "soon"
    assert notice.words.startswith(f"{kind} ends in ")
    over = told(term(kind, -0.5), START)
    assert over is not None
    assert over.state == "over"
    assert "expired on 2026-11-21 00:00 UTC (this machine's clock: 2026-11-21 12:00 UTC)" in (
        over.words
    )
    assert over.words != notice.words


def test_a_certificate_that_has_not_begun_is_a_wrong_clock() -> None:
    notice = told(term(Kind.OWN, 100), START - 30 * DAY)
    assert notice is not None
    assert notice.state == "clock"
    assert "begins on 2026-11-20 12:00 UTC" in notice.words
    assert "this machine's clock says 2026-10-22 12:00 UTC" in notice.words
    assert "NTP" in notice.words


def test_the_most_urgent_comes_first() -> None:
    terms = [term(Kind.AUTHORITY, 200), term(Kind.SITE, 3, "site-b"), term(Kind.SITE, -2, "site-a")]
    assert [n.name for n in notices(terms, START, Thresholds())] == ["site-a", "site-b", ""]


def test_spans_in_words() -> None:
    assert [span(timedelta(hours=h)) for h in (0.5, 1, 30, 48, 700)] == [
        "0 hours",
        "1 hour",
        "30 hours",
        "2 days",
        "29 days",
    ]


def test_the_log_says_each_thing_once_a_day_and_a_worse_one_at_once() -> None:
    clock = Clock()
    log = DailyLog(clock)
    with structlog.testing.capture_logs() as lines:
        found = [told(term(Kind.SERVER, 10), START)]
        assert found[0] is not None
        for hours in range(49):
            clock.at = START + timedelta(hours=hours)
            log.tell([found[0]])
        over = told(term(Kind.SERVER, 10), START + 11 * DAY)
        assert over is not None
        log.tell([over])
    assert [line["state"] for line in lines] == ["soon", "soon", "soon", "over"]
    assert all(line["event"] == "expiry" and line["log_level"] == "warning" for line in lines)


def test_a_coordinators_calendar(tmp_path: Path) -> None:
    """From an injected clock: its own certificate is renewed in silence, the authority is told."""
    home = Home(make_home(tmp_path / "c"))
    settings = load_settings(home.settings)
    clock = Clock(datetime.now(UTC))
    store = Store(home.state, clock)
    ring = KeyRing(home, settings, clock=clock)
    upkeep = Upkeep(ring, store, thresholds_of(settings), clock)
    renewed: list[str] = []
    upkeep.on_renewed(lambda: renewed.append(f"{ring.server.serial_number:x}"))
    begin, first = clock.at, ring.server.serial_number
    with structlog.testing.capture_logs() as lines:
        for day in range(0, 3650, 25):
            clock.at = begin + timedelta(days=day)
            upkeep.look()
            assert ring.server.not_valid_after_utc > clock.at
    store.close()
    assert ring.server.serial_number != first
    # Every two thirds of its time, except near the end, where the authority's end is its own.
    assert len(renewed) == len(set(renewed))
    assert len(renewed) >= 3650 // (SERVER_DAYS * 2 // 3)
    told_of = [line["what"] for line in lines if line["event"] == "expiry"]
    assert set(told_of) <= {"authority", "server"}
    first_words = next(line for line in lines if line["event"] == "expiry")
    assert first_words["what"] == "authority"
    assert 330 < first_words["days"] <= 365
    assert "clinode coordinator authority next" in first_words["words"]


@pytest.mark.integration
def test_sites_and_tokens_are_told_at_the_coordinator(tmp_path: Path, runtime: None) -> None:
    clock = Clock(datetime.now(UTC))
    federation = Federation(tmp_path, clock=clock)
    try:
        registry = federation.coordinator.registry
        federation.enrolled("site-a")
        registry.add("site-b")
        assert registry.notices() == []
        clock.at += timedelta(hours=50)
        (token,) = registry.notices()
        assert (token.kind, token.name) == ("token", "site-b")
        assert "ends in 22 hours" in token.words
        clock.at += timedelta(days=SITE_DAYS - 20)
        (site,) = registry.notices()
        assert (site.kind, site.name, site.state) == ("site", "site-a", "soon")
        assert "never seen" in site.words
        shown = federation.coordinator.registry.notices()[0].document()
        assert shown["days"] == pytest.approx(17.9, abs=0.2)
    finally:
        federation.close()


def test_a_nodes_calendar(federation: Federation) -> None:
    federation.enrolled("site-a")
    keys = federation.folder / "site-a" / "keys"
    clock = Clock(datetime.now(UTC))
    settings = settings_from(
        {"node": {"site": "site-a"}, "federation": {"certificate_warning_days": 14}}
    )
    watch = ExpiryWatch(keys, settings, clock)
    assert watch.notices() == []
    clock.at += timedelta(days=SITE_DAYS - 20)
    assert watch.notices() == []
    with structlog.testing.capture_logs() as lines:
        clock.at += timedelta(days=10)
        for _ in range(20):
            watch.look()
            clock.at += timedelta(minutes=7)
    assert [line["what"] for line in lines] == ["own"]
    assert "a running, connected node renews it by itself" in lines[0]["words"]
    clock.at = datetime.now(UTC) - 400 * DAY
    assert {notice.state for notice in watch.notices()} == {"clock"}
    assert ExpiryWatch(federation.folder / "nobody", settings, clock).notices() == []
