"""Converting every series under a folder: NIfTI files with one sidecar each."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import structlog
from pydicom.dataset import Dataset

from dicom_bridge.classify import (
    SeriesFiles,
    SeriesKind,
    StudyScan,
    classify_series,
    scan_study,
)
from dicom_bridge.convert.frames import VOLUME_CLASSES, read_dataset, whole
from dicom_bridge.convert.series import ConvertedImage, convert_images, write_atomically
from dicom_bridge.convert.source import JSON
from dicom_bridge.errors import DataRefused

Sidecar = Callable[[Dataset], Mapping[str, JSON]]
NO_VOLUME = frozenset(
    {
        SeriesKind.SEG,
        SeriesKind.RTSTRUCT,
        SeriesKind.SR,
    }
)
log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class FolderResult:
    """What became of one series, or of one echo of it.

    Attributes:
        SeriesNumber: as written, 0 where absent.
        kind: what the series is.
        image: the NIfTI file, None where it was refused or is no image.
        engine: converter, "" where none made it.
        reason: why there is no image, in words; "" where there is one.
        echo: 1-based where the series holds several, else 0.
        volumes: volumes along the fourth axis, 1 for a 3-D image.
    """

    SeriesNumber: int
    kind: SeriesKind
    image: Path | None
    engine: str
    reason: str
    echo: int = 0
    volumes: int = 1


def convert_folder(
    folder: Path, out: Path, *, work: Path, sidecar: Sidecar | None = None
) -> list[FolderResult]:
    """Convert all series under a folder to `<SeriesNumber>_<kind>[_echo-N].nii.gz` and `.json`.

    Time series and the like become 4-D files. Image files without a SeriesInstanceUID count as
    one series per folder.

    Args:
        folder: DICOM files at any depth.
        out: made where absent; files of the same name are replaced.
        work: folder for copies that dcm2niix reads; emptied again.
        sidecar: makes the JSON fields from a header (the caller de-identifies it first); None
            leaves only what conversion itself knows.

    Returns:
        By SeriesNumber, one result per image, and one per series that gave none.

    Raises:
        DataRefused: nothing under the folder is DICOM.
    """
    scan = scan_study(folder)
    every = [*scan.series, *_without_uid(scan.unreadable)]
    if not every:
        raise DataRefused(f"no DICOM instance found ({len(scan.unreadable)} other files)")
    out.mkdir(parents=True, exist_ok=True)
    return [
        result
        for series, name in zip(every, file_names(every), strict=True)
        for result in _convert(series, out / name, work, sidecar)
    ]


def _without_uid(files: Sequence[Path]) -> list[SeriesFiles]:
    """What anonymisers leave when they remove every UID: image files, a folder of them a series."""
    groups: dict[Path, list[tuple[Path, Dataset]]] = defaultdict(list)
    for path in files:
        try:
            header = read_dataset(path, pixels=False, named=False)
        except DataRefused:
            continue
        if header.SOPClassUID in VOLUME_CLASSES:
            groups[path.parent].append((path, header))
    return [
        SeriesFiles(
            SeriesInstanceUID="",
            SeriesNumber=whole(members[0][1], "SeriesNumber", 0),
            files=tuple(path for path, _ in members),
            classification=classify_series([header for _, header in members]),
            instances=len(members),
            slices=len(members),
        )
        for members in groups.values()
    ]


def file_names(every: Sequence[SeriesFiles] | StudyScan) -> list[str]:
    """A distinct stem per series: number and kind, then a count where these repeat."""
    seen: dict[str, int] = {}
    names = []
    for series in every.series if isinstance(every, StudyScan) else every:
        stem = f"{series.SeriesNumber}_{series.kind.value}"
        seen[stem] = seen.get(stem, 0) + 1
        names.append(stem if seen[stem] == 1 else f"{stem}_{seen[stem]}")
    return names


def _convert(
    series: SeriesFiles, stem: Path, work: Path, sidecar: Sidecar | None
) -> list[FolderResult]:
    number, kind = series.SeriesNumber, series.kind
    if kind in NO_VOLUME:
        return [FolderResult(number, kind, None, "", "holds no image volume")]
    try:
        images = convert_images(series.files, stem, work=work)
    except DataRefused as error:
        log.info("series refused", kind=kind.value, reason=str(error))
        return [FolderResult(number, kind, None, "", str(error))]
    for image in images:
        fields = conversion_fields(series, image)
        if sidecar is not None:
            header = read_dataset(image.first, pixels=False, named=False)
            fields = {**sidecar(header), **fields}
        text = json.dumps(fields, indent=2, sort_keys=True, ensure_ascii=False) + "\n"
        name = image.image.name.removesuffix(".nii.gz") + ".json"
        write_atomically(image.image.with_name(name), text.encode())
    return [
        FolderResult(number, kind, image.image, image.engine, "", image.echo, (*image.shape, 1)[3])
        for image in images
    ]


def conversion_fields(series: SeriesFiles, image: ConvertedImage) -> dict[str, JSON]:
    """What conversion itself knows, in BIDS' names where BIDS has them."""
    what = series.classification
    found: dict[str, JSON] = {
        "ConversionSoftware": image.engine,
        "ConversionSoftwareVersion": image.engine_version,
        "SeriesKind": series.kind.value,
        "SeriesKindConfidence": what.confidence,
        "SeriesKindRule": what.rule,
        "BodyPart": what.body_part,
    }
    if image.echo and image.echo_time > 0:
        found["EchoTime"] = round(image.echo_time / 1000.0, 9)
    return found
