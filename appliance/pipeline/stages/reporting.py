"""The study's report for people, drawn when the check has decided.

Pictures come from the images of `deface` alone: the report crosses into the research zone with the
study, or stays in the identified zone with a study that is held, for the person who looks at it.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from appliance.errors import ImageRefused
from appliance.imaging.itk import load_matrix
from appliance.imaging.qc import SiteDistribution
from appliance.imaging.volume import load_volume
from appliance.labels.making import label_map
from appliance.labels.staged import agree_labels
from appliance.pipeline.states import Stage
from appliance.pipeline.work import REPORT_FILE, StageWork
from appliance.reports.metrics import SiteFigures, read_quality
from appliance.reports.steps import acquisition, steps_of, versions
from appliance.reports.study import StudyContent, render_study
from appliance.reports.views import Input, Marked

NOTE = (
    "Drawn from the images as they enter the research zone: identity removed from the headers, "
    "faces taken out of heads. For research, not for diagnosis."
)
_SCRATCH = "report-labels"


def write_report(work: StageWork, document: Mapping[str, Any], site: SiteDistribution) -> None:
    """Draw the report into the stage's folder.

    Args:
        work: the work of `check`.
        document: the content of ``qc.json``.
        site: the site's other studies; only quantiles of them are shown.
    """
    content = StudyContent(
        title=f"sub-{work.subject} ses-{work.session}",
        inputs=_inputs(work),
        label=_label(work),
        quality=read_quality(document),
        site=SiteFigures.of(site.values, site.studies, site.limit),
        steps=steps_of(work.facts),
        versions=versions(),
        note=NOTE,
    )
    (work.out / REPORT_FILE).write_text(render_study(content), encoding="utf-8")


def _inputs(work: StageWork) -> tuple[Input, ...]:
    """The defaced images, the reference first."""
    defaced, registered = work.of(Stage.DEFACE), work.of(Stage.REGISTER)
    found = []
    section = work.settings.imaging
    for kind in sorted(section.inputs, key=lambda kind: kind != section.reference):
        image, mask = defaced / f"{kind}.nii", defaced / f"{kind}-brain.nii"
        if not image.exists():
            continue
        transform = registered / f"{kind}.txt"
        found.append(
            Input(
                kind=kind,
                volume=load_volume(image),
                brain=load_volume(mask) if mask.exists() else None,
                matrix=load_matrix(transform) if transform.exists() else None,
                facts=acquisition(_sidecar(work, kind)),
            )
        )
    return tuple(found)


def _sidecar(work: StageWork, kind: str) -> Mapping[str, Any]:
    """The side-car as `convert` completed it, or as `deidentify` wrote it."""
    for stage in (Stage.CONVERT, Stage.DEIDENTIFY):
        path = work.of(stage) / f"{kind}.json"
        if path.exists():
            found: Mapping[str, Any] = json.loads(path.read_bytes())
            return found
    return {}


def _label(work: StageWork) -> Marked | None:
    """The label that the raters agree on, as it will be published."""
    scratch = work.out / _SCRATCH
    section = work.settings.labels
    names = label_map(section.codes, section.rois)
    try:
        made = agree_labels(replace(work, out=scratch), work.settings.imaging.reference)
        if made.label is None:
            return None
        loaded = load_volume(made.label)
        values = loaded.with_data(np.array(loaded.data))
    except ImageRefused:
        return None
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return Marked(values, {int(value): str(name) for value, name in names.items()})
