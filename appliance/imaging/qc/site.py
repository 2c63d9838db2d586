"""The site's own distribution of figures, from the quality reports of its ready studies.

Reports lie in the research zone (``derivatives/qc``). A report is parsed once for each process and
kept by its size and time of change, so that later studies only list the folder. A withdrawn
patient's reports are erased, and with them the figures; a study never counts against itself, nor do
its earlier versions.
"""

from __future__ import annotations

import json
import math
import os
import re
from pathlib import Path

from appliance.imaging.qc.judge import SiteDistribution

MAX_REPORT_BYTES = 1 << 20
MAX_STUDIES = 5000
"""Of more studies than this, the newest count."""

_VERSION = re.compile(r"v\d+\Z")

_Figures = dict[str, float]
_parsed: dict[str, tuple[tuple[int, int], _Figures]] = {}


def read_site(folder: Path, case: str, *, least: int = 20, limit: float = 6.0) -> SiteDistribution:
    """Figures of the site's ready studies.

    Args:
        folder: The derived data set of quality reports, ``sub-*/ses-*/anat/*_qc.json`` below it.
        case: ``sub-<label>_ses-<label>`` of the study that is judged; it is left out with all its
            versions (``ses-<label>v2``).
        least: See `SiteDistribution`.
        limit: See `SiteDistribution`.

    Returns:
        The distribution; empty where the folder is absent. Unreadable reports are left out.
    """
    own = _VERSION.sub("", case)
    values: dict[str, list[float]] = {}
    studies = 0
    for path, stamp in _reports(folder):
        if _VERSION.sub("", path.name.removesuffix("_qc.json")) == own:
            continue
        figures = _figures(path, stamp)
        studies += bool(figures)
        for name, value in figures.items():
            values.setdefault(name, []).append(value)
    return SiteDistribution(values, studies, least, limit)


def _reports(folder: Path) -> list[tuple[Path, tuple[int, int]]]:
    """Report files with size and time of change, newest first, and the cache without the gone."""
    found: list[tuple[Path, tuple[int, int]]] = []
    for path in folder.glob("sub-*/ses-*/anat/*_qc.json"):
        try:
            status = path.stat()
        except OSError:
            continue
        if status.st_size <= MAX_REPORT_BYTES:
            found.append((path, (status.st_size, status.st_mtime_ns)))
    found.sort(key=lambda entry: (-entry[1][1], entry[0].name))
    kept = {os.fspath(path) for path, _ in found}
    for gone in [name for name in _parsed if name not in kept]:
        del _parsed[gone]
    return found[:MAX_STUDIES]


def _figures(path: Path, stamp: tuple[int, int]) -> _Figures:
    """A report's finite figures; empty where it cannot be read."""
    key = os.fspath(path)
    known = _parsed.get(key)
    if known is not None and known[0] == stamp:
        return known[1]
    figures: _Figures = {}
    try:
        for entry in json.loads(path.read_bytes())["metrics"]:
            value = entry["value"]
            if value is not None and math.isfinite(value):
                figures[str(entry["name"])] = float(value)
    except (OSError, ValueError, KeyError, TypeError):
        figures = {}
    _parsed[key] = (stamp, figures)
    return figures
