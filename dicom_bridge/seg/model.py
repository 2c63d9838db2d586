"""The plain values that SEG writing and reading exchange with their callers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from dicom_bridge.convert.source import SourceSeries
from dicom_bridge.errors import SegRefused
from dicom_bridge.geometry import FloatArray

AlgorithmType = Literal["AUTOMATIC", "SEMIAUTOMATIC", "MANUAL"]
SegForm = Literal["binary", "labelmap"]
LesionForm = Literal["together", "each"]
Coverage = Literal["whole", "crop", "part"]
MANUFACTURER = "clinode"


class NoFinding(SegRefused):
    """The mask is empty: no SEG is written, the caller reports `no finding`."""


@dataclass(frozen=True, slots=True)
class Code:
    """A coded concept (PS3.3 section 8): value, coding scheme, meaning."""

    value: str
    scheme: str
    meaning: str

    def __post_init__(self) -> None:
        """Refuse an empty part or one that does not fit its VR (SH 16, LO 64)."""
        if not self.value or not self.scheme or not self.meaning:
            raise SegRefused("a code needs a value, a coding scheme and a meaning")
        if len(self.value) > 16 or len(self.scheme) > 16 or len(self.meaning) > 64:
            raise SegRefused("a code's value and scheme hold 16 characters at most, its meaning 64")


MORPHOLOGICALLY_ABNORMAL = Code("49755003", "SCT", "Morphologically abnormal structure")
LESION = Code("52988006", "SCT", "Lesion")
BRAIN = Code("12738006", "SCT", "Brain")


@dataclass(frozen=True, slots=True)
class SegmentSpec:
    """What one label value of a mask means.

    Attributes:
        number: value in the mask, 1 to 255.
        label: SegmentLabel, shown by viewers (64 characters).
        category: SegmentedPropertyCategoryCodeSequence.
        type: SegmentedPropertyTypeCodeSequence.
        algorithm_type: AUTOMATIC, SEMIAUTOMATIC (a person corrected it) or MANUAL.
        algorithm_name: SegmentAlgorithmName (plan name); required unless MANUAL.
        algorithm_version: version (model id, 64 characters at most); required unless MANUAL.
        colour: recommended display colour, sRGB 0 to 255.
        region: anatomic region; None leaves it out.
        tracking_id: TrackingID; None takes the label and number.
        tracking_uid: TrackingUID that goes with it; None derives it from the SEG's UID.
        algorithm_parameters: (name, value) pairs of AlgorithmParameters, such as the plan's hash.
        finding: what a report calls it; None takes `type`.
    """

    number: int
    label: str
    category: Code = MORPHOLOGICALLY_ABNORMAL
    type: Code = LESION
    algorithm_type: AlgorithmType = "AUTOMATIC"
    algorithm_name: str = ""
    algorithm_version: str = ""
    colour: tuple[int, int, int] = (255, 64, 64)
    region: Code | None = None
    tracking_id: str | None = None
    tracking_uid: str | None = None
    algorithm_parameters: tuple[tuple[str, str], ...] = ()
    finding: Code | None = None


@dataclass(frozen=True, slots=True)
class Lesion:
    """One connected piece of a mask.

    Attributes:
        number: 1 to n, largest first.
        voxels: voxels in it.
        volume_ml: its volume.
        centroid: centre of mass, LPS mm.
        tracking_id: text for TrackingID.
        tracking_uid: deterministic UID for TrackingUID.
    """

    number: int
    voxels: int
    volume_ml: float
    centroid: tuple[float, float, float]
    tracking_id: str
    tracking_uid: str


@dataclass(frozen=True, slots=True)
class Finding:
    """What one label of a written SEG holds: what a measurement report is made of.

    Attributes:
        spec: the label's meaning as asked for.
        volume_ml: volume of all voxels on the source grid.
        tracking_id: TrackingID of the whole.
        tracking_uid: TrackingUID of the whole.
        lesions: connected pieces on the source grid, largest first.
        segments: SegmentNumber of each lesion: one and the same where all lie in one segment.
    """

    spec: SegmentSpec
    volume_ml: float
    tracking_id: str
    tracking_uid: str
    lesions: tuple[Lesion, ...]
    segments: tuple[int, ...]


@dataclass(frozen=True, slots=True, eq=False)
class SegRequest:
    """One SEG to write for one source series.

    Attributes:
        source: the series' original headers.
        mask: (X, Y, Z) label values; 0 is background.
        affine: (4, 4) the mask's index to RAS mm; any grid that covers the series.
        segments: meaning of every value in the mask.
        out: file to write.
        sop_instance_uid: new, from the caller.
        series_instance_uid: new, from the caller; one SEG per series.
        series_number: above the source's; None takes the source's SeriesNumber + 1000.
        series_description: "RESEARCH " is put in front of AUTOMATIC results that lack it.
        content_label: upper case code string, 16 characters.
        content_description: 64 characters.
        creator: ContentCreatorName.
        written_at: content date and time; None takes the time now (UTC).
        patient_overrides: fresh patient and study attributes by keyword, as the PACS gave them.
        manufacturer: Manufacturer and model; `clinode` marks a result of ours.
        software_version: SoftwareVersions; None takes clinode's.
        form: "binary" opens everywhere; "labelmap" (Label Map Segmentation) in new viewers only.
        lesions: "together": one segment per label, tracked as a whole; "each": one segment per
            connected piece (hundreds of segments make viewers slow).
        coverage: "whole": the mask must cover every voxel of the series. "crop": or be cut out of
            the series' own grid, as `read_seg_alone` gives it. "part": or cover any part of it.
            What the mask does not cover is background; labels outside the series are refused.
    """

    source: SourceSeries
    mask: NDArray[np.uint8]
    affine: FloatArray
    segments: tuple[SegmentSpec, ...]
    out: Path
    sop_instance_uid: str
    series_instance_uid: str
    series_number: int | None = None
    series_description: str = "Segmentation"
    content_label: str = "SEGMENTATION"
    content_description: str = "Image segmentation"
    creator: str = "CLINODE^RESEARCH"
    written_at: datetime | None = None
    patient_overrides: Mapping[str, str] = field(default_factory=dict, repr=False)
    manufacturer: str = MANUFACTURER
    software_version: str | None = None
    form: SegForm = "binary"
    lesions: LesionForm = "together"
    coverage: Coverage = "whole"


@dataclass(frozen=True, slots=True)
class SegWritten:
    """What was written and read back.

    Attributes:
        path: the file.
        segments: SegmentNumber in the file to voxels in it.
        values: SegmentNumber in the file to the mask's label value.
        frames: frames written; slices without a voxel have none.
        sop_instance_uid: as asked for.
        series_instance_uid: as asked for.
        series_number: as written.
        sop_class_uid: Segmentation or Label Map Segmentation Storage.
        findings: what each label holds, for `dicom_bridge.sr.write_report`.
    """

    path: Path
    segments: Mapping[int, int]
    values: Mapping[int, int]
    frames: int
    sop_instance_uid: str
    series_instance_uid: str
    series_number: int
    sop_class_uid: str = "1.2.840.10008.5.1.4.1.1.66.4"
    findings: tuple[Finding, ...] = ()


@dataclass(frozen=True, slots=True, eq=False)
class SegSegment:
    """One segment of a SEG on its source series' grid.

    Attributes:
        number: SegmentNumber.
        label: SegmentLabel.
        algorithm_type: SegmentAlgorithmType, upper case, "" where absent.
        algorithm_name: SegmentAlgorithmName, "" where absent.
        category: SegmentedPropertyCategoryCodeSequence, None where absent or incomplete.
        type_code: SegmentedPropertyTypeCodeSequence, None where absent or incomplete.
        mask: (I, J, K) uint8 0/1 on the source series' own grid.
        algorithm_version: AlgorithmVersion, "" where absent.
        region: AnatomicRegionSequence, None where absent or incomplete.
        colour: RecommendedDisplayCIELabValue as sRGB 0 to 255, None where absent.
        tracking_id: TrackingID, "" where absent.
        tracking_uid: TrackingUID, "" where absent.
    """

    number: int
    label: str
    algorithm_type: str
    algorithm_name: str
    category: Code | None
    type_code: Code | None
    mask: NDArray[np.uint8]
    algorithm_version: str = ""
    region: Code | None = None
    colour: tuple[int, int, int] | None = None
    tracking_id: str = ""
    tracking_uid: str = ""


@dataclass(frozen=True, slots=True, eq=False)
class SegContent:
    """A SEG as read onto its source series' grid.

    Attributes:
        segments: in order of their numbers.
        affine: (4, 4) of the source series' grid, RAS mm.
        segmentation_type: BINARY, FRACTIONAL or LABELMAP.
        creator: ContentCreatorName (may name a person: identified side only).
        manufacturer: Manufacturer.
        series_description: SeriesDescription (identified side only).
        ReferencedSeriesInstanceUID: series that it says it segments.
        SOPInstanceUID: its own.
        resampled: whether it stood on another grid than its series and was brought onto it.
    """

    segments: tuple[SegSegment, ...]
    affine: FloatArray
    segmentation_type: str
    creator: str = field(repr=False)
    manufacturer: str
    series_description: str = field(repr=False)
    ReferencedSeriesInstanceUID: str = field(repr=False)
    SOPInstanceUID: str = field(repr=False)
    resampled: bool = False
