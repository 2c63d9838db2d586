"""Scanning a study's folder, and choosing the series that go on."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from pydicom.dataset import Dataset

from dicom_bridge.classify.kinds import SeriesFiles, SeriesKind, StudyScan
from dicom_bridge.classify.rules import classify_series
from dicom_bridge.convert.frames import VOLUME_CLASSES, attribute, read_dataset, whole
from dicom_bridge.convert.stack import MINIMUM_SLICES
from dicom_bridge.errors import DataRefused
from dicom_bridge.seg.expert import is_own_result

MINIMUM_CONFIDENCE = 0.6
MAX_FILES = 200_000


def scan_study(folder: Path) -> StudyScan:
    """Read all headers under a folder and name every series.

    Objects without a grey-value volume (raw data, SR, SEG) that share a series UID with images are
    listed as an entry of their own.

    Args:
        folder: searched at every depth; links to folders are not followed.

    Returns:
        The series by number.

    Raises:
        DataRefused: the folder holds more than 200 000 files.
    """
    groups: dict[tuple[str, str], list[tuple[Path, Dataset]]] = defaultdict(list)
    unreadable: list[Path] = []
    studies: set[str] = set()
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    if len(paths) > MAX_FILES:
        raise DataRefused(f"the study holds {len(paths)} files: above the limit of {MAX_FILES}")
    for path in paths:
        try:
            header = read_dataset(path, pixels=False)
        except DataRefused:
            unreadable.append(path)
            continue
        uid = str(attribute(header, "SeriesInstanceUID", "")).strip()
        if not uid:
            unreadable.append(path)
            continue
        studies.add(str(attribute(header, "StudyInstanceUID", "")))
        family = "image" if header.SOPClassUID in VOLUME_CLASSES else str(header.SOPClassUID)
        groups[(uid, family)].append((path, header))
    series = [_series(uid, members) for (uid, _), members in groups.items()]
    series.sort(key=lambda item: (item.SeriesNumber, item.SeriesInstanceUID, str(item.kind)))
    return StudyScan(series=tuple(series), unreadable=tuple(unreadable), studies=len(studies))


def _series(uid: str, members: Sequence[tuple[Path, Dataset]]) -> SeriesFiles:
    headers = [header for _, header in members]
    classification = classify_series(headers)
    text = str(attribute(headers[0], "SeriesNumber") or "").strip()
    return SeriesFiles(
        SeriesInstanceUID=uid,
        SeriesNumber=int(text) if text.lstrip("-").isdigit() else 0,
        files=tuple(path for path, _ in members),
        classification=classification,
        instances=len(members),
        slices=sum(max(1, whole(header, "NumberOfFrames", 1)) for header in headers),
        own_result=classification.kind is SeriesKind.SEG and all(map(is_own_result, headers)),
    )


def rank(series: SeriesFiles) -> tuple[bool, bool, bool, int]:
    """How good a series is for its kind: 3D, distortion-corrected, axial, many slices."""
    what = series.classification
    return (what.dimension == "3D", what.corrected, what.plane == "axial", series.slices)


def select_inputs(scan: StudyScan, wanted: Sequence[SeriesKind]) -> dict[SeriesKind, SeriesFiles]:
    """Choose one series of the head for every wanted kind.

    A 3D acquisition goes before a 2D one, then a distortion-corrected one, an axial one, the one
    with more slices. A kind that the study does not hold is left out of the answer.

    Args:
        scan: of one study.
        wanted: kinds of series.

    Returns:
        The chosen series by kind.

    Raises:
        DataRefused: several studies, none of the wanted kinds, only other body parts, a kind that
            is in doubt, or two series that are equally good.
    """
    if scan.studies > 1:
        raise DataRefused(f"expected the series of one study, got {scan.studies} studies")
    fitting = [item for item in scan.series if item.kind in wanted]
    heads = [item for item in fitting if item.classification.body_part_ok]
    if fitting and not heads:
        parts = sorted({item.classification.body_part for item in fitting})
        raise DataRefused(f"wrong body part: {', '.join(parts)}, expected the head")
    chosen: dict[SeriesKind, SeriesFiles] = {}
    doubts: list[str] = []
    for kind in wanted:
        usable = [item for item in heads if item.kind is kind and item.slices >= MINIMUM_SLICES]
        sure = [item for item in usable if item.confidence >= MINIMUM_CONFIDENCE]
        if sure:
            chosen[kind] = _best(kind, sure)
        elif usable:
            numbers = ", ".join(str(item.SeriesNumber) for item in usable)
            doubts.append(
                f"series {numbers} may be {kind.value}, but its acquisition and its description "
                "contradict each other"
            )
    if doubts:
        raise DataRefused(f"ambiguous: {'; '.join(doubts)}")
    if not chosen:
        names = ", ".join(kind.value for kind in wanted)
        found = ", ".join(sorted({item.kind.value for item in scan.series})) or "nothing"
        raise DataRefused(f"no series of the wanted kinds ({names}); the study holds: {found}")
    return chosen


def _best(kind: SeriesKind, candidates: Sequence[SeriesFiles]) -> SeriesFiles:
    ordered = sorted(candidates, key=rank, reverse=True)
    if len(ordered) > 1 and rank(ordered[0]) == rank(ordered[1]):
        numbers = [str(item.SeriesNumber) for item in ordered if rank(item) == rank(ordered[0])]
        raise DataRefused(
            f"ambiguous: {len(numbers)} equally good {kind.value} series (numbers "
            f"{', '.join(numbers)}); a person must choose"
        )
    return ordered[0]
