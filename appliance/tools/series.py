"""What `clinode tools classify` shows: every study's series, and which would be chosen and why."""

from __future__ import annotations

import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from appliance.pipeline.stages.classify import site_names
from appliance.settings import (
    MAX_SETTINGS_BYTES,
    Settings,
    SettingsInvalid,
    default_settings,
    settings_from,
)
from dicom_bridge.classify import Choice, SeriesFiles, SeriesKind, StudyScan, choose, scan_studies
from dicom_bridge.classify.choice import CHOSEN_KINDS
from dicom_bridge.errors import DataRefused
from federation.canonical import JSON

TRIAL_SITE = "trial"


@dataclass(frozen=True, slots=True)
class StudyReport:
    """One study's series and choices.

    Attributes:
        number: from 1, in the order of the files.
        scan: the series.
        choices: one for every kind of which the study holds a candidate.
        inputs: kinds that the settings take of each study.
    """

    number: int
    scan: StudyScan
    choices: tuple[Choice, ...]
    inputs: tuple[str, ...]

    def rows(self) -> list[dict[str, JSON]]:
        """A row per series."""
        taken = {id(choice.series) for choice in self.choices if choice.series is not None}
        return [_row(series, id(series) in taken) for series in self.scan.series]

    def chosen(self) -> list[dict[str, JSON]]:
        """A row per kind: the chosen series' number, None where a person must look, and why."""
        return [
            {
                "kind": choice.kind.value,
                "series": None if choice.series is None else choice.series.SeriesNumber,
                "candidates": choice.candidates,
                "input": choice.kind.value in self.inputs,
                "why": choice.why,
            }
            for choice in self.choices
        ]

    def document(self) -> dict[str, JSON]:
        """Everything as JSON."""
        return {
            "study": self.number,
            "series": list(self.rows()),
            "chosen": list(self.chosen()),
        }


def _row(series: SeriesFiles, chosen: bool) -> dict[str, JSON]:
    what = series.classification
    return {
        "series": series.SeriesNumber,
        "kind": what.kind.value,
        "confidence": what.confidence,
        "rule": what.rule,
        "dimension": what.dimension,
        "plane": what.plane,
        "images": series.slices,
        "body_part": what.body_part,
        "chosen": chosen,
        "remark": what.remark,
    }


def trial_settings(path: Path | None) -> Settings:
    """Settings to try names with.

    Args:
        path: a node's settings file, or a file with no more than the tables ``[series]`` and
            ``[imaging]``; None takes the defaults.

    Raises:
        SettingsInvalid: the file is absent, too large, no TOML, or has problems.
    """
    if path is None:
        return default_settings(TRIAL_SITE)
    try:
        if path.stat().st_size > MAX_SETTINGS_BYTES:
            raise SettingsInvalid([f"{path.name} is larger than {MAX_SETTINGS_BYTES} bytes"])
        document = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsInvalid([f"{path.name} cannot be read ({type(error).__name__})"]) from error
    except tomllib.TOMLDecodeError as error:
        raise SettingsInvalid([f"not valid TOML: {error}"]) from error
    return settings_from({"node": {"site": TRIAL_SITE}, **document})


def classify_folder(folder: Path, settings: Settings) -> tuple[list[StudyReport], int]:
    """Name every series under a folder, study by study.

    Args:
        folder: DICOM files at any depth.
        settings: the site's names and inputs.

    Returns:
        The studies, and how many files are no readable DICOM instance.

    Raises:
        DataRefused: no series was found, or there are too many files.
    """
    scans = scan_studies(folder, site_names(settings.series))
    unreadable = sum(len(scan.unreadable) for scan in scans)
    if not any(scan.series for scan in scans):
        raise DataRefused(f"no DICOM series was found ({unreadable} other files)")
    inputs = tuple(settings.imaging.inputs)
    reports = [
        StudyReport(number, scan, _choices(scan, CHOSEN_KINDS), inputs)
        for number, scan in enumerate(scans, start=1)
    ]
    return reports, unreadable


def _choices(scan: StudyScan, kinds: Sequence[SeriesKind]) -> tuple[Choice, ...]:
    # Any body part: the table says which it is, and the stage refuses what is not wanted.
    found = (choose(scan, kind, "other") for kind in kinds)
    return tuple(choice for choice in found if choice is not None)
