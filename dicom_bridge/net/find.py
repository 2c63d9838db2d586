"""C-FIND at the study, series and image levels of the Study Root model (PS3.4 C.4.1, C.6.2).

A PACS may cut its answers off: with status 0xA700 or 0xB001, by ending the query as cancelled
(Orthanc's LimitFindResults does), or silently at a number of its own. Such an answer is not taken:
the question is split until each part is answered whole, and where it cannot be split any more the
query fails in words. Studies are split by dates and times (:mod:`dicom_bridge.net.split`), series
by modality and number, instances by number.
"""

from __future__ import annotations

import contextlib
import dataclasses
import fnmatch
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import date
from itertools import product

import structlog
from pydicom.dataset import Dataset
from pydicom.multival import MultiValue
from pynetdicom import build_context
from pynetdicom.association import Association

from dicom_bridge.errors import PeerFailure
from dicom_bridge.net.association import Link, associate, lost
from dicom_bridge.net.model import InstanceRef, StudyCriteria, StudyMatch
from dicom_bridge.net.split import Span, looks_cut, spans_of, split
from dicom_bridge.net.stack import PATIENT_ROOT_FIND, STUDY_ROOT_FIND
from dicom_bridge.net.words import describe_status

LIMIT = 200_000
"""More answers than this to one query are refused: memory stays bounded."""

_MOST_QUERIES = 5_000
_MOST_NUMBERS = 20_000
_CUT_OFF = frozenset({0xA700, 0xB001, 0xFE00})
_LEVEL_REFUSED = frozenset({0xA900, 0x0122, 0x0118, 0x0106, 0x0110})
_log = structlog.get_logger(__name__)

STUDY_KEYS = (
    "StudyInstanceUID",
    "PatientID",
    "IssuerOfPatientID",
    "PatientName",
    "PatientBirthDate",
    "PatientSex",
    "StudyDate",
    "StudyTime",
    "AccessionNumber",
    "StudyID",
    "StudyDescription",
)
"""The attributes of :class:`StudyMatch` that are text, by keyword."""


@dataclass(frozen=True, slots=True)
class FindRules:
    """How the answers of one PACS are read.

    Attributes:
        limit: the most answers that it gives to one query, where that is known.
        today: tells the date; studies of later days are asked for separately.
    """

    limit: int | None = None
    today: Callable[[], date] = date.today


@dataclass(frozen=True, slots=True)
class _Answers:
    """What came back to one query.

    Attributes:
        items: the answers.
        cut: the status or the reason for which they are known not to be all; empty where none is.
        doubtful: whether their number looks like a limit.
    """

    items: list[Dataset]
    cut: str
    doubtful: bool


class _Asker:
    """Queries on one association."""

    def __init__(self, association: Association, link: Link, rules: FindRules) -> None:
        self._association = association
        self._link = link
        self._rules = rules
        self._queries = 0
        self.trusted: set[int] = set()

    def ask(self, query: Dataset, model: str = STUDY_ROOT_FIND) -> _Answers:
        """Put one query.

        Raises:
            PeerUnreachable: no answer came.
            PeerFailure: the PACS answered with a failure that is no limit of answers.
        """
        self._queries += 1
        if self._queries > _MOST_QUERIES:
            raise self.too_many(f"{_MOST_QUERIES} queries were not enough")
        items: list[Dataset] = []
        for status, answer in self._association.send_c_find(query, model):
            if "Status" not in status:
                raise lost(self._link, "C-FIND", self._association)
            code = int(status.Status)
            if code in (0xFF00, 0xFF01):
                if len(items) >= LIMIT:
                    raise self.too_many(f"it gave more than {LIMIT} answers to one query")
                if answer is not None:
                    items.append(answer)
            elif code in _CUT_OFF:
                return _Answers(items, describe_status("C-FIND", code), doubtful=True)
            elif code != 0x0000:
                raise PeerFailure(
                    f"{self._link.remote}: {describe_status('C-FIND', code)}", status=code
                )
        if self._rules.limit is not None and len(items) >= self._rules.limit:
            return _Answers(items, f"it gives at most {self._rules.limit} answers", doubtful=True)
        doubtful = looks_cut(len(items)) and len(items) not in self.trusted
        return _Answers(items, "", doubtful)

    def too_many(self, why: str) -> PeerFailure:
        """The error for a PACS that will not say everything."""
        return PeerFailure(
            f"{self._link.remote} does not answer the query whole ({why}); narrow the criteria, "
            "or ask its administrator to raise its limit of C-FIND answers",
            status=0xA700,
        )


def find_studies(
    link: Link, criteria: StudyCriteria, rules: FindRules | None = None
) -> list[StudyMatch]:
    """Ask for studies; the answers are merged, checked against the criteria and sorted by UID.

    A PACS may ignore a key or leave an attribute out: what it answers is checked here again, and
    missing modalities are looked up at the series level.

    Raises:
        PeerUnreachable: see :func:`dicom_bridge.net.association.associate`.
        AssociationRejected: see there.
        PeerFailure: the PACS answered with a failure, or cannot be made to answer whole.
    """
    rules = rules or FindRules()
    with associate(link, [build_context(STUDY_ROOT_FIND)]) as association:
        asker = _Asker(association, link, rules)
        found: dict[str, StudyMatch] = {}
        for query in _study_queries(criteria):
            for answer in _all_studies(asker, query, criteria, rules):
                match = _study(answer)
                if match.StudyInstanceUID:
                    known = found.get(match.StudyInstanceUID)
                    found[match.StudyInstanceUID] = match if known is None else merged(known, match)
        if criteria.modalities:
            for uid, match in found.items():
                if not match.ModalitiesInStudy:
                    found[uid] = dataclasses.replace(
                        match, ModalitiesInStudy=_modalities(asker, uid)
                    )
    return [found[uid] for uid in sorted(found) if fits(found[uid], criteria)]


def _all_studies(
    asker: _Asker, query: Dataset, criteria: StudyCriteria, rules: FindRules
) -> list[Dataset]:
    """The answers to one query, split by dates where the PACS cuts them off."""
    answers = asker.ask(query)
    if not answers.doubtful or str(query.StudyInstanceUID):
        return answers.items
    spans = spans_of(criteria.study_date_from, criteria.study_date_to, rules.today())
    if len(spans) == 1:
        return _resolve(asker, query, spans[0], answers)
    if not answers.cut:
        spans = [half for span in spans for half in split(span, _days(answers.items)) or (span,)]
    return _by_parts(asker, query, spans, answers)


def _resolve(asker: _Asker, query: Dataset, span: Span, answers: _Answers) -> list[Dataset]:
    """All answers for one span of study dates and times, of which ``answers`` are known."""
    if not answers.doubtful:
        return answers.items
    # Where the number of answers only looks like a limit, dividing them shows whether it is one.
    days = () if answers.cut else _days(answers.items)
    return _by_parts(asker, query, split(span, days) or (), answers)


def _by_parts(
    asker: _Asker, query: Dataset, parts: Sequence[Span], whole: _Answers
) -> list[Dataset]:
    found: list[tuple[Span, _Answers]] = []
    for part in parts:
        query.StudyDate, query.StudyTime = part.dates, part.times
        found.append((part, asker.ask(query)))
    told = [uids for _, answers in found if (uids := _uids(answers.items))]
    # Spans have no day in common: the same answers twice mean that the key is ignored.
    ignored = len(told) > 1 and all(uids == told[0] for uids in told)
    if ignored or not parts:
        if whole.cut:
            raise asker.too_many(whole.cut)
        return whole.items
    items = list(whole.items)
    for part, answers in found:
        items += _resolve(asker, query, part, answers)
    if not whole.cut and _uids(items) == _uids(whole.items):
        asker.trusted.add(len(whole.items))
    return items


def _days(items: list[Dataset]) -> list[date]:
    """The study dates that are told, as far as they are dates."""
    days = []
    for item in items:
        value = text(item, "StudyDate").replace(".", "")
        with contextlib.suppress(ValueError):
            days.append(date(int(value[:4]), int(value[4:6]), int(value[6:8])))
    return days


def _uids(items: list[Dataset], keyword: str = "StudyInstanceUID") -> set[str]:
    return {text(item, keyword) for item in items} - {""}


def find_instances(link: Link, study_uid: str, rules: FindRules | None = None) -> list[InstanceRef]:
    """List a study's instances, series by series, each once, as the PACS orders them.

    Raises:
        PeerUnreachable: see :func:`dicom_bridge.net.association.associate`.
        AssociationRejected: see there.
        PeerFailure: the PACS answered with a failure, or cannot be made to list everything.
    """
    rules = rules or FindRules()
    contexts = [build_context(STUDY_ROOT_FIND), build_context(PATIENT_ROOT_FIND)]
    with associate(link, contexts) as association:
        asker = _Asker(association, link, rules)
        found: dict[str, InstanceRef] = {}
        for series_uid, (modality, count) in _series(asker, study_uid).items():
            for answer in _all_instances(asker, study_uid, series_uid, count):
                uid = text(answer, "SOPInstanceUID")
                if uid and uid not in found:
                    found[uid] = InstanceRef(series_uid, uid, text(answer, "SOPClassUID"), modality)
        return list(found.values())


def _series(asker: _Asker, study_uid: str) -> dict[str, tuple[str, int | None]]:
    """Modality and number of instances of each series of a study."""
    answers = asker.ask(_series_query(study_uid))
    items = list(answers.items)
    if answers.doubtful:
        items += _series_by_parts(asker, study_uid, answers)
    series: dict[str, tuple[str, int | None]] = {}
    for answer in items:
        uid = text(answer, "SeriesInstanceUID")
        if uid:
            modality, count = series.get(uid, ("", None))
            series[uid] = (
                modality or text(answer, "Modality"),
                count or _number(answer, "NumberOfSeriesRelatedInstances"),
            )
    return series


def _series_by_parts(asker: _Asker, study_uid: str, whole: _Answers) -> list[Dataset]:
    """Series by number, up to what the study says it has; fails where that is not reached."""
    query = Dataset()
    query.QueryRetrieveLevel = "STUDY"
    query.StudyInstanceUID = study_uid
    query.NumberOfStudyRelatedSeries = None
    told = [_number(item, "NumberOfStudyRelatedSeries") for item in asker.ask(query).items]
    wanted = next((count for count in told if count), None)
    seen = _uids(whole.items, "SeriesInstanceUID")
    if wanted is None and not whole.cut:
        return []
    return _by_number(
        asker, _series_query(study_uid), ("SeriesNumber", "SeriesInstanceUID"), wanted, seen, whole
    )


def _all_instances(
    asker: _Asker, study_uid: str, series_uid: str, count: int | None
) -> list[Dataset]:
    """The instances of a series, by number where the PACS cuts them off."""
    query = Dataset()
    query.QueryRetrieveLevel = "IMAGE"
    query.StudyInstanceUID = study_uid
    query.SeriesInstanceUID = series_uid
    query.SOPInstanceUID = ""
    query.SOPClassUID = ""
    query.InstanceNumber = None
    answers = _ask_images(asker, query, study_uid)
    seen = _uids(answers.items, "SOPInstanceUID")
    short = count is not None and len(seen) < count
    if answers.cut or (short and answers.doubtful):
        keys = ("InstanceNumber", "SOPInstanceUID")
        return answers.items + _by_number(asker, query, keys, count, seen, answers)
    if short:
        _log.warning("pacs_counts_differ", listed=len(seen), counted=count)
    return answers.items


def _by_number(
    asker: _Asker,
    query: Dataset,
    keys: tuple[str, str],
    wanted: int | None,
    seen: set[str],
    whole: _Answers,
) -> list[Dataset]:
    """Ask for one number after the other until ``wanted`` different UIDs have been seen.

    Numbers are not unique and may be absent: what bears none cannot be asked for, so that a count
    that is not reached is a failure, never a shorter list.
    """
    number, uid = keys
    items: list[Dataset] = []
    empty = 0
    if wanted is None:
        raise asker.too_many(whole.cut or "it says not how many there are")
    for value in range(min(2 * wanted + 100, _MOST_NUMBERS)):
        if len(seen) >= wanted:
            return items
        setattr(query, number, str(value))
        found = asker.ask(query).items
        new = _uids(found, uid) - seen
        empty = 0 if new else empty + 1
        if len(found) >= len(whole.items) > 1 and not new and value > 1:
            break
        items += found
        seen |= new
        if empty > max(100, wanted):
            break
    if len(seen) < wanted:
        raise asker.too_many(whole.cut or f"it lists {len(seen)} of {wanted}")
    return items


def _ask_images(asker: _Asker, query: Dataset, study_uid: str) -> _Answers:
    """An image level query; where the Study Root model refuses it, with the Patient Root model."""
    try:
        return asker.ask(query)
    except PeerFailure as refusal:
        if refusal.status not in _LEVEL_REFUSED and refusal.status < 0xC000:
            raise
        return _ask_by_patient(asker, query, study_uid, refusal)


def _ask_by_patient(
    asker: _Asker, query: Dataset, study_uid: str, refusal: PeerFailure
) -> _Answers:
    study = Dataset()
    study.QueryRetrieveLevel = "STUDY"
    study.StudyInstanceUID = study_uid
    study.PatientID = ""
    patients = {text(item, "PatientID") for item in asker.ask(study).items} - {""}
    if len(patients) == 1:
        query.PatientID = patients.pop()
        try:
            return asker.ask(query, PATIENT_ROOT_FIND)
        except (PeerFailure, ValueError):
            # ValueError: the PACS did not accept the Patient Root model.
            pass
        finally:
            del query.PatientID
    raise PeerFailure(
        f"{refusal}; without the list of instances nothing can be checked for completeness, "
        "ask its administrator to allow queries at the IMAGE level",
        status=refusal.status,
    ) from refusal


def text(dataset: Dataset, keyword: str) -> str:
    r"""The value of an element as text, ``\`` between several values, empty if there is none."""
    try:
        value = dataset.get(keyword)
    except (ValueError, LookupError, TypeError, AttributeError, NotImplementedError):
        return ""
    if value is None:
        return ""
    if isinstance(value, MultiValue):
        return "\\".join(str(item) for item in value)
    return str(value).strip("\0 ")


def _number(answer: Dataset, keyword: str) -> int | None:
    value = text(answer, keyword)
    return int(value) if value.isdecimal() else None


def _study_queries(criteria: StudyCriteria) -> Iterator[Dataset]:
    """One query per combination: only UIDs may be matched as a list (PS3.4 C.2.2.2.2)."""
    for modality, patient, accession, study in product(
        criteria.modalities or ("",),
        criteria.patient_ids or ("",),
        criteria.accession_numbers or ("",),
        criteria.study_uids or ("",),
    ):
        query = Dataset()
        query.QueryRetrieveLevel = "STUDY"
        for keyword in STUDY_KEYS:
            setattr(query, keyword, "")
        query.ModalitiesInStudy = modality
        query.NumberOfStudyRelatedInstances = None
        query.PatientID = patient
        query.AccessionNumber = accession
        query.StudyInstanceUID = study
        query.StudyDate = date_range(criteria.study_date_from, criteria.study_date_to)
        query.StudyDescription = criteria.description or ""
        keys = (modality, patient, accession, criteria.description or "")
        if not all(key.isascii() for key in keys):
            query.SpecificCharacterSet = "ISO_IR 192"
        yield query


def date_range(first: date | None, last: date | None) -> str:
    """A date range for matching (PS3.4 C.2.2.2.5), empty where it does not restrict."""
    if first is None and last is None:
        return ""
    start = f"{first:%Y%m%d}" if first else ""
    end = f"{last:%Y%m%d}" if last else ""
    return start if start == end else f"{start}-{end}"


def _series_query(study_uid: str) -> Dataset:
    query = Dataset()
    query.QueryRetrieveLevel = "SERIES"
    query.StudyInstanceUID = study_uid
    query.SeriesInstanceUID = ""
    query.Modality = ""
    query.SeriesNumber = None
    query.NumberOfSeriesRelatedInstances = None
    return query


def _modalities(asker: _Asker, study_uid: str) -> tuple[str, ...]:
    told = {modality for modality, _ in _series(asker, study_uid).values()}
    return tuple(sorted(told - {""}))


def _study(answer: Dataset) -> StudyMatch:
    values = {keyword: text(answer, keyword) for keyword in STUDY_KEYS}
    modalities = tuple(m for m in text(answer, "ModalitiesInStudy").split("\\") if m)
    return StudyMatch(
        **values,
        ModalitiesInStudy=modalities,
        instances=_number(answer, "NumberOfStudyRelatedInstances"),
    )


def merged(known: StudyMatch, other: StudyMatch) -> StudyMatch:
    """The first answer, completed by what only a later answer for the same study holds."""
    gaps = {
        item.name: getattr(other, item.name)
        for item in dataclasses.fields(StudyMatch)
        if getattr(known, item.name) in ("", None, ()) and item.name != "StudyInstanceUID"
    }
    return dataclasses.replace(known, **gaps)


def fits(match: StudyMatch, criteria: StudyCriteria) -> bool:
    """Check an answer against the criteria; an attribute that is not told does not exclude."""
    day = match.StudyDate.replace(".", "")
    listed = (
        (match.PatientID, criteria.patient_ids),
        (match.AccessionNumber, criteria.accession_numbers),
        (match.StudyInstanceUID, criteria.study_uids),
    )
    if any(wanted and value and value not in wanted for value, wanted in listed):
        return False
    told = set(match.ModalitiesInStudy)
    if criteria.modalities and told and not told & set(criteria.modalities):
        return False
    if day and criteria.study_date_from and day < f"{criteria.study_date_from:%Y%m%d}":
        return False
    if day and criteria.study_date_to and day > f"{criteria.study_date_to:%Y%m%d}":
        return False
    if criteria.description and match.StudyDescription:
        pattern = criteria.description.casefold().replace("[", "[[]")
        return fnmatch.fnmatchcase(match.StudyDescription.casefold(), pattern)
    return True
