"""Scanning folders: which series a study holds, and what each of them is."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from pydicom.dataset import Dataset

from dicom_bridge.classify.kinds import SeriesFiles, SeriesKind, StudyScan
from dicom_bridge.classify.rules import classify_series
from dicom_bridge.classify.site import SiteName
from dicom_bridge.convert.frames import VOLUME_CLASSES, attribute, read_dataset, whole
from dicom_bridge.errors import DataRefused
from dicom_bridge.seg.expert import is_own_result

MAX_FILES = 200_000


def scan_study(folder: Path, names: Sequence[SiteName] = ()) -> StudyScan:
    """Read all headers under a folder and name every series.

    Objects without a grey-value volume (raw data, SR, SEG) that share a series UID with images are
    listed as an entry of their own.

    Args:
        folder: searched at every depth; links to folders are not followed.
        names: the site's own rules.

    Returns:
        The series by number.

    Raises:
        DataRefused: the folder holds more than 200 000 files.
    """
    headers, unreadable = _read(folder)
    studies = {_study(header) for _, header in headers}
    return StudyScan(_group(headers, names), unreadable, len(studies))


def scan_studies(folder: Path, names: Sequence[SiteName] = ()) -> tuple[StudyScan, ...]:
    """`scan_study` for a folder of several studies: one scan each, in the order of their files.

    Unreadable files belong to no study: they are listed with the first.

    Args:
        folder: searched at every depth; links to folders are not followed.
        names: the site's own rules.

    Raises:
        DataRefused: the folder holds more than 200 000 files.
    """
    headers, unreadable = _read(folder)
    by_study: dict[str, list[tuple[Path, Dataset]]] = defaultdict(list)
    for path, header in headers:
        by_study[_study(header)].append((path, header))
    if not by_study:
        return (StudyScan((), unreadable, 0),)
    scans = [StudyScan(_group(members, names), (), 1) for members in by_study.values()]
    return (replace(scans[0], unreadable=unreadable), *scans[1:])


def _study(header: Dataset) -> str:
    return str(attribute(header, "StudyInstanceUID", "")).strip()


def _read(folder: Path) -> tuple[list[tuple[Path, Dataset]], tuple[Path, ...]]:
    """Headers with a series, and the files that hold none."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    if len(paths) > MAX_FILES:
        raise DataRefused(f"the study holds {len(paths)} files: above the limit of {MAX_FILES}")
    headers: list[tuple[Path, Dataset]] = []
    unreadable: list[Path] = []
    for path in paths:
        try:
            header = read_dataset(path, pixels=False)
        except DataRefused:
            unreadable.append(path)
            continue
        if str(attribute(header, "SeriesInstanceUID", "")).strip():
            headers.append((path, header))
        else:
            unreadable.append(path)
    return headers, tuple(unreadable)


def _group(
    headers: Sequence[tuple[Path, Dataset]], names: Sequence[SiteName]
) -> tuple[SeriesFiles, ...]:
    groups: dict[tuple[str, str], list[tuple[Path, Dataset]]] = defaultdict(list)
    for path, header in headers:
        uid = str(attribute(header, "SeriesInstanceUID", "")).strip()
        family = "image" if header.SOPClassUID in VOLUME_CLASSES else str(header.SOPClassUID)
        groups[(uid, family)].append((path, header))
    series = [_series(uid, members, names) for (uid, _), members in groups.items()]
    series.sort(key=lambda item: (item.SeriesNumber, item.SeriesInstanceUID, str(item.kind)))
    return tuple(series)


def _series(
    uid: str, members: Sequence[tuple[Path, Dataset]], names: Sequence[SiteName]
) -> SeriesFiles:
    headers = [header for _, header in members]
    classification = classify_series(headers, names)
    text = str(attribute(headers[0], "SeriesNumber") or "").strip()
    return SeriesFiles(
        SeriesInstanceUID=uid,
        SeriesNumber=int(text) if text.lstrip("-").isdigit() else 0,
        files=tuple(path for path, _ in members),
        classification=classification,
        instances=len(members),
        slices=_slices(headers),
        own_result=classification.kind is SeriesKind.SEG and all(map(is_own_result, headers)),
    )


def _slices(headers: Sequence[Dataset]) -> int:
    """Images of a series; an instance that is there twice counts once."""
    frames = {
        str(attribute(header, "SOPInstanceUID", "")) or str(index): max(
            1, whole(header, "NumberOfFrames", 1)
        )
        for index, header in enumerate(headers)
    }
    return sum(frames.values())
