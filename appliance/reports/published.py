"""A ready study's report drawn anew from its files in the research zone, after a label has changed.

What was done to the study is taken over from the report that is there: the stages that noted it are
over.
"""

from __future__ import annotations

import json
import re
from html import unescape
from pathlib import Path
from typing import Any

from appliance.errors import NotAllowed
from appliance.home import write_atomic
from appliance.imaging.itk import load_matrix
from appliance.imaging.qc import read_site
from appliance.imaging.volume import load_volume
from appliance.reports.files import read_json
from appliance.reports.metrics import SiteFigures, read_quality
from appliance.reports.steps import acquisition
from appliance.reports.study import StudyContent, render_study
from appliance.reports.views import Input, Marked
from appliance.research import QC, REPORT_SUFFIX, CaseFiles, sidecar

_TOLD = re.compile(r'data-told="([^"]*)"')
_NOTE = re.compile(r'<p class="lead">([^<]*)</p>')
_CONTRAST = ("ce-contrast_T1w", "T1wCE")


def redraw_report(path: Path) -> None:
    """Draw a published report anew, in place.

    Args:
        path: ``.../derivatives/qc/sub-*/ses-*/anat/<case>_report.html``.

    Raises:
        NotAllowed: the report is not in the research zone (the study is not ready).
        ImageRefused: a file of the case cannot be read.
    """
    case = path.name.removesuffix(REPORT_SUFFIX)
    if not path.name.endswith(REPORT_SUFFIX) or len(path.parents) < 6:
        raise NotAllowed("only a ready study's report can be drawn anew: retry the check instead")
    root = path.parents[5]
    before = path.read_text(encoding="utf-8")
    write_atomic(path, render_study(_content(root, case, before)).encode())


def _content(root: Path, case: str, before: str) -> StudyContent:
    reference, transforms = _transforms(root, CaseFiles.of(case))
    files = CaseFiles.of(case, reference)
    kinds = _kinds(root, files)
    inputs = tuple(
        _input(root, files, kind, transforms)
        for kind in sorted(kinds, key=lambda kind: (kind != reference, kind))
    )
    label = root / files.label()
    site = read_site(root / "derivatives" / QC, case)
    told = _told(before)
    note = _NOTE.search(before)
    return StudyContent(
        title=case.replace("_", " "),
        inputs=inputs,
        label=_label(label) if label.exists() else None,
        quality=read_quality(read_json(root / files.qc())),
        site=SiteFigures.of(site.values, site.studies, site.limit),
        steps=_pairs(told.get("steps")),
        versions=_pairs(told.get("versions")),
        note=unescape(note[1]) if note else "",
    )


def _transforms(root: Path, files: CaseFiles) -> tuple[str, dict[str, Path]]:
    """The reference and the transform to each other image, by the files' names."""
    folder = (root / files.transform("X")).parent
    form = re.compile(rf"{re.escape(files.case)}_from-(\w+)_to-(\w+)_mode-image_xfm\.txt")
    found: dict[str, Path] = {}
    reference = files.reference
    for path in sorted(folder.glob("*_xfm.txt")):
        match = form.fullmatch(path.name)
        if match:
            found[match[1]] = path
            reference = match[2]
    return reference, found


def _kinds(root: Path, files: CaseFiles) -> list[str]:
    folders = [(root / files.image("T1w", beyond=beyond)).parent for beyond in (False, True)]
    suffix = ".nii.gz"
    names = [
        path.name.removeprefix(f"{files.case}_").removesuffix(suffix)
        for folder in folders
        for path in sorted(folder.glob(f"{files.case}_*{suffix}"))
    ]
    return [_CONTRAST[1] if name == _CONTRAST[0] else name for name in names]


def _input(root: Path, files: CaseFiles, kind: str, transforms: dict[str, Path]) -> Input:
    image, mask = files.found_image(root, kind), root / files.mask(kind)
    described = sidecar(image)
    return Input(
        kind=kind,
        volume=load_volume(image),
        brain=load_volume(mask) if mask.exists() else None,
        matrix=load_matrix(transforms[kind]) if kind in transforms else None,
        facts=acquisition(read_json(described)) if described.exists() else (),
    )


def _label(path: Path) -> Marked:
    described = sidecar(path)
    names: Any = read_json(described).get("LabelMap") if described.exists() else None
    known = names if isinstance(names, dict) else {}
    return Marked(load_volume(path), {int(v): str(n) for v, n in known.items() if v.isdigit()})


def _told(before: str) -> dict[str, Any]:
    match = _TOLD.search(before)
    try:
        found = json.loads(unescape(match[1])) if match else {}
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _pairs(value: object) -> tuple[tuple[str, str], ...]:
    if not isinstance(value, list):
        return ()
    return tuple(
        (str(item[0]), str(item[1])) for item in value if isinstance(item, list) and len(item) == 2
    )
