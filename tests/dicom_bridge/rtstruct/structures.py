"""Structure sets written with pydicom for a phantom series."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, RTStructureSetStorage

from dicom_bridge.convert import SourceSeries
from tests.dicom_bridge.convert.phantom import FRAME_UID, PATIENT_ID, SERIES_UID, STUDY_UID

Points = NDArray[np.float64]


@dataclass
class Region:
    """One region to write.

    Attributes:
        name: ROIName.
        contours: (n, 3) LPS mm each.
        kind: ContourGeometricType.
        algorithm: ROIGenerationAlgorithm.
        code: scheme and value of the identification code.
        interpreted: RTROIInterpretedType.
        images: SOPInstanceUIDs that each contour names.
    """

    name: str
    contours: Sequence[Points]
    kind: str = "CLOSED_PLANAR"
    algorithm: str = "MANUAL"
    code: tuple[str, str] | None = None
    interpreted: str = "GTV"
    images: Sequence[str] = field(default_factory=tuple)


def structure_set(
    regions: Sequence[Region],
    *,
    series: Sequence[str] = (SERIES_UID,),
    change: Callable[[Dataset], None] = lambda _dataset: None,
) -> Dataset:
    """A structure set of the phantom's study."""
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.file_meta.MediaStorageSOPClassUID = RTStructureSetStorage
    dataset.file_meta.MediaStorageSOPInstanceUID = "2.25.991"
    dataset.SOPClassUID = RTStructureSetStorage
    dataset.SOPInstanceUID = "2.25.991"
    dataset.StudyInstanceUID = STUDY_UID
    dataset.SeriesInstanceUID = "2.25.992"
    dataset.PatientID = PATIENT_ID
    dataset.Modality = "RTSTRUCT"
    dataset.Manufacturer = "Planning"
    dataset.OperatorsName = "EXPERT^READER"
    dataset.StructureSetLabel = "S"
    dataset.StructureSetDate, dataset.StructureSetTime = "20260101", "101010"
    frame = Dataset()
    frame.FrameOfReferenceUID = FRAME_UID
    study = Dataset()
    study.RTReferencedSeriesSequence = [_series(uid) for uid in series]
    frame.RTReferencedStudySequence = [study]
    dataset.ReferencedFrameOfReferenceSequence = [frame]
    dataset.StructureSetROISequence = []
    dataset.ROIContourSequence = []
    dataset.RTROIObservationsSequence = []
    for number, region in enumerate(regions, start=1):
        _add(dataset, number, region)
    change(dataset)
    return dataset


def _series(uid: str) -> Dataset:
    item = Dataset()
    item.SeriesInstanceUID = uid
    return item


def _add(dataset: Dataset, number: int, region: Region) -> None:
    roi = Dataset()
    roi.ROINumber = number
    roi.ReferencedFrameOfReferenceUID = FRAME_UID
    roi.ROIName = region.name
    roi.ROIGenerationAlgorithm = region.algorithm
    dataset.StructureSetROISequence.append(roi)
    drawn = Dataset()
    drawn.ReferencedROINumber = number
    drawn.ContourSequence = []
    for n, points in enumerate(region.contours):
        contour = Dataset()
        contour.ContourGeometricType = region.kind
        contour.NumberOfContourPoints = len(points)
        contour.ContourData = [f"{value:.4f}" for value in np.asarray(points).reshape(-1)]
        if region.images:
            image = Dataset()
            image.ReferencedSOPInstanceUID = region.images[n % len(region.images)]
            contour.ContourImageSequence = [image]
        drawn.ContourSequence.append(contour)
    dataset.ROIContourSequence.append(drawn)
    observation = Dataset()
    observation.ObservationNumber = number
    observation.ReferencedROINumber = number
    observation.RTROIInterpretedType = region.interpreted
    observation.ROIInterpreter = ""
    if region.code is not None:
        code = Dataset()
        code.CodingSchemeDesignator, code.CodeValue = region.code
        code.CodeMeaning = "meaning"
        observation.RTROIIdentificationCodeSequence = [code]
    dataset.RTROIObservationsSequence.append(observation)


def written(folder: Path, dataset: Dataset) -> Path:
    """The structure set as a file."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "rs.dcm"
    dataset.save_as(path, enforce_file_format=True)
    return path


def circle(source: SourceSeries, height: float, radius: float, corners: int = 180) -> Points:
    """A circle about the normal through the origin, ``height`` mm along it (LPS)."""
    row = np.array([float(v) for v in source.ImageOrientationPatient[:3]])
    column = np.array([float(v) for v in source.ImageOrientationPatient[3:]])
    angle = np.linspace(0, 2 * np.pi, corners, endpoint=False)[:, None]
    flat = radius * (np.cos(angle) * row + np.sin(angle) * column)
    points: Points = flat + height * source.normal()
    return points


def ball(source: SourceSeries, radius: float, heights: NDArray[np.float64]) -> list[Points]:
    """Contours of a ball about the origin at these heights along the normal."""
    return [
        circle(source, float(h), float(np.sqrt(radius**2 - h**2)))
        for h in heights
        if abs(h) < radius
    ]


def voxel_places(source: SourceSeries) -> Points:
    """(I, J, K, 3) LPS positions of all voxel centres, slice by slice."""
    i, j = np.meshgrid(np.arange(source.Columns), np.arange(source.Rows), indexing="ij")
    flat = np.stack([i, j, np.zeros_like(i), np.ones_like(i)], axis=-1).astype(float)
    planes = [flat @ source.slice_affine(k).T for k in range(len(source.frames))]
    places = np.stack(planes, axis=2)[..., :3]
    lps: Points = places * np.array([-1.0, -1.0, 1.0])
    return lps
