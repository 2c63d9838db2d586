"""A physically asymmetric MR series: what is left, anterior and superior can be told apart."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import EnhancedMRImageStorage, ExplicitVRLittleEndian, MRImageStorage

# Blobs in patient coordinates (LPS, mm): centre, radius, added intensity.
LEFT = (np.array([28.0, 3.0, -4.0]), 9.0, 900)
ANTERIOR = (np.array([-6.0, -30.0, 5.0]), 8.0, 1500)
SUPERIOR = (np.array([4.0, 8.0, 26.0]), 8.0, 2200)
BLOBS = {"left": LEFT, "anterior": ANTERIOR, "superior": SUPERIOR}

PATIENT_NAME = "PHANTOMIUS^ZEBEDEE"
PATIENT_ID = "PX-4711-Q"
STUDY_UID = "1.2.826.0.1.3680043.8.498.4711.1"
SERIES_UID = "1.2.826.0.1.3680043.8.498.4711.2"
FRAME_UID = "1.2.826.0.1.3680043.8.498.4711.3"


def cosines(kind: str) -> list[float]:
    """ImageOrientationPatient of a named orientation."""
    straight = {
        "axial": [1.0, 0, 0, 0, 1, 0],
        "sagittal": [0.0, 1, 0, 0, 0, -1],
        "coronal": [1.0, 0, 0, 0, 0, -1],
        "axial-upside-down": [1.0, 0, 0, 0, -1, 0],
        "axial-mirrored": [-1.0, 0, 0, 0, 1, 0],
    }
    if kind in straight:
        return straight[kind]
    tilt, swing = np.radians(17.3), np.radians(-9.1)  # double oblique
    about_x = np.array(
        [[1, 0, 0], [0, np.cos(tilt), -np.sin(tilt)], [0, np.sin(tilt), np.cos(tilt)]]
    )
    about_y = np.array(
        [[np.cos(swing), 0, np.sin(swing)], [0, 1, 0], [-np.sin(swing), 0, np.cos(swing)]]
    )
    turn = about_y @ about_x
    return [round(float(value), 6) for value in (*turn[:, 0], *turn[:, 1])]


@dataclass(frozen=True)
class Layout:
    """How the series is laid out; lengths in mm."""

    orientation: list[float] = field(default_factory=lambda: cosines("axial"))
    rows: int = 45
    columns: int = 53
    slices: int = 16
    spacing: tuple[float, float] = (2.0, 1.7)
    distance: float = 5.0
    thickness: float = 4.0
    reverse_numbers: bool = False
    slope: float = 1.0
    intercept: float = 0.0

    def axes(self) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
        """Row direction, column direction, unit normal (LPS)."""
        row, column = np.array(self.orientation[:3]), np.array(self.orientation[3:])
        normal = np.cross(row, column)
        return row, column, normal / np.linalg.norm(normal)

    def position(self, index: int) -> NDArray[np.float64]:
        """ImagePositionPatient of a slice counted along the normal; the stack is centred at 0."""
        row, column, normal = self.axes()
        centre = row * self.spacing[1] * (self.columns - 1) / 2
        centre = centre + column * self.spacing[0] * (self.rows - 1) / 2
        height = (index - (self.slices - 1) / 2) * self.distance
        place: NDArray[np.float64] = np.round(normal * height - centre, 5)
        return place

    def points(self, index: int) -> NDArray[np.float64]:
        """(rows, columns, 3) LPS positions of a slice's pixels, by PS3.3 C.7.6.2.1-1."""
        row, column, _ = self.axes()
        across = np.arange(self.columns)[None, :, None] * self.spacing[1] * row
        down = np.arange(self.rows)[:, None, None] * self.spacing[0] * column
        place: NDArray[np.float64] = self.position(index) + across + down
        return place


def intensity(points: NDArray[np.float64]) -> NDArray[np.int64]:
    """Values at LPS positions: an ellipsoid head with a gradient, and the three blobs."""
    inside = (points / np.array([42.0, 46.0, 40.0])) ** 2
    values = np.where(inside.sum(axis=-1) < 1, 300 + points[..., 0] + 2 * points[..., 1], 10)
    for centre, radius, added in BLOBS.values():
        values = values + added * (np.linalg.norm(points - centre, axis=-1) < radius)
    return np.maximum(np.rint(values), 0).astype(np.int64)


def instance(layout: Layout, index: int, **changes: object) -> Dataset:
    """One classic MR instance; `changes` set or (None) delete attributes."""
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.file_meta.MediaStorageSOPClassUID = MRImageStorage
    number = layout.slices - index if layout.reverse_numbers else index + 1
    values: dict[str, object] = {
        "SpecificCharacterSet": "ISO_IR 100",
        "SOPClassUID": MRImageStorage,
        "SOPInstanceUID": f"{SERIES_UID}.{index + 1}",
        "ImageType": ["ORIGINAL", "PRIMARY", "M", "ND"],
        "PatientName": PATIENT_NAME,
        "PatientID": PATIENT_ID,
        "PatientBirthDate": "19610203",
        "PatientSex": "F",
        "StudyInstanceUID": STUDY_UID,
        "StudyID": "S77",
        "StudyDate": "20200304",
        "StudyTime": "112233",
        "AccessionNumber": "ACC998877",
        "ReferringPhysicianName": "REFERENT^RUDI",
        "SeriesInstanceUID": SERIES_UID,
        "SeriesNumber": 5,
        "SeriesDescription": "t2_spc_FLAIR_sag",
        "Modality": "MR",
        "Manufacturer": "Phantom Works",
        "BodyPartExamined": "BRAIN",
        "ScanningSequence": ["SE", "IR"],
        "SequenceVariant": "SK",
        "ScanOptions": "",
        "MRAcquisitionType": "3D",
        "RepetitionTime": 5000,
        "EchoTime": 390,
        "InversionTime": 1800,
        "FlipAngle": 120,
        "FrameOfReferenceUID": FRAME_UID,
        "PositionReferenceIndicator": "",
        "InstanceNumber": number,
        "ImagePositionPatient": [f"{value:.5f}" for value in layout.position(index)],
        "ImageOrientationPatient": [f"{value:.6f}" for value in layout.orientation],
        "PixelSpacing": [f"{value:g}" for value in layout.spacing],
        "SliceThickness": f"{layout.thickness:g}",
        "Rows": layout.rows,
        "Columns": layout.columns,
        "SamplesPerPixel": 1,
        "PhotometricInterpretation": "MONOCHROME2",
        "BitsAllocated": 16,
        "BitsStored": 16,
        "HighBit": 15,
        "PixelRepresentation": 0,
        "PixelData": intensity(layout.points(index)).astype("<u2").tobytes(),
    }
    if layout.slope != 1.0 or layout.intercept != 0.0:
        values["RescaleSlope"] = f"{layout.slope:g}"
        values["RescaleIntercept"] = f"{layout.intercept:g}"
        values["RescaleType"] = "US"
    for keyword, value in {**values, **changes}.items():
        if value is not None:
            setattr(dataset, keyword, value)
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID
    return dataset


def save(dataset: Dataset, path: Path) -> Path:
    """Write an instance as a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    dataset.save_as(path, enforce_file_format=True)
    return path


def series(folder: Path, layout: Layout | None = None, **changes: object) -> list[Path]:
    """Write a whole series; files come back in slice order."""
    layout = layout or Layout()
    return [
        save(instance(layout, index, **changes), folder / f"{index:03d}.dcm")
        for index in range(layout.slices)
    ]


def enhanced(layout: Layout, **changes: object) -> Dataset:
    """The whole series as one enhanced instance; frames in the order of the numbers."""
    order = range(layout.slices - 1, -1, -1) if layout.reverse_numbers else range(layout.slices)
    moved = ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "SliceThickness")
    values = [intensity(layout.points(index)).astype("<u2") for index in order]
    dataset = instance(
        layout,
        0,
        **dict.fromkeys(moved),
        SOPClassUID=EnhancedMRImageStorage,
        NumberOfFrames=layout.slices,
        InstanceNumber=1,
        PixelData=np.stack(values).tobytes(),
    )
    shared, measures, orientation = Dataset(), Dataset(), Dataset()
    measures.PixelSpacing = [f"{value:g}" for value in layout.spacing]
    measures.SliceThickness = f"{layout.thickness:g}"
    orientation.ImageOrientationPatient = [f"{value:.6f}" for value in layout.orientation]
    shared.PixelMeasuresSequence, shared.PlaneOrientationSequence = [measures], [orientation]
    dataset.SharedFunctionalGroupsSequence = [shared]
    frames = []
    for number, index in enumerate(order, start=1):
        frame, place, content = Dataset(), Dataset(), Dataset()
        place.ImagePositionPatient = [f"{value:.5f}" for value in layout.position(index)]
        content.StackID, content.InStackPositionNumber = "1", number
        content.DimensionIndexValues = [1, number]
        frame.PlanePositionSequence, frame.FrameContentSequence = [place], [content]
        frames.append(frame)
    dataset.PerFrameFunctionalGroupsSequence = frames
    for keyword, value in changes.items():
        setattr(dataset, keyword, value)
    return dataset
