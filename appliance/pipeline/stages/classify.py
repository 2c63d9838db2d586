"""received -> classified: which series is the FLAIR, the T1w, an expert's segmentation.

For a site whose images are no heads nothing is defaced, so no series may come near a face: only
series whose header names a part of `FACELESS` go on.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path

from appliance.labels.reading import LabelRules, expert_files
from appliance.pipeline.stages.selection import Selection, write_selection
from appliance.pipeline.work import StageResult, StageWork
from appliance.settings_imaging import SeriesSection
from dicom_bridge.classify import (
    NameAttribute,
    SeriesKind,
    SiteName,
    choose_inputs,
    scan_study,
)
from dicom_bridge.errors import DataRefused

FACELESS = frozenset({"prostate", "abdomen", "chest", "hip", "knee", "leg", "arm", "shoulder"})
"""Body parts (`dicom_bridge.classify.bodypart`) whose images hold no face: neither the head nor
the neck, the spine (its upper end shows the jaw), the whole body, or a part that nobody named."""


def run(work: StageWork) -> StageResult:
    """Read headers, name the series, pick the inputs and the labels.

    Raises:
        DataRefused: unreadable instances, no wanted series, an ambiguous choice, or a series that
            may show a face where nothing is defaced.
    """
    scan = scan_study(work.received, site_names(work.settings.series))
    if scan.unreadable:
        raise DataRefused(
            f"{len(scan.unreadable)} instances cannot be read (truncated or no DICOM): "
            "ask the PACS for them again"
        )
    section = work.settings.imaging
    choices = choose_inputs(scan, [SeriesKind(kind) for kind in section.inputs], section.body_part)
    chosen = {kind: item.series for kind, item in choices.items() if item.series is not None}
    if section.body_part == "other":
        refuse_faces({kind: item.classification.body_part for kind, item in chosen.items()})
    labels, notes = expert_files(scan, LabelRules(work.settings.labels, work.own))
    inputs = {
        kind.value: tuple(_relative(path, work) for path in series.files)
        for kind, series in chosen.items()
    }
    write_selection(work, Selection(inputs, tuple(_relative(path, work) for path in labels), notes))
    kinds = Counter(series.kind.value for series in scan.series)
    return StageResult(
        inputs=tuple(sorted(inputs)),
        facts={
            "series_kinds": dict(sorted(kinds.items())),
            "rules": {kind.value: series.rule for kind, series in chosen.items()},
            "confidence": {kind.value: series.confidence for kind, series in chosen.items()},
            "chosen": {kind.value: item.why for kind, item in choices.items()},
        },
        detail=", ".join(f"{count} {kind}" for kind, count in sorted(kinds.items())),
    )


def refuse_faces(parts: Mapping[SeriesKind, str]) -> None:
    """Refuse series of parts that may show a face.

    Args:
        parts: body part by kind, from the closed vocabulary of the classification.

    Raises:
        DataRefused: with the kinds and their parts.
    """
    found = [f"{kind.value}: {part}" for kind, part in parts.items() if part not in FACELESS]
    if found:
        raise DataRefused(
            f"a face may be in the images ({', '.join(found)}) and body_part 'other' defaces"
            f" nothing: accepted are series whose header says {', '.join(sorted(FACELESS))}"
        )


def site_names(section: SeriesSection) -> tuple[SiteName, ...]:
    """The site's own names of series, as the bridge matches them."""
    return tuple(
        SiteName(rule.pattern, NameAttribute(rule.attribute), SeriesKind(rule.kind))
        for rule in section.names
    )


def _relative(path: Path, work: StageWork) -> str:
    return path.relative_to(work.received).as_posix()
