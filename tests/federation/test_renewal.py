"""A certificate is renewed while its site works: no restart, the old one ends."""

from __future__ import annotations

import shutil
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from federation.audit_chain import read_entries
from federation.coordinator.causes import Cause
from federation.coordinator.store import Store
from federation.enrolment.client import CERTIFICATE_FILE, KEY_FILE, SiteIdentity, load_identity
from federation.enrolment.renewal import NEXT, Renewal, adopt, due, load_present
from federation.errors import EnrolmentRefused, IdentityRefused, RequestRefused
from federation.node.agent import AgentOptions, SiteAgent
from federation.node.connection import CoordinatorConnection, RetryPolicy
from federation.pki import new_key, signing_request
from tests.federation.doubles import Federation
from tests.waiting import wait_for

SITE = "site-a"
pytestmark = pytest.mark.integration


class LaterClock:
    """The present time plus an offset that a test moves."""

    def __init__(self) -> None:
        self.ahead = timedelta()

    def __call__(self) -> datetime:
        return datetime.now(UTC) + self.ahead


@pytest.fixture
def keys(federation: Federation) -> Path:
    federation.enrolled(SITE)
    return federation.folder / SITE / "keys"


def connect(identity: SiteIdentity) -> CoordinatorConnection:
    return CoordinatorConnection(identity, retry=RetryPolicy(first_s=0.02, longest_s=0.1))


def standing(federation: Federation, identity: SiteIdentity) -> Cause | None:
    return federation.coordinator.registry.standing(SITE, identity.serial)


def test_when_a_certificate_is_renewed(keys: Path) -> None:
    identity = load_identity(keys)
    now = datetime.now(UTC)
    assert not due(identity, now)
    assert not due(identity, now + timedelta(days=260))
    assert due(identity, now + timedelta(days=270))


def test_a_renewed_certificate_takes_over_with_its_first_call(
    federation: Federation, keys: Path
) -> None:
    old = load_identity(keys)
    link = connect(old)
    new = Renewal(keys).renew(old, link.renew)
    assert new.serial != old.serial
    assert new.key_pem != old.key_pem
    assert (keys / KEY_FILE).stat().st_mode & 0o777 == 0o600
    assert not list(keys.glob(f"*{NEXT}"))
    assert link.handshake().project  # the old one holds until the new one has called
    link.use(new)
    assert link.handshake().project
    link.close()
    assert standing(federation, new) is None
    assert standing(federation, old) is Cause.NOT_REGISTERED
    row = federation.coordinator.store.site(SITE)
    assert row is not None
    assert row.serial == new.serial
    stale = connect(old)
    with pytest.raises(IdentityRefused):
        stale.handshake()
    stale.close()
    actions = [entry.action for entry in read_entries(federation.home / "audit.jsonl")]
    assert actions.count("certificate.renewed") == actions.count("certificate.in_use") == 1


def test_the_agent_renews_between_two_polls_and_goes_on(federation: Federation, keys: Path) -> None:
    old = load_identity(keys)
    clock = LaterClock()
    site = federation.site(SITE)
    agent = SiteAgent(
        connect(old), site, AgentOptions(trainers=site.trainer, renewal=Renewal(keys, clock=clock))
    )
    clock.ahead = timedelta(days=300)
    federation.run_agent(agent)
    wait_for(lambda: standing(federation, old) is not None, what="the old one to end", seconds=60)
    new = load_identity(keys)
    assert new.serial != old.serial
    assert standing(federation, new) is None
    assert agent.certificate_ends == new.certificate_ends
    polled = agent.status.last_contact
    wait_for(lambda: agent.status.last_contact >= polled, what="the agent to go on")
    # Its clock says that the new one is nearly over, too: it does not ask again and again.
    assert load_identity(keys).serial == new.serial


def test_a_lost_answer_costs_nothing(federation: Federation, keys: Path) -> None:
    old = load_identity(keys)
    link = connect(old)
    given: list[bytes] = []

    def lose(request: bytes) -> bytes:
        given.append(link.renew(request))
        raise RequestRefused("the answer was lost")

    renewal = Renewal(keys)
    with pytest.raises(RequestRefused):
        renewal.renew(old, lose)
    assert load_identity(keys).serial == old.serial
    assert not renewal.due(old)
    new = Renewal(keys).renew(old, link.renew)
    assert new.certificate_pem == given[0]
    link.close()


def test_a_failed_try_rests_for_an_hour(keys: Path) -> None:
    clock = LaterClock()
    clock.ahead = timedelta(days=300)
    renewal = Renewal(keys, clock=clock)
    identity = load_identity(keys)

    def refuse(request: bytes) -> bytes:
        raise RequestRefused("an older coordinator")

    assert renewal.due(identity)
    with pytest.raises(RequestRefused):
        renewal.renew(identity, refuse)
    assert not renewal.due(identity)
    clock.ahead += timedelta(minutes=61)
    assert renewal.due(identity)


@pytest.mark.parametrize("taken", [(), (KEY_FILE,), (KEY_FILE, CERTIFICATE_FILE)])
def test_a_kill_between_the_two_files_is_made_good(
    federation: Federation, keys: Path, tmp_path: Path, taken: tuple[str, ...]
) -> None:
    old = load_identity(keys)
    before = tmp_path / "before"
    shutil.copytree(keys, before)
    link = connect(old)
    new = Renewal(keys).renew(old, link.renew)
    link.close()
    for name in (KEY_FILE, CERTIFICATE_FILE):
        target = before / (name if name in taken else name + NEXT)
        shutil.copy2(keys / name, target)
    assert load_present(before).serial == new.serial
    assert not adopt(before)


def test_what_is_no_certificate_of_ours_is_not_taken(federation: Federation, keys: Path) -> None:
    old = load_identity(keys)
    for wrong in (b"", b"no pem", old.authority_pem, old.certificate_pem):
        with pytest.raises(EnrolmentRefused):
            Renewal(keys).renew(old, lambda _, wrong=wrong: wrong)
    assert load_present(keys).serial == old.serial


def test_a_request_for_another_site_is_refused_and_the_caller_stays(
    federation: Federation, keys: Path
) -> None:
    link = connect(load_identity(keys))
    with pytest.raises(RequestRefused):
        link.renew(signing_request(new_key(), "site-b", "ms-lesions"))
    with pytest.raises(RequestRefused):
        link.renew(b"nonsense")
    assert link.handshake().project
    link.close()


def test_a_revoked_site_has_no_way_back_by_renewal(federation: Federation, keys: Path) -> None:
    old = load_identity(keys)
    link = connect(old)
    new = Renewal(keys).renew(old, link.renew)
    federation.coordinator.registry.revoke(SITE, "left")
    assert standing(federation, old) is Cause.REVOKED
    assert standing(federation, new) is Cause.REVOKED
    with pytest.raises(IdentityRefused):
        link.renew(signing_request(new_key(), SITE, "ms-lesions"))
    link.close()


def test_a_renewal_that_waits_survives_the_coordinators_restart(
    federation: Federation, keys: Path
) -> None:
    old = load_identity(keys)
    link = connect(old)
    new = Renewal(keys).renew(old, link.renew)
    link.close()
    federation.restart()
    assert isinstance(federation.coordinator.store, Store)
    again = connect(new)
    assert again.handshake().project
    again.close()
    assert standing(federation, old) is Cause.NOT_REGISTERED
