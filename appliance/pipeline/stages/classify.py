"""received -> classified: which series is the FLAIR, the T1w, an expert's segmentation."""

from __future__ import annotations

from collections import Counter
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


def run(work: StageWork) -> StageResult:
    """Read headers, name the series, pick the inputs and the labels.

    Raises:
        DataRefused: unreadable instances, no wanted series, or an ambiguous choice.
    """
    scan = scan_study(work.received, site_names(work.settings.series))
    if scan.unreadable:
        raise DataRefused(
            f"{len(scan.unreadable)} instances cannot be read (truncated or no DICOM): "
            "ask the PACS for them again"
        )
    wanted = [SeriesKind(kind) for kind in work.settings.imaging.inputs]
    choices = choose_inputs(scan, wanted)
    chosen = {kind: item.series for kind, item in choices.items() if item.series is not None}
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


def site_names(section: SeriesSection) -> tuple[SiteName, ...]:
    """The site's own names of series, as the bridge matches them."""
    return tuple(
        SiteName(rule.pattern, NameAttribute(rule.attribute), SeriesKind(rule.kind))
        for rule in section.names
    )


def _relative(path: Path, work: StageWork) -> str:
    return path.relative_to(work.received).as_posix()
