"""What every object of ours carries: the source's patient and study, our equipment, the times."""

from __future__ import annotations

import importlib.metadata
from datetime import UTC, datetime

from pydicom.dataset import Dataset
from pydicom.uid import UID

from dicom_bridge.convert.source import PATIENT_KEYWORDS, STUDY_KEYWORDS, SourceSeries

RESEARCH = "RESEARCH"
TYPE_TWO = frozenset(
    {
        "PatientName",
        "PatientID",
        "PatientBirthDate",
        "PatientSex",
        "StudyID",
        "StudyDate",
        "StudyTime",
        "AccessionNumber",
        "ReferringPhysicianName",
    }
)


def software_version() -> str:
    """The installed version of clinode, "0" where it is not installed."""
    try:
        return importlib.metadata.version("clinode")
    except importlib.metadata.PackageNotFoundError:
        return "0"


def time_of(written_at: datetime | None) -> datetime:
    """The time of writing: as asked for, else now (UTC)."""
    return written_at or datetime.now(UTC)


def research_description(description: str) -> str:
    """A SeriesDescription that says RESEARCH, cut to the 64 characters of its VR.

    Examples:
        >>> research_description("MS lesions")
        'RESEARCH MS lesions'
    """
    if not description.upper().startswith(RESEARCH):
        description = f"{RESEARCH} {description}"
    return description[:64]


def stamp_identity(dataset: Dataset, source: SourceSeries) -> None:
    """Put the source's patient and study attributes in, in UTF-8 (General Study, Patient modules).

    Args:
        dataset: changed in place; StudyInstanceUID too.
        source: the series, fresh values already in (`SourceSeries.with_patient`).
    """
    values = {**source.patient, **source.study}
    dataset.SpecificCharacterSet = "ISO_IR 192"
    for keyword in (*PATIENT_KEYWORDS, *STUDY_KEYWORDS):
        if keyword in values or keyword in TYPE_TWO:
            setattr(dataset, keyword, values.get(keyword, ""))


def stamp_times(dataset: Dataset, when: datetime) -> None:
    """Set creation, content and series times to one moment: equal requests give equal bytes."""
    day, time = when.strftime("%Y%m%d"), when.strftime("%H%M%S")
    dataset.InstanceCreationDate = dataset.ContentDate = dataset.SeriesDate = day
    dataset.InstanceCreationTime = dataset.ContentTime = dataset.SeriesTime = time
    for item in dataset.get("ContributingEquipmentSequence") or []:
        item.ContributionDateTime = f"{day}{time}"


def wrong_uid(uid: str, source: SourceSeries) -> str:
    """Why a UID cannot be a new object's, or an empty text."""
    if not UID(uid).is_valid:
        return "is not a valid UID (PS3.5 section 9.1)"
    if uid in (source.SeriesInstanceUID, source.StudyInstanceUID):
        return "is the source's own: a result needs a series of its own"
    return ""
