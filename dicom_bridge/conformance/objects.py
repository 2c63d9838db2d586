"""Annex A of a statement: the attributes of the objects that are created, read from real ones.

Each object is written by the very functions that write results, of a made-up series; so the tables
cannot say anything else than what the node does.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pydicom
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset
from pydicom.uid import UID

from dicom_bridge.conformance.facts import Facts
from dicom_bridge.conformance.text import paragraphs, table, tag_text
from dicom_bridge.convert.source import (
    PATIENT_KEYWORDS,
    STUDY_KEYWORDS,
    SourceFrame,
    SourceSeries,
)
from dicom_bridge.sc import CaptureRequest, write_captures
from dicom_bridge.seg import SegmentSpec, SegRequest, write_seg
from dicom_bridge.sr import Algorithm, ReportRequest, SegReference, write_report

_SIZE = 16
_SLICES = 5
_MOMENT = datetime(2000, 1, 1, tzinfo=UTC)
_COPIED = frozenset(
    {
        *PATIENT_KEYWORDS,
        *STUDY_KEYWORDS,
        *("FrameOfReferenceUID", "PositionReferenceIndicator", "BodyPartExamined"),
        *("ImageOrientationPatient", "ImagePositionPatient", "PixelSpacing", "SliceThickness"),
        *("SpacingBetweenSlices", "Rows", "Columns", "PatientPosition", "Laterality"),
        *("ReferencedSOPInstanceUID", "ReferencedSOPClassUID", "ReferencedFrameNumber"),
    }
)
_CONFIGURED = frozenset(
    {
        *("SegmentLabel", "SegmentDescription", "RecommendedDisplayCIELabValue"),
        *("SegmentAlgorithmName", "AlgorithmName", "AlgorithmVersion", "SeriesDescription"),
    }
)
_FIXED = frozenset(
    {
        *("SOPClassUID", "Modality", "Manufacturer", "ManufacturerModelName", "ImageType"),
        *("SegmentationType", "BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation"),
        *("SamplesPerPixel", "PhotometricInterpretation", "LossyImageCompression"),
        *("ContentLabel", "ContentDescription", "ContentCreatorName", "PixelPresentation"),
        *("SegmentAlgorithmType", "CompletionFlag", "VerificationFlag", "ValueType"),
        *("BurnedInAnnotation", "ConversionType", "DeviceSerialNumber", "SoftwareVersions"),
        *("VolumetricProperties", "VolumeBasedCalculationTechnique", "SpatialLocationsPreserved"),
    }
)


def annex_a(facts: Facts) -> str:
    """The tables of every object class that the configuration creates."""
    parts = [
        "## Annex A. Information Object Definitions\n",
        paragraphs(
            """Presence: ALWAYS; VNAP, present with the value of the source, which may be empty;
            EMPTY. Source: AUTO made by clinode, COPY from the source images or the PACS, CONFIG
            from plan or settings, FIXED. Patient and study attributes are asked from the PACS
            again before an object is sent."""
        ),
    ]
    with tempfile.TemporaryDirectory(prefix="clinode-") as folder:
        for number, (title, dataset) in enumerate(_created(facts, Path(folder)), start=1):
            name = UID(dataset.SOPClassUID).name
            parts.append(f"### A.{number} {title}\n")
            parts.append(
                table(
                    f"Table A.{number}-1. Attributes of created {name} instances",
                    ("Attribute Name", "Tag", "VR", "Presence", "Source"),
                    _rows(dataset, ""),
                )
            )
    return "\n".join(parts)


def _created(facts: Facts, folder: Path) -> Iterator[tuple[str, Dataset]]:
    """A sample of each object that makes up a result, read back from its file."""
    source = sample_source()
    mask = np.zeros((_SIZE, _SIZE, _SLICES), np.uint8)
    mask[4:9, 5:9, 1:4] = 1
    affine = np.diag([-1.0, -1.0, 3.0, 1.0])
    spec = SegmentSpec(1, "Lesion", algorithm_name="plan", algorithm_version="model")
    written = write_seg(
        SegRequest(
            source=source,
            mask=mask,
            affine=affine,
            segments=(spec,),
            out=folder / "seg.dcm",
            sop_instance_uid="2.25.10",
            series_instance_uid="2.25.11",
            written_at=_MOMENT,
        )
    )
    if "seg" in facts.form:
        yield "Segmentation", pydicom.dcmread(folder / "seg.dcm")
    if "sr" in facts.form:
        write_report(
            ReportRequest(
                source=source,
                seg=SegReference.of(written),
                findings=written.findings,
                algorithm=Algorithm("plan", "model"),
                out=folder / "sr.dcm",
                sop_instance_uid="2.25.12",
                series_instance_uid="2.25.13",
                disclaimer=facts.disclaimer,
                written_at=_MOMENT,
            )
        )
        yield "Measurement report (TID 1500)", pydicom.dcmread(folder / "sr.dcm")
    if "sc" in facts.form:
        captures = write_captures(
            CaptureRequest(
                source=source,
                pixels=np.arange(mask.size, dtype=np.uint16).reshape(mask.shape),
                mask=mask,
                affine=affine,
                segments=(spec,),
                out=folder / "sc",
                series_instance_uid="2.25.14",
                written_at=_MOMENT,
            )
        )
        yield "Secondary capture", pydicom.dcmread(captures.paths[0])


def sample_source() -> SourceSeries:
    """A made-up axial series of five slices, 3 mm apart."""
    frames = tuple(
        SourceFrame(
            SOPInstanceUID=f"2.25.{100 + number}",
            SOPClassUID="1.2.840.10008.5.1.4.1.1.4",
            InstanceNumber=number + 1,
            FrameNumber=0,
            ImagePositionPatient=("0", "0", str(3 * number)),
        )
        for number in range(_SLICES)
    )
    return SourceSeries(
        patient=dict.fromkeys(PATIENT_KEYWORDS[:3], "SAMPLE"),
        study={**dict.fromkeys(STUDY_KEYWORDS, ""), "StudyInstanceUID": "2.25.1", "StudyID": "1"},
        series={
            "SeriesInstanceUID": "2.25.2",
            "SeriesNumber": "3",
            "Modality": "MR",
            "FrameOfReferenceUID": "2.25.3",
        },
        Rows=_SIZE,
        Columns=_SIZE,
        ImageOrientationPatient=("1", "0", "0", "0", "1", "0"),
        PixelSpacing=("1", "1"),
        SliceThickness="3",
        SpacingBetweenSlices=3.0,
        frames=frames,
    )


def _rows(dataset: Dataset, depth: str) -> Iterator[tuple[str, ...]]:
    """A row per attribute; sequences with the attributes of all their items, content once."""
    for element in dataset:
        name = f"{depth}{element.keyword or element.name}"
        yield name, tag_text(element.tag), element.VR, _presence(element), _source(element)
        if element.VR == "SQ" and element.value and not depth.count(">") > 1:
            merged = Dataset()
            for item in reversed(list(element.value)):
                merged.update(item)
            yield from _rows(merged, f"{depth}> ")


def _presence(element: DataElement) -> str:
    if element.value not in (None, "", []):
        return "ALWAYS"
    return "VNAP" if element.keyword in _COPIED else "EMPTY"


def _source(element: DataElement) -> str:
    if element.keyword in _COPIED:
        return "COPY"
    if element.keyword in _CONFIGURED:
        return "CONFIG"
    if element.keyword in _FIXED:
        return "FIXED"
    return "AUTO"
