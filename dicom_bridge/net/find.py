"""C-FIND at the study, series and image levels of the Study Root model (PS3.4 C.4.1, C.6.2)."""

from __future__ import annotations

import dataclasses
import fnmatch
from collections.abc import Iterator
from datetime import date
from itertools import product

from pydicom.dataset import Dataset
from pydicom.multival import MultiValue
from pynetdicom import build_context
from pynetdicom.association import Association

from dicom_bridge.errors import PeerFailure
from dicom_bridge.net.association import Link, associate, lost
from dicom_bridge.net.model import InstanceRef, StudyCriteria, StudyMatch
from dicom_bridge.net.stack import STUDY_ROOT_FIND
from dicom_bridge.net.words import describe_status

LIMIT = 200_000
"""More answers than this to one query are refused: memory stays bounded."""

_STUDY_TEXT = (
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


def find_studies(link: Link, criteria: StudyCriteria) -> list[StudyMatch]:
    """Ask for studies; the answers are merged, checked against the criteria and sorted by UID.

    A PACS may ignore a key or leave an attribute out: what it answers is checked here again, and
    missing modalities are looked up at the series level.

    Raises:
        PeerUnreachable: see :func:`dicom_bridge.net.association.associate`.
        AssociationRejected: see there.
        PeerFailure: the PACS answered with a failure.
    """
    with associate(link, [build_context(STUDY_ROOT_FIND)]) as association:
        found: dict[str, StudyMatch] = {}
        for query in _study_queries(criteria):
            for answer in _ask(association, link, query):
                match = _study(answer)
                if match.StudyInstanceUID:
                    known = found.get(match.StudyInstanceUID)
                    found[match.StudyInstanceUID] = (
                        match if known is None else _merged(known, match)
                    )
        if criteria.modalities:
            for uid, match in found.items():
                if not match.ModalitiesInStudy:
                    modalities = _modalities(association, link, uid)
                    found[uid] = dataclasses.replace(match, ModalitiesInStudy=modalities)
    return [found[uid] for uid in sorted(found) if _fits(found[uid], criteria)]


def find_instances(link: Link, study_uid: str) -> list[InstanceRef]:
    """List a study's instances, series by series, each once, as the PACS orders them.

    Raises:
        PeerUnreachable: see :func:`dicom_bridge.net.association.associate`.
        AssociationRejected: see there.
        PeerFailure: the PACS answered with a failure.
    """
    with associate(link, [build_context(STUDY_ROOT_FIND)]) as association:
        series: dict[str, str] = {}
        for answer in _ask(association, link, _series_query(study_uid)):
            uid = text(answer, "SeriesInstanceUID")
            if uid:
                series[uid] = series.get(uid) or text(answer, "Modality")
        found: dict[str, InstanceRef] = {}
        for series_uid, modality in series.items():
            query = Dataset()
            query.QueryRetrieveLevel = "IMAGE"
            query.StudyInstanceUID = study_uid
            query.SeriesInstanceUID = series_uid
            query.SOPInstanceUID = ""
            query.SOPClassUID = ""
            query.InstanceNumber = None
            for answer in _ask(association, link, query):
                uid = text(answer, "SOPInstanceUID")
                if uid and uid not in found:
                    found[uid] = InstanceRef(series_uid, uid, text(answer, "SOPClassUID"), modality)
        return list(found.values())


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


def _ask(association: Association, link: Link, query: Dataset) -> Iterator[Dataset]:
    answers = 0
    for status, answer in association.send_c_find(query, STUDY_ROOT_FIND):
        if "Status" not in status:
            raise lost(link, "C-FIND")
        code = int(status.Status)
        if code in (0xFF00, 0xFF01):
            answers += 1
            if answers > LIMIT:
                raise PeerFailure(
                    f"{link.remote} gave more than {LIMIT} answers; narrow the criteria",
                    status=code,
                )
            if answer is not None:
                yield answer
        elif code != 0x0000:
            raise PeerFailure(f"{link.remote}: {describe_status('C-FIND', code)}", status=code)


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
        for keyword in _STUDY_TEXT:
            setattr(query, keyword, "")
        query.ModalitiesInStudy = modality
        query.NumberOfStudyRelatedInstances = None
        query.PatientID = patient
        query.AccessionNumber = accession
        query.StudyInstanceUID = study
        query.StudyDate = _date_range(criteria.study_date_from, criteria.study_date_to)
        query.StudyDescription = criteria.description or ""
        keys = (modality, patient, accession, criteria.description or "")
        if not all(key.isascii() for key in keys):
            query.SpecificCharacterSet = "ISO_IR 192"
        yield query


def _date_range(first: date | None, last: date | None) -> str:
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
    return query


def _modalities(association: Association, link: Link, study_uid: str) -> tuple[str, ...]:
    answers = _ask(association, link, _series_query(study_uid))
    return tuple(sorted({text(answer, "Modality") for answer in answers} - {""}))


def _study(answer: Dataset) -> StudyMatch:
    values = {keyword: text(answer, keyword) for keyword in _STUDY_TEXT}
    modalities = tuple(m for m in text(answer, "ModalitiesInStudy").split("\\") if m)
    count = text(answer, "NumberOfStudyRelatedInstances")
    return StudyMatch(
        **values,
        ModalitiesInStudy=modalities,
        instances=int(count) if count.isdecimal() else None,
    )


def _merged(known: StudyMatch, other: StudyMatch) -> StudyMatch:
    """The first answer, completed by what only a later answer for the same study holds."""
    gaps = {
        item.name: getattr(other, item.name)
        for item in dataclasses.fields(StudyMatch)
        if getattr(known, item.name) in ("", None, ()) and item.name != "StudyInstanceUID"
    }
    return dataclasses.replace(known, **gaps)


def _fits(match: StudyMatch, criteria: StudyCriteria) -> bool:
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
