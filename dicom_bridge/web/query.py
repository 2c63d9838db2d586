"""QIDO-RS (PS3.18 8.3, 10.6): pages of DICOM JSON, read to their end."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from itertools import product
from typing import Any

from pydicom.datadict import tag_for_keyword

from dicom_bridge.errors import PeerFailure
from dicom_bridge.net.find import LIMIT, STUDY_KEYS, date_range
from dicom_bridge.net.model import InstanceRef, StudyCriteria, StudyMatch
from dicom_bridge.net.split import looks_cut

PAGE = 500
"""Answers asked for at once; a server may give fewer."""

_PLAIN = re.compile(r"[A-Za-z0-9._~*-]+")

Item = Mapping[str, Any]
Page = list[dict[str, dict[str, Any]]]
Ask = Callable[[int, int], Page]
"""Asks for (limit, offset) answers."""


def study_filters(criteria: StudyCriteria) -> Iterator[dict[str, str]]:
    """One set of QIDO-RS parameters per combination of what is asked for."""
    for modality, patient, accession, study in product(
        criteria.modalities or ("",),
        criteria.patient_ids or ("",),
        criteria.accession_numbers or ("",),
        criteria.study_uids or ("",),
    ):
        keys = {
            "ModalitiesInStudy": modality,
            "PatientID": patient,
            "AccessionNumber": accession,
            "StudyInstanceUID": study,
            "StudyDate": date_range(criteria.study_date_from, criteria.study_date_to),
            "StudyDescription": criteria.description if matched_there(criteria) else "",
        }
        yield {keyword: value for keyword, value in keys.items() if value}


def matched_there(criteria: StudyCriteria) -> bool:
    """Whether the server is asked to match the description.

    Some servers do not undo the percent-encoding of a query (the DICOMweb plugin of Orthanc 1.10
    does not) and then find nothing: what would have to be encoded is matched here instead.
    """
    return bool(criteria.description) and _PLAIN.fullmatch(criteria.description or "") is not None


def all_pages(ask: Ask, keyword: str, where: str, *, enough: int | None = None) -> list[Item]:
    """All answers to a query, each once by the UID in ``keyword``.

    A server may give fewer than asked for; only an empty page is the end.

    Args:
        ask: asks for a page.
        keyword: the UID that tells answers apart.
        where: the server, for the error's text.
        enough: how many there are, where the server has told; then no empty page is waited for.

    Raises:
        PeerFailure: the server ignores the offset, so that not everything can be read, or it gives
            more than the bridge's limit.
    """
    found: dict[str, Item] = {}
    offset = 0
    while enough is None or len(found) < enough or not offset:
        page = ask(PAGE, offset)
        new = {uid: item for item in page if (uid := text(item, keyword)) and uid not in found}
        found.update(new)
        if not page:
            break
        if not new:
            whole = len(page) > PAGE or not (len(page) == PAGE or looks_cut(len(page)))
            if whole and len(page) >= len(found):
                break
            raise PeerFailure(
                f"{where} gives the same answers again instead of the next ones; "
                "narrow the criteria, or ask its administrator about QIDO-RS offset",
                status=0,
            )
        if len(found) > LIMIT:
            raise PeerFailure(
                f"{where} gave more than {LIMIT} answers; narrow the criteria", status=0
            )
        offset += len(page)
    return list(found.values())


def text(item: Item, keyword: str) -> str:
    r"""An attribute of DICOM JSON (PS3.18 F.2) as text, ``\`` between several values."""
    tag = tag_for_keyword(keyword)
    element = item.get(f"{tag:08X}") if tag is not None else None
    values = element.get("Value") if isinstance(element, Mapping) else None
    if not isinstance(values, list):
        return ""
    return "\\".join(_value(value) for value in values).strip("\0 ")


def _value(value: object) -> str:
    if isinstance(value, Mapping):
        groups = [str(value.get(name) or "") for name in ("Alphabetic", "Ideographic", "Phonetic")]
        return "=".join(groups).rstrip("=")
    return "" if value is None else str(value)


def number(item: Item, keyword: str) -> int | None:
    """An attribute that is a count, None where it is not told."""
    value = text(item, keyword)
    return int(value) if value.isdecimal() else None


def study_of(item: Item) -> StudyMatch:
    """One study as the server describes it."""
    values = {keyword: text(item, keyword) for keyword in STUDY_KEYS}
    modalities = tuple(m for m in text(item, "ModalitiesInStudy").split("\\") if m)
    return StudyMatch(
        **values,
        ModalitiesInStudy=modalities,
        instances=number(item, "NumberOfStudyRelatedInstances"),
    )


def instance_of(item: Item, series_uid: str, modality: str) -> InstanceRef:
    """One instance as the server lists it."""
    return InstanceRef(
        series_uid, text(item, "SOPInstanceUID"), text(item, "SOPClassUID"), modality
    )
