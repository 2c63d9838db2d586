"""received -> classified: which series is the FLAIR, the T1w, an expert's segmentation."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from appliance.pipeline.stages.selection import Selection, write_selection
from appliance.pipeline.work import StageResult, StageWork
from appliance.settings_imaging import LabelsSection, SeriesSection
from dicom_bridge.classify import (
    NameAttribute,
    SeriesKind,
    SiteName,
    StudyScan,
    choose_inputs,
    scan_study,
)
from dicom_bridge.errors import DataRefused
from dicom_bridge.seg.expert import ExpertPolicy, OwnMarks, is_expert


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
    labels, notes = expert_segmentations(scan, policy_of(work.settings.labels, work.own))
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


def policy_of(labels: LabelsSection, own: OwnMarks | None = None) -> ExpertPolicy:
    """Which segmentations count as an expert's.

    Args:
        labels: the site's settings.
        own: what this node's results can be recognised by: their corrected copies count, also
            where the viewer names nobody.
    """
    codes = frozenset((scheme, value) for scheme, value in map(_code, labels.codes))
    creators = frozenset(labels.creators)
    return ExpertPolicy(codes, creators, unnamed=own is not None, own=own or OwnMarks())


def _code(text: str) -> tuple[str, str]:
    scheme, _, value = text.partition(":")
    return scheme, value


def expert_segmentations(
    scan: StudyScan, policy: ExpertPolicy
) -> tuple[list[Path], tuple[str, ...]]:
    """The accepted SEG files of a study, and why the others were passed over."""
    accepted: list[Path] = []
    notes: list[str] = []
    for series in scan.series:
        if series.kind is not SeriesKind.SEG:
            continue
        for path in series.files:
            expert, words = is_expert(path, policy)
            if expert:
                accepted.append(path)
            else:
                notes.append(words)
    return accepted, tuple(notes)


def _relative(path: Path, work: StageWork) -> str:
    return path.relative_to(work.received).as_posix()
