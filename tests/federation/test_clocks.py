"""A wrong clock is told as a wrong clock, with both sides' time where both can be known."""

from __future__ import annotations

import dataclasses
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from federation.clock import minute, utc_now
from federation.coordinator.settings import Home
from federation.enrolment import SiteIdentity, enrol
from federation.errors import EnrolmentRefused
from federation.node.clock_check import clock_words, coordinator_time
from federation.node.route import Way, examine, examine_token
from federation.pki import KeyPair, issue_server, issue_site, load_pair, new_key, save_key
from tests.federation.doubles import PROJECT, Federation

YEAR = timedelta(days=365)


def last(steps: object) -> tuple[str, bool, str]:
    step = list(steps)[-1]  # type: ignore[call-overload]
    return step.name, step.ok, step.words


def authority_of(federation: Federation) -> KeyPair:
    home = Home(federation.home)
    return load_pair(home.authority_key, home.authority)


def show(federation: Federation, at: datetime) -> None:
    """Let the coordinator show a certificate that was made at another time."""
    home = Home(federation.home)
    made = issue_server(authority_of(federation), PROJECT, ("127.0.0.1", "localhost"), at)
    save_key(home.server_key, made.key)
    home.server.write_bytes(made.certificate_pem())
    home.enrolment_chain.write_bytes(
        made.certificate_pem() + authority_of(federation).certificate_pem()
    )
    front = federation.coordinator._front
    assert front is not None
    front.reload()


@pytest.mark.integration
@pytest.mark.parametrize(("made", "side"), [(-3 * YEAR, "ahead of"), (YEAR, "behind")])
def test_both_times_are_told_where_the_coordinators_certificate_does_not_hold(
    tmp_path: Path, runtime: None, made: timedelta, side: str
) -> None:
    """OpenSSL reads the machine's clock: instead of moving that, the coordinator's is moved."""
    shift = [timedelta()]
    federation = Federation(tmp_path, clock=lambda: utc_now() + shift[0])
    try:
        identity = federation.enrolled("site-a")
        there = datetime.now(UTC) + made
        show(federation, there)
        shift[0] = made + timedelta(days=30)
        name, ok, words = last(examine(Way(identity.address), identity))
    finally:
        federation.close()
    assert (name, ok) == ("TLS", False)
    assert f"this machine's clock says {minute(utc_now())[:14]}" in words
    assert f"the coordinator's {minute(there + timedelta(days=30))[:10]}" in words
    assert f"days {side} it. Set this machine's clock by a time server (NTP)" in words


def _as_refused(federation: Federation, identity: SiteIdentity, at: datetime) -> SiteIdentity:
    key = new_key()
    certificate = issue_site(authority_of(federation), ("site-a", PROJECT), key.public_key(), at)
    pair = KeyPair(key, certificate)
    return dataclasses.replace(
        identity, key_pem=pair.key_pem(), certificate_pem=pair.certificate_pem()
    )


def test_a_refusal_by_the_coordinators_clock_is_told(federation: Federation) -> None:
    identity = federation.enrolled("site-a")
    old = _as_refused(federation, identity, utc_now() - 2 * YEAR)
    name, ok, words = last(examine(Way(identity.address), old))
    assert (name, ok) == ("TLS", False)
    assert "this site's certificate expired on" in words
    # By a clock of a year and a half ago it held: then one of the two clocks is wrong.
    then = utc_now() - 1.5 * YEAR
    _, _, words = last(examine(Way(identity.address), old, clock=lambda: then))
    assert "one of the two clocks is wrong" in words
    assert minute(then) in words


def test_before_enrolment_the_clock_is_told_too(federation: Federation, tmp_path: Path) -> None:
    token = federation.coordinator.registry.add("site-a")
    long = dataclasses.replace(token, expires=datetime(2999, 1, 1, tzinfo=UTC))
    for clock in (lambda: utc_now() - YEAR, lambda: utc_now() + 4 * YEAR):
        with pytest.raises(EnrolmentRefused, match=r"this machine's clock says .*NTP"):
            enrol(long, tmp_path / "keys", "site-a", clock=clock)
        name, ok, words = last(examine_token(Way(token.address), long, clock=clock))
        assert (name, ok) == ("TLS", False)
        assert "the coordinator's certificate is valid from" in words
    assert not (tmp_path / "keys").exists()
    late = lambda: utc_now() + timedelta(days=9)  # noqa: E731
    with pytest.raises(EnrolmentRefused, match=r"token has expired: it ended on .*clock says"):
        enrol(token, tmp_path / "keys", "site-a", clock=late)


def test_the_coordinators_time_comes_from_the_project_only(federation: Federation) -> None:
    identity = federation.enrolled("site-a")
    told = coordinator_time(identity.address, None, identity, 10)
    assert told is not None
    assert abs(told - utc_now()) < timedelta(seconds=20)
    other = dataclasses.replace(identity, authority_pem=identity.certificate_pem)
    assert coordinator_time(identity.address, None, other, 10) is None
    assert coordinator_time("127.0.0.1:9", None, identity, 2) is None


def test_two_clocks_in_words() -> None:
    here = datetime(2026, 11, 21, 12, 0, tzinfo=UTC)
    assert clock_words(here, here + timedelta(seconds=59)) == ""
    assert "clock says 2026-11-21 12:00 UTC and the coordinator's 2026-11-21 12:03 UTC" in (
        clock_words(here, here + timedelta(minutes=3))
    )
    assert "ours is 3 minutes behind it" in clock_words(here, here + timedelta(minutes=3))
    almost = timedelta(hours=5) - timedelta(milliseconds=300)  # time passes while it is asked
    assert "ours is 5 hours behind it" in clock_words(here, here + almost)
    assert "ours is 400 days ahead of it" in clock_words(here, here - timedelta(days=400))
