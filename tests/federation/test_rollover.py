"""From one project authority to the next: no site enrols anew, nobody is locked out."""

from __future__ import annotations

import shutil
import threading
from pathlib import Path

import pytest

from appliance.cli.app import run_command
from federation.clock import utc_now
from federation.coordinator.rollover import Rollover
from federation.coordinator.settings import Home, load_settings
from federation.enrolment import enrol, load_identity
from federation.enrolment.authorities import accepted, bundle_pem, read_bundle
from federation.enrolment.renewal import Renewal
from federation.errors import CoordinatorUnreachable, EnrolmentRefused, SettingsRefused
from federation.node.agent import AgentOptions, SiteAgent
from federation.node.connection import CoordinatorConnection, RetryPolicy
from federation.pki import fingerprint, make_authority
from tests.federation.doubles import PROJECT, Federation, make_home
from tests.waiting import wait_for

SITES = ("site-a", "site-b")
QUICK = RetryPolicy(first_s=0.02, longest_s=0.1)


@pytest.fixture
def working(federation: Federation, monkeypatch: pytest.MonkeyPatch) -> Federation:
    """Two sites whose agents run and greet often."""
    monkeypatch.setattr("federation.node.greeting.GREET_AGAIN_S", 0.1)
    monkeypatch.setattr("federation.node.agent.POLL_S", 0.1)
    for name in SITES:
        link = CoordinatorConnection(federation.enrolled(name), retry=QUICK)
        site = federation.site(name)
        renewal = Renewal(federation.folder / name / "keys")
        options = AgentOptions(trainers=site.trainer, deferred_poll_s=0.1, renewal=renewal)
        federation.run_agent(SiteAgent(link, site, options))
    return federation


def rows(federation: Federation) -> dict[str, tuple[list[str], str]]:
    found = Rollover(Home(federation.home)).view(SITES)["sites"]
    return {row["site"]: (sorted(row["knows"]), row["certificate_of"]) for row in found}


def all_are(federation: Federation, knows: list[str], certificate_of: str) -> None:
    wanted = dict.fromkeys(SITES, (knows, certificate_of))
    wait_for(lambda: rows(federation) == wanted, what=f"{knows}, {certificate_of}", seconds=30)


def said(federation: Federation, *command: str) -> int:
    return run_command(["--home", str(federation.home), "coordinator", "authority", *command])


@pytest.mark.integration
def test_the_whole_way_with_sites_at_work(
    working: Federation, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    home = Home(working.home)
    first = home.authority.read_bytes()
    all_are(working, ["present"], "present")
    stale = load_identity(working.folder / "site-a" / "keys")
    assert said(working, "next") == 0
    all_are(working, ["next", "present"], "present")
    assert said(working, "switch") == 0
    working.restart()
    assert home.former_authority.read_bytes() == first
    all_are(working, ["former", "present"], "present")  # both have renewed by themselves
    old_link = CoordinatorConnection(stale, retry=QUICK)
    assert said(working, "retire") == 0
    working.restart()
    all_are(working, ["present"], "present")
    for name in SITES:
        keys = working.folder / name / "keys"
        assert (keys / "ca.crt").read_bytes() == home.authority.read_bytes() != first
        fresh = CoordinatorConnection(load_identity(keys), retry=QUICK)
        assert fresh.handshake().project == PROJECT
        fresh.close()
    ended = threading.Event()
    ended.set()
    old_link.stop = ended
    with pytest.raises(CoordinatorUnreachable):
        old_link.handshake()  # it trusts the former authority only
    old_link.close()
    newcomer = enrol(working.coordinator.registry.add("site-c"), tmp_path / "c", "site-c")
    assert newcomer.authorities == [fingerprint(working.coordinator.keys.authority.certificate)]
    shown = capsys.readouterr().out
    assert "restart it now, runs go on" in shown
    assert "PRIVATE" not in shown


def test_nothing_is_done_too_early(federation: Federation) -> None:
    home = Home(federation.home)
    settings = load_settings(home.settings)
    federation.enrolled("site-a")
    rollover = Rollover(home)
    with pytest.raises(SettingsRefused, match="there is no next authority"):
        rollover.switch(["site-a"])
    with pytest.raises(SettingsRefused, match="no former authority"):
        rollover.retire(["site-a"])
    coming = rollover.prepare(settings, utc_now(), None)
    with pytest.raises(SettingsRefused, match="next authority already"):
        rollover.prepare(settings, utc_now(), None)
    with pytest.raises(SettingsRefused, match="do not know the next authority yet: site-a"):
        rollover.switch(["site-a"])
    rollover.heard("site-a", [coming], "")
    assert rollover.switch(["site-a"]) == []
    with pytest.raises(SettingsRefused, match="of the former authority: site-a"):
        rollover.retire(["site-a"])
    with pytest.raises(SettingsRefused, match="still trusted"):
        rollover.prepare(settings, utc_now(), None)
    assert home.authority_key.stat().st_mode & 0o777 == 0o600


def test_a_kill_between_key_and_certificate_is_made_good(tmp_path: Path) -> None:
    home = Home(make_home(tmp_path / "c"))
    rollover = Rollover(home)
    coming = rollover.prepare(load_settings(home.settings), utc_now(), None)
    shutil.copy(home.authority, home.former_authority)
    home.next_authority_key.replace(home.authority_key)  # here it was killed
    assert fingerprint(Rollover(home).bundle()[0]) == coming
    assert len(Rollover(home).bundle()) == 2


def test_a_site_takes_only_what_follows_from_whom_it_trusts() -> None:
    now = utc_now()
    one, two, other = (make_authority("p", now).certificate for _ in range(3))
    foreign = make_authority("q", now).certificate
    present = bundle_pem([one])
    assert accepted(present, b"", "p") is None
    assert accepted(present, present, "p") is None
    assert accepted(present, bundle_pem([one, two]), "p") == bundle_pem([one, two])
    assert accepted(bundle_pem([one, two]), bundle_pem([two]), "p") == bundle_pem([two])
    for wrong in (
        bundle_pem([other]),
        bundle_pem([one, foreign]),
        bundle_pem([one] * 5),
        b"no certificate",
        b"x" * 20_000,
    ):
        with pytest.raises(EnrolmentRefused):
            accepted(present, wrong, "p")
    assert len(read_bundle(bundle_pem([one, two, other]))) == 3
