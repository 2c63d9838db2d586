"""The plain values that a measurement report is made of."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

from dicom_bridge.convert.source import SourceSeries
from dicom_bridge.seg.model import MANUFACTURER, Finding, SegWritten

DISCLAIMER = "Research result of clinode. Not for diagnostic use."


@dataclass(frozen=True, slots=True)
class Algorithm:
    """What made the result (TID 4019).

    Attributes:
        name: the plan's name, 1 to 64 characters.
        version: the model's id, 1 to 64 characters.
        parameters: (name, value) pairs, such as the plan's hash.
    """

    name: str
    version: str
    parameters: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class KnownQuality:
    """How well the model did on this site's own test cases.

    Attributes:
        mean: mean over the cases, 0 to 1.
        cases: number of cases, at least 1.
        deviation: standard deviation over the cases; None where there is one case.
        metric: name of the figure.
    """

    mean: float
    cases: int
    deviation: float | None = None
    metric: str = "Dice"


@dataclass(frozen=True, slots=True)
class SegReference:
    """The SEG that a report describes.

    Attributes:
        sop_class_uid: its SOP class.
        sop_instance_uid: its SOP instance.
        series_instance_uid: its series.
    """

    sop_class_uid: str
    sop_instance_uid: str = field(repr=False)
    series_instance_uid: str = field(repr=False)

    @classmethod
    def of(cls, written: SegWritten) -> SegReference:
        """The reference to a SEG that was just written."""
        return cls(written.sop_class_uid, written.sop_instance_uid, written.series_instance_uid)


@dataclass(frozen=True, slots=True, eq=False)
class ReportRequest:
    """One TID 1500 report for one source series.

    Attributes:
        source: the segmented series' original headers.
        seg: the SEG; None where nothing was found or no SEG is kept.
        findings: `SegWritten.findings`; empty: the report says that nothing was found.
        algorithm: what made the result.
        out: file to write.
        sop_instance_uid: new, from the caller.
        series_instance_uid: new, from the caller; not the SEG's series.
        disclaimer: wording that this is not for diagnosis, from the settings.
        quality: the model's known quality at this site; None leaves it out.
        looked_for: names of what the model looks for, for the no-finding text.
        series_number: None takes the source's SeriesNumber + 1001.
        series_description: "RESEARCH " is put in front where it is lacking.
        predecessor: SOP and series UID of the report that this one supersedes.
        written_at: content date and time; None takes the time now (UTC).
        patient_overrides: fresh patient and study attributes by keyword.
        manufacturer: Manufacturer and model; `clinode` marks a result of ours.
        software_version: SoftwareVersions; None takes clinode's.
        device_name: name of the observing device.
        most_lesions: how many lesions, largest first, are reported one by one.
    """

    source: SourceSeries
    seg: SegReference | None
    findings: tuple[Finding, ...]
    algorithm: Algorithm
    out: Path
    sop_instance_uid: str
    series_instance_uid: str
    disclaimer: str = DISCLAIMER
    quality: KnownQuality | None = None
    looked_for: tuple[str, ...] = ()
    series_number: int | None = None
    series_description: str = "Measurements"
    predecessor: tuple[str, str] | None = None
    written_at: datetime | None = None
    patient_overrides: Mapping[str, str] = field(default_factory=dict, repr=False)
    manufacturer: str = MANUFACTURER
    software_version: str | None = None
    device_name: str = MANUFACTURER
    most_lesions: int = 200


@dataclass(frozen=True, slots=True)
class ReportWritten:
    """What was written and read back.

    Attributes:
        path: the file.
        lesions: lesions in all.
        reported: lesions that are reported one by one.
        volume_ml: total volume.
        sop_class_uid: Comprehensive 3D SR Storage.
        sop_instance_uid: as asked for.
        series_instance_uid: as asked for.
        series_number: as written.
    """

    path: Path
    lesions: int
    reported: int
    volume_ml: float
    sop_class_uid: str
    sop_instance_uid: str
    series_instance_uid: str
    series_number: int
