"""What a series' original headers say that a result written for it later needs.

A `SourceSeries` holds the patient's identity: it stays where identified data may lie.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TypeAlias

import numpy as np
from pydicom.dataset import Dataset

from dicom_bridge.convert.frames import (
    Frame,
    attribute,
    frames_of,
    read_dataset,
    volume_datasets,
    whole,
)
from dicom_bridge.convert.stack import GAP_SHARE, SAME_POSITION_MM, Stack, stack_frames
from dicom_bridge.errors import DataRefused
from dicom_bridge.geometry import FloatArray, VolumeGeometry, grid_affine, slice_normal

FORMAT = 1
PATIENT_KEYWORDS = (
    "PatientName",
    "PatientID",
    "IssuerOfPatientID",
    "PatientBirthDate",
    "PatientBirthTime",
    "PatientSex",
    "PatientAge",
    "PatientSize",
    "PatientWeight",
)
STUDY_KEYWORDS = (
    "StudyInstanceUID",
    "StudyID",
    "StudyDate",
    "StudyTime",
    "AccessionNumber",
    "ReferringPhysicianName",
    "StudyDescription",
)
SERIES_KEYWORDS = (
    "SeriesInstanceUID",
    "SeriesNumber",
    "SeriesDescription",
    "Modality",
    "FrameOfReferenceUID",
    "PositionReferenceIndicator",
    "BodyPartExamined",
    "PatientPosition",
)

JSON: TypeAlias = "bool | int | float | str | list[JSON] | dict[str, JSON] | None"


@dataclass(frozen=True, slots=True)
class SourceFrame:
    """One slice of the source series.

    Attributes:
        SOPInstanceUID: of the instance.
        SOPClassUID: of the instance.
        InstanceNumber: as written, 0 where absent.
        FrameNumber: 1-based frame of a multi-frame instance, 0 in single-frame ones.
        ImagePositionPatient: LPS mm, the text as written.
    """

    SOPInstanceUID: str = field(repr=False)
    SOPClassUID: str
    InstanceNumber: int
    FrameNumber: int
    ImagePositionPatient: tuple[str, str, str]


@dataclass(frozen=True, slots=True)
class SourceSeries:
    """One series as received, slices in spatial order along the normal.

    Attributes:
        patient: original patient attributes by DICOM keyword.
        study: original study attributes by DICOM keyword.
        series: original series attributes by DICOM keyword.
        Rows: rows of a slice.
        Columns: columns of a slice.
        ImageOrientationPatient: six direction cosines, the text as written.
        PixelSpacing: mm between rows, between columns, the text as written.
        SliceThickness: mm, the text as written, "" where absent.
        SpacingBetweenSlices: mm between slice centres, computed from the positions.
        frames: the slices.
    """

    patient: Mapping[str, str] = field(repr=False)
    study: Mapping[str, str] = field(repr=False)
    series: Mapping[str, str] = field(repr=False)
    Rows: int
    Columns: int
    ImageOrientationPatient: tuple[str, ...]
    PixelSpacing: tuple[str, ...]
    SliceThickness: str
    SpacingBetweenSlices: float
    frames: tuple[SourceFrame, ...] = field(repr=False)

    @property
    def StudyInstanceUID(self) -> str:
        """Original study UID."""
        return self.study["StudyInstanceUID"]

    @property
    def SeriesInstanceUID(self) -> str:
        """Original series UID."""
        return self.series["SeriesInstanceUID"]

    @property
    def FrameOfReferenceUID(self) -> str:
        """Original frame of reference, "" where the series has none."""
        return self.series.get("FrameOfReferenceUID", "")

    @property
    def SeriesNumber(self) -> int:
        """As written, 0 where absent or no number."""
        text = self.series.get("SeriesNumber", "")
        return int(text) if text.lstrip("-").isdigit() else 0

    @property
    def multi_frame(self) -> bool:
        """Whether slices are frames of multi-frame instances."""
        return any(frame.FrameNumber for frame in self.frames)

    @property
    def even(self) -> bool:
        """Whether the slices are evenly apart (1 %), so that one affine describes them all."""
        if len(self.frames) < 3:
            return True
        steps = np.linalg.norm(np.diff(self.positions(), axis=0), axis=1)
        median = float(np.median(steps))
        return bool(np.max(np.abs(steps - median)) <= max(GAP_SHARE * median, SAME_POSITION_MM))

    def slice_affine(self, k: int) -> FloatArray:
        """(4, 4) one slice's (column, row, 0) to RAS mm; the third axis is its normal, 1 mm."""
        return grid_affine(
            [float(value) for value in self.frames[k].ImagePositionPatient],
            [float(value) for value in self.ImageOrientationPatient],
            [float(value) for value in self.PixelSpacing],
            self.normal(),
        )

    @property
    def geometry(self) -> VolumeGeometry:
        """The series' own grid (I, J, K) = (column, row, slice) in RAS mm.

        Where the slices are not `even` the step is the mean one.
        """
        positions = self.positions()
        step = (
            (positions[-1] - positions[0]) / (len(positions) - 1)
            if len(positions) > 1
            else self.normal() * self.SpacingBetweenSlices
        )
        affine = grid_affine(
            positions[0],
            [float(value) for value in self.ImageOrientationPatient],
            [float(value) for value in self.PixelSpacing],
            step,
        )
        return VolumeGeometry(
            affine=affine,
            shape=(self.Columns, self.Rows, len(self.frames)),
            sop_instance_uids=tuple(frame.SOPInstanceUID for frame in self.frames),
            frame_numbers=tuple(frame.FrameNumber for frame in self.frames),
        )

    def positions(self) -> FloatArray:
        """(n, 3) ImagePositionPatient, LPS mm, in slice order."""
        return np.array(
            [[float(value) for value in frame.ImagePositionPatient] for frame in self.frames]
        )

    def normal(self) -> FloatArray:
        """(3,) unit normal of the slices, LPS."""
        return slice_normal([float(value) for value in self.ImageOrientationPatient])

    def with_patient(self, changes: Mapping[str, str]) -> SourceSeries:
        """A copy whose patient and study attributes carry fresh values (as asked of the PACS).

        Raises:
            DataRefused: a keyword that is neither a patient nor a study attribute kept here.
        """
        unknown = set(changes) - set(PATIENT_KEYWORDS) - set(STUDY_KEYWORDS)
        if unknown:
            raise DataRefused(f"not patient or study attributes: {', '.join(sorted(unknown))}")
        patient = {k: v for k, v in changes.items() if k in PATIENT_KEYWORDS}
        study = {k: v for k, v in changes.items() if k in STUDY_KEYWORDS}
        return replace(self, patient={**self.patient, **patient}, study={**self.study, **study})

    def to_json(self) -> dict[str, JSON]:
        """The whole as JSON values (identifying); `from_json` reads it back."""
        return {
            "format": FORMAT,
            "patient": dict(self.patient),
            "study": dict(self.study),
            "series": dict(self.series),
            "Rows": self.Rows,
            "Columns": self.Columns,
            "ImageOrientationPatient": list(self.ImageOrientationPatient),
            "PixelSpacing": list(self.PixelSpacing),
            "SliceThickness": self.SliceThickness,
            "SpacingBetweenSlices": self.SpacingBetweenSlices,
            "frames": [
                {
                    "SOPInstanceUID": frame.SOPInstanceUID,
                    "SOPClassUID": frame.SOPClassUID,
                    "InstanceNumber": frame.InstanceNumber,
                    "FrameNumber": frame.FrameNumber,
                    "ImagePositionPatient": list(frame.ImagePositionPatient),
                }
                for frame in self.frames
            ],
        }

    @classmethod
    def from_json(cls, document: Mapping[str, JSON]) -> SourceSeries:
        """Read what `to_json` wrote.

        Raises:
            DataRefused: another format version, or fields missing.
        """
        if document.get("format") != FORMAT:
            raise DataRefused(f"source series record: expected format {FORMAT}")
        try:
            return _parse(document)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise DataRefused(
                f"source series record is incomplete or damaged ({type(error).__name__})"
            ) from None

    @classmethod
    def from_files(cls, files: Sequence[Path], *, even: bool = True) -> SourceSeries:
        """Read a series' headers, in any file order.

        Args:
            files: one series.
            even: whether slices must be evenly apart; a mask can be written slice by slice
                where they are not.

        Raises:
            DataRefused: unreadable, not one series, or not one regular volume.
        """
        pairs = volume_datasets(files, pixels=False)
        frames = [frame for dataset, path in pairs for frame in frames_of(dataset, path)]
        return source_series(stack_frames(frames, alike=_same_stored_pixels, even=even))


def _parse(document: Mapping[str, JSON]) -> SourceSeries:
    def _mapping(value: JSON) -> dict[str, str]:
        if not isinstance(value, dict):
            raise TypeError("expected an object")
        return {str(k): str(v) for k, v in value.items()}

    def _strings(value: JSON) -> tuple[str, ...]:
        if not isinstance(value, list):
            raise TypeError("expected a list")
        return tuple(str(item) for item in value)

    raw_frames = document["frames"]
    if not isinstance(raw_frames, list) or not raw_frames:
        raise TypeError("expected frames")
    frames = []
    for item in raw_frames:
        if not isinstance(item, dict):
            raise TypeError("expected an object")
        x, y, z = _strings(item["ImagePositionPatient"])
        frames.append(
            SourceFrame(
                SOPInstanceUID=str(item["SOPInstanceUID"]),
                SOPClassUID=str(item["SOPClassUID"]),
                InstanceNumber=int(str(item["InstanceNumber"])),
                FrameNumber=int(str(item["FrameNumber"])),
                ImagePositionPatient=(x, y, z),
            )
        )
    return SourceSeries(
        patient=_mapping(document["patient"]),
        study=_mapping(document["study"]),
        series=_mapping(document["series"]),
        Rows=int(str(document["Rows"])),
        Columns=int(str(document["Columns"])),
        ImageOrientationPatient=_strings(document["ImageOrientationPatient"]),
        PixelSpacing=_strings(document["PixelSpacing"]),
        SliceThickness=str(document["SliceThickness"]),
        SpacingBetweenSlices=float(str(document["SpacingBetweenSlices"])),
        frames=tuple(frames),
    )


def _same_stored_pixels(first: Frame, second: Frame) -> bool:
    """Whether two frames were stored with the same pixel bytes (read again from their files)."""
    if first.index is not None or second.index is not None:
        return False
    one, other = read_dataset(first.path, pixels=True), read_dataset(second.path, pixels=True)
    return bool(attribute(one, "PixelData") == attribute(other, "PixelData"))


def _kept(dataset: Dataset, keywords: Sequence[str]) -> dict[str, str]:
    found: dict[str, str] = {}
    for keyword in keywords:
        value = attribute(dataset, keyword)
        if value is not None and str(value).strip():
            found[keyword] = str(value).strip()
    return found


def source_series(stack: Stack) -> SourceSeries:
    """The source record of a stack.

    Raises:
        DataRefused: no StudyInstanceUID.
    """
    first = stack.frames[0]
    study = _kept(first.dataset, STUDY_KEYWORDS)
    if "StudyInstanceUID" not in study:
        raise DataRefused("the series has no StudyInstanceUID")
    frames = tuple(
        SourceFrame(
            SOPInstanceUID=str(frame.dataset.SOPInstanceUID),
            SOPClassUID=str(frame.dataset.SOPClassUID),
            InstanceNumber=whole(frame.dataset, "InstanceNumber", 0),
            FrameNumber=0 if frame.index is None else frame.index + 1,
            ImagePositionPatient=(frame.position[0], frame.position[1], frame.position[2]),
        )
        for frame in stack.frames
    )
    rows, columns = first.size
    return SourceSeries(
        patient=_kept(first.dataset, PATIENT_KEYWORDS),
        study=study,
        series=_kept(first.dataset, SERIES_KEYWORDS),
        Rows=rows,
        Columns=columns,
        ImageOrientationPatient=first.orientation,
        PixelSpacing=first.spacing,
        SliceThickness=first.thickness,
        SpacingBetweenSlices=round(stack.slice_distance, 6),
        frames=frames,
    )
