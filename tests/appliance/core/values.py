"""Values that several tests of the node's core share."""

from __future__ import annotations

from datetime import UTC, datetime

from appliance.store import ResultRow, ResultState
from dicom_bridge.net.model import StudyMatch

MATCH = StudyMatch(
    StudyInstanceUID="1.2.3",
    PatientID="P1",
    IssuerOfPatientID="",
    PatientName="DOE^JANE",
    PatientBirthDate="",
    PatientSex="F",
    StudyDate="20260101",
    StudyTime="",
    AccessionNumber="A1",
    StudyID="1",
    StudyDescription="HEAD",
    ModalitiesInStudy=("MR",),
    instances=2,
)


class Clock:
    """A clock that only moves when told to."""

    def __init__(self) -> None:
        self.now = datetime(2026, 3, 1, 12, tzinfo=UTC)

    def __call__(self) -> datetime:
        return self.now


def held(key: str, study_key: str) -> ResultRow:
    time = "2026-03-01T12:00:00.000000Z"
    return ResultRow(
        key=key,
        study_key=study_key,
        model_id="m" * 64,
        state=ResultState.HELD,
        reason="",
        destination="",
        volume_ml=1.0,
        lesions=1,
        attempt=0,
        not_before=None,
        created_at=time,
        updated_at=time,
        sent_at=None,
        decided_by="",
    )
