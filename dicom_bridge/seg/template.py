"""Source images as data sets without pixels, rebuilt from the series record for highdicom."""

from __future__ import annotations

from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sequence import Sequence as ItemSequence
from pydicom.uid import ExplicitVRLittleEndian

from dicom_bridge.convert.source import SourceFrame, SourceSeries
from dicom_bridge.errors import SegRefused

SPACING_DECIMALS = 6


def _common(source: SourceSeries, frame: SourceFrame) -> Dataset:
    """Identifying and image attributes shared by all instances, with neutral patient values."""
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.SOPClassUID = frame.SOPClassUID
    dataset.SOPInstanceUID = frame.SOPInstanceUID
    dataset.PatientID = dataset.PatientName = dataset.PatientBirthDate = dataset.PatientSex = ""
    dataset.StudyInstanceUID = source.StudyInstanceUID
    dataset.StudyID = dataset.StudyDate = dataset.StudyTime = dataset.AccessionNumber = ""
    dataset.ReferringPhysicianName = ""
    dataset.SeriesInstanceUID = source.SeriesInstanceUID
    dataset.Modality = source.series.get("Modality", "MR")
    dataset.FrameOfReferenceUID = source.FrameOfReferenceUID
    dataset.PositionReferenceIndicator = source.series.get("PositionReferenceIndicator", "")
    dataset.Rows, dataset.Columns = source.Rows, source.Columns
    dataset.InstanceNumber = max(frame.InstanceNumber, 1)
    dataset.SamplesPerPixel, dataset.BitsAllocated = 1, 16
    dataset.PhotometricInterpretation = "MONOCHROME2"
    return dataset


def _measures(source: SourceSeries) -> Dataset:
    """Pixel measures with SpacingBetweenSlices, which several readers need."""
    item = Dataset()
    distance = f"{source.SpacingBetweenSlices:.{SPACING_DECIMALS}f}".rstrip("0").rstrip(".")
    item.PixelSpacing = list(source.PixelSpacing)
    item.SliceThickness = source.SliceThickness or distance
    item.SpacingBetweenSlices = distance
    return item


def source_datasets(source: SourceSeries) -> list[Dataset]:
    """Header-only source images, slices in spatial order.

    Args:
        source: the series record.

    Returns:
        One data set per slice, or one multi-frame data set whose frames stand in slice order.

    Raises:
        SegRefused: slices from several multi-frame instances (highdicom takes one only).
    """
    if not source.multi_frame:
        return [_classic(source, frame) for frame in source.frames]
    if len({frame.SOPInstanceUID for frame in source.frames}) > 1:
        raise SegRefused("the source volume is spread over several multi-frame instances")
    return [_multi_frame(source)]


def _classic(source: SourceSeries, frame: SourceFrame) -> Dataset:
    dataset = _common(source, frame)
    dataset.update(_measures(source))
    dataset.ImagePositionPatient = list(frame.ImagePositionPatient)
    dataset.ImageOrientationPatient = list(source.ImageOrientationPatient)
    return dataset


def _multi_frame(source: SourceSeries) -> Dataset:
    """A multi-frame instance with as many frames as the original; unused ones repeat the first."""
    dataset = _common(source, source.frames[0])
    last = max(frame.FrameNumber for frame in source.frames)
    dataset.NumberOfFrames = last
    shared = Dataset()
    orientation = Dataset()
    orientation.ImageOrientationPatient = list(source.ImageOrientationPatient)
    shared.PlaneOrientationSequence = ItemSequence([orientation])
    shared.PixelMeasuresSequence = ItemSequence([_measures(source)])
    dataset.SharedFunctionalGroupsSequence = ItemSequence([shared])
    by_number = {frame.FrameNumber: frame for frame in source.frames}
    items = []
    for number in range(1, last + 1):
        frame = by_number.get(number, source.frames[0])
        position = Dataset()
        position.ImagePositionPatient = list(frame.ImagePositionPatient)
        item = Dataset()
        item.PlanePositionSequence = ItemSequence([position])
        items.append(item)
    dataset.PerFrameFunctionalGroupsSequence = ItemSequence(items)
    return dataset
