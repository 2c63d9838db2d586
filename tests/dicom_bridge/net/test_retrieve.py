"""Retrieval: only what is missing is asked for again."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dicom_bridge.errors import AssociationRejected, PeerFailure, PeerUnreachable
from dicom_bridge.net import (
    InstanceRef,
    MoveOutcome,
    MoveTarget,
    MoveWatch,
    Pace,
    RetrievePolicy,
    Schedule,
    Traffic,
    retrieve_study,
)

STUDY = "1.2.3"


def refs(series: int, each: int) -> list[InstanceRef]:
    return [
        InstanceRef(f"1.{s}", f"1.{s}.{i}", "1.2.840.10008.5.1.4.1.1.4", "MR")
        for s in range(series)
        for i in range(each)
    ]


@dataclass
class ToyPacs:
    """Delivers into ``inbox`` what ``drops`` does not swallow; every request is written down."""

    expected: list[InstanceRef]
    drops: Callable[[str], bool] = lambda _uid: False
    takes_lists: bool = True
    inbox: set[str] = field(default_factory=set)
    asked: list[tuple[str, ...]] = field(default_factory=list)
    repeated: list[str] = field(default_factory=list)

    def _deliver(self, uids: list[str]) -> MoveOutcome:
        self.asked.append(tuple(uids))
        self.repeated += [uid for uid in uids if uid in self.inbox]
        kept = [uid for uid in uids if not self.drops(uid)]
        self.inbox.update(kept)
        failed = len(uids) - len(kept)
        status = 0xB000 if failed else 0
        return MoveOutcome(status, len(kept), failed, 0, (), "some words" if failed else "")

    def move_series(
        self,
        study_uid: str,
        series_uid: str,
        destination_ae: str,
        *,
        watch: MoveWatch | None = None,
    ) -> MoveOutcome:
        uids = [r.SOPInstanceUID for r in self.expected if r.SeriesInstanceUID == series_uid]
        return self._deliver(uids)

    def move_study(
        self, study_uid: str, destination_ae: str, *, watch: MoveWatch | None = None
    ) -> MoveOutcome:
        return self._deliver([r.SOPInstanceUID for r in self.expected])

    def move_instances(
        self, target: MoveTarget, destination_ae: str, *, watch: MoveWatch | None = None
    ) -> MoveOutcome:
        if len(target.sop_uids) > 1 and not self.takes_lists:
            self.asked.append(target.sop_uids)
            return MoveOutcome(0xA801, 0, 0, 0, (), "no lists here")
        return self._deliver(list(target.sop_uids))


def policy(**changes: object) -> RetrievePolicy:
    chosen: dict[str, object] = {"settle_s": 0.3, "sleep": lambda _s: None, **changes}
    return RetrievePolicy(**chosen)  # type: ignore[arg-type]


def test_everything_arrives_series_by_series() -> None:
    pacs = ToyPacs(refs(3, 4))
    report = retrieve_study(
        pacs, lambda: pacs.inbox, STUDY, "NODE", expected=pacs.expected, policy=policy()
    )
    assert report.complete
    assert report.rounds == 1
    assert len(pacs.asked) == 3
    assert report.words == "12 of 12 instances received"


@given(
    st.lists(st.booleans(), max_size=40),
    st.sets(st.integers(0, 8)),
    st.booleans(),
)
def test_never_asks_for_what_it_has(
    losses: list[bool], already: set[int], takes_lists: bool
) -> None:
    expected = refs(3, 3)
    lose = iter(losses)
    pacs = ToyPacs(expected, drops=lambda _uid: next(lose, False), takes_lists=takes_lists)
    pacs.inbox = {expected[i].SOPInstanceUID for i in already}
    report = retrieve_study(
        pacs,
        lambda: pacs.inbox,
        STUDY,
        "NODE",
        expected=expected,
        policy=policy(rounds=60, instances_per_request=2),
    )
    assert report.complete
    assert not pacs.repeated
    assert report.received == report.expected


def test_what_stays_missing_is_named_with_the_cause() -> None:
    pacs = ToyPacs(refs(1, 3), drops=lambda uid: uid.endswith(".2"))
    waits: list[float] = []
    report = retrieve_study(
        pacs,
        lambda: pacs.inbox,
        STUDY,
        "NODE",
        expected=pacs.expected,
        policy=policy(rounds=3, sleep=waits.append, first_wait_s=5, longest_wait_s=7),
    )
    assert report.missing == {"1.0.2"}
    assert report.words == "2 of 3 instances received after 3 rounds; last cause: some words"
    assert waits == [5, 7]
    assert pacs.asked[1:] == [("1.0.2",), ("1.0.2",)]


def test_nothing_is_asked_when_everything_is_there() -> None:
    pacs = ToyPacs(refs(1, 3))
    pacs.inbox = {r.SOPInstanceUID for r in pacs.expected}
    report = retrieve_study(
        pacs, lambda: pacs.inbox, STUDY, "NODE", expected=pacs.expected, policy=policy()
    )
    assert report.complete
    assert report.rounds == 0
    assert pacs.asked == []


def test_unknown_destination_needs_a_person() -> None:
    class Refuses(ToyPacs):
        def move_series(self, *_: object, **__: object) -> MoveOutcome:
            return MoveOutcome(0xA801, 0, 0, 0, (), "does not know the move destination")

    pacs = Refuses(refs(1, 2))
    with pytest.raises(PeerFailure, match="move destination") as caught:
        retrieve_study(
            pacs, lambda: pacs.inbox, STUDY, "NODE", expected=pacs.expected, policy=policy()
        )
    assert caught.value.status == 0xA801


def test_series_level_refused_falls_back_to_the_study() -> None:
    class StudyOnly(ToyPacs):
        def move_series(self, *_: object, **__: object) -> MoveOutcome:
            return MoveOutcome(0xA900, 0, 0, 0, (), "not at this level")

    pacs = StudyOnly(refs(2, 2))
    report = retrieve_study(
        pacs, lambda: pacs.inbox, STUDY, "NODE", expected=pacs.expected, policy=policy()
    )
    assert report.complete
    assert len(pacs.asked) == 1


def test_broken_connection_is_tried_again_and_a_lasting_rejection_is_not() -> None:
    class Breaks(ToyPacs):
        error: Exception = PeerUnreachable("the connection broke")

        def move_series(self, *a: object, **k: object) -> MoveOutcome:
            error, self.error = self.error, None  # type: ignore[assignment]
            if error:
                raise error
            return super().move_series(*a, **k)  # type: ignore[arg-type]

    pacs = Breaks(refs(1, 2))
    report = retrieve_study(
        pacs, lambda: pacs.inbox, STUDY, "NODE", expected=pacs.expected, policy=policy()
    )
    assert report.complete
    assert report.rounds == 2
    refused = Breaks(refs(1, 2))
    refused.error = AssociationRejected("unknown", result=1, reason=3)
    with pytest.raises(AssociationRejected):
        retrieve_study(
            refused,
            lambda: refused.inbox,
            STUDY,
            "NODE",
            expected=refused.expected,
            policy=policy(),
        )


def test_stop_ends_between_series() -> None:
    stop = threading.Event()

    class StopsAfterOne(ToyPacs):
        def move_series(self, *a: object, **k: object) -> MoveOutcome:
            stop.set()
            return super().move_series(*a, **k)  # type: ignore[arg-type]

    pacs = StopsAfterOne(refs(3, 2))
    report = retrieve_study(
        pacs,
        lambda: pacs.inbox,
        STUDY,
        "NODE",
        expected=pacs.expected,
        policy=policy(stop=stop),
    )
    assert len(report.received) == 2
    assert "stopped on request" in report.words


def test_stragglers_after_the_last_answer_are_waited_for() -> None:
    late: list[str] = []

    class AnswersEarly(ToyPacs):
        def move_series(
            self, study_uid: str, series_uid: str, *_: object, **__: object
        ) -> MoveOutcome:
            late.extend(r.SOPInstanceUID for r in self.expected)
            return MoveOutcome(0, 3, 0, 0, (), "")

    pacs = AnswersEarly(refs(1, 3))

    def arrive(_seconds: float) -> None:
        if late:
            pacs.inbox.add(late.pop())

    report = retrieve_study(
        pacs, lambda: pacs.inbox, STUDY, "NODE", expected=pacs.expected, policy=policy(sleep=arrive)
    )
    assert report.complete
    assert report.rounds == 1


class Clock:
    """Seconds that pass only when somebody waits."""

    def __init__(self, start: datetime) -> None:
        self.start = start
        self.seconds = 0.0

    def __call__(self) -> datetime:
        return self.start + timedelta(seconds=self.seconds)

    def monotonic(self) -> float:
        return self.seconds

    def sleep(self, seconds: float) -> None:
        self.seconds += seconds


MONDAY_NIGHT = datetime(2024, 1, 8, 23, 0, tzinfo=UTC)


@pytest.mark.parametrize("associations", [1, 3])
@pytest.mark.parametrize("takes_lists", [True, False])
def test_a_rate_is_kept_by_asking_for_a_few_and_pausing(
    takes_lists: bool, associations: int
) -> None:
    clock = Clock(MONDAY_NIGHT)
    pacs = ToyPacs(refs(2, 100), takes_lists=takes_lists)
    traffic = Traffic(Pace(per_second=2.0, clock=clock), associations, clock.monotonic)
    report = retrieve_study(
        pacs,
        lambda: set(pacs.inbox),
        STUDY,
        "NODE",
        expected=pacs.expected,
        policy=policy(sleep=clock.sleep),
        traffic=traffic,
    )
    assert report.complete
    assert not pacs.repeated
    assert clock.seconds >= 200 / 2.0 - 1
    if takes_lists:
        assert max(len(asked) for asked in pacs.asked) <= 20


def test_a_window_that_closes_leaves_the_rest_for_the_next() -> None:
    clock = Clock(MONDAY_NIGHT)
    night = Schedule.parse(["mon-fri 22:00-23:30"])
    pacs = ToyPacs(refs(4, 900))
    traffic = Traffic(Pace(night, 1.0, clock), monotonic=clock.monotonic)

    def go() -> object:
        return retrieve_study(
            pacs,
            lambda: set(pacs.inbox),
            STUDY,
            "NODE",
            expected=pacs.expected,
            policy=policy(sleep=clock.sleep),
            traffic=traffic,
        )

    first = go()
    assert 1700 <= len(first.received) <= 1900  # type: ignore[attr-defined]
    assert first.resume_at == datetime(2024, 1, 9, 22, 0, tzinfo=UTC)  # type: ignore[attr-defined]
    assert "closed until 2024-01-09 22:00 UTC" in first.words  # type: ignore[attr-defined]
    before = len(pacs.asked)
    assert not go().complete  # type: ignore[attr-defined]
    assert len(pacs.asked) == before, "nothing is asked for while the window is closed"
    clock.seconds = (datetime(2024, 1, 9, 22, 0, tzinfo=UTC) - MONDAY_NIGHT).total_seconds()
    second = go()
    assert second.complete  # type: ignore[attr-defined]
    assert second.resume_at is None  # type: ignore[attr-defined]
    assert not pacs.repeated


@pytest.mark.parametrize("associations", [1, 2, 5])
def test_series_move_at_once_where_several_associations_are_allowed(associations: int) -> None:
    together = threading.Barrier(min(associations, 4), timeout=20)
    running: list[int] = []
    most: list[int] = []

    class Slow(ToyPacs):
        def move_series(self, *a: object, **k: object) -> MoveOutcome:
            running.append(1)
            most.append(len(running))
            together.wait()
            running.pop()
            return super().move_series(*a, **k)  # type: ignore[arg-type]

    pacs = Slow(refs(4, 3))
    report = retrieve_study(
        pacs,
        lambda: set(pacs.inbox),
        STUDY,
        "NODE",
        expected=pacs.expected,
        policy=policy(),
        traffic=Traffic(associations=associations),
    )
    assert report.complete
    assert max(most) <= associations
    assert not pacs.repeated


def test_a_lasting_refusal_ends_all_series_that_move_at_once() -> None:
    class Refuses(ToyPacs):
        def move_series(self, *_: object, **__: object) -> MoveOutcome:
            self.asked.append(())
            return MoveOutcome(0xA801, 0, 0, 0, (), "does not know the move destination")

    pacs = Refuses(refs(40, 1))
    with pytest.raises(PeerFailure, match="move destination"):
        retrieve_study(
            pacs,
            lambda: set(pacs.inbox),
            STUDY,
            "NODE",
            expected=pacs.expected,
            policy=policy(),
            traffic=Traffic(associations=3),
        )


def test_image_level_refused_falls_back_to_the_series() -> None:
    lost = {"1.0.1"}

    class NoImages(ToyPacs):
        def move_instances(self, *_: object, **__: object) -> MoveOutcome:
            lost.clear()
            return MoveOutcome(0xA900, 0, 0, 0, (), "not at this level")

    pacs = NoImages(refs(1, 3), drops=lambda uid: uid in lost)
    report = retrieve_study(
        pacs, lambda: pacs.inbox, STUDY, "NODE", expected=pacs.expected, policy=policy()
    )
    assert report.complete
    assert report.rounds == 2
    assert len(pacs.asked) == 2


def test_a_list_that_could_not_be_sent_is_not_asked_for_one_by_one() -> None:
    class Unreachable(ToyPacs):
        def move_instances(
            self, target: MoveTarget, destination_ae: str, *, watch: MoveWatch | None = None
        ) -> MoveOutcome:
            self.asked.append(target.sop_uids)
            return MoveOutcome(0xA702, 0, len(target.sop_uids), 0, (), "cannot send")

    pacs = Unreachable(refs(1, 30), drops=lambda uid: uid != "1.0.0")
    report = retrieve_study(
        pacs, lambda: pacs.inbox, STUDY, "NODE", expected=pacs.expected, policy=policy(rounds=3)
    )
    assert len(report.received) == 1
    assert "cannot send" in report.words
    assert len(pacs.asked) == 3
