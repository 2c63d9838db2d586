"""Converting every series under a folder: one NIfTI and one sidecar each."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import structlog
from pydicom.dataset import Dataset

from dicom_bridge.classify import SeriesFiles, SeriesKind, StudyScan, scan_study
from dicom_bridge.convert.frames import read_dataset
from dicom_bridge.convert.series import Converted, convert_series, write_atomically
from dicom_bridge.convert.source import JSON
from dicom_bridge.errors import DataRefused

Sidecar = Callable[[Dataset], Mapping[str, JSON]]
NO_VOLUME = frozenset(
    {
        SeriesKind.SEG,
        SeriesKind.RTSTRUCT,
        SeriesKind.SR,
        SeriesKind.SECONDARY_CAPTURE,
    }
)
log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class FolderResult:
    """What became of one series.

    Attributes:
        SeriesNumber: as written, 0 where absent.
        kind: what the series is.
        image: the NIfTI file, None where it was refused or is no image.
        engine: converter, "" where none made it.
        reason: why there is no image, in words; "" where there is one.
    """

    SeriesNumber: int
    kind: SeriesKind
    image: Path | None
    engine: str
    reason: str


def convert_folder(
    folder: Path, out: Path, *, work: Path, sidecar: Sidecar | None = None
) -> list[FolderResult]:
    """Convert all series under a folder to `<SeriesNumber>_<kind>.nii.gz` and `.json`.

    Args:
        folder: DICOM files at any depth.
        out: made where absent; files of the same name are replaced.
        work: folder for copies that dcm2niix reads; emptied again.
        sidecar: makes the JSON fields from a header (the caller de-identifies it first); None
            leaves only what conversion itself knows.

    Returns:
        One result per series, by SeriesNumber.

    Raises:
        DataRefused: nothing under the folder is DICOM.
    """
    scan = scan_study(folder)
    if not scan.series:
        raise DataRefused(f"no DICOM instance found ({len(scan.unreadable)} other files)")
    out.mkdir(parents=True, exist_ok=True)
    return [
        _convert(series, out / name, work, sidecar)
        for series, name in zip(scan.series, file_names(scan), strict=True)
    ]


def file_names(scan: StudyScan) -> list[str]:
    """A distinct stem per series: number and kind, then a count where these repeat."""
    seen: dict[str, int] = {}
    names = []
    for series in scan.series:
        stem = f"{series.SeriesNumber}_{series.kind.value}"
        seen[stem] = seen.get(stem, 0) + 1
        names.append(stem if seen[stem] == 1 else f"{stem}_{seen[stem]}")
    return names


def _convert(series: SeriesFiles, stem: Path, work: Path, sidecar: Sidecar | None) -> FolderResult:
    if series.kind in NO_VOLUME:
        return FolderResult(series.SeriesNumber, series.kind, None, "", "holds no image volume")
    image = stem.with_name(f"{stem.name}.nii.gz")
    try:
        converted = convert_series(series.files, image, work=work)
    except DataRefused as error:
        log.info("series refused", kind=series.kind.value, reason=str(error))
        return FolderResult(series.SeriesNumber, series.kind, None, "", str(error))
    fields = conversion_fields(series, converted)
    if sidecar is not None:
        fields = {**sidecar(read_dataset(series.files[0], pixels=False)), **fields}
    text = json.dumps(fields, indent=2, sort_keys=True, ensure_ascii=False) + "\n"
    write_atomically(stem.with_name(f"{stem.name}.json"), text.encode())
    return FolderResult(series.SeriesNumber, series.kind, image, converted.engine, "")


def conversion_fields(series: SeriesFiles, converted: Converted) -> dict[str, JSON]:
    """What conversion itself knows, in BIDS' names where BIDS has them."""
    what = series.classification
    return {
        "ConversionSoftware": converted.engine,
        "ConversionSoftwareVersion": converted.engine_version,
        "SeriesKind": series.kind.value,
        "SeriesKindConfidence": what.confidence,
        "SeriesKindRule": what.rule,
        "BodyPart": what.body_part,
    }
