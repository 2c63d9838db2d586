"""de-identified -> converted: each input as NIfTI, the experts' labels on their series' grids.

The original headers (`SourceSeries`) are written as ``source-<kind>.json``; the node moves them
into the vault before the stage's folder gets its name.
"""

from __future__ import annotations

import json
import shutil

from appliance.labels.staged import write_labels
from appliance.pipeline.stages.selection import read_selection
from appliance.pipeline.work import SOURCE_PREFIX, StageResult, StageWork
from dicom_bridge.convert import Converted, convert_series
from federation.canonical import JSON

REFERENCE = "FLAIR"


def run(work: StageWork) -> StageResult:
    """Convert and verify every input; read the labels.

    Raises:
        DataRefused: a series is incomplete, irregular or damaged, or no expert's label fits.
    """
    selection = read_selection(work)
    scratch = work.out / "scratch"
    converted: dict[str, Converted] = {}
    for kind in selection.inputs:
        files = selection.files(work, kind)
        converted[kind] = convert_series(files, work.out / f"{kind}.nii", work=scratch)
        source = json.dumps(converted[kind].source.to_json())
        (work.out / f"{SOURCE_PREFIX}{kind}.json").write_text(source, encoding="utf-8")
    shutil.rmtree(scratch, ignore_errors=True)
    sources = {kind: made.source for kind, made in converted.items()}
    labels = write_labels(work, selection.labels, sources)
    engines: JSON = {
        kind: f"{made.engine} {made.engine_version}" for kind, made in converted.items()
    }
    shapes: JSON = {kind: list(made.geometry.shape) for kind, made in converted.items()}
    spacings: JSON = {
        kind: [round(edge, 4) for edge in made.geometry.spacing] for kind, made in converted.items()
    }
    return StageResult(
        labelled=labels.voxels is not None,
        facts={
            "engines": engines,
            "shapes": shapes,
            "spacings_mm": spacings,
            "label_voxels": labels.voxels or 0,
            "label_raters": labels.raters,
            "label_notes": [*selection.notes, *labels.notes],
        },
        detail="; ".join(f"{kind} by {made.engine}" for kind, made in converted.items()),
    )
