"""Storage commitment: answers at once, hours later, after a restart, with failures, or never."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from appliance.errors import NotAllowed
from appliance.result_states import Instant, Verb
from appliance.store import ResultState
from dicom_bridge.net.model import CommitmentReport
from tests.appliance.core.result_bench import REPORT_UID, SEG_UID, Bench

BOTH = frozenset({SEG_UID, REPORT_UID})


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    made = Bench(tmp_path, commitment=True)
    made.results.release(made.key, actor="me")
    yield made
    made.close()


def report(bench: Bench, *, failed: dict[str, int] | None = None, which: int = -1) -> bool:
    """The PACS reports on one of the requests, on an association of its own."""
    failed = failed or {}
    uid = bench.peer.asked[which].transaction_uid
    return bench.results.on_commitment(CommitmentReport(uid, BOTH - failed.keys(), failed))


def test_an_answer_on_another_association_hours_later_and_after_a_restart(bench: Bench) -> None:
    bench.results.send_due()
    assert bench.now().state is ResultState.STORED
    assert set(bench.peer.asked[0].sop_classes) == BOTH
    assert bench.peer.asked[0].study_uid == "1.2.3"
    assert bench.results.folder(bench.key).exists(), "the local copy stays until then"
    bench.clock.now += timedelta(hours=23)
    bench.results = bench.again()
    bench.results.recover()
    bench.results.send_due()
    assert len(bench.peer.asked) == 1, "it is not asked twice"
    assert report(bench)
    assert bench.now().state is ResultState.COMMITTED
    assert bench.now().committed_at is not None
    assert bench.objects() == {"seg": "committed", "sr": "committed"}
    assert not bench.results.folder(bench.key).exists()
    assert bench.audited[-1] == "result.committed"
    with pytest.raises(NotAllowed, match="local copy is gone"):
        bench.results.send(bench.key)


def test_an_answer_on_the_same_association(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    ask = bench.peer.commit

    def at_once(request: object) -> CommitmentReport:
        ask(request)  # type: ignore[arg-type]
        return CommitmentReport(bench.peer.asked[-1].transaction_uid, BOTH, {})

    monkeypatch.setattr(bench.peer, "commit", at_once)
    bench.results.send_due()
    assert bench.now().state is ResultState.COMMITTED


def test_an_answer_that_is_quicker_than_the_request(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    ask = bench.peer.commit

    def overtaken(request: object) -> None:
        ask(request)  # type: ignore[arg-type]
        assert report(bench)

    monkeypatch.setattr(bench.peer, "commit", overtaken)
    bench.results.send_due()
    assert bench.now().state is ResultState.COMMITTED
    (transaction,) = bench.state.results.commitments(bench.key)
    assert transaction.state == "answered"


def test_a_report_without_a_request_of_ours_is_refused(bench: Bench) -> None:
    bench.results.send_due()
    assert not bench.results.on_commitment(CommitmentReport("9.9.9", BOTH, {}))
    assert bench.now().state is ResultState.STORED


def test_what_the_pacs_does_not_keep_is_sent_again(bench: Bench) -> None:
    bench.results.send_due()
    assert report(bench, failed={REPORT_UID: 0x0112})
    assert bench.objects() == {"seg": "committed", "sr": "failed"}
    bench.results.send_due()
    assert bench.peer.sent == [SEG_UID, REPORT_UID, REPORT_UID]
    assert set(bench.peer.asked[-1].sop_classes) == {REPORT_UID}, "only what is not committed"
    uid = bench.peer.asked[-1].transaction_uid
    assert bench.results.on_commitment(CommitmentReport(uid, frozenset({REPORT_UID}), {}))
    assert bench.now().state is ResultState.COMMITTED


def test_a_report_that_comes_twice_does_nothing_the_second_time(bench: Bench) -> None:
    bench.results.send_due()
    assert report(bench, failed={REPORT_UID: 0x0112})
    bench.results.send_due()
    assert report(bench, failed={REPORT_UID: 0x0112}, which=0)
    assert bench.now().state is ResultState.STORED
    assert bench.objects()["sr"] == "stored"


def test_failures_again_and_again_end_in_words(bench: Bench) -> None:
    for _ in range(3):
        bench.results.send_due()
        report(bench, failed={REPORT_UID: 0x0213, SEG_UID: 0x0213})
    bench.results.send_due()
    assert len(bench.peer.asked) == 3
    assert bench.now().state is ResultState.STORED
    assert "not committed" in bench.now().reason
    assert "lacks resources" in bench.now().reason
    bench.clock.now += timedelta(days=9)
    assert bench.results.send_due() == 0
    assert bench.results.folder(bench.key).exists()


def test_silence_is_asked_again_and_then_told_in_words(bench: Bench) -> None:
    for asked in (1, 2, 3):
        bench.results.send_due()
        assert len(bench.peer.asked) == asked
        bench.clock.now += timedelta(hours=23)
        assert bench.results.send_due() == 0
        bench.clock.now += timedelta(hours=2)
    bench.results.send_due()
    assert len(bench.peer.asked) == 3
    assert "did not report storage commitment in time" in bench.now().reason
    assert {t.state for t in bench.state.results.commitments(bench.key)} == {"expired"}
    assert report(bench, which=0), "a report that comes late still counts"
    assert bench.now().state is ResultState.COMMITTED


def test_a_pacs_that_is_down_is_asked_when_it_is_back(bench: Bench) -> None:
    down = [True]
    ask = bench.peer.commit

    def commit(request: object) -> CommitmentReport | None:
        bench.peer.down = down[0]
        try:
            return ask(request)  # type: ignore[arg-type]
        finally:
            bench.peer.down = False

    bench.peer.commit = commit  # type: ignore[method-assign, assignment]
    for _ in range(5):
        bench.results.send_due()
        assert "could not be asked for" in bench.now().reason
        bench.clock.now += timedelta(hours=1)
    assert bench.now().rounds == 0, "what never came through is no round"
    down[0] = False
    bench.results.send_due()
    assert len(bench.peer.asked) == 1
    assert report(bench)
    assert bench.now().state is ResultState.COMMITTED


def test_a_death_between_planning_and_asking_asks_anew(bench: Bench) -> None:
    def die(_request: object) -> None:
        raise KeyboardInterrupt

    ask, bench.peer.commit = bench.peer.commit, die  # type: ignore[method-assign, assignment]
    with pytest.raises(KeyboardInterrupt):
        bench.results.send_due()
    assert bench.instants[-1] is Instant.PLANNED
    bench.peer.commit = ask  # type: ignore[method-assign]
    bench.results = bench.again()
    bench.results.recover()
    bench.results.send_due()
    assert len(bench.peer.asked) == 1
    assert report(bench)
    assert bench.now().state is ResultState.COMMITTED


def test_a_superseded_result_still_hears_of_its_commitment(bench: Bench) -> None:
    bench.results.send_due()
    bench.state.results.step(bench.key, Verb.SUPERSEDE)
    assert report(bench)
    assert bench.now().state is ResultState.SUPERSEDED
    assert bench.objects() == {"seg": "committed", "sr": "committed"}
    assert not bench.results.folder(bench.key).exists()


def test_without_commitment_nothing_is_asked(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    try:
        bench.results.release(bench.key, actor="me")
        bench.results.send_due()
        assert (bench.now().state, bench.peer.asked) == (ResultState.STORED, [])
        assert bench.results.folder(bench.key).exists()
    finally:
        bench.close()
