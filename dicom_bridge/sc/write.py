"""Writing secondary captures (PS3.3 A.8.1 and A.8.5)."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import numpy as np
import structlog
from numpy.typing import NDArray
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian

from dicom_bridge.convert.series import write_atomically
from dicom_bridge.convert.source import SourceFrame, SourceSeries
from dicom_bridge.errors import CaptureRefused
from dicom_bridge.sc.draw import default_window, picture, windowed
from dicom_bridge.sc.model import CaptureRequest, CaptureWritten
from dicom_bridge.seg.grid import on_source_grid
from dicom_bridge.seg.lesions import derived_uid
from dicom_bridge.seg.model import NoFinding
from dicom_bridge.seg.segments import labels_without_meaning
from dicom_bridge.stamping import (
    research_description,
    software_version,
    stamp_identity,
    stamp_times,
    time_of,
    wrong_uid,
)

SECONDARY_CAPTURE = "1.2.840.10008.5.1.4.1.1.7"
MULTI_FRAME_TRUE_COLOUR = "1.2.840.10008.5.1.4.1.1.7.4"
SERIES_NUMBER_STEP = 1002
MOST_BYTES = 2**31 - 2**20
LONGEST = 400
PAGE_NUMBER_VECTOR = 0x00182001
log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True, eq=False)
class _Pictures:
    """The slices to draw, and what draws one: K index to (rows, columns, 3) sRGB."""

    slices: tuple[int, ...]
    draw: Callable[[int], NDArray[np.uint8]]


def write_captures(request: CaptureRequest) -> CaptureWritten:
    """Draw a mask's contours on slices and write them as a series of their own.

    The text lies in strips above and below the slice, so that it hides nothing. BurnedInAnnotation
    is NO: it asks for text that identifies the patient (PS3.3 C.7.6.1), and there is none.

    Args:
        request: see `CaptureRequest`.

    Returns:
        What was written.

    Raises:
        NoFinding: the mask is empty and `all_slices` is not asked for.
        CaptureRefused: a wrong request.
        SegRefused: the mask does not cover the series.
    """
    _check_request(request)
    labels = _labels(request)
    pictures = _pictures(request, labels)
    when = time_of(request.written_at)
    request.out.mkdir(parents=True, exist_ok=True)
    paths: list[Path] = []
    uids: list[str] = []
    number = 0
    making = _single if request.form == "single" else _multi
    for dataset in making(request, pictures):
        paths.append(_save(request, dataset, len(paths), when))
        uids.append(str(dataset.SOPInstanceUID))
        number = int(dataset.SeriesNumber)
    log.info("captures written", pictures=len(pictures.slices), files=len(paths))
    return CaptureWritten(
        paths=tuple(paths),
        slices=pictures.slices,
        sop_class_uid=_sop_class(request),
        sop_instance_uids=tuple(uids),
        series_instance_uid=request.series_instance_uid,
        series_number=number,
    )


def _sop_class(request: CaptureRequest) -> str:
    return SECONDARY_CAPTURE if request.form == "single" else MULTI_FRAME_TRUE_COLOUR


def _check_request(request: CaptureRequest) -> None:
    if wrong := wrong_uid(request.series_instance_uid, request.source):
        raise CaptureRefused(f"the new SeriesInstanceUID {wrong}")
    source = request.source
    shape = (source.Columns, source.Rows, len(source.frames))
    if request.pixels.shape != shape:
        raise CaptureRefused(f"expected pixels of shape {shape}, got {request.pixels.shape}")
    if request.pixels.dtype.kind not in "iuf" or not np.all(np.isfinite(request.pixels)):
        raise CaptureRefused("the pixels must be finite numbers")
    if request.mask.ndim != 3 or request.mask.dtype not in (np.uint8, np.bool_):
        raise CaptureRefused("expected a 3-D uint8 mask")
    if request.window is not None and request.window.width <= 0:
        raise CaptureRefused("a window's width must be above 0")
    texts = (request.banner, *request.caption)
    if not request.banner.strip() or any(len(t) > LONGEST or not t.isprintable() for t in texts):
        raise CaptureRefused(
            f"banner and caption need printable text of {LONGEST} characters at most a line"
        )
    unknown = labels_without_meaning(set(np.unique(request.mask).tolist()) - {0}, request.segments)
    if unknown:
        raise CaptureRefused(f"label values without a meaning in the mask: {unknown}")


def _labels(request: CaptureRequest) -> NDArray[np.uint8]:
    if not np.any(request.mask):
        if not request.all_slices:
            raise NoFinding("no finding: the mask is empty, no picture is made")
        return np.zeros(request.pixels.shape, np.uint8)
    mask = request.mask.astype(np.uint8)
    return on_source_grid(mask, request.affine, request.source, request.coverage)


def _pictures(request: CaptureRequest, labels: NDArray[np.uint8]) -> _Pictures:
    window = request.window or default_window(request.pixels)
    colours = {spec.number: spec.colour for spec in request.segments}
    count = labels.shape[2]
    chosen = (k for k in range(count) if request.all_slices or np.any(labels[:, :, k]))

    def _draw(k: int) -> NDArray[np.uint8]:
        return picture(
            windowed(request.pixels[:, :, k], window),
            labels[:, :, k],
            colours,
            (request.banner, (*request.caption, f"Slice {k + 1} of {count}")),
        )

    return _Pictures(tuple(chosen), _draw)


def _single(request: CaptureRequest, pictures: _Pictures) -> Iterator[Dataset]:
    """One object per picture; only one is in memory at a time."""
    for number, k in enumerate(pictures.slices):
        pixels = pictures.draw(k)
        dataset = _image(request, pixels, (k,))
        dataset.SOPInstanceUID = derived_uid(request.series_instance_uid, f"capture {k}")
        dataset.InstanceNumber = number + 1
        dataset.PixelData = pixels.tobytes()
        yield dataset


def _multi(request: CaptureRequest, pictures: _Pictures) -> Iterator[Dataset]:
    """All pictures in one object."""
    first = pictures.draw(pictures.slices[0])
    if first.nbytes * len(pictures.slices) > MOST_BYTES:
        raise CaptureRefused("too many pictures for one object: write one object per slice")
    dataset = _image(request, first, pictures.slices)
    dataset.SOPInstanceUID = derived_uid(request.series_instance_uid, "captures")
    dataset.InstanceNumber = 1
    dataset.NumberOfFrames = len(pictures.slices)
    dataset.FrameIncrementPointer = PAGE_NUMBER_VECTOR
    dataset.PageNumberVector = [k + 1 for k in pictures.slices]
    dataset.PixelData = b"".join(pictures.draw(k).tobytes() for k in pictures.slices)
    yield dataset


def _image(request: CaptureRequest, pixels: NDArray[np.uint8], slices: Sequence[int]) -> Dataset:
    """What both forms share: series, SC equipment, general image, image pixel, SC image."""
    source, number = request.source, request.series_number
    version = request.software_version or software_version()
    dataset = Dataset()
    dataset.SOPClassUID = _sop_class(request)
    dataset.Modality = "OT"
    dataset.SeriesInstanceUID = request.series_instance_uid
    dataset.SeriesNumber = (
        max(source.SeriesNumber, 0) + SERIES_NUMBER_STEP if number is None else number
    )
    dataset.SeriesDescription = research_description(request.series_description)
    dataset.Manufacturer = dataset.ManufacturerModelName = request.manufacturer
    dataset.SoftwareVersions = version
    dataset.ConversionType = "WSD"
    dataset.SecondaryCaptureDeviceManufacturer = request.manufacturer
    dataset.SecondaryCaptureDeviceSoftwareVersions = version
    dataset.ImageType = ["DERIVED", "SECONDARY"]
    dataset.PatientOrientation = ""
    dataset.BurnedInAnnotation = "NO"
    dataset.LossyImageCompression = "00"
    dataset.DerivationDescription = "Contours of a segmentation drawn on windowed slices"
    dataset.SourceImageSequence = [_source_image(source.frames[k]) for k in slices]
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 3, "RGB"
    dataset.PlanarConfiguration = 0
    dataset.Rows, dataset.Columns = pixels.shape[:2]
    dataset.BitsAllocated = dataset.BitsStored = 8
    dataset.HighBit, dataset.PixelRepresentation = 7, 0
    if aspect := _aspect(source):
        dataset.PixelAspectRatio = list(aspect)
    if "BodyPartExamined" in source.series:
        dataset.BodyPartExamined = source.series["BodyPartExamined"]
    else:
        dataset.Laterality = ""  # type 2C: asked for where the body part is not known
    return dataset


def _aspect(source: SourceSeries) -> tuple[int, int] | None:
    """Vertical to horizontal size of a pixel, None where it is square."""
    vertical, horizontal = (round(float(value) * 10000) for value in source.PixelSpacing)
    return None if vertical == horizontal else (vertical, horizontal)


def _source_image(frame: SourceFrame) -> Dataset:
    item = Dataset()
    item.ReferencedSOPClassUID = frame.SOPClassUID
    item.ReferencedSOPInstanceUID = frame.SOPInstanceUID
    if frame.FrameNumber:
        item.ReferencedFrameNumber = frame.FrameNumber
    purpose = Dataset()
    purpose.CodeValue, purpose.CodingSchemeDesignator = "121322", "DCM"
    purpose.CodeMeaning = "Source image for image processing operation"
    item.PurposeOfReferenceCodeSequence = [purpose]
    return item


def _save(request: CaptureRequest, dataset: Dataset, number: int, when: datetime) -> Path:
    stamp_identity(dataset, request.source.with_patient(request.patient_overrides))
    stamp_times(dataset, when)
    dataset.DateOfSecondaryCapture, dataset.TimeOfSecondaryCapture = (
        dataset.ContentDate,
        dataset.ContentTime,
    )
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    stream = io.BytesIO()
    dataset.save_as(stream, enforce_file_format=True)
    path = request.out / f"{number + 1:04d}.dcm"
    write_atomically(path, stream.getvalue())
    return path
