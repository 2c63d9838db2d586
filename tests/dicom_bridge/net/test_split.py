"""Spans of dates and times, and queries to PACS that cut their answers off."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import date, timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom.dataset import Dataset
from pynetdicom import evt

from dicom_bridge.errors import PeerFailure
from dicom_bridge.net import FindRules, PacsClient, PacsOptions, RemoteAE, StudyCriteria
from dicom_bridge.net.split import Span, looks_cut, spans_of, split
from dicom_bridge.net.stack import PATIENT_ROOT_FIND, STUDY_ROOT_FIND
from tests.dicom_bridge.net.peers import scripted_scp
from tests.pacs import (
    LOOPBACK,
    ONCE,
    QUICK,
    StudyForm,
    running_orthanc,
    write_small_study,
)
from tests.tools import free_port

TODAY = date(2024, 6, 1)
days = st.dates(date(1960, 1, 1), date(2030, 12, 31))


def client(remote: RemoteAE, limit: int | None = None) -> PacsClient:
    rules = FindRules(limit=limit, today=lambda: TODAY)
    options = PacsOptions(find=rules)
    return PacsClient(remote, calling_ae="NODE", timeouts=QUICK, retry=ONCE, options=options)


def holds(span: Span, day: date, minute: int) -> bool:
    late = span.first is None or day >= span.first
    early = span.last is None or day <= span.last
    return late and early and span.minute <= minute <= span.last_minute


@given(st.none() | days, st.none() | days, days, st.integers(0, 1439))
def test_spans_cover_a_query_once(
    first: date | None, last: date | None, day: date, minute: int
) -> None:
    if first and last and first > last:
        first, last = last, first
    inside = (first is None or day >= first) and (last is None or day <= last)
    spans = spans_of(first, last, TODAY)
    assert sum(holds(span, day, minute) for span in spans) == (1 if inside else 0)


@given(days, st.integers(0, 20_000), st.integers(0, 1439), st.lists(st.booleans(), max_size=40))
def test_halves_cover_the_whole_once_down_to_a_minute(
    first: date, length: int, minute: int, turns: list[bool]
) -> None:
    day = first + timedelta(days=length // 2)
    span = Span(first, first + timedelta(days=length))
    for turn in turns:
        halves = split(span, [day] if turn else [])
        if halves is None:
            assert span.first == span.last
            assert span.minute == span.last_minute
            return
        assert sum(holds(half, day, minute) for half in halves) == holds(span, day, minute)
        span = halves[turn]


def test_values_for_matching() -> None:
    assert Span(date(2024, 1, 1), date(2024, 1, 1)).dates == "20240101"
    assert Span(None, date(2024, 1, 1)).dates == "-20240101"
    assert Span(date(2024, 1, 1), date(2024, 1, 1), 0, 719).times == "000000-115959.999999"
    assert not looks_cut(49)
    assert looks_cut(1000)


def study(uid: str, day: str, clock: str = "120000") -> Dataset:
    ds = Dataset()
    ds.QueryRetrieveLevel = "STUDY"
    ds.StudyInstanceUID, ds.StudyDate, ds.StudyTime, ds.ModalitiesInStudy = uid, day, clock, "MR"
    return ds


def within(value: str, span: str) -> bool:
    if not span or not value:
        return not span
    low, _, high = span.partition("-")
    if "-" not in span:
        high = low
    return (not low or value >= low) and (not high or value <= high)


class Shelf:
    """Answers study queries from a list, ``limit`` at most, ending as ``ending`` says."""

    def __init__(
        self, studies: list[Dataset], limit: int, ending: int, *, dates: bool = True
    ) -> None:
        self.studies, self.limit, self.ending, self.dates = studies, limit, ending, dates
        self.queries = 0

    def find(self, event: evt.Event) -> Iterator[tuple[int, Dataset | None]]:
        self.queries += 1
        query = event.identifier
        found = [
            item
            for item in self.studies
            if not self.dates
            or (within(item.StudyDate, query.StudyDate) and within(item.StudyTime, query.StudyTime))
        ]
        for item in found[: self.limit]:
            yield 0xFF00, item
        yield (self.ending if len(found) > self.limit else 0x0000), None


def crowd(count: int, *, one_day: bool = False) -> list[Dataset]:
    start = date(2023, 1, 1)
    return [
        study(
            f"1.2.{n}",
            f"{start if one_day else start + timedelta(days=n // 3):%Y%m%d}",
            f"{n % 24:02d}{n * 7 % 60:02d}00",
        )
        for n in range(count)
    ]


@pytest.mark.parametrize(
    ("ending", "limit", "known", "one_day"),
    [
        (0xA700, 20, None, False),
        (0xFE00, 20, None, True),
        (0x0000, 20, 20, False),
        (0x0000, 50, None, False),
        (0x0000, 50, None, True),
    ],
)
def test_a_pacs_that_cuts_off_is_asked_until_everything_is_known(
    ending: int, limit: int, known: int | None, one_day: bool
) -> None:
    shelf = Shelf(crowd(110, one_day=one_day), limit, ending)
    with scripted_scp(shelf.find) as remote:
        found = client(remote, known).find_studies(StudyCriteria())
    assert len(found) == 110
    assert shelf.queries < 80


def test_a_round_number_that_is_no_limit_costs_a_few_queries() -> None:
    shelf = Shelf(crowd(100), 10_000, 0x0000)
    with scripted_scp(shelf.find) as remote:
        assert len(client(remote).find_studies(StudyCriteria())) == 100
    assert 1 < shelf.queries < 8


@pytest.mark.parametrize("known", [None, 50])
def test_a_pacs_that_ignores_dates_and_cuts_off_is_told_and_not_believed(
    known: int | None,
) -> None:
    shelf = Shelf(crowd(60), 50, 0xA700 if known is None else 0x0000, dates=False)
    words = r"does not answer .* whole.*raise its limit"
    with scripted_scp(shelf.find) as remote, pytest.raises(PeerFailure, match=words):
        client(remote, known).find_studies(StudyCriteria())
    assert shelf.queries < 10


def test_too_many_studies_in_one_minute_are_told() -> None:
    shelf = Shelf([study(f"1.2.{n}", "20230101") for n in range(60)], 50, 0xA700)
    with scripted_scp(shelf.find) as remote, pytest.raises(PeerFailure, match="raise its limit"):
        client(remote).find_studies(StudyCriteria())


class Series:
    """A study of one series whose instances bear numbers; ``limit`` answers at most."""

    def __init__(self, numbers: list[str], limit: int, *, told: int | None, ending: int) -> None:
        self.numbers, self.limit, self.told, self.ending = numbers, limit, told, ending

    def find(self, event: evt.Event) -> Iterator[tuple[int, Dataset | None]]:
        query = event.identifier
        if query.QueryRetrieveLevel == "SERIES":
            ds = Dataset()
            ds.SeriesInstanceUID, ds.Modality = "1.2.1", "MR"
            ds.NumberOfSeriesRelatedInstances = self.told
            yield 0xFF00, ds
            yield 0x0000, None
            return
        wanted = query.get("InstanceNumber")
        found = [
            (n, number)
            for n, number in enumerate(self.numbers)
            if wanted in (None, "") or number == str(wanted)
        ]
        for n, number in found[: self.limit]:
            ds = Dataset()
            ds.SOPInstanceUID, ds.SOPClassUID = f"1.2.1.{n}", "1.2.840.10008.5.1.4.1.1.4"
            ds.InstanceNumber = number or None
            yield 0xFF00, ds
        yield (self.ending if len(found) > self.limit else 0x0000), None


@pytest.mark.parametrize(("ending", "limit"), [(0xFE00, 30), (0x0000, 50)])
def test_instances_beyond_a_limit_are_asked_for_by_number(ending: int, limit: int) -> None:
    series = Series([str(n) for n in range(1, 121)], limit, told=120, ending=ending)
    with scripted_scp(series.find) as remote:
        found = client(remote).find_instances("1.2")
    assert len({ref.SOPInstanceUID for ref in found}) == len(found) == 120


@pytest.mark.parametrize(
    ("numbers", "told"), [([""] * 60, 60), ([str(n) for n in range(60)], None)]
)
def test_a_list_that_cannot_be_completed_is_never_taken(
    numbers: list[str], told: int | None
) -> None:
    series = Series(numbers, 30, told=told, ending=0xA700)
    with scripted_scp(series.find) as remote, pytest.raises(PeerFailure, match="raise its limit"):
        client(remote).find_instances("1.2")


def test_image_level_refused_by_the_study_root_is_asked_of_the_patient_root() -> None:
    def find(event: evt.Event) -> Iterator[tuple[int, Dataset | None]]:
        query = event.identifier
        model = event.request.AffectedSOPClassUID
        ds = Dataset()
        if query.QueryRetrieveLevel == "STUDY":
            ds.StudyInstanceUID, ds.PatientID = "1.2", "P1"
        elif query.QueryRetrieveLevel == "SERIES":
            ds.SeriesInstanceUID, ds.Modality = "1.2.1", "MR"
        elif model == STUDY_ROOT_FIND:
            yield 0xA900, None
            return
        else:
            assert query.PatientID == "P1"
            ds.SOPInstanceUID = "1.2.1.1"
        yield 0xFF00, ds
        yield 0x0000, None

    with scripted_scp(find, services=(STUDY_ROOT_FIND, PATIENT_ROOT_FIND)) as remote:
        [ref] = client(remote).find_instances("1.2")
    assert ref.SOPInstanceUID == "1.2.1.1"
    only = scripted_scp(find, services=(STUDY_ROOT_FIND,))
    with only as remote, pytest.raises(PeerFailure, match="allow queries at the IMAGE level"):
        client(remote).find_instances("1.2")


@pytest.mark.integration
def test_orthanc_with_limits_lists_everything(tmp_path: Path) -> None:
    peers = [RemoteAE("NODE", LOOPBACK, free_port())]
    limits = {"LimitFindResults": 3, "LimitFindInstances": 4}
    with running_orthanc(tmp_path / "orthanc", peers, extra=limits) as pacs:
        node = client(pacs.remote)
        long = write_small_study(tmp_path / "long", StudyForm(slices=11, study_date="20240301"))
        paths = list(long.paths)
        for n in range(10):
            form = StudyForm(slices=1, study_date=f"2024{n % 3 + 1:02d}{n + 1:02d}", seed=n)
            paths += write_small_study(tmp_path / str(n), form).paths
        assert all(outcome.ok for outcome in node.send(paths))
        assert len(node.find_studies(StudyCriteria(modalities=("MR",)))) == 11
        found = node.find_studies(
            StudyCriteria(study_date_from=date(2024, 2, 1), study_date_to=date(2024, 2, 28))
        )
        assert len(found) == 3
        assert len(node.find_instances(long.study_uid)) == 11
